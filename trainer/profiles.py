"""Where an arm puts its weight: a step's tokens and rollouts, counted into bins small enough to keep.

Bins are the same for every run, so that steps, seeds and arms can be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from trainer.objective import Plan
from trainer.rollout import Rollouts
from trainer.scores import Scores

#: Upper edges of the entropy bins, in nats: fine near zero, where most tokens are; the last bin takes the rest.
ENTROPY_EDGES: Final = tuple(round(6.0 * (i / 24) ** 2, 6) for i in range(1, 25))
#: Upper edges of the bins of a token's weight ÷ the mean weight of the trained tokens; bin 0 holds the weight zero.
#: No edge lies at 1: rounding would split equal weights over two bins.
WEIGHT_EDGES: Final = (0.0, *(round(2.0 ** ((i + 0.5) / 4), 6) for i in range(-13, 13)))
POSITIONS: Final = 20  # equal parts of a rollout's length


@dataclass(frozen=True)
class RolloutRow:
    """One rollout of one step."""

    step: int
    index: int
    domain: str
    length: int  # tokens
    score: float  # mean log-prob under the teacher, nats
    student_score: float  # mean log-prob under the student, nats
    kept: bool
    completed: bool
    correct: bool | None  # None where the prompt has no answer
    weight: float  # mean |coefficient| of its tokens ÷ mean over the batch's tokens


@dataclass(frozen=True)
class ProfileRow:
    """Tokens of one step in one bin: `entropies` (i: student, j: teacher), `weights` (i), `positions` (i).

    `weight` sums |coefficient| ÷ its mean over the batch's tokens, `advantage` log Q − log S, `kl` the exact KL(S‖Q)
    (NaN where the teacher gives no logits), `student_entropy` and `teacher_entropy` the entropies; all in nats.
    """

    step: int
    kind: str
    i: int
    j: int
    tokens: int
    weight: float
    advantage: float
    kl: float
    student_entropy: float
    teacher_entropy: float


@torch.no_grad()
def rollout_rows(
    step: int, rollouts: Rollouts, scores: Scores, plan: Plan, correct: Sequence[bool | None]
) -> list[RolloutRow]:
    """A row per rollout that has tokens."""
    lengths = scores.lengths
    weight = _weights(plan)
    rows = []
    for row in lengths.nonzero()[:, 0].tolist():
        n = int(lengths[row])
        rows.append(
            RolloutRow(
                step=step,
                index=row,
                domain=rollouts.prompts[row].domain,
                length=n,
                score=_round(scores.teacher_logprobs[row].sum() / n),
                student_score=_round(scores.logprobs[row].sum() / n),
                kept=bool(plan.keep[row]),
                completed=bool(rollouts.completed[row]),
                correct=correct[row],
                weight=_round(weight[row].sum() / n),
            )
        )
    return rows


@torch.no_grad()
def profile_rows(step: int, scores: Scores, plan: Plan) -> list[ProfileRow]:
    """The step's tokens by entropies, by weight and by position; empty bins are left out."""
    mask = scores.mask
    count = int(mask.sum())
    if not count:
        return []
    nothing = torch.full((count,), float("nan"), device=mask.device)
    weight = _weights(plan)[mask]
    student, teacher, kl = (
        nothing if value is None else value[mask]
        for value in (scores.student_entropy, scores.teacher_entropy, scores.reverse_kl)
    )
    sums = {
        "weight": weight,
        "advantage": (scores.teacher_logprobs - scores.logprobs)[mask],
        "kl": kl,
        "student_entropy": student,
        "teacher_entropy": teacher,
    }
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    position = (place * POSITIONS // scores.lengths.clamp(min=1)[:, None])[mask]
    live = weight[weight > 0]
    relative = weight / live.mean() if len(live) else weight
    rows = []
    if scores.student_entropy is not None and scores.teacher_entropy is not None:
        rows += _rows(step, "entropies", _bin(student, ENTROPY_EDGES), _bin(teacher, ENTROPY_EDGES), sums)
    zero = torch.zeros_like(position)
    rows += _rows(step, "weights", _bin(relative, WEIGHT_EDGES), zero, sums)
    rows += _rows(step, "positions", position, zero, sums)
    return rows


def _weights(plan: Plan) -> Tensor:
    """[B,T] |coefficient| of each token, summed over the terms, ÷ its mean over the batch's tokens."""
    coef = torch.stack([term.coef.abs() for term in plan.terms]).sum(0)
    mean = coef[plan.mask].mean()
    return coef / mean if mean > 0 else coef


def _bin(values: Tensor, edges: Sequence[float]) -> Tensor:
    """Index of the first edge that is not below a value; the last bin takes what lies beyond."""
    bounds = torch.tensor(edges, device=values.device, dtype=values.dtype)
    return torch.searchsorted(bounds, values.contiguous()).clamp(max=len(edges) - 1)


def _rows(step: int, kind: str, i: Tensor, j: Tensor, sums: dict[str, Tensor]) -> list[ProfileRow]:
    width = int(j.max()) + 1
    key, inverse, count = torch.unique(i * width + j, return_inverse=True, return_counts=True)
    zero = torch.zeros(len(key), dtype=torch.float64, device=i.device)
    totals = {name: zero.index_add(0, inverse, value.double()) for name, value in sums.items()}
    return [
        ProfileRow(
            step,
            kind,
            int(k) // width,
            int(k) % width,
            int(count[at]),
            **{name: _round(total[at]) for name, total in totals.items()},
        )
        for at, k in enumerate(key.tolist())
    ]


def _round(value: Tensor) -> float:
    return round(float(value), 5)


def as_dicts(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """The rows as plain JSON data."""
    return [asdict(row) for row in rows]
