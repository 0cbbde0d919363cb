"""Losses per token. `target` reads the scores once, when the batch is planned; the call runs on micro-batches.

A policy gradient needs the sampled token and differentiates its log-probability; a divergence differentiates through
whole distributions. They are different types because a divergence used as an advantage has no useful gradient.

A loss may have a `slope` beside its call: value and slope (`trainer.divergences`) in closed form, for speed. A loss
without one is differentiated by autograd, and works as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from trainer.divergences import generalised_jsd, generalised_jsd_slope, kl, log_mixture, mixture, weighted
from trainer.errors import UserError
from trainer.late import Tensor, torch
from trainer.quantities import LogRatio, Quantity
from trainer.scores import Scores


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a micro-batch, or a chunk of one, hands to a loss. Leading dimensions are free: `[B,T]` or `[N]`."""

    logprobs: Tensor  # […] log S(y_t) with gradient
    student: Tensor | None = None  # […,V] log-probs with gradient; only for losses that need logits
    teacher: Tensor | None = None  # […,V] log-probs


@dataclass(frozen=True)
class PolicyGradient:
    """−reward · ratio with ratio = S / S_old, optionally with PPO's clip: max(−A r, −A clip(r, 1−ε, 1+ε')).

    `reward` is detached: its gradient is REINFORCE's. With one update per rollout batch the ratio is 1.
    """

    reward: Quantity = LogRatio()
    clip: float | None = 0.2
    clip_high: float | None = None  # ε' where it differs from ε

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def target(self, scores: Scores) -> Tensor:
        """[B,T] the reward of each sampled token."""
        return self.reward(scores)

    def __call__(self, tokens: Tokens, old_logprobs: Tensor, reward: Tensor) -> Tensor:
        ratio = (tokens.logprobs - old_logprobs).exp()
        loss = -reward * ratio
        if self.clip is None:
            return loss
        high = self.clip if self.clip_high is None else self.clip_high
        return torch.maximum(loss, -reward * ratio.clamp(1.0 - self.clip, 1.0 + high))


@dataclass(frozen=True)
class TopK:
    """A support of `k` ids instead of the vocabulary.

    `of` says whose k most likely ids; `tail` "bucket" lumps the rest of both distributions into one extra outcome,
    "renormalise" rescales both to the support, "drop" leaves the sums incomplete.
    """

    k: int
    of: Literal["teacher", "student"] = "teacher"
    tail: Literal["bucket", "renormalise", "drop"] = "bucket"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"TopK needs at least one id, got k = {self.k}")

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs `[…,V]` of both → `[…,k]` or `[…,k+1]` of both."""
        chosen = (
            (teacher if self.of == "teacher" else student.detach()).topk(min(self.k, student.shape[-1]), -1).indices
        )
        return self._restrict(student, chosen), self._restrict(teacher, chosen)

    def _restrict(self, logp: Tensor, chosen: Tensor) -> Tensor:
        head = logp.gather(-1, chosen)
        if self.tail == "drop" or chosen.shape[-1] == logp.shape[-1]:
            return head
        if self.tail == "renormalise":
            return head - head.logsumexp(-1, keepdim=True)
        rest = logp.scatter(-1, chosen, -torch.inf)
        # A tail without a single possible id stays −inf, but by way of a constant: there logsumexp has no gradient.
        some = (rest > -torch.inf).any(-1, keepdim=True)
        bucket = torch.where(some, torch.where(some, rest, 0.0).logsumexp(-1, keepdim=True), -torch.inf)
        return torch.cat([head, bucket], -1)


@dataclass(frozen=True)
class Divergence:
    """Generalised Jensen–Shannon between student and teacher: `beta` 1 is reverse KL(S‖Q), 0 forward KL(Q‖S)."""

    beta: float = 1.0
    support: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The teacher's distribution; of it only the most likely ids where the support is made of them."""
        theirs = isinstance(self.support, TopK) and self.support.of == "teacher"
        return frozenset({"topk_logprobs"} if theirs else {"logits"})

    def target(self, scores: Scores) -> None:
        return None

    def __call__(self, tokens: Tokens, old_logprobs: Tensor, reward: None) -> Tensor:
        if tokens.student is None or tokens.teacher is None:
            raise ValueError("a divergence needs the distributions of student and teacher, got log-probs only")
        student, teacher = tokens.student, tokens.teacher
        if self.support is not None:
            student, teacher = self.support(student, teacher)
        return generalised_jsd(student, teacher, self.beta)

    def slope(self, student: Tensor, teacher: Tensor, p: Tensor) -> tuple[Tensor, Tensor] | None:
        """Value `[N]` and slope `[N,V]` from log-probs `[N,V]` and p = exp(student); None on a smaller support."""
        return None if self.support is not None else generalised_jsd_slope(student, teacher, p, self.beta)


@dataclass(frozen=True)
class SkewKL:
    """Skewed KL of DistiLLM (arXiv 2402.03898): the second argument is mixed with the first, so that it is bounded.

    "reverse" is KL(S ‖ (1−α)·Q + α·S), "forward" KL(Q ‖ (1−α)·S + α·Q). α = 0 is the plain KL.
    """

    alpha: float = 0.1
    direction: Literal["reverse", "forward"] = "reverse"

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def target(self, scores: Scores) -> None:
        return None

    def __call__(self, tokens: Tokens, old_logprobs: Tensor, reward: None) -> Tensor:
        if tokens.student is None or tokens.teacher is None:
            raise ValueError("a divergence needs the distributions of student and teacher, got log-probs only")
        first, second = tokens.student, tokens.teacher
        if self.direction == "forward":
            first, second = second, first
        return kl(first, mixture(first, second, self.alpha))

    def slope(self, student: Tensor, teacher: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Value `[N]` and slope `[N,V]` from log-probs `[N,V]` and p = exp(student).

        Slopes, m being the mixture: S·(log S − log m − α·S/m) reverse, −(1−α)·S·Q/m forward.
        """
        if self.alpha == 0.0:
            return generalised_jsd_slope(student, teacher, p, 1.0 if self.direction == "reverse" else 0.0)
        q = teacher.exp()
        if self.direction == "reverse":
            middle = log_mixture(p, q, self.alpha)
            value, slope = weighted(p, student - middle)
            part = (student - middle).exp_().mul_(p)
            return value, slope.sub_(part, alpha=self.alpha)
        middle = log_mixture(q, p, self.alpha)
        value, _ = weighted(q, teacher - middle)
        return value, (teacher - middle).exp_().mul_(p).mul_(self.alpha - 1.0)


@dataclass(frozen=True)
class SquaredLogRatio:
    """½ (log S(y) − log Q(y))²: the k2 estimator of reverse KL, differentiated directly.

    Its gradient at the start of a step is that of the sampled-token policy gradient; the value differs.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs"})

    def target(self, scores: Scores) -> Tensor:
        """[B,T] the teacher's log-prob of each sampled token."""
        return scores.teacher_logprobs

    def __call__(self, tokens: Tokens, old_logprobs: Tensor, reward: Tensor) -> Tensor:
        return 0.5 * (tokens.logprobs - reward) ** 2


Loss = PolicyGradient | Divergence | SkewKL | SquaredLogRatio
