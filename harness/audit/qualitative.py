"""FiRe-OPD's three qualitative claims, made measurable on the runs of one grid.

*Soft keeps more than hard*: the share of the batch's token KL on tokens without a coefficient, and what that costs in
accuracy. *Soft is more stable*: the spread of the final accuracy over training runs of one student, the variation of
the gradient norm, truncated rollouts. *Less is more*: accuracy against tokens generated and tokens trained on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import chi2

from harness.audit import by_student
from harness.stats.spread import half_width
from harness.tables.standings import MACRO

if TYPE_CHECKING:
    from harness.records import Records


def qualitative(records: Records, frame: pd.DataFrame) -> pd.DataFrame:
    """A row for every trained arm.

    Columns: `arm`, `method`, `label`, `inert`, `n` problems, `runs`; of the average over benchmarks, fractions:
    `value`, `delta` to the baseline with `low`, `high` (95 %, over problems and runs), `p_holm` and `by_student`;
    `spread` of the final accuracy, the SD over the runs of one student, pooled over students, with its 95 % interval
    `spread_low`, `spread_high` (normal runs); and, each with a half-width over runs in a column of the same name and
    `_half`:

    `kept` (share of rollouts, mean over steps), `discarded` (share of the token KL that is not trained on, mean over
    steps; `discarded_first` and `discarded_last` over the first and last tenth of them), `norm_cv` (SD over mean of the
    gradient norm in the second half of training), `truncated` (share of rollouts, second half), `length` (mean response
    of the last tenth of the steps over that of the first), `generated` and `trained` (tokens of a run).

    Args:
        frame: `comparison(records)`.
    """
    frame = frame[(frame["bench"] == MACRO) & ~frame["reference"]]
    students = len(records.manifest.get("students", [""]))
    steps = records.steps.assign(arm=records.steps["arm"].astype(str))
    rows = []
    for row in frame.to_dict("records"):
        by_run = _by_run(steps[steps["arm"] == row["arm"]])
        final = np.array(() if row["missing"] else row["per_seed"], dtype=float)
        found = {name: row[name] for name in ("arm", "label", "inert", "value", "delta", "p_holm", "baseline")}
        found["method"] = records.manifest["arms"][row["arm"]]["method"]
        found |= {"low": row["delta_both_low"], "high": row["delta_both_high"]}
        found |= {"runs": int(row["seeds"]), "n": row["n"], "by_student": by_student(row, students)}
        found |= dict(zip(("spread", "spread_low", "spread_high"), spread(final, students), strict=True))
        for name in map(str, by_run.columns):
            values = by_run[name].to_numpy(dtype=float)
            found[name] = float(values.mean()) if len(values) else math.nan
            error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            found[f"{name}_half"] = half_width(float(error), len(values) - 1) if len(values) > 1 else math.nan
        rows.append(found)
    return pd.DataFrame(rows)


def _by_run(steps: pd.DataFrame) -> pd.DataFrame:
    """The quantities of one arm, a row for each of its runs."""
    rows = []
    for _, run in steps.groupby("seed"):
        run = run.sort_values("step")
        late = run[run["step"] > run["step"].max() / 2]
        tenth = max(1, len(run) // 10)
        rows.append(
            {
                "kept": run["kept"].mean(),
                "discarded": run["discarded_kl"].mean(),
                "discarded_first": run["discarded_kl"].iloc[:tenth].mean(),
                "discarded_last": run["discarded_kl"].iloc[-tenth:].mean(),
                "norm_cv": late["grad_norm"].std(ddof=0) / late["grad_norm"].mean(),
                "truncated": late["truncated"].mean(),
                "length": run["length_mean"].iloc[-tenth:].mean() / run["length_mean"].iloc[:tenth].mean(),
                "generated": run["generated_tokens"].iloc[-1],
                "trained": run["trained_tokens"].iloc[-1],
            }
        )
    return pd.DataFrame(rows)


def spread(final: np.ndarray, students: int) -> tuple[float, float, float]:
    """SD over the runs of one student, pooled over students, with the 95 % interval that normal runs would give it.

    Args:
        final: [students · seeds] fractions, student by student.

    NaNs where a student has a single run, or some have none.
    """
    if len(final) % students or len(final) // students < 2:
        return math.nan, math.nan, math.nan
    groups = final.reshape(students, -1)
    freedom = groups.size - students
    total = float(((groups - groups.mean(1, keepdims=True)) ** 2).sum())
    low, high = (math.sqrt(total / chi2.ppf(q, freedom)) for q in (0.975, 0.025))
    return math.sqrt(total / freedom), low, high
