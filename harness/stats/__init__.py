"""Estimates and paired comparisons over problems, with intervals that say what they are over.

A problem is the unit: the K samples of a problem (and the training seeds) are averaged first, and the
spread of the problem means gives the interval. That spread already holds the sampling noise; nothing is
added for it.

Formulas: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640); pass@k: Chen et al. (arXiv 2107.03374);
problems and training seeds together: `spread.crossed_error`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from harness.stats import spread, votes
from harness.stats.comparisons import Comparison, holm, paired, paired_macro
from harness.stats.power import minimum_detectable
from harness.stats.spread import Array, Clusters, Error, SampleError
from harness.stats.votes import Answers

__all__ = [
    "Comparison",
    "Estimate",
    "SampleError",
    "avg_at_k",
    "holm",
    "macro",
    "maj_at_k",
    "minimum_detectable",
    "paired",
    "paired_macro",
    "pass_at_k",
    "pass_hat_k",
]


@dataclass(frozen=True)
class Estimate:
    """A mean over problems, as a fraction in [0, 1], with its 95 % interval.

    `low`/`high` treat the problems as a sample of all such problems; `fixed_low`/`fixed_high` ask about
    these very problems only (sampling noise alone; NaN where it cannot be estimated, as at K = 1);
    `both_low`/`both_high` treat the problems and the training seeds as samples (NaN with one seed), and `rest_se` is
    the part of `both_se` that the two do not explain one by one. `k` is 0 where benches of different k were averaged;
    `df` are the degrees of freedom of `se`.
    """

    value: float
    low: float
    high: float
    se: float
    n: int
    k: int
    metric: str
    interval: str
    seeds: int = 1
    per_seed: tuple[float, ...] = ()
    fixed_low: float = math.nan
    fixed_high: float = math.nan
    df: float = math.nan
    both_low: float = math.nan
    both_high: float = math.nan
    both_se: float = math.nan
    both_df: float = math.nan
    rest_se: float = math.nan


def avg_at_k(correct: ArrayLike, clusters: Clusters | None = None) -> Estimate:
    """Mean accuracy of K samples on n problems, with a t interval over problems.

    Where no spread is seen (one problem, or every problem alike) the t interval would claim certainty; the
    exact binomial interval over problems stands in, and `interval` says so. With one problem `se` is NaN.

    Args:
        correct: 0/1, [n, K], or [S, n, K] for S training seeds: averaged per problem first, so that the
            interval is over problems, for these seeds; the `both` interval also counts the seeds as a sample.
        clusters: family of each problem, [n]; the standard error is then clustered, with C - 1 degrees.

    Raises:
        SampleError: `correct` is empty, ragged, or holds anything but 0 and 1; `clusters` does not fit.
    """
    x = spread.samples(correct, "correct")
    k = x.shape[2]
    fixed = math.sqrt(spread.noise(x).sum()) / x.shape[1]
    return _estimate(x.mean(axis=2), clusters, f"avg@{k}", k, fixed)


def pass_at_k(correct: ArrayLike, k: int, clusters: Clusters | None = None) -> Estimate:
    """Unbiased pass@k: the chance that k of the K samples, drawn without replacement, hold a right one.

    1 - C(K-c, k)/C(K, k) as the product of 1 - k/i over i = K-c+1 … K (Chen et al.). Shapes as in `avg_at_k`.

    Raises:
        SampleError: as in `avg_at_k`, or k is not in 1 … K.
    """
    x = spread.samples(correct, "correct")
    total = x.shape[2]
    _check_k("pass@", k, total)
    by_count = np.array([1 - np.prod(1 - k / np.arange(total - c + 1, total + 1)) for c in range(total + 1)])
    return _estimate(by_count[x.sum(axis=2).astype(int)], clusters, f"pass@{k}", k)


def pass_hat_k(correct: ArrayLike, k: int, clusters: Clusters | None = None) -> Estimate:
    """Unbiased pass^k: the chance that all of k of the K samples, drawn without replacement, are right.

    C(c, k)/C(K, k) as the product of (c - i)/(K - i) over i = 0 … k-1. Shapes as in `avg_at_k`.

    Raises:
        SampleError: as in `avg_at_k`, or k is not in 1 … K.
    """
    x = spread.samples(correct, "correct")
    total = x.shape[2]
    _check_k("pass^", k, total)
    drawn = np.arange(k)
    by_count = np.array([np.prod(np.maximum(c - drawn, 0) / (total - drawn)) for c in range(total + 1)])
    return _estimate(by_count[x.sum(axis=2).astype(int)], clusters, f"pass^{k}", k)


def maj_at_k(
    answers: Answers,
    correct: ArrayLike,
    k: int | None = None,
    clusters: Clusters | None = None,
) -> Estimate:
    """Accuracy of the most frequent answer among k of the K samples, exactly: the mean over all choices of k.

    Ties are averaged over the winning classes; a vote for no answer never wins.

    Args:
        answers: what each sample votes for, in the shape of `correct`, None (or NaN) where no answer was found. Pass
            the texts of the checker's equivalence classes (the column `parsed`), so that 1/2 and 0.5 are one vote:
            wrong answers are one class only where their texts are equal. Right answers are one class whatever
            their texts, as each equals the gold.
        correct: 0/1, [n, K] or [S, n, K]; each training seed votes for itself.
        k: votes; all K where not given.

    Raises:
        SampleError: the shapes differ, or k is not in 1 … K.
    """
    x = spread.samples(correct, "correct")
    k = x.shape[2] if k is None else k
    _check_k("maj@", k, x.shape[2])
    share = votes.count(answers, x).share(k)
    return _estimate(share.reshape(x.shape[:2]), clusters, f"maj@{k}", k)


def macro(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of several benches with equal weight; standard error sqrt(sum SE²)/B, Welch-Satterthwaite degrees.

    Benches with equally many training seeds are taken to share them, by position: a good run is good on each.

    Raises:
        SampleError: there is no estimate.
    """
    if not estimates:
        raise SampleError("a macro average needs at least one bench")
    if len(estimates) == 1:
        return replace(estimates[0], metric="macro average")
    value = math.fsum(e.value for e in estimates) / len(estimates)
    n = sum(e.n for e in estimates)
    error = spread.pooled_error([(e.se, e.df) for e in estimates])
    half = spread.half_width(*error)
    low, high = spread.exact_binomial(value, n) if error[0] == 0 else (value - half, value + half)
    aligned = len({len(e.per_seed) for e in estimates}) == 1
    runs = zip(*(e.per_seed for e in estimates), strict=True) if aligned else ()
    per_seed = tuple(math.fsum(run) / len(run) for run in runs)
    rest = spread.pooled_error([(e.rest_se, e.df * (e.seeds - 1)) for e in estimates])
    ks = {e.k for e in estimates}
    return Estimate(
        value=value,
        low=spread.clip(low, 0.0),
        high=spread.clip(high, 0.0),
        se=error[0],
        n=n,
        k=ks.pop() if len(ks) == 1 else 0,
        metric="macro average",
        interval="exact binomial over problems (no spread)" if error[0] == 0 else "t over problems",
        seeds=min(e.seeds for e in estimates),
        per_seed=per_seed,
        df=error[1],
        **_over_both(value, (low, high), error, per_seed, rest),
    )


