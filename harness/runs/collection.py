"""The records of a grid: what its finished cells left in the folder of runs, as frames and one manifest."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.answers import CHECKER_VERSIONS
from harness.errors import UserError
from harness.evaluation import regrade
from harness.evaluation.evaluations import read_manifest
from harness.grid import Arm, Grid
from harness.provenance import provenance
from harness.records import Records, read_jsonl, save, write_atomic
from harness.runs.cell import Cell, is_done, sample_rows
from trainer.config import RunSpec
from trainer.methods import method
from trainer.profiles import ENTROPY_EDGES, POSITIONS, WEIGHT_EDGES
from trainer.settings import describe, edit, paths

ALIKE = ("n", "k", "sha256", "prompt_hash", "rendered_hash", "sampling", "thinking", "limit", "checkers")


def collect(grid: Grid, cells: Sequence[Cell], runs: Path) -> Records:
    """The records of a grid's finished cells. Verdicts of an older checker are made again, which needs no model.

    An arm without a finished cell is in the manifest, too: a hole that is seen.

    Raises:
        UserError: if nothing is finished, or a benchmark was not measured alike in all cells.
    """
    finished = [cell for cell in cells if is_done(cell, runs)]
    if not finished:
        raise UserError(f"no cell of grid '{grid.name}' in {runs} is finished: there is nothing to report yet")
    for cell in finished:
        for at in sorted((runs / cell.run_id / "eval").glob("step-*")):
            regrade(at)
    benches = _benches(finished, runs)
    samples = pd.concat([pd.DataFrame(sample_rows(cell, runs)) for cell in finished])  # a cell's dictionaries at a time
    samples = samples.sort_values(["arm", "seed", "step", "bench", "problem", "sample"])
    steps = _rows(finished, runs, "steps")
    timings = _rows(finished, runs, "timings")
    if not timings.empty:  # a step that was lost with its process and made again is there twice
        timings = timings.drop_duplicates(["arm", "seed", "step"], keep="last")
        timings = timings.sort_values(["arm", "seed", "step"], ignore_index=True)
    kept = [
        (_place(cell), row)
        for cell in finished
        if cell.spec
        for row in read_jsonl(runs / cell.run_id / "profiles.jsonl")
    ]
    rollouts, profiles = (
        pd.DataFrame([place | row for place, step in kept for row in step[name]]) for name in ("rollouts", "profile")
    )
    arms = _arms(grid, cells, runs)
    manifest = {
        "grid": grid.name,
        "title": grid.title,
        "baseline": grid.baseline,
        "arms": arms,
        "order": list(arms),
        "axes": list(grid.axes),
        "figures": [{"kind": figure.kind} | _fields(figure) for figure in grid.figures],
        "seeds": [number for number, _, _ in grid.runs()],
        "students": [grid.base.student, *grid.students],
        "benches": {plan.name: benches[plan.name] for plan in grid.evals},
        "checker": "strict",
        "checker_version": CHECKER_VERSIONS["strict"],
        "curve_bench": grid.curve.name,
        "curve": benches[grid.curve.name],
        "final_step": grid.base.steps,
        "steps": grid.base.steps,
        "base": describe(grid.base),
        "profile": {"entropy_edges": ENTROPY_EDGES, "weight_edges": WEIGHT_EDGES, "positions": POSITIONS},
        "set": [list(setting) for setting in grid.settings],
        "inert": dict(_inert(grid, steps)),
        "missing": [f"{cell.arm} seed {cell.seed}" for cell in cells if not is_done(cell, runs)],
        "hub": _commits(finished, runs),
        "provenance": provenance(),
        "note": grid.note,
    }
    return Records(manifest, samples.reset_index(drop=True), steps, timings, rollouts, profiles)


def token_views(grid: Grid, cells: Sequence[Cell], runs: Path) -> list[dict[str, Any]]:
    """The kept rollouts of the first seed, under this grid's arm names: a cell may have been run by another grid."""
    views = []
    for cell in cells:
        path = runs / cell.run_id / "rollouts.json"
        if cell.spec and cell.seed == grid.seeds[0] and path.exists():
            views += [view | {"arm": cell.arm} for view in json.loads(path.read_text(encoding="utf-8"))]
    return views


