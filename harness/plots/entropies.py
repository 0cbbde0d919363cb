"""Where teacher and student are sure: the tokens of recorded steps by both entropies, and FiRe's weight over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.errors import UserError
from harness.formats import amount
from harness.plots.style import COUNTS, DIVERGING, WIDE, Look, drawing, looks, wrapped
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records

Array = NDArray[np.float64]

MOST_PANELS: Final = 3
FEWEST: Final = 10  # tokens: the mean of fewer has no colour
EMPTY: Final = "#e4e4e4"
TICKS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 6.0)
#: FiRe's weight, which lies in [1, 4], by how much of the largest student entropy its label stands at.
LEVELS: Final = {1.25: 0.1, 1.5: 0.2, 1.75: 0.3, 2.0: 0.4, 2.5: 0.6, 3.0: 0.75, 3.5: 0.9}

#: What colours a cell: title of the bar, column that is averaged over the tokens ("" for counting them).
COLORS: Final = {
    "tokens": ("tokens", ""),
    "advantage": ("mean advantage log Q − log S, nats", "advantage"),
    "kl": ("mean KL(S‖Q), nats", "kl"),
}


@dataclass(frozen=True, eq=False)
class _Cells:
    """An arm's tokens by [student bin, teacher bin]: their number and the value that colours them."""

    tokens: Array
    value: Array
    largest: tuple[float, float]  # entropy of student and teacher that FiRe divides by


def profile_rows(records: Records, kind: str) -> pd.DataFrame:
    """The token profiles of one kind, of the trained arms.

    Raises:
        UserError: the records hold none, or do not say what their bins are.
    """
    manifest, rows = records.manifest, records.profiles
    if not rows.empty:
        trained = [arm for arm, spec in manifest["arms"].items() if not spec.get("reference")]
        rows = rows.assign(arm=rows["arm"].astype(str))
        rows = rows[rows["arm"].isin(trained) & (rows["kind"].astype(str) == kind)]
    if rows.empty:
        raise UserError(f"grid '{manifest['grid']}' has no recorded token {kind}: its records were made without")
    if "profile" not in manifest:
        raise UserError(
            f"grid '{manifest['grid']}' does not say what the bins of its token profiles are: collect it again"
        )
    return rows


