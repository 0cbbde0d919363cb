from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.stats import (
    avg_at_k,
    holm,
    macro,
    maj_at_k,
    minimum_detectable,
    paired,
    paired_macro,
    pass_at_k,
    pass_hat_k,
)

matrices = st.tuples(st.integers(1, 6), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 1), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


# -- avg@k


def test_hand_value_of_avg_at_k() -> None:
    # p = 1, 1/2, 0: mean 1/2, s = 1/2, SE = 0.5/sqrt(3) = 0.288675, t(2, 0.975) = 4.302653, half 1.2421 > 1/2
    estimate = avg_at_k([[1, 1], [1, 0], [0, 0]])
    assert estimate.value == 0.5
    assert estimate.se == pytest.approx(0.5 / math.sqrt(3))
    assert (estimate.low, estimate.high) == (0.0, 1.0)
    assert (estimate.n, estimate.k, estimate.metric, estimate.interval) == (3, 2, "avg@2", "t over problems")
    # fixed set: p(1-p) = 0, 1/4, 0; over K - 1 = 1: SE = sqrt(1/4)/3 = 1/6, times 1.959964
    assert estimate.fixed_high - estimate.value == pytest.approx(1.959964 / 6, abs=1e-6)


def test_interval_is_scipys_t_interval() -> None:
    x = np.random.default_rng(1).random((40, 8)) < np.linspace(0.1, 0.8, 40)[:, None]
    p = x.mean(axis=1)
    low, high = scipy.stats.t.interval(0.95, 39, loc=p.mean(), scale=scipy.stats.sem(p))
    estimate = avg_at_k(x)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-12)


def test_clustered_error_against_the_pairwise_definition() -> None:
    x = np.random.default_rng(2).random((24, 4)) < 0.4
    clusters = [f"family {i // 5}" for i in range(24)]  # 5, 5, 5, 5, 4
    residual = x.mean(axis=1) - x.mean()
    pairs = sum(
        residual[i] * residual[j] for i in range(24) for j in range(24) if clusters[i] == clusters[j]
    )  # Miller's double sum, with C/(C-1)
    estimate = avg_at_k(x, clusters)
    assert estimate.se == pytest.approx(math.sqrt(5 / 4 * pairs) / 24)
    assert estimate.high - estimate.value == pytest.approx(scipy.stats.t.ppf(0.975, 4) * estimate.se)
    assert avg_at_k(x, list(range(24))).se == pytest.approx(avg_at_k(x).se)


def test_cluster_sizes_matter_more_than_the_order_of_problems() -> None:
    x = np.array([[1, 1], [1, 0], [0, 0], [1, 0]])
    clusters = ["a", "a", "b", "b"]
    order = [2, 0, 3, 1]
    assert avg_at_k(x[order], [clusters[i] for i in order]).se == pytest.approx(avg_at_k(x, clusters).se)


def test_seeds_are_averaged_per_problem_first() -> None:
    x = np.array([[[1, 1], [0, 0]], [[1, 0], [1, 1]]])  # seed means 1/2 and 3/4; problem means 3/4 and 1/2
    estimate = avg_at_k(x)
    assert estimate.per_seed == (0.5, 0.75)
    assert (estimate.value, estimate.seeds, estimate.n, estimate.k) == (0.625, 2, 2, 2)
    assert estimate.se == pytest.approx(np.std([0.75, 0.5], ddof=1) / math.sqrt(2))
    # the same samples side by side have the same mean and spread
    assert avg_at_k(np.concatenate(list(x), axis=1)).se == pytest.approx(estimate.se)


def test_seeds_that_only_trade_problems_show_no_spread() -> None:
    # problem means over the seeds: (0.2 + 0.4)/2 and (0.3 + 0.3)/2 are one number, but not in floating point
    x = np.zeros((2, 2, 10), dtype=int)
    for seed, problem, right in ((0, 0, 2), (1, 0, 4), (0, 1, 3), (1, 1, 3)):
        x[seed, problem, :right] = 1
    assert x.mean(axis=2).mean(axis=0)[0] != x.mean(axis=2).mean(axis=0)[1]
    estimate = avg_at_k(x)
    assert estimate.se == 0
    assert "no spread" in estimate.interval
    assert estimate.high - estimate.low > 0.5


def test_one_problem_gives_a_wide_interval_and_no_standard_error() -> None:
    estimate = avg_at_k([[1, 0, 1, 1]])
    assert estimate.value == 0.75
    assert math.isnan(estimate.se)
    assert 0 <= estimate.low < 0.1
    assert 0.97 < estimate.high <= 1


