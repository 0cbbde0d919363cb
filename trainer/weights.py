"""Token weights: pure functions `Scores → [B,T] ≥ 0`.

A weight never sees the filter: its statistics run over all valid tokens of their scope, dropped rollouts included,
as in every released implementation. Selection is a weight of zeros and ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.errors import check_fraction
from trainer.filters import KeepAll
from trainer.late import Tensor, torch
from trainer.quantities import Quantity
from trainer.scores import Scope, Scores, per_segment, segments, token_mean, uniform

Weight = Callable[[Scores], Tensor]


@dataclass(frozen=True)
class Uniform:
    """1 on every token: the neutral weight."""

    def __call__(self, scores: Scores) -> Tensor:
        return torch.ones_like(scores.logprobs)


@dataclass(frozen=True)
class Boost:
    """1 + gain·q for a quantity q in [0,1]."""

    of: Quantity
    gain: float = 1.0

    def __call__(self, scores: Scores) -> Tensor:
        return 1.0 + self.gain * self.of(scores)


@dataclass(frozen=True)
class Times:
    """The product of two weights."""

    a: Weight
    b: Weight

    def __call__(self, scores: Scores) -> Tensor:
        return self.a(scores) * self.b(scores)


@dataclass(frozen=True)
class MeanOne:
    """`of` divided by its mean over the valid tokens of `scope` (FiRe-OPD eq. 8: per trajectory).

    A population whose weights are all zero stays zero.
    """

    of: Weight
    scope: Scope = "trajectory"

    def __call__(self, scores: Scores) -> Tensor:
        weight = self.of(scores)
        mean = token_mean(weight, scores, self.scope)[:, None]
        return torch.where(mean > 0, weight / torch.where(mean > 0, mean, 1.0), 0.0)


@dataclass(frozen=True)
class TopFraction:
    """1 on the `fraction` of the scope's tokens with the largest `of`, 0 elsewhere (at least one token)."""

    of: Quantity
    fraction: float = 0.5
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_fraction("the fraction of TopFraction", self.fraction)

    def __call__(self, scores: Scores) -> Tensor:
        values = self.of(scores)
        weight = torch.zeros_like(scores.logprobs)
        keys = _token_keys(scores)

        def choose(where: Tensor) -> None:
            weight[where] = _largest(values[where], keys[where], self.fraction)

        per_segment(segments(scores, self.scope), scores.mask, choose)
        return weight


@dataclass(frozen=True)
class Threshold:
    """1 where `of` ≥ `at`, 0 elsewhere."""

    of: Quantity
    at: float

    def __call__(self, scores: Scores) -> Tensor:
        return (self.of(scores) >= self.at).to(scores.logprobs.dtype)


@dataclass(frozen=True)
class Leaky:
    """`of`, but never below `floor`: a soft version of a hard selection."""

    of: Weight
    floor: float = 0.01

    def __call__(self, scores: Scores) -> Tensor:
        return self.of(scores).clamp(min=self.floor)


@dataclass(frozen=True)
class Segment:
    """1 on a window of each response: `fraction` of its tokens (at least one) from the place `start` in [0,1].

    `start` 0 is the beginning, 1 the end; None puts the window at random, by the rollout's identity.
    """

    fraction: float = 0.5
    start: float | None = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fraction("the fraction of Segment", self.fraction)
        if self.start is not None:
            check_fraction("the start of Segment", self.start)

    def __call__(self, scores: Scores) -> Tensor:
        length = scores.lengths
        size = (self.fraction * length).round().clamp(min=1)
        if self.start is None:
            first = (uniform(scores.keys(), 0, self.seed) * (length - size + 1)).floor()
        else:
            first = (self.start * (length - size)).round()
        place = torch.arange(scores.mask.shape[1], device=scores.mask.device)
        # Rank of each token among the valid ones of its row: the mask may have holes.
        rank = torch.where(scores.mask, scores.mask.cumsum(1) - 1, place.numel() + 1)
        inside = (rank >= first[:, None]) & (rank < (first + size)[:, None])
        return inside.to(scores.logprobs.dtype)


@dataclass(frozen=True)
class Switch:
    """`before` while training progress is below `at`, `after` from there on."""

    before: Weight
    after: Weight
    at: float = 0.5

    def __call__(self, scores: Scores) -> Tensor:
        return (self.before if scores.progress < self.at else self.after)(scores)


