"""Where the arms put their weight: the tokens of recorded steps by weight, and by place in the rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from harness.errors import UserError
from harness.plots.entropies import profile_rows
from harness.plots.panels import arm_lines, key_in, label_lowest, panels
from harness.plots.style import BLACK, GREY, WIDE, Look, drawing, looks, wrapped
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records

TICKS: Final = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1.0: "1", 2.0: "2", 4.0: "4", 8.0: "8"}

# column, title: means over the tokens at a place
PLACED: Final = (
    ("weight", "token weight ÷ batch mean"),
    ("advantage", "advantage log Q − log S, nats"),
    ("student_entropy", "student entropy, nats"),
    ("teacher_entropy", "teacher entropy, nats"),
    ("kl", "KL(S‖Q), nats"),
)


def weights(records: Records) -> tuple[Figure, pd.DataFrame]:
    """Share of the tokens by weight, relative to the mean of the trained ones; a panel for each arm that tells them
    apart, with a bar of its own for the weight zero.

    Raises:
        UserError: no weights were recorded, or every arm trains on all tokens alike.
    """
    rows, manifest = profile_rows(records, "weights"), records.manifest
    edges = manifest["profile"]["weight_edges"]
    style = looks(manifest)
    tokens = rows.groupby(["arm", "i"])["tokens"].sum()
    share = (100 * tokens / tokens.groupby("arm").sum()).rename("share")
    unit = next(i for i, edge in enumerate(edges) if edge >= 1)  # rounding may put a weight of 1 into the next bin
    uneven = [arm for arm in style if arm in share and not set(share[arm].index) <= {unit, unit + 1}]
    if not uneven:
        raise UserError(f"no arm of grid '{manifest['grid']}' weighs tokens: each trains on all of them alike")
    with drawing():
        figure, grid = panels(len(uneven), 1.5, 0.45, sharex=True)
        for axes, arm in zip(grid.flat, uneven, strict=False):
            _draw_weights(axes, share[arm], edges, style[arm])
            axes.set_title(wrapped(label_of(manifest, arm), 30), color=style[arm].color)
        label_lowest(grid, len(uneven))
        figure.supxlabel("token weight ÷ mean weight of the trained tokens", fontsize=7.5)
        figure.supylabel("share of tokens, %", fontsize=7.5)
    frame = pd.concat([tokens, share], axis=1).reset_index()
    frame["low"] = [0.0 if i == 0 else edges[i - 1] for i in frame["i"]]
    frame["high"] = [np.inf if i == len(edges) - 1 else edges[i] for i in frame["i"]]
    frame.insert(1, "label", [label_of(manifest, arm) for arm in frame["arm"]])
    return figure, frame.drop(columns="i")


def _draw_weights(axes: Axes, share: pd.Series, edges: list[float], look: Look) -> None:
    """Bins of the weight, as wide as each other, and left of them the weight zero."""
    zero = -3.0
    heights = share.reindex(range(len(edges)), fill_value=0.0)
    places = np.arange(1, len(edges)) + 0.5  # bin i reaches from i to i + 1, where edge i is
    axes.bar(places, heights[1:], 1.0, color=look.color, alpha=0.8, lw=0)
    axes.bar([zero], [heights[0]], 1.6, color="white", edgecolor=look.color, hatch="/////", lw=0.8)
    axes.annotate(
        f"{heights[0]:.0f} %" if heights[0] == 0 or heights[0] >= 1 else f"{heights[0]:.1f} %",
        (zero, heights[0]),
        xytext=(0, 1.5),
        textcoords="offset points",
        ha="center",
        fontsize=6,
    )
    scale = (np.log2(edges[1:]), np.arange(2.0, len(edges) + 1))
    ticks = [tick for tick in TICKS if edges[1] <= tick <= edges[-1]]
    at = np.interp(np.log2(ticks), *scale)
    axes.set_xticks([zero, *at], ["0", *(TICKS[tick] for tick in ticks)])
    axes.axvline(float(np.interp(0.0, *scale)), color=BLACK, lw=0.7, ls=(0, (4, 2)))
    axes.set_xlim(zero - 1.6, len(edges) + 0.5)
    axes.set_ylim(0, 1.12 * max(float(heights.max()), 1.0))
    axes.grid(axis="x", visible=False)


def position_frame(records: Records) -> pd.DataFrame:
    """By arm and place in the rollout, in equal parts of its length: means over the tokens there.

    `value` averages over all recorded steps and seeds, `low` and `high` are the range over seeds; metric
    `weight_share` is the share of the whole weight, in percent.

    Raises:
        UserError: no positions were recorded.
    """
    rows, manifest = profile_rows(records, "positions"), records.manifest
    parts = int(manifest["profile"]["positions"])
    names = [name for name, _ in PLACED]
    runs = rows.groupby(["arm", "seed", "i"])[[*names, "tokens"]].sum(min_count=1)
    whole = runs.groupby(["arm", "i"]).sum(min_count=1)
    frames = []
    for metric in (*names, "weight_share"):
        each, overall = (_means(sums, metric) for sums in (runs, whole))
        bounds = each.groupby(["arm", "i"])
        frame = pd.DataFrame({"value": overall, "low": bounds.min(), "high": bounds.max(), "seeds": bounds.size()})
        frames.append(frame.assign(tokens=whole["tokens"]).reset_index().assign(metric=metric))
    frame = pd.concat(frames, ignore_index=True)
    frame["position"] = 100 * (frame.pop("i") + 0.5) / parts
    frame["label"] = [label_of(manifest, arm) for arm in frame["arm"]]
    return frame[["metric", "arm", "label", "position", "value", "low", "high", "seeds", "tokens"]]


def _means(sums: pd.DataFrame, metric: str) -> pd.Series:
    if metric != "weight_share":
        return sums[metric] / sums["tokens"]
    over = [name for name in sums.index.names if name != "i"]
    return 100 * sums["weight"] / sums.groupby(over)["weight"].transform("sum")


def positions(records: Records) -> tuple[Figure, pd.DataFrame]:
    """Weight, advantage, entropies and KL against the relative position in the rollout.

    Raises:
        UserError: as `position_frame`.
    """
    frame = position_frame(records)
    style = {arm: look for arm, look in looks(records.manifest).items() if arm in frame["arm"].unique()}
    with drawing():
        figure = Figure(figsize=(WIDE, 3.4), layout="constrained")
        grid = figure.subplots(2, 3, sharex=True, squeeze=False)
        for axes, (metric, title) in zip(grid.flat, PLACED, strict=False):
            here = frame[frame["metric"] == metric]
            for index, (arm, look) in enumerate(style.items()):
                line = here[here["arm"] == arm].sort_values("position")
                axes.fill_between(line["position"], line["low"], line["high"], color=look.color, alpha=0.15, lw=0)
                axes.plot(
                    line["position"],
                    line["value"],
                    color=look.color,
                    ls=look.dash,
                    marker=look.marker,
                    markevery=(index % 5, 5),
                    ms=2.8,
                    lw=1.0,
                )
            if here["value"].isna().all():
                axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color=GREY)
            axes.set_title(title, fontsize=7.5)
        grid[0, 0].axhline(1, color=GREY, lw=0.7, zorder=1)
        grid[0, 0].set_ylim(bottom=0)
        grid[0, 1].axhline(0, color=GREY, lw=0.7, zorder=1)
        grid[0, 0].set_xlim(0, 100)
        label_lowest(grid, len(PLACED))
        figure.supxlabel("position in the rollout, % of its length", fontsize=7.5)
        handles: list[Any] = [*arm_lines(records.manifest, style)]
        if frame["seeds"].max() > 1:
            handles.append(Patch(color=GREY, alpha=0.25, lw=0, label="range over seeds"))
        key_in(figure, grid[1, 2], handles)
    return figure, frame
