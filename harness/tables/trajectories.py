"""What happened while the arms trained, as tidy frames: accuracy against step, and the step records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import stats
from harness.errors import UserError
from harness.tables.markup import shorten
from harness.tables.standings import CHECKERS

if TYPE_CHECKING:
    from harness.records import Records

MOST_POINTS = 50  # of a training curve; longer ones are averaged over runs of steps

# column of the step records, title, factor
METRICS = (
    ("kl", "KL to the teacher, nats", 1),
    ("student_entropy", "student entropy, nats", 1),
    ("teacher_entropy", "teacher entropy, nats", 1),
    ("length_mean", "response length, tokens", 1),
    ("truncated", "truncated, %", 100),
    ("kept", "rollouts kept, %", 100),
    ("ess", "effective sample size, %", 100),
)


def label_of(manifest: Mapping[str, Any], arm: str) -> str:
    """The label of an arm, of bounded length."""
    return shorten(manifest["arms"][arm].get("label") or arm)


def curve_frame(records: Records) -> pd.DataFrame:
    """avg@k on the curve bench by arm, step and seed, in percent; an evaluation that lacks samples is left out.

    Seed "all" is the mean over seeds with its 95 % t interval over problems; the others carry a value alone. Every
    trained arm begins at the start model's point. `tokens` are those generated until then, `seconds` what the steps
    until then took, both the mean over seeds; NaN where that was not recorded.

    Raises:
        UserError: the records hold no complete evaluation of the curve bench.
    """
    manifest, steps = records.manifest, records.steps
    bench, arms = manifest["curve_bench"], manifest["arms"]
    samples = records.samples.assign(arm=records.samples["arm"].astype(str))
    samples = samples[(samples["bench"].astype(str) == bench) & samples["arm"].isin(list(arms))]
    problems = samples["problem"].nunique()
    column = CHECKERS[manifest.get("checker", "strict")]
    counted = steps.groupby([steps["arm"].astype(str), "step"])["generated_tokens"] if len(steps) else None
    tokens = counted.mean().to_dict() if counted is not None else {}
    seconds = _elapsed(records.timings)
    rows: list[dict[str, Any]] = []
    for (arm, step), group in samples.groupby(["arm", "step"]):
        runs = _complete(group, problems, column)
        if not runs:
            continue
        estimate = stats.avg_at_k(np.stack(list(runs.values())))
        nothing = 0.0 if step == 0 else math.nan
        place = {"arm": arm, "label": label_of(manifest, arm), "bench": bench, "metric": estimate.metric}
        place |= {"n": problems, "step": step, "tokens": float(tokens.get((arm, step), nothing))}
        place |= {"seconds": float(seconds.get((arm, step), nothing))}
        bounds = {"value": 100 * estimate.value, "low": 100 * estimate.low, "high": 100 * estimate.high}
        rows.append(place | {"seed": "all"} | bounds)
        rows += [place | {"seed": str(s), "value": 100 * v} for s, v in zip(runs, estimate.per_seed, strict=True)]
    if not rows:
        raise UserError(f"grid '{manifest['grid']}' has no complete evaluation of its curve bench '{bench}'")
    frame = pd.DataFrame(rows)
    start = [row for row in rows if row["arm"] == "start" and row["seed"] == "all"]
    trained = frame[~frame["arm"].map(lambda arm: bool(arms[arm].get("reference")))]
    origins = [  # every run begins where the student stood before training
        start[0] | {"arm": arm, "label": label_of(manifest, arm), "seed": seed}
        for arm, seed in trained[["arm", "seed"]].drop_duplicates().itertuples(index=False)
        if start
    ]
    frame = pd.DataFrame(rows + origins)
    return frame.sort_values(["arm", "seed", "step"], kind="stable").reset_index(drop=True)


def _elapsed(timings: pd.DataFrame) -> dict[tuple[str, int], float]:
    """Seconds from the first step to the end of each, evaluations left out: mean over seeds, by arm and step."""
    stages = [column for column in timings if str(column).startswith("seconds_")]
    if not stages:
        return {}
    runs = timings.assign(arm=timings["arm"].astype(str), spent=timings[stages].sum(axis=1, min_count=len(stages)))
    runs = runs.sort_values(["arm", "seed", "step"])
    runs["spent"] = runs.groupby(["arm", "seed"])["spent"].cumsum(skipna=False)
    mean = runs.groupby(["arm", "step"], as_index=False)["spent"].mean()
    return {(str(arm), int(step)): float(spent) for arm, step, spent in mean.itertuples(index=False)}


def _complete(rows: pd.DataFrame, problems: int, column: str) -> dict[int, NDArray[np.bool_]]:
    """[n, K] of every seed that was evaluated on all problems with one K; {} where the seeds differ in K."""
    runs: dict[int, NDArray[np.bool_]] = {}
    for seed, run in rows.groupby("seed"):
        counts = run.groupby("problem", observed=True).size()
        if len(counts) == problems and counts.nunique() == 1:
            ordered = run.sort_values(["problem", "sample"])
            runs[int(str(seed))] = ordered[column].to_numpy(dtype=bool).reshape(problems, -1)
    return runs if len({run.shape for run in runs.values()}) == 1 else {}


def training_frame(records: Records) -> pd.DataFrame:
    """Mean over seeds and their range, by arm, metric and run of steps; fractions in percent.

    Raises:
        UserError: the records hold no training steps.
    """
    if records.steps.empty:
        raise UserError(f"grid '{records.manifest['grid']}' has no training steps to draw")
    steps = records.steps.assign(arm=records.steps["arm"].astype(str))
    width = max(1, -(-int(steps["step"].max()) // MOST_POINTS))
    steps["block"] = (steps["step"] - 1) // width
    frames = []
    for metric, _, scale in METRICS:
        values = steps.assign(value=steps[metric] * scale if metric in steps else math.nan)
        runs = values.groupby(["arm", "block", "seed"], as_index=False).agg(
            step=("step", "mean"), value=("value", "mean")
        )
        over = runs.groupby(["arm", "block"], as_index=False).agg(
            step=("step", "mean"),
            value=("value", "mean"),
            low=("value", "min"),
            high=("value", "max"),
            seeds=("seed", "nunique"),
        )
        frames.append(over.assign(metric=metric, steps=width))
    frame = pd.concat(frames, ignore_index=True)
    frame = frame[frame["arm"].isin(list(records.manifest["arms"]))].drop(columns="block")
    frame["label"] = [label_of(records.manifest, arm) for arm in frame["arm"]]
    return frame[["metric", "arm", "label", "step", "value", "low", "high", "seeds", "steps"]].reset_index(drop=True)
