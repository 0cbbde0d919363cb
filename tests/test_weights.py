from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import random_scores, reorder, shifted
from trainer import weights as w
from trainer.errors import UserError
from trainer.filters import CorrectOnly, TrajectoryMean
from trainer.methods import fire_weight
from trainer.quantities import Complement, Negative, ReverseKL, StudentEntropy, TeacherEntropy, UnitMax
from trainer.scores import Block, Scope, Scores, segments, token_mean

WORLD = {"seed": st.integers(0, 10**6), "rows": st.integers(1, 6), "tokens": st.integers(1, 6)}
H = StudentEntropy()


def entropies(rows: list[list[float]], mask: list[list[float]], **fields: Tensor) -> Scores:
    m = torch.tensor(mask)
    return Scores(m, torch.zeros(m.shape), torch.zeros(m.shape), student_entropy=torch.tensor(rows), **fields)


def valid(found: Tensor, scores: Scores, expected: list[list[float]]) -> None:
    shown = torch.where(scores.mask, found, 0.0)
    torch.testing.assert_close(shown, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


class Raw:
    """A weight that reads the student's entropy as it is: for hand-computed cases."""

    def __call__(self, scores: Scores) -> Tensor:
        return scores.read("student_entropy")


# --- by hand --------------------------------------------------------------------------------------------------


def test_uniform_boost_times() -> None:
    scores = entropies([[0.0, 0.5, 1.0]], [[1, 1, 1]])
    valid(w.Uniform()(scores), scores, [[1, 1, 1]])
    valid(w.Boost(H, 3.0)(scores), scores, [[1, 2.5, 4]])
    valid(w.Boost(H, 0.0)(scores), scores, [[1, 1, 1]])
    valid(w.Times(w.Boost(H, 1.0), w.Boost(H, 3.0))(scores), scores, [[1, 1.5 * 2.5, 8]])


def test_mean_one_by_hand() -> None:
    scores = entropies([[1, 3, 9], [5, 9, 9]], [[1, 1, 0], [1, 0, 0]])
    # means over valid tokens: 2 and 5
    valid(w.MeanOne(Raw())(scores), scores, [[0.5, 1.5, 0], [1, 0, 0]])
    # batch: (1 + 3 + 5)/3 = 3
    valid(w.MeanOne(Raw(), "batch")(scores), scores, [[1 / 3, 1, 0], [5 / 3, 0, 0]])
    zero = entropies([[0, 0], [2, 4]], [[1, 1], [1, 1]])
    valid(w.MeanOne(Raw())(zero), zero, [[0, 0], [2 / 3, 4 / 3]])


def test_top_fraction_by_hand() -> None:
    scores = entropies([[1, 5, 9], [4, 2, 9], [9, 9, 9]], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    # four valid tokens, half of them: 5 and 4
    valid(w.TopFraction(H, 0.5)(scores), scores, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    # a quarter: one token; nothing: still one token
    valid(w.TopFraction(H, 0.25)(scores), scores, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    valid(w.TopFraction(H, 0.0)(scores), scores, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    valid(w.TopFraction(H, 1.0)(scores), scores, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    # one per trajectory
    valid(w.TopFraction(H, 0.5, "trajectory")(scores), scores, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    # the smallest instead
    valid(w.TopFraction(Negative(H), 0.5)(scores), scores, [[1, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_threshold_includes_its_bound() -> None:
    scores = entropies([[0.7, 0.8, 0.9]], [[1, 1, 1]])
    bound = float(torch.tensor(0.8))
    valid(w.Threshold(H, bound)(scores), scores, [[0, 1, 1]])


def test_leaky_switch_flat() -> None:
    scores = entropies([[0.0, 0.5], [1.0, 9.0]], [[1, 1], [1, 0]])
    valid(w.Leaky(Raw(), 0.01)(scores), scores, [[0.01, 0.5], [1, 0]])
    # mean of 0, 0.5 and 1 on every token; per trajectory 0.25 and 1
    valid(w.Flat(Raw())(scores), scores, [[0.5, 0.5], [0.5, 0]])
    valid(w.Flat(Raw(), "trajectory")(scores), scores, [[0.25, 0.25], [1, 0]])
    switch = w.Switch(w.Uniform(), Raw(), 0.5)
    for progress, expected in ((0.0, 1.0), (0.49, 1.0), (0.5, 0.25), (1.0, 0.25)):
        at = entropies([[0.25]], [[1]], progress=progress)
        assert float(switch(at)) == expected


def test_segments_by_hand() -> None:
    scores = entropies([[0] * 6] * 3, [[1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 1]])
    # 0.4 of five tokens: two; of one: at least one; of three (the mask has holes): round(1.2) = 1
    valid(w.Segment(0.4, 0.0)(scores), scores, [[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]])
    valid(w.Segment(0.4, 1.0)(scores), scores, [[0, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
    valid(w.Segment(1.0, 0.0)(scores), scores, scores.mask.float().tolist())


def test_random_segment_is_a_window_and_visits_every_place() -> None:
    n = 2000
    scores = Scores(torch.ones(n, 5), torch.zeros(n, 5), torch.zeros(n, 5))
    found = w.Segment(0.4, None)(scores)
    assert found.sum(1).tolist() == [2.0] * n
    starts = found.argmax(1)
    assert bool((found.gather(1, starts[:, None] + 1) == 1).all())  # the two are neighbours
    counts = torch.bincount(starts, minlength=4)
    # four places, 500 each; sd = sqrt(2000·¼·¾) ≈ 19
    assert len(counts) == 4
    assert bool(((counts - 500).abs() < 80).all())
    assert not torch.equal(found, w.Segment(0.4, None, seed=1)(scores))


def test_trajectory_softmax_by_hand() -> None:
    # scores ln 1, ln 3 → shares 1/4, 3/4 of two rollouts → weights 0.5 and 1.5
    scores = entropies([[0.0, 0.0], [math.log(3), 9.0], [9.0, 9.0]], [[1, 1], [1, 0], [0, 0]])
    mean_entropy = TrajectoryMean(H)
    valid(w.TrajectorySoftmax(mean_entropy)(scores), scores, [[0.5, 0.5], [1.5, 0], [0, 0]])
    # temperature ½ squares the odds: 1/10, 9/10
    valid(w.TrajectorySoftmax(mean_entropy, 0.5)(scores), scores, [[0.2, 0.2], [1.8, 0], [0, 0]])
    # alone in its population
    valid(w.TrajectorySoftmax(mean_entropy, scope="trajectory")(scores), scores, [[1, 1], [1, 0], [0, 0]])
    right = entropies([[0.0, 0.0], [math.log(3), 9.0]], [[1, 1], [1, 0]], correct=torch.tensor([True, False]))
    valid(w.TrajectorySoftmax(mean_entropy, members=CorrectOnly())(right), right, [[1, 1], [0, 0]])


def test_a_random_mask_takes_its_fraction() -> None:
    scores = entropies([[1.0] * 10] * 4, [[1] * 10, [1] * 5 + [0] * 5, [0] * 10, [1] * 6 + [0] * 4])
    for fraction, count in ((0.5, 10), (0.25, 5), (1.0, 21), (0.0, 1)):  # of 21 tokens; round(10.5) is even: 10
        found = w.RandomMask(fraction)(scores)
        assert int(found[scores.mask].sum()) == count
    each = w.RandomMask(0.5, scope="trajectory")(scores)
    assert torch.where(scores.mask, each, 0.0).sum(1).tolist() == [5, 2, 0, 3]
    assert not torch.equal(w.RandomMask(0.5, seed=0)(scores), w.RandomMask(0.5, seed=1)(scores))
    assert torch.equal(w.RandomMask(0.5)(scores), w.RandomMask(0.5)(scores))


def test_sampling_follows_its_odds() -> None:
    # One of two tokens per rollout with odds 3 : 1, over 4000 rollouts: 3000 ± sqrt(4000·¾·¼) ≈ 27
    n = 4000
    scores = entropies([[0.75, 0.25]] * n, [[1, 1]] * n)
    found = w.SampleFraction(H, 0.5, scope="trajectory")(scores)
    assert found.sum(1).tolist() == [1.0] * n
    assert abs(int(found[:, 0].sum()) - 3000) < 110
    # a token of weight zero is taken only when nothing else is left
    never = entropies([[0.0, 1.0]] * 50, [[1, 1]] * 50)
    assert int(w.SampleFraction(H, 0.5, scope="trajectory")(never)[:, 0].sum()) == 0


# --- the controls ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["batch", "trajectory", "group", Block(2)], ids=str)
@given(**WORLD)
@settings(deadline=None, max_examples=15)
def test_shuffling_keeps_the_multiset_of_each_population(scope: Scope, seed: int, rows: int, tokens: int) -> None:
    scores = random_scores(seed, rows, tokens)
    before, after = fire_weight()(scores), w.Shuffled(fire_weight(), scope=scope)(scores)
    ids = segments(scores, scope)
    for segment in ids.unique():
        where = scores.mask & (ids == segment)[:, None]
        assert torch.equal(before[where].sort().values, after[where].sort().values)


def test_shuffling_really_moves_weights_without_a_trace_of_the_order() -> None:
    n = 400
    values = torch.linspace(0, 1, n * 5).reshape(n, 5)
    scores = Scores(torch.ones(n, 5), torch.zeros(n, 5), torch.zeros(n, 5), student_entropy=values)
    dealt = w.Shuffled(Raw())(scores)
    correlation = float(torch.corrcoef(torch.stack([values.flatten(), dealt.flatten()]))[0, 1])
    assert abs(correlation) < 4 / math.sqrt(5 * n)
    assert not torch.equal(dealt, w.Shuffled(Raw(), seed=1)(scores))


def test_ties_are_broken_by_identity_not_by_place() -> None:
    uid = torch.tensor([11, 5, 42, 8])
    scores = entropies([[1.0, 1.0, 1.0]] * 4, [[1, 1, 1]] * 4, uid=uid)
    chosen = w.TopFraction(H, 0.5)(scores)
    assert int(chosen.sum()) == 6
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(w.TopFraction(H, 0.5)(scores.select(order)), chosen[order])
    # and not simply the first ones
    assert chosen.flatten().tolist() != [1.0] * 6 + [0.0] * 6


# --- properties of every weight -------------------------------------------------------------------------------

WEIGHTS = [
    w.Uniform(),
    fire_weight(),
    fire_weight(2.0, 0.5, "trajectory"),
    w.MeanOne(fire_weight()),
    w.MeanOne(fire_weight(), "domain"),
    w.TopFraction(ReverseKL(), 0.3),
    w.TopFraction(ReverseKL(), 0.3, "group"),
    w.Threshold(TeacherEntropy(), 0.8),
    w.Leaky(w.Threshold(TeacherEntropy(), 0.8)),
    w.Segment(0.3, 0.0),
    w.Segment(0.3, 1.0),
    w.Segment(0.5, None),
    w.Switch(w.Uniform(), fire_weight()),
    w.Flat(fire_weight()),
    w.SampleFraction(H, 0.4),
    w.TrajectorySoftmax(TrajectoryMean()),
    w.TrajectorySoftmax(TrajectoryMean(), 0.5, "domain", CorrectOnly()),
    w.RandomMask(0.5),
    w.RandomMask(0.4, 3, "trajectory"),
    w.Shuffled(fire_weight()),
    w.Shuffled(w.Boost(Complement(UnitMax(TeacherEntropy()))), 1, "trajectory"),
]


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda x: repr(x)[:70])
@given(**WORLD)
@settings(deadline=None, max_examples=12)
def test_every_weight_is_finite_non_negative_float32_and_blind_to_layout(
    weight: w.Weight, seed: int, rows: int, tokens: int
) -> None:
    scores = random_scores(seed, rows, tokens)
    found = weight(scores)
    assert found.shape == scores.mask.shape
    assert found.dtype == torch.float32
    assert bool(torch.isfinite(found).all())  # masked positions too: 0 · inf would poison a plan
    assert bool((found[scores.mask] >= 0).all())
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    moved = weight(reorder(scores, order))
    torch.testing.assert_close(moved[scores.mask[order]], found[order][scores.mask[order]])
    for left, right in ((0, 3), (2, 0)):
        wider = shifted(scores, left, right)
        torch.testing.assert_close(weight(wider)[wider.mask], found[scores.mask])


@pytest.mark.parametrize("scope", ["batch", "trajectory", "group", "domain", Block(2)], ids=str)
@given(**WORLD)
@settings(deadline=None, max_examples=15)
def test_mean_one_has_mean_one(scope: Scope, seed: int, rows: int, tokens: int) -> None:
    scores = random_scores(seed, rows, tokens)
    mean = token_mean(w.MeanOne(fire_weight(), scope)(scores), scores, scope)
    ids = segments(scores, scope)
    for row in range(rows):
        has_tokens = bool(scores.mask[ids == ids[row]].any())
        assert float(mean[row]) == pytest.approx(1.0 if has_tokens else 0.0, abs=1e-5)


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda x: repr(x)[:70])
def test_every_weight_survives_a_batch_without_tokens(weight: w.Weight) -> None:
    for tokens in (0, 3):
        scores = random_scores(0, 3, tokens, lengths=[0, 0, 0])
        assert weight(scores).shape == (3, tokens)
        assert bool(torch.isfinite(weight(scores)).all())


@pytest.mark.parametrize("fraction", [-0.1, 1.5, 50.0, float("nan")])
def test_fractions_outside_of_the_unit_interval_are_refused(fraction: float) -> None:
    for make in (
        lambda: w.TopFraction(H, fraction),
        lambda: w.SampleFraction(H, fraction),
        lambda: w.RandomMask(fraction),
        lambda: w.Segment(fraction),
        lambda: w.Segment(0.5, fraction),
    ):
        with pytest.raises(UserError, match="between 0 and 1"):
            make()
