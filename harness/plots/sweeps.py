"""Scores and differences along an axis that a grid declares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.errors import UserError
from harness.plots.panels import key_above, label_lowest, panels
from harness.plots.style import DASHES, FIXED, GREY, MARKERS, PALETTE, Look, drawing, looks, wrapped
from harness.tables.markup import shorten
from harness.tables.standings import MACRO, comparison
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records

Value: TypeAlias = Any  # of an axis: a number, a switch or a word

WIDEST_STEP: Final = 30  # from the smallest value to the largest; beyond, the axis is logarithmic
CLOSEST: Final = 0.13  # of the axis; values that are closer stand at equal distances


@dataclass(frozen=True)
class _Series:
    """Arms that differ on the swept axis alone."""

    label: str
    method: str
    arms: dict[Value, str]


def sweep(
    records: Records, axis: str, frame: pd.DataFrame | None = None, difference: bool = False, label: str = ""
) -> tuple[Figure, pd.DataFrame]:
    """Score against the value of an axis, a panel per bench and the average, with 95 % intervals over problems.

    A line joins arms that differ on this axis alone; the baseline and arms that are on no axis at all are levels.

    Args:
        frame: the comparison frame, where it has been computed already.
        difference: draw the paired differences to the baseline.
        label: of the axis, by default its path.

    Raises:
        UserError: no two arms stand on the axis.
    """
    frame = comparison(records) if frame is None else frame
    manifest = records.manifest
    series = _series(manifest, axis)
    values = in_order({value for one in series for value in one.arms})
    if len(values) < 2:
        raise UserError(f"grid '{manifest['grid']}' has no two arms that differ on axis '{axis}': nothing to sweep")
    names = ("delta", "delta_low", "delta_high") if difference else ("value", "low", "high")
    spots, how = _places(values)
    places = dict(zip(values, spots, strict=True))
    benches = list(dict.fromkeys(frame["bench"]))
    on_axis = {arm for one in series for arm in one.arms.values()}
    levels = {
        arm: look
        for arm, look in looks(manifest).items()
        if arm == manifest["baseline"] or not manifest["arms"][arm].get("at")
    }
    style = _styles(series, levels)
    with drawing():
        figure, grid = panels(len(benches), 1.6, 0.7, sharex=True, sharey=difference)
        for axes, bench in zip(grid.flat, benches, strict=False):
            here = 100 * frame[frame["bench"] == bench].set_index("arm")[list(names)]
            for arm, look in levels.items():
                _draw_level(axes, here.loc[arm], look, arm == manifest["baseline"], difference)
            for index, (one, look) in enumerate(zip(series, style, strict=True)):
                shift = 0.02 * (index - (len(series) - 1) / 2)
                _draw_series(axes, here, {places[v] + shift: arm for v, arm in one.arms.items()}, look)
            title = str(frame.loc[frame["bench"] == bench, "bench_label"].iloc[0])
            axes.set_title(title, fontweight="bold" if bench == MACRO else "normal")
            axes.set_xticks(list(places.values()), [value_text(value) for value in places])
            axes.grid(axis="x", visible=False)
        grid.flat[0].set_xlim(-0.07, 1.07)
        label_lowest(grid, len(benches))
        figure.supxlabel((label or axis) + how, fontsize=7.5)
        what = f"difference to {label_of(manifest, manifest['baseline'])}, points" if difference else "avg@k, %"
        figure.supylabel(what, fontsize=7.5)
        key_above(figure, _sweep_key(manifest, series, style, levels, difference))
    rows = frame[frame["arm"].isin([*on_axis, *levels])]
    at = [manifest["arms"][arm].get("at", {}).get(axis) for arm in rows["arm"]]
    shown = ["arm", "label", "bench", "value", "low", "high", "delta", "delta_low", "delta_high", "p", "p_holm"]
    return figure, rows[shown].assign(axis=axis, at=at).reset_index(drop=True)


def _series(manifest: Mapping[str, Any], axis: str) -> list[_Series]:
    """The arms on an axis by method and by what else they differ in."""
    found: dict[Any, dict[Value, str]] = {}
    for arm in manifest.get("order") or manifest["arms"]:
        spec = manifest["arms"][arm]
        at = dict(spec.get("at") or {})
        if axis in at and not spec.get("reference"):
            value = at.pop(axis)
            found.setdefault((str(spec.get("method") or arm), tuple(sorted(at.items()))), {})[value] = arm
    methods = {method for method, _ in found}
    series = []
    for (method, rest), arms in found.items():
        words = [f"{path} = {value_text(value)}" for path, value in rest]
        label = ", ".join(([method] if len(methods) > 1 or not words else []) + words)
        series.append(_Series(shorten(label), method, {value: arms[value] for value in in_order(arms)}))
    return series


def in_order(values: Any) -> list[Value]:
    """Numbers by size; words and switches in the order of the grid's arms."""
    values = list(dict.fromkeys(values))
    return sorted(values) if all(is_number(value) for value in values) else sorted(values, key=str)


