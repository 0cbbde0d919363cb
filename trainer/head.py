"""The language-model head, fused with the losses: chunks of positions, never the whole `[tokens, vocabulary]` array.

`HeadLoss` forms the gradient with respect to hidden states and head weight while it computes the loss, so each
position is projected once per model and nothing of vocabulary size outlives its chunk. `score_head` is its twin
without gradient, which gives the planner log-probs, entropies and divergences.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from trainer.divergences import weighted
from trainer.gradients import blocks, logits_to_gradient
from trainer.objective import Objective, Plan
from trainer.scores import FROM_LOGITS

Logits = Callable[[Tensor], Tensor]
"""Maps positions (int64 `[n]`, into the batch's valid tokens) to float32 logits `[n, V]`."""

CHUNK_ELEMENTS = 1 << 25  # logits per chunk: 128 MiB in float32, so peak memory does not grow with the batch


MASS_SUPPORT = 16  # the student's most likely tokens, on which `teacher_mass` is summed

OF_STUDENT = frozenset({"logprobs", "student_entropy"})  # scores that `score_head` gives
OF_TEACHER = frozenset({"teacher_logprobs", "teacher_entropy", *FROM_LOGITS})  # and those that need a teacher's logits


def chunk_size(vocab: int) -> int:
    """Positions per chunk for a vocabulary of `vocab` ids."""
    return max(1, CHUNK_ELEMENTS // vocab)


def project(hidden: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """Logits `[n,V]` in float32, whatever the dtype of the product; into `out` where there is one."""
    if out is None:
        return (hidden @ weight.T).float()
    if weight.dtype == torch.float32:
        return torch.mm(hidden, weight.T, out=out)
    return out.copy_(hidden @ weight.T)


@dataclass(frozen=True, eq=False)
class HeadLogits:
    """The `Logits` of a model whose hidden states are kept: [N,h] by its head [V,h]."""

    hidden: Tensor
    weight: Tensor

    def __call__(self, positions: Tensor, out: Tensor | None = None) -> Tensor:
        return project(self.hidden[positions], self.weight, out)


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
    room, other_room = (_room(hidden, weight, chunk, len(targets), held) for held in (True, teacher is not None))
    for start in range(0, len(targets), chunk):
        part = slice(start, min(start + chunk, len(targets)))
        student = project(hidden[part], weight, room[: part.stop - start])
        positions = torch.arange(start, part.stop, device=targets.device)
        other = None if teacher is None else _ask(teacher, positions, other_room)
        for rows in blocks(student):
            found = _scores(student[rows], None if other is None else other[rows], targets[part][rows, None], want)
            for name, values in found.items():
                out[name][part][rows] = values
    return out


def _room(hidden: Tensor, weight: Tensor, chunk: int, tokens: int, needed: bool) -> Tensor:
    """For a chunk's logits, float32, and for the next one's: new pages cost as much as a pass over them."""
    return hidden.new_empty((min(chunk, tokens) if needed else 0, len(weight)), dtype=torch.float32)


def _ask(teacher: Logits, positions: Tensor, room: Tensor) -> Tensor:
    """The teacher's logits; in `room`, if it can put them there."""
    if isinstance(teacher, HeadLogits) and len(teacher.weight) == room.shape[1]:
        return teacher(positions, room[: len(positions)])
    return teacher(positions)


def _scores(logits: Tensor, teacher: Tensor | None, targets: Tensor, want: Collection[str]) -> dict[str, Tensor]:
    """The wanted scores, [n], from logits [n,V] and targets [n,1]."""
    student = logits.log_softmax(-1)
    found = {"logprobs": student.gather(1, targets)[:, 0]}
    if {"student_entropy", "reverse_kl"} & set(want):
        p = student.exp()
        found["student_entropy"] = -weighted(p, student.clone())[0]
    if teacher is not None:
        other = teacher.log_softmax(-1)
        found["teacher_logprobs"] = other.gather(1, targets)[:, 0]
        if "reverse_kl" in want:
            found["reverse_kl"] = weighted(p, student - other)[0]
        if {"teacher_entropy", "forward_kl"} & set(want):
            q = other.exp()
            found["teacher_entropy"] = -weighted(q, other.clone())[0]
        if "forward_kl" in want:
            found["forward_kl"] = weighted(q, other - student)[0]
        if "teacher_rank" in want:
            favourite = other.gather(1, student.argmax(-1, keepdim=True))
            found["teacher_rank"] = 1.0 + (other > favourite).sum(-1)
        if "teacher_mass" in want:
            likely = student.topk(min(MASS_SUPPORT, student.shape[-1]), -1).indices
            found["teacher_mass"] = other.gather(1, likely).exp().sum(-1)
    return {name: values for name, values in found.items() if name in want}


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
        vocab: int,
    ) -> Tensor:
        whole, weight = weight, weight[:vocab]
        needs_teacher = bool(objective.loss_needs & {"logits", "topk_logprobs"})
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Accumulated in float32 over the chunks even where the weights are bfloat16.
        grad_weight = torch.zeros_like(whole, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        room, other_room = (_room(hidden, weight, chunk, len(targets), held) for held in (True, needs_teacher))
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(targets), chunk):
            part = slice(start, min(start + chunk, len(targets)))
            logits = project(hidden[part], weight, room[: part.stop - start])
            other = _ask(teacher, positions[part], other_room) if needs_teacher and teacher else None
            total += logits_to_gradient(objective, plan.map(itemgetter(part)), targets[part], logits, other)
            if grad_hidden is not None:
                torch.mm(logits.to(weight.dtype), weight, out=grad_hidden[part])
            if grad_weight is not None:
                _add_outer(grad_weight[:vocab], logits, hidden[part])
        ctx.gradients = grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradient of this loss has been handed out already: call head_loss again")
        # Scaled in place and given away, as a copy of the head's gradient would be as large as the head.
        scaled = [None if gradient is None else gradient.mul_(grads[0]) for gradient in ctx.gradients]
        ctx.gradients = None
        return *scaled, None, None, None, None, None, None, None


def _add_outer(total: Tensor, rows: Tensor, hidden: Tensor) -> None:
    """total [V,h] += rowsᵀ [V,n] · hidden [n,h], in float32 except for the factors of a product on a GPU."""
    if hidden.dtype == torch.float32 or hidden.device.type == "cpu":
        total.addmm_(rows.T, hidden.float())
    else:
        total += rows.to(hidden.dtype).T @ hidden


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    positions: Tensor,
    objective: Objective,
    plan: Plan,
    teacher: Logits | None,
    chunk: int | None = None,
    vocab: int | None = None,
) -> Tensor:
    """The objective's surrogate from hidden states, with the gradient formed in the forward pass; scalar, nats.

    Args:
        hidden: [N,h] student states at the positions that predict `targets`, with gradient. weight: [V,h].
        targets: [N] sampled ids. positions: [N] their places among the batch's valid tokens, for `teacher`.
        plan: flattened to these N tokens.
        vocab: rows of `weight` from this one on belong to no id: they are not looked at, and their gradient is zero.
            A slice of the weight says the same, at the price of a second array of the head's size in the backward pass.

    The gradient is given away by the first backward pass; a second one raises a RuntimeError.
    """
    vocab = len(weight) if vocab is None else vocab
    return HeadLoss.apply(
        hidden, weight, targets, positions, objective, plan, teacher, chunk or chunk_size(vocab), vocab
    )
