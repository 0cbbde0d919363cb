"""Spread of per-problem values: checks, clusters, standard errors, half-widths.

Shared by `stats` (estimates) and `comparisons` (paired differences); callers outside want those two.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from harness.errors import UserError

LEVEL = 0.95
TAIL = (1 + LEVEL) / 2
NORMAL = float(ndtri(TAIL))

Array: TypeAlias = NDArray[np.float64]
Clusters: TypeAlias = Sequence[Hashable]


class SampleError(UserError, ValueError):
    """Samples that no statistic can be computed from: a ValueError to callers, exit 2 at the command line."""


def samples(correct: ArrayLike, name: str) -> Array:
    """`correct` as [S, n, K] of 0.0 and 1.0; S = 1 for an [n, K] input.

    Raises:
        SampleError: it is empty, ragged, of another rank, or holds anything but 0 and 1.
    """
    try:
        x: NDArray[Any] = np.asarray(correct)
    except ValueError:
        x = np.empty(1, dtype=object)
    if x.dtype == object:
        raise SampleError(f"{name} is ragged or not numeric: every problem needs the same number of 0/1 samples")
    if x.size == 0:
        raise SampleError(f"{name} is empty (shape {x.shape}): there is nothing to estimate from")
    if x.ndim not in (2, 3):
        raise SampleError(f"{name} must be [problems, samples] or [seeds, problems, samples], not rank {x.ndim}")
    if x.dtype.kind not in "buif" or not np.isin(x, (0, 1)).all():
        raise SampleError(f"{name} must hold only 0 and 1: drop or re-grade missing samples first")
    return x.astype(np.float64).reshape(-1, *x.shape[-2:])


def noise(x: Array) -> Array:
    """Sampling variance of each problem's mean over seeds and samples of x [S, n, K] → [n]; NaN at K = 1."""
    if x.shape[2] == 1:
        return np.full(x.shape[1], math.nan)
    p = x.mean(axis=2)
    return np.asarray((p * (1 - p)).sum(axis=0) / (x.shape[2] - 1) / len(x) ** 2)


def cluster_codes(clusters: Clusters | None, n: int) -> NDArray[np.intp]:
    """Cluster number of each problem, [n]; every problem is its own where none are given.

    Raises:
        SampleError: `clusters` has another length or a missing name.
    """
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise SampleError(f"clusters names {len(clusters)} problems, but there are {n}")
    number: dict[Hashable, int] = {}
    for cluster in clusters:
        if cluster is None or cluster != cluster:
            raise SampleError("clusters holds a missing name: give every problem a family, if only its own id")
        number.setdefault(cluster, len(number))
    return np.array([number[cluster] for cluster in clusters])


def standard_error(values: Array, codes: NDArray[np.intp]) -> tuple[float, float]:
    """Clustered standard error of the mean and its degrees of freedom; (NaN, 0) with a single cluster.

    sqrt(C/(C-1) · sum over clusters of (sum of residuals)²) / n: Miller's, with the finite-cluster factor
    that makes it s/sqrt(n) when every problem is its own cluster.
    """
    count = int(codes.max()) + 1
    if count < 2:
        return math.nan, 0.0
    if np.ptp(values) == 0:  # the mean of equal numbers may differ from them in the last bit
        return 0.0, count - 1.0
    sums = np.bincount(codes, weights=values - values.mean())
    return float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values)), count - 1.0


def pooled_error(ses: Sequence[float], dfs: Sequence[float]) -> tuple[float, float]:
    """Standard error of the equally weighted mean of independent means; Welch-Satterthwaite degrees."""
    if len(ses) == 1:
        return ses[0], dfs[0]
    variances = [se**2 for se in ses]
    total = math.fsum(variances)
    if math.isnan(total):
        return math.nan, 0.0
    if total == 0:
        return 0.0, min(dfs)
    return math.sqrt(total) / len(ses), total**2 / math.fsum(v**2 / df for v, df in zip(variances, dfs, strict=True))


def half_width(se: float, df: float) -> float:
    """Half-width of the t interval; infinite where the spread cannot be estimated."""
    return float(stdtrit(df, TAIL)) * se if df > 0 else math.inf


def exact_binomial(value: float, n: int) -> tuple[float, float]:
    """Clopper-Pearson interval for n·value successes out of n, by its continuous extension in between."""
    hits = n * value
    low = float(betaincinv(hits, n - hits + 1, 1 - TAIL)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, TAIL)) if hits < n else 1.0
    return min(low, value), max(high, value)


def clip(value: float, low: float) -> float:
    """`value` within [low, 1]; NaN stays NaN."""
    return float(np.clip(value, low, 1.0))


def generator(key: int | str) -> np.random.Generator:
    """A generator that the same key seeds alike in every process and on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big"))
