"""The key–value cache of decoding, with room to grow: a token is written into place, not copied with all before it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

LEAST = 64  # tokens of room that a layer makes at a time, or a quarter of what it holds


def growing_cache(config: Any) -> tuple[DynamicCache, bool]:
    """An empty cache for a model, and whether all its layers attend to everything before: none slides, none is linear.

    Layers of other kinds stay as transformers makes them.
    """
    cache = DynamicCache(config=config)
    plain = [type(layer) is DynamicLayer for layer in cache.layers]
    cache.layers = [Roomy() if is_plain else layer for is_plain, layer in zip(plain, cache.layers, strict=True)]
    return cache, bool(plain) and all(plain)


class Roomy(DynamicLayer):
    """A layer whose `keys` and `values` are the used parts of larger buffers, `[batch, heads, tokens, size]`."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends tokens; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room: tuple[Tensor, ...] = (key_states[:, :, :0], value_states[:, :, :0])
        used = self.get_seq_length()
        total = used + key_states.shape[-2]
        if total > self.room[0].shape[-2]:
            size = total + max(LEAST, total // 4)
            self.room = tuple(_larger(held, used, size) for held in self.room)
        for held, new in zip(self.room, (key_states, value_states), strict=True):
            held[:, :, used:total] = new
        self.keys, self.values = (held[:, :, :total] for held in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows only."""
        if used := self.get_seq_length():
            self.room = tuple(held[indices] for held in self.room)
            self.keys, self.values = (held[:, :, :used] for held in self.room)


def _larger(held: Tensor, used: int, size: int) -> Tensor:
    room = held.new_empty((*held.shape[:2], size, held.shape[3]))
    room[:, :, :used] = held[:, :, :used]
    return room