def test_no_spread_is_not_certainty() -> None:
    estimate = avg_at_k(np.ones((30, 32)))
    # Clopper-Pearson for 30 of 30: low = 0.025^(1/30)
    assert estimate.low == pytest.approx(0.025 ** (1 / 30))
    assert (estimate.value, estimate.high, estimate.se) == (1.0, 1.0, 0.0)
    assert "exact binomial" in estimate.interval
    assert avg_at_k(np.zeros((30, 32))).high == pytest.approx(1 - 0.025 ** (1 / 30))
    half = avg_at_k(np.tile([1, 0], (10, 1)))
    low, high = scipy.stats.binomtest(5, 10).proportion_ci(0.95, "exact")
    assert (half.low, half.high) == pytest.approx((low, high))


def test_no_fixed_set_interval_from_one_sample_each() -> None:
    estimate = avg_at_k([[1], [0], [1]])
    assert math.isnan(estimate.fixed_low)
    assert math.isnan(estimate.fixed_high)


@given(matrices)
def test_bounds_are_ordered_fractions(rows: list[list[int]]) -> None:
    for estimate in (avg_at_k(rows), pass_at_k(rows, 1)):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "empty"),
        ([[]], "empty"),
        (np.zeros((0, 4)), "empty"),
        ([[1, 0], [1]], "ragged"),
        ([[1, None]], "ragged or not numeric"),
        ([[1.0, math.nan]], "only 0 and 1"),
        ([[0.5, 1.0]], "only 0 and 1"),
        ([[2, 1]], "only 0 and 1"),
        ([1, 0, 1], "rank 1"),
        ([["1", "0"]], "only 0 and 1"),
    ],
)
def test_bad_samples_are_refused_in_one_sentence(bad: object, words: str) -> None:
    for error in (UserError, ValueError):
        with pytest.raises(error, match=words):
            avg_at_k(bad)  # type: ignore[arg-type]


def test_bad_clusters_are_refused() -> None:
    with pytest.raises(UserError, match="1 problems, but there are 2"):
        avg_at_k([[1], [0]], ["a"])
    with pytest.raises(UserError, match="missing name"):
        avg_at_k([[1], [0]], ["a", math.nan])


# -- pass@k and maj@k


@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_against_every_subset(k: int) -> None:
    x = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 0, 0]])
    subsets = list(itertools.combinations(range(6), k))
    expected = np.mean([[row[list(s)].any() for s in subsets] for row in x])
    estimate = pass_at_k(x, k)
    assert estimate.value == pytest.approx(expected)
    assert estimate.metric == f"pass@{k}"


def test_pass_at_one_is_avg_and_pass_at_all_is_any() -> None:
    x = np.random.default_rng(3).random((20, 8)) < 0.2
    assert pass_at_k(x, 1).value == pytest.approx(avg_at_k(x).value)
    assert pass_at_k(x, 8).value == x.any(axis=1).mean()


@pytest.mark.parametrize("k", range(1, 7))
def test_pass_hat_k_against_every_subset(k: int) -> None:
    x = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    subsets = list(itertools.combinations(range(6), k))
    estimate = pass_hat_k(x, k)
    assert estimate.value == pytest.approx(np.mean([[row[list(s)].all() for s in subsets] for row in x]))
    assert (estimate.metric, estimate.k, estimate.n) == (f"pass^{k}", k, 4)


@given(matrices, st.data())
def test_pass_hat_k_is_pass_at_k_of_the_wrong_answers(rows: list[list[int]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(rows[0])))
    wrong = 1 - np.array(rows)
    assert pass_hat_k(rows, k).value == pytest.approx(1 - pass_at_k(wrong, k).value)
    assert pass_hat_k(rows, k).value <= avg_at_k(rows).value + 1e-12 <= pass_at_k(rows, k).value + 2e-12


def test_many_samples_do_not_overflow() -> None:
    # C(4096, 2048) has 1,232 digits; half of the samples right: pass^2 = 1/2 · 2047/4095
    half = np.array([[1, 0] * 2048, [0, 1] * 2048])
    assert pass_hat_k(half, 2).value == pytest.approx(0.5 * 2047 / 4095)
    assert pass_at_k(half, 2).value == pytest.approx(1 - 0.5 * 2047 / 4095)
    answers = np.where(half == 1, "7", "8")
    # two votes are both right, or one each and a tie: 1/2 by symmetry
    assert maj_at_k(answers, half, 2).value == pytest.approx(0.5)
    assert maj_at_k(answers, half, 4096).value == pytest.approx(0.5)


