"""Token quantities: pure functions `Scores → [B,T]`, and the combinators that make new ones of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from trainer.errors import check_fraction
from trainer.late import Tensor, torch
from trainer.scores import Scope, Scores, per_segment, segments, token_extreme

Quantity = Callable[[Scores], Tensor]


@dataclass(frozen=True)
class StudentEntropy:
    """H of the student's next-token distribution, nats, full vocabulary."""

    reads: ClassVar[frozenset[str]] = frozenset({"student_entropy"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("student_entropy")


@dataclass(frozen=True)
class TeacherEntropy:
    """H of the teacher's next-token distribution, nats, full vocabulary."""

    reads: ClassVar[frozenset[str]] = frozenset({"teacher_entropy"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("teacher_entropy")


@dataclass(frozen=True)
class TeacherLogprob:
    """log Q(y_t), nats."""

    def __call__(self, scores: Scores) -> Tensor:
        return scores.teacher_logprobs


@dataclass(frozen=True)
class StudentLogprob:
    """log S(y_t), nats."""

    def __call__(self, scores: Scores) -> Tensor:
        return scores.logprobs


@dataclass(frozen=True)
class LogRatio:
    """log Q(y_t) − log S(y_t), nats: the sampled-token reverse-KL reward of on-policy distillation."""

    def __call__(self, scores: Scores) -> Tensor:
        return scores.teacher_logprobs - scores.logprobs


@dataclass(frozen=True)
class ReverseKL:
    """KL(S || Q) of the next-token distributions, nats, full vocabulary: the disagreement axis of TIP."""

    reads: ClassVar[frozenset[str]] = frozenset({"reverse_kl"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("reverse_kl")


@dataclass(frozen=True)
class ForwardKL:
    """KL(Q || S) of the next-token distributions, nats, full vocabulary."""

    reads: ClassVar[frozenset[str]] = frozenset({"forward_kl"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("forward_kl")


@dataclass(frozen=True)
class TeacherRank:
    """Rank (1 is best) that the teacher gives to the student's most likely token."""

    reads: ClassVar[frozenset[str]] = frozenset({"teacher_rank"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("teacher_rank")


@dataclass(frozen=True)
class TeacherMass:
    """Teacher's probability of the student's 16 most likely tokens together, in [0,1]."""

    reads: ClassVar[frozenset[str]] = frozenset({"teacher_mass"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("teacher_mass")


@dataclass(frozen=True)
class Position:
    """Relative position in the response: 0 at its first token, 1 at its last."""

    def __call__(self, scores: Scores) -> Tensor:
        rank = (scores.mask.cumsum(1) - 1).to(scores.logprobs.dtype)
        return (rank / (scores.lengths[:, None] - 1).clamp(min=1)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Negative:
    """−`of`: turns "the largest" into "the smallest"."""

    of: Quantity

    def __call__(self, scores: Scores) -> Tensor:
        return -self.of(scores)


@dataclass(frozen=True)
class Product:
    """a · b."""

    a: Quantity
    b: Quantity

    def __call__(self, scores: Scores) -> Tensor:
        return self.a(scores) * self.b(scores)


@dataclass(frozen=True)
class UnitRobust:
    """`of` moved so that its `low` and `high` percentiles over `scope` become 0 and 1, clipped to [0,1]."""

    of: Quantity
    scope: Scope = "batch"
    low: float = 5.0
    high: float = 95.0

    def __post_init__(self) -> None:
        check_fraction("the low of UnitRobust, a percentile,", self.low, 100.0)
        check_fraction("the high of UnitRobust, a percentile,", self.high, 100.0)

    def __call__(self, scores: Scores) -> Tensor:
        values = self.of(scores)
        unit = torch.zeros_like(values)

        def scale(where: Tensor) -> None:
            inside = values[where]
            bottom, top = quantile(inside, self.low / 100), quantile(inside, self.high / 100)
            span = top - bottom
            unit[where] = ((inside - bottom) / span).clamp(0.0, 1.0) if span > 0 else torch.zeros_like(inside)

        per_segment(segments(scores, self.scope), scores.mask, scale)
        return unit


@dataclass(frozen=True)
class UnitMax:
    """`of` divided by its maximum over `scope`, clipped to [0,1] (FiRe-OPD eq. 5, 6).

    `floor` guards the maximum, 1e-6 in the released code.
    """

    of: Quantity
    scope: Scope = "batch"
    floor: float = 1e-6

    def __call__(self, scores: Scores) -> Tensor:
        values = self.of(scores)
        top = token_extreme(values, scores, self.scope, "amax").clamp(min=self.floor)
        return (values / top[:, None]).clamp(0.0, 1.0)


@dataclass(frozen=True)
class UnitMinMax:
    """`of` moved to [0,1] by its minimum and maximum over `scope`, after a cut at the `cut` percentile (TIP).

    A population whose values are all equal becomes 0.
    """

    of: Quantity
    scope: Scope = "batch"
    cut: float = 100.0

    def __post_init__(self) -> None:
        check_fraction("the cut of UnitMinMax, a percentile,", self.cut, 100.0)

    def __call__(self, scores: Scores) -> Tensor:
        values = self.of(scores)
        if self.cut < 100.0:
            values = values.clone()

            def clip(where: Tensor) -> None:
                values[where] = values[where].clamp(max=float(quantile(values[where], self.cut / 100)))

            per_segment(segments(scores, self.scope), scores.mask, clip)
        low = token_extreme(values, scores, self.scope, "amin")[:, None]
        high = token_extreme(values, scores, self.scope, "amax")[:, None]
        span = high - low
        return torch.where(span > 0, (values - low) / torch.where(span > 0, span, 1.0), 0.0)


@dataclass(frozen=True)
class Complement:
    """1 − `of`."""

    of: Quantity

    def __call__(self, scores: Scores) -> Tensor:
        return 1.0 - self.of(scores)


@dataclass(frozen=True)
class SoftOr:
    """a + b − a·b: high where either is high (TIP)."""

    a: Quantity
    b: Quantity

    def __call__(self, scores: Scores) -> Tensor:
        # In this form one input at exactly 1 gives exactly 1. A maximum of either kind is such a tie by construction,
        # and rounding must not be what breaks it.
        return 1.0 - (1.0 - self.a(scores)) * (1.0 - self.b(scores))


def quantile(values: Tensor, q: float) -> Tensor:
    """The `q` quantile of a flat tensor by linear interpolation, like `torch.quantile` but of any size."""
    ordered = values.flatten().sort().values
    # The position in float32, as torch.quantile has it: near a tie the released code's choice depends on it.
    position = torch.tensor(q, dtype=torch.float32) * (len(ordered) - 1)
    below = int(position.floor())
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], (position - below).to(ordered))
