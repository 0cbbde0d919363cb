"""An objective is a frozen value: planned once on the whole rollout batch, executed on micro-batches.

plan = objective.plan(scores)                       # no gradient: filters, weights, denominators
loss = objective.loss(plan, tokens, rows=rows)      # a weighted sum; parts sum to the whole
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from trainer.filters import Filter, KeepAll
from trainer.late import Tensor, torch
from trainer.losses import Loss, Tokens, TopK
from trainer.scores import FROM_LOGITS, Block, Scope, Scores, scope_reads, segment_sum, segments
from trainer.weights import Uniform, Weight

__all__ = [
    "Block",
    "Objective",
    "Plan",
    "Scores",
    "SequenceMean",
    "SumOver",
    "Term",
    "TermPlan",
    "TokenMean",
    "Tokens",
]


# --- reductions: the denominators -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenMean:
    """Mean over the valid tokens of the kept rollouts of each population of `scope`; populations count by their rows.

    `batch` is the global token mean. `Block(m)` is what a trainer does that averages inside micro-batches of m rows
    and then over them (FiRe-OPD as released).
    """

    scope: Scope = "batch"

    def __call__(self, scores: Scores, keep: Tensor) -> Tensor:
        ids = segments(scores, self.scope)
        tokens = segment_sum(torch.where(keep, scores.lengths, 0).float(), ids)
        share = segment_sum(torch.ones_like(tokens), ids) / len(keep)
        return torch.where(tokens > 0, share / tokens.clamp(min=1), 0.0)


@dataclass(frozen=True)
class SequenceMean:
    """Mean over kept rollouts of their token means: every rollout counts the same."""

    def __call__(self, scores: Scores, keep: Tensor) -> Tensor:
        return keep.float() / (scores.lengths.clamp(min=1) * keep.sum().clamp(min=1))


@dataclass(frozen=True)
class SumOver:
    """Sum over tokens divided by a constant."""

    constant: float

    def __call__(self, scores: Scores, keep: Tensor) -> Tensor:
        return torch.full((len(keep),), 1.0 / self.constant, device=keep.device)


Reduction = Callable[[Scores, Tensor], Tensor]


# --- objective and plan ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """One loss with its token weight and its coefficient in the sum."""

    loss: Loss
    weight: Weight = Uniform()
    coef: float = 1.0


@dataclass(frozen=True, eq=False)
class TermPlan:
    """Finished numbers of one term."""

    coef: Tensor  # [B,T] or [N]: weight × keep × mask ÷ denominator × the term's coefficient
    reward: Tensor | None  # same shape; None for a divergence


@dataclass(frozen=True, eq=False)
class Plan:
    """All that an objective needs from the batch. `[B,T]`; `tokens` flattens it to the valid tokens."""

    mask: Tensor  # [B,T] bool
    old_logprobs: Tensor  # [B,T]
    keep: Tensor  # [B] bool
    terms: tuple[TermPlan, ...]

    @property
    def live(self) -> Tensor:
        """Bool, shape of `mask`: tokens that receive any gradient."""
        return torch.stack([term.coef != 0 for term in self.terms]).any(0)

    def map(self, change: Callable[[Tensor], Tensor]) -> Plan:
        """The plan with `change` applied to every per-token tensor (a selection of rows or of tokens)."""
        terms = tuple(
            TermPlan(change(term.coef), None if term.reward is None else change(term.reward)) for term in self.terms
        )
        return Plan(change(self.mask), change(self.old_logprobs), self.keep, terms)


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses over tokens, with a trajectory filter and a reduction.

    `importance_cap` c multiplies policy-gradient terms by min(S / S_rollout, c) per token: truncated importance
    weights against an engine whose probabilities differ from the trainer's. The run sets it, not a method, so that
    every arm of a comparison has the same one. `sampler` says whose rollouts are trained on: "teacher" is off-policy.
    """

    terms: tuple[Term, ...]
    keep: Filter = KeepAll()
    reduce: Reduction = TokenMean()
    importance_cap: float | None = None
    sampler: Literal["student", "teacher"] = "student"

    @property
    def loss_needs(self) -> frozenset[str]:
        """What the losses themselves, after planning, must see of the teacher."""
        return frozenset().union(*(term.loss.needs for term in self.terms))

    @property
    def top_k(self) -> int:
        """The most ids that a loss on the teacher's most likely ids asks for; 0 where there is none."""
        supports = [getattr(term.loss, "support", None) for term in self.terms]
        return max((one.k for one in supports if isinstance(one, TopK) and one.of == "teacher"), default=0)

    @property
    def needs(self) -> frozenset[str]:
        """What the teacher must provide: a subset of `logprobs`, `entropy`, `logits`, `topk_logprobs`."""
        found = self.loss_needs | {"logprobs"}
        if "teacher_entropy" in self.reads:
            found |= {"entropy"}
        if self.reads & FROM_LOGITS:
            found |= {"logits"}
        return found

    @property
    def reads(self) -> frozenset[str]:
        """The optional fields of `Scores` that its blocks read."""
        found = _reads(self)
        return found if self.importance_cap is None else found | {"rollout_logprobs"}

    def plan(self, scores: Scores) -> Plan:
        """Filters, weights and denominators of the whole batch.

        Raises:
            UserError: if `scores` lacks a field that a block reads.
        """
        with torch.no_grad():  # a decorator would import torch with the module
            return self._plan(scores)

    def _plan(self, scores: Scores) -> Plan:
        keep = self.keep(scores)
        share = torch.where(keep, self.reduce(scores, keep), 0.0)[:, None]
        share = torch.where(scores.mask, share, 0.0)
        corrected = share
        if self.importance_cap is not None:
            ratio = (scores.logprobs - scores.read("rollout_logprobs")).exp()
            corrected = share * ratio.clamp(max=self.importance_cap)
        terms = []
        for term in self.terms:
            reward = term.loss.target(scores)
            base = share if reward is None else corrected
            terms.append(TermPlan(term.coef * base * term.weight(scores), reward))
        return Plan(scores.mask, scores.logprobs, keep, tuple(terms))

    def loss(self, plan: Plan, tokens: Tokens | Tensor, rows: Tensor | None = None) -> Tensor:
        """The surrogate whose gradient is the update; scalar, nats.

        Args:
            plan: of the whole batch, or any `map` of it.
            tokens: the student's log-probs with gradient, shaped like the plan's tensors (or like its `rows`).
            rows: indices of the rollouts that `tokens` holds. Over a split of the rows the parts sum to the whole.
        """
        if rows is not None:
            plan = plan.map(lambda x: x[rows])
        if isinstance(tokens, torch.Tensor):
            tokens = Tokens(tokens)
        # Masked before any arithmetic: a dead position may hold anything, −inf and NaN included.
        live = plan.live
        tokens = Tokens(torch.where(live, tokens.logprobs, plan.old_logprobs), tokens.student, tokens.teacher)
        total = tokens.logprobs.new_zeros(())
        for term, part in zip(self.terms, plan.terms, strict=True):
            value = term.loss(tokens, plan.old_logprobs, part.reward)  # type: ignore[arg-type]
            total = total + (part.coef * torch.where(part.coef != 0, value, 0.0)).sum()
        return total


def _reads(block: Any) -> frozenset[str]:
    """Fields of `Scores` read by a block and, through its dataclass fields, by the blocks inside it."""
    if isinstance(block, tuple):
        return frozenset().union(*map(_reads, block))
    if not is_dataclass(block) or isinstance(block, type):
        return frozenset()
    found: frozenset[str] = frozenset() if isinstance(block, Objective) else getattr(type(block), "reads", frozenset())
    for field in fields(block):
        value = getattr(block, field.name)
        found |= scope_reads(value) if field.name == "scope" else _reads(value)
    return found
