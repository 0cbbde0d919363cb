"""All the metrics of one benchmark of one evaluation, as a tidy frame, from its graded samples."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import stats
from harness.errors import UserError
from harness.stats import Estimate, spread

CHECKERS: Final = {"strict": "correct", "paper": "correct_paper"}
COLUMNS: Final = ("metric", "k", "value", "low", "high", "n", "interval", "unit")
_NEEDED: Final = ("bench", "seed", "problem", "sample", "answer", "parsed", "finish", "tokens", *CHECKERS.values())


def metrics(
    samples: pd.DataFrame,
    ks: Sequence[int] | None = None,
    clusters: Mapping[str, Hashable] | None = None,
    checker: str = "strict",
) -> pd.DataFrame:
    """avg@K, pass@k, maj@k, pass^k, and how answers failed or differed, one row for each.

    Intervals are 95 % t intervals over problems, clustered where families are given; the training seeds of a problem
    are averaged first. The percentiles of the length, over all samples, have none. maj@k votes over the classes
    `parsed`, or `answer` where there is no class. What was not recorded (lengths, or verdicts of both checkers, of
    evaluations made elsewhere) is NaN. A problem without any row cannot be seen to be missing: compare n.

    Args:
        samples: rows of one benchmark with the columns of `Evaluation.samples`, one or more seeds.
        ks: for pass@k, maj@k and pass^k; the powers of two up to K, and K, where not given.
        clusters: problem → family; a problem that is not named is its own.
        checker: "strict" or "paper", whose verdicts count.

    Returns:
        Columns metric, k, value, low, high, n (problems), interval, unit ("fraction" or "tokens").

    Raises:
        UserError: no rows, several benchmarks, samples missing or twice, or no verdicts of that checker.
    """
    if checker not in CHECKERS:
        raise UserError(f"checker '{checker}' is unknown: choose from {', '.join(CHECKERS)}")
    rows = _complete(samples)
    bench = str(rows["bench"].iloc[0])
    shape = (rows["seed"].nunique(), rows["problem"].nunique(), rows["sample"].nunique())
    problems = rows["problem"].iloc[: shape[1] * shape[2] : shape[2]]
    families = None if clusters is None else [clusters.get(problem, problem) for problem in problems]
    correct = _verdicts(rows, CHECKERS[checker])
    if correct is None:
        why = "; evaluations by lm-eval have only those of 'strict'" if checker == "paper" else "; grade it again"
        raise UserError(f"bench '{bench}' has samples without a verdict of the checker '{checker}'{why}")
    correct = correct.reshape(shape)
    ballots = _votes(rows).reshape(shape)
    total = shape[2]
    if ks is None:
        ks = sorted({2**power for power in range(total.bit_length())} | {total})
    found = [_row(stats.avg_at_k(correct, families))]
    found += [_row(stats.pass_at_k(correct, k, families)) for k in ks]
    found += [_row(stats.maj_at_k(ballots, correct, k, families)) for k in ks]
    found += [_row(stats.pass_hat_k(correct, k, families)) for k in ks]
    strict, paper = (_verdicts(rows, column) for column in CHECKERS.values())
    rates = {
        "no answer": rows["answer"].isna().to_numpy(),
        "truncated": None if rows["finish"].isna().any() else (rows["finish"].astype(str) == "length").to_numpy(),
        "disagreement": None if strict is None or paper is None else strict != paper,
    }
    for name, flags in rates.items():
        if flags is None:
            found.append(_number(name, math.nan, shape, "fraction"))
        else:
            found.append(_row(replace(stats.avg_at_k(flags.reshape(shape), families), metric=name)))
    found += _lengths(rows["tokens"].to_numpy(dtype=np.float64, na_value=math.nan), shape, families)
    return pd.DataFrame(found, columns=list(COLUMNS))


def _complete(samples: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order (seed, problem, sample), K for every problem of every seed.

    Raises:
        UserError: they are not.
    """
    if absent := [column for column in _NEEDED if column not in samples.columns]:
        raise UserError(f"samples have no column '{absent[0]}': pass the rows of an evaluation")
    if samples.empty:
        raise UserError("there are no samples to compute metrics from: name a benchmark that was evaluated")
    rows = samples.assign(bench=samples["bench"].astype(str), problem=samples["problem"].astype(str))
    if len(benches := list(dict.fromkeys(rows["bench"]))) > 1:
        raise UserError(f"samples are of several benchmarks ({', '.join(benches)}): pass those of one at a time")
    where = f"bench '{benches[0]}'"
    keys = ["seed", "problem", "sample"]
    if samples[keys].isna().any(axis=None):
        raise UserError(f"{where}: a row without seed, problem or sample number; evaluate again")
    if (twice := rows.duplicated(keys)).any():
        seed, problem, sample = rows.loc[twice, keys].iloc[0]
        raise UserError(
            f"{where}, seed {seed}: sample {sample} of problem '{problem}' is there twice; remove the repeated rows"
        )
    k = rows["sample"].nunique()
    sizes = rows.groupby(keys[:2]).size().unstack(fill_value=0)
    counts = sizes.to_numpy(dtype=np.int64)
    if len(short := np.argwhere(counts < k)):
        row, column = short[0]
        seed, problem = sizes.index.tolist()[row], sizes.columns.tolist()[column]
        raise UserError(
            f"{where}, seed {seed}: problem '{problem}' has {counts[row, column]} of {k} samples; "
            "evaluate again, which adds what is missing, or leave the problem out of every seed"
        )
    return rows.sort_values(keys, ignore_index=True)


def _verdicts(rows: pd.DataFrame, column: str) -> NDArray[np.bool_] | None:
    return None if rows[column].isna().any() else rows[column].to_numpy(dtype=np.bool_)


def _votes(rows: pd.DataFrame) -> NDArray[np.object_]:
    """The class of each answer, the answer itself where it has none, None where there is no answer."""
    parsed, answers = (rows[column].to_numpy(dtype=object) for column in ("parsed", "answer"))
    ballots = np.where(rows["parsed"].isna(), answers, parsed)
    ballots[(rows["parsed"].isna() & rows["answer"].isna()).to_numpy()] = None
    return np.asarray(ballots)


def _lengths(
    tokens: NDArray[np.float64], shape: tuple[int, int, int], families: Sequence[Hashable] | None
) -> Iterator[dict[str, Any]]:
    """Mean with its interval over problems, median and 95th percentile of the lengths."""
    by_problem = tokens.reshape(shape).mean(axis=(0, 2))
    mean = _number("length mean", float(by_problem.mean()), shape, "tokens")
    se, df = spread.standard_error(by_problem, spread.cluster_codes(families, shape[1]))
    if se > 0:
        half = spread.half_width(se, df)
        mean |= {"low": max(0.0, mean["value"] - half), "high": mean["value"] + half}
        mean["interval"] = "t over problems" + ("" if families is None else ", clustered")
    yield mean
    for percent in (50, 95):
        yield _number(f"length p{percent}", float(np.percentile(tokens, percent)), shape, "tokens")


def _row(estimate: Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in COLUMNS[:-1]} | {"unit": "fraction"}


def _number(name: str, value: float, shape: tuple[int, int, int], unit: str) -> dict[str, Any]:
    """A row without an interval."""
    numbers = {"value": value, "low": math.nan, "high": math.nan}
    return {"metric": name, "k": shape[2], **numbers, "n": shape[1], "interval": "", "unit": unit}
