"""Rollout engines: prompts in as token ids, samples out as token ids with log-probs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainer.policy import Policy
from trainer.rollout import Finish, Sample, Sampling
from trainer.scores import uniform

STREAM = -2  # seed of the engine's draws, apart from those of the random controls, which share its keys


class RolloutEngine(Protocol):
    """Draws one sample per prompt entry. Each sample depends on its own seed only, not on its neighbours."""

    version: int  # of the weights it holds: the number of syncs so far

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]: ...

    def sync(self, policy: Policy) -> None:
        """Takes over the policy's weights."""
        ...


class HFEngine:
    """Samples with the transformers module itself, which it shares with the trainer: a sync copies nothing.

    Tokens are drawn by inverting the cumulative distribution at a uniform number that (seed, position) determine.
    """

    def __init__(self, policy: Policy, batch: int = 64) -> None:
        self.policy = policy
        self.batch = batch
        self.version = 0

    def sync(self, policy: Policy) -> None:
        self.policy = policy
        self.version += 1

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
        return [sample for _, sample in self.stream(prompts, seeds, sampling)]

    def stream(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, Sample]]:
        """(index of the prompt, sample) as they are done: here in order, a batch at a time."""
        for start in range(0, len(prompts), self.batch):
            end = start + self.batch
            yield from enumerate(self._decode(prompts[start:end], seeds[start:end], sampling), start)

    @torch.no_grad()
    def _decode(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
        from trainer.cache import growing_cache

        policy, device = self.policy, self.policy.device
        width, size = max(map(len, prompts)), len(prompts)
        ids = torch.full((size, width), policy.pad_id, dtype=torch.int64)
        attention = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            attention[row, width - len(prompt) :] = 1
        ids, attention = ids.to(device), attention.to(device)
        keys = torch.tensor(list(seeds), dtype=torch.int64, device=device)
        eos = torch.tensor(sorted(policy.eos_ids), device=device)

        drawn = torch.full((size, sampling.max_tokens), policy.pad_id, dtype=torch.int64, device=device)
        logprobs = torch.zeros((size, sampling.max_tokens), device=device)
        length = torch.full((size,), sampling.max_tokens, device=device)
        ended = torch.zeros(size, dtype=torch.bool, device=device)
        alive = torch.arange(size, device=device)  # rows still in the cache
        noise = uniform(keys[:, None], torch.arange(sampling.max_tokens, device=device), STREAM)
        cache, plain = growing_cache(policy.model.config)
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        step_ids = ids
        mask: Tensor | None = attention
        # Where no layer has a mask of its own kind, transformers need not make one anew for every token.
        ready = plain and policy.model.config._attn_implementation == "sdpa"
        seen = torch.cat([attention, attention.new_ones(size, sampling.max_tokens)], 1)
        seen = seen.bool()[:, None, None] if ready else seen
        padded = not bool(seen.all())
        for t in range(sampling.max_tokens):
            states = policy.model.model(
                input_ids=step_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            logp = sampling_logprobs((states @ policy.head.T).float(), sampling)
            token = draw(logp, noise[alive, t])
            drawn[alive, t] = token
            logprobs[alive, t] = logp.gather(1, token[:, None])[:, 0]
            stop = torch.isin(token, eos) & ~ended[alive]
            length[alive[stop]] = t + 1
            ended[alive[stop]] = True
            going = (~ended[alive]).nonzero()[:, 0]
            if not len(going):
                break
            positions = positions[:, -1:] + 1
            step_ids = token[:, None]
            # Finished rows are carried along until enough of them have gathered to pay for the copy of the cache.
            if len(going) <= 0.8 * len(alive):
                alive, seen, positions, step_ids = (x[going] for x in (alive, seen, positions, step_ids))
                cache.batch_select_indices(going)
                padded = not bool(seen.all())
            mask = None if ready and not padded else seen[..., : width + t + 1]
        return [
            _sample(drawn[row, :n].tolist(), logprobs[row, :n].tolist(), end)
            for row, (n, end) in enumerate(zip(length.tolist(), ended.tolist(), strict=True))
        ]


def sampling_logprobs(logits: Tensor, sampling: Sampling) -> Tensor:
    """[B,V] log-probs of the distribution that `sampling` draws from: tempered, cut to the top-p nucleus."""
    if sampling.temperature == 0.0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    logp = (logits / sampling.temperature).log_softmax(-1)
    if sampling.top_p >= 1.0:
        return logp
    ordered, index = logp.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    cut = (before >= sampling.top_p).scatter(-1, index, before >= sampling.top_p)
    return logp.masked_fill(cut, -torch.inf).log_softmax(-1)


def draw(logp: Tensor, u: Tensor) -> Tensor:
    """[B] ids by inversion: the first id at which the cumulative probability passes `u` in [0,1)."""
    cumulative = logp.double().exp().cumsum(-1)
    # Scaled to its own total, which rounding leaves a hair off one.
    return torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True)[:, 0].clamp(
        max=logp.shape[-1] - 1
    )


def _sample(ids: list[int], logprobs: list[float], ended: bool) -> Sample:
    finish: Finish = "stop" if ended else "length"
    return Sample(tuple(ids), tuple(logprobs), finish)


class FrozenEngine:
    """An engine whose weights a sync leaves alone: samples a teacher's rollouts for off-policy references."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine
        self.version = 0

    def sync(self, policy: Policy) -> None:
        self.version += 1

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
        return self.engine.generate(prompts, seeds, sampling)


class ScriptedEngine:
    """Answers from a function of (prompt ids, seed): for tests, and for grading the harness itself."""

    def __init__(self, script: Callable[[Sequence[int], int], Sample]) -> None:
        self.script = script
        self.version = 0

    def sync(self, policy: Policy) -> None:
        self.version += 1

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling) -> list[Sample]:
        return [self.script(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
