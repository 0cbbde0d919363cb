"""The method table: one expression per published objective or control.

`METHODS[name]` is the objective, `TABLE` holds it with its paper and the sentence that says what it changes against
`opd`. To add a method, add a line; the tests run over every line of the table. Where sources dispute a constant both
readings are named values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches

from trainer.errors import UserError
from trainer.filters import (
    CompletedOnly,
    CorrectOnly,
    DropBottom,
    DropLengthMatched,
    DropRandom,
    DropTop,
    FailureOnly,
    Filter,
    KeepAll,
    TrajectoryLength,
    TrajectoryMean,
)
from trainer.losses import Divergence, Loss, PolicyGradient, SkewKL, SquaredLogRatio, TopK
from trainer.objective import Block, Objective, Reduction, Scores, SequenceMean, Term, TokenMean
from trainer.quantities import (
    Complement,
    LogRatio,
    Negative,
    Position,
    Product,
    Quantity,
    ReverseKL,
    SoftOr,
    StudentEntropy,
    StudentLogprob,
    TeacherEntropy,
    TeacherMass,
    TeacherRank,
    UnitMax,
    UnitMinMax,
    UnitRobust,
)
from trainer.rewards import (
    Clamped,
    Constant,
    Extrapolated,
    Floored,
    MarginShift,
    OddsMinusOne,
    Plus,
    Power,
    SoftLog,
    VerifierAdvantage,
)
from trainer.scores import Scope
from trainer.weights import (
    Boost,
    Flat,
    Leaky,
    MeanOne,
    RandomMask,
    SampleFraction,
    Segment,
    Shuffled,
    Switch,
    Threshold,
    Times,
    TopFraction,
    TrajectorySoftmax,
    Uniform,
    Weight,
)

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


def reopold(floor: float, fraction: float = 0.2, switch: float = 1 / 3) -> Objective:
    """REOPOLD: reward floored; tokens at or above the floor first, the highest student entropies after `switch`.

    Sources dispute floor and constants: log(λ/(1−λ)) (most readers) or log(λ)/(1−λ); λ = 0.3, 0.1 or 0.2; the
    selected fraction 0.2 or 0.5; the switch at a third or half of the run.
    """
    likely = Threshold(LogRatio(), floor)
    uncertain = TopFraction(StudentEntropy(), fraction)
    reward = Floored(LogRatio(), floor)
    return Objective((Term(PolicyGradient(reward, clip=None), MeanOne(Switch(likely, uncertain, switch), "batch")),))


def log_odds(share: float) -> float:
    """log(λ/(1−λ)), nats."""
    return math.log(share / (1.0 - share))


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
_EOPD = "https://arxiv.org/abs/2603.07079"
_REOPOLD = "https://arxiv.org/abs/2603.11137"
_EXOPD = "https://arxiv.org/abs/2602.12125"
_UNI = "https://arxiv.org/abs/2605.03677"
_SCOPE = "https://arxiv.org/abs/2604.10688"
_RETHINK = "https://arxiv.org/abs/2604.13016"
_LSM = "https://github.com/hhh675597/revisiting_opd"
_SELECT = "https://arxiv.org/abs/2510.24021"
_TA = "https://arxiv.org/abs/2605.26844"
_SKEW = "https://arxiv.org/abs/2402.03898"
_KDRL = "https://arxiv.org/abs/2506.02208"
_KL = "http://joschu.net/blog/kl-approx.html"
_2080 = "https://arxiv.org/abs/2506.01939"
_PW = "https://arxiv.org/abs/2605.21606"
_CONTROL = "control"

_SAMPLED = PolicyGradient()
_RKL = Divergence(1.0)
_DISAGREE = SoftOr(UnitMinMax(StudentEntropy(), cut=98.0), UnitMinMax(ReverseKL()))
_TEACHABLE = Product(UnitRobust(ReverseKL()), TeacherMass())


def _sampled(
    weight: Weight = Uniform(),  # noqa: B008
    keep: Filter = KeepAll(),  # noqa: B008
    reduce: Reduction = TokenMean(),  # noqa: B008
) -> Objective:
    """`opd` with another token weight, filter or reduction."""
    return Objective((Term(_SAMPLED, weight),), keep, reduce)


def _reward(reward: Quantity, clip: float | None = 0.2) -> Objective:
    return Objective((Term(PolicyGradient(reward, clip)),))


def _direct(loss: Loss, weight: Weight = Uniform()) -> Objective:  # noqa: B008
    return Objective((Term(loss, weight),))


def _selected(weight: Weight) -> Weight:
    """A hard selection as a weight of mean one: the loss is then the mean over the selected tokens."""
    return MeanOne(weight, "batch")


TABLE: tuple[Method, ...] = (
    # sampled token
    Method("opd", _sampled(), _OPD, "the baseline: policy gradient of log Q − log S on every sampled token"),
    Method("opd-sequence-mean", _sampled(reduce=SequenceMean()), _OPD, "every rollout counts the same, however long"),
    Method("k2", _direct(SquaredLogRatio()), _KL, "½(log S − log Q)² differentiated directly; its gradient is opd's while each batch is used once"),
    Method("k3", _reward(OddsMinusOne()), _KL, "gradient of the k3 estimator, reward Q/S − 1: forward KL in expectation"),
    # whole distributions
    Method("full-rkl", _direct(_RKL), _GKD, "full-vocabulary reverse KL instead of the sampled token's"),
    Method("full-fkl", _direct(Divergence(0.0)), _GKD, "full-vocabulary forward KL instead of the sampled reverse KL"),
    Method("full-jsd", _direct(Divergence(0.5)), _GKD, "full-vocabulary Jensen–Shannon divergence, β = 0.5"),
    Method("skew-kl", _direct(SkewKL(0.1)), _SKEW, "reverse KL to the teacher mixed with 10 % of the student"),
    Method("skew-fkl", _direct(SkewKL(0.1, "forward")), _SKEW, "forward KL to the student mixed with 10 % of the teacher"),
    Method("topk-rkl", _direct(Divergence(1.0, TopK(16, "student", "renormalise"))), _RETHINK, "reverse KL on the student's top 16, both renormalised"),
    Method("lsm", _direct(Divergence(1.0, TopK(16, "teacher", "renormalise"))), _LSM, "reverse KL on the teacher's top 16, both renormalised, differentiated directly (the release uses it as an advantage)"),
    Method("topk-rkl-tail", _direct(Divergence(1.0, TopK(16, "teacher", "bucket"))), _GKD, "reverse KL on the teacher's top 16 and one bucket for the rest"),
    Method("topk-fkl", _direct(Divergence(0.0, TopK(16, "teacher", "drop"))), _EOPD, "forward KL on the teacher's top 16, the rest left out"),
    Method("topk-fkl-tail", _direct(Divergence(0.0, TopK(16, "teacher", "bucket"))), _GKD, "forward KL on the teacher's top 16 and one bucket for the rest"),
    # entropy gates
    Method("eopd", Objective((Term(_SAMPLED), Term(Divergence(0.0, TopK(16, "teacher", "drop")), Threshold(TeacherEntropy(), 0.8)))), _EOPD, "adds forward KL on the teacher's top 16 where its entropy is at least 0.8 nats"),
    # hard token selection
    Method("tip", _direct(_RKL, _selected(TopFraction(_DISAGREE, 0.5))), _TIP, "full-vocabulary reverse KL on the half of the tokens where student entropy or disagreement is high"),
    Method("tip-20", _direct(_RKL, _selected(TopFraction(_DISAGREE, 0.2))), _TIP, "as tip, on a fifth of the tokens"),
    Method("tip-entropy", _direct(_RKL, _selected(SampleFraction(StudentEntropy(), 0.5))), _TIP, "as tip, the half drawn with probability proportional to student entropy"),
    Method("tip-sampled", _sampled(_selected(TopFraction(_DISAGREE, 0.5))), _TIP, "tip's selection under the sampled-token gradient"),
    Method("entropy-20", _sampled(_selected(TopFraction(StudentEntropy(), 0.2))), _2080, "only the fifth of the tokens with the highest student entropy"),
    Method("selectkd", _sampled(_selected(Leaky(Threshold(Negative(TeacherRank()), -5.0), 0.01))), _SELECT, "weight 0.01 where the student's favourite is outside the teacher's top 5"),
    Method("teachability", _direct(_RKL, _selected(TopFraction(_TEACHABLE, 0.05))), _TA, "reverse KL on the 5 % of tokens with high divergence on ground the teacher shares"),
    Method("position", _sampled(_selected(Boost(Complement(Position()), 1.0))), _PW, "early tokens weigh up to twice as much as late ones"),
    Method("first-segment", _sampled(_selected(Segment(0.5, 0.0))), _PW, "only the first half of each response"),
    Method("last-segment", _sampled(_selected(Segment(0.5, 1.0))), _PW, "only the last half of each response"),
    # shaped rewards
    Method("reopold", reopold(log_odds(0.3)), _REOPOLD, "reward floored at log(0.3/0.7); likely tokens first, the top fifth by student entropy after a third"),
    Method("reopold-scaled-floor", reopold(math.log(0.3) / 0.7), _REOPOLD, "the other reading of the floor: log(0.3)/0.7"),
    Method("reopold-10", reopold(log_odds(0.1), 0.2, 0.5), _REOPOLD, "λ = 0.1, switch at half of the run"),
    Method("reopold-20", reopold(log_odds(0.2), 0.5, 0.5), _REOPOLD, "λ = 0.2, half of the tokens, switch at half of the run"),
    Method("exopd", _reward(Extrapolated(1.25)), _EXOPD, "reward extrapolated past the teacher, away from a reference model, λ = 1.25"),
    Method("exopd-150", _reward(Extrapolated(1.5)), _EXOPD, "as exopd with λ = 1.5, reported as unstable"),
    Method("uni-opd", Objective((Term(PolicyGradient(MarginShift(Clamped(LogRatio(), 10.0), 0.4), 0.2, 0.28)),)), _UNI, "shifts rewards so that correct rollouts of a prompt lead wrong ones by 0.4"),
    Method("uni-opd-default", Objective((Term(PolicyGradient(MarginShift(Clamped(LogRatio(), 10.0), 0.0, scope="batch"), 0.2, 0.28)),)), _UNI, "the code's defaults: margin 0, one population for the whole batch"),
    Method("hard-clip", _reward(Clamped(LogRatio(), 1.0)), _CONTROL, "reward cut to ±1"),
    Method("soft-log", _reward(SoftLog()), _CONTROL, "reward compressed to sign(r)·log(1 + |r|)"),
    Method("power", _reward(Power(exponent=0.5)), _CONTROL, "reward compressed to sign(r)·√|r|"),
    # verifiers
    Method("correct-only", _sampled(keep=CorrectOnly()), _CONTROL, "only rollouts that the verifier calls correct"),
    Method("failure-only", _sampled(keep=FailureOnly()), _CONTROL, "only rollouts that the verifier calls wrong"),
    Method("completed-only", _sampled(keep=CompletedOnly()), _CONTROL, "only rollouts that ended by themselves"),
    Method("kdrl", _reward(Plus(LogRatio(), VerifierAdvantage())), _KDRL, "adds the verifier's group-centred reward"),
    Method("scope-routing", Objective((
        Term(PolicyGradient(Constant()), TrajectorySoftmax(TrajectoryMean(Negative(StudentLogprob())), scope="group", members=CorrectOnly())),
        Term(_SAMPLED, TrajectorySoftmax(TrajectoryMean(), scope="group", members=FailureOnly())))), _SCOPE,
        "likelihood on correct rollouts, weighted to the student's unlikely ones; opd on wrong ones, weighted to the teacher's likely ones"),
    Method("scope-routing-as-released", Objective((
        Term(PolicyGradient(Constant()), TrajectorySoftmax(TrajectoryMean(StudentLogprob()), scope="group", members=CorrectOnly())),
        Term(_SAMPLED, TrajectorySoftmax(TrajectoryMean(), scope="group", members=FailureOnly())))), _SCOPE,
        "the shipped signs: correct rollouts weighted to the student's *likely* ones"),
    # FiRe-OPD and its parts
    Method("fire", _sampled(MeanOne(fire_weight()), DropBottom(0.2)), _FIRE, "drops the 20 % of rollouts the teacher finds least likely, reweights the rest by entropy"),
    Method("fire-filter-only", _sampled(keep=DropBottom(0.2)), _FIRE, "FiRe's trajectory filter without its weights"),
    Method("fire-reweight-only", _sampled(MeanOne(fire_weight())), _FIRE, "FiRe's token weights without its filter"),
    Method("fire-no-confidence", _sampled(MeanOne(fire_weight(alpha=0.0)), DropBottom(0.2)), _FIRE, "FiRe without the teacher-confidence factor"),
    Method("fire-no-confusion", _sampled(MeanOne(fire_weight(beta=0.0)), DropBottom(0.2)), _FIRE, "FiRe without the student-confusion factor"),
    Method("fire-hard-hard", _sampled(MeanOne(TopFraction(fire_weight(), 0.5, "trajectory")), DropBottom(0.2)), _FIRE, "hard at both levels: the half of each rollout's tokens with the largest FiRe weight"),
    Method("fire-soft-soft", _sampled(Times(MeanOne(fire_weight()), TrajectorySoftmax(TrajectoryMean()))), _FIRE, "soft at both levels: rollouts weighted by a softmax of their scores"),
    Method("fire-soft-hard", _sampled(Times(MeanOne(TopFraction(fire_weight(), 0.5, "trajectory")), TrajectorySoftmax(TrajectoryMean()))), _FIRE, "soft on rollouts, hard on tokens"),
    Method("fire-as-released", fire_released(micro_batch=1), _FIRE, "the released code at its shipped micro-batch of 1: nothing is filtered"),
    Method("fire-as-released-2", fire_released(micro_batch=2), _FIRE, "the released code at micro-batch 2: half of the rollouts is dropped"),
    Method("fire-unnormalised", _sampled(fire_weight(), DropBottom(0.2)), _FIRE, "the shipped backup file: weights in [1, 4] without their mean, a larger step"),
    Method("fire-batch-normalised", _sampled(MeanOne(fire_weight(), "batch"), DropBottom(0.2)), _FIRE, "the minority reading of eq. 8: weight mean over the batch"),
    Method("fire-per-domain", _sampled(MeanOne(fire_weight(scope="domain")), DropBottom(0.2, scope="domain")), _FIRE, "quantile and maxima per domain, for several teachers"),
    Method("fire-full", _direct(_RKL, MeanOne(fire_weight())), _FIRE, "FiRe's weights under full-vocabulary reverse KL"),
    # controls
    Method("random-filter", _sampled(keep=DropRandom(0.2)), _CONTROL, "drops as many rollouts as FiRe, at random"),
    Method("drop-highest", _sampled(keep=DropTop(0.2)), _CONTROL, "drops the 20 % of rollouts the teacher finds most likely"),
    Method("drop-longest", _sampled(keep=DropBottom(0.2, TrajectoryLength())), _CONTROL, "drops the longest 20 % of rollouts"),
    Method("length-matched-filter", _sampled(keep=DropLengthMatched(DropBottom(0.2))), _CONTROL, "drops, for each rollout FiRe drops, another one of its length"),
    Method("random-mask", _sampled(_selected(RandomMask(0.5))), _CONTROL, "trains on a random half of the tokens"),
    Method("equal-tokens", _sampled(_selected(RandomMask(0.8))), _CONTROL, "a random 80 % of the tokens: what FiRe keeps, without choosing"),
    Method("random-segment", _sampled(_selected(Segment(0.5, None))), _CONTROL, "a random half of each response in one piece"),
    Method("shuffled-weights", _sampled(MeanOne(Shuffled(fire_weight()))), _CONTROL, "FiRe's weights dealt out at random among the tokens"),
    Method("matched-rate", _sampled(Flat(fire_weight())), _CONTROL, "every token has FiRe's mean unnormalised weight: its step size alone"),
    Method("fixed-negative", _direct(PolicyGradient(Constant(-1.0)), _selected(TopFraction(Negative(StudentLogprob()), 0.2))), "https://arxiv.org/abs/2608.31046", "no teacher: one negative reward on the fifth of the tokens the student found least likely"),
    Method("sft-on-teacher", Objective((Term(PolicyGradient(Constant(), clip=None)),), sampler="teacher"), _GKD, "off-policy: likelihood of the teacher's own rollouts"),
)  # fmt: skip

METHODS: dict[str, Objective] = {line.name: line.objective for line in TABLE}


def method(name: str) -> Objective:
    """The objective of that name.

    Raises:
        UserError: for a name that is not in the table, with the nearest ones.
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, METHODS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`opd methods` lists them"
    raise UserError(f"unknown method '{name}': {hint}")
