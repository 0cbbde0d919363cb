"""A batch of rollouts: token ids as the engine made them, never re-tokenised text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainer.data import Prompt

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How an engine draws tokens. Log-probs are those of the distribution it draws from."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One response: ids (end-of-sequence included where it ended), their log-probs in nats, why it ended."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Prompts left-padded to `P`, responses right-padded to `T`, side by side in `input_ids`."""

    prompts: tuple[Prompt, ...]
    input_ids: Tensor  # [B,P+T] int64
    attention: Tensor  # [B,P+T] int64, 1 on real tokens
    mask: Tensor  # [B,T] bool: response tokens
    logprobs: Tensor  # [B,T] the engine's, nats
    completed: Tensor  # [B] bool
    uid: Tensor  # [B] int64: the seed each was drawn with, unique per (run, step, prompt, sample)
    version: int = 0  # of the weights that drew them

    @property
    def responses(self) -> Tensor:
        """[B,T] response ids."""
        return self.input_ids[:, self.input_ids.shape[1] - self.mask.shape[1] :]

    @property
    def targets(self) -> Tensor:
        """[N] ids of the valid response tokens, in row order."""
        return self.responses[self.mask]

    def rows(self, rows: Tensor) -> Rollouts:
        """A subset of the rollouts, trimmed to the longest prompt and response among them."""
        width = self.input_ids.shape[1] - self.mask.shape[1]
        lead = width - int(self.attention[rows, :width].sum(1).max())
        tail = int(self.mask[rows].sum(1).max())
        return Rollouts(
            tuple(self.prompts[i] for i in rows.tolist()),
            self.input_ids[rows, lead : width + tail],
            self.attention[rows, lead : width + tail],
            self.mask[rows, :tail],
            self.logprobs[rows, :tail],
            self.completed[rows],
            self.uid[rows],
            self.version,
        )


def pack(
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    samples: Sequence[Sample],
    seeds: Sequence[int],
    pad: int,
    version: int = 0,
    device: torch.device | str = "cpu",
) -> Rollouts:
    """Pads prompts and samples (one sample per prompt entry) into a batch. The mask comes from lengths, not ids."""
    size, width = len(samples), max(map(len, prompt_ids))
    longest = max((len(s.ids) for s in samples), default=0)
    ids = torch.full((size, width + longest), pad, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    mask = torch.zeros((size, longest), dtype=torch.bool)
    logprobs = torch.zeros((size, longest))
    for row, (prompt, sample) in enumerate(zip(prompt_ids, samples, strict=True)):
        end = width + len(sample.ids)
        ids[row, width - len(prompt) : end] = torch.tensor([*prompt, *sample.ids])
        attention[row, width - len(prompt) : end] = 1
        mask[row, : len(sample.ids)] = True
        logprobs[row, : len(sample.ids)] = torch.tensor(sample.logprobs)
    return Rollouts(
        tuple(prompts),
        ids.to(device),
        attention.to(device),
        mask.to(device),
        logprobs.to(device),
        torch.tensor([s.finish == "stop" for s in samples], device=device),
        torch.tensor(list(seeds), dtype=torch.int64, device=device),
        version,
    )
