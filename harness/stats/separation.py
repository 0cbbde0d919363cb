"""How well a score tells right rollouts from wrong ones: the area under the ROC curve, with an interval."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats import spread


@dataclass(frozen=True)
class Separation:
    """The chance that a right rollout outscores a wrong one of the same batch, with its 95 % interval.

    Ties count half; 0.5 is chance. `batches` are those that hold both kinds; where none does, the numbers are NaN.
    """

    value: float
    low: float
    high: float
    right: int
    wrong: int
    batches: int
    interval: str


def auroc(scores: ArrayLike, correct: ArrayLike, batches: Sequence[Hashable] | None = None) -> Separation:
    """Mann and Whitney's U over the number of pairs, pairs being made within a batch alone.

    Scores drift while a student trains, and so does its accuracy: pairs across batches would count that drift as
    the score's merit. Interval: with several batches t over batches (a ratio of sums of U and of pairs, linearised),
    so rollouts of one batch may depend on each other; with one, DeLong's (Biometrics 44, 1988), rollouts independent.
    Where nothing varies, the exact binomial one over the rarer kind.

    Args:
        batches: which batch each rollout is of; where not given, all are of one.

    Raises:
        spread.SampleError: the lengths differ, or a score is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    right = np.asarray(correct, dtype=bool)
    if values.ndim != 1 or values.shape != right.shape or (batches is not None and len(batches) != len(values)):
        raise spread.SampleError("scores, correct and batches must be lists of one length")
    if not np.isfinite(values).all():
        raise spread.SampleError("a score is not a finite number: leave such rollouts out")
    codes = np.zeros(len(values), dtype=np.intp) if batches is None else spread.cluster_codes(batches, len(values))
    counts = (int(right.sum()), int((~right).sum()))
    parts = [(values[codes == batch], right[codes == batch]) for batch in range(int(codes.max(initial=-1)) + 1)]
    mixed = [(placements(score[good], score[~good])) for score, good in parts if good.any() and not good.all()]
    if not mixed:
        return Separation(math.nan, math.nan, math.nan, *counts, 0, "none: no batch holds right and wrong rollouts")
    pairs = np.array([len(above) * len(below) for above, below in mixed], dtype=np.float64)
    wins = np.array([above.mean() for above, _ in mixed]) * pairs
    value = float(wins.sum() / pairs.sum())
    if len(mixed) > 1:
        residual = wins - value * pairs
        error = math.sqrt(len(mixed) / (len(mixed) - 1) * float((residual**2).sum())) / float(pairs.sum())
        half, interval = spread.half_width(error, len(mixed) - 1), "t over batches"
    else:
        above, below = mixed[0]
        error = math.sqrt(sum(float(side.var(ddof=1)) / len(side) for side in (above, below) if len(side) > 1))
        half, interval = spread.NORMAL * error, "DeLong"
    low, high = value - half, value + half
    if error <= spread.ROUNDING:
        low, high = spread.exact_binomial(value, min(counts))
        interval = "exact binomial over the rarer kind (no spread)"
    return Separation(value, max(0.0, low), min(1.0, high), *counts, len(mixed), interval)


def placements(
    right: NDArray[np.float64], wrong: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each right score the share of wrong ones below it, for each wrong one the share of right ones above it."""
    ordered = np.sort(wrong)
    below = (np.searchsorted(ordered, right, "left") + np.searchsorted(ordered, right, "right")) / 2 / len(wrong)
    ordered = np.sort(right)
    above = 1 - (np.searchsorted(ordered, wrong, "left") + np.searchsorted(ordered, wrong, "right")) / 2 / len(right)
    return below, above
