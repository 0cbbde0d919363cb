"""Small multiples and their keys, alike in every figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from harness.plots.style import WIDE, Look, wrapped
from harness.tables.trajectories import label_of

ROOM_FOR_KEY = 9  # entries that fit into a free panel
REFERENCE_DASHES: tuple[Any, ...] = (":", "-.", (0, (6, 2)), (0, (1, 3)))


def panels(count: int, height: float, extra: float, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure of `count` panels, up to three side by side, and its grid of axes; those left over are off.

    Args:
        height: of a row of panels, in inches; `extra` is for what stands above and below them.
        options: for `Figure.subplots`.
    """
    columns = 2 if count == 4 else min(3, count)  # four panels fill two rows of two
    rows = -(-count // columns)
    width = WIDE if columns > 1 else WIDE * 0.6
    figure = Figure(figsize=(width, extra + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, grid


def label_lowest(grid: NDArray[Any], count: int) -> None:
    """Tick labels below the lowest panel of every column, of which the last row may hold fewer."""
    columns = grid.shape[1]
    for index, axes in enumerate(grid.flat):
        axes.xaxis.set_tick_params(labelbottom=index + columns >= count)


def arm_lines(manifest: Mapping[str, Any], arms: Mapping[str, Look], width: int = 24) -> list[Line2D]:
    """Entries of a key, one for each arm."""
    lines = []
    for arm, look in arms.items():
        label = wrapped(label_of(manifest, arm), width)
        lines.append(Line2D([], [], color=look.color, ls=look.dash, marker=look.marker, lw=1.0, label=label))
    return lines


def key_in(figure: Figure, axes: Axes, handles: list[Any]) -> None:
    """The key in a free panel, or above the figure, which then grows, where it is too long."""
    axes.set_axis_off()
    if len(handles) <= ROOM_FOR_KEY:
        key = axes.legend(handles=handles, loc="center left", bbox_to_anchor=(-0.15, 0.5), handlelength=2.6)
        key.set_in_layout(False)  # it may reach into the margin, but not squeeze the panels
    else:
        key_above(figure, handles, 4)


def key_above(figure: Figure, handles: list[Any], most: int = 5) -> None:
    """The key above the panels, in as many columns as fit; a long one makes the figure higher."""
    columns = key_columns(handles, figure.get_figwidth(), most)
    lines = -(-len(handles) // columns) * (1 + any("\n" in str(handle.get_label()) for handle in handles))
    figure.set_figheight(figure.get_figheight() + 0.14 * (lines - 1))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6)


def key_columns(handles: Sequence[Any], width: float, most: int = 5) -> int:
    """The most columns of a key that are no wider than `width` inches together."""
    labels = [str(handle.get_label()) for handle in handles]
    widths = [0.75 + 0.053 * max(map(len, label.split("\n"))) for label in labels]  # line and gap, a character
    for columns in range(min(most, len(handles)), 1, -1):
        # entries run down one column after another, the first columns being the longer
        parts = [part for part in np.array_split(np.array(widths), columns) if len(part)]
        if sum(float(part.max()) for part in parts) <= width:
            return columns
    return 1
