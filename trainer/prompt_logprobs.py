"""Log-probs of prompts as vLLM writes them: for every token of the prompt a mapping from ids to their log-probs.

    {"choices": [{"prompt_logprobs": [null, {"17": {"logprob": -0.31, "rank": 1, "decoded_token": "…"}, …}, …], …}], …}

The first token has nothing before it, hence no mapping. Asked for k, a mapping holds the k most likely ids and the
prompt's own. Whatever is missing, not finite or no log-prob is a ValueError: the answer is malformed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

_IMPOSSIBLE: Final = -9999.0  # what vLLM writes for −inf, which JSON has not
_SLACK: Final = 1e-3  # by which rounding may lift a probability over 1
_LEAST_TAIL: Final = 1e-6  # a mass below it cannot be told from the rounding of the others


class RowScores(NamedTuple):
    """What the server said of one response of n tokens, float32, nats."""

    logprobs: Tensor  # [n]
    ids: Tensor | None = None  # [n,k] the most likely ids
    top: Tensor | None = None  # [n,k] their log-probs


def read_row(response: Sequence[int], start: int, entries: Sequence[Any], most: int = 0) -> RowScores:
    """Scores of the response that begins at place `start` of the prompt, with the `most` most likely ids."""
    logprobs, ids, top = [], [], []
    for place, token in enumerate(response, start):
        found = log_probs(entries[place], place)
        if token not in found:
            raise ValueError(f"no log-prob of token {place}, id {token}")
        logprobs.append(found[token])
        if most:
            likely = sorted(found.items(), key=lambda item: -item[1])[:most]
            if len(likely) < most:
                raise ValueError(f"{len(likely)} ids at token {place}, asked for the {most} most likely")
            if sum(math.exp(value) for _, value in likely) > 1 + _SLACK:
                raise ValueError(f"the probabilities at token {place} add up to more than 1")
            ids.append([id for id, _ in likely])
            top.append([value for _, value in likely])
    flat = torch.tensor(logprobs, dtype=torch.float32)
    if not most:
        return RowScores(flat)
    shape = (len(response), most)
    kept = torch.tensor(ids, dtype=torch.int64).reshape(shape)
    return RowScores(flat, kept, torch.tensor(top, dtype=torch.float32).reshape(shape))


def entries(data: Any, count: int | None = None) -> list[Any]:
    """The log-probs of a prompt, a mapping for every token.

    Raises:
        ValueError: if there are none, or of another number of tokens.
    """
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("no choices")
    entries = choices[0].get("prompt_logprobs")
    if not isinstance(entries, list):
        raise ValueError("no prompt log-probs")
    if count is not None and len(entries) != count:
        raise ValueError(f"log-probs of {len(entries)} tokens, sent were {count}")
    return entries


def log_probs(entry: Any, place: int) -> dict[int, float]:
    """Log-probs by id of one position.

    Raises:
        ValueError: for what is no log-prob.
    """
    if not isinstance(entry, dict) or not entry:
        raise ValueError(f"no log-probs at token {place}")
    found = {}
    for id, item in entry.items():
        value = item.get("logprob") if isinstance(item, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"no log-prob at token {place}")
        if not math.isfinite(value) or value <= _IMPOSSIBLE:
            raise ValueError(f"a log-prob of {value} at token {place}")
        if value > _SLACK:
            raise ValueError(f"{value:g} at token {place} is no log-prob: start the server with raw_logprobs")
        found[int(id)] = float(value)
    return found


def spread(ids: Tensor, top: Tensor, vocab: int) -> Tensor:
    """Log-probs `[n, vocab]` with `top` at `ids` and the rest of the mass in equal parts on the other ids.

    No part is larger than the least of `top`, so the most likely ids are the right ones, and sums over the others are
    right but for rounding. What falls on ids beyond the vocabulary is left out.
    """
    rest = (1.0 - top.double().exp().sum(-1, keepdim=True)).clamp(min=_LEAST_TAIL)
    share = (rest / max(1, vocab - ids.shape[1])).log().float().minimum(top.amin(-1, keepdim=True))
    whole = share.expand(len(ids), vocab + 1).clone()
    return whole.scatter(1, ids.clamp(max=vocab), top)[:, :vocab]
