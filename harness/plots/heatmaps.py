"""Differences to the baseline over two axes of a grid, and which cells are as good as the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from harness import stats
from harness.errors import UserError
from harness.formats import HOLE, percent
from harness.plots.panels import key_above
from harness.plots.style import BLACK, DIVERGING, GREY, WIDE, drawing, wrapped
from harness.plots.sweeps import in_order, value_text
from harness.tables import standings
from harness.tables.markup import shorten
from harness.tables.standings import ALPHA, CHECKERS, MACRO, comparison
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records

SMALLEST_SCALE: Final = 1.0  # points: colours never make less than this look like much


def heat_frame(records: Records, x: str, y: str, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    """The arms that stand on both axes: difference to the baseline over all benches, and to the best of them.

    `p_best` is the paired sign-flip p of the difference to the arm with the highest score, `p_best_holm` that after
    Holm over the others; `best` marks that arm, `tied` those that the adjusted test does not tell from it.

    Raises:
        UserError: no arm stands on both axes, or nothing was measured.
    """
    frame = comparison(records) if frame is None else frame
    manifest = records.manifest
    places = {arm: dict(spec.get("at") or {}) for arm, spec in manifest["arms"].items()}
    arms = {arm: at for arm, at in places.items() if x in at and y in at}
    benches = list(manifest["benches"])
    whole = frame[frame["bench"] == (MACRO if len(benches) > 1 else benches[0])].set_index("arm")
    if not arms:
        raise UserError(f"grid '{manifest['grid']}' has no arm on both axes '{x}' and '{y}': there is no map to draw")
    rows = whole.loc[[arm for arm in arms if arm in whole.index]]
    measured = [arm for arm in rows.index if math.isfinite(rows.loc[arm, "value"])]
    if not measured:
        raise UserError(f"no arm of grid '{manifest['grid']}' on the axes '{x}' and '{y}' was measured on every bench")
    table = rows[["label", "value", "delta", "delta_low", "delta_high", "p_holm", "inert"]].copy()
    is_baseline = table.index == manifest["baseline"]
    table.loc[is_baseline, ["delta", "delta_low", "delta_high"]] = 0.0
    best = str(table["value"].idxmax())
    table["p_best"] = pd.Series(_against(records, best, [arm for arm in measured if arm != best], frame), dtype=float)
    others = table["p_best"].notna()
    table["p_best_holm"] = math.nan
    table.loc[others, "p_best_holm"] = stats.holm(table.loc[others, "p_best"].tolist())
    table["best"] = table.index == best
    table["tied"] = table["p_best_holm"] >= ALPHA
    table.insert(1, "x", [arms[arm][x] for arm in table.index])
    table.insert(2, "y", [arms[arm][y] for arm in table.index])
    rest = [{k: v for k, v in arms[a].items() if k not in (x, y)} for a in table.index]
    table.insert(3, "panel", [_panel_name(manifest, a, r) for a, r in zip(table.index, rest, strict=True)])
    if table["panel"].nunique() == 1:
        table["panel"] = ""
    if table.duplicated(["panel", "x", "y"]).any():
        twice = table[table.duplicated(["panel", "x", "y"])].iloc[0]
        raise UserError(
            f"arm '{twice.name}' stands where another does: {x} = {twice['x']}, {y} = {twice['y']}; give one of them "
            "another place in 'at'"
        )
    return table.reset_index(names="arm")


def _panel_name(manifest: Mapping[str, Any], arm: str, rest: Mapping[str, Any]) -> str:
    words = [str(manifest["arms"][arm].get("method") or "")]
    return ", ".join([*words, *(f"{path} = {value_text(value)}" for path, value in sorted(rest.items()))])


def _against(records: Records, best: str, others: Sequence[str], frame: pd.DataFrame) -> dict[str, float]:
    """Sign-flip p of each arm against the best one, over all benches."""
    manifest, samples = records.manifest, records.samples
    mine = samples[samples["arm"].astype(str).isin([best, *others])]
    small = type(records)(manifest, mine, records.steps, records.timings)
    cells = standings.measure(small, CHECKERS[str(frame["checker"].iloc[0])])
    benches = list(manifest["benches"])
    clusters = [manifest["benches"][bench].get("clusters") or {} for bench in benches]
    families = [
        [of.get(problem, problem) for problem in cells[best, bench].problems] if of else None
        for bench, of in zip(benches, clusters, strict=True)
    ]
    found = {}
    for arm in others:
        pairs = [(cells[best, bench].correct, cells[arm, bench].correct) for bench in benches]
        found[arm] = stats.paired_macro(pairs, families, seed=f"{manifest['grid']}/{best}/{arm}/best").p
    return found


def heatmap(
    records: Records, x: str, y: str, frame: pd.DataFrame | None = None, x_label: str = "", y_label: str = ""
) -> tuple[Figure, pd.DataFrame]:
    """Difference to the baseline, averaged over the benches, over two axes; the best cells are outlined.

    Args:
        frame: the comparison frame, where it has been computed already.
        x_label, y_label: of the axes, by default their paths.

    Raises:
        UserError: as `heat_frame`.
    """
    table = heat_frame(records, x, y, frame)
    manifest = records.manifest
    columns, rows = in_order(table["x"]), in_order(table["y"])
    names = list(dict.fromkeys(table["panel"]))
    points = 100 * table["delta"]
    bound = max(SMALLEST_SCALE, float(points.abs().max()) if points.notna().any() else 0)
    norm = TwoSlopeNorm(0, -bound, bound)
    cell = min(0.85, max(0.5, 4.6 / len(columns) / len(names)))
    width = min(WIDE, max(3.6, 1.3 + len(names) * (0.5 + cell * len(columns))))
    with drawing():
        figure = Figure(figsize=(width, 0.95 + 0.42 * len(rows)), layout="constrained")
        grid = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        shown: Any = None
        for axes, name in zip(grid, names, strict=True):
            here = table[table["panel"] == name]
            values = np.full((len(rows), len(columns)), np.nan)
            values[[rows.index(v) for v in here["y"]], [columns.index(v) for v in here["x"]]] = 100 * here["delta"]
            shown = axes.pcolormesh(np.ma.masked_invalid(values), norm=norm, cmap=DIVERGING, rasterized=True)
            for line in here.to_dict("records"):
                _write(axes, columns.index(line["x"]), rows.index(line["y"]), line, norm)
            axes.set_xticks(np.arange(len(columns)) + 0.5, [value_text(value) for value in columns])
            axes.set_yticks(np.arange(len(rows)) + 0.5, [value_text(value) for value in rows])
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.set_title(wrapped(name, 40))
        bar = figure.colorbar(shown, ax=grid.tolist(), location="right", shrink=0.9, aspect=20, pad=0.02)
        bar.outline.set_linewidth(0.4)
        average = "average difference" if len(manifest["benches"]) > 1 else "difference"
        against = shorten(label_of(manifest, manifest["baseline"]))
        bar.set_label(wrapped(f"{average} to {against}, points", 24), fontsize=7.5)
        figure.supxlabel(x_label or x, fontsize=7.5)
        grid[0].set_ylabel(y_label or y)
        key = [Patch(fill=False, edgecolor=BLACK, lw=1.8, label="best")]
        if table["tied"].any():
            key.append(
                Patch(fill=False, edgecolor=BLACK, lw=1.0, ls=(0, (3, 1.5)), label="not distinguishable from it")
            )
        key_above(figure, key)
    return figure, table


def _write(axes: Axes, column: int, row: int, line: Mapping[Any, Any], norm: TwoSlopeNorm) -> None:
    """The text of a cell and its outline."""
    if not math.isfinite(line["delta"]):
        axes.text(column + 0.5, row + 0.5, HOLE, ha="center", va="center", color=GREY)
        return
    text = percent(line["delta"], True)
    if line["delta_high"] > line["delta_low"]:
        text += f"\n±{percent((line['delta_high'] - line['delta_low']) / 2)}"
    if line["inert"]:
        text += "\nINERT"
    r, g, b, _ = DIVERGING(norm(100 * line["delta"]))
    dark = 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.4
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    if line["best"] or line["tied"]:
        look: dict[str, Any] = {"lw": 1.8} if line["best"] else {"lw": 1.0, "ls": (0, (3, 1.5))}
        axes.add_patch(Rectangle((column + 0.04, row + 0.05), 0.92, 0.9, fill=False, edgecolor=BLACK, zorder=4, **look))
