"""Figures as a pure function of kept records; each returns the figure and the frame of the numbers it shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.errors import UserError
from harness.plots.panels import REFERENCE_DASHES, arm_lines, key_above, key_in, label_lowest, panels
from harness.plots.style import GREY, WIDE, Look, drawing, looks, save, svg, wrapped
from harness.tables.markup import shorten
from harness.tables.standings import MACRO, comparison, order
from harness.tables.trajectories import METRICS, curve_frame, label_of, training_frame

if TYPE_CHECKING:
    from harness.records import Records

__all__ = ["curve", "forest", "save", "svg", "training"]

FEW_SEEDS = 3  # up to here the single runs are drawn


def curve(records: Records, x: str = "step") -> tuple[Figure, pd.DataFrame]:
    """Accuracy on the curve bench during training: a panel for each arm, the baseline in all of them.

    Args:
        x: "step", "tokens" for the tokens generated until then, or "time" for the time the steps took until then.

    Raises:
        UserError: another `x`, or nothing of the kind in the records.
    """
    if x not in ("step", "tokens", "time"):
        raise UserError(f"x='{x}' is unknown: accuracy can be drawn against 'step', 'tokens' or 'time'")
    manifest = records.manifest
    frame = curve_frame(records)
    style = looks(manifest)
    column, scale, title = _axis(frame[frame["arm"].isin(list(style))], x, str(manifest["grid"]))
    baseline = manifest["baseline"]
    shown = [arm for arm in style if arm != baseline] or [baseline]
    with drawing():
        figure, grid = panels(len(shown), 1.6, 0.7, sharex=True, sharey=True)
        for axes, arm in zip(grid.flat, shown, strict=False):
            for value, _, dash in _references(frame, manifest):
                axes.axhline(value, color=GREY, lw=0.9, ls=dash, zorder=1)
            for drawn in dict.fromkeys((baseline, arm)):
                line = frame[frame["arm"] == drawn]
                _draw_curve(axes, line.assign(x=line[column] * scale), style[drawn], band=drawn == arm)
            inert = " (INERT)" if arm in manifest.get("inert", {}) else ""
            axes.set_title(wrapped(label_of(manifest, arm) + inert, 30), color=style[arm].color)
        label_lowest(grid, len(shown))
        figure.supxlabel(title, fontsize=7.5)
        bench = manifest.get("curve") or manifest["benches"].get(manifest["curve_bench"], {})
        name = shorten(bench.get("label") or manifest["curve_bench"])
        figure.supylabel(f"{name}: {frame['metric'].iloc[0]}, %", fontsize=7.5)
        key_above(figure, _curve_key(frame, manifest, style))
    return figure, frame


def _axis(frame: pd.DataFrame, x: str, grid: str) -> tuple[str, float, str]:
    """Column of the curve frame, factor and title of its horizontal axis."""
    if x == "step":
        return "step", 1.0, "optimiser step"
    column = {"tokens": "tokens", "time": "seconds"}[x]
    most = float(frame[column].max())
    if not most > 0:
        what = "generated tokens" if x == "tokens" else "timings"
        raise UserError(f"grid '{grid}' has no {what} to draw accuracy against")
    if x == "tokens":
        return column, *((1e-6, "generated tokens, millions") if most >= 2e5 else (1e-3, "generated tokens, thousands"))
    unit, length = next(((n, s) for n, s in (("hours", 3600), ("minutes", 60)) if most > 3 * s), ("seconds", 1))
    return column, 1 / length, f"time spent in training steps, {unit}"


def forest(records: Records, frame: pd.DataFrame | None = None) -> tuple[Figure, pd.DataFrame]:
    """Paired differences to the baseline: rows of arms, a panel for each bench, 95 % intervals, single seeds.

    Args:
        frame: the comparison frame, where it has been computed already.

    Raises:
        UserError: there is no arm to compare with the baseline.
    """
    manifest = records.manifest
    frame = comparison(records) if frame is None else frame
    rows = frame[~frame["reference"] & ~frame["baseline"]]
    if rows.empty:
        raise UserError(f"grid '{manifest['grid']}' has no arm but its baseline: there is no difference to draw")
    style = looks(manifest)
    arms = list(dict.fromkeys(rows["arm"]))
    benches = list(dict.fromkeys(rows["bench"]))
    columns = len(benches) if len(benches) <= 4 else 3  # four stand side by side: two rows of a long list fill a page
    lines = -(-len(benches) // columns)
    with drawing():
        figure = Figure(figsize=(WIDE, lines * (0.55 + 0.24 * len(arms)) + 0.45), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, bench in zip(grid.flat, benches, strict=False):
            here = rows[rows["bench"] == bench].set_index("arm")
            axes.axvline(0, color=GREY, lw=0.9, zorder=1)
            for height, arm in enumerate(arms):
                _draw_difference(axes, height, here.loc[arm], style[arm])
            axes.set_title(here["bench_label"].iloc[0], fontweight="bold" if bench == MACRO else "normal")
            axes.grid(axis="y", visible=False)
            axes.set_yticks(range(len(arms)), [_flagged(here.loc[arm]) for arm in arms])
            axes.tick_params(axis="y", length=0)
        grid.flat[0].set_ylim(len(arms) - 0.4, -0.6)
        for axes in grid.flat[len(benches) :]:
            axes.set_axis_off()
        figure.supxlabel(f"difference to {label_of(manifest, manifest['baseline'])}, points", fontsize=7.5)
        key_above(figure, _forest_key(rows))
    shown = ["arm", "label", "bench", "bench_label", "delta", "delta_low", "delta_high", "delta_fixed_low"]
    shown += ["delta_fixed_high", "delta_per_seed", "p", "p_holm", "inert"]
    numbers = rows[shown].reset_index(drop=True)
    numbers["delta_per_seed"] = [";".join(f"{v:.6g}" for v in values) for values in numbers["delta_per_seed"]]
    return figure, numbers


def training(records: Records) -> tuple[Figure, pd.DataFrame]:
    """How the runs went: KL, entropies, length, truncation, kept rollouts and effective sample size against step.

    Raises:
        UserError: the records hold no training steps.
    """
    if records.steps.empty:
        raise UserError(f"grid '{records.manifest['grid']}' has no training steps to draw")
    style = looks(records.manifest)
    frame = training_frame(records)
    width = int(frame["steps"].max())
    with drawing():
        figure = Figure(figsize=(WIDE, 3.5), layout="constrained")
        grid = figure.subplots(2, 4, sharex=True, squeeze=False)
        for axes, (metric, title, _) in zip(grid.flat, METRICS, strict=False):
            here = frame[frame["metric"] == metric]
            for index, (arm, look) in enumerate(style.items()):
                line = here[here["arm"] == arm]
                every = max(1, len(line) // 5)
                axes.fill_between(line["step"], line["low"], line["high"], color=look.color, alpha=0.15, lw=0)
                axes.plot(
                    line["step"],
                    line["value"],
                    color=look.color,
                    ls=look.dash,
                    marker=look.marker,
                    markevery=(index * every // max(1, len(style)), every),
                    ms=2.8,
                    lw=1.0,
                )
            if here["value"].isna().all():
                axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_title(title, fontsize=7.5)
            if title.endswith("%"):
                low, high = axes.get_ylim()
                axes.set_ylim(max(low, -1), min(high, 102))
        label_lowest(grid, len(METRICS))
        means = f" (means of {width} steps)" if width > 1 else ""
        figure.supxlabel(f"optimiser step{means}", fontsize=7.5)
        handles: list[Any] = [*arm_lines(records.manifest, style)]
        if frame["seeds"].max() > 1:
            handles.append(Patch(color=GREY, alpha=0.25, lw=0, label="range over seeds"))
        key_in(figure, grid[1, 3], handles)
    return figure, frame


def _draw_curve(axes: Axes, frame: pd.DataFrame, look: Look, band: bool) -> None:
    mean = frame[frame["seed"] == "all"]
    runs = frame[frame["seed"] != "all"]
    if band:
        axes.fill_between(mean["x"], mean["low"], mean["high"], color=look.color, alpha=0.15, lw=0)
        if 1 < runs["seed"].nunique() <= FEW_SEEDS:
            for _, run in runs.groupby("seed"):
                axes.plot(run["x"], run["value"], color=look.color, lw=0.6, alpha=0.6)
    axes.plot(mean["x"], mean["value"], color=look.color, ls=look.dash, marker=look.marker, zorder=3)


def _references(frame: pd.DataFrame, manifest: dict[str, Any]) -> list[tuple[float, str, Any]]:
    """Value, label and dash of the reference models that were evaluated on the curve bench."""
    means = frame[frame["seed"] == "all"].drop_duplicates("arm").set_index("arm")["value"]
    names = [arm for arm in order(manifest) if manifest["arms"][arm].get("reference") and arm in means.index]
    dashes = [REFERENCE_DASHES[i % len(REFERENCE_DASHES)] for i in range(len(names))]
    return [(float(means[arm]), label_of(manifest, arm), dash) for arm, dash in zip(names, dashes, strict=True)]


def _curve_key(frame: pd.DataFrame, manifest: dict[str, Any], style: dict[str, Look]) -> list[Any]:
    look = style[manifest["baseline"]]
    name = label_of(manifest, manifest["baseline"])
    key: list[Any] = [Line2D([], [], color=look.color, ls=look.dash, marker=look.marker, label=f"{name} (baseline)")]
    for _, label, dash in _references(frame, manifest):
        key.append(Line2D([], [], color=GREY, lw=0.9, ls=dash, label=wrapped(label, 30)))
    key.append(Patch(color=GREY, alpha=0.25, lw=0, label="95 % t interval over problems"))
    seeds = frame.loc[frame["seed"] != "all", "seed"].nunique()
    if 1 < seeds <= FEW_SEEDS:
        key.append(Line2D([], [], color=GREY, lw=0.6, label="single seeds"))
    return key


def _draw_difference(axes: Axes, height: int, row: pd.Series, look: Look) -> None:
    if not math.isfinite(row["delta"]):
        axes.text(0, height, " not measured", va="center", color=GREY, fontsize=6.5)
        return
    points = [100 * row[name] for name in ("delta", "delta_low", "delta_high", "delta_fixed_low", "delta_fixed_high")]
    delta, low, high, fixed_low, fixed_high = points
    color = GREY if row["inert"] else look.color
    axes.plot([low, high], [height, height], color=color, lw=1.0, solid_capstyle="butt", zorder=2)
    if math.isfinite(fixed_low):
        axes.plot(
            [fixed_low, fixed_high], [height] * 2, color=color, lw=3.2, alpha=0.4, solid_capstyle="butt", zorder=2
        )
    face = color if row["bold"] or row["worse"] else "white"
    axes.plot([delta], [height], marker=look.marker, ms=4.5, color=color, mfc=face, mew=1.0, zorder=4)
    if len(row["delta_per_seed"]) > 1:
        axes.plot(
            [100 * v for v in row["delta_per_seed"]],
            [height + 0.27] * len(row["delta_per_seed"]),
            ls="",
            marker="|",
            ms=4,
            mew=0.9,
            color=color,
            zorder=3,
        )


def _flagged(row: pd.Series) -> str:
    return wrapped(f"{row['label']} (INERT)" if row["inert"] else str(row["label"]), 30)


def _forest_key(rows: pd.DataFrame) -> list[Any]:
    key: list[Any] = [
        Line2D([], [], color=GREY, marker="o", ms=4.5, mfc="white", lw=1.0, label="95 %, problems as a sample"),
        Line2D([], [], color=GREY, lw=3.2, alpha=0.4, label="95 %, these problems"),
        Line2D([], [], color=GREY, marker="o", ms=4.5, ls="", label="Holm p < 0.05"),
    ]
    if rows["delta_per_seed"].map(len).max() > 1:
        key.append(Line2D([], [], color=GREY, marker="|", ms=4, mew=0.9, ls="", label="single seeds"))
    return key
