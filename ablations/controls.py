"""Does a gain come from where a method says it does? FiRe-OPD and TIP beside controls that choose without looking."""

from dataclasses import replace

from ablations._audit import PARTS
from harness.grid import Arm

GRID = replace(
    PARTS,
    name="controls",
    title="Controls of filters, weights and selections",
    arms=(
        ("opd", Arm("opd", "OPD")),
        ("fire", Arm("fire", "FiRe-OPD")),
        ("equal-tokens", Arm("equal-tokens", "A random 80 % of tokens")),
        ("matched-rate", Arm("matched-rate", "FiRe's step size alone")),
        ("fire-filter-only", Arm("fire-filter-only", "FiRe's filter")),
        ("random-filter", Arm("random-filter", "Drop at random")),
        ("drop-highest", Arm("drop-highest", "Drop the likeliest")),
        ("drop-longest", Arm("drop-longest", "Drop the longest")),
        ("length-matched-filter", Arm("length-matched-filter", "Drop others as long")),
        ("fire-reweight-only", Arm("fire-reweight-only", "FiRe's weights")),
        ("shuffled-weights", Arm("shuffled-weights", "Its weights shuffled")),
        ("tip-sampled", Arm("tip-sampled", "TIP's half of the tokens")),
        ("random-mask", Arm("random-mask", "A random half of the tokens")),
        ("first-segment", Arm("first-segment", "The first half")),
        ("last-segment", Arm("last-segment", "The last half")),
        ("random-segment", Arm("random-segment", "A half from anywhere")),
        ("fixed-negative", Arm("fixed-negative", "No teacher: unlikely tokens down")),
    ),
)
