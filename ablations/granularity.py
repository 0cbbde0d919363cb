"""Filter, then reweight: what does each of FiRe-OPD's two levels do, and do they add up?"""

from dataclasses import replace

from ablations._audit import AUDIT
from harness.grid import Arm

GRID = replace(
    AUDIT,
    name="granularity",
    title="FiRe-OPD's filter and weights, together and apart",
    arms=(
        ("opd", Arm("opd", "Neither (OPD)")),
        ("fire-filter-only", Arm("fire-filter-only", "Filter")),
        ("fire-reweight-only", Arm("fire-reweight-only", "Reweight")),
        ("fire", Arm("fire", "Both (FiRe-OPD)")),
        ("fire-no-confusion", Arm("fire-no-confusion", "Both, teacher confidence alone")),
        ("fire-no-confidence", Arm("fire-no-confidence", "Both, student confusion alone")),
    ),
)
