"""What a design resolves: standard errors of a gain, the smallest gain it would find, and what more would buy.

Planning, before anything is sampled: the spreads are assumed, and tests are taken as normal. Everything is a fraction.
Formulas: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640), and a term for the spread over training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from scipy.special import ndtr, ndtri, stdtr, stdtrit

from harness.stats.spread import SampleError

if TYPE_CHECKING:
    import pandas as pd

Size = Literal["n", "k", "seeds"]
Question = Literal["fixed", "problems", "runs", "both", "independent"]

QUESTIONS: Final[dict[Question, str]] = {
    "fixed": "these very problems, these checkpoints",
    "problems": "such problems, these checkpoints",
    "runs": "these very problems, such training runs",
    "both": "such problems, such training runs",
    "independent": "two table cells, as if unrelated",
}


@dataclass(frozen=True)
class Design:
    """Two arms on the same n problems, k samples each, from so many training seeds per arm; and what is assumed.

    Attributes:
        accuracy: expected accuracy p.
        sd_difference: w, the spread of the true per-problem differences.
        within: share of p(1 - p) that lies within problems; one half where difficulty is bimodal (Beta, a + b = 1).
        seed_sd: v, the spread of an arm's mean over training seeds.

    Raises:
        SampleError: a value is out of its range.
    """

    n: int
    k: int
    accuracy: float = 0.5
    sd_difference: float = 0.15
    within: float = 0.5
    seeds: int = 1
    seed_sd: float = 0.0

    def __post_init__(self) -> None:
        if not (self.n >= 1 and self.k >= 1 and self.seeds >= 1):
            raise SampleError(f"n={self.n}, k={self.k} and seeds={self.seeds} must each be at least 1")
        if not (0 <= self.accuracy <= 1 and 0 <= self.within <= 1):
            raise SampleError("accuracy and within must lie in [0, 1]")
        if not (0 <= self.sd_difference < math.inf and 0 <= self.seed_sd < math.inf):
            raise SampleError("sd_difference and seed_sd are standard deviations and cannot be negative")

    def se(self, question: Question = "both") -> float:
        """Standard error of the difference of the two arms, as an answer to one of `QUESTIONS`."""
        spread = self.accuracy * (1 - self.accuracy)
        sampling = 2 * self.within * spread / (self.k * self.seeds * self.n)
        runs = 2 * self.seed_sd**2 / self.seeds
        variance = {
            "fixed": sampling,
            "problems": self.sd_difference**2 / self.n + sampling,
            "runs": sampling + runs,
            "both": self.sd_difference**2 / self.n + sampling + runs,
            "independent": 2 * (1 - self.within) * spread / self.n + sampling,
        }
        return math.sqrt(variance[question])

    def df(self, question: Question = "both") -> float:
        """Degrees of freedom of its t test over problems; infinite (normal) where the problems are fixed."""
        return {"problems": self.n - 1.0, "both": self.n - 1.0, "independent": 2.0 * (self.n - 1)}.get(
            question, math.inf
        )

    def half_width(self, question: Question = "both") -> float:
        """Half-width of the 95 % interval that would be reported; NaN for a t interval over one problem."""
        df = self.df(question)
        return (float(ndtri(0.975)) if math.isinf(df) else float(stdtrit(df, 0.975))) * self.se(question)

    def detectable(self, question: Question = "both", power: float = 0.8, alpha: float = 0.05) -> float:
        """Smallest true gain that is found (two-sided test, right direction) with this power: (z + z) · se."""
        return quantiles(power, alpha) * self.se(question)

    def power(self, gain: float, question: Question = "both", alpha: float = 0.05) -> float:
        """Chance that a true gain is found, in its own direction."""
        se = self.se(question)
        return float(ndtr(abs(gain) / se - ndtri(1 - alpha / 2))) if se > 0 else float(gain != 0)


@dataclass(frozen=True)
class Reading:
    """One question asked of a reported gain: its standard error, gain / se, and the two-sided p of that."""

    question: Question
    se: float
    z: float
    p: float
    df: float  # of the t distribution behind p; infinite: normal


@dataclass(frozen=True)
class ReportedGain:
    """A published gain, read as an answer to each of `QUESTIONS`, under the assumptions of `design`."""

    gain: float
    design: Design
    fixed: Reading
    problems: Reading
    runs: Reading
    both: Reading
    independent: Reading

    @property
    def se(self) -> float:
        """Over such problems, and over such training runs where a spread over seeds is assumed."""
        return self.both.se

    @property
    def z(self) -> float:
        return self.both.z

    @property
    def p(self) -> float:
        return self.both.p

    @property
    def fixed_se(self) -> float:
        return self.fixed.se


def reported_gain(
    gain: float,
    n: int,
    k: int,
    accuracy: float = 0.5,
    sd_difference: float = 0.15,
    seeds: int = 1,
    seed_sd: float = 0.0,
    within: float = 0.5,
) -> ReportedGain:
    """How a gain that somebody reports stands beside its standard error; arguments as in `Design`.

    Raises:
        SampleError: an argument is out of its range.
    """
    if not -1 <= gain <= 1:
        raise SampleError(f"a gain is a difference of two fractions, in [-1, 1], not {gain}")
    design = Design(n, k, accuracy, sd_difference, within, seeds, seed_sd)
    readings = {}
    for question in QUESTIONS:
        se, df = design.se(question), design.df(question)
        z = gain / se if se > 0 else math.copysign(math.inf, gain) if gain else 0.0
        tail = ndtr(-abs(z)) if math.isinf(df) else stdtr(df, -abs(z)) if df > 0 else math.nan
        readings[question] = Reading(question, se, z, 2 * float(tail), df)
    return ReportedGain(gain, design, **readings)


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

    (z_{1-alpha/2} + z_power) · sqrt((w² + 2s²/(K·S))/n + 2v²/S), with s² = within · p(1 - p); arguments as in `Design`.

    Raises:
        SampleError: an argument is out of its range.
    """
    return Design(n, k, accuracy, sd_difference, within, seeds, seed_sd).detectable("both", power, alpha)


