"""How long the missing runs of a toy grid will take, by what finished ones took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.evaluation.evaluations import read_manifest
from harness.records import read_jsonl
from harness.runs.cell import Cell
from harness.runs.estimates import problems
from harness.runs.monitor import duration
from harness.runs.states import CellState, makespan, read_state


@dataclass(frozen=True)
class Spent:
    """What a run cost: seconds in training, for so many rollouts in batches of one size, and outside, for answers."""

    training: float
    rollouts: int
    batch: int
    outside: float = 0.0
    answers: int = 0


def minutes_line(cells: Sequence[Cell], states: Mapping[str, CellState], runs: Path, jobs: int) -> str:
    """How long the missing runs will take, by what runs like them took; empty where nothing is kept."""
    todo = {cell.run_id: cell for cell in cells if cell.spec and states[cell.run_id].state != "have"}
    found, basis = list(measured(runs)), "finished runs in that folder"
    if not found:
        found, basis = list(_kept()), "kept grids, training alone"
    if not found or not todo:
        return ""
    left = [seconds(cell, found) * (1.0 - states[run].fraction) for run, cell in todo.items()]
    many = f"{len(left)} run{'s'[: len(left) != 1]}"
    return f"estimate: {duration(makespan(left, jobs))} for {many}, {jobs} at a time (by {len(found)} {basis})"


def seconds(cell: Cell, found: Sequence[Spent]) -> float:
    """What a run should take by what others did, those with batches of its size if there are any."""
    assert cell.spec is not None
    batch = cell.spec.data.prompts * cell.spec.data.samples
    like = [spent for spent in found if spent.batch == batch] or found
    per_rollout = sum(spent.training for spent in like) / sum(spent.rollouts for spent in like)
    answers = sum(spent.answers for spent in found)
    per_answer = sum(spent.outside for spent in found) / answers if answers else 0.0
    plans = [plan for step in range(1, cell.final_step + 1) for plan in cell.plans_at(step)]
    return per_rollout * cell.spec.steps * batch + per_answer * sum(problems(plan) * plan.k for plan in plans)


def measured(runs: Path) -> Iterator[Spent]:
    """Every finished run of a toy student in a folder of runs."""
    for path in sorted(runs.glob("*/spec.json")):
        state = read_state(path.parent)
        try:
            spec = json.loads(path.read_text(encoding="utf-8"))["cell"]["spec"]
        except (OSError, ValueError, KeyError):
            continue
        if state.state == "have" and state.seconds and spec and spec["student"].startswith("toy:"):
            rows = read_jsonl(path.parent / "timings.jsonl")
            training = sum(row[name] for row in rows for name in row if name.startswith("seconds_"))
            manifests = [read_manifest(at) for at in path.parent.glob("eval/step-*")]
            answers = sum(bench["n"] * bench["k"] for m in manifests for bench in m.get("benches", {}).values())
            batch = spec["data"]["prompts"] * spec["data"]["samples"]
            yield Spent(training, len(rows) * batch, batch, max(0.0, state.seconds - training), answers)


def _kept() -> Iterator[Spent]:
    """Every kept grid of the toy world."""
    from harness.records import RESULTS, load

    for path in sorted((RESULTS / "records").glob("*/manifest.json")):
        try:
            kept = load(path.parent)
        except UserError:  # whoever wants these records will hear of it
            continue
        base: Any = kept.manifest.get("base") or {}
        timings = kept.timings
        if str(base.get("student", "")).startswith("toy:") and len(timings):
            columns = [name for name in timings.columns if name.startswith("seconds_")]
            batch = base["data"]["prompts"] * base["data"]["samples"]
            yield Spent(float(timings[columns].to_numpy().sum()), batch * len(timings), batch)
