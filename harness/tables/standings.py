"""Where every arm stands: one tidy frame of estimates and paired comparisons, from kept records.

All the statistics of a report happen here; tables and figures only format and draw this frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import stats
from harness.errors import UserError
from harness.tables.markup import shorten

if TYPE_CHECKING:
    from harness.records import Records

ALPHA = 0.05
MACRO = "macro"
CHECKERS = {"strict": "correct", "paper": "correct_paper"}

# in the order of the frame; numbers are NaN and the rest empty where nothing was measured
_NUMBERS: tuple[str, ...] = (
    "value",
    "low",
    "high",
    "se",
    "fixed_low",
    "fixed_high",
    "n",
    "k",
    "delta",
    "delta_low",
    "delta_high",
    "delta_both_low",
    "delta_both_high",
)
_NUMBERS += ("delta_fixed_low", "delta_fixed_high", "p", "value_paper", "no_answer", "truncated", "tokens")
_COLUMNS: tuple[str, ...] = (
    "arm",
    "label",
    "bench",
    "bench_label",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "k",
    "seeds",
    "per_seed",
)
_COLUMNS += ("delta", "delta_low", "delta_high", "delta_per_seed", "p", "p_holm", "bold", "worse", "inert", "missing")
_COLUMNS += ("no_answer", "truncated", "tokens", "value_paper", "fixed_low", "fixed_high", "delta_fixed_low")
_COLUMNS += (
    "delta_fixed_high",
    "delta_both_low",
    "delta_both_high",
    "se",
    "interval",
    "test",
    "checker",
    "baseline",
    "reference",
)


@dataclass(frozen=True)
class Measured:
    """The complete seeds of one arm on one bench; `missing` says what could not be used."""

    correct: NDArray[np.bool_]  # [S, n, K]
    problems: tuple[str, ...]
    seeds: tuple[int, ...]
    missing: str
    rates: dict[str, float]


def comparison(records: Records, checker: str | None = None) -> pd.DataFrame:
    """Every arm on every bench against the grid's baseline, a row each; with several benches, a macro average.

    Values, bounds and differences are fractions; what was not measured is NaN. `delta` is arm - baseline on
    the same problems. `p_holm` adjusts over all trained arms × benches, and for the macro rows over the
    arms; references have a `delta` but no p. `bold`/`worse`: p_holm < 0.05 and a difference in that
    direction, never for an inert arm, whose plan equals the baseline's. `inert` holds the reason, empty for
    a live arm; `value_paper` is the value under the paper's checker.

    Args:
        checker: "strict" or "paper"; the manifest's where not given.

    Raises:
        UserError: unknown checker or baseline; a sample kept twice; two arms graded on different problems.
    """
    manifest = records.manifest
    checker = checker or manifest.get("checker", "strict")
    if checker not in CHECKERS:
        raise UserError(f"checker '{checker}' is unknown: choose from {', '.join(CHECKERS)}")
    baseline = manifest["baseline"]
    if baseline not in manifest["arms"]:
        raise UserError(f"grid '{manifest['grid']}' names the baseline '{baseline}', which is not one of its arms")
    cells = measure(records, CHECKERS[checker])
    benches = list(manifest["benches"])
    columns = {bench: ([bench], manifest["benches"][bench].get("label") or bench) for bench in benches}
    if len(benches) > 1:
        columns[MACRO] = (benches, "average")
    rows = [
        {
            "arm": arm,
            "label": shorten(manifest["arms"][arm].get("label") or arm),
            "bench": name,
            "bench_label": shorten(label),
            "reference": bool(manifest["arms"][arm].get("reference")),
            "baseline": arm == baseline,
            "inert": str(manifest.get("inert", {}).get(arm, "")),
            "checker": checker,
            **_compare(manifest, cells, arm, members),
        }
        for arm in order(manifest)
        for name, (members, label) in columns.items()
    ]
    frame = pd.DataFrame(rows)
    frame["p_holm"] = math.nan
    tested = frame["p"].notna()
    for family in (tested & (frame["bench"] != MACRO), tested & (frame["bench"] == MACRO)):
        frame.loc[family, "p_holm"] = stats.holm(frame.loc[family, "p"].tolist())
    supported = (frame["p_holm"] < ALPHA) & (frame["inert"] == "")
    frame["bold"] = supported & (frame["delta"] > 0)
    frame["worse"] = supported & (frame["delta"] < 0)
    return frame[list(_COLUMNS)]


def order(manifest: Mapping[str, Any]) -> list[str]:
    """The arms of a manifest, references first, each kind in the manifest's order."""
    arms = manifest["arms"]
    named = [arm for arm in manifest.get("order", ()) if arm in arms]
    named += [arm for arm in arms if arm not in named]
    return sorted(named, key=lambda arm: not arms[arm].get("reference"))


def holes(frame: pd.DataFrame) -> list[str]:
    """One line for each arm × bench that lacks samples; empty for a complete grid."""
    lacking = frame[(frame["missing"] != "") & (frame["bench"] != MACRO)]
    return [f"{row['label']}, {row['bench_label']}: {row['missing']}" for row in lacking.to_dict("records")]


def findings(frame: pd.DataFrame) -> Iterator[Mapping[Any, Any]]:
    """The rows of live arms whose difference to the baseline the adjusted test supports."""
    yield from frame[frame["bold"] | frame["worse"]].to_dict("records")


