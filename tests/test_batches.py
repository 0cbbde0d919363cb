from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import ListPrompts
from trainer.batches import passes, take, token_order
from trainer.config import Machine
from trainer.rollout import Rollouts, Sample, pack


def ragged(sizes: Sequence[tuple[int, int]]) -> Rollouts:
    """Rollouts with these lengths of prompt and response."""
    samples = [Sample((7,) * n, (-1.0,) * n, "stop") for _, n in sizes]
    return pack(ListPrompts(count=len(sizes)).prompts, [[5] * p for p, _ in sizes], samples, range(len(sizes)), 0)


SIZES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=20)


@given(sizes=SIZES, budget=st.integers(0, 80), micro_batch=st.integers(1, 8), data=st.data())
@settings(deadline=None, max_examples=60)
def test_passes_hold_every_row_once_within_the_budget(
    sizes: list[tuple[int, int]], budget: int, micro_batch: int, data: st.DataObject
) -> None:
    rollouts = ragged(sizes)
    chosen = torch.tensor(sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1)))), dtype=torch.int64)
    setting = Machine(token_budget=budget, micro_batch=micro_batch)
    for rows in (None, chosen):
        parts = passes(rollouts, setting, rows)
        wanted = list(range(len(sizes))) if rows is None else rows.tolist()
        assert sorted(row for part in parts for row in part.tolist()) == wanted
        for part in parts:
            assert len(part)
            assert part.tolist() == sorted(part.tolist())
            if budget:
                padded = rollouts.rows(part).input_ids.numel()
                assert padded <= budget or len(part) == 1
            else:
                assert len(part) <= micro_batch


def test_passes_by_hand() -> None:
    # prompts and responses: 2+2, 3+9, 2+1, 3+8. Sorted: 12, 11, 4, 3 tokens. A budget of 24 takes the first two, padded
    # to 3 + 9; the other two, padded to 2 + 2, make the next pass. One of 23 takes
    # the longest alone, then 3 + 8 twice, and leaves the last one by itself.
    rollouts = ragged([(2, 2), (3, 9), (2, 1), (3, 8)])
    assert [part.tolist() for part in passes(rollouts, Machine(token_budget=24))] == [[1, 3], [0, 2]]
    assert [part.tolist() for part in passes(rollouts, Machine(token_budget=23))] == [[1], [0, 3], [2]]
    assert [part.tolist() for part in passes(rollouts, Machine(token_budget=1000))] == [[0, 1, 2, 3]]
    assert [part.tolist() for part in passes(rollouts, Machine(micro_batch=3))] == [[0, 1, 2], [3]]
    assert passes(rollouts, Machine(), torch.arange(0)) == []


@given(sizes=SIZES, budget=st.integers(0, 60))
@settings(deadline=None, max_examples=40)
def test_tokens_come_back_in_the_order_of_rows(sizes: list[tuple[int, int]], budget: int) -> None:
    rollouts = ragged(sizes)
    parts = passes(rollouts, Machine(token_budget=budget, micro_batch=3))
    marks = torch.arange(rollouts.mask.numel()).view(rollouts.mask.shape)
    flat = torch.cat([marks[rows][rollouts.mask[rows]] for rows in parts])
    order = token_order(rollouts.mask, parts)
    assert torch.equal(flat if order is None else flat[order], marks[rollouts.mask])


def test_no_rows_of_a_batch() -> None:
    none = take(ragged([(2, 3), (1, 4)]), torch.arange(0))
    assert none.prompts == ()
    assert none.mask.shape == (0, 0)
    assert len(none.targets) == 0
    one = take(ragged([(2, 3), (1, 4)]), torch.tensor([0]))
    assert one.mask.shape == (1, 3)
