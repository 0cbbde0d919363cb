"""Which part of FiRe-OPD's weight matters? Its two gains over a plane, its normaliser, and hard or soft at both levels.

alpha is the gain of the teacher's confidence, beta that of the student's confusion; at 0, 0 the filter alone is left.
`matched-rate` gives every token the mean unnormalised weight: the step size without the weighting.
"""

from dataclasses import replace

from ablations._audit import PARTS
from harness.grid import Arm, HeatMap, sweep

GAINS = (0.0, 1.0, 4.0)

GRID = replace(
    PARTS,
    name="weight_form",
    title="The form of FiRe-OPD's token weight",
    arms=(
        ("opd", Arm("opd", "OPD")),
        *sweep(
            "fire",
            {"alpha": GAINS, "beta": GAINS},
            "FiRe-OPD, α = {alpha:g}, β = {beta:g}",
            paths={"alpha": ["terms.0.weight.of.a.gain"], "beta": ["terms.0.weight.of.b.gain"]},
        ),
        ("fire-batch-normalised", Arm("fire-batch-normalised", "Weight mean over the batch")),
        ("fire-unnormalised", Arm("fire-unnormalised", "Weights not normalised")),
        ("matched-rate", Arm("matched-rate", "Their mean on every token")),
        ("fire-hard-hard", Arm("fire-hard-hard", "Rollouts hard, tokens hard")),
        ("fire-soft-hard", Arm("fire-soft-hard", "Rollouts soft, tokens hard")),
        ("fire-soft-soft", Arm("fire-soft-soft", "Rollouts soft, tokens soft")),
    ),
    axes=("alpha", "beta"),
    figures=(HeatMap("alpha", "beta", "α, gain of teacher confidence", "β, gain of student confusion"),),
)