def entropies(records: Records, color: str = "tokens", arms: Sequence[str] = ()) -> tuple[Figure, pd.DataFrame]:
    """Tokens by student and teacher entropy, with both margins and the contours of FiRe's token weight.

    The weight is (1 + cT)·(1 + cS), cT = 1 − H_Q/max H_Q, cS = H_S/max H_S, before it is normalised. For each maximum
    stands the mean entropy in the highest bin that holds tokens, averaged over the recorded steps.

    Args:
        color: "tokens" for their number, "advantage" or "kl" for the mean over a cell's tokens.
        arms: the panels; by default the baseline and the first two others, FiRe before the rest.

    Raises:
        UserError: no entropies were recorded, or nothing to colour the cells by.
    """
    if color not in COLORS:
        raise UserError(f"color='{color}' is unknown: entropies can be coloured by {', '.join(COLORS)}")
    rows, manifest = profile_rows(records, "entropies"), records.manifest
    edges = np.array([0.0, *manifest["profile"]["entropy_edges"]])
    style = looks(manifest)
    recorded = set(rows["arm"].unique())
    present = [arm for arm in style if arm in recorded]
    chosen = list(arms) or sorted(present, key=lambda a: (a != manifest["baseline"], a != "fire"))[:MOST_PANELS]
    if unknown := [arm for arm in chosen if arm not in present]:
        raise UserError(f"arm '{unknown[0]}' has no recorded entropies: those of {', '.join(present)} were recorded")
    column = COLORS[color][1]
    if column and rows[column].isna().all():
        raise UserError(f"grid '{manifest['grid']}' has no {color} of its tokens: its teachers gave no logits")
    cells = {arm: _cells(rows[rows["arm"] == arm], len(edges) - 1, column) for arm in chosen}
    norm, cmap = _scale(list(cells.values()), color)
    held = np.sum([cell.tokens for cell in cells.values()], axis=0) > 0
    size = (1 + int(held.any(1).nonzero()[0].max()), 1 + int(held.any(0).nonzero()[0].max()))
    with drawing():
        width = WIDE if len(chosen) > 1 else WIDE * 0.55
        figure = Figure(figsize=(width, 0.75 + 0.9 * width / max(2, len(chosen))), layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
        ratios: dict[str, Any] = {"width_ratios": (5, 1) * len(chosen), "height_ratios": (1, 5)}
        grid = figure.subplots(2, 2 * len(chosen), sharex="col", sharey="row", squeeze=False, **ratios)
        shown: Any = None
        for index, arm in enumerate(chosen):
            panel = grid[:, 2 * index : 2 * index + 2]
            shown = _panel(panel, cells[arm], edges, size, norm, cmap, style[arm])
            panel[0, 0].set_title(wrapped(label_of(manifest, arm), 30), color=style[arm].color)
        grid[1, 0].set_ylabel("teacher entropy, nats")
        grid[0, 0].set_ylabel("%", fontsize=6)
        figure.supxlabel("student entropy, nats", fontsize=7.5)
        extend = {"tokens": "neither", "advantage": "both", "kl": "max"}[color]
        everywhere = grid.ravel().tolist()
        bar = figure.colorbar(shown, ax=everywhere, location="right", shrink=0.8, aspect=30, pad=0.01, extend=extend)
        if color == "tokens":
            bar.ax.yaxis.set_major_formatter(lambda value, _: amount(value))
        bar.set_label(COLORS[color][0], fontsize=7.5)
        bar.outline.set_linewidth(0.4)
    return figure, _numbers(records, cells, edges, color)


def _cells(rows: pd.DataFrame, bins: int, column: str) -> _Cells:
    tokens, total = np.zeros((bins, bins)), np.zeros((bins, bins))
    np.add.at(tokens, (rows["i"], rows["j"]), rows["tokens"])
    if column:
        np.add.at(total, (rows["i"], rows["j"]), rows[column])
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(tokens >= FEWEST, total / tokens, np.nan) if column else np.where(tokens > 0, tokens, np.nan)
    largest = []
    for place, name in (("i", "student_entropy"), ("j", "teacher_entropy")):
        highest = rows[rows[place] == rows.groupby(["seed", "step"])[place].transform("max")]
        sums = highest.groupby(["seed", "step"])[[name, "tokens"]].sum()
        largest.append(float((sums[name] / sums["tokens"]).mean()))
    return _Cells(tokens, value, (largest[0], largest[1]))


def _scale(cells: Sequence[_Cells], color: str) -> tuple[Normalize, str | Colormap]:
    """One scale for all panels, cut where the outermost tokens would bleach the rest."""
    values = np.concatenate([cell.value.ravel() for cell in cells])
    tokens = np.concatenate([cell.tokens.ravel() for cell in cells])[np.isfinite(values)]
    values = values[np.isfinite(values)]
    if not len(values):
        return Normalize(0, 1), COUNTS
    if color == "tokens":
        return LogNorm(1, max(10.0, float(values.max()))), COUNTS
    ordered = np.argsort(np.abs(values))
    covered = np.cumsum(tokens[ordered]) / tokens.sum()
    bound = float(np.abs(values)[ordered][np.searchsorted(covered, 0.98).clip(max=len(values) - 1)]) or 1.0
    return (TwoSlopeNorm(0, -bound, bound), DIVERGING) if color == "advantage" else (Normalize(0, bound), COUNTS)


def _panel(
    grid: NDArray[Any],
    cells: _Cells,
    edges: Array,
    size: tuple[int, int],
    norm: Normalize,
    cmap: str | Colormap,
    look: Look,
) -> Any:
    """One arm: map with contours, the student's margin above it, the teacher's at its right."""
    (top, corner), (main, right) = grid
    corner.set_axis_off()
    at = [np.arange(bins + 1) for bins in size]
    value = np.ma.masked_invalid(cells.value[: size[0], : size[1]].T)
    shown = main.pcolormesh(*at, value, norm=norm, cmap=cmap, rasterized=True, zorder=1)
    if not isinstance(norm, LogNorm):
        main.set_facecolor(EMPTY)  # white is a value here
    main.grid(visible=False)
    _contours(main, cells, edges)
    for axis, axes, bars in ((0, top, top.bar), (1, right, right.barh)):
        share = 100 * cells.tokens.sum(1 - axis) / cells.tokens.sum()
        bars(at[axis][:-1] + 0.5, share[: size[axis]], 1.0, color=look.color, alpha=0.75, lw=0)
        scale = {"x": right.set_xscale, "y": top.set_yscale}["yx"[axis]]
        scale("log")
        axes.minorticks_off()
    top.set_ylim(0.005, 100)
    top.set_yticks([0.01, 1, 100], ["0.01", "1", "100"], fontsize=6)
    right.set_xlim(0.005, 100)
    right.set_xticks([1, 100], ["1", "100"], fontsize=6)
    places = [np.interp(TICKS, edges, np.arange(len(edges))), [f"{tick:g}" for tick in TICKS]]
    main.set_xticks(*places)
    main.set_yticks(*places)
    main.set_xlim(0, size[0])
    main.set_ylim(0, size[1])
    return shown


def _contours(axes: Axes, cells: _Cells, edges: Array) -> None:
    """Lines of equal weight up to the largest entropies."""
    fine = np.linspace(0, len(edges) - 1, 8 * (len(edges) - 1) + 1)
    entropy = np.interp(fine, np.arange(len(edges)), edges)
    weight = fire_weight(entropy[None, :], entropy[:, None], cells.largest)
    beyond = (entropy[None, :] > 1.02 * cells.largest[0]) | (entropy[:, None] > 1.02 * cells.largest[1])
    lines = axes.contour(
        fine, fine, np.ma.array(weight, mask=beyond), list(LEVELS), colors="black", linewidths=0.6, zorder=3
    )
    halo: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=1.6, foreground="white", alpha=0.7)]
    lines.set(path_effects=halo)
    pieces = zip(lines.levels, lines.get_paths(), strict=True)
    drawn = [level for level, path in pieces if np.asarray(path.vertices).size]
    spots = [_spot(float(level), cells.largest) for level in drawn]
    places = np.interp(spots, edges, np.arange(len(edges))).tolist()
    for text in axes.clabel(lines, drawn, fmt="%g", fontsize=5.5, inline_spacing=2, manual=places) if drawn else ():
        text.set_path_effects(halo)


