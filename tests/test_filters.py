from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import random_scores, reorder, shifted
from trainer import filters as f
from trainer.errors import UserError
from trainer.quantities import LogRatio, StudentEntropy
from trainer.scores import Block, Scores

WORLD = {"seed": st.integers(0, 10**6), "rows": st.integers(1, 9), "tokens": st.integers(1, 5)}


def scored(values: list[float], lengths: list[int] | None = None, **fields: Tensor) -> Scores:
    """One-token rollouts (or of `lengths`) whose trajectory score is the given value on every token."""
    sizes = torch.tensor(lengths or [1] * len(values))
    mask = torch.arange(int(sizes.max()) or 1)[None, :] < sizes[:, None]
    teacher = torch.tensor(values)[:, None].expand(mask.shape)
    return Scores(mask, torch.zeros(mask.shape), teacher, **fields)


def distinct(n: int, seed: int = 0) -> Scores:
    """n rollouts with distinct scores, distinct identities, in random order."""
    g = torch.Generator().manual_seed(seed)
    values = torch.randperm(n, generator=g).float() - n
    return scored(values.tolist(), uid=torch.randperm(3 * n, generator=g)[:n])


# --- FiRe's filter --------------------------------------------------------------------------------------------

# methods.md 4.1: rollouts dropped by "linear quantile at 0.2, keep ≥" among n distinct scores
PUBLISHED = {1: 0, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 8: 2, 11: 2, 16: 3, 32: 7, 64: 13, 1024: 205}
SHARES = {2: 50, 3: 33, 4: 25, 5: 20, 6: 16.7, 8: 25, 11: 18.2, 16: 18.8, 32: 21.9, 64: 20.3, 1024: 20.02}  # percent


def test_the_published_table_of_dropped_fractions() -> None:
    for n, dropped in PUBLISHED.items():
        keep = f.DropBottom(0.2)(distinct(n))
        assert n - int(keep.sum()) == dropped, n
        assert 100 * dropped / n == pytest.approx(SHARES.get(n, 0), abs=0.5 if n == 3 else 0.06)


@pytest.mark.parametrize("percent", [0, 5, 10, 20, 25, 40, 50, 100])
def test_the_count_is_the_ceiling_of_the_fraction_of_n_minus_one(percent: int) -> None:
    for n in [*range(1, 60), 101, 256, 1000]:
        expected = math.ceil(Fraction(percent, 100) * (n - 1))
        scores = distinct(n, seed=n)
        keep = f.DropBottom(percent / 100)(scores)
        assert n - int(keep.sum()) == expected, n
        # and it is the lowest that go
        values = scores.teacher_logprobs[:, 0]
        assert not expected or values[~keep].max() < values[keep].min()


def test_the_score_is_the_mean_log_prob_not_the_sum() -> None:
    # A: mean −1 over four tokens (sum −4); B: mean −2 over one token (sum −2). B goes.
    scores = scored([-1.0, -2.0], [4, 1])
    assert f.TrajectoryMean()(scores).tolist() == [-1.0, -2.0]
    assert f.DropBottom(0.2)(scores).tolist() == [True, False]


def test_trajectory_mean_by_hand() -> None:
    scores = Scores(
        torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]),
        torch.tensor([[-1.0, -3.0, 7.0], [-4.0, 7.0, 7.0], [7.0, 7.0, 7.0]]),
        torch.tensor([[-2.0, -6.0, 7.0], [-1.0, 7.0, 7.0], [7.0, 7.0, 7.0]]),
    )
    assert f.TrajectoryMean()(scores).tolist() == [-4.0, -1.0, 0.0]  # (−2 − 6)/2; −1/1; empty
    assert f.TrajectoryMean(LogRatio())(scores).tolist() == [-2.0, 3.0, 0.0]  # ((−1) + (−3))/2; −1 − (−4)


def test_drop_bottom_by_hand() -> None:
    # scores −5 −1 −4 −2 −3; the 0.4 quantile is at position 1.6: between −4 and −3, −3.4
    scores = scored([-5.0, -1.0, -4.0, -2.0, -3.0])
    assert f.DropBottom(0.4)(scores).tolist() == [False, True, False, True, True]
    # position 0.25·4 = 1 exactly: the threshold is −4 itself, which stays (≥)
    assert f.DropBottom(0.25)(scores).tolist() == [False, True, True, True, True]
    assert f.DropBottom(0.0)(scores).tolist() == [True] * 5
    assert f.DropBottom(1.0)(scores).tolist() == [False, True, False, False, False]


