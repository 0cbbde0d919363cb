"""What student and teacher said of every token of a rollout batch, and the populations statistics run over.

Shapes: `B` rollouts, `T` response tokens (right-padded). Log-probabilities, entropies and divergences in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from trainer.errors import UserError
from trainer.late import Tensor, torch

TOKEN_FIELDS = (
    "logprobs",
    "teacher_logprobs",
    "student_entropy",
    "teacher_entropy",
    "reverse_kl",
    "forward_kl",
    "ref_logprobs",
    "teacher_rank",
    "teacher_mass",
    "rollout_logprobs",
)
FROM_LOGITS = frozenset({"reverse_kl", "forward_kl", "teacher_rank", "teacher_mass"})  # need both models' logits
ROW_FIELDS = ("correct", "completed", "group", "domain", "uid")


class NonFiniteScores(ValueError):
    """A score of a valid token is NaN or infinite. The training loop records the step as skipped."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The whole rollout batch as numbers, without gradient: the only thing an objective plans from.

    Positions outside `mask` are set to zero on construction, so no later arithmetic can see what stood there.

    Raises:
        NonFiniteScores: if a valid token has a score that is NaN or infinite.
        ValueError: if a tensor has another shape than `mask` (or `[B]` for the row fields).
    """

    mask: Tensor  # [B,T] bool: trainable response tokens, the end-of-sequence token included
    logprobs: Tensor  # [B,T] log S(y_t) of the student at the start of the step ("old" log-probs)
    teacher_logprobs: Tensor  # [B,T] log Q(y_t)
    student_entropy: Tensor | None = None  # [B,T] full vocabulary
    teacher_entropy: Tensor | None = None  # [B,T] full vocabulary
    reverse_kl: Tensor | None = None  # [B,T] KL(S || Q), full vocabulary
    forward_kl: Tensor | None = None  # [B,T] KL(Q || S), full vocabulary
    ref_logprobs: Tensor | None = None  # [B,T] of a third model
    rollout_logprobs: Tensor | None = None  # [B,T] as the sampling engine gave them
    teacher_rank: Tensor | None = None  # [B,T] the teacher's rank (1 = best) of the student's most likely token
    teacher_mass: Tensor | None = None  # [B,T] teacher's probability of the student's 16 most likely tokens
    correct: Tensor | None = None  # [B] bool: the verifier's verdict
    completed: Tensor | None = None  # [B] bool: ended by itself, not by the length limit
    group: Tensor | None = None  # [B] int64: rollouts of one prompt share a number
    domain: Tensor | None = None  # [B] int64: one number per domain, hence per teacher
    uid: Tensor | None = None  # [B] int64: identity of a rollout, the key of every random control
    progress: float = 0.0  # fraction of training done, in [0,1]

    def __post_init__(self) -> None:
        mask = self.mask.detach().bool()
        if mask.dim() != 2:
            raise ValueError(f"mask must be [B,T], got {tuple(mask.shape)}")
        object.__setattr__(self, "mask", mask)
        for name in TOKEN_FIELDS:
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != mask.shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, mask is {tuple(mask.shape)}")
            value = torch.where(mask, value.detach().float(), 0.0)
            if not torch.isfinite(value).all():
                row, token = (~torch.isfinite(value)).nonzero()[0].tolist()
                raise NonFiniteScores(f"{name} is {value[row, token].item()} at rollout {row}, token {token}")
            object.__setattr__(self, name, value)
        for name in ROW_FIELDS:
            value = getattr(self, name)
            if value is not None and value.shape != mask.shape[:1]:
                raise ValueError(f"{name} is {tuple(value.shape)}, mask has {mask.shape[0]} rows")

    def read(self, name: str) -> Tensor:
        """The field `name`; a `UserError` that names it where it was not provided."""
        value = getattr(self, name)
        if value is None:
            raise UserError(f"the objective reads '{name}', which these scores do not hold")
        return value

    @property
    def lengths(self) -> Tensor:
        """[B] valid tokens per rollout."""
        return self.mask.sum(1)

    def keys(self) -> Tensor:
        """[B] int64 identities of the rollouts: `uid`, or the row number where there is none."""
        return self.uid if self.uid is not None else torch.arange(len(self.mask), device=self.mask.device)

    def select(self, rows: Tensor) -> Scores:
        """The same scores for a subset or a permutation of the rollouts."""
        picked: dict[str, Any] = {
            f.name: value[rows] if isinstance(value := getattr(self, f.name), torch.Tensor) else value
            for f in fields(self)
        }
        return Scores(**picked)


# --- scopes: the population of a statistic --------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Consecutive rows of `rows` rollouts: what a micro-batch of that size sees in released code."""

    rows: int

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UserError(f"Block needs at least one row, got {self.rows}")


