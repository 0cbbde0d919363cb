"""Divergences between next-token distributions, unreduced over tokens: `[…, V]` log-probs → `[…]` nats.

All take log-probabilities in float32. An id that both models exclude (−inf in both) contributes nothing to value or
gradient; an id that only the second argument of a KL excludes makes it infinite, as it should.

The *slope* of a divergence is its derivative with respect to the student's log-probs, `[…, V]`, where a multiple of the
student's probabilities S may be left out: through the softmax, a slope a gives the logits the gradient a − S·Σa, to
which such a multiple adds nothing. The functions named so are closed forms of what autograd makes of the others.
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


def generalised_jsd_slope(student: Tensor, teacher: Tensor, p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Value `[…]` and slope `[…, V]` of `generalised_jsd`; `p` is exp(student).

    Slopes: −Q for β = 0, S·(log S − log Q) for β = 1, (1−β)·S·(log S − log m) between them.
    """
    if beta == 1.0:
        return weighted(p, student - teacher)
    q = teacher.exp()
    if beta == 0.0:
        return weighted(q, teacher - student)[0], q.neg_()
    middle = log_mixture(p, q, 1.0 - beta)
    from_teacher, _ = weighted(q, teacher - middle)
    from_student, slope = weighted(p, student - middle)
    return beta * from_teacher + (1.0 - beta) * from_student, slope.mul_(1.0 - beta)


def log_mixture(p: Tensor, q: Tensor, share: float) -> Tensor:
    """log(share·p + (1 − share)·q) from probabilities, `[…, V]`; finite where both are 0, and nothing depends on it."""
    return (p * share).add_(q, alpha=1.0 - share).clamp_(min=torch.finfo(p.dtype).tiny).log_()


def weighted(p: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Σ p·values `[…]` and p·values `[…, V]`, which overwrites `values`; where p is 0, so is the product."""
    product = values.mul_(p)
    total = product.sum(-1)
    if not bool(total.isfinite().all()):  # rarely: 0·∞ of an excluded id, or a sum that is infinite in earnest
        total = product.masked_fill_(p == 0.0, 0.0).sum(-1)
    return total, product


def _expectation(logp: Tensor, values: Tensor) -> Tensor:
    present = logp > -torch.inf
    return (torch.where(present, logp, -torch.inf).exp() * torch.where(present, values, 0.0)).sum(-1)
