"""The headline claims in one figure, and how claims are named for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.claims import CONTRADICTED, SUPPORTED, UNRESOLVED, UNTESTED
from harness.claims.evidence import TOY
from harness.claims.ledger import BENCHES, split_method
from harness.errors import UserError
from harness.plots.style import GREY, WIDE, drawing, wrapped
from harness.stats.spread import NORMAL
from harness.tables.markup import shorten

NAMES: Final = {
    "opd": "OPD",
    "full-rkl": "full-trace KL",
    "fire": "FiRe",
    "fire-filter-only": "FiRe filter only",
    "fire-reweight-only": "FiRe without filter",
    "fire-no-confidence": "FiRe without confidence",
    "fire-no-confusion": "FiRe without confusion",
    "fire-hard-hard": "FiRe hard/hard",
    "fire-soft-soft": "FiRe soft/soft",
    "fire-soft-hard": "FiRe soft/hard",
    "tip": "TIP",
    "tip-20": "TIP 20 %",
    "tip-entropy": "TIP by entropy",
    "eopd": "EOPD",
    "exopd": "ExOPD",
    "uni-opd": "Uni-OPD",
    "reopold": "REOPOLD",
}
# Okabe and Ito: told apart by colour-blind readers, and by their markers without any colour
LOOKS: Final = {
    SUPPORTED: ("#009E73", "o"),
    CONTRADICTED: ("#D55E00", "X"),
    UNRESOLVED: ("#0072B2", "D"),
    UNTESTED: (GREY, ""),
}


def name_of(method: str) -> str:
    """A method of the ledger for people; of the path of an edit its last part."""
    name, edits = split_method(method)
    shown = (f"{path.rpartition('.')[2]} {value}" for path, value in edits)
    return ", ".join([NAMES.get(name, name), *shown])


def what(row: Mapping[Any, Any]) -> str:
    """The two methods, and who compared them unless that is plain from the names."""
    names = f"{name_of(row['method'])} − {name_of(row['baseline'])}"
    known = row["title_short"].partition("-")[0] in names
    return names if known else f"{row['title_short']}: {names}"


def where(row: Mapping[Any, Any]) -> str:
    label = BENCHES[row["benchmark"]].label
    label += f" pass@{row['k']:.0f}" if row["metric"] == "pass@k" and math.isfinite(row["k"]) else ""
    return f"{label}, {row['setting']}" if row["setting"] else label


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """The headline claims; the paper with most of them first, else in the order of the frame."""
    rows = frame[frame["headline"]]
    often = rows.groupby("paper")["paper"].transform("size")
    return rows.loc[often.sort_values(ascending=False, kind="stable").index]


def claims_figure(frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Headline claims: the published gain with its plausible 95 % interval, beside what was measured here.

    Raises:
        UserError: no claim is marked as a headline.
    """
    rows = headline(frame).reset_index(drop=True)
    if rows.empty:
        raise UserError("no row of the ledger has headline 'yes': there is no claim to draw")
    with drawing():
        figure = Figure(figsize=(WIDE, 1.0 + 0.33 * len(rows)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
        for height, row in enumerate(rows.to_dict("records")):
            _draw_published(left, height, row)
            _draw_measured(right, height, row)
        for axes in (left, right):
            axes.axvline(0, color=GREY, lw=0.9, zorder=1)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            for height in range(1, len(rows), 2):
                axes.axhspan(height - 0.5, height + 0.5, color="#f6f6f6", lw=0, zorder=0)
        left.set_yticks(range(len(rows)), [_tick(row) for row in rows.to_dict("records")], linespacing=1.15)
        left.set_ylim(len(rows) - 0.5, -0.5)
        left.set_title("published gain", fontweight="bold")
        toys = set(rows["scale"]) - {""} == {TOY}
        right.set_title(f"measured here{' (toy world)' if toys else ''}", fontweight="bold")
        reach = max(map(abs, right.get_xlim()))
        right.set_xlim(-reach, reach)
        for axes in (left, right):
            axes.set_xlabel("difference, points")
        key = _key(rows)
        figure.legend(
            handles=key, loc="outside lower center", ncols=-(-len(key) // 2) if len(key) > 6 else 6, handlelength=1.5
        )
    shown = ["paper", "setting", "method", "baseline", "benchmark", "gain", "se_low", "se_high", "delta", "delta_low"]
    return figure, rows[[*shown, "delta_high", "p_holm", "grid", "scale", "verdict"]]


def _draw_published(axes: Axes, height: int, row: Mapping[Any, Any]) -> None:
    gain = float(row["gain"])
    for se, color, width in ((row["se_high"], "#d4d4d4", 7.0), (row["se_low"], "#a3a3a3", 7.0)):
        if math.isfinite(se):
            ends = [gain - NORMAL * se, gain + NORMAL * se]
            axes.plot(ends, [height] * 2, color=color, lw=width, solid_capstyle="butt", zorder=2)
    axes.plot([gain], [height], marker="o", ms=4.2, color="black", ls="", zorder=4)
    if not math.isfinite(row["se_high"]):
        axes.text(gain + 1.2, height, "sets or n not stated", va="center", color=GREY, fontsize=6.5)


def _draw_measured(axes: Axes, height: int, row: Mapping[Any, Any]) -> None:
    color, marker = LOOKS[row["verdict"].partition(" (")[0]]
    if not math.isfinite(row["delta"]):
        axes.text(0, height, "  not tested here", va="center", color=GREY, fontsize=6.5)
        return
    ends = [row["delta_low"], row["delta_high"]]
    axes.plot(ends, [height] * 2, color=color, lw=1.3, solid_capstyle="butt", zorder=2)
    axes.plot([row["delta"]], [height], marker=marker, ms=5.5, color=color, mec="white", mew=0.6, ls="", zorder=4)
    for one in row["delta_per_seed"] if len(row["delta_per_seed"]) > 1 else ():
        axes.plot([one], [height + 0.26], marker="|", ms=4, mew=0.9, color=color, ls="", zorder=3)


def _tick(row: Mapping[Any, Any]) -> str:
    return wrapped(shorten(what(row)), 44) + "\n" + wrapped(shorten(where(row)), 48)


def _key(rows: pd.DataFrame) -> list[Any]:
    key: list[Any] = [
        Line2D([], [], color="black", marker="o", ms=4.2, ls="", label="as published"),
        Patch(color="#a3a3a3", lw=0, label="95 %, mild assumptions"),
        Patch(color="#d4d4d4", lw=0, label="95 %, harsh assumptions"),
    ]
    for verdict in sorted(set(rows["verdict"])):
        color, marker = LOOKS[verdict.partition(" (")[0]]
        if marker:
            key.append(Line2D([], [], color=color, marker=marker, ms=5.5, mec="white", mew=0.6, lw=1.3, label=verdict))
    if rows["delta_per_seed"].map(len).max() > 1:
        key.append(Line2D([], [], color=GREY, marker="|", ms=4, mew=0.9, ls="", label="single seeds"))
    return key
