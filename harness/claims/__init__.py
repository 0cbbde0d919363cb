"""Published gains beside what was measured here: one frame, a pure function of the ledger and of kept records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from scipy.special import stdtr

from harness.claims.evidence import FEWEST_SEEDS, FULL, STAND_INS, Measure, Measured, distinct, measurements, measuring
from harness.claims.ledger import BENCHES, Claim, Reported, load_reported, published
from harness.claims.printed import design_of
from harness.stats.comparisons import holm
from harness.stats.power import Design
from harness.stats.spread import NORMAL, pooled_error

if TYPE_CHECKING:
    from harness.records import Records

SUPPORTED, CONTRADICTED, UNRESOLVED, UNTESTED = "supported", "contradicted", "not resolved", "not tested"


@dataclass(frozen=True)
class Assumption:
    """What a paper does not print and a standard error needs; all but k in points."""

    spread: float  # SD of the true per-problem differences
    seed_sd: float  # SD of a benchmark's mean over training seeds
    shared: bool  # whether a seed moves all benchmarks of an average together, or each by itself
    k: int  # where it is not stated


MILD: Final = Assumption(spread=10.0, seed_sd=1.0, shared=False, k=32)
HARSH: Final = Assumption(spread=20.0, seed_sd=2.5, shared=True, k=8)


def claims(reported: Path, records: Iterable[Records]) -> pd.DataFrame:
    """One row for each published gain of a method over its baseline, in the order of the ledger.

    Gains, standard errors and measured differences are in points; what is not known is NaN or empty.

    By itself: `se_low`/`se_high` is the standard error of the gain, read as a statement about the method on such
    problems with one training run per arm, under the mildest and the harshest of the assumptions `MILD` and `HARSH`;
    `z_…`, `p_…` follow (two-sided, t over problems). GRIM: whether the printed numbers are possible for the stated n
    and k (`grim`), and for which of the usual k all of them are (`grim_ks`).

    Measured here: two trained, live arms of one kept grid with the claim's method and baseline (the same method and the
    same edits, no other difference between the two) and as many teachers (one, or several), both complete; where grids
    share runs, in the one with most of them. At full scale on the claim's benchmark, or on all members of its average.
    In the toy world on the toy problems of its domain (`STAND_INS`), with equal weight, where that domain was trained
    on. Holm's adjustment runs over all such differences that any claim of the ledger asks for. A difference is evidence
    if its adjusted p is below 0.05, its 95 % interval over problems and training runs together excludes zero, and there
    are at least three training runs.

    Verdict, with the scale in brackets; full scale silences toy scale:

    - `supported`: there is evidence in the claimed direction and none against it. At full scale the intervals of the
      measured and of the published gain must also overlap; in the toy world only the *direction* is compared, and says
      nothing about the size or about large models.
    - `contradicted`: there is evidence in the opposite direction and none for the claimed one.
    - `not resolved`: it was measured, and is neither.
    - `not tested`: nothing kept measures it; pass@k, benchmarks of another domain and gains of zero never are.

    Args:
        records: of all kept grids; read one after another, so that they need not be in memory together.

    Raises:
        UserError: the ledger is broken, or the records of a grid contradict themselves.
    """
    rows = load_reported(reported)
    found: dict[Claim, list[Measured]] = {claim: [] for claim in published(rows)}
    for kept in records:
        measure = measuring(kept)
        for claim, measured in found.items():
            measured += _measured(claim, kept, measure)
    wanted = {claim: distinct(measured) for claim, measured in found.items()}
    family = list(dict.fromkeys(m for measured in wanted.values() for m in measured))
    adjusted = dict(zip(family, holm([m.p for m in family]), strict=True))
    frame = [
        _row(claim, rows, [replace(m, p_holm=adjusted[m]) for m in measured]) for claim, measured in wanted.items()
    ]
    return pd.DataFrame(frame)


def _measured(claim: Claim, kept: Records, measure: Measure) -> Iterator[Measured]:
    row = claim.row
    if row.metric != "pass@k" and Fraction(claim.gain) != 0:
        several = "multi-teacher" in row.setting
        yield from measurements(row.method, claim.baseline, row.benchmark, several, kept, measure)


def standard_error(claim: Claim, assumed: Assumption, runs: int = 1) -> tuple[float, float]:
    """Standard error of a published gain in points under an assumption, and its degrees; NaN where n is not known.

    One benchmark, R training runs per arm: 100·sqrt((w² + 2s²/(K·R))/n + 2v²/R). An average over B of them: the
    problems' part is sqrt(Σ(…)/n)/B, and the runs' part 2v²/(R·B) unless it is shared. s² = half of p(1 − p), p the
    mean of the printed numbers, or one half.
    """
    bench, k = BENCHES[claim.row.benchmark], claim.row.draws or assumed.k
    sizes = [BENCHES[name].n for name in bench.members] or [claim.row.problems]
    known = [float(text) / 100 for text in (claim.value, claim.baseline_value) if text]
    accuracy = sum(known) / len(known) if known else 0.5
    parts = []
    for n in sizes:
        if n is None:
            return math.nan, math.nan
        design = Design(n, k, accuracy, assumed.spread / 100, seeds=runs)
        parts.append((design.se("problems"), design.df("problems")))
    problems, df = pooled_error(parts)
    seeds = 2 * (assumed.seed_sd / 100) ** 2 / runs / (1 if assumed.shared else len(sizes))
    return 100 * math.sqrt(problems**2 + seeds), df


# --- verdicts -------------------------------------------------------------------------------------------------


def _row(claim: Claim, rows: Sequence[Reported], measured: Sequence[Measured]) -> dict[str, Any]:
    row, gain = claim.row, abs(float(claim.gain))
    (mild, df_mild), (harsh, df_harsh) = (standard_error(claim, assumed) for assumed in (MILD, HARSH))
    verdict, reason = judge(claim, measured)
    return {
        **{name: getattr(row, name) for name in ("paper", "title_short", "setting", "student", "teacher", "method")},
        "baseline": claim.baseline,
        "benchmark": row.benchmark,
        "metric": row.metric,
        "k": row.k or math.nan,
        "n": row.problems or math.nan,
        "value": claim.value,
        "baseline_value": claim.baseline_value,
        "implied": claim.implied,
        "gain": claim.gain,
        "headline": claim.headline,
        "se_low": mild,
        "se_high": harsh,
        "z_low": gain / harsh,
        "z_high": gain / mild,
        "p_low": 2 * float(stdtr(df_mild, -gain / mild)),
        "p_high": 2 * float(stdtr(df_harsh, -gain / harsh)),
        **design_of(claim, rows),
        **_evidence(_shown(measured)),
        "verdict": verdict,
        "reason": reason,
        "source": row.source,
        "doubt": row.doubt,
    }


def _evidence(shown: Measured | None) -> dict[str, Any]:
    """Columns of the measurement that is shown, in points."""
    if shown is None:
        numbers: dict[str, Any] = dict.fromkeys(("delta", "delta_low", "delta_high", "p_measured", "p_holm"), math.nan)
        return {"grid": "", "scale": "", "measured_on": "", **numbers, "delta_per_seed": ()}
    return {
        "grid": shown.grid,
        "scale": shown.scale,
        "measured_on": " ".join(shown.benches),
        "delta": 100 * shown.delta,
        "delta_low": 100 * shown.low,
        "delta_high": 100 * shown.high,
        "p_measured": shown.p,
        "p_holm": shown.p_holm,
        "delta_per_seed": tuple(100 * one for one in shown.per_seed),
    }


def _loudest(measured: Sequence[Measured]) -> list[Measured]:
    """Those at full scale where there are any."""
    full = [m for m in measured if m.scale == FULL]
    return full or list(measured)


def _shown(measured: Sequence[Measured]) -> Measured | None:
    """The measurement from most seeds, then from most samples, then the first by name."""
    ranked = sorted(_loudest(measured), key=lambda m: (-len(m.per_seed), -m.samples, m.grid, m.arm))
    return ranked[0] if ranked else None


def judge(claim: Claim, measured: Sequence[Measured]) -> tuple[str, str]:
    """Verdict and reason by the rule in `claims`."""
    if not measured:
        return UNTESTED, _why_not(claim)
    counted = _loudest(measured)
    scale, shown = counted[0].scale, _shown(counted)
    assert shown is not None
    sign = 1 if float(claim.gain) > 0 else -1
    evidence = {m.direction * sign for m in counted}
    text = _sentence(shown)
    if {1, -1} <= evidence:
        return f"{UNRESOLVED} ({scale})", f"Kept grids disagree; {text}."
    if -1 in evidence:
        return f"{CONTRADICTED} ({scale})", f"Evidence of the opposite sign: {text}."
    if 1 not in evidence:
        return f"{UNRESOLVED} ({scale})", f"No evidence of either sign: {text}."
    half = NORMAL * standard_error(claim, HARSH)[0]
    low, high = 100 * shown.low - float(claim.gain), 100 * shown.high - float(claim.gain)
    if scale == FULL and math.isnan(half):
        return f"{UNRESOLVED} ({scale})", f"The claimed sign, of a size that cannot be compared without n: {text}."
    if scale == FULL and not (low <= half and high >= -half):
        return f"{UNRESOLVED} ({scale})", f"The claimed sign, but not its size: {text}."
    return f"{SUPPORTED} ({scale})", f"Evidence of the claimed sign: {text}."


def _why_not(claim: Claim) -> str:
    domain = BENCHES[claim.row.benchmark].domain
    if claim.row.metric == "pass@k":
        return "The claim is about pass@k; kept comparisons are of avg@k."
    if Fraction(claim.gain) == 0:
        return "No difference is claimed, so there is no direction to test."
    if domain not in STAND_INS:
        return f"No kept grid has {domain} problems."
    teachers = "several teachers" if "multi-teacher" in claim.row.setting else "one teacher"
    return f"No kept grid trains {claim.row.method} and {claim.baseline} with {teachers} and grades both on {domain}."


def _sentence(shown: Measured) -> str:
    seeds = len(shown.per_seed)
    above = sum(one > 0 for one in shown.per_seed)
    few = "" if seeds >= FEWEST_SEEDS else f" (evidence takes {FEWEST_SEEDS})"
    sides = f"{above} of {seeds} seed{'s' if seeds != 1 else ''} above zero{few}"
    delta, low, high = (f"{100 * v:+.1f}".replace("-", "−") for v in (shown.delta, shown.low, shown.high))
    p = "< 0.001" if shown.p_holm < 0.001 else f"= {shown.p_holm:.3f}"
    return f"{delta} points [{low}, {high}] in {shown.grid}, Holm p {p}, {sides}"