def test_ties_stay_together() -> None:
    assert f.DropBottom(0.2)(scored([-1.0] * 7)).all()
    # −2 −2 −1 −1: position 0.6: between −2 and −2
    assert f.DropBottom(0.2)(scored([-2.0, -1.0, -2.0, -1.0])).all()
    # position 0.5·3 = 1.5: −1.5
    assert f.DropBottom(0.5)(scored([-2.0, -1.0, -2.0, -1.0])).tolist() == [False, True, False, True]


def test_a_population_of_one_is_kept_whatever_the_fraction() -> None:
    for fraction in (0.0, 0.2, 0.9, 1.0):
        assert f.DropBottom(fraction)(scored([-3.7])).all()
        assert f.DropBottom(fraction, scope="trajectory")(distinct(9)).all()
        assert f.DropBottom(fraction, scope=Block(1))(distinct(9)).all()


def test_empty_rollouts_are_outside_of_the_population_and_never_kept() -> None:
    # Were the empty ones (score 0) counted, the two lowest of six would go, ceil(0.2·5) = 1 of six.
    scores = scored([-5.0, 0.0, -1.0, 0.0, -4.0, -2.0], [2, 0, 1, 0, 3, 1])
    assert f.DropBottom(0.5)(scores).tolist() == [False, False, True, False, False, True]
    for rule in (f.KeepAll(), f.DropBottom(), f.DropTop(), f.DropRandom(), f.DropLengthMatched(f.DropBottom())):
        assert not rule(scores)[[1, 3]].any()
        assert not rule(scored([0.0, 0.0], [0, 0])).any()


def test_scopes_have_their_own_quantile() -> None:
    scores = scored([-1.0, -9.0, -2.0, -8.0], domain=torch.tensor([0, 1, 0, 1]), group=torch.tensor([0, 0, 1, 1]))
    assert f.DropBottom(0.2)(scores).tolist() == [True, False, True, True]
    assert f.DropBottom(0.2, scope="domain")(scores).tolist() == [True, False, False, True]
    assert f.DropBottom(0.2, scope="group")(scores).tolist() == [True, False, True, False]
    assert f.DropBottom(0.2, scope=Block(2))(scores).tolist() == [True, False, True, False]
    assert f.DropBottom(0.2, scope=Block(3))(scores).tolist() == [True, False, True, True]


def test_another_score() -> None:
    scores = Scores(
        torch.ones(3, 1), torch.zeros(3, 1), torch.tensor([[-1.0], [-2.0], [-3.0]]),
        student_entropy=torch.tensor([[0.1], [2.0], [1.0]]),
    )  # fmt: skip
    assert f.DropBottom(0.2, f.TrajectoryMean(StudentEntropy()))(scores).tolist() == [False, True, True]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 20.0, float("nan")])
def test_a_fraction_outside_of_the_unit_interval_is_refused(fraction: float) -> None:
    for rule in (f.DropBottom, f.DropTop, f.DropRandom):
        with pytest.raises(UserError, match="between 0 and 1"):
            rule(fraction)


# --- the other filters ----------------------------------------------------------------------------------------


@given(**WORLD, fraction=st.sampled_from([0.0, 0.1, 0.2, 0.5]))
@settings(deadline=None, max_examples=40)
def test_drop_top_and_drop_random_drop_as_many_as_drop_bottom(
    seed: int, rows: int, tokens: int, fraction: float
) -> None:
    scores = random_scores(seed, rows, tokens)
    bottom, top, random = (rule(fraction)(scores) for rule in (f.DropBottom, f.DropTop, f.DropRandom))
    assert int(bottom.sum()) == int(top.sum()) == int(random.sum())
    score = f.TrajectoryMean()(scores)
    gone = (scores.lengths > 0) & ~top
    assert not gone.any() or score[gone].min() >= score[top].max()


def test_random_drops_depend_on_identity_and_seed_only() -> None:
    scores = distinct(50)
    keep = f.DropRandom(0.2)(scores)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    assert torch.equal(f.DropRandom(0.2)(scores.select(order)), keep[order])
    assert not torch.equal(f.DropRandom(0.2, seed=1)(scores), keep)
    other_batch = scored([-1.0] * 50, uid=scores.uid)
    assert torch.equal(f.DropRandom(0.2)(other_batch), keep)  # the teacher's opinion plays no part