def _spot(level: float, largest: tuple[float, float]) -> tuple[float, float]:
    """Student and teacher entropy where a line has its label."""
    confusion = LEVELS[level]
    return confusion * largest[0], (2 - level / (1 + confusion)) * largest[1]


def fire_weight(student: Any, teacher: Any, largest: tuple[float, float]) -> Array:
    """FiRe's token weight before it is normalised, α = β = 1: (1 + cT)·(1 + cS)."""
    confusion = np.clip(np.asarray(student) / max(largest[0], 1e-6), 0, 1)
    confidence = np.clip(1 - np.asarray(teacher) / max(largest[1], 1e-6), 0, 1)
    return np.asarray((1 + confidence) * (1 + confusion))


def _numbers(records: Records, cells: dict[str, _Cells], edges: Array, color: str) -> pd.DataFrame:
    rows = []
    for arm, cell in cells.items():
        for i, j in np.argwhere(cell.tokens > 0):
            place: dict[str, Any] = {"arm": arm, "label": label_of(records.manifest, arm)}
            place |= {"student_low": edges[i], "student_high": edges[i + 1]}
            place |= {"teacher_low": edges[j], "teacher_high": edges[j + 1], "tokens": int(cell.tokens[i, j])}
            place |= {} if color == "tokens" else {color: cell.value[i, j]}
            middle = ((edges[i] + edges[i + 1]) / 2, (edges[j] + edges[j + 1]) / 2)
            rows.append(place | {"fire_weight": float(fire_weight(*middle, cell.largest))})
    return pd.DataFrame(rows)