@pytest.mark.parametrize("k", [0, 3])
def test_more_votes_than_samples_are_refused(k: int) -> None:
    with pytest.raises(UserError, match="from 1 to 2"):
        pass_at_k([[1, 0]], k)
    with pytest.raises(UserError, match=rf"pass\^{k} cannot be had from 2 samples"):
        pass_hat_k([[1, 0]], k)
    with pytest.raises(UserError, match="from 1 to 2"):
        maj_at_k([["a", "b"]], [[1, 0]], k)


def test_majority_by_hand() -> None:
    answers = [["7", "7.0", "8"], ["1", "2", "3"], [None, None, "5"], [None, None, None]]
    correct = [[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    # right 2 : 1 wins; a three-way tie gives 1/3; no-answer never wins, so the single 5 does; nothing wins nothing
    assert maj_at_k(answers, correct).value == pytest.approx((1 + 1 / 3 + 1 + 0) / 4)


def naive_majority(answers: list[str | None], right: list[int], k: int) -> float:
    """The mean over every choice of k samples, counted one by one."""
    wins = []
    for subset in itertools.combinations(range(len(answers)), k):
        votes = Counter("the gold" if right[i] else answers[i] for i in subset if right[i] or answers[i] is not None)
        top = [a for a, count in votes.items() if count == max(votes.values())]
        wins.append(("the gold" in top) / len(top) if top else 0.0)
    return float(np.mean(wins))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_majority_against_every_subset(data: st.DataObject) -> None:
    total, n = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    k = data.draw(st.integers(1, total))
    vote = st.sampled_from(["right", "also right", "a", "b", "c", "\udc80\0<b>", None])
    answers = data.draw(st.lists(st.lists(vote, min_size=total, max_size=total), min_size=n, max_size=n))
    right = [[int(text in ("right", "also right")) for text in row] for row in answers]
    expected = np.mean([naive_majority(row, ok, k) for row, ok in zip(answers, right, strict=True)])
    assert maj_at_k(answers, right, k).value == pytest.approx(expected, abs=1e-9)


def test_majority_over_classes_and_over_strings() -> None:
    # three ways to write one wrong half outvote two right answers only where they are one class
    right = [[1, 1, 0, 0, 0]]
    assert maj_at_k([["1", "1", "1/2", "0.5", ".50"]], right).value == 1
    assert maj_at_k([["1", "1", "1/2", "1/2", "1/2"]], right).value == 0


def test_a_vote_that_is_always_won_is_certain_for_no_number_of_blanks() -> None:
    # 1 exactly, whatever the share of blank votes, so that no spread is made up of rounding
    answers = [["5"] * (32 - blanks) + [None] * blanks for blanks in range(8)]
    right = [[int(a is not None) for a in row] for row in answers]
    estimate = maj_at_k(answers, right, 16)
    assert (estimate.value, estimate.se) == (1, 0)
    assert "no spread" in estimate.interval


def test_each_seed_votes_for_itself() -> None:
    answers = [[["1", "1", "2"]], [["1", "2", "2"]]]
    estimate = maj_at_k(answers, [[[1, 1, 0]], [[1, 0, 0]]])
    assert estimate.per_seed == (1, 0)
    assert (estimate.value, estimate.seeds, estimate.metric) == (0.5, 2, "maj@3")
    with pytest.raises(UserError, match="shape of correct, 2 seeds × 1 problems × 1 samples"):
        maj_at_k([["a"]], [[[1]], [[1]]])
    with pytest.raises(UserError, match="shape of correct, 1 problems × 1 samples"):
        maj_at_k([["a", "b"]], [[1]])
    with pytest.raises(UserError, match="shape of correct"):
        maj_at_k([["a", "b"], ["a"]], [[1, 1], [1, 1]])
    assert maj_at_k([["a", math.nan]], [[0, 0]]).value == 0  # type: ignore[list-item]


def test_majority_of_a_large_benchmark_is_counted_not_drawn() -> None:
    draw = np.random.default_rng(20)
    x = draw.random((1606, 32)) < draw.beta(0.5, 0.5, (1606, 1))
    answers = np.where(x, "right", draw.integers(0, 12, x.shape).astype(str))
    estimate = maj_at_k(answers, x, 8)
    rows = draw.integers(0, 1606, 40)
    picks = np.argsort(draw.random((20_000, 32)), axis=1)[:, :8]
    mean, exact = 0.0, 0.0
    for row in rows:  # 20,000 draws of 8 votes for each of 40 problems: error below 0.5/sqrt(20,000) = 0.0035 each
        drawn = answers[row][picks]
        votes = np.stack([(drawn == text).sum(axis=1) for text in ("right", *map(str, range(12)))], axis=1)
        won = votes == votes.max(axis=1, keepdims=True)
        mean += float((won[:, 0] / won.sum(axis=1)).mean()) / 40
        exact += maj_at_k(answers[[row]], x[[row]], 8).value / 40
    assert exact == pytest.approx(mean, abs=4 * 0.0035 / math.sqrt(40))
    assert 0 < estimate.value < 1


# -- paired comparisons


def brute_force_p(d: list[float]) -> float:
    observed = abs(sum(d))
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))
    ]
    return sum(s >= observed - 1e-9 for s in sums) / len(sums)


