"""Grids: a base run, named arms, seeds, benchmarks → cells; run on local processes; collected into records."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import multiprocessing
import os
import platform
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness import assets
from harness.errors import UserError
from harness.evaluate import EvalPlan
from harness.records import Records, read_jsonl, write_atomic
from harness.run import Cell, is_done, run_cell, sample_rows
from trainer.config import RunSpec
from trainer.settings import edit


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method, edits of it (`keep.fraction`) and of the base run (`optim.lr`)."""

    method: str
    label: str = ""
    edits: tuple[tuple[str, str], ...] = ()
    run: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Grid:
    """One question. A file in `ablations/` declares one of these as `GRID`."""

    name: str
    title: str
    base: RunSpec  # its method is that of the baseline
    arms: tuple[tuple[str, Arm], ...]
    baseline: str
    evals: tuple[EvalPlan, ...]
    curve: EvalPlan
    curve_every: int = 10
    seeds: tuple[int, ...] = (0, 1)
    note: str = ""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.arms]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise UserError(f"grid '{self.name}' names arm '{min(doubled)}' twice")
        if self.baseline not in names:
            raise UserError(f"grid '{self.name}': baseline '{self.baseline}' is none of its arms {', '.join(names)}")
        specs = [self.spec(arm, 0) for _, arm in self.arms]
        for index, spec in enumerate(specs):
            if (first := specs.index(spec)) < index:
                raise UserError(f"grid '{self.name}': arms '{names[first]}' and '{names[index]}' are the same run")

    def spec(self, arm: Arm, seed: int) -> RunSpec:
        """The run of an arm; a `UserError` for a path that does not exist."""
        baseline = dict(self.arms)[self.baseline].method
        spec = replace(self.base, method=arm.method, edits=arm.edits, seed=seed, baseline=baseline)
        for path, text in arm.run:
            spec = edit(spec, path, text)
        return spec

    def cells(self) -> list[Cell]:
        """References first, then arm by arm within each seed, so that early cells already compare."""
        plans = (*self.evals,)
        teachers = dict.fromkeys(model for _, model in self.base.teachers)
        cells = [Cell("start", 0, plans, model=self.base.student, curve=self.curve)]
        for index, model in enumerate(teachers):
            name = "teacher" if len(teachers) == 1 else f"teacher {self.base.teachers[index][0]}"
            cells.append(Cell(name, 0, plans, model=model, curve=self.curve))
        for seed in self.seeds:
            for name, arm in self.arms:
                spec = assets.pin(self.spec(arm, seed))
                cells.append(Cell(name, seed, plans, spec, curve=self.curve, curve_every=self.curve_every))
        return cells


