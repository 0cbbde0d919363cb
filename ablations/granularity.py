"""Filter, then reweight: what does each of FiRe-OPD's two levels do, and do they add up?"""

from dataclasses import replace

from ablations.quickstart import GRID as QUICKSTART
from harness.grid import Arm

GRID = replace(
    QUICKSTART,
    name="granularity",
    title="FiRe-OPD's filter and weights, together and apart",
    arms=(
        ("opd", Arm("opd", "Neither (OPD)")),
        ("fire-filter-only", Arm("fire-filter-only", "Filter")),
        ("fire-reweight-only", Arm("fire-reweight-only", "Reweight")),
        ("fire", Arm("fire", "Both (FiRe-OPD)")),
    ),
    seeds=(0, 1, 2, 3, 4),
)