def test_hand_value_of_a_comparison() -> None:
    a = [[0, 0], [1, 0], [1, 1], [0, 0]]
    b = [[1, 0], [1, 1], [1, 1], [1, 1]]
    # d = 1/2, 1/2, 0, 1: mean 1/2; s² = (0 + 0 + 1/4 + 1/4)/3 = 1/6, SE = sqrt(1/24) = 0.204124
    comparison = paired(a, b)
    assert comparison.delta == 0.5
    assert comparison.se == pytest.approx(math.sqrt(1 / 24))
    # t(3, 0.975) = 3.182446: 0.5 ± 0.6496, cut at 1
    assert comparison.low == pytest.approx(0.5 - 3.182446 / math.sqrt(24), abs=1e-6)
    assert comparison.high == 1.0
    # three non-zero differences of one sign: 2 of the 8 assignments are as extreme
    assert comparison.p == 0.25
    assert comparison.test == "sign-flip, exact"
    # fixed set, variances p(1-p)/(K-1): a: 0 1/4 0 0; b: 1/4 0 0 0; SE = sqrt(1/2)/4
    assert comparison.fixed_high == pytest.approx(0.5 + 1.959964 * math.sqrt(0.5) / 4, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exact_sign_flip_against_brute_force(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9))
    side = st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=n, max_size=n)
    a, b = data.draw(side), data.draw(side)
    comparison = paired(a, b)
    assert comparison.p == pytest.approx(brute_force_p(list(np.mean(b, axis=1) - np.mean(a, axis=1))))
    back = paired(b, a)
    assert (back.delta, back.low, back.high, back.p) == pytest.approx(
        (-comparison.delta, -comparison.high, -comparison.low, comparison.p)
    )
    assert -1 <= comparison.low <= comparison.delta <= comparison.high <= 1


def test_twenty_one_differences_are_drawn_and_agree_with_scipy() -> None:
    draw = np.random.default_rng(5)
    a, b = draw.random((60, 8)) < 0.45, draw.random((60, 8)) < 0.52
    d = b.mean(axis=1) - a.mean(axis=1)
    reference = scipy.stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    comparison = paired(a, b)
    assert comparison.test == "sign-flip, 20,000 draws"
    assert comparison.p == pytest.approx(reference.pvalue, abs=0.01)
    test = scipy.stats.ttest_rel(b.mean(axis=1), a.mean(axis=1)).confidence_interval()
    assert (comparison.low, comparison.high) == pytest.approx((test.low, test.high), abs=1e-12)


def test_drawn_p_depends_on_the_key_alone() -> None:
    draw = np.random.default_rng(6)
    a, b = draw.random((60, 8)) < 0.45, draw.random((60, 8)) < 0.5
    assert paired(a, b, seed="x").p == paired(a, b, seed="x").p
    assert paired(a, b, seed="x").p != paired(a, b, seed="y").p
    assert paired(np.zeros((40, 1)), np.ones((40, 1))).p == 1 / 20_001  # never zero


def test_clusters_are_flipped_whole() -> None:
    a = np.zeros((6, 2))
    b = np.array([[1, 1], [1, 1], [1, 0], [1, 0], [0, 0], [1, 1]])
    clusters = ["u", "u", "v", "v", "w", "w"]
    # cluster sums of d: 2, 1, 1, all of one sign: 2 of 8
    assert paired(a, b, clusters).p == 0.25
    assert paired(a, b).p == 2 / 32  # five non-zero differences
    assert paired(a, b, clusters).interval.endswith("clustered")