@dataclass(frozen=True)
class Flat:
    """The mean of `of` over `scope`, on every token: what a weighting does to the step size, and nothing else."""

    of: Weight
    scope: Scope = "batch"

    def __call__(self, scores: Scores) -> Tensor:
        return token_mean(self.of(scores), scores, self.scope)[:, None].expand_as(scores.logprobs)


@dataclass(frozen=True)
class SampleFraction:
    """1 on a `fraction` of the scope's tokens, drawn without replacement with probability proportional to `of`.

    The draw is that of Efraimidis and Spirakis: the largest values of u^(1/of) with u uniform.
    """

    of: Quantity
    fraction: float = 0.5
    seed: int = 0
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_fraction("the fraction of SampleFraction", self.fraction)

    def __call__(self, scores: Scores) -> Tensor:
        return TopFraction(_Race(self.of, self.seed), self.fraction, self.scope)(scores)


@dataclass(frozen=True)
class TrajectorySoftmax:
    """exp(score/temperature) over the rollouts of `scope` among `members`, scaled to mean one; 0 outside of `members`.

    The soft counterpart of a trajectory filter. Every token of a rollout has the same weight.
    """

    score: Callable[[Scores], Tensor]
    temperature: float = 1.0
    scope: Scope = "batch"
    members: Callable[[Scores], Tensor] = KeepAll()

    def __call__(self, scores: Scores) -> Tensor:
        inside = self.members(scores)
        logit = self.score(scores) / self.temperature
        weight = torch.zeros_like(logit)

        def share(where: Tensor) -> None:
            weight[where] = logit[where].softmax(0) * where.sum()

        per_segment(segments(scores, self.scope), inside, share)
        return weight[:, None].expand_as(scores.logprobs)


@dataclass(frozen=True)
class RandomMask:
    """1 on a random `fraction` of the scope's tokens: the control of every hard selection."""

    fraction: float = 0.5
    seed: int = 0
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_fraction("the fraction of RandomMask", self.fraction)

    def __call__(self, scores: Scores) -> Tensor:
        return TopFraction(_Noise(self.seed), self.fraction, self.scope)(scores)


@dataclass(frozen=True)
class Shuffled:
    """The weights of `of` dealt out at random among the scope's tokens: same spread, no information (control)."""

    of: Weight
    seed: int = 0
    scope: Scope = "batch"

    def __call__(self, scores: Scores) -> Tensor:
        weight = self.of(scores).clone()
        noise = _Noise(self.seed)(scores)

        def deal(where: Tensor) -> None:
            # Sorted first: which token receives which weight then depends on the keys alone, not on row order.
            weight[where] = weight[where].sort().values[noise[where].argsort().argsort()]

        per_segment(segments(scores, self.scope), scores.mask, deal)
        return weight


@dataclass(frozen=True)
class _Noise:
    """Uniform noise per token, a function of (rollout identity, position, seed)."""

    seed: int

    def __call__(self, scores: Scores) -> Tensor:
        return _token_keys(scores, self.seed)


@dataclass(frozen=True)
class _Race:
    """log(u)/q per token: the ranks of weighted sampling without replacement; tokens with q = 0 come last."""

    of: Quantity
    seed: int

    def __call__(self, scores: Scores) -> Tensor:
        noise = _token_keys(scores, self.seed).clamp(min=1e-300).log()
        return noise / self.of(scores).double().clamp(min=1e-12)


def _token_keys(scores: Scores, seed: int = -1) -> Tensor:
    # Counted among the valid tokens, so that padding on either side changes nothing.
    rank = (scores.mask.cumsum(1) - 1).clamp(min=0)
    return uniform(scores.keys()[:, None], rank, seed)


def _largest(values: Tensor, keys: Tensor, fraction: float) -> Tensor:
    """0/1 over a flat tensor: the round(fraction·n), at least one, largest; ties are broken by `keys`."""
    count = max(1, round(fraction * len(values)))
    by_key = keys.argsort()
    order = by_key[values[by_key].argsort(descending=True, stable=True)]
    chosen = torch.zeros(len(values), device=values.device)
    chosen[order[:count]] = 1.0
    return chosen