def needed(design: Design, gain: float, size: Size, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """How many problems, samples or seeds find this gain, all else as in `design`; None if no number does.

    Over such problems, and such training runs where a spread over seeds is assumed.

    Raises:
        SampleError: an argument is out of its range.
    """
    allowed = (gain / quantiles(power, alpha)) ** 2
    one = {"n": replace(design, n=1), "k": replace(design, k=1), "seeds": replace(design, seeds=1)}[size]
    floor = limit(design, size) ** 2
    if allowed <= floor:
        return 1 if one.se() ** 2 <= allowed else None
    count = (one.se() ** 2 - floor) / (allowed - floor)
    return max(1, math.ceil(count * (1 - 1e-12)))


def limit(design: Design, size: Size, question: Question = "both") -> float:
    """Standard error that is left with ever more problems, samples or seeds."""
    several = replace(design, **{size: 1}).se(question) ** 2
    # every variance is constant + rest / size: two sizes give the constant
    double = replace(design, **{size: 2}).se(question) ** 2
    return math.sqrt(max(0.0, 2 * double - several))


def table(
    design: Design,
    ns: Sequence[int] = (),
    ks: Sequence[int] = (),
    seeds: Sequence[int] = (),
    power: float = 0.8,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Smallest gain found for every n × k × seeds (those of `design` where none are given), a row each.

    Columns n, k, seeds, and one for each of `QUESTIONS`.
    """
    import pandas as pd

    designs = [
        replace(design, n=n, k=k, seeds=s)
        for n in ns or (design.n,)
        for k in ks or (design.k,)
        for s in seeds or (design.seeds,)
    ]
    return pd.DataFrame(
        [
            {"n": d.n, "k": d.k, "seeds": d.seeds} | {q: d.detectable(q, power, alpha) for q in QUESTIONS}
            for d in designs
        ]
    )


def quantiles(power: float, alpha: float) -> float:
    """z_{1-alpha/2} + z_power: how many standard errors a gain must measure to be seen."""
    if not (0 < power < 1 and 0 < alpha < 1):
        raise SampleError("power and alpha must lie strictly between 0 and 1")
    return float(ndtri(1 - alpha / 2) + ndtri(power))