def measure(records: Records, column: str) -> dict[tuple[str, str], Measured]:
    """What was measured at the final step, for every arm and bench that has rows."""
    manifest, samples = records.manifest, records.samples
    references = {arm for arm, spec in manifest["arms"].items() if spec.get("reference")}
    is_reference = samples["arm"].astype(str).isin(references)
    rows = samples[is_reference | (samples["step"] == manifest["final_step"])]
    rows = rows.assign(arm=rows["arm"].astype(str), bench=rows["bench"].astype(str))
    found = {}
    for (arm, bench), group in rows.groupby(["arm", "bench"], sort=False):
        if arm in manifest["arms"] and bench in manifest["benches"]:
            seeds = sorted(group["seed"].unique()) if arm in references else manifest["seeds"]
            found[arm, bench] = _cell(group, manifest["benches"][bench], seeds, column)
    return found


def _cell(rows: pd.DataFrame, bench: Mapping[str, Any], seeds: Sequence[int], column: str) -> Measured:
    """The complete seeds among `rows`; a seed without exactly n × k samples is left out, never padded."""
    n, k = int(bench["n"]), int(bench["k"])
    where = f"arm '{rows['arm'].iloc[0]}', bench '{rows['bench'].iloc[0]}'"
    if rows.duplicated(["seed", "problem", "sample"]).any():
        raise UserError(f"{where}: a sample is kept twice; remove the repeated rows from the records")
    kept, missing = {}, []
    for seed in seeds:
        part = rows[rows["seed"] == seed].sort_values(["problem", "sample"])
        sizes = part.groupby("problem", observed=True).size()
        if len(sizes) == n and (sizes == k).all():
            kept[int(seed)] = part
        else:
            missing.append(f"seed {seed} has {len(part)} of {n * k} samples")
    problems = [tuple(part["problem"].astype(str).iloc[::k]) for part in kept.values()]
    if len(set(problems)) > 1:
        raise UserError(f"{where}: the seeds were graded on different problems; evaluate them on the same set")
    used = pd.concat(kept.values()) if kept else rows.iloc[:0]
    rates = {
        "value_paper": float(used[CHECKERS["paper"]].mean()),
        "no_answer": float(used["answer"].isna().mean()),
        "truncated": float((used["finish"].astype(str) == "length").mean()),
        "tokens": float(used["tokens"].mean()),
    }
    correct = used[column].to_numpy(dtype=bool).reshape(len(kept), n, k)
    return Measured(correct, problems[0] if problems else (), tuple(kept), "; ".join(missing), rates)


def _compare(
    manifest: Mapping[str, Any], cells: Mapping[tuple[str, str], Measured], arm: str, benches: Sequence[str]
) -> dict[str, Any]:
    """Estimate and comparison of one arm on one bench, or macro over several, as columns of the frame."""
    row: dict[str, Any] = dict.fromkeys(_NUMBERS, math.nan)
    row |= {"metric": "", "interval": "", "test": "", "seeds": 0, "per_seed": (), "delta_per_seed": ()}
    mine = [cells.get((arm, bench)) for bench in benches]
    row["missing"] = "; ".join(
        (f"{bench}: " if len(benches) > 1 else "") + (cell.missing if cell else "no samples")
        for bench, cell in zip(benches, mine, strict=True)
        if cell is None or cell.missing
    )
    measured = [cell for cell in mine if cell is not None and cell.seeds]
    if len(measured) < len(benches):
        return row
    families = [_families(manifest, bench, cell) for bench, cell in zip(benches, measured, strict=True)]
    estimates = [stats.avg_at_k(cell.correct, family) for cell, family in zip(measured, families, strict=True)]
    estimate = stats.macro(estimates) if len(estimates) > 1 else estimates[0]
    row |= {name: value for name, value in asdict(estimate).items() if name in row}
    row |= {name: float(np.mean([cell.rates[name] for cell in measured])) for name in measured[0].rates}
    row["k"] = estimate.k or math.nan
    baseline = manifest["baseline"]
    theirs = [cell for bench in benches if (cell := cells.get((baseline, bench))) is not None and cell.seeds]
    if arm == baseline or len(theirs) < len(benches):
        return row
    for bench, cell, other in zip(benches, measured, theirs, strict=True):
        if cell.problems != other.problems:
            raise UserError(
                f"arm '{arm}' and the baseline '{baseline}' were graded on different problems of bench '{bench}'; "
                "evaluate both on the same set"
            )
    pairs = [(other.correct, cell.correct) for cell, other in zip(measured, theirs, strict=True)]
    key = f"{manifest['grid']}/{baseline}/{arm}/{'+'.join(benches)}"
    same_seeds = all(cell.seeds == other.seeds for cell, other in zip(measured, theirs, strict=True))
    result = stats.paired_macro(pairs, families, seed=key, same_seeds=same_seeds)
    reference = bool(manifest["arms"][arm].get("reference"))
    return row | {
        "delta": result.delta,
        "delta_low": result.low,
        "delta_high": result.high,
        "delta_both_low": result.both_low,
        "delta_both_high": result.both_high,
        "delta_fixed_low": result.fixed_low,
        "delta_fixed_high": result.fixed_high,
        "delta_per_seed": result.per_seed if same_seeds else (),
        "p": math.nan if reference else result.p,
        "test": "" if reference else result.test,
    }


def _families(manifest: Mapping[str, Any], bench: str, cell: Measured) -> list[str] | None:
    """Family of each problem where the bench's manifest entry has `clusters` (problem → family)."""
    clusters = manifest["benches"][bench].get("clusters")
    return [clusters.get(problem, problem) for problem in cell.problems] if clusters else None
