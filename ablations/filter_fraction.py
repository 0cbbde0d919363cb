"""How many rollouts should be dropped? FiRe-OPD, its filter alone, and a random filter of the same size, 0 to 60 %.

The paper reports a peak at 20 %, with 10 % below no filter at all.
"""

from dataclasses import replace

from ablations._audit import PARTS
from harness.grid import Arm, Sweep, sweep

DROPPED = (0.1, 0.2, 0.4, 0.6)

GRID = replace(
    PARTS,
    name="filter_fraction",
    title="The share of rollouts that is dropped",
    arms=(
        ("opd", Arm("opd", "OPD (nothing dropped)")),
        *sweep("fire", {"keep.fraction": (0.0, *DROPPED)}, "FiRe-OPD, drop {keep.fraction:.0%}"),
        *sweep("fire-filter-only", {"keep.fraction": DROPPED}, "Filter alone, drop {keep.fraction:.0%}"),
        *sweep("random-filter", {"keep.fraction": DROPPED}, "Random filter, drop {keep.fraction:.0%}"),
    ),
    axes=("keep.fraction",),
    figures=(Sweep("keep.fraction", "share of rollouts dropped"),),
)
