"""The method table: one expression per published objective or control.

`METHODS[name]` is the objective, `TABLE` holds it with its paper and the sentence that says what it changes against
`opd`. To add a method, add a line; the tests run over every line of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import UserError
from trainer.filters import DropBottom, DropRandom
from trainer.losses import Divergence, PolicyGradient
from trainer.objective import Block, Objective, Scores, Term, TokenMean
from trainer.quantities import (
    Complement,
    ReverseKL,
    SoftOr,
    StudentEntropy,
    TeacherEntropy,
    UnitMax,
    UnitMinMax,
)
from trainer.scores import Scope
from trainer.weights import Boost, MeanOne, RandomMask, Shuffled, Times, TopFraction, Weight

__all__ = ["METHODS", "TABLE", "Method", "Scores", "fire_released", "fire_weight", "method"]


def fire_weight(alpha: float = 1.0, beta: float = 1.0, scope: Scope = "batch") -> Weight:
    """FiRe-OPD eq. 7 before normalising: (1 + α·teacher confidence)(1 + β·student confusion), in [1, (1+α)(1+β)].

    `scope` is the population of the two entropy maxima.
    """
    confidence = Complement(UnitMax(TeacherEntropy(), scope))
    confusion = UnitMax(StudentEntropy(), scope)
    return Times(Boost(confidence, alpha), Boost(confusion, beta))


def fire_released(percentile: float = 20.0, alpha: float = 1.0, beta: float = 1.0, micro_batch: int = 1) -> Objective:
    """The arithmetic of the released FiRe-OPD code, in which every statistic sees one micro-batch.

    Quantile, entropy maxima, weight mean and token mean run over consecutive blocks of `micro_batch` rollouts
    (`dp_actor.py`, `_compute_entropy_aware_loss`, commit 2e23cd6). At the shipped size of 1 nothing is ever dropped.

    Args:
        percentile: share of rollouts to drop, percent. alpha, beta: gains of confidence and confusion.
    """
    block = Block(micro_batch)
    return Objective(
        (Term(PolicyGradient(), MeanOne(fire_weight(alpha, beta, block), block)),),
        keep=DropBottom(percentile / 100, scope=block),
        reduce=TokenMean(block),
    )


@dataclass(frozen=True)
class Method:
    """A line of the table: the objective, where it comes from, and what it changes against `opd`."""

    name: str
    objective: Objective
    paper: str
    change: str


_OPD = "https://thinkingmachines.ai/blog/on-policy-distillation/"
_GKD = "https://arxiv.org/abs/2306.13649"
_FIRE = "https://arxiv.org/abs/2606.02684"
_TIP = "https://arxiv.org/abs/2604.14084"
_CONTROL = "control"

_SAMPLED = PolicyGradient()
_REWEIGHT = Term(_SAMPLED, MeanOne(fire_weight()))
_DISAGREE = SoftOr(UnitMinMax(StudentEntropy(), cut=98.0), UnitMinMax(ReverseKL()))

TABLE: tuple[Method, ...] = (
    Method("opd", Objective((Term(_SAMPLED),)), _OPD, "the baseline: policy gradient of log Q − log S on every sampled token"),
    Method("full-rkl", Objective((Term(Divergence(1.0)),)), _GKD, "full-vocabulary reverse KL instead of the sampled token's"),
    Method("full-fkl", Objective((Term(Divergence(0.0)),)), _GKD, "full-vocabulary forward KL instead of the sampled reverse KL"),
    Method("full-jsd", Objective((Term(Divergence(0.5)),)), _GKD, "full-vocabulary Jensen–Shannon divergence, β = 0.5"),
    Method(
        "tip", Objective((Term(Divergence(1.0), MeanOne(TopFraction(_DISAGREE, 0.5), "batch")),)), _TIP,
        "full-vocabulary reverse KL on the half of the tokens where student entropy or disagreement is high",
    ),
    Method("fire", Objective((_REWEIGHT,), DropBottom(0.2)), _FIRE, "drops the 20 % of rollouts the teacher finds least likely, reweights the rest by entropy"),
    Method("fire-filter-only", Objective((Term(_SAMPLED),), DropBottom(0.2)), _FIRE, "FiRe's trajectory filter without its weights"),
    Method("fire-reweight-only", Objective((_REWEIGHT,)), _FIRE, "FiRe's token weights without its filter"),
    Method("fire-as-released", fire_released(micro_batch=1), _FIRE, "the released code at its shipped micro-batch of 1: nothing is filtered"),
    Method("random-filter", Objective((Term(_SAMPLED),), DropRandom(0.2)), _CONTROL, "drops as many rollouts as FiRe, at random"),
    Method("random-mask", Objective((Term(_SAMPLED, MeanOne(RandomMask(0.5), "batch")),)), _CONTROL, "trains on a random half of the tokens"),
    Method("shuffled-weights", Objective((Term(_SAMPLED, MeanOne(Shuffled(fire_weight()))),)), _CONTROL, "FiRe's weights dealt out at random among the tokens"),
)  # fmt: skip

METHODS: dict[str, Objective] = {line.name: line.objective for line in TABLE}


def method(name: str) -> Objective:
    """The objective of that name.

    Raises:
        UserError: for a name that is not in the table, with the nearest ones.
    """
    if name in METHODS:
        return METHODS[name]
    from difflib import get_close_matches

    near = get_close_matches(name, METHODS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`opd methods` lists them"
    raise UserError(f"unknown method '{name}': {hint}")
