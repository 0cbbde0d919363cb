"""The audit of `results/PROTOCOL.md`: its comparisons across grids, as pure functions of kept records."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from harness.records import FRAMES
from harness.stats import holm
from harness.stats.spread import half_width
from harness.tables.standings import ALPHA, MACRO

if TYPE_CHECKING:
    from harness.records import Records

BASELINE: Final = "opd"
METHOD: Final = "fire"
#: Regime → grid whose records hold it.
REGIMES: Final = {
    "clean": "main_table",
    "beyond": "regime_beyond",
    "hot": "regime_hot",
    "hot, uncorrected": "regime_hot_uncorrected",
    "flawed": "regime_flawed",
    "domains": "multi_teacher",
}
#: All grids of the audit, those of the primary family first.
GRIDS: Final = (
    *REGIMES.values(),
    "granularity",
    "scope",
    "controls",
    "filter_fraction",
    "weight_form",
    "learning_rate",
    "batch_size",
)
ARMS: Final = ("full-rkl", METHOD, "random-filter")  # beside the baseline in every regime


def subset(records: Records, arms: Collection[str]) -> Records:
    """The records of some arms, and of the grid's baseline."""
    kept = {arm: spec for arm, spec in records.manifest["arms"].items() if arm in {*arms, records.manifest["baseline"]}}

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["arm"].astype(str).isin(kept)] if len(frame) else frame

    manifest = records.manifest | {"arms": kept, "order": [a for a in records.manifest["order"] if a in kept]}
    return replace(
        records,
        manifest=manifest,
        **{name: rows(getattr(records, name)) for name in FRAMES},
    )


def regime(name: str, records: Records, frame: pd.DataFrame) -> pd.DataFrame:
    """The arms of `ARMS` against the baseline in one regime, a row each, by the average over benchmarks.

    Columns: `regime`, `grid`, `arm`, `label`, `n` problems, `runs` (training runs of either side), `baseline_value`,
    `value`, `delta`, `low`, `high` (95 %, over problems and training runs together), `p` (paired sign-flip over
    problems, two-sided), `by_student` (difference of each student's runs), `missing` (samples that are not there);
    fractions. An arm without a complete run is left out.

    Args:
        name: a key of `REGIMES`.
        frame: `comparison(records)`.
    """
    found = {row["arm"]: row for row in frame[frame["bench"] == MACRO].to_dict("records")}
    students = len(records.manifest.get("students", [""]))
    rows = []
    for arm in ARMS:
        if arm not in found or not found[arm]["seeds"]:
            continue
        row = {"regime": name, "grid": records.manifest["grid"], "arm": arm}
        rows.append(row | against(found[arm], found[BASELINE], students))
    return pd.DataFrame(rows)


def against(row: Mapping[Any, Any], base: Mapping[Any, Any], students: int) -> dict[str, Any]:
    """An arm beside its baseline, of two rows of `comparison`, under the names that the audit's frames share."""
    return {
        "label": row["label"],
        "n": int(row["n"]),
        "runs": int(row["seeds"]),
        "baseline_value": base["value"],
        "value": row["value"],
        "delta": row["delta"],
        "low": row["delta_both_low"],
        "high": row["delta_both_high"],
        "p": row["p"],
        "missing": row["missing"],
        "by_student": by_student(row, students),
    }


def by_student(row: Mapping[Any, Any], students: int) -> tuple[float, ...]:
    """The difference of each student's runs, of a row of `comparison`; empty where samples are missing."""
    each = () if row["missing"] else row["delta_per_seed"]  # with a hole nobody knows whose run is whose
    size = len(each) // students
    return tuple(sum(each[i * size : (i + 1) * size]) / size for i in range(students) if size)


def over_students(differences: Sequence[float]) -> tuple[float, float]:
    """95 % t interval over students, each one draw: what may be said of students of this recipe that nobody trained.

    NaNs for fewer than two.
    """
    size = len(differences)
    if size < 2:
        return math.nan, math.nan
    middle, half = fmean(differences), half_width(stdev(differences) / math.sqrt(size), size - 1)
    return middle - half, middle + half


def primary(frame: pd.DataFrame) -> pd.DataFrame:
    """FiRe-OPD − OPD in every regime, with `p_holm` over the regimes and the protocol's `finding`.

    A finding is `better` or `worse` where the adjusted p is below 0.05 and the interval over problems and training runs
    excludes zero, else `not resolved`. `reversed` counts the students whose difference has the other sign;
    `students_low` and `students_high` are of `over_students`.

    Args:
        frame: of `regime`, of all regimes.
    """
    found = frame[frame["arm"] == METHOD].reset_index(drop=True)
    found["p_holm"] = holm(found["p"].tolist())
    found["finding"] = [finding(row) for row in found.to_dict("records")]
    ends = [over_students(row) for row in found["by_student"]]
    found["students_low"], found["students_high"] = ([end[side] for end in ends] for side in (0, 1))
    found["reversed"] = [reversals(row) for row in found.to_dict("records")]
    return found


def finding(row: Mapping[Any, Any]) -> str:
    """What the protocol lets a row say: its `p_holm` and its interval `low`, `high` together."""
    if row["p_holm"] < ALPHA and row["low"] > 0:
        return "better"
    if row["p_holm"] < ALPHA and row["high"] < 0:
        return "worse"
    return "not resolved"


def reversals(row: Mapping[Any, Any]) -> int:
    """Of how many students the difference has the other sign."""
    return sum(one * row["delta"] < 0 for one in row["by_student"])


def sentence(row: Mapping[Any, Any]) -> str:
    """`finding`, and what the protocol wants said beside one."""
    said, turned = finding(row), reversals(row)
    if said == "not resolved" or not turned:
        return said
    return f"{said}, {turned} student{'s'[: turned > 1]} reversed"
