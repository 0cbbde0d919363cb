"""Divergences between next-token distributions, unreduced over tokens: `[…, V]` log-probs → `[…]` nats.

All take log-probabilities in float32. An id that both models exclude (−inf in both) contributes nothing to value or
gradient; an id that only the second argument of a KL excludes makes it infinite, as it should.
"""

from __future__ import annotations

import math

from trainer.late import Tensor, torch


def entropy(logp: Tensor) -> Tensor:
    """H(p) = −Σ p log p."""
    return -_expectation(logp, logp)


def kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p (log p − log q). Reverse KL of distillation is `kl(student, teacher)`."""
    present = logp > -torch.inf
    # Both sides are masked before the subtraction: (−inf) − (−inf) would poison the gradient of the sum.
    gap = torch.where(present, logp, 0.0) - torch.where(present, logq, 0.0)
    return (torch.where(present, logp, -torch.inf).exp() * gap).sum(-1)


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Generalised Jensen–Shannon divergence of GKD (arXiv 2306.13649): m = β·Q + (1−β)·S,
    β·KL(Q ‖ m) + (1−β)·KL(S ‖ m).

    The ends are taken as the limits that the field uses: β = 0 is forward KL(Q ‖ S), β = 1 reverse KL(S ‖ Q).
    """
    if beta == 0.0:
        return kl(teacher, student)
    if beta == 1.0:
        return kl(student, teacher)
    middle = mixture(teacher, student, beta)
    return beta * kl(teacher, middle) + (1.0 - beta) * kl(student, middle)


def mixture(logp: Tensor, logq: Tensor, share: float) -> Tensor:
    """log(share·p + (1 − share)·q), `[…, V]`; −inf where both are."""
    if share == 0.0:
        return logq
    either = (logp > -torch.inf) | (logq > -torch.inf)
    # Where both are −inf, logsumexp has no gradient; such ids are outside of the mixture altogether.
    parts = torch.stack([logp + math.log(share), logq + math.log1p(-share)])
    return torch.where(either, torch.where(either, parts, 0.0).logsumexp(0), -torch.inf)


def _expectation(logp: Tensor, values: Tensor) -> Tensor:
    present = logp > -torch.inf
    return (torch.where(present, logp, -torch.inf).exp() * torch.where(present, values, 0.0)).sum(-1)
