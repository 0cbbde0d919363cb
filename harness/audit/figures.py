"""The audit's pictures: differences by regime, and what each method does beside what it scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from harness.audit import ARMS
from harness.plots.style import BLACK, FIXED, GREY, WIDE, drawing

COLORS: Final = {**FIXED, "opd": BLACK, "random-filter": GREY}
#: Column of `qualitative`, its title, its factor.
COLUMNS: Final = (
    ("discarded", "token KL without\na coefficient, %", 100.0),
    ("spread", "SD over runs,\npoints", 100.0),
    ("norm_cv", "gradient norm,\nSD / mean", 1.0),
    ("truncated", "truncated\nrollouts, %", 100.0),
    ("trained", "tokens trained,\nthousands", 1e-3),
)
#: What an arm leaves to be trained on.
KEPT_COLUMNS: Final = (
    ("kept", "rollouts kept,\n%", 100.0),
    ("discarded", "token KL without\na coefficient, %", 100.0),
    ("trained", "tokens trained,\nthousands", 1e-3),
)
#: What leaves tokens out, its colour, its methods; in the order of the legend.
LEAVING_OUT: Final = (
    ("FiRe's filter", COLORS["fire"], ("fire", "fire-filter-only")),
    ("other filters", "#0072B2", ("drop-highest", "drop-longest", "length-matched-filter")),
    ("random rollouts", GREY, ("random-filter",)),
    ("chosen tokens", "#CC79A7", ("tip-sampled", "first-segment", "last-segment")),
    ("random tokens", "#56B4E9", ("equal-tokens", "random-mask", "random-segment")),
)


def by_regime(frame: pd.DataFrame) -> Figure:
    """Difference to OPD in every regime, with 95 % intervals over problems and training runs.

    Args:
        frame: of `harness.audit.regime`, of all regimes.
    """
    names = list(dict.fromkeys(frame["regime"]))
    with drawing():
        figure = Figure(figsize=(0.8 * WIDE, 0.75 + 0.42 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color="#444444", linewidth=0.8)
        for row in frame.to_dict("records"):
            at = names.index(row["regime"]) + 0.22 * (ARMS.index(row["arm"]) - 1)
            color = COLORS[row["arm"]]
            axes.plot([100 * row["low"], 100 * row["high"]], [at, at], color=color, linewidth=1.3)
            axes.plot(100 * row["delta"], at, "o", color=color, markersize=4.2)
            for one in row["by_student"]:
                axes.plot(100 * one, at, "|", color=color, markersize=5, alpha=0.7)
        base = frame.drop_duplicates("regime").set_index("regime")["baseline_value"]
        axes.set_yticks(range(len(names)), [f"{name}\nOPD {100 * base[name]:.1f} %" for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(False, axis="y")
        for at in range(1, len(names)):
            axes.axhline(at - 0.5, color="#e6e6e6", linewidth=0.5)
        axes.set_xlabel("difference to OPD, points, with 95 % interval; ticks: each student")
        labels = frame.drop_duplicates("arm").set_index("arm")["label"]
        handles = [
            Line2D([], [], color=COLORS[arm], marker="o", markersize=4.2, label=labels[arm])
            for arm in ARMS
            if arm in labels
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def beside(frame: pd.DataFrame, columns: Sequence[tuple[str, str, float]] = COLUMNS, best_first: bool = True) -> Figure:
    """Every arm in a row, the best above or in order: its difference to the baseline, and what it did.

    Args:
        frame: of `harness.audit.qualitative.qualitative`.
        columns: (column of the frame, title, factor) of the panels beside the difference.
    """
    drawn = frame.assign(delta=frame["delta"].fillna(0.0))  # the baseline's to itself
    drawn = drawn.sort_values(["delta", "arm"]) if best_first else drawn[::-1]
    drawn = drawn.reset_index(drop=True)
    with drawing():
        wide = 0.55 + 0.14 * len(columns)
        figure = Figure(figsize=(WIDE * wide, 0.8 + 0.165 * len(drawn)), layout="constrained")
        panels = figure.subplots(1, 1 + len(columns), sharey=True, width_ratios=[1.7] + [1] * len(columns))
        rows = np.arange(len(drawn))
        colors = [COLORS.get(arm, "#0072B2") for arm in drawn["arm"]]
        _dots(panels[0], drawn, rows, colors, "delta", 100.0)
        panels[0].axvline(0, color="#444444", linewidth=0.8, zorder=1)
        panels[0].set_title("difference to OPD,\npoints", loc="left")
        panels[0].set_yticks(rows, [label if len(label) < 34 else f"{label[:33]}…" for label in drawn["label"]])
        panels[0].set_ylim(-0.7, len(rows) - 0.3)
        for axes, (name, title, factor) in zip(panels[1:], columns, strict=True):
            _dots(axes, drawn, rows, colors, name, factor)
            axes.set_title(title, loc="left")
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]) if name != "trained" else None)
    return figure


def by_discarded(frame: pd.DataFrame) -> Figure:
    """What an arm loses against the share of the token KL that it leaves out.

    A dot an arm, at the mean over steps, with the 95 % interval of its difference; a pale line from the share in the
    first tenth of the steps to that in the last.

    Args:
        frame: of `harness.audit.qualitative.qualitative`, of one or more grids.
    """
    with drawing():
        figure = Figure(figsize=(0.85 * WIDE, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color="#444444", linewidth=0.8)
        for label, color, methods in LEAVING_OUT:
            of = 100 * frame[frame["method"].isin(methods)].select_dtypes("number")
            if of.empty:
                continue
            axes.hlines(of["delta"], of["discarded_first"], of["discarded_last"], color=color, linewidth=1.0, alpha=0.3)
            axes.vlines(of["discarded"], of["low"], of["high"], color=color, linewidth=1.0)
            axes.plot(of["discarded"], of["delta"], "o", color=color, markersize=4.2, label=label)
        axes.set_xlim(left=-2)
        axes.set_xlabel("token KL on tokens without a coefficient, %; line: first to last tenth of the steps")
        axes.set_ylabel("difference to OPD, points")
        figure.legend(loc="outside upper center", ncols=len(LEAVING_OUT))
    return figure


def by_format(frame: pd.DataFrame) -> Figure:
    """Score of right answers in every format, under both checkers.

    Args:
        frame: of `harness.audit.answer_formats.scores`.
    """
    whole = frame[frame["part"] == "all"]
    names = list(dict.fromkeys(whole["format"]))
    looks = {"paper": ("#D55E00", "released checker"), "strict": ("#0072B2", "strict checker")}
    with drawing():
        figure = Figure(figsize=(0.8 * WIDE, 0.8 + 0.2 * len(names)), layout="constrained")
        axes = figure.subplots()
        for at, name in enumerate(names):
            of = whole[whole["format"] == name].set_index("checker")["score"]
            axes.plot([100 * of["paper"], 100 * of["strict"]], [at, at], color="#cccccc", linewidth=1.2, zorder=1)
            for checker, (color, _) in looks.items():
                axes.plot(100 * of[checker], at, "o", color=color, markersize=4.2)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("right answers marked right, % of Minerva's 272 problems")
        handles = [Line2D([], [], color=color, marker="o", ls="", label=label) for color, label in looks.values()]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def by_vocabulary(frame: pd.DataFrame) -> Figure:
    """Noise scale against the size of the vocabulary, a panel per student.

    Args:
        frame: of `harness.audit.noise.measure`.
    """
    labels = {"opd": "sampled token (OPD)", "full-rkl": "whole distribution"}
    students = list(dict.fromkeys(frame["student"]))
    sizes = sorted(set(frame["classes"]))
    with drawing():
        figure = Figure(figsize=(WIDE, 2.4), layout="constrained")
        panels = figure.subplots(1, len(students), sharey=True, squeeze=False)[0]
        for axes, student in zip(panels, students, strict=True):
            for method in labels:
                line = frame[(frame["student"] == student) & (frame["method"] == method)].sort_values("classes")
                color, x = COLORS[method], line["classes"] * (0.97 if method == "opd" else 1.03)
                axes.vlines(x, line["low"], line["high"], color=color, linewidth=1.0)
                axes.plot(x, line["noise"], color=color, marker="o")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.set_yticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
            axes.set_title(str(student).removeprefix("toy:"), loc="left")
        panels[0].set_ylabel("noise scale, rollouts")
        panels[len(panels) // 2].set_xlabel("classes that the vocabulary is merged into; the last: whole")
        handles = [Line2D([], [], color=COLORS[m], marker="o", label=label) for m, label in labels.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _dots(axes: Axes, frame: pd.DataFrame, rows: Any, colors: list[str], name: str, factor: float) -> None:
    for at, row, color in zip(rows, frame.to_dict("records"), colors, strict=True):
        value = row[name]
        if name == "delta":
            low, high = row["low"], row["high"]
        elif name == "spread":
            low, high = row["spread_low"], row["spread_high"]
        else:
            low, high = value - row[f"{name}_half"], value + row[f"{name}_half"]
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([factor * low, factor * high], [at, at], color=color, linewidth=1.0)
        axes.plot(factor * value, at, "o", color=color, markersize=3.4, clip_on=False)