def test_random_drops_are_fair() -> None:
    # 400 batches of ten: 2 of 10 go, so each place goes 80 times; sd = sqrt(400·0.2·0.8) = 8
    lost = torch.zeros(10)
    for batch in range(400):
        scores = scored([-1.0] * 10, uid=torch.arange(10) + 10 * batch)
        lost += (~f.DropRandom(0.2)(scores)).float()
    assert float(lost.sum()) == 800
    assert bool(((lost - 80).abs() < 36).all())


def test_verdict_filters_by_hand() -> None:
    scores = scored(
        [-1.0] * 4, [1, 1, 0, 2],
        correct=torch.tensor([True, False, True, True]), completed=torch.tensor([True, True, True, False]),
    )  # fmt: skip
    assert f.KeepAll()(scores).tolist() == [True, True, False, True]
    assert f.CorrectOnly()(scores).tolist() == [True, False, False, True]
    assert f.FailureOnly()(scores).tolist() == [False, True, False, False]
    assert f.CompletedOnly()(scores).tolist() == [True, True, False, False]
    assert f.Both(f.CorrectOnly(), f.CompletedOnly())(scores).tolist() == [True, False, False, False]
    with pytest.raises(UserError, match="'correct'"):
        f.CorrectOnly()(scored([-1.0]))


def test_drop_longest() -> None:
    scores = scored([-1.0] * 5, [3, 9, 1, 2, 4])
    assert f.DropBottom(0.2, f.TrajectoryLength())(scores).tolist() == [True, False, True, True, True]
    # most of the batch at the length limit: still ceil(0.2·9) = 2 of ten go, and of the longest
    cut = scored([-1.0] * 10, [8, 8, 3, 8, 8, 8, 2, 8, 8, 8], uid=torch.arange(10) * 977)
    keep = f.DropBottom(0.2, f.TrajectoryLength())(cut)
    assert int(keep.sum()) == 8
    assert cut.lengths[~keep].tolist() == [8, 8]


def test_length_matching_takes_the_nearest_other_rollout() -> None:
    # FiRe drops ceil(0.2·5) = 1 of six: the one of length 7 with score −9; nearest in length among the rest: 8
    scores = scored([-9.0, -1.0, -2.0, -3.0, -4.0, -5.0], [7, 1, 8, 3, 12, 5])
    assert f.DropBottom(0.2)(scores).tolist() == [False, True, True, True, True, True]
    assert f.DropLengthMatched(f.DropBottom(0.2))(scores).tolist() == [True, True, False, True, True, True]


@given(**WORLD)
@settings(deadline=None, max_examples=40)
def test_length_matching_drops_as_many_but_none_of_the_same(seed: int, rows: int, tokens: int) -> None:
    scores = random_scores(seed, rows, tokens)
    fire, control = f.DropBottom(0.2)(scores), f.DropLengthMatched(f.DropBottom(0.2))(scores)
    present = scores.lengths > 0
    assert not (control & ~present).any()
    assert not ((present & ~fire) & (present & ~control)).any()
    assert int((present & ~control).sum()) == min(int((present & ~fire).sum()), int(fire.sum()))


FILTERS = [
    f.KeepAll(),
    f.DropBottom(),
    f.DropBottom(0.4, f.TrajectoryMean(LogRatio()), "domain"),
    f.DropBottom(0.2, f.TrajectoryLength(), "group"),
    f.DropTop(0.3),
    f.DropRandom(0.3),
    f.CompletedOnly(),
    f.CorrectOnly(),
    f.FailureOnly(),
    f.Both(f.CompletedOnly(), f.DropBottom(0.5)),
    f.DropLengthMatched(f.DropBottom(0.4)),
]


@pytest.mark.parametrize("rule", FILTERS, ids=lambda x: repr(x)[:60])
@given(**WORLD)
@settings(deadline=None, max_examples=15)
def test_every_filter_is_blind_to_layout(rule: f.Filter, seed: int, rows: int, tokens: int) -> None:
    scores = random_scores(seed, rows, tokens)
    keep = rule(scores)
    assert keep.dtype == torch.bool
    assert keep.shape == (rows,)
    assert not keep[scores.lengths == 0].any()
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(rule(reorder(scores, order)), keep[order])
    assert torch.equal(rule(shifted(scores, 2, 1)), keep)