def keep(grid: Grid, cells: Sequence[Cell], runs: Path, folder: Path) -> Records:
    """Collects and writes the records; several shards may come to it at once, and take turns."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _turn(folder.parent / f".{folder.name}.lock"):
        records = collect(grid, cells, runs)
        save(records, folder)
        write_atomic(folder / "rollouts.json", json.dumps(token_views(grid, cells, runs)))
    return records


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def changes(spec: RunSpec, arm: Arm) -> tuple[list[list[str]], list[list[str]]]:
    """The edits of an arm that change something: (of the method, of the run `spec`), each [path, value]."""
    found: tuple[list[list[str]], list[list[str]]] = ([], [])
    for settings, base, changed in ((arm.edits, method(arm.method), found[0]), (arm.run, spec, found[1])):
        made: Any = base
        for path, text in settings:
            made = edit(made, path, text)
        before, after = dict(paths(base)), dict(paths(made))
        changed += [[path, text] for path, text in dict(settings).items() if before[path] != after[path]]
    return found


def _arms(grid: Grid, cells: Sequence[Cell], runs: Path) -> dict[str, Any]:
    arms: dict[str, Any] = {}
    declared = dict(grid.arms)
    for cell in cells:
        if cell.spec is None:
            arms[cell.arm] = {"method": cell.model, "label": cell.arm, "objective": None, "reference": True}
            continue
        if cell.arm not in arms:
            arm = declared[cell.arm]
            edits, run = changes(grid.base, arm)
            arms[cell.arm] = {
                "method": arm.method,
                "label": arm.label or cell.arm,
                "objective": describe(cell.spec.objective()),
                "reference": False,
                "edits": edits,
                "run": run,
                "at": dict(arm.at),
                "run_ids": [],
            }
        if is_done(cell, runs):
            arms[cell.arm]["run_ids"].append(cell.run_id)
    return arms


def _place(cell: Cell) -> dict[str, Any]:
    return {"arm": cell.arm, "seed": cell.seed}


def _fields(figure: Any) -> dict[str, str]:
    return {name: value for name, value in vars(figure).items() if value}


def _rows(finished: Sequence[Cell], runs: Path, name: str) -> pd.DataFrame:
    trained = [cell for cell in finished if cell.spec]
    rows = [_place(cell) | row for cell in trained for row in read_jsonl(runs / cell.run_id / f"{name}.jsonl")]
    return pd.DataFrame(rows)


def _commits(finished: Sequence[Cell], runs: Path) -> dict[str, str]:
    """hub: name → commit that it was fetched at.

    Raises:
        UserError: if a model moved on the hub while the grid was running.
    """
    found: dict[str, str] = {}
    for cell in finished:
        for name, commit in json.loads((runs / cell.run_id / "result.json").read_text()).get("hub", {}).items():
            if found.setdefault(name, commit) != commit:
                raise UserError(
                    f"run {cell.run_id} used {name} at commit {commit[:8]}, others at {found[name][:8]}: name one of "
                    f"them as {name}@COMMIT in the grid"
                )
    return found


def _benches(finished: Sequence[Cell], runs: Path) -> dict[str, dict[str, Any]]:
    """What each benchmark was measured with, by all cells alike."""
    found: dict[str, dict[str, Any]] = {}
    for cell in finished:
        measured = read_manifest(runs / cell.run_id / "eval" / f"step-{cell.final_step:05d}")["benches"]
        for bench, entry in measured.items():
            first = found.setdefault(bench, entry)
            if changed := [name for name in ALIKE if entry[name] != first[name]]:
                raise UserError(
                    f"arm '{cell.arm}' (run {cell.run_id}) was evaluated on '{bench}' with another "
                    f"{', '.join(changed)} than the rest of the grid: remove its eval folder and run the grid again"
                )
    return found


def _inert(grid: Grid, steps: pd.DataFrame) -> Iterator[tuple[str, str]]:
    if steps.empty:
        return
    for arm, rows in steps.groupby("arm"):
        share = rows["inert"].mean()
        if arm != grid.baseline and share > 0.99:
            yield str(arm), f"the update is that of {grid.baseline} in {share:.0%} of the steps"
