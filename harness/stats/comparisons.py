"""Paired differences on the same problems: t intervals, sign-flip test, Holm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats import spread
from harness.stats.spread import Array, Clusters, Error, SampleError

EXACT_FLIPS = 20
DRAWS = 20_000


@dataclass(frozen=True)
class Comparison:
    """A paired difference b - a over the same problems, in [-1, 1], with its 95 % interval and sign-flip p.

    `low`/`high` treat the problems as a sample of all such problems; `fixed_low`/`fixed_high` ask about
    these very problems only (sampling noise alone; NaN at K = 1); `both_low`/`both_high` treat the problems and the
    training seeds as samples, `both_interval` says how (NaN and empty where an arm has one seed). `n` counts
    problems over all benches of a macro difference.
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
    both_low: float = math.nan
    both_high: float = math.nan
    both_se: float = math.nan
    both_df: float = math.nan
    both_interval: str = ""


def paired(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Clusters | None = None,
    seed: int | str = "paired",
    same_seeds: bool | None = None,
) -> Comparison:
    """Difference b - a in avg@k on the same problems in the same order.

    t interval on the per-problem differences; p from flipping their signs (whole clusters where given):
    each of the 2^m assignments up to m = 20 non-zero differences, else 20,000 draws from a generator seeded
    by `seed`. With two training seeds or more in both arms, the `both` interval also counts the seeds as a sample:
    two-way crossed random effects (`spread.crossed_error`) of the differences where the seeds are paired, else with
    the seed variance of each arm added to the error over problems. In simulation it covers 94 % or more with five
    seeds, 92 % with three and 87 % with two, the least where the spread over seeds dwarfs that over problems.
    `per_seed` are differences of paired seeds, else differences to a's mean.

    Args:
        a, b: 0/1, [n, K] or [S, n, K]; K and S may differ between the two.
        clusters: family of each problem, [n].
        same_seeds: whether seed i of `a` and seed i of `b` are one seed; where not given, if both have as many.

    Raises:
        SampleError: `a` or `b` is empty, ragged or not 0/1, or their numbers of problems differ, or of seeds that
            are said to be the same.
    """
    return paired_macro([(a, b)], None if clusters is None else [clusters], seed, same_seeds)


def paired_macro(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    clusters: Sequence[Clusters | None] | None = None,
    seed: int | str = "paired",
    same_seeds: bool | None = None,
) -> Comparison:
    """`paired`, averaged with equal weight over several benches, one (a, b) each.

    Standard error sqrt(sum SE²)/B; the sign-flip test flips problems within every bench at once. The benches of an
    arm share its training seeds, by position.

    Raises:
        SampleError: as in `paired`, or there is no pair.
    """
    if not pairs:
        raise SampleError("a comparison needs at least one bench")
    sides = [(spread.samples(a, "a"), spread.samples(b, "b")) for a, b in pairs]
    families = [None] * len(sides) if clusters is None else clusters
    units, deltas, errors, noises, groups = [], [], [], [], []
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
        groups.append(codes)
    same = all(len(a) == len(b) for a, b in sides)
    if same_seeds and not same:
        raise SampleError("a and b have different numbers of training seeds, so they cannot be the same seeds")
    same = same if same_seeds is None else same_seeds
    delta = math.fsum(deltas) / len(deltas)
    se, df = spread.pooled_error(errors)
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
        per_seed=_seed_differences(sides, same),
        fixed_low=spread.clip(delta - fixed, -1.0),
        fixed_high=spread.clip(delta + fixed, -1.0),
        **_over_both(delta, sides, groups, (se, df), same),
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


def _sign_flip(units: Array, seed: int | str) -> tuple[float, str]:
    """Two-sided p of sum(units) = 0 under random signs, and the name of the test."""
    units = units[np.abs(units) > spread.ROUNDING]
    observed = abs(math.fsum(units)) - spread.ROUNDING
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


def _over_both(
    delta: float,
    sides: Sequence[tuple[Array, Array]],
    groups: Sequence[NDArray[np.intp]],
    problems: Error,
    same: bool,
) -> dict[str, Any]:
    """The fields of a comparison over problems and training seeds; none where an arm has a single seed.

    Seeds that both arms share are paired: one two-way table of the differences [S, n] for each bench. Else each arm
    brings the variance over its own seeds: Var = V_p(difference) + (V_s - V_r of a) + (V_s - V_r of b).
    """
    tables = [(a.mean(axis=2), b.mean(axis=2)) for a, b in sides]
    sets = [[b - a for a, b in tables]] if same else [[a for a, _ in tables], [b for _, b in tables]]
    if any(len({len(table) for table in arm}) > 1 or len(arm[0]) < 2 for arm in sets):
        return {}
    seeds = [spread.seed_error(np.mean([table.mean(axis=1) for table in arm], axis=0)) for arm in sets]
    rests = [
        spread.pooled_error([spread.rest_error(table, codes) for table, codes in zip(arm, groups, strict=True)])
        for arm in sets
    ]
    se, df = spread.crossed_error(problems, seeds, rests)
    half = spread.half_width(se, df)
    return {
        "both_low": spread.clip(delta - half, -1.0),
        "both_high": spread.clip(delta + half, -1.0),
        "both_se": se,
        "both_df": df,
        "both_interval": f"t over problems and {'paired' if same else 'independent'} training seeds",
    }


def _seed_differences(sides: Sequence[tuple[Array, Array]], same: bool) -> tuple[float, ...]:
    """Difference of each training seed; () where the benches were run with different numbers of seeds."""
    if len({len(b) for _, b in sides}) > 1:
        return ()
    total = np.zeros(len(sides[0][1]))
    for a, b in sides:
        left, right = a.mean(axis=(1, 2)), b.mean(axis=(1, 2))
        total += right - (left if same else left.mean())
    return tuple(float(v) for v in total / len(sides))
