"""Estimates and paired comparisons over problems, with intervals that say what they are over.

A problem is the unit: the K samples of a problem (and the training seeds) are averaged first, and the
spread of the problem means gives the interval. That spread already holds the sampling noise; nothing is
added for it.

Formulas: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640); pass@k: Chen et al. (arXiv 2107.03374).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness import spread
from harness.comparisons import Comparison, holm, minimum_detectable, paired, paired_macro
from harness.spread import Array, Clusters, SampleError

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
]

MAJORITY_DRAWS = 2_000


@dataclass(frozen=True)
class Estimate:
    """A mean over problems, as a fraction in [0, 1], with its 95 % interval.

    `low`/`high` treat the problems as a sample of all such problems; `fixed_low`/`fixed_high` ask about
    these very problems only (sampling noise alone; NaN where it cannot be estimated, as at K = 1). `k` is 0
    where benches of different k were averaged; `df` are the degrees of freedom of `se`.
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


def avg_at_k(correct: ArrayLike, clusters: Clusters | None = None) -> Estimate:
    """Mean accuracy of K samples on n problems, with a t interval over problems.

    Where no spread is seen (one problem, or every problem alike) the t interval would claim certainty; the
    exact binomial interval over problems stands in, and `interval` says so. With one problem `se` is NaN.

    Args:
        correct: 0/1, [n, K], or [S, n, K] for S training seeds: averaged per problem first, so that the
            interval is over problems, for these seeds.
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
    _check_k("pass", k, total)
    by_count = np.array([1 - np.prod(1 - k / np.arange(total - c + 1, total + 1)) for c in range(total + 1)])
    return _estimate(by_count[x.sum(axis=2).astype(int)], clusters, f"pass@{k}", k)


def maj_at_k(
    answers: Sequence[Sequence[str | None]],
    correct: ArrayLike,
    k: int | None = None,
    clusters: Clusters | None = None,
    seed: int | str = "majority",
) -> Estimate:
    """Accuracy of the most frequent answer among k of the K samples; exact at k = K, else 2,000 draws of k.

    Ties are averaged over the winning classes; a vote for no answer never wins.

    Args:
        answers: extracted answers, [n][K], None where none was found.
        correct: 0/1, [n, K]. Right answers form one class, as each equals the gold; wrong ones vote by
            string.
        k: votes; all K where not given.

    Raises:
        SampleError: the shapes differ, or k is not in 1 … K.
    """
    x = spread.samples(correct, "correct")
    if len(x) != 1:
        raise SampleError("maj@k takes one training seed at a time: pass [problems, samples]")
    _, n, total = x.shape
    k = total if k is None else k
    _check_k("maj", k, total)
    if len(answers) != n or any(len(row) != total for row in answers):
        raise SampleError(f"answers must have the shape of correct, {n} problems × {total} samples")
    if k == total:
        picks = np.arange(total)[None]
    else:
        picks = np.argsort(spread.generator(seed).random((MAJORITY_DRAWS, total)), axis=1)[:, :k]
    values = np.array([_majority(row, right, picks) for row, right in zip(answers, x[0], strict=True)])
    return _estimate(values[None], clusters, f"maj@{k}", k)


def macro(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of several benches with equal weight; standard error sqrt(sum SE²)/B, Welch-Satterthwaite degrees.

    Raises:
        SampleError: there is no estimate.
    """
    if not estimates:
        raise SampleError("a macro average needs at least one bench")
    if len(estimates) == 1:
        return replace(estimates[0], metric="macro average")
    value = math.fsum(e.value for e in estimates) / len(estimates)
    n = sum(e.n for e in estimates)
    se, df = spread.pooled_error([e.se for e in estimates], [e.df for e in estimates])
    half = spread.half_width(se, df)
    low, high = spread.exact_binomial(value, n) if se == 0 else (value - half, value + half)
    aligned = len({len(e.per_seed) for e in estimates}) == 1
    runs = zip(*(e.per_seed for e in estimates), strict=True) if aligned else ()
    ks = {e.k for e in estimates}
    return Estimate(
        value=value,
        low=spread.clip(low, 0.0),
        high=spread.clip(high, 0.0),
        se=se,
        n=n,
        k=ks.pop() if len(ks) == 1 else 0,
        metric="macro average",
        interval="exact binomial over problems (no spread)" if se == 0 else "t over problems",
        seeds=min(e.seeds for e in estimates),
        per_seed=tuple(math.fsum(run) / len(run) for run in runs),
        df=df,
    )


def _check_k(metric: str, k: int, total: int) -> None:
    if not 1 <= k <= total:
        raise SampleError(f"{metric}@{k} cannot be had from {total} samples per problem: choose k from 1 to {total}")


def _estimate(by_seed: Array, clusters: Clusters | None, metric: str, k: int, fixed: float = math.nan) -> Estimate:
    """Estimate from the per-problem values of each seed, [S, n]; `fixed` is the fixed-problem-set error."""
    values = by_seed.mean(axis=0)
    value = float(values.mean())
    codes = spread.cluster_codes(clusters, len(values))
    se, df = spread.standard_error(values, codes)
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
        per_seed=tuple(float(v) for v in by_seed.mean(axis=1)),
        fixed_low=spread.clip(value - spread.NORMAL * fixed, 0.0),
        fixed_high=spread.clip(value + spread.NORMAL * fixed, 0.0),
        df=df,
    )


def _majority(answers: Sequence[str | None], right: Array, picks: NDArray[np.intp]) -> float:
    """Mean over the draws (rows of `picks`) of the right class's share of the win."""
    number: dict[str, int] = {}
    labels = []
    for text, ok in zip(answers, right, strict=True):
        labels.append(0 if ok else -1 if text is None else number.setdefault(text, len(number) + 1))
    drawn = np.array(labels)[picks]
    votes = np.stack([(drawn == label).sum(axis=1) for label in range(len(number) + 1)], axis=1)
    best = votes.max(axis=1, keepdims=True)
    won = (votes == best) & (best > 0)
    return float((won[:, 0] / np.maximum(won.sum(axis=1), 1)).mean())
