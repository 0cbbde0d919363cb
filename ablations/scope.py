"""What do micro-batch statistics do to FiRe-OPD? The released arithmetic, every statistic over 1 to 64 rollouts.

The released code takes quantile, entropy maxima, weight mean and token mean over one micro-batch; the scripts set its
size to 1, where nothing is dropped, and at 2 half of the rollouts are. 64 is this grid's whole batch. `fire` is the
paper's reading: batch statistics, weights normalised per rollout.
"""

from dataclasses import replace

from ablations._audit import PARTS
from harness.grid import Arm, Sweep

SCOPES = (
    "keep.scope",
    "reduce.scope",
    "terms.0.weight.scope",
    "terms.0.weight.of.a.of.of.scope",
    "terms.0.weight.of.b.of.scope",
)


def block(rows: int) -> Arm:
    """The released arithmetic at a micro-batch of `rows`; of all 64, the batch."""
    scope = "batch" if rows == 64 else f"block:{rows}"
    edits = tuple((path, scope) for path in SCOPES)
    return Arm("fire-as-released", f"Statistics over {rows}", edits, at=(("rollouts", rows),))


GRID = replace(
    PARTS,
    name="scope",
    title="FiRe-OPD's statistics over micro-batches",
    arms=(
        ("opd", Arm("opd", "OPD")),
        *((f"block-{rows}", block(rows)) for rows in (1, 2, 4, 8, 64)),
        ("fire", Arm("fire", "FiRe-OPD as in the paper")),
        ("fire-reweight-only", Arm("fire-reweight-only", "Without its filter")),
    ),
    axes=("rollouts",),
    figures=(Sweep("rollouts", "rollouts that share statistics"),),
)
