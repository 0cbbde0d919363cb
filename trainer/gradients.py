"""The gradient of an objective with respect to a student's logits, formed a few rows at a time.

Every loss is differentiated with respect to log-probabilities: in closed form where it has a `slope`, by autograd
otherwise. The softmax between them and the logits is the same for all and is done here, once for all terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter

import torch
from torch import Tensor

from trainer.losses import Tokens
from trainer.objective import Objective, Plan

BLOCK_ELEMENTS = 1 << 20  # logits per block: the dozen passes over a block find it in the processor's cache
ON_GPU = 8  # times as many on a GPU, whose kernels want more work at once


def blocks(logits: Tensor) -> Iterator[slice]:
    """Rows of `logits` [n,V] that are worked on together."""
    rows, vocab = logits.shape
    step = max(1, BLOCK_ELEMENTS * (1 if logits.device.type == "cpu" else ON_GPU) // vocab)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


@torch.no_grad()
def logits_to_gradient(
    objective: Objective, plan: Plan, targets: Tensor, logits: Tensor, teacher: Tensor | None
) -> Tensor:
    """The objective's surrogate of n tokens, a scalar in nats; `logits` is overwritten with its gradient.

    Args:
        plan: flattened to these tokens. targets: [n] sampled ids. logits: [n,V] float32 of the student.
        teacher: [n,V] float32 logits, left as they are; None where no loss looks at them.
    """
    total = logits.new_zeros(())
    for rows in blocks(logits):
        total += _block(
            objective,
            plan.map(itemgetter(rows)),
            targets[rows, None],
            logits[rows],
            None if teacher is None else teacher[rows].log_softmax(-1),
        )
    return total


def _block(objective: Objective, plan: Plan, targets: Tensor, logits: Tensor, teacher: Tensor | None) -> Tensor:
    student = logits.log_softmax(-1)
    p = student.exp()
    total = logits.new_zeros(())
    slope: Tensor | None = None  # Σ over terms of coef · d value / d log-probs, [n,V]
    sampled: Tensor | None = None  # the same for what depends on the sampled token's log-prob alone, [n]
    others = []
    for index, (term, part) in enumerate(zip(objective.terms, plan.terms, strict=True)):
        closed = getattr(term.loss, "slope", None)
        found = None if closed is None or teacher is None else closed(student, teacher, p)
        if found is None:
            others.append(index)
            continue
        value, its = found
        total += (part.coef * torch.where(part.coef != 0, value, 0.0)).sum()
        its.mul_(part.coef[:, None])
        its[part.coef == 0] = 0.0  # whatever stood there: 0 · ∞ is not 0
        slope = its if slope is None else slope.add_(its)
    if others:
        value, sampled, its = _by_autograd(objective, plan, others, targets, student, teacher)
        total += value
        slope = its if slope is None else slope if its is None else slope.add_(its)
    # d log S / d logits = 1 − S, so a slope a becomes a − S · Σa.
    inside = torch.zeros_like(plan.old_logprobs) if slope is None else slope.sum(-1)
    if sampled is not None:
        inside = inside + sampled
    if slope is None:
        torch.mul(p, -inside[:, None], out=logits)
    else:
        torch.addcmul(slope, p, inside[:, None], value=-1.0, out=logits)
    if sampled is not None:
        logits.scatter_add_(1, targets, sampled[:, None])
    return total


def _by_autograd(
    objective: Objective, plan: Plan, terms: list[int], targets: Tensor, student: Tensor, teacher: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss of the terms with these numbers, and its derivatives: [n] by the sampled log-probs, [n,V] by all of them.

    None stands for a derivative of zero.
    """
    objective = replace(objective, terms=tuple(objective.terms[index] for index in terms))
    plan = replace(plan, terms=tuple(plan.terms[index] for index in terms))
    with torch.enable_grad():
        sampled = student.gather(1, targets)[:, 0].requires_grad_()
        student = student.detach().requires_grad_()
        loss = objective.loss(plan, Tokens(sampled, student, teacher))
        by_sampled, by_student = torch.autograd.grad(loss, (sampled, student), allow_unused=True)
    return loss.detach(), by_sampled, by_student
