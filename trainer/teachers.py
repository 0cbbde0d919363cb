"""Teachers: what scores the student's tokens. Each declares what it `provides`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.divergences import entropy
from trainer.errors import UserError
from trainer.head import HeadLogits, Logits, chunk_size
from trainer.objective import Objective
from trainer.policy import Policy
from trainer.rollout import Rollouts


@dataclass(frozen=True, eq=False)
class TeacherScores:
    """A teacher's view of a batch of rollouts with N valid response tokens, in row order."""

    logits: Logits | None = None  # full vocabulary, computed when asked for
    logprobs: Tensor | None = None  # [N] nats, where a teacher has no logits to give
    entropy: Tensor | None = None  # [N] nats, full vocabulary: beside `logprobs`, from a teacher that knows it
    topk: Logits | None = None  # as `logits`, but true of the teacher's most likely ids and their total mass only


class Teacher(Protocol):
    """Scores given token ids, without gradient."""

    provides: frozenset[str]  # of `logprobs, entropy, logits, topk_logprobs`

    def score(self, rollouts: Rollouts) -> TeacherScores: ...


class Lent:
    """A model whose weights stay in main memory and are lent to a device for the time of a `with` block.

    Frozen weights need no way back: the copy on the device is dropped. Where the device is the CPU, nothing moves.

    Attributes:
        copies: tensors copied so far.
    """

    def __init__(self, model: Any, device: torch.device, to: Callable[[Tensor, torch.device], Tensor] | None = None):
        self.device, self.to, self.copies = device, to, 0
        self.home: list[tuple[Tensor, Tensor]] = []
        if device.type == "cpu" and to is None:
            return
        pinned = device.type == "cuda"
        for tensor in (*model.parameters(), *model.buffers()):
            kept = tensor.data.cpu()
            self.home.append((tensor, kept.pin_memory() if pinned else kept))
        self.__exit__()

    def __enter__(self) -> None:
        for tensor, kept in self.home:
            tensor.data = self.to(kept, self.device) if self.to else kept.to(self.device, non_blocking=True)
            self.copies += 1

    def __exit__(self, *problem: object) -> None:
        for tensor, kept in self.home:
            tensor.data = kept


class LocalTeacher:
    """A transformers model in this process. Keeps hidden states of the batch, never its logits.

    Args:
        offload: the weights wait in main memory between steps, and of them only the head stays on the device with a
            batch's hidden states. Costs one copy of the weights per step; nothing where the device is the CPU.
    """

    provides = frozenset({"logprobs", "entropy", "logits", "topk_logprobs"})

    def __init__(self, policy: Policy, micro_batch: int = 64, offload: bool = False) -> None:
        self.policy = policy
        self.micro_batch = micro_batch
        policy.model.requires_grad_(False)
        self.lent = Lent(policy.model, policy.device if offload else torch.device("cpu"))

    @torch.no_grad()
    def score(self, rollouts: Rollouts) -> TeacherScores:
        with self.lent:
            hidden = torch.cat(
                [
                    self.policy.hidden(rollouts.rows(rows))
                    for rows in torch.arange(len(rollouts.mask)).split(self.micro_batch)
                ]
            )
            head = self.policy.head  # a view of the weight where it is now: it outlives the loan
        return TeacherScores(logits=HeadLogits(hidden, head))


