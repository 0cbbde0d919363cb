"""Which problems carry a difference: two evaluations problem by problem, as a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.plots.panels import key_columns
from harness.plots.style import BETTER, GREY, WIDE, WORSE, drawing, wrapped
from harness.tables.markup import shorten

MOST_ROWS = 45  # problems that fit as rows of their own
LONGEST_NAME = 28  # characters of a problem's name beside its row


def figure(frame: pd.DataFrame, a: str, b: str, title: str) -> Figure:
    """The problems of one benchmark (rows of `pairing.by_problem`): a dumbbell each, or, for many, every difference
    in order beside a map of both accuracies."""
    with drawing():
        if len(frame) <= MOST_ROWS:
            drawn = Figure(figsize=(WIDE, 1.1 + 0.15 * len(frame)), layout="constrained")
            _dumbbells(drawn.subplots(), frame, a, b)
        else:
            drawn = Figure(figsize=(WIDE, 3.1), layout="constrained")
            left, right = drawn.subplots(1, 2, width_ratios=(1, 1.35))
            _map(left, frame, a, b)
            _ordered(right, frame, a, b)
        drawn.suptitle(title, fontsize=8.5, x=0.01, ha="left")
    return drawn


def _dumbbells(axes: Axes, frame: pd.DataFrame, a: str, b: str) -> None:
    ordered = frame.sort_values(["delta", "a", "problem"]).reset_index(drop=True)
    rows = np.arange(len(ordered))
    colors = [BETTER if d > 0 else WORSE if d < 0 else GREY for d in ordered["delta"]]
    axes.hlines(rows, 100 * ordered["a"], 100 * ordered["b"], colors=colors, linewidth=1.6, zorder=2)
    axes.scatter(100 * ordered["a"], rows, s=16, facecolor="white", edgecolor="#444444", zorder=3)
    axes.scatter(100 * ordered["b"], rows, s=16, c=colors, zorder=4)
    axes.set_yticks(rows, [_short(name) for name in ordered["problem"]], fontsize=6)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("right answers, %")
    a, b = (wrapped(name, 32) for name in (a, b))
    spot: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4}
    handles = [Line2D([], [], **spot, color="#444444", mfc="white", label=a)]
    named = ((BETTER, f"{b}, better"), (WORSE, f"{b}, worse"), (GREY, f"{b}, equal"))
    handles += [Line2D([], [], **spot, color=color, label=label) for color, label in named if color in colors]
    columns = key_columns(handles, WIDE - 1.5, 4)
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, borderaxespad=0.1)


def _short(name: object) -> str:
    text = shorten(str(name))
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


def _map(axes: Axes, frame: pd.DataFrame, a: str, b: str) -> None:
    spots = frame.groupby(["a", "b"]).size().reset_index(name="count")
    colors = [BETTER if d > 0 else WORSE if d < 0 else GREY for d in spots["b"] - spots["a"]]
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, zorder=1)
    axes.scatter(100 * spots["a"], 100 * spots["b"], s=7 * np.sqrt(spots["count"]) ** 1.4, c=colors, alpha=0.75, lw=0)
    axes.set_xlabel(wrapped(f"{a}: right answers, %", 44))
    axes.set_ylabel(wrapped(f"{b}: right answers, %", 44))
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 104)
    axes.set_title("a dot per problem; larger: several", loc="left")


def _ordered(axes: Axes, frame: pd.DataFrame, a: str, b: str) -> None:
    delta = 100 * frame["delta"].sort_values(ascending=False).to_numpy()
    at = np.arange(1, len(delta) + 1)
    axes.fill_between(at, 0, np.maximum(delta, 0), step="mid", color=BETTER, lw=0)
    axes.fill_between(at, 0, np.minimum(delta, 0), step="mid", color=WORSE, lw=0)
    axes.axhline(0, color="#444444", linewidth=0.6)
    axes.axhline(float(delta.mean()), color="#000000", linewidth=0.9, linestyle=(0, (4, 2)))
    axes.annotate(
        f"mean {delta.mean():+.1f}".replace("-", "−"),
        (len(delta) if delta.mean() > 0 else 1, float(delta.mean())),
        textcoords="offset points",
        xytext=(0, 3) if delta.mean() > 0 else (3, -9),
        ha="right" if delta.mean() > 0 else "left",
        fontsize=7,
    )
    axes.set_xlim(0.5, len(delta) + 0.5)
    axes.set_xlabel("problems, largest gain first")
    axes.set_title(wrapped(f"{b} − {a}, points", 62), loc="left")
