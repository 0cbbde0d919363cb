"""Rewards of sampled tokens for the policy gradient: quantities `Scores → [B,T]` built around log Q − log S, nats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from trainer.late import Tensor, torch
from trainer.quantities import LogRatio, Quantity
from trainer.scores import Scope, Scores, segment_sum, segments

__all__ = [
    "Clamped",
    "Constant",
    "Extrapolated",
    "Floored",
    "LogRatio",
    "MarginShift",
    "OddsMinusOne",
    "Plus",
    "Power",
    "Scaled",
    "SoftLog",
    "VerifierAdvantage",
]


@dataclass(frozen=True)
class Constant:
    """The same reward on every token: 1 makes the policy gradient maximum likelihood on the sampled tokens."""

    value: float = 1.0

    def __call__(self, scores: Scores) -> Tensor:
        return torch.full_like(scores.logprobs, self.value)


@dataclass(frozen=True)
class Scaled:
    """factor · `of`."""

    of: Quantity
    factor: float

    def __call__(self, scores: Scores) -> Tensor:
        return self.factor * self.of(scores)


@dataclass(frozen=True)
class Plus:
    """a + b."""

    a: Quantity
    b: Quantity

    def __call__(self, scores: Scores) -> Tensor:
        return self.a(scores) + self.b(scores)


@dataclass(frozen=True)
class Floored:
    """max(`of`, floor): bounds the punishment of a token that the teacher finds unlikely (REOPOLD)."""

    of: Quantity
    floor: float

    def __call__(self, scores: Scores) -> Tensor:
        return self.of(scores).clamp(min=self.floor)


@dataclass(frozen=True)
class Clamped:
    """`of` cut to [−limit, limit]."""

    of: Quantity
    limit: float

    def __call__(self, scores: Scores) -> Tensor:
        return self.of(scores).clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class SoftLog:
    """sign(r) · log(1 + |r|): compresses large rewards smoothly, keeps the slope 1 at zero."""

    of: Quantity = LogRatio()

    def __call__(self, scores: Scores) -> Tensor:
        reward = self.of(scores)
        return reward.sign() * reward.abs().log1p()


@dataclass(frozen=True)
class Power:
    """sign(r) · |r|^exponent."""

    of: Quantity = LogRatio()
    exponent: float = 0.5

    def __call__(self, scores: Scores) -> Tensor:
        reward = self.of(scores)
        return reward.sign() * reward.abs() ** self.exponent


@dataclass(frozen=True)
class OddsMinusOne:
    """Q/S − 1: the reward whose policy gradient is that of the k3 estimator, Q/S − 1 − log(Q/S).

    Its expectation under S is the gradient of forward KL(Q ‖ S). The log-ratio is cut at `limit` before the
    exponential, which would otherwise overflow on a token the student found nearly impossible.
    """

    limit: float = 10.0

    def __call__(self, scores: Scores) -> Tensor:
        return (scores.teacher_logprobs - scores.logprobs).clamp(max=self.limit).expm1()


@dataclass(frozen=True)
class Extrapolated:
    """λ·log Q + (1 − λ)·log P_ref − log S: goes past the teacher, away from a reference model (ExOPD, 2602.12125).

    λ = 1 is plain on-policy distillation.
    """

    strength: float = 1.25

    reads: ClassVar[frozenset[str]] = frozenset({"ref_logprobs"})

    def __call__(self, scores: Scores) -> Tensor:
        target = self.strength * scores.teacher_logprobs + (1.0 - self.strength) * scores.read("ref_logprobs")
        return target - scores.logprobs


@dataclass(frozen=True)
class MarginShift:
    """`of` shifted per trajectory so that correct rollouts of a prompt lead incorrect ones by `margin` (Uni-OPD).

    With G the mean reward of a trajectory and gap = mean G of the correct − mean G of the incorrect, the shift is
    margin − gap: half upward on the correct, half downward on the incorrect ("both"), or all of it upward on the
    correct ("correct"). Populations that are all correct or all wrong are left alone.
    """

    of: Quantity = LogRatio()
    margin: float = 0.4
    direction: Literal["both", "correct"] = "both"
    scope: Scope = "group"

    reads: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, scores: Scores) -> Tensor:
        reward = self.of(scores)
        present = scores.lengths > 0
        right = scores.read("correct") & present
        wrong = ~scores.read("correct") & present
        mean = torch.where(scores.mask, reward, 0.0).sum(1) / scores.lengths.clamp(min=1)
        ids = segments(scores, self.scope)
        n_right, n_wrong = (segment_sum(side.float(), ids) for side in (right, wrong))
        lead_right, lead_wrong = (segment_sum(torch.where(side, mean, 0.0), ids) for side in (right, wrong))
        mixed = (n_right > 0) & (n_wrong > 0)
        gap = lead_right / n_right.clamp(min=1) - lead_wrong / n_wrong.clamp(min=1)
        shift = torch.where(mixed, self.margin - gap, 0.0)
        share = 0.5 if self.direction == "both" else 1.0
        moved = torch.where(right, share * shift, torch.where(wrong, (share - 1.0) * shift, 0.0))
        return reward + moved[:, None]


@dataclass(frozen=True)
class VerifierAdvantage:
    """Verifier reward (1 correct, 0 wrong) less its mean over `scope`, the same on every token of a rollout."""

    scope: Scope = "group"

    reads: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, scores: Scores) -> Tensor:
        present = (scores.lengths > 0).float()
        reward = scores.read("correct").float() * present
        ids = segments(scores, self.scope)
        mean = segment_sum(reward, ids) / segment_sum(present, ids).clamp(min=1)
        return ((reward - mean) * present)[:, None].expand_as(scores.logprobs)