def _check_k(metric: str, k: int, total: int) -> None:
    if not 1 <= k <= total:
        raise SampleError(f"{metric}{k} cannot be had from {total} samples per problem: choose k from 1 to {total}")


def _estimate(by_seed: Array, clusters: Clusters | None, metric: str, k: int, fixed: float = math.nan) -> Estimate:
    """Estimate from the per-problem values of each seed, [S, n]; `fixed` is the fixed-problem-set error."""
    values = by_seed.mean(axis=0)
    value = float(values.mean())
    codes = spread.cluster_codes(clusters, len(values))
    error = se, df = spread.standard_error(values, codes)
    rest = spread.rest_error(by_seed, codes)
    per_seed = tuple(float(v) for v in by_seed.mean(axis=1))
    if se > 0:
        half = spread.half_width(se, df)
        low, high = value - half, value + half
        interval = "t over problems" + ("" if clusters is None else ", clustered")
    else:
        low, high = spread.exact_binomial(value, int(codes.max()) + 1)
        interval = f"exact binomial over {'problems' if clusters is None else 'clusters'} (no spread)"
    return Estimate(
        value=value,
        low=spread.clip(low, 0.0),
        high=spread.clip(high, 0.0),
        se=se,
        n=len(values),
        k=k,
        metric=metric,
        interval=interval,
        seeds=len(by_seed),
        per_seed=per_seed,
        fixed_low=spread.clip(value - spread.NORMAL * fixed, 0.0),
        fixed_high=spread.clip(value + spread.NORMAL * fixed, 0.0),
        df=df,
        **_over_both(value, (low, high), error, per_seed, rest),
    )


def _over_both(
    value: float, bounds: tuple[float, float], problems: Error, per_seed: Sequence[float], rest: Error
) -> dict[str, float]:
    """The fields of an estimate over problems and seeds; where neither varies, the `bounds` over problems stay."""
    if len(per_seed) < 2:
        return {}
    se, df = spread.crossed_error(problems, [spread.seed_error(np.array(per_seed))], [rest])
    half = spread.half_width(se, df)
    low, high = (value - half, value + half) if se > 0 else bounds
    low, high = spread.clip(low, 0.0), spread.clip(high, 0.0)
    return {"both_low": low, "both_high": high, "both_se": se, "both_df": df, "rest_se": rest[0]}
