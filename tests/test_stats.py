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
from harness.stats import avg_at_k, holm, macro, maj_at_k, minimum_detectable, paired, paired_macro, pass_at_k

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


def test_coverage_of_the_t_interval_for_bimodal_difficulty() -> None:
    # 30 problems × 32 samples, true difficulty from Beta(0.6, 0.4): the population mean is 0.6
    draw = np.random.default_rng(20)
    trials, hits = 2_000, 0
    for _ in range(trials):
        p = draw.beta(0.6, 0.4, size=(30, 1))
        estimate = avg_at_k(draw.random((30, 32)) < p)
        hits += estimate.low <= 0.6 <= estimate.high
    # binomial error of the count is 0.5 points; the pooled binomial interval covers about 0.35 here
    assert 0.93 <= hits / trials <= 0.97


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


@pytest.mark.parametrize("k", [0, 3])
def test_more_votes_than_samples_are_refused(k: int) -> None:
    with pytest.raises(UserError, match="from 1 to 2"):
        pass_at_k([[1, 0]], k)
    with pytest.raises(UserError, match="from 1 to 2"):
        maj_at_k([["a", "b"]], [[1, 0]], k)


def test_majority_by_hand() -> None:
    answers = [["7", "7.0", "8"], ["1", "2", "3"], [None, None, "5"], [None, None, None]]
    correct = [[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    # right 2 : 1 wins; a three-way tie gives 1/3; no-answer never wins, so the single 5 does; nothing wins nothing
    assert maj_at_k(answers, correct).value == pytest.approx((1 + 1 / 3 + 1 + 0) / 4)


def test_majority_of_fewer_votes_against_every_subset() -> None:
    answers, correct = [["4", "4", "5", "5", None, "4"]], np.array([[1, 1, 0, 0, 0, 1]])
    wins = []
    for subset in itertools.combinations(range(6), 3):
        votes = Counter(answers[0][i] for i in subset if answers[0][i] is not None)
        top = [a for a, count in votes.items() if count == max(votes.values())]
        wins.append(("4" in top) / len(top))
    assert maj_at_k(answers, correct, k=3).value == pytest.approx(np.mean(wins), abs=0.03)
    assert maj_at_k(answers, correct, k=3).value == maj_at_k(answers, correct, k=3).value


def test_majority_of_several_seeds_is_refused() -> None:
    with pytest.raises(UserError, match="one training seed"):
        maj_at_k([["a"]], [[[1]], [[1]]])
    with pytest.raises(UserError, match="shape of correct"):
        maj_at_k([["a", "b"]], [[1]])


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


def test_coverage_of_the_paired_interval() -> None:
    # the effect of 5 points varies by problem (SD about 15); 30 problems × 32 samples
    draw = np.random.default_rng(8)
    trials, hits, found = 1_000, 0, 0.0
    truth = []
    for _ in range(trials):
        p = draw.beta(0.6, 0.4, size=(30, 1))
        q = np.clip(p + draw.normal(0.05, 0.15, size=(30, 1)), 0, 1)
        truth.append(float((q - p).mean()))
    centre = float(np.mean(truth))
    draw = np.random.default_rng(9)
    for _ in range(trials):
        p = draw.beta(0.6, 0.4, size=(30, 1))
        q = np.clip(p + draw.normal(0.05, 0.15, size=(30, 1)), 0, 1)
        comparison = paired(draw.random((30, 32)) < p, draw.random((30, 32)) < q, seed=0)
        hits += comparison.low <= centre <= comparison.high
        found += comparison.high - comparison.low
    assert 0.92 <= hits / trials <= 0.98
    assert 0.05 < found / trials < 0.2


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
