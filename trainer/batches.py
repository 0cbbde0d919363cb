"""A batch cut into what a forward and backward pass can hold. How it is cut changes no loss and no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.config import Machine
from trainer.rollout import Rollouts


def passes(rollouts: Rollouts, machine: Machine, rows: Tensor | None = None) -> list[Tensor]:
    """Rows of each pass over `rows` (all unless given): `micro_batch` at a time, or sorted by length under a budget.

    With `token_budget`, a pass holds as many rollouts of like length as have at most that many tokens, padding
    included; a longer rollout has a pass of its own. Within a pass rows keep their order.
    """
    if rows is None:
        rows = torch.arange(len(rollouts.mask), device=rollouts.mask.device)
    if not len(rows):
        return []
    if not machine.token_budget:
        return list(rows.split(machine.micro_batch))
    response = rollouts.mask.sum(1)
    prompt = rollouts.attention.sum(1) - response
    widths = {row: (int(prompt[row]), int(response[row])) for row in rows.tolist()}
    parts: list[list[int]] = []
    widest = (0, 0)
    for row in sorted(widths, key=lambda i: (-sum(widths[i]), i)):
        wider = (max(widest[0], widths[row][0]), max(widest[1], widths[row][1]))
        if parts and (len(parts[-1]) + 1) * sum(wider) <= machine.token_budget:
            parts[-1].append(row)
            widest = wider
        else:
            parts.append([row])
            widest = widths[row]
    return [torch.tensor(sorted(part), device=rows.device) for part in parts]


def take(rollouts: Rollouts, rows: Tensor, device: torch.device | None = None) -> Rollouts:
    """The rows of a batch, none also, on `device`."""
    if len(rows):
        found = rollouts.rows(rows)
    else:
        names = ("input_ids", "attention", "mask", "logprobs", "completed", "uid")
        found = replace(rollouts, prompts=(), **{name: getattr(rollouts, name)[:0] for name in names})
        found = replace(found, input_ids=found.input_ids[:, :1], attention=found.attention[:, :1])
        found = replace(found, mask=found.mask[:, :0], logprobs=found.logprobs[:, :0])
    if device is None:
        return found
    moved: dict[str, Any] = {name: t.to(device) for name, t in vars(found).items() if isinstance(t, Tensor)}
    return replace(found, **moved)


def token_order(mask: Tensor, parts: Sequence[Tensor]) -> Tensor | None:
    """[N] where each valid token of the batch, in row order, stands in the passes one after the other; None: there."""
    if torch.equal(torch.cat(list(parts)), torch.arange(len(mask), device=mask.device)):
        return None
    place = torch.zeros(mask.shape, dtype=torch.int64, device=mask.device)
    place[mask] = torch.arange(int(mask.sum()), device=mask.device)
    found = torch.cat([place[rows][mask[rows]] for rows in parts])
    return torch.empty_like(found).scatter_(0, found, torch.arange(len(found), device=mask.device))
