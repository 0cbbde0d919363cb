"""Paired differences on the same problems: t interval, sign-flip test, Holm, and what a design resolves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from harness import spread
from harness.spread import Array, Clusters, SampleError

EXACT_FLIPS = 20
DRAWS = 20_000


@dataclass(frozen=True)
class Comparison:
    """A paired difference b - a over the same problems, in [-1, 1], with its 95 % interval and sign-flip p.

    `low`/`high` treat the problems as a sample of all such problems; `fixed_low`/`fixed_high` ask about
    these very problems only (sampling noise alone; NaN at K = 1). `n` counts problems over all benches of a
    macro difference.
    """

    delta: float
    low: float
    high: float
    se: float
    p: float
    n: int
    k: int
    interval: str
    test: str
    seeds: int = 1
    per_seed: tuple[float, ...] = ()
    fixed_low: float = math.nan
    fixed_high: float = math.nan


def paired(a: ArrayLike, b: ArrayLike, clusters: Clusters | None = None, seed: int | str = "paired") -> Comparison:
    """Difference b - a in avg@k on the same problems in the same order.

    t interval on the per-problem differences; p from flipping their signs (whole clusters where given):
    each of the 2^m assignments up to m = 20 non-zero differences, else 20,000 draws from a generator seeded
    by `seed`. `per_seed` pairs the training seeds by position where both sides have as many, else takes a's
    mean.

    Args:
        a, b: 0/1, [n, K] or [S, n, K]; K and S may differ between the two.
        clusters: family of each problem, [n].

    Raises:
        SampleError: `a` or `b` is empty, ragged or not 0/1, or their numbers of problems differ.
    """
    return paired_macro([(a, b)], None if clusters is None else [clusters], seed)


def paired_macro(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    clusters: Sequence[Clusters | None] | None = None,
    seed: int | str = "paired",
) -> Comparison:
    """`paired`, averaged with equal weight over several benches, one (a, b) each.

    Standard error sqrt(sum SE²)/B; the sign-flip test flips problems within every bench at once.

    Raises:
        SampleError: as in `paired`, or there is no pair.
    """
    if not pairs:
        raise SampleError("a comparison needs at least one bench")
    sides = [(spread.samples(a, "a"), spread.samples(b, "b")) for a, b in pairs]
    families = [None] * len(sides) if clusters is None else clusters
    units, deltas, errors, noises = [], [], [], []
    for (a, b), family in zip(sides, families, strict=True):
        if a.shape[1] != b.shape[1]:
            raise SampleError(
                f"a holds {a.shape[1]} problems and b {b.shape[1]}: "
                "a paired comparison needs the same problems in the same order"
            )
        d = b.mean(axis=(0, 2)) - a.mean(axis=(0, 2))
        codes = spread.cluster_codes(family, len(d))
        units.append(np.bincount(codes, weights=d) / len(d) / len(sides))
        deltas.append(float(d.mean()))
        errors.append(spread.standard_error(d, codes))
        noises.append(float((spread.noise(a) + spread.noise(b)).sum()) / len(d) ** 2)
    delta = math.fsum(deltas) / len(deltas)
    se, df = spread.pooled_error([se for se, _ in errors], [df for _, df in errors])
    half = spread.half_width(se, df)
    fixed = spread.NORMAL * math.sqrt(math.fsum(noises)) / len(noises)
    p, test = _sign_flip(np.concatenate(units), seed)
    ks = {b.shape[2] for _, b in sides}
    return Comparison(
        delta=delta,
        low=spread.clip(delta - half, -1.0),
        high=spread.clip(delta + half, -1.0),
        se=se,
        p=p,
        n=sum(a.shape[1] for a, _ in sides),
        k=ks.pop() if len(ks) == 1 else 0,
        interval="t over paired problems" + ("" if clusters is None else ", clustered"),
        test=test,
        seeds=min(b.shape[0] for _, b in sides),
        per_seed=_seed_differences(sides),
        fixed_low=spread.clip(delta - fixed, -1.0),
        fixed_high=spread.clip(delta + fixed, -1.0),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values, in the order they came.

    Raises:
        SampleError: a p value is not in [0, 1].
    """
    values = [float(p) for p in ps]
    for index, p in enumerate(values):
        if not 0.0 <= p <= 1.0:
            raise SampleError(f"p value {index} is {p}, not a number in [0, 1]; leave missing comparisons out")
    adjusted = [0.0] * len(values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        running = max(running, (len(values) - rank) * values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def minimum_detectable(
    n: int,
    k: int,
    accuracy: float = 0.5,
    sd_difference: float = 0.15,
    within: float = 0.5,
    seeds: int = 1,
    seed_sd: float = 0.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> float:
    """Smallest true difference in avg@k, as a fraction, that a paired design finds with this power.

    (z_{1-alpha/2} + z_power) · sqrt((w² + 2s²/(K·S))/n + 2v²/S); Miller, arXiv 2411.00640, plus the seed
    term.

    Args:
        n, k, seeds: problems, samples per problem, training seeds per arm.
        accuracy: expected accuracy; with `within`, gives the sampling variance s² = within · p(1 - p).
        sd_difference: w, the spread of the true per-problem differences.
        within: share of p(1 - p) that lies within problems; one half for the usual bimodal difficulty.
        seed_sd: v, the spread of an arm's mean over training seeds.

    Raises:
        SampleError: an argument is out of its range.
    """
    if n < 1 or k < 1 or seeds < 1:
        raise SampleError(f"n={n}, k={k} and seeds={seeds} must each be at least 1")
    if not (0 <= accuracy <= 1 and 0 <= within <= 1 and 0 < power < 1 and 0 < alpha < 1):
        raise SampleError("accuracy and within must lie in [0, 1], power and alpha strictly between 0 and 1")
    if not (sd_difference >= 0 and seed_sd >= 0):
        raise SampleError("sd_difference and seed_sd are standard deviations and cannot be negative")
    sampling = within * accuracy * (1 - accuracy)
    variance = (sd_difference**2 + 2 * sampling / (k * seeds)) / n + 2 * seed_sd**2 / seeds
    return float((ndtri(1 - alpha / 2) + ndtri(power)) * math.sqrt(variance))


def _sign_flip(units: Array, seed: int | str) -> tuple[float, str]:
    """Two-sided p of sum(units) = 0 under random signs, and the name of the test."""
    # sums that are equal in exact arithmetic differ by rounding; distinct ones differ by far more than this
    rounding = 1e-12
    units = units[np.abs(units) > rounding]
    observed = abs(math.fsum(units)) - rounding
    if len(units) <= EXACT_FLIPS:
        sums = np.zeros(1)
        for unit in units:
            sums = np.concatenate([sums + unit, sums - unit])
        return float((np.abs(sums) >= observed).mean()), "sign-flip, exact"
    draw = spread.generator(seed)
    count = 0
    for _ in range(DRAWS // 2_000):  # in parts, to bound the memory
        signs = 2.0 * draw.integers(0, 2, size=(2_000, len(units)), dtype=np.int8) - 1.0
        count += int((np.abs(signs @ units) >= observed).sum())
    return (1 + count) / (1 + DRAWS), f"sign-flip, {DRAWS:,} draws"


def _seed_differences(sides: Sequence[tuple[Array, Array]]) -> tuple[float, ...]:
    """Difference of each training seed; () where the benches were run with different numbers of seeds."""
    if len({len(b) for _, b in sides}) > 1:
        return ()
    total = np.zeros(len(sides[0][1]))
    for a, b in sides:
        left, right = a.mean(axis=(1, 2)), b.mean(axis=(1, 2))
        total += right - (left if len(left) == len(right) else left.mean())
    return tuple(float(v) for v in total / len(sides))
