"""Weights on their way from the trainer to an engine that holds a copy: written down, and proved to have arrived."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from trainer.engines import sampling_logprobs
from trainer.policy import Policy
from trainer.rollout import Sample, Sampling, pack

# Nats by which the engine's log-probs may differ from the trainer's. On the toy models rounding gives up to 1e-5 in
# float32 and 0.05 in bfloat16; weights that missed some training give tenths.
TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 0.2}
_PROBES: Final = 4  # prompts
_TOKENS: Final = 8  # of each response


class StaleWeights(RuntimeError):
    """After a sync the engine computes something else than the trainer.

    Attributes:
        gap: largest difference of log-probs, nats.
    """

    def __init__(self, message: str, gap: float) -> None:
        super().__init__(message)
        self.gap = gap


@contextlib.contextmanager
def written(state: dict[str, Tensor], folder: str = "") -> Iterator[Path]:
    """A temporary folder that holds a model's state as transformers saves it, below `folder` or in main memory."""
    from safetensors.torch import save_file

    shared = folder or ("/dev/shm" if Path("/dev/shm").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="opd-weights-", dir=shared) as made:
        # safetensors refuses tensors that share memory, as the two names of a tied head do
        apart = {name: torch.empty_like(t, device="cpu").copy_(t).contiguous() for name, t in state.items()}
        save_file(apart, Path(made) / "model.safetensors")
        yield Path(made)


@torch.no_grad()
def gap(
    policy: Policy, prompts: Sequence[Sequence[int]], samples: Sequence[Sample], sampling: Sampling | None = None
) -> float:
    """Largest difference in nats between the samples' log-probs and what the policy gives the same tokens."""
    rollouts = pack([], prompts, samples, range(len(samples)), policy.pad_id, device=policy.device)
    logits = (policy.hidden(rollouts) @ policy.head.T).float()
    policy.release()
    logp = sampling_logprobs(logits, sampling or Sampling(1)).gather(1, rollouts.targets[:, None])[:, 0]
    difference = (logp - rollouts.logprobs[rollouts.mask]).abs()
    return float(difference.max()) if len(difference) else 0.0


def check(
    policy: Policy,
    seen: Sequence[Sequence[int]],
    generate: Callable[[Sequence[Sequence[int]], Sequence[int], Sampling], list[Sample]],
    room: int,
    tolerance: float,
    what: str,
    temperature: float = 1.0,
) -> float:
    """The gap on a few sampled tokens, after a sync.

    Args:
        seen: prompts that the engine was asked before; none: made-up ones.
        room: most tokens of prompt and response. what: names the sync in the error.

    Raises:
        StaleWeights: if the gap is above `tolerance`. What moves log-probs by less cannot be missed: it would not show
            in rollouts either.
    """
    prompts = [list(prompt[:64]) for prompt in seen[:_PROBES]]
    prompts = prompts or [[(3 * row + 7 * at) % policy.vocab for at in range(8)] for row in range(_PROBES)]
    sampling = Sampling(min(_TOKENS, room - max(map(len, prompts))), temperature)
    found = gap(policy, prompts, generate(prompts, range(len(prompts)), sampling), sampling)
    if not found <= tolerance:  # NaN is no agreement either
        raise StaleWeights(
            f"after {what} the engine's log-probs differ from the trainer's by {found:.3g} nat (tolerance "
            f"{tolerance:g}): it holds stale weights or computes another model",
            found,
        )
    return found
