"""Costs against sizes: one figure a curve, on logarithmic axes, with the slope that a power law through it has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from harness.plots.style import GREY, MARKERS, PALETTE, WIDE, drawing, save

OURS: Final = "#D55E00"
OTHERS: Final = tuple(color for color in PALETTE if color != OURS)


def draw(curves: Sequence[dict[str, Any]], folder: Path, trial: bool = False) -> list[Path]:
    """Writes `folder`/<name>.png, .pdf and .csv for every curve; returns the images."""
    written = []
    for curve in curves:
        figure, frame = cost_figure(curve, trial)
        written += [path for path in save(figure, frame, folder / curve["name"]) if path.suffix == ".png"]
    return written


def cost_figure(curve: dict[str, Any], trial: bool = False) -> tuple[Figure, pd.DataFrame]:
    """Medians with their range, joined; a grey line of slope one through the last point of ours where cost should be
    proportional to size."""
    frame = pd.DataFrame(
        [
            {"series": one["label"], curve["x"]: x, curve["unit"]: median, "low": low, "high": high}
            for one in curve["series"]
            for x, median, low, high in one["points"]
        ]
    )
    with drawing():
        figure = Figure(figsize=(0.62 * WIDE, 2.5), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        others = iter(zip(OTHERS, MARKERS[1:], strict=False))
        ends = []
        for one in curve["series"]:
            color, marker = (OURS, MARKERS[0]) if one.get("ours") else next(others)
            x, y, low, high = (np.array(values, dtype=float) for values in zip(*one["points"], strict=True))
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(x, y, color=color, marker=marker, zorder=3 if one.get("ours") else 2)
            said = one["label"] + (
                f"\nslope {value:.2f}".replace("-", "−") if (value := slope(x, y)) is not None else ""
            )
            ends.append((float(x[-1]), float(y[-1]), said, color))
        if curve["linear"]:
            _proportional(axes, next((one for one in curve["series"] if one.get("ours")), curve["series"][0]))
        _label_ends(axes, ends)
        _ticks(axes, sorted({float(x) for one in curve["series"] for x, *_ in one["points"]}))
        axes.set_xlabel(curve["x"])
        axes.set_ylabel(curve["unit"])
        axes.set_title(curve["title"] + (" (trial)" if trial else ""), loc="left")
    return figure, frame


def slope(x: Any, y: Any) -> float | None:
    """Of the straight line through the logarithms, by least squares; None for fewer than two sizes."""
    if len(x) < 2 or min(*x, *y) <= 0 or len(set(x)) < 2:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _proportional(axes: Axes, one: dict[str, Any]) -> None:
    """Through the last point; it leaves the axes as the costs want them."""
    x, y = [point[0] for point in one["points"]], [point[1] for point in one["points"]]
    limits = axes.get_ylim()
    dots = (0, (2, 2))
    axes.plot([x[0], x[-1]], [y[-1] * x[0] / x[-1], y[-1]], color=GREY, linewidth=0.8, linestyle=dots, zorder=1)
    axes.set_ylim(limits)
    axes.text(
        0.98, 0.03, "dotted: proportional to size", transform=axes.transAxes, ha="right", color=GREY, fontsize=6.5
    )


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Each line's name beside its last point, moved apart where they would overlap."""
    right = max(end[0] for end in ends)
    left = axes.get_xlim()[0]
    axes.set_xlim(left, right * (right / left) ** 0.03)
    low, high = axes.get_ylim()
    room = 0.155  # of the height, for a name in two lines
    height = math.log(high / low)
    places = sorted(((math.log(y / low) / height, text, color) for _, y, text, color in ends), reverse=True)
    at = [place for place, _, _ in places]
    for _ in range(50):
        for index in range(1, len(at)):
            if (lack := room - (at[index - 1] - at[index])) > 1e-9:
                at[index - 1] += lack / 2
                at[index] -= lack / 2
    for place, (_, text, color) in zip(at, places, strict=True):
        axes.text(1.02, place, text, transform=axes.transAxes, color=color, va="center", fontsize=6.8, linespacing=1.15)


def _ticks(axes: Axes, sizes: list[float]) -> None:
    """The measured sizes are the ticks, in words of thousands and millions."""
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes, [amount(size) for size in sizes])
    low, high = axes.get_ylim()
    marks = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for digit in ((1, 1.5, 2, 3, 5, 7) if high / low < 15 else (1, 2, 5) if high / low < 300 else (1,))
    ]
    marks = [mark for mark in marks if low <= mark <= high]
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(marks, [amount(mark) for mark in marks])
    axes.set_ylim(low, high)


def amount(value: float) -> str:
    """1,000 as 1k, 2,097,152 as 2.1M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            many = value / size
            return f"{many:.2g}{letter}" if many < 9.95 else f"{many:.0f}{letter}"
    return f"{value:g}"