Scope = Literal["batch", "trajectory", "group", "domain"] | Block


def segments(scores: Scores, scope: Scope) -> Tensor:
    """[B] int64: rollouts with the same number form one population of `scope`.

    Raises:
        UserError: for an unknown scope, or one whose column the scores do not hold.
    """
    rows = torch.arange(len(scores.mask), device=scores.mask.device)
    if isinstance(scope, Block):
        return rows // scope.rows
    if scope == "batch":
        return torch.zeros_like(rows)
    if scope == "trajectory":
        return rows
    if scope in ("group", "domain"):
        return torch.unique(scores.read(scope), return_inverse=True)[1]
    raise UserError(f"unknown scope {scope!r}: use batch, trajectory, group, domain or Block(k)")


def scope_reads(scope: Scope) -> frozenset[str]:
    """The columns of `Scores` that a scope needs."""
    return frozenset({scope} & {"group", "domain"}) if isinstance(scope, str) else frozenset()


def segment_sum(rows: Tensor, ids: Tensor) -> Tensor:
    """Sums `rows` [B] within segments `ids` [B] and hands each row its segment's sum, [B]."""
    total = rows.new_zeros(len(ids)).index_add_(0, ids, rows)
    return total[ids]


def token_mean(values: Tensor, scores: Scores, scope: Scope) -> Tensor:
    """[B]: for each row, the mean of `values` [B,T] over the valid tokens of its population (0 if it has none)."""
    ids = segments(scores, scope)
    total = segment_sum(torch.where(scores.mask, values, 0.0).sum(1), ids)
    count = segment_sum(scores.lengths.to(values.dtype), ids)
    return total / count.clamp(min=1)


def token_extreme(values: Tensor, scores: Scores, scope: Scope, kind: Literal["amax", "amin"]) -> Tensor:
    """[B]: for each row, the largest or smallest valid value [B,T] of its population (0 if it has none)."""
    ids = segments(scores, scope)
    empty = -torch.inf if kind == "amax" else torch.inf
    # One empty column more, for a batch in which every rollout is empty has none to reduce over.
    rows = torch.nn.functional.pad(torch.where(scores.mask, values, empty), (0, 1), value=empty)
    rows = rows.amax(1) if kind == "amax" else rows.amin(1)
    found = torch.full((len(ids),), empty, dtype=values.dtype, device=values.device)
    found = found.scatter_reduce(0, ids, rows, kind)[ids]
    return torch.where(torch.isfinite(found), found, 0.0)


def per_segment(ids: Tensor, valid: Tensor, rule: Callable[[Tensor], None]) -> None:
    """Calls `rule(where)` once per segment with the boolean selector (shape of `valid`) of its valid entries."""
    for segment in torch.unique(ids):
        chosen = ids == segment
        where = valid & (chosen[:, None] if valid.dim() == 2 else chosen)
        if where.any():
            rule(where)


# --- deterministic random numbers -----------------------------------------------------------------------------


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64 tensors (wrapping arithmetic, logical shifts)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(keys: Tensor, counter: Tensor | int, seed: int) -> Tensor:
    """Uniform numbers in [0,1), float64, as a pure function of (key, counter, seed).

    Random choices keyed this way do not depend on row order, micro-batch, batch composition or how often a
    generator was called before, so they survive a resume and a permutation.

    Args:
        keys: int64, any shape. counter: int64, broadcastable. seed: any integer.
    """
    golden = -0x61C8864680B583EB
    counter = torch.as_tensor(counter, dtype=torch.int64, device=keys.device)
    offset = (seed * golden + (1 << 63)) % (1 << 64) - (1 << 63)  # wrapped: Python integers do not overflow
    x = _mix(keys.to(torch.int64) + offset)
    x = _mix(x + (counter + 1) * golden)
    return ((x >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
