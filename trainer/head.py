"""The language-model head, fused with the losses: chunks of positions, never the whole `[tokens, vocabulary]` array.

`HeadLoss` forms the gradient with respect to hidden states and head weight while it computes the loss, so each
position is projected once per model and nothing of vocabulary size outlives its chunk. `score_head` is its twin
without gradient, which gives the planner log-probs, entropies and divergences.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from trainer.divergences import entropy, kl
from trainer.losses import Tokens
from trainer.objective import Objective, Plan
from trainer.scores import FROM_LOGITS

Logits = Callable[[Tensor], Tensor]
"""Maps positions (int64 `[n]`, into the batch's valid tokens) to float32 logits `[n, V]`."""

CHUNK_ELEMENTS = 1 << 24  # logits per chunk: 64 MiB in float32, so peak memory does not grow with the batch


MASS_SUPPORT = 16  # the student's most likely tokens, on which `teacher_mass` is summed

OF_STUDENT = frozenset({"logprobs", "student_entropy"})  # scores that `score_head` gives
OF_TEACHER = frozenset({"teacher_logprobs", "teacher_entropy", *FROM_LOGITS})  # and those that need a teacher's logits


def chunk_size(vocab: int) -> int:
    """Positions per chunk for a vocabulary of `vocab` ids."""
    return max(1, CHUNK_ELEMENTS // vocab)


def project(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits in float32, whatever the dtype of the product."""
    return (hidden @ weight.T).float()


@torch.no_grad()
def score_head(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    teacher: Logits | None,
    want: Collection[str],
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Log-probs and the other requested scores of every position, `[N]` float32, nats.

    Args:
        hidden: [N,h] student states. weight: [V,h] student head. targets: [N] sampled ids.
        teacher: the teacher's logits; None where it gives its log-probs itself.
        want: any of `logprobs, student_entropy, teacher_logprobs, teacher_entropy, reverse_kl, forward_kl,
            teacher_rank, teacher_mass`.

    Raises:
        ValueError: for a score of another name, or one that needs a teacher where there is none.
    """
    if missing := set(want) - (OF_STUDENT if teacher is None else OF_STUDENT | OF_TEACHER):
        raise ValueError(f"cannot give {', '.join(sorted(missing))}: unknown, or in need of a teacher's logits")
    out = {name: hidden.new_empty(len(targets), dtype=torch.float32) for name in want}
    chunk = chunk or chunk_size(len(weight))
    for start in range(0, len(targets), chunk):
        part = slice(start, min(start + chunk, len(targets)))
        target = targets[part, None]
        student = project(hidden[part], weight).log_softmax(-1)
        if "logprobs" in out:
            out["logprobs"][part] = student.gather(1, target)[:, 0]
        if "student_entropy" in out:
            out["student_entropy"][part] = entropy(student)
        if teacher is None:
            continue
        other = teacher(torch.arange(part.start, part.stop, device=targets.device)).log_softmax(-1)
        if "teacher_logprobs" in out:
            out["teacher_logprobs"][part] = other.gather(1, target)[:, 0]
        if "teacher_entropy" in out:
            out["teacher_entropy"][part] = entropy(other)
        if "reverse_kl" in out:
            out["reverse_kl"][part] = kl(student, other)
        if "forward_kl" in out:
            out["forward_kl"][part] = kl(other, student)
        if "teacher_rank" in out:
            favourite = other.gather(1, student.argmax(-1, keepdim=True))
            out["teacher_rank"][part] = 1.0 + (other > favourite).sum(-1)
        if "teacher_mass" in out:
            likely = student.topk(min(MASS_SUPPORT, student.shape[-1]), -1).indices
            out["teacher_mass"][part] = other.gather(1, likely).exp().sum(-1)
    return out


@torch.no_grad()
def target_logprobs(logits: Logits, targets: Tensor, vocab: int) -> Tensor:
    """[N] log-probs, nats, that a model which is no student gives to `targets`."""
    positions = torch.arange(len(targets), device=targets.device)
    parts = [
        logits(part).log_softmax(-1).gather(1, targets[part, None])[:, 0] for part in positions.split(chunk_size(vocab))
    ]
    return torch.cat(parts)


class HeadLoss(torch.autograd.Function):
    """Objective of a micro-batch as a function of hidden states and head weight; see `head_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        positions: Tensor,
        objective: Objective,
        plan: Plan,
        teacher: Logits | None,
        chunk: int,
    ) -> Tensor:
        needs_teacher = bool(objective.loss_needs & {"logits", "topk_logprobs"})
        grad_hidden = torch.zeros_like(hidden)
        # Accumulated in float32 over the chunks even where the weights are bfloat16.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if weight.requires_grad else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            with torch.enable_grad():
                logits = project(hidden[part].detach(), weight.detach()).requires_grad_()
                student = logits.log_softmax(-1)
                other = teacher(positions[part]).log_softmax(-1) if needs_teacher and teacher else None
                sampled = student.gather(1, targets[part, None])[:, 0]
                loss = objective.loss(plan.map(itemgetter(part)), Tokens(sampled, student, other))
                (grad,) = torch.autograd.grad(loss, logits)
            total += loss.detach()
            grad_hidden[part] = grad.to(weight.dtype) @ weight
            if grad_weight is not None:
                grad_weight += (grad.to(hidden.dtype).T @ hidden[part]).float()
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled = None if grad_weight is None else grads[0].to(grad_weight.dtype) * grad_weight
        return grads[0].to(grad_hidden.dtype) * grad_hidden, scaled, None, None, None, None, None, None


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    positions: Tensor,
    objective: Objective,
    plan: Plan,
    teacher: Logits | None,
    chunk: int | None = None,
) -> Tensor:
    """The objective's surrogate from hidden states, with the gradient formed in the forward pass; scalar, nats.

    Args:
        hidden: [N,h] student states at the positions that predict `targets`, with gradient. weight: [V,h].
        targets: [N] sampled ids. positions: [N] their places among the batch's valid tokens, for `teacher`.
        plan: flattened to these N tokens.
    """
    return HeadLoss.apply(
        hidden, weight, targets, positions, objective, plan, teacher, chunk or chunk_size(len(weight))
    )