def test_identical_arms_differ_by_nothing() -> None:
    x = np.random.default_rng(7).random((2, 30, 8)) < 0.5
    comparison = paired(x, x)
    assert (comparison.delta, comparison.low, comparison.high, comparison.p) == (0, 0, 0, 1)
    assert comparison.per_seed == (0, 0)


def test_one_problem_says_nothing_about_others() -> None:
    comparison = paired([[0, 0]], [[1, 1]])
    assert (comparison.low, comparison.high, comparison.p) == (-1, 1, 1)


def test_seed_differences_are_paired_by_position() -> None:
    a = np.array([[[0, 0]], [[1, 0]]])
    b = np.array([[[1, 0]], [[1, 1]]])
    assert paired(a, b).per_seed == (0.5, 0.5)
    assert paired(a[:1], b).per_seed == (0.5, 1.0)


def test_samples_may_differ_in_number_but_problems_may_not() -> None:
    assert paired([[1, 0], [0, 0]], [[1, 1, 1, 1], [0, 0, 0, 1]]).delta == pytest.approx(0.375)
    with pytest.raises(UserError, match="same problems in the same order"):
        paired([[1], [0]], [[1]])


@pytest.mark.parametrize("n", [4, 9, 13])
def test_comparison_against_scipy(n: int) -> None:
    draw = np.random.default_rng(n)
    a, b = draw.random((n, 5)) < 0.4, draw.random((n, 5)) < 0.6
    left, right = a.mean(axis=1), b.mean(axis=1)
    comparison = paired(a, b)
    test = scipy.stats.ttest_rel(right, left)
    interval = test.confidence_interval()
    assert comparison.delta / comparison.se == pytest.approx(test.statistic)
    assert comparison.low == pytest.approx(max(-1, interval.low), abs=1e-12)
    assert comparison.high == pytest.approx(min(1, interval.high), abs=1e-12)
    # scipy enumerates the 2^n assignments of signs; a zero difference changes no count
    exact = scipy.stats.permutation_test((right - left,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert comparison.test == "sign-flip, exact"
    assert comparison.p == pytest.approx(exact.pvalue)


def test_comparison_of_two_samples_swaps_the_arms_within_problems() -> None:
    # flipping the sign of a difference is swapping the two arms on that problem
    draw = np.random.default_rng(12)
    a, b = draw.random((8, 4)) < 0.4, draw.random((8, 4)) < 0.7
    left, right = a.mean(axis=1), b.mean(axis=1)
    swaps = itertools.product((False, True), repeat=8)
    observed = abs(right.mean() - left.mean())
    as_far = [
        abs(np.where(swap, left, right).mean() - np.where(swap, right, left).mean()) >= observed - 1e-12
        for swap in map(np.array, swaps)
    ]
    assert paired(a, b).p == pytest.approx(np.mean(as_far))


# -- problems and training seeds, both samples


def two_way(y: list[list[float]]) -> tuple[float, float]:
    """Variance of the mean and Satterthwaite's degrees, of values [seed][problem], by plain sums of squares."""
    seeds, n = len(y), len(y[0])
    grand = sum(map(sum, y)) / (seeds * n)
    of_problem = [sum(row[i] for row in y) / seeds for i in range(n)]
    of_seed = [sum(row) / n for row in y]
    problems = seeds * sum((m - grand) ** 2 for m in of_problem) / (n - 1)
    between = n * sum((m - grand) ** 2 for m in of_seed) / (seeds - 1)
    rest = 0.0
    for row, m in zip(y, of_seed, strict=True):
        rest += sum((v - m - q + grand) ** 2 for v, q in zip(row, of_problem, strict=True))
    rest /= (seeds - 1) * (n - 1)
    terms = [(rest, 1.0, (seeds - 1) * (n - 1)), (problems, 0.0, n - 1), (between, 0.0, seeds - 1)]
    if problems >= rest - 1e-12:
        terms = [(rest, terms[0][1] - 1, terms[0][2]), (problems, 1.0, n - 1), terms[2]]
    if between > rest + 1e-12:
        terms = [(rest, terms[0][1] - 1, terms[0][2]), terms[1], (between, 1.0, seeds - 1)]
    total = sum(sign * ms for ms, sign, _ in terms)
    scale = sum((sign * ms) ** 2 / df for ms, sign, df in terms)
    return total / (n * seeds), total**2 / scale if scale else n - 1.0


def test_hand_value_over_problems_and_seeds() -> None:
    # y = [[1, 1/2], [1/2, 0]]: grand mean 1/2, problem means 3/4 and 1/4, seed means 3/4 and 1/4, no interaction.
    # MS_problems = 2 · (1/16 + 1/16)/1 = 1/4 = MS_seeds, MS_interaction = 0: Var = (1/4 + 1/4)/4 = 1/8
    # df = (1/2)²/((1/4)²/1 + (1/4)²/1) = 2
    estimate = avg_at_k([[[1, 1], [1, 0]], [[1, 0], [0, 0]]])
    assert estimate.both_se == pytest.approx(math.sqrt(1 / 8))
    assert estimate.both_df == pytest.approx(2)
    assert (estimate.rest_se, estimate.both_low, estimate.both_high) == (0, 0, 1)
    assert estimate.se == pytest.approx(0.25)  # over problems alone: sqrt(1/8)/sqrt(2)


tables = st.tuples(st.integers(2, 4), st.integers(2, 6)).flatmap(
    lambda shape: st.lists(
        st.lists(
            st.lists(st.integers(0, 1), min_size=3, max_size=3),
            min_size=shape[1],
            max_size=shape[1],
        ),
        min_size=shape[0],
        max_size=shape[0],
    )
)


@settings(max_examples=80, deadline=None)
@given(tables)
def test_error_over_both_against_sums_of_squares(x: list[list[list[int]]]) -> None:
    estimate = avg_at_k(x)
    variance, df = two_way(np.mean(x, axis=2).tolist())
    assert estimate.both_se == pytest.approx(math.sqrt(max(0.0, variance)), abs=1e-9)
    assert estimate.both_se >= estimate.se - 1e-9
    assert 0 <= estimate.both_low <= estimate.value <= estimate.both_high <= 1
    if variance > 1e-9:
        assert estimate.both_df == pytest.approx(df, rel=1e-6)
        half = scipy.stats.t.ppf(0.975, df) * math.sqrt(variance)
        assert estimate.both_high == pytest.approx(min(1, estimate.value + half), abs=1e-9)


def test_both_is_not_known_from_one_seed() -> None:
    one = np.random.default_rng(13).random((10, 4)) < 0.5
    two = np.random.default_rng(14).random((2, 10, 4)) < 0.5
    assert math.isnan(avg_at_k(one).both_low)
    assert math.isnan(avg_at_k(one).both_se)
    for a, b in ((one, one), (one, two), (two, one)):
        assert math.isnan(paired(a, b).both_high)
        assert paired(a, b).both_interval == ""
    assert paired(two, two).both_interval == "t over problems and paired training seeds"


def test_seeds_that_agree_add_nothing() -> None:
    x = np.tile(np.random.default_rng(15).random((12, 4)) < np.linspace(0, 1, 12)[:, None], (3, 1, 1))
    estimate = avg_at_k(x)
    assert (estimate.both_low, estimate.both_high) == pytest.approx((estimate.low, estimate.high))
    assert estimate.both_df == pytest.approx(11)
    # neither problems nor seeds vary: the exact interval over problems stays
    flat = avg_at_k(np.ones((3, 12, 4)))
    assert (flat.both_low, flat.both_high, flat.both_se) == (flat.low, 1, 0)


def test_one_problem_with_seeds_says_nothing_about_both() -> None:
    estimate = avg_at_k([[[1, 0]], [[1, 1]]])
    assert math.isnan(estimate.both_se)
    assert (estimate.both_low, estimate.both_high) == (estimate.low, estimate.high)
    comparison = paired([[[1, 0]], [[1, 1]]], [[[0, 0]], [[1, 1]]])
    assert (comparison.both_low, comparison.both_high) == (-1, 1)


def test_paired_seeds_are_a_two_way_table_of_differences() -> None:
    draw = np.random.default_rng(16)
    a, b = draw.random((3, 9, 4)) < 0.4, draw.random((3, 9, 4)) < 0.6
    variance, df = two_way((b.mean(axis=2) - a.mean(axis=2)).tolist())
    comparison = paired(a, b)
    assert comparison.both_se == pytest.approx(math.sqrt(variance))
    assert comparison.both_df == pytest.approx(df)
    half = scipy.stats.t.ppf(0.975, df) * math.sqrt(variance)
    assert (comparison.both_low, comparison.both_high) == pytest.approx(
        (comparison.delta - half, comparison.delta + half)
    )


def test_seeds_of_their_own_add_the_variance_of_each_arm() -> None:
    # runs of a: 0, 4, 8 of 8 right on every problem, runs of b: 4 and 8 of 8; no spread over problems, no interaction
    a = np.repeat(np.array([[0] * 8, [1, 0] * 4, [1] * 8])[:, None], 5, axis=1)
    b = np.repeat(np.array([[1, 0] * 4, [1] * 8])[:, None], 5, axis=1)
    comparison = paired(a, b)
    # seed variance of a: s² = 1/4 of (0, 1/2, 1), over 3 seeds 1/12; of b: 1/8 of (1/2, 1), over 2 seeds 1/16
    assert comparison.both_se == pytest.approx(math.sqrt(1 / 12 + 1 / 16))
    # df = (7/48)²/((1/12)²/2 + (1/16)²/1)
    assert comparison.both_df == pytest.approx((7 / 48) ** 2 / ((1 / 12) ** 2 / 2 + (1 / 16) ** 2))
    assert comparison.both_interval == "t over problems and independent training seeds"
    assert comparison.se == 0  # for these seeds there is no doubt
    with pytest.raises(UserError, match="different numbers of training seeds"):
        paired(a, b, same_seeds=True)


def test_seeds_may_be_equally_many_and_yet_not_the_same() -> None:
    draw = np.random.default_rng(17)
    shift = np.array([0.1, 0.3, 0.5])[:, None, None]
    a, b = draw.random((3, 40, 8)) < 0.3 + shift, draw.random((3, 40, 8)) < 0.35 + shift
    same, own = paired(a, b), paired(a, b, same_seeds=False)
    assert own.both_se > 3 * same.both_se  # what the seeds share cancels only where they are paired
    assert (own.low, own.high, own.p) == (same.low, same.high, same.p)
    assert own.per_seed != same.per_seed
    assert own.per_seed == pytest.approx(tuple(b.mean(axis=(1, 2)) - a.mean()))


def test_families_over_both_against_the_double_sum() -> None:
    draw = np.random.default_rng(18)
    x = draw.random((3, 12, 4)) < draw.random((12, 1))
    families = [i // 4 for i in range(11)] + [9]  # 4, 4, 3, 1
    y = x.mean(axis=2)
    rest = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
    pairs = [(i, j) for i in range(12) for j in range(12) if families[i] == families[j]]
    rest_variance = 4 / 3 * 3 / 2 * sum(rest[s, i] * rest[s, j] for s in range(3) for i, j in pairs) / 36**2
    estimate = avg_at_k(x, families)
    assert estimate.rest_se == pytest.approx(math.sqrt(rest_variance))
    between = y.mean(axis=1).var(ddof=1) / 3
    expected = max(estimate.se**2, rest_variance) + max(0, between - rest_variance)
    assert estimate.both_se == pytest.approx(math.sqrt(expected))
    assert avg_at_k(x, list(range(12))).both_se == pytest.approx(avg_at_k(x).both_se)


def test_macro_over_both_adds_the_benches_before_the_seeds() -> None:
    draw = np.random.default_rng(19)
    shift = np.array([0, 0.2, 0.4])[:, None, None]
    x, y = draw.random((3, 20, 4)) < 0.2 + shift, draw.random((3, 30, 2)) < 0.3 + shift
    one, two = avg_at_k(x), avg_at_k(y)
    both = macro([one, two])
    between = np.var((x.mean(axis=(1, 2)) + y.mean(axis=(1, 2))) / 2, ddof=1) / 3
    rest = (one.rest_se**2 + two.rest_se**2) / 4
    problems = (one.se**2 + two.se**2) / 4
    assert problems > rest
    assert between > rest
    assert both.both_se == pytest.approx(math.sqrt(problems + between - rest))
    # the same numbers by way of a comparison with an arm that is always wrong
    comparison = paired_macro([(np.zeros_like(x), x), (np.zeros_like(y), y)])
    assert comparison.both_se == pytest.approx(both.both_se)
    assert comparison.both_df == pytest.approx(both.both_df)
    assert math.isnan(macro([one, avg_at_k(y[:2])]).both_se)  # which run is whose?
    assert math.isnan(paired_macro([(x, x), (y[:2], y[:2])]).both_se)


# -- macro averages, Holm, power


def test_macro_by_hand() -> None:
    one, two = avg_at_k([[1, 1], [0, 0], [1, 0]]), avg_at_k([[1, 1], [1, 1], [1, 0], [0, 0]])
    both = macro([one, two])
    assert both.value == pytest.approx((0.5 + 0.625) / 2)
    assert both.se == pytest.approx(math.hypot(one.se, two.se) / 2)
    # Welch-Satterthwaite with 2 and 3 degrees
    df = (one.se**2 + two.se**2) ** 2 / (one.se**4 / 2 + two.se**4 / 3)
    assert both.df == pytest.approx(df)
    assert both.low == max(0, both.value - scipy.stats.t.ppf(0.975, df) * both.se)
    assert (both.n, both.k) == (7, 2)
    assert macro([one]).low == one.low


def test_macro_comparison_averages_and_flips_all_benches() -> None:
    pairs = [([[0, 0], [0, 0]], [[1, 1], [1, 0]]), ([[0], [0], [1]], [[1], [0], [1]])]
    comparison = paired_macro(pairs)
    assert comparison.delta == pytest.approx((0.75 + 1 / 3) / 2)
    assert comparison.p == brute_force_p([1 / 4, 0.5 / 4, 1 / 6])
    assert (comparison.n, comparison.k) == (5, 0)
    assert paired_macro(pairs[:1]) == paired(*pairs[0])
    with pytest.raises(UserError, match="at least one"):
        paired_macro([])
    with pytest.raises(UserError, match="at least one"):
        macro([])


def test_holm_by_hand_in_input_order() -> None:
    # sorted .005 .01 .03 .04: ×4 = .02, ×3 = .03, ×2 = .06, ×1 = .04 raised to .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_against_its_definition(ps: list[float]) -> None:
    adjusted = holm(ps)
    for index, p in enumerate(ps):
        # the definition, with ties broken by position: max over j up to the rank of i of (m - j + 1) p_(j)
        before = [j for j, q in enumerate(ps) if (q, j) <= (p, index)]
        ranked = sorted(before, key=lambda j: (ps[j], j))
        assert adjusted[index] == min(1.0, max((len(ps) - rank) * ps[j] for rank, j in enumerate(ranked)))


def test_holm_rejects_step_by_step() -> None:
    # the procedure itself: reject the smallest while p <= alpha/(m - rank), then stop for good
    draw = np.random.default_rng(21)
    for _ in range(200):
        ps = draw.beta(0.4, 2, size=6)
        rejected = set()
        for rank, index in enumerate(np.argsort(ps)):
            if ps[index] > 0.05 / (6 - rank):
                break
            rejected.add(int(index))
        assert {i for i, p in enumerate(holm(ps.tolist())) if p <= 0.05} == rejected


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_holm_refuses_what_is_no_p_value(bad: float) -> None:
    with pytest.raises(UserError, match="p value 1"):
        holm([0.5, bad])


def test_minimum_detectable_difference() -> None:
    # AIME, 60 %, SD of differences 15 points: s² = 0.12, SE = sqrt((0.0225 + 0.0075)/30) = 0.031623
    assert minimum_detectable(30, 32, accuracy=0.6) == pytest.approx(2.8016 * 0.031623, abs=1e-4)
    # Minerva, 45 %: s² = 0.12375, SE = sqrt((0.0225 + 0.0309375)/272) = 0.014016
    assert minimum_detectable(272, 8, accuracy=0.45) == pytest.approx(2.8016 * 0.014016, abs=1e-4)
    # training seeds dominate once the problems are many: 2.8016 · sqrt(2) · 0.02
    assert minimum_detectable(10**9, 32, seed_sd=0.02) == pytest.approx(2.8016 * math.sqrt(2) * 0.02, abs=1e-4)
    with pytest.raises(UserError, match="at least 1"):
        minimum_detectable(0, 32)
    with pytest.raises(UserError, match="strictly between"):
        minimum_detectable(30, 32, power=1.0)
    with pytest.raises(UserError, match="cannot be negative"):
        minimum_detectable(30, 32, sd_difference=-1)


def test_minimum_detectable_difference_is_found_at_the_stated_power() -> None:
    draw = np.random.default_rng(10)
    n, k = 200, 8
    effect = minimum_detectable(n, k, accuracy=0.5, sd_difference=0.05, within=1.0)
    found = 0
    for _ in range(400):
        p = np.full((n, 1), 0.5 - effect / 2)
        q = 0.5 + effect / 2 + draw.normal(0, 0.05, size=(n, 1))
        comparison = paired(draw.random((n, k)) < p, draw.random((n, k)) < q)
        found += comparison.low > 0
    assert 0.74 <= found / 400 <= 0.86
