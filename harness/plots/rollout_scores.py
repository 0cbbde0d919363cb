"""Figures of recorded rollouts: the score that filters go by, and what each domain's teacher did."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.errors import UserError
from harness.plots.panels import arm_lines, key_above, label_lowest, panels
from harness.plots.style import BETTER, GREY, WIDE, WORSE, drawing, looks, wrapped
from harness.tables.filtering import graded_rows, rollout_rows, summary
from harness.tables.markup import shorten
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records

BARS: Final = 28
PALE: Final = 0.3  # opacity of what was dropped
LEAST: Final = 1e-3  # nats: a score nearer to 0 counts as this
TICKS: Final = tuple(digit * ten for ten in (0.001, 0.01, 0.1, 1, 10) for digit in (1, 2, 5))

# column of the routing frame, title
ROUTED: Final = (
    ("share", "share of tokens, %"),
    ("kl", "KL to the teacher, nats"),
    ("score", "trajectory score, nats"),
    ("kept", "rollouts kept, %"),
)


def scores(records: Records) -> tuple[Figure, pd.DataFrame]:
    """Trajectory scores of right (upward) and wrong rollouts (downward), kept or dropped, a panel for each arm.

    Raises:
        UserError: no rollout was recorded, or none has a verdict.
    """
    rows, table = graded_rows(records), summary(records).set_index("arm")
    style = looks(records.manifest)
    arms = list(table.index)
    # most scores are near 0, a few far from it; the lowest thousandth would stretch the axis: the first bar takes them
    place = -np.log10(np.maximum(-rows["score"].to_numpy(float), LEAST))
    edges = np.linspace(float(np.quantile(place, 0.001)), float(place.max()) + 1e-9, BARS + 1)
    rows = rows.assign(bar=(np.searchsorted(edges, place, "right") - 1).clip(0, BARS - 1))
    counts = rows.groupby(["arm", "bar", "correct", "kept"]).size().rename("rollouts").reset_index()
    counts["share"] = 100 * counts["rollouts"] / counts["arm"].map(table["rollouts"])
    with drawing():
        figure, grid = panels(len(arms), 1.55, 0.7, sharex=True, sharey=True)
        for axes, arm in zip(grid.flat, arms, strict=False):
            _draw_scores(axes, counts[counts["arm"] == arm], edges, table.loc[arm])
            title = f"{wrapped(label_of(records.manifest, arm), 30)}\n{_area(table.loc[arm])}"
            axes.set_title(title, color=style[arm].color, fontsize=7.5)
        sides = counts.groupby(["arm", "correct", "bar"])["share"].sum().groupby("correct").max()
        highest = float(sides.max())
        low, high = (max(float(sides.get(kind, 0)), highest / 4) for kind in (False, True))
        grid.flat[0].set_ylim(-1.1 * low, 1.1 * high)
        grid.flat[0].yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        ticks = [t for t in TICKS if edges[0] <= -math.log10(t) <= edges[-1]] or [-_score(edges[0])]
        ticks = ticks if len(ticks) < 7 else [t for t in ticks if not f"{t:g}".endswith("5")]
        grid.flat[0].set_xticks([-math.log10(t) for t in ticks], [f"−{t:g}" for t in ticks])
        label_lowest(grid, len(arms))
        title = "trajectory score: mean log-probability under the teacher, nats per token (logarithmic)"
        figure.supxlabel(title, fontsize=7.5)
        figure.supylabel("share of rollouts, %", fontsize=7.5)
        key_above(figure, _score_key(table))
    counts.insert(1, "label", [label_of(records.manifest, arm) for arm in counts["arm"]])
    counts["low"], counts["high"] = _score(edges[counts["bar"]]), _score(edges[counts["bar"] + 1])
    named = ["auroc", "auroc_low", "auroc_high", "threshold", "threshold_low", "threshold_high"]
    return figure, counts.drop(columns="bar").join(table[named], on="arm")


def _score(place: Any) -> Any:
    return -(10.0**-place)


def _draw_scores(axes: Axes, counts: pd.DataFrame, edges: Any, numbers: pd.Series) -> None:
    for correct, color, sign in ((True, BETTER, 1), (False, WORSE, -1)):
        base = np.zeros(BARS)
        for kept, alpha in ((True, 1.0), (False, PALE)):
            part = counts[(counts["correct"] == correct) & (counts["kept"] == kept)]
            height = np.zeros(BARS)
            height[part["bar"]] = sign * part["share"]
            axes.bar(edges[:-1], height, np.diff(edges), base, align="edge", color=color, alpha=alpha, lw=0)
            base += height
    axes.axhline(0, color="#444444", lw=0.6)
    if math.isfinite(numbers["threshold"]):
        cuts = [max(-numbers[name], LEAST) for name in ("threshold_low", "threshold", "threshold_high")]
        low, middle, high = (-math.log10(cut) for cut in cuts)
        axes.axvspan(low, high, color=GREY, alpha=0.15, lw=0, zorder=0)
        axes.axvline(middle, color="#000000", lw=0.9, ls=(0, (4, 2)))


def _area(numbers: pd.Series) -> str:
    if not math.isfinite(numbers["auroc"]):
        return "AUROC: no batch has both kinds"
    return f"AUROC {numbers['auroc']:.2f} [{numbers['auroc_low']:.2f}, {numbers['auroc_high']:.2f}]"


def _score_key(table: pd.DataFrame) -> list[Any]:
    key: list[Any] = [Patch(color=BETTER, lw=0, label="right (up)"), Patch(color=WORSE, lw=0, label="wrong (down)")]
    if (table["kept"] < 1).any():
        key.append(Patch(color=GREY, alpha=PALE, lw=0, label="pale: dropped"))
    if table["threshold"].notna().any():
        key.append(Line2D([], [], color="#000000", lw=0.9, ls=(0, (4, 2)), label="threshold: median, range"))
    return key


def routing_frame(records: Records) -> pd.DataFrame:
    """By arm, domain and step: share of the tokens, KL on the sampled tokens, score, kept share; mean over seeds.

    `kl` is the mean over tokens of log S − log Q, `score` the mean over rollouts.

    Raises:
        UserError: no rollout was recorded, or all are of one domain.
    """
    rows = rollout_rows(records)
    domains = sorted(rows["domain"].astype(str).unique())
    if len(domains) < 2:
        grid = records.manifest["grid"]
        raise UserError(f"every recorded rollout of grid '{grid}' is of domain '{domains[0]}': nothing is routed")
    rows = rows.assign(gap=(rows["student_score"] - rows["score"]) * rows["length"])
    runs = rows.groupby(["arm", "domain", "step", "seed"], as_index=False).agg(
        rollouts=("score", "size"),
        tokens=("length", "sum"),
        gap=("gap", "sum"),
        score=("score", "mean"),
        kept=("kept", "mean"),
    )
    runs["share"] = 100 * runs["tokens"] / runs.groupby(["arm", "step", "seed"])["tokens"].transform("sum")
    runs["kl"], runs["kept"] = runs["gap"] / runs["tokens"], 100 * runs["kept"].astype(float)
    names = [name for name, _ in ROUTED]
    places = ["arm", "domain", "step"]
    grouped = runs.groupby(places)
    low, high = (bound[names].add_suffix(end) for bound, end in ((grouped.min(), "_low"), (grouped.max(), "_high")))
    frame = grouped[names].mean().join([low, high, grouped["seed"].nunique().rename("seeds")]).reset_index()
    frame.insert(1, "label", [label_of(records.manifest, arm) for arm in frame["arm"]])
    return frame


def routing(records: Records) -> tuple[Figure, pd.DataFrame]:
    """What each domain contributes during training: a row of panels for each domain, arms as lines.

    Raises:
        UserError: as `routing_frame`.
    """
    frame = routing_frame(records)
    style = {arm: look for arm, look in looks(records.manifest).items() if arm in frame["arm"].unique()}
    domains = list(dict.fromkeys(sorted(frame["domain"])))
    with drawing():
        figure = Figure(figsize=(WIDE, 0.75 + 1.25 * len(domains)), layout="constrained")
        grid = figure.subplots(len(domains), len(ROUTED), sharex=True, sharey="col", squeeze=False)
        for axes, (_, title) in zip(grid[0], ROUTED, strict=True):
            axes.set_title(title, fontsize=7.5)
        for row, domain in zip(grid, domains, strict=True):
            for axes, (name, _) in zip(row, ROUTED, strict=True):
                for arm, look in style.items():
                    line = frame[(frame["arm"] == arm) & (frame["domain"] == domain)].sort_values("step")
                    axes.fill_between(
                        line["step"], line[f"{name}_low"], line[f"{name}_high"], color=look.color, alpha=0.15, lw=0
                    )
                    axes.plot(
                        line["step"], line[name], color=look.color, ls=look.dash, marker=look.marker, ms=2.8, lw=1.0
                    )
            row[0].set_ylabel(wrapped(shorten(domain), 18), fontweight="bold")
        figure.supxlabel("optimiser step", fontsize=7.5)
        handles: list[Any] = [*arm_lines(records.manifest, style)]
        if frame["seeds"].max() > 1:
            handles.append(Patch(color=GREY, alpha=0.25, lw=0, label="range over seeds"))
        key_above(figure, handles)
    return figure, frame
