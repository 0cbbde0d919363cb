"""What the audit takes from one grid's records, so that no two grids need be in memory together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from harness.audit import ARMS, REGIMES, against, regime, subset
from harness.audit.parts import by_bench, by_slice
from harness.audit.qualitative import qualitative
from harness.stats import holm
from harness.tables.standings import MACRO, comparison

if TYPE_CHECKING:
    from harness.records import Records

#: Grid → axis on which its methods are compared level by level, and the method they are compared with; without an axis
#: the levels are what arms change in the run.
MATCHED: Final = {
    "main_table": ("", "opd"),
    "learning_rate": ("optim.lr", "opd"),
    "batch_size": ("data.prompts", "opd"),
    "filter_fraction": ("keep.fraction", "random-filter"),
}


def study(records: Records) -> dict[str, pd.DataFrame]:
    """The frames of a grid by name, of those that it has a part in.

    `arms`: of `qualitative`; `regime`: of `regime`; `parts`: of `by_slice` or `by_bench`; `matched`: of `matched`.
    """
    name, frame = records.manifest["grid"], comparison(records)
    found = {"arms": qualitative(records, frame)}
    for title, grid in REGIMES.items():
        if grid == name:
            found["regime"] = regime(title, records, frame)
    if name == REGIMES["flawed"]:
        found["parts"] = by_slice(records, ARMS)
    if name == REGIMES["domains"]:
        found["parts"] = by_bench(frame)
    if name in MATCHED:
        found["matched"] = matched(records, *MATCHED[name])
    return found


def matched(records: Records, axis: str, method: str) -> pd.DataFrame:
    """Every arm that stands on an axis against the arm of `method` at the same level.

    Without an axis: every arm that changes something in the run (rollouts a prompt) against that of `method` that
    changes the same.

    Columns: `level`, `arm`, `method`, `label`, `n`, `runs`, `baseline_label`, `baseline_value`, `value`, `delta`,
    `low`, `high` (95 %, over problems and training runs), `p`, `p_holm` over all rows, `missing`, `by_student`;
    averages over the benchmarks, fractions. A level where `method` has no arm is left out.
    """
    arms = records.manifest["arms"]
    levels = {arm: found for arm, spec in arms.items() if (found := _level(spec, axis)) is not None}
    students = len(records.manifest.get("students", [""]))
    rows = []
    for level in sorted(set(levels.values())):
        here = [arm for arm in levels if levels[arm] == level]
        base = next((arm for arm in here if arms[arm]["method"] == method), None)
        if base is None:
            continue
        rebased = replace(records, manifest=records.manifest | {"baseline": base})
        frame = comparison(subset(rebased, here))
        found = {row["arm"]: row for row in frame[frame["bench"] == MACRO].to_dict("records")}
        rows += [
            {"level": level, "arm": arm, "method": arms[arm]["method"], "baseline_label": found[base]["label"]}
            | against(row, found[base], students)
            for arm, row in found.items()
            if arm != base and row["seeds"]
        ]
    made = pd.DataFrame(rows)
    return made.assign(p_holm=holm(made["p"].tolist())) if rows else made


def _level(arm: Mapping[str, Any], axis: str) -> Any:
    """Where an arm of a manifest stands; None for nowhere."""
    if axis:
        return (arm.get("at") or {}).get(axis)
    return ", ".join(f"{path} = {value}" for path, value in arm.get("run") or ()) or None