class RoutedTeacher:
    """One teacher per domain. Rows are partitioned by their prompt's domain; the objective never knows.

    Provides what all of them provide: beside one that gives log-probs only, the others' logits serve for log-probs.
    """

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        self.teachers = dict(teachers)
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
        owner = torch.tensor(owners, dtype=torch.int64, device=rollouts.mask.device)
        token_owner = owner[:, None].expand_as(rollouts.mask)[rollouts.mask]
        place = torch.zeros_like(token_owner)  # of a token among its own teacher's tokens
        parts: dict[int, TeacherScores] = {}
        for index in owner.unique().tolist():
            rows = (owner == index).nonzero()[:, 0]
            parts[index] = self.teachers[names[index]].score(rollouts.rows(rows))
            mine = token_owner == index
            place[mine] = torch.arange(int(mine.sum()), device=place.device)
        if "logits" in self.provides:
            given = {index: part.logits for index, part in parts.items()}
            return TeacherScores(logits=lambda positions: _gather(given, token_owner, place, positions))
        logprobs = torch.zeros(len(token_owner), device=place.device)
        entropies = torch.zeros_like(logprobs) if "entropy" in self.provides else None
        for index, part in parts.items():
            mine = token_owner == index
            logprobs[mine], known = flatten(part, rollouts.targets[mine])
            if entropies is not None and known is not None:
                entropies[mine] = known
        if "topk_logprobs" not in self.provides:
            return TeacherScores(logprobs=logprobs, entropy=entropies)
        given = {index: part.logits or part.topk for index, part in parts.items()}
        return TeacherScores(
            logprobs=logprobs, topk=lambda positions: _gather(given, token_owner, place, positions), entropy=entropies
        )

    @property
    def policies(self) -> list[Policy]:
        return [p for t in self.teachers.values() for p in ([t.policy] if isinstance(t, LocalTeacher) else [])]


def _gather(parts: Mapping[int, Logits | None], owner: Tensor, place: Tensor, positions: Tensor) -> Tensor:
    whose = owner[positions]
    out: Tensor | None = None
    for index, logits in parts.items():
        mine = (whose == index).nonzero()[:, 0]
        if logits is None or not len(mine):
            continue
        found = logits(place[positions[mine]])
        if out is None:
            out = found.new_empty(len(positions), found.shape[1])
        out[mine] = found
    if out is None:
        raise ValueError("no teacher owns these positions")
    return out


@torch.no_grad()
def flatten(view: TeacherScores, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """[N] log-probs of `targets` and, where the teacher knows them, entropies: to the bit those of `score_head`."""
    if view.logits is None:
        assert view.logprobs is not None
        return view.logprobs, view.entropy
    logprobs = torch.zeros(len(targets), device=targets.device)
    entropies = torch.zeros_like(logprobs)
    if len(targets):
        positions = torch.arange(len(targets), device=targets.device)
        vocab = view.logits(positions[:1]).shape[1]
        for part in positions.split(chunk_size(vocab)):
            whole = view.logits(part).log_softmax(-1)
            logprobs[part] = whole.gather(1, targets[part, None])[:, 0]
            entropies[part] = entropy(whole)
    return logprobs, entropies


def token_ids(rollouts: Rollouts) -> list[tuple[list[int], list[int]]]:
    """Prompt and response ids of every rollout, without padding."""
    width = rollouts.input_ids.shape[1] - rollouts.mask.shape[1]
    ids, real, valid = (t.cpu() for t in (rollouts.input_ids, rollouts.attention.bool(), rollouts.mask))
    return [
        (ids[row, :width][real[row, :width]].tolist(), ids[row, width:][valid[row]].tolist())
        for row in range(len(valid))
    ]


def check_needs(objective: Objective, teacher: Teacher, name: str) -> None:
    """Refuses, before anything is computed, a method that needs more than its teacher provides.

    Args:
        objective: of which `needs` counts, and `top_k`: the most ids that a loss on the teacher's most likely ids asks
            for.

    Raises:
        UserError: naming the teacher, where there are several, and what it lacks.
    """
    members = teacher.teachers if isinstance(teacher, RoutedTeacher) else {"": teacher}
    for domain, member in members.items():
        whose = f"its teacher for '{domain}'" if domain else "its teacher"
        if missing := objective.needs - member.provides:
            raise UserError(
                f"method '{name}' needs {', '.join(sorted(missing))} from {whose}, which provides only "
                f"{', '.join(sorted(member.provides))}"
            )
        asked, most = getattr(objective, "top_k", 0), getattr(member, "top_k", 0)
        if "topk_logprobs" in objective.needs and "logits" not in member.provides and most < asked:
            raise UserError(f"method '{name}' needs the {asked} most likely ids from {whose}, which gives {most}")