def load_grid(path: Path) -> Grid:
    """The `GRID` of a Python file.

    Raises:
        UserError: if the file is missing, fails, or declares no grid.
    """
    if not path.exists() and (named := Path(__file__).parent.parent / "ablations" / f"{path}.py").exists():
        path = named
    if not path.is_file():
        raise UserError(f"grid file {path} does not exist: name a Python file that declares GRID")
    spec = importlib.util.spec_from_file_location(f"grid_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"grid file {path} fails: {type(error).__name__}: {error}") from error
    grid = getattr(module, "GRID", None)
    if not isinstance(grid, Grid):
        raise UserError(f"grid file {path} declares no GRID = Grid(...)")
    return grid


# --- execution ------------------------------------------------------------------------------------------------


def run_cells(
    cells: list[Cell], runs: Path, jobs: int, watch: Callable[[dict[str, tuple[str, float]]], None]
) -> dict[str, str]:
    """Runs the cells that have no result on `jobs` single-threaded processes; returns {run id: failure}.

    On few cores several single-threaded cells beat one that uses all threads. A failure is kept in the cell's
    `failed.txt` and does not stop the others.

    Args:
        watch: called about twice a second with {run id: (what is going on, fraction done)}.
    """
    failures: dict[str, str] = {}
    todo = [cell for cell in cells if not is_done(cell, runs)]
    if not todo:
        return failures
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_init_worker, initargs=(os.getpid(),))
    # Workers are born deaf to Ctrl-C, which is the parent's to handle: it reaches the whole process group.
    hear = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        futures: dict[Future[str | None], Cell] = {pool.submit(_work, cell, runs): cell for cell in todo}
    finally:
        signal.signal(signal.SIGINT, hear)
    try:
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                cell = futures[future]
                try:
                    failure = future.result()
                except BrokenProcessPool:
                    raise UserError(
                        f"a worker process died while working on {cell.run_id} (out of memory?): run the same command "
                        "again, it continues; --jobs 1 needs less memory"
                    ) from None
                if failure:
                    failures[cell.run_id] = failure
            watch({cell.run_id: read_status(runs / cell.run_id) for cell in todo})
    except BaseException:
        for process in list(getattr(pool, "_processes", {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return failures


def read_status(folder: Path) -> tuple[str, float]:
    """What a cell is doing and how much of it is done, from its files."""
    if (folder / "result.json").exists():
        return "done", 1.0
    try:
        what, fraction = (folder / "status").read_text().rsplit("\t", 1)
        return what, float(fraction)
    except (OSError, ValueError):
        return "waiting", 0.0


def _init_worker(parent: int) -> None:
    import torch

    torch.set_num_threads(1)

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()


def _work(cell: Cell, runs: Path) -> str | None:
    """Runs one cell in a worker; returns its failure in one sentence."""
    folder = runs / cell.run_id

    def report(what: str, done: float) -> None:
        write_atomic(folder / "status", f"{what}\t{done:.4f}")

    try:
        run_cell(cell, runs, report)
    except UserError as error:
        (folder / "failed.txt").write_text(str(error))
        return str(error)
    except Exception as error:
        (folder / "failed.txt").write_text(traceback.format_exc())
        return f"{type(error).__name__}: {error} (traceback in {folder / 'failed.txt'})"
    return None


# --- collection -----------------------------------------------------------------------------------------------


def collect(grid: Grid, cells: list[Cell], runs: Path) -> Records:
    """The records of a grid's finished cells."""
    from harness.benchmarks import load_benchmark, prompt_hash, render_prompt
    from harness.evaluate import checker_version

    finished = [cell for cell in cells if is_done(cell, runs)]
    samples = pd.DataFrame([row for cell in finished for row in sample_rows(cell, runs)])
    samples = samples.drop(columns=["reason"]).sort_values(["arm", "seed", "step", "bench", "problem", "sample"])
    frames = []
    for name in ("steps", "timings"):
        rows = [
            {"arm": cell.arm, "seed": cell.seed, **row}
            for cell in finished
            if cell.spec
            for row in read_jsonl(runs / cell.run_id / f"{name}.jsonl")
        ]
        frames.append(pd.DataFrame(rows))
    steps, timings = frames
    benches = {}
    for plan in (*grid.evals, grid.curve):
        bench = load_benchmark(plan.bench)
        texts = [render_prompt(p, plan.style) for p in bench.problems]
        benches[plan.bench] = {
            "k": plan.k,
            "n": len(bench.problems),
            "label": bench.spec.label,
            "answer_type": bench.spec.answer_type,
            "prompt_hash": prompt_hash(texts),
        }
        if bench.spec.families:
            benches[plan.bench]["clusters"] = {p.id: p.family for p in bench.problems}
    from trainer.settings import describe

    arms: dict[str, Any] = {}
    for cell in finished:
        if cell.spec is None:
            arms[cell.arm] = {"method": cell.model, "label": cell.arm, "objective": None, "reference": True}
        else:
            arm = dict(grid.arms)[cell.arm]
            arms.setdefault(
                cell.arm,
                {
                    "method": arm.method,
                    "label": arm.label or cell.arm,
                    "objective": describe(cell.spec.objective()),
                    "reference": False,
                    "run_ids": [],
                },
            )["run_ids"].append(cell.run_id)
    manifest = {
        "grid": grid.name,
        "title": grid.title,
        "baseline": grid.baseline,
        "arms": arms,
        "order": list(arms),
        "seeds": list(grid.seeds),
        "benches": {plan.bench: benches[plan.bench] for plan in grid.evals},
        "checker": "strict",
        "checker_version": checker_version(),
        "curve_bench": grid.curve.bench,
        "curve": benches[grid.curve.bench],
        "final_step": grid.base.steps,
        "steps": grid.base.steps,
        "base": describe(grid.base),
        "inert": dict(_inert(grid, steps)),
        "missing": [f"{cell.arm} seed {cell.seed}" for cell in cells if not is_done(cell, runs)],
        "provenance": provenance(),
        "note": grid.note,
    }
    return Records(manifest, samples.reset_index(drop=True), steps, timings)


def _inert(grid: Grid, steps: pd.DataFrame) -> Iterator[tuple[str, str]]:
    if steps.empty:
        return
    for arm, rows in steps.groupby("arm"):
        share = rows["inert"].mean()
        if arm != grid.baseline and share > 0.99:
            yield str(arm), f"the update is that of {grid.baseline} in {share:.0%} of the steps"


def provenance() -> dict[str, Any]:
    """Where numbers come from: commit, versions, hardware. Recorded, never hashed."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    packages = ("torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "math-verify")
    return {
        "commit": git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "created": time.strftime("%Y-%m-%d"),
    }
