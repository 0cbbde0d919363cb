from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.worlds import random_scores, reorder, shifted
from trainer.errors import UserError
from trainer.scores import (
    ROW_FIELDS,
    TOKEN_FIELDS,
    Block,
    NonFiniteScores,
    Scores,
    per_segment,
    scope_reads,
    segment_sum,
    segments,
    token_extreme,
    token_mean,
    uniform,
)

SCOPES = ["batch", "trajectory", "group", "domain", Block(1), Block(2), Block(3), Block(100)]
WORLD = {"seed": st.integers(0, 10**6), "rows": st.integers(1, 7), "tokens": st.integers(1, 6)}


def minimal(mask: list[list[float]], **fields: object) -> Scores:
    m = torch.tensor(mask)
    return Scores(m, torch.full(m.shape, -1.0), torch.full(m.shape, -2.0), **fields)


# --- construction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKEN_FIELDS)
@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_stands_outside_of_the_mask_is_zeroed(name: str, rubbish: float) -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    value = torch.where(mask.bool(), -1.5, rubbish)
    fields = {"logprobs": torch.zeros(2, 3), "teacher_logprobs": torch.zeros(2, 3)} | {name: value}
    assert getattr(Scores(mask, **fields), name).tolist() == [[-1.5, -1.5, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", TOKEN_FIELDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_valid_token_that_is_not_finite_is_refused_by_name_and_place(name: str, bad: float) -> None:
    value = torch.zeros(2, 3)
    value[1, 2] = bad
    fields = {"logprobs": torch.zeros(2, 3), "teacher_logprobs": torch.zeros(2, 3)} | {name: value}
    with pytest.raises(NonFiniteScores, match=rf"^{name} is -?(nan|inf) at rollout 1, token 2$"):
        Scores(torch.ones(2, 3), **fields)


@pytest.mark.parametrize("name", TOKEN_FIELDS)
def test_a_token_field_of_another_shape_is_refused(name: str) -> None:
    fields = {"logprobs": torch.zeros(2, 3), "teacher_logprobs": torch.zeros(2, 3)} | {name: torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=rf"{name} is \(2, 4\), mask is \(2, 3\)"):
        Scores(torch.ones(2, 3), **fields)


@pytest.mark.parametrize("name", ROW_FIELDS)
def test_a_row_field_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is \(3,\), mask has 2 rows"):
        minimal([[1, 1], [1, 0]], **{name: torch.zeros(3)})


def test_a_mask_without_two_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask must be \[B,T\]"):
        Scores(torch.ones(3), torch.zeros(3), torch.zeros(3))


def test_scores_carry_no_gradient_and_are_float32() -> None:
    live = torch.full((1, 2), -1.0, dtype=torch.bfloat16, requires_grad=True)
    scores = Scores(torch.ones(1, 2), live, torch.zeros(1, 2, dtype=torch.float64))
    assert scores.mask.dtype == torch.bool
    assert not scores.logprobs.requires_grad
    assert scores.logprobs.dtype == scores.teacher_logprobs.dtype == torch.float32


def test_scores_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        minimal([[1.0]]).progress = 0.5  # type: ignore[misc]


def test_lengths_and_keys() -> None:
    scores = minimal([[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    assert scores.lengths.tolist() == [2, 0, 3]
    assert scores.keys().tolist() == [0, 1, 2]
    named = minimal([[1], [1]], uid=torch.tensor([7, 2**62]))
    assert named.keys().tolist() == [7, 2**62]


def test_reading_an_absent_field_names_it() -> None:
    with pytest.raises(UserError, match="'teacher_entropy'"):
        minimal([[1.0]]).read("teacher_entropy")


@given(**WORLD)
@settings(deadline=None, max_examples=30)
def test_select_picks_the_same_rows_of_every_field(seed: int, rows: int, tokens: int) -> None:
    scores = random_scores(seed, rows, tokens)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[: max(1, rows - 1)]
    picked, expected = scores.select(order), reorder(scores, order)
    for field in dataclasses.fields(Scores):
        a, b = getattr(picked, field.name), getattr(expected, field.name)
        assert a == b if field.name == "progress" else torch.equal(a, b)


# --- scopes ---------------------------------------------------------------------------------------------------


def test_segments_of_every_scope() -> None:
    scores = minimal(
        [[1], [1], [0], [1], [1]], group=torch.tensor([9, 9, 4, 4, 9]), domain=torch.tensor([2, 0, 2, 0, 5])
    )
    assert segments(scores, "batch").tolist() == [0, 0, 0, 0, 0]
    assert segments(scores, "trajectory").tolist() == [0, 1, 2, 3, 4]
    assert segments(scores, "group").tolist() == [1, 1, 0, 0, 1]
    assert segments(scores, "domain").tolist() == [1, 0, 1, 0, 2]
    assert segments(scores, Block(2)).tolist() == [0, 0, 1, 1, 2]
    assert segments(scores, Block(5)).tolist() == segments(scores, Block(99)).tolist() == [0, 0, 0, 0, 0]


def test_unknown_scopes_and_missing_columns_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown scope 'micro-batch'.*Block"):
        segments(minimal([[1.0]]), "micro-batch")  # type: ignore[arg-type]
    for scope in ("group", "domain"):
        with pytest.raises(UserError, match=f"'{scope}'"):
            segments(minimal([[1.0]]), scope)  # type: ignore[arg-type]
    for rows in (0, -1):
        with pytest.raises(UserError, match="at least one row"):
            Block(rows)


def test_scope_reads() -> None:
    assert scope_reads("group") == {"group"} and scope_reads("domain") == {"domain"}
    assert not scope_reads("batch") and not scope_reads("trajectory") and not scope_reads(Block(2))


def test_segment_sum_by_hand() -> None:
    # populations {0, 2} and {1}: 1 + 4 = 5 and 2
    assert segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3 - 2, 0, 1])).tolist() == [5.0, 2.0, 5.0]


def naive_populations(scores: Scores, scope: object) -> list[list[int]]:
    """Rows of each population, without segments()."""
    found: dict[object, list[int]] = {}
    for row in range(len(scores.mask)):
        if scope == "batch":
            name: object = 0
        elif scope == "trajectory":
            name = row
        elif isinstance(scope, Block):
            name = row // scope.rows
        else:
            name = int(getattr(scores, str(scope))[row])
        found.setdefault(name, []).append(row)
    return list(found.values())


@given(**WORLD, scope=st.sampled_from(SCOPES))
@settings(deadline=None, max_examples=80)
def test_token_statistics_equal_naive_loops(seed: int, rows: int, tokens: int, scope: object) -> None:
    scores = random_scores(seed, rows, tokens)
    # Rubbish outside of the mask must not be seen by a statistic of values that a caller did not clean.
    values = torch.where(scores.mask, scores.teacher_logprobs, float("nan"))
    mean = token_mean(values, scores, scope)  # type: ignore[arg-type]
    high = token_extreme(values, scores, scope, "amax")  # type: ignore[arg-type]
    low = token_extreme(values, scores, scope, "amin")  # type: ignore[arg-type]
    for population in naive_populations(scores, scope):
        valid = [float(values[row, t]) for row in population for t in range(tokens) if bool(scores.mask[row, t])]
        for row in population:
            assert float(mean[row]) == pytest.approx(math.fsum(valid) / len(valid) if valid else 0.0, abs=1e-5)
            assert float(high[row]) == (max(valid) if valid else 0.0)
            assert float(low[row]) == (min(valid) if valid else 0.0)


def test_statistics_of_a_batch_without_a_single_column() -> None:
    # Every rollout empty: pack() then makes T = 0.
    scores = Scores(torch.zeros(3, 0), torch.zeros(3, 0), torch.zeros(3, 0))
    assert token_mean(scores.logprobs, scores, "batch").tolist() == [0.0, 0.0, 0.0]
    assert token_extreme(scores.logprobs, scores, "batch", "amax").tolist() == [0.0, 0.0, 0.0]
    assert token_extreme(scores.logprobs, scores, "trajectory", "amin").tolist() == [0.0, 0.0, 0.0]


@given(**WORLD, scope=st.sampled_from(SCOPES))
@settings(deadline=None, max_examples=40)
def test_per_segment_visits_every_valid_entry_once(seed: int, rows: int, tokens: int, scope: object) -> None:
    scores = random_scores(seed, rows, tokens)
    ids = segments(scores, scope)  # type: ignore[arg-type]
    for valid in (scores.mask, scores.lengths > 0):
        visits = torch.zeros(valid.shape, dtype=torch.int64)
        calls = []

        def visit(where: torch.Tensor, visits: torch.Tensor = visits, calls: list[int] = calls) -> None:
            assert where.any()
            assert len(ids[where.any(1) if where.dim() == 2 else where].unique()) == 1
            visits[where] += 1
            calls.append(1)

        per_segment(ids, valid, visit)
        assert torch.equal(visits, valid.long())
        alive = [p for p in naive_populations(scores, scope) if bool((scores.lengths[p] > 0).any())]
        assert len(calls) == len(alive)


# --- keyed random numbers -------------------------------------------------------------------------------------

WORD = 2**64


def splitmix(x: int) -> int:
    """The published finaliser of splitmix64, in unbounded integers."""
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 % WORD
    x ^= x >> 27
    x = x * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    st.integers(0, 2**40),
    st.integers(-(2**70), 2**70),
)
@settings(deadline=None)
def test_uniform_is_splitmix64_of_key_counter_and_seed(keys: list[int], counter: int, seed: int) -> None:
    found = uniform(torch.tensor(keys), counter, seed)
    for key, value in zip(keys, found.tolist(), strict=True):
        first = splitmix((key + seed * 0x9E3779B97F4A7C15) % WORD)
        second = splitmix((first + (counter + 1) * 0x9E3779B97F4A7C15) % WORD)
        assert value == (second >> 11) / 2**53
        assert 0.0 <= value < 1.0


def test_uniform_depends_on_nothing_but_its_arguments() -> None:
    keys = torch.tensor([5, 2**62, 0, 77])
    once = uniform(keys, 3, 1)
    torch.rand(10)  # another generator's state does not matter
    assert torch.equal(once, uniform(keys, 3, 1))
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(once[order], uniform(keys[order], 3, 1))
    assert torch.equal(once[1:2], uniform(keys[1:2], 3, 1))
    grid = uniform(keys[:, None], torch.arange(4)[None, :], 1)
    assert torch.equal(grid[:, 3], once)


@pytest.mark.parametrize("varied", ["keys", "counter", "seed"])
def test_uniform_is_roughly_uniform_and_uncorrelated_along_each_argument(varied: str) -> None:
    n = 20_000
    if varied == "keys":
        x = uniform(torch.arange(n), 0, 0)
    elif varied == "counter":
        x = uniform(torch.full((n,), 12345), torch.arange(n), 0)
    else:
        x = torch.cat([uniform(torch.tensor([12345]), 0, seed) for seed in range(n)])
    values = x.numpy()
    assert len(np.unique(values)) == n
    # Deterministic numbers: 1e-3 is a bar for the construction, not a source of flakiness.
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 4 / math.sqrt(n)


def test_neighbouring_seeds_share_no_draws() -> None:
    keys, positions = torch.arange(50)[:, None], torch.arange(40)[None, :]
    a, b = uniform(keys, positions, 0), uniform(keys, positions, 1)
    assert not set(a.flatten().tolist()) & set(b.flatten().tolist())
    assert abs(float(np.corrcoef(a.flatten(), b.flatten())[0, 1])) < 4 / math.sqrt(2000)


def test_the_helpers_of_these_tests_keep_the_tokens() -> None:
    scores = random_scores(3, 4, 5)
    moved = shifted(scores, 2, 1)
    for name in TOKEN_FIELDS:
        assert torch.equal(getattr(moved, name)[moved.mask], getattr(scores, name)[scores.mask])
