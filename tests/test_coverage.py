"""Do the intervals cover what they claim? Simulated worlds with a known truth; fixed seeds, so a result never changes.

With R repetitions the simulated coverage of an exact 95 % interval has the binomial error sqrt(0.95 · 0.05/R): for
R = 2,000 that is 0.0049, and 3.3 of those (one false alarm in a thousand seeds) are 0.016.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.stats import avg_at_k, comparisons, macro, paired, paired_macro

R = 2_000
ERROR = 3.3 * math.sqrt(0.95 * 0.05 / R)  # 0.016
Samples = NDArray[np.bool_]


@pytest.fixture
def _no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals only: the sign-flip test takes most of the time of a comparison."""
    monkeypatch.setattr(comparisons, "_sign_flip", lambda units, seed: (1.0, ""))


def difficulties(draw: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Bimodal, within [0.25, 0.75] so that effects can be added without cutting; mean 1/2."""
    return 0.25 + 0.5 * draw.beta(0.5, 0.5, shape)


def sampled(draw: np.random.Generator, p: NDArray[np.float64], k: int) -> Samples:
    assert p.min() >= 0
    assert p.max() <= 1
    return draw.random((*p.shape, k)) < p[..., None]


def pooled_binomial(x: Samples) -> tuple[float, float]:
    """The wrong interval, which takes all n · K samples to be independent."""
    half = 1.96 * math.sqrt(x.mean() * (1 - x.mean()) / x.size)
    return x.mean() - half, x.mean() + half


@pytest.mark.parametrize("a", [0.6, 0.5])
def test_avg_at_k_over_bimodal_problems(a: float) -> None:
    # 30 problems × 32 samples; difficulty Beta(a, 1 - a), so the population mean is a
    draw = np.random.default_rng(1)
    worlds = sampled(draw, draw.beta(a, 1 - a, (R, 30)), 32)
    estimates = [avg_at_k(x) for x in worlds]
    coverage = np.mean([e.low <= a <= e.high for e in estimates])
    assert 0.95 - ERROR <= coverage <= 0.95 + ERROR
    pooled = [pooled_binomial(x) for x in worlds]
    assert np.mean([low <= a <= high for low, high in pooled]) < 0.5
    # and the interval for these very problems says little about others
    assert np.mean([e.fixed_low <= a <= e.fixed_high for e in estimates]) < 0.5


def test_fixed_set_interval_covers_the_mean_of_these_very_problems() -> None:
    # a normal interval: 960 samples are many, but problems near 0 and 1 add no variance and some skew
    draw = np.random.default_rng(2)
    p = difficulties(draw, R, 30)
    estimates = [avg_at_k(x) for x in sampled(draw, p, 32)]
    truth = p.mean(axis=1)
    coverage = np.mean([e.fixed_low <= t <= e.fixed_high for e, t in zip(estimates, truth, strict=True)])
    assert 0.95 - ERROR <= coverage <= 0.95 + ERROR


@pytest.mark.usefixtures("_no_test")
def test_paired_difference_over_bimodal_problems() -> None:
    # the true gain is 5 points on average and differs between problems: uniform ± 20, SD 20/sqrt(3) = 11.5 points
    draw = np.random.default_rng(3)
    p = difficulties(draw, R, 30)
    q = p + 0.05 + draw.uniform(-0.2, 0.2, p.shape)
    left, right = sampled(draw, p, 32), sampled(draw, q, 32)
    found = [paired(a, b) for a, b in zip(left, right, strict=True)]
    coverage = np.mean([c.low <= 0.05 <= c.high for c in found])
    assert 0.95 - ERROR <= coverage <= 0.95 + ERROR
    pooled = 0
    for a, b in zip(left, right, strict=True):
        half = 1.96 * math.sqrt((a.mean() * (1 - a.mean()) + b.mean() * (1 - b.mean())) / a.size)
        pooled += abs(b.mean() - a.mean() - 0.05) <= half
    assert pooled / R < 0.95 - 3 * ERROR
    assert np.mean([c.fixed_low <= 0.05 <= c.fixed_high for c in found]) < 0.95 - 3 * ERROR


def test_sign_flip_test_errs_as_often_as_it_says() -> None:
    # no true gain, which differs between problems symmetrically: p < 0.05 in 5 % of the worlds, less for ties
    draw = np.random.default_rng(4)
    p = difficulties(draw, R, 16)
    q = p + draw.uniform(-0.2, 0.2, p.shape)
    found = [paired(a, b).p for a, b in zip(sampled(draw, p, 8), sampled(draw, q, 8), strict=True)]
    assert 0.05 - 2 * ERROR <= np.mean(np.array(found) < 0.05) <= 0.05 + ERROR


# -- problems and training seeds, both samples


def shifts(draw: np.random.Generator, seeds: int, size: float) -> NDArray[np.float64]:
    """How far each run is off on every problem alike, [R, S, 1]: within ± size, about normal, SD size/3."""
    return draw.uniform(-size, size, (R, seeds, 1, 3)).mean(axis=3)


def runs(draw: np.random.Generator, p: NDArray[np.float64], seeds: int, size: float, k: int) -> Samples:
    """Samples [R, S, n, k] of runs on problems of difficulty p [R, n]."""
    return sampled(draw, p[:, None] + shifts(draw, seeds, size), k)


# Satterthwaite's degrees are an approximation. With 20,000 worlds of normal effects the coverage was lowest where the
# spread over seeds dwarfs that over problems: 0.870 with two seeds, 0.922 with three, 0.941 with five, 0.946 with eight.
LEAST = {2: 0.870, 3: 0.922, 5: 0.941}


@pytest.mark.parametrize(("seeds", "size"), [(2, 0.03), (2, 0.25), (3, 0.03), (3, 0.25), (5, 0.25)])
def test_estimate_over_problems_and_seeds(seeds: int, size: float) -> None:
    draw = np.random.default_rng(5)
    estimates = [avg_at_k(x) for x in runs(draw, difficulties(draw, R, 30), seeds, size, 8)]
    coverage = np.mean([e.both_low <= 0.5 <= e.both_high for e in estimates])
    # a clipped variance component makes the interval wide rather than narrow: 0.968 at most in the same worlds
    assert LEAST[seeds] - ERROR <= coverage <= 0.968 + ERROR
    if size > 0.1:  # the interval for these seeds does not speak for others
        assert np.mean([e.low <= 0.5 <= e.high for e in estimates]) < 0.85


@pytest.mark.usefixtures("_no_test")
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("seeds", "size"), [(2, 0.15), (3, 0.0), (3, 0.15), (5, 0.15)])
def test_difference_over_problems_and_seeds(seeds: int, size: float, same: bool) -> None:
    # gain 3 points, uniform ± 7 over problems; independent runs in both arms, which may be paired or not
    draw = np.random.default_rng(6)
    p = 0.4 * difficulties(draw, R, 30) + 0.3
    q = p + 0.03 + draw.uniform(-0.07, 0.07, p.shape)
    left, right = runs(draw, p, seeds, size, 8), runs(draw, q, seeds, size, 8)
    found = [paired(a, b, same_seeds=same) for a, b in zip(left, right, strict=True)]
    coverage = np.mean([c.both_low <= 0.03 <= c.both_high for c in found])
    assert LEAST[seeds] - ERROR <= coverage <= 0.975 + ERROR
    if size:
        assert np.mean([c.low <= 0.03 <= c.high for c in found]) < 0.85


@pytest.mark.usefixtures("_no_test")
def test_what_paired_seeds_share_is_no_error_of_the_difference() -> None:
    # both arms of a seed are off by the same: pairing sees that, the interval for seeds of their own is needlessly wide
    draw = np.random.default_rng(7)
    p = 0.4 * difficulties(draw, R, 30) + 0.3
    q = p + 0.03 + draw.uniform(-0.07, 0.07, p.shape)
    shift = shifts(draw, 3, 0.2)
    left, right = sampled(draw, p[:, None] + shift, 8), sampled(draw, q[:, None] + shift, 8)
    same = [paired(a, b) for a, b in zip(left, right, strict=True)]
    own = [paired(a, b, same_seeds=False) for a, b in zip(left, right, strict=True)]
    assert 0.95 - ERROR <= np.mean([c.both_low <= 0.03 <= c.both_high for c in same]) <= 0.975 + ERROR
    assert np.mean([c.both_low <= 0.03 <= c.both_high for c in own]) > 0.99
    assert np.mean([c.both_se for c in same]) < 0.6 * np.mean([c.both_se for c in own])


@pytest.mark.usefixtures("_no_test")
@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(3, 3), (2, 5)])
def test_the_error_over_both_is_that_of_the_difference(seeds_a: int, seeds_b: int) -> None:
    # the variance estimate is unbiased. Its own relative SD is below sqrt(2/1) with one degree of freedom at the least,
    # which gives 3.3 · sqrt(2/R) = 0.10 on its mean; as much on the variance of the simulated differences: 0.15
    draw = np.random.default_rng(8)
    p = 0.4 * difficulties(draw, R, 30) + 0.3
    left, right = runs(draw, p, seeds_a, 0.2, 8), runs(draw, p + draw.uniform(-0.1, 0.1, p.shape), seeds_b, 0.2, 8)
    found = [paired(a, b, same_seeds=False) for a, b in zip(left, right, strict=True)]
    claimed = np.mean([c.both_se**2 for c in found])
    assert claimed == pytest.approx(np.var([c.delta for c in found]), rel=0.15)


@pytest.mark.usefixtures("_no_test")
def test_benches_share_the_runs_of_an_arm() -> None:
    # a run that is good on one bench is good on the other: errors of benches do not cancel
    draw = np.random.default_rng(9)
    p, q = 0.4 * difficulties(draw, R, 30) + 0.3, 0.4 * difficulties(draw, R, 60) + 0.3
    gain = draw.uniform(-0.05, 0.1, (R, 90))  # 2.5 points on average
    left, right = shifts(draw, 5, 0.2), shifts(draw, 5, 0.2)
    pairs = [
        (sampled(draw, p[:, None] + left, 4), sampled(draw, p[:, None] + gain[:, None, :30] + right, 4)),
        (sampled(draw, q[:, None] + left, 2), sampled(draw, q[:, None] + gain[:, None, 30:] + right, 2)),
    ]
    found = [paired_macro([(a[i], b[i]) for a, b in pairs]) for i in range(R)]
    assert LEAST[5] - ERROR <= np.mean([c.both_low <= 0.025 <= c.both_high for c in found]) <= 0.968 + ERROR
    averages = [macro([avg_at_k(a[i]) for a, _ in pairs]) for i in range(R)]
    assert LEAST[5] - ERROR <= np.mean([e.both_low <= 0.5 <= e.both_high for e in averages]) <= 0.968 + ERROR
    # taken for independent, the two benches would seem to average the runs' luck away: the variance over runs halves
    claimed = np.mean([e.both_se**2 for e in averages])
    apart = np.mean([sum(avg_at_k(a[i]).both_se ** 2 for a, _ in pairs) / 4 for i in range(R)])
    assert claimed == pytest.approx(np.var([e.value for e in averages]), rel=0.15)
    assert apart < 0.7 * claimed


@pytest.mark.usefixtures("_no_test")
def test_families_of_problems_and_seeds() -> None:
    # 40 families of 3; the gain (5 points) and the run's luck go with the family, so that problems count for less
    draw = np.random.default_rng(10)
    families = np.repeat(np.arange(40), 3)
    p = 0.4 * difficulties(draw, R, 40)[:, families] + 0.3
    gain = 0.05 + draw.uniform(-0.1, 0.1, (R, 40))[:, families]
    luck = draw.uniform(-0.05, 0.05, (R, 3, 40))[:, :, families]
    left = runs(draw, p, 3, 0.09, 4)
    right = sampled(draw, (p + gain)[:, None] + luck + shifts(draw, 3, 0.09), 4)
    found = [paired(a, b, families) for a, b in zip(left, right, strict=True)]
    coverage = np.mean([c.both_low <= 0.05 <= c.both_high for c in found])
    assert LEAST[3] - ERROR <= coverage <= 0.968 + ERROR
    assert np.mean([c.both_se**2 for c in found]) == pytest.approx(np.var([c.delta for c in found]), rel=0.15)
    # problems taken one by one, as if the families were chance
    assert np.mean([c.low <= 0.05 <= c.high for c in map(paired, left, right)]) < coverage - 0.05
