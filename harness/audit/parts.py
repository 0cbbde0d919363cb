"""Accuracy in the parts of a grid's problems: inside and outside of a teacher's flaw, domain by domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pandas as pd

from harness import stats
from harness.audit import subset
from harness.benchmarks import load_benchmark
from harness.benchmarks.slices import slices
from harness.tables.standings import MACRO, measure, order

if TYPE_CHECKING:
    from collections.abc import Collection

    from harness.records import Records

SLICED: Final = "toy-2048"


def by_slice(records: Records, arms: Collection[str]) -> pd.DataFrame:
    """The held-out problems with and without a product that the flawed teacher gets wrong, a row per arm and part.

    Columns: `arm`, `label`, `part`, `n` problems, `value`, and to the baseline on the same problems `delta`, `low`,
    `high` (95 %, over problems and training runs) and `p`; fractions. References are there without a difference.
    """
    manifest = records.manifest
    cells = measure(subset(records, {*arms, *_references(records)}), "correct")
    of = slices(SLICED, load_benchmark(SLICED).problems)
    rows = []
    for arm in order(manifest):
        if (arm, SLICED) not in cells:
            continue
        mine, base = cells[arm, SLICED], cells[manifest["baseline"], SLICED]
        for part in dict.fromkeys(of.values()):
            at = [index for index, problem in enumerate(mine.problems) if of[problem] == part]
            row = {"arm": arm, "label": manifest["arms"][arm].get("label") or arm, "part": part, "n": len(at)}
            row["value"] = float(mine.correct[:, at].mean())
            if arm != manifest["baseline"] and not manifest["arms"][arm].get("reference"):
                key = f"{manifest['grid']}/{arm}/{part}"
                made = stats.paired(base.correct[:, at], mine.correct[:, at], seed=key)
                row |= {"delta": made.delta, "low": made.both_low, "high": made.both_high, "p": made.p}
            rows.append(row)
    return pd.DataFrame(rows)


def by_bench(frame: pd.DataFrame) -> pd.DataFrame:
    """Every benchmark by itself, with the columns of `by_slice`; `part` is the benchmark's label.

    Args:
        frame: of `comparison`.
    """
    frame = frame[frame["bench"] != MACRO]
    found = frame[["arm", "label", "bench_label", "n", "value", "delta", "delta_both_low", "delta_both_high", "p"]]
    return found.rename(columns={"bench_label": "part", "delta_both_low": "low", "delta_both_high": "high"})


def _references(records: Records) -> list[str]:
    return [arm for arm, spec in records.manifest["arms"].items() if spec.get("reference")]
