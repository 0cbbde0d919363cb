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

# numbers that are equal in exact arithmetic differ by less than this, distinct means of 0/1 samples by far more
ROUNDING = 1e-12

Array: TypeAlias = NDArray[np.float64]
Clusters: TypeAlias = Sequence[Hashable]
Error: TypeAlias = tuple[float, float]  # a standard error and its degrees of freedom


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
    if x.dtype.kind not in "buif" or not ((x == 0) | (x == 1)).all():
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


def standard_error(values: Array, codes: NDArray[np.intp]) -> Error:
    """Clustered standard error of the mean and its degrees of freedom; (NaN, 0) with a single cluster.

    sqrt(C/(C-1) · sum over clusters of (sum of residuals)²) / n: Miller's, with the finite-cluster factor
    that makes it s/sqrt(n) when every problem is its own cluster.
    """
    count = int(codes.max()) + 1
    if count < 2:
        return math.nan, 0.0
    if np.ptp(values) < ROUNDING:
        return 0.0, count - 1.0
    sums = np.bincount(codes, weights=values - values.mean())
    return float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values)), count - 1.0


def seed_error(means: Array) -> Error:
    """Standard error of the mean of the training seeds' means, [S], from their spread alone; (NaN, 0) at S = 1."""
    if len(means) < 2:
        return math.nan, 0.0
    se = 0.0 if np.ptp(means) < ROUNDING else float(means.std(ddof=1)) / math.sqrt(len(means))
    return se, len(means) - 1.0


def rest_error(by_seed: Array, codes: NDArray[np.intp]) -> Error:
    """What problems and seeds, taken apart, leave of the mean's error: their interaction and the sampling noise.

    sqrt(MS_interaction/(n·S)) of the values [S, n], by sums over clusters; (NaN, 0) with one seed or one cluster.
    """
    seeds, n = by_seed.shape
    count = int(codes.max()) + 1
    if seeds < 2 or count < 2:
        return math.nan, 0.0
    residual = by_seed - by_seed.mean(axis=0) - by_seed.mean(axis=1, keepdims=True) + by_seed.mean()
    residual[np.abs(residual) < ROUNDING] = 0.0
    sums = np.array([np.bincount(codes, weights=row) for row in residual])
    variance = count / (count - 1) * seeds / (seeds - 1) * (sums**2).sum() / (n * seeds) ** 2
    return math.sqrt(variance), (count - 1.0) * (seeds - 1.0)


def crossed_error(problems: Error, seeds: Sequence[Error], rests: Sequence[Error]) -> Error:
    """Standard error of a mean over problems and training seeds, both of them samples; (NaN, 0) if one is missing.

    Two-way crossed random effects: by the expected mean squares, Var(mean) = (MS_problems + MS_seeds −
    MS_interaction)/(n·S), here V_p + Σ (V_s − V_r) over the sets of seeds, one set for an arm or for seeds paired
    between two arms, two sets where the arms have seeds of their own. A variance component that comes out negative is
    0, so that the error is never below that over problems. Degrees of freedom: Satterthwaite's. (Cornfield & Tukey
    1956; Satterthwaite 1946; for subjects crossed with items, Clark 1973. With clusters the V are sums over clusters,
    as in the two-way clustering of Cameron, Gelbach & Miller 2011, each centred so that it is unbiased.)

    Args:
        problems: error over problems, the seeds averaged first.
        seeds, rests: `seed_error` and `rest_error` of each set of seeds.
    """
    parts = [problems, *seeds, *rests]
    if any(math.isnan(se) or df <= 0 for se, df in parts):
        return math.nan, 0.0
    variances = [se**2 for se, _ in parts]
    of_seeds = variances[1 : 1 + len(seeds)]
    of_rests = variances[1 + len(seeds) :]
    # a component that is 0 in exact arithmetic must not depend on the last bit
    by_problem = variances[0] >= math.fsum(of_rests) * (1 - ROUNDING)
    by_seed = [s > r * (1 + ROUNDING) for s, r in zip(of_seeds, of_rests, strict=True)]
    signs = [float(by_problem), *map(float, by_seed), *(float(not by_problem) - float(kept) for kept in by_seed)]
    total = math.fsum(sign * v for sign, v in zip(signs, variances, strict=True))
    if total <= 0:
        return 0.0, problems[1]
    scale = math.fsum((sign * v) ** 2 / df for sign, v, (_, df) in zip(signs, variances, parts, strict=True))
    return math.sqrt(total), total**2 / scale


def pooled_error(errors: Sequence[Error]) -> Error:
    """Standard error of the equally weighted mean of independent means; Welch-Satterthwaite degrees."""
    if len(errors) == 1:
        return errors[0]
    ses, dfs = zip(*errors, strict=True)
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
