"""Trajectory filters: pure functions `Scores → [B] bool`, true where a rollout stays.

Rollouts without a valid token are outside every population and are never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from trainer.errors import check_fraction
from trainer.late import Tensor, torch
from trainer.quantities import Quantity, TeacherLogprob, quantile
from trainer.scores import Scope, Scores, per_segment, segments, uniform

Filter = Callable[[Scores], Tensor]


@dataclass(frozen=True)
class KeepAll:
    """Every rollout stays: the neutral filter."""

    def __call__(self, scores: Scores) -> Tensor:
        return scores.lengths > 0


@dataclass(frozen=True)
class TrajectoryMean:
    """[B]: mean of a token quantity over the valid tokens of each rollout (FiRe-OPD's score: of log Q)."""

    of: Quantity = TeacherLogprob()

    def __call__(self, scores: Scores) -> Tensor:
        total = torch.where(scores.mask, self.of(scores), 0.0).sum(1)
        return total / scores.lengths.clamp(min=1)


@dataclass(frozen=True)
class TrajectoryNoise:
    """[B]: a uniform number per rollout, a function of its identity: the score of the random control."""

    seed: int = 0

    def __call__(self, scores: Scores) -> Tensor:
        return uniform(scores.keys(), 0, self.seed).float()


@dataclass(frozen=True)
class DropBottom:
    """Keeps a rollout iff its score reaches the `fraction` quantile of its scope (FiRe-OPD's filter).

    The quantile interpolates linearly and the test is ≥, as released: of n distinct scores ceil(fraction·(n − 1))
    are dropped, and a population of one is always kept.
    """

    fraction: float = 0.2
    score: Callable[[Scores], Tensor] = TrajectoryMean()
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_fraction("the fraction of DropBottom", self.fraction)

    def __call__(self, scores: Scores) -> Tensor:
        return _at_least_quantile(self.score(scores), scores, self.fraction, self.scope)


@dataclass(frozen=True)
class DropTop:
    """Drops the rollouts with the *highest* scores instead: the same count as `DropBottom` (control)."""

    fraction: float = 0.2
    score: Callable[[Scores], Tensor] = TrajectoryMean()
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_fraction("the fraction of DropTop", self.fraction)

    def __call__(self, scores: Scores) -> Tensor:
        return _at_least_quantile(-self.score(scores), scores, self.fraction, self.scope)


@dataclass(frozen=True)
class DropRandom:
    """Drops as many rollouts as `DropBottom` would, chosen at random (control)."""

    fraction: float = 0.2
    seed: int = 0
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_fraction("the fraction of DropRandom", self.fraction)

    def __call__(self, scores: Scores) -> Tensor:
        return _at_least_quantile(TrajectoryNoise(self.seed)(scores), scores, self.fraction, self.scope)


@dataclass(frozen=True)
class CompletedOnly:
    """Keeps rollouts that ended by themselves."""

    reads: ClassVar[frozenset[str]] = frozenset({"completed"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("completed") & (scores.lengths > 0)


@dataclass(frozen=True)
class CorrectOnly:
    """Keeps rollouts that the verifier called correct."""

    reads: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("correct") & (scores.lengths > 0)


@dataclass(frozen=True)
class FailureOnly:
    """Keeps rollouts that the verifier called wrong."""

    reads: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, scores: Scores) -> Tensor:
        return ~scores.read("correct") & (scores.lengths > 0)


@dataclass(frozen=True)
class TrajectoryLength:
    """[B]: −length in tokens, so that the longest rollouts score lowest; ties go to the rollout's identity.

    Without the ties broken, a filter of the longest would drop nothing once enough rollouts hit the length limit.
    """

    def __call__(self, scores: Scores) -> Tensor:
        return uniform(scores.keys(), 0, -1).float() - scores.lengths


@dataclass(frozen=True)
class Both:
    """Keeps what both filters keep."""

    a: Filter
    b: Filter

    def __call__(self, scores: Scores) -> Tensor:
        return self.a(scores) & self.b(scores)


@dataclass(frozen=True)
class DropLengthMatched:
    """For every rollout that `of` drops, drops instead the one of the others that is nearest to it in length (control).

    Separates what a filter does from what dropping rollouts of those lengths does. Ties go to the rollout's identity.
    """

    of: Filter
    seed: int = 0

    def __call__(self, scores: Scores) -> Tensor:
        kept = self.of(scores)
        present = scores.lengths > 0
        length, noise = scores.lengths.tolist(), uniform(scores.keys(), 1, self.seed).tolist()
        free = {i: None for i in sorted(kept.nonzero()[:, 0].tolist(), key=lambda i: noise[i])}
        result = present.clone()
        # Longest first, so that the rollouts that are hardest to match choose first.
        for lost in sorted((present & ~kept).nonzero()[:, 0].tolist(), key=lambda i: (-length[i], noise[i])):
            if not free:
                break
            twin = min(free, key=lambda i: abs(length[i] - length[lost]))
            del free[twin]
            result[twin] = False
        return result


def _at_least_quantile(score: Tensor, scores: Scores, fraction: float, scope: Scope) -> Tensor:
    present = scores.lengths > 0
    keep = torch.zeros_like(present)

    def choose(where: Tensor) -> None:
        keep[where] = score[where] >= quantile(score[where], fraction)

    per_segment(segments(scores, scope), present, choose)
    return keep
