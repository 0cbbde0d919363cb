"""The growing cache against transformers' own, which concatenates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, Qwen3Config

from trainer import cache as module
from trainer.cache import LEAST, growing_cache

CONFIG = Qwen3Config(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    dropped=st.lists(st.booleans(), min_size=6, max_size=6),
    seed=st.integers(0, 9),
)
def test_the_same_keys_and_values_as_by_concatenation(lengths: list[int], dropped: list[bool], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    ours, plain = growing_cache(CONFIG)
    theirs = DynamicCache(config=CONFIG)
    rows = 5
    assert plain
    for length, drop in zip(lengths, dropped, strict=False):
        for layer in (0, 1):
            new = [torch.randn(rows, 1, length, 8, generator=draw) for _ in range(2)]
            for a, b in zip(ours.update(*new, layer), theirs.update(*new, layer), strict=True):
                assert torch.equal(a, b)
        assert ours.get_seq_length() == theirs.get_seq_length()
        if drop and rows > 1:
            kept = torch.randperm(rows, generator=draw)[: rows - 1]
            ours.batch_select_indices(kept)
            theirs.batch_select_indices(kept)
            rows -= 1


def test_a_token_is_written_into_place_until_the_room_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    larger = module._larger
    monkeypatch.setattr(module, "_larger", lambda held, used, size: sizes.append(size) or larger(held, used, size))
    cache, _ = growing_cache(CONFIG)
    for _ in range(LEAST + 2):
        cache.update(torch.ones(1, 1, 1, 8), torch.ones(1, 1, 1, 8), 0)
    # room for 1 + 64 tokens at the first, for 66 + 64 at the 66th; keys and values each
    assert sizes == [1 + LEAST] * 2 + [LEAST + 2 + LEAST] * 2


def test_layers_that_slide_stay_as_they_are_and_the_mask_is_left_to_transformers() -> None:
    config = Qwen3Config(
        num_hidden_layers=2, use_sliding_window=True, sliding_window=4, max_window_layers=1, layer_types=None
    )
    cache, plain = growing_cache(config)
    assert not plain
    assert [type(layer).__name__ for layer in cache.layers] == ["Roomy", "DynamicSlidingWindowLayer"]
