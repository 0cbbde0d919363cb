"""Teachers: what scores the student's tokens. Each declares what it `provides`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.head import Logits, project
from trainer.policy import Policy
from trainer.rollout import Rollouts


@dataclass(frozen=True, eq=False)
class TeacherScores:
    """A teacher's view of a batch of rollouts with N valid response tokens, in row order."""

    logits: Logits | None = None  # full vocabulary, computed when asked for
    logprobs: Tensor | None = None  # [N] nats, where a teacher has no logits to give


class Teacher(Protocol):
    """Scores given token ids, without gradient."""

    provides: frozenset[str]  # of `logprobs, entropy, logits`

    def score(self, rollouts: Rollouts) -> TeacherScores: ...


class LocalTeacher:
    """A transformers model in this process. Keeps hidden states of the batch, never its logits."""

    provides = frozenset({"logprobs", "entropy", "logits"})

    def __init__(self, policy: Policy, micro_batch: int = 64) -> None:
        self.policy = policy
        self.micro_batch = micro_batch
        policy.model.requires_grad_(False)

    @torch.no_grad()
    def score(self, rollouts: Rollouts) -> TeacherScores:
        hidden = torch.cat(
            [
                self.policy.hidden(rollouts.rows(rows))
                for rows in torch.arange(len(rollouts.mask)).split(self.micro_batch)
            ]
        )
        return TeacherScores(logits=lambda positions: project(hidden[positions], self.policy.head))


class RoutedTeacher:
    """One teacher per domain. Rows are partitioned by their prompt's domain; the objective never knows.

    Raises:
        UserError: if some of the teachers give logits and others log-probs only.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        self.teachers = dict(teachers)
        if len({"logits" in t.provides for t in self.teachers.values()}) > 1:
            raise UserError(f"of the teachers for {', '.join(teachers)}, some give logits and some do not")
        self.provides = frozenset.intersection(*(t.provides for t in self.teachers.values()))

    def score(self, rollouts: Rollouts) -> TeacherScores:
        """Raises: UserError, naming the prompt, for a domain that no teacher covers."""
        owners = []
        names = list(self.teachers)
        for prompt in rollouts.prompts:
            if prompt.domain not in self.teachers:
                raise UserError(
                    f"prompt '{prompt.id}' has domain '{prompt.domain}', but teachers exist for {', '.join(names)} only"
                )
            owners.append(names.index(prompt.domain))
        owner = torch.tensor(owners, device=rollouts.mask.device)
        token_owner = owner[:, None].expand_as(rollouts.mask)[rollouts.mask]
        place = torch.zeros_like(token_owner)  # of a token among its own teacher's tokens
        parts: dict[int, TeacherScores] = {}
        for index in owner.unique().tolist():
            rows = (owner == index).nonzero()[:, 0]
            parts[index] = self.teachers[names[index]].score(rollouts.rows(rows))
            mine = token_owner == index
            place[mine] = torch.arange(int(mine.sum()), device=place.device)
        if "logits" in self.provides:
            return TeacherScores(logits=lambda positions: _gather(parts, token_owner, place, positions))
        logprobs = torch.zeros(len(token_owner), device=place.device)
        for index, part in parts.items():
            assert part.logprobs is not None
            logprobs[token_owner == index] = part.logprobs
        return TeacherScores(logprobs=logprobs)

    @property
    def policies(self) -> list[Policy]:
        return [p for t in self.teachers.values() for p in ([t.policy] if isinstance(t, LocalTeacher) else [])]


def _gather(parts: Mapping[int, TeacherScores], owner: Tensor, place: Tensor, positions: Tensor) -> Tensor:
    whose = owner[positions]
    out: Tensor | None = None
    for index, part in parts.items():
        mine = (whose == index).nonzero()[:, 0]
        if part.logits is None or not len(mine):
            continue
        found = part.logits(place[positions[mine]])
        if out is None:
            out = found.new_empty(len(positions), found.shape[1])
        out[mine] = found
    if out is None:
        raise ValueError("no teacher owns these positions")
    return out