def is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def value_text(value: Value) -> str:
    return f"{value:g}" if is_number(value) else shorten(str(value))


def _places(values: Sequence[Value]) -> tuple[list[float], str]:
    """Where the values stand on an axis from 0 to 1, to scale if that leaves their names room, and how to say so."""
    even = [float(place) for place in np.linspace(0, 1, len(values))]
    if not all(is_number(value) for value in values):
        return even, ""
    scaled, how = np.array(values, dtype=float), ""
    if scaled.min() > 0 and scaled.max() > WIDEST_STEP * scaled.min():
        scaled, how = np.log(scaled), " (logarithmic)"
    places = (scaled - scaled[0]) / (scaled[-1] - scaled[0])
    return (even, " (not to scale)") if np.diff(places).min() < CLOSEST else ([float(p) for p in places], how)


def _styles(series: Sequence[_Series], levels: Mapping[str, Look]) -> list[Look]:
    """A look for each line: the colour of its method where that is known and free."""
    taken = {look.color for look in levels.values()}
    methods = [one.method for one in series]
    own = [FIXED.get(m, "") if methods.count(m) == 1 else "" for m in methods]
    own = [color if color not in taken else "" for color in own]
    free = [color for color in PALETTE if color not in {*taken, *own}] or list(PALETTE)
    styles = []
    for index, color in enumerate(own):
        look = color or free[sum(not one for one in own[:index]) % len(free)]
        styles.append(Look(look, MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)]))
    return styles


def _draw_level(axes: Axes, row: pd.Series, look: Look, baseline: bool, difference: bool) -> None:
    middle, low, high = (0.0, 0.0, 0.0) if baseline and difference else row.to_list()
    if math.isfinite(middle):
        axes.axhline(middle, color=look.color, ls="-" if baseline else look.dash, lw=1.0, zorder=1)
        if baseline and not difference:
            axes.axhspan(low, high, color=GREY, alpha=0.12, lw=0, zorder=0)


def _draw_series(axes: Axes, numbers: pd.DataFrame, arms: Mapping[float, str], look: Look) -> None:
    rows = {x: [float(str(value)) for value in numbers.loc[arm]] for x, arm in arms.items()}
    kept = {x: row for x, row in rows.items() if math.isfinite(row[0])}
    middle, low, high = np.array(list(kept.values())).reshape(-1, 3).T
    axes.errorbar(
        list(kept), middle, yerr=(middle - low, high - middle), color=look.color, ls=look.dash, marker=look.marker,
        ms=3.5, lw=1.1, elinewidth=0.9, capsize=2, capthick=0.9, zorder=3,
    )  # fmt: skip


def _sweep_key(
    manifest: Mapping[str, Any],
    series: Sequence[_Series],
    style: Sequence[Look],
    levels: Mapping[str, Look],
    difference: bool,
) -> list[Any]:
    key: list[Any] = []
    for arm, look in levels.items():
        baseline = arm == manifest["baseline"]
        name = label_of(manifest, arm) + (" (baseline)" if baseline else "")
        dash = "-" if baseline else look.dash
        key.append(Line2D([], [], color=look.color, ls=dash, lw=1.0, label=wrapped(name, 30)))
    for one, look in zip(series, style, strict=True):
        line: dict[str, Any] = {"color": look.color, "ls": look.dash, "marker": look.marker, "ms": 3.5, "lw": 1.1}
        key.append(Line2D([], [], **line, label=wrapped(one.label, 30)))
    if not difference:
        key.append(Patch(color=GREY, alpha=0.12, lw=0, label="95 % interval of the baseline"))
    return key
