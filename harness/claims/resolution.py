"""The power study: which published gains could be seen by the design that printed them, and with how many runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.claims import HARSH, MILD, standard_error
from harness.claims.figure import name_of, what, where
from harness.claims.ledger import BENCHES, Claim
from harness.plots.style import GREY, WIDE, drawing
from harness.stats.power import quantiles
from harness.tables.markup import Cell, Row, Table

POWER: Final = 0.8
ALPHA: Final = 0.05
RUNS: Final = (1, 3, 5, 15)
#: Where a gain stands to the least gains under the mild and under the harsh assumption, and its look.
PLACES: Final = {
    "seen": ("#009E73", "o", "seen even under harsh assumptions"),
    "depends": ("#E69F00", "D", "seen under mild ones only"),
    "not seen": (GREY, "v", "not seen under either"),
}
NAMED: Final = 4.0  # points: headline claims of this size are named in the figure


def resolution(published: Iterable[Claim]) -> pd.DataFrame:
    """Every published gain of a known design beside the least gain that the design sees, a row each; points.

    `least_mild_R`, `least_harsh_R`: the true gain that a two-sided test at 0.05 sees with 80 % power given R training
    runs per arm, under `MILD` and `HARSH`; `place_R`: where |gain| stands to the two. Gains of zero, and those whose
    number of problems is not known, are left out.
    """
    factor = quantiles(POWER, ALPHA)
    rows = []
    for claim in published:
        gain = abs(float(claim.gain))
        if not gain or math.isnan(standard_error(claim, MILD)[0]):
            continue
        row = claim.row
        found = {name: getattr(row, name) for name in ("paper", "title_short", "setting", "student", "method")}
        found |= {"baseline": claim.baseline, "benchmark": row.benchmark, "metric": row.metric}
        found |= {"headline": claim.headline, "gain": gain}
        for runs in RUNS:
            mild, harsh = (factor * standard_error(claim, assumed, runs)[0] for assumed in (MILD, HARSH))
            found |= {f"least_mild_{runs}": mild, f"least_harsh_{runs}": harsh}
            found[f"place_{runs}"] = "seen" if gain >= harsh else "depends" if gain >= mild else "not seen"
        rows.append(found)
    return pd.DataFrame(rows)


def count_table(frame: pd.DataFrame) -> Table:
    """How many of the published gains could be seen, by training runs."""
    rows = []
    for runs in RUNS:
        count = frame[f"place_{runs}"].value_counts()
        shares = (int(count.get(place, 0)) for place in PLACES)
        rows.append(Row(str(runs), tuple(Cell(f"{n} of {len(frame)}") for n in shares)))
    return Table(
        ("training runs per arm", *(said for _, _, said in PLACES.values())),
        tuple(rows),
        "Published gains whose number of problems is known: how many are at least the gain that their design sees "
        f"with {100 * POWER:.0f} % power at {ALPHA} (two-sided). Mild and harsh: SD of the true differences by problem "
        f"{MILD.spread:g} and {HARSH.spread:g} points, SD over training runs {MILD.seed_sd:g} and {HARSH.seed_sd:g}, "
        f"k {MILD.k} and {HARSH.k} where none is stated.",
    )


def headline_table(frame: pd.DataFrame) -> Table:
    """The headline gains beside what their design sees."""
    rows = []
    for row in frame[frame["headline"]].to_dict("records"):
        least = (f"{row[f'least_mild_{runs}']:.1f}–{row[f'least_harsh_{runs}']:.1f}" for runs in RUNS)
        rows.append(Row(f"{what(row)}, {where(row)}", (Cell(f"{row['gain']:.2f}"), *map(Cell, least))))
    return Table(
        ("claim", "gain", *(f"least, {runs} run{'s'[: runs > 1]}" for runs in RUNS)),
        tuple(rows),
        "Points: the size of the published gain, and the least true gain seen with that power, from mild to harsh "
        "assumptions, by training runs per arm.",
    )


def resolution_figure(frame: pd.DataFrame) -> Figure:
    """Published gains against the least gain that a single run of either arm lets their design see.

    Args:
        frame: of `resolution`.
    """
    with drawing():
        figure = Figure(figsize=(0.75 * WIDE, 3.6), layout="constrained")
        axes = figure.subplots()
        ends = np.array([0.08, 48.0])
        axes.plot(ends, ends, color="#444444", linewidth=0.8, zorder=1)
        for row in frame.sort_values("headline").to_dict("records"):
            color, marker, _ = PLACES[row["place_1"]]
            low, high = row["least_mild_1"], row["least_harsh_1"]
            strong = bool(row["headline"])
            axes.plot([low, high], [row["gain"]] * 2, color=color, linewidth=1.4 if strong else 0.5, alpha=0.8)
            axes.plot(
                math.sqrt(low * high),
                row["gain"],
                marker,
                color=color,
                markersize=5.5 if strong else 2.8,
                markeredgecolor="black" if strong else color,
                markeredgewidth=0.7 if strong else 0.0,
                zorder=3,
            )
            if strong and row["gain"] >= NAMED:
                said = f"{name_of(row['method'])}, {BENCHES[row['benchmark']].label}"
                axes.text(low * 0.97, row["gain"], said, ha="right", va="center", fontsize=6)
        axes.text(22, 30, "seen", ha="right", fontsize=7, color="#444444")
        axes.text(28, 20, "not seen", fontsize=7, color="#444444")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1.2, 48)
        axes.set_ylim(0.08, 48)
        for axis, ticks in ((axes.xaxis, (2, 5, 10, 20, 40)), (axes.yaxis, (0.1, 0.3, 1, 3, 10, 30))):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_ticks([], minor=True)
        axes.set_xlabel("least true gain seen with 80 % power by one run per arm, points")
        axes.set_ylabel("published gain, points")
        handles = [
            Line2D([], [], color=color, marker=marker, ls="", label=f"{said}: {(frame['place_1'] == place).sum()}")
            for place, (color, marker, said) in PLACES.items()
        ]
        handles.append(Line2D([], [], color="white", marker="o", mec="black", ls="", ms=5.5, label="headline claims"))
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure
