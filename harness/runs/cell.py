"""A cell: one run trained and evaluated in a folder of its own, resumable after kill -9 at any point.

<runs>/<run id>/spec.json       what was asked
                steps.jsonl     a record per optimisation step (reproducible to the bit)
                timings.jsonl   what each step cost; one that was lost with a process and made again is there twice
                profiles.jsonl  where some steps put their weight, see `trainer.profiles`
                checkpoint/     weights, optimiser, step
                data.txt        what was read of a file of prompts, and what was left out
                eval/step-N/    generations and verdicts
                rollouts.json   some rollouts of the last step, token by token
                result.json     written last: the cell is done
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.benchmarks import load_benchmark
from harness.errors import UserError
from harness.evaluation import EvalPlan, evaluate
from harness.evaluation.evaluations import graded, read_manifest
from harness.evaluation.responders import Responder, of_policy, of_vllm
from harness.records import append_jsonl, cut_jsonl, write_atomic
from harness.runs import assets
from harness.runs.memory import out_of_memory
from harness.runs.models import (
    load_reference,
    load_student,
    load_teacher,
    open_prompts,
    rollout_engine,
    verifier,
    vllm_engine,
)
from harness.runs.tracking import open_trackers
from harness.runs.views import profile, token_views
from trainer.config import Machine, RunSpec, differences, digest, served
from trainer.distributed import Ranks, join, leave, one_voice
from trainer.methods import method
from trainer.preemption import Preempted, Stop
from trainer.settings import canonical, describe

Report = Callable[[str, float], None]  # (what is going on, fraction of the cell that is done)


class CellBusy(UserError):
    """Another process is working on the cell: a reason to wait, not a failure."""


@dataclass(frozen=True)
class Cell:
    """A run to train and evaluate, or (without `spec`) a model to evaluate as it is."""

    arm: str
    seed: int
    evals: tuple[EvalPlan, ...]  # after the last step
    spec: RunSpec | None = None
    model: str = ""  # of a reference cell
    curve: EvalPlan | None = None  # also evaluated every `curve_every` steps
    curve_every: int = 0
    dtype: str = "float32"  # of a reference cell
    engine: str = "hf"  # of a reference cell
    machine: Machine = field(default=Machine(), compare=False)  # of a reference cell
    data_dir: str | None = field(default=None, compare=False)
    track: tuple[str, ...] = field(default=(), compare=False)  # dashboards, see `harness.runs.tracking`

    @property
    def run_id(self) -> str:
        """Identity of the result: the run's, and what is evaluated."""
        evals = canonical([*sorted(self.evals, key=canonical), self.curve])
        if self.spec is None:
            parts = {"model": assets.model_digest(self.model), "evals": evals}
            parts |= {"dtype": self.dtype, "engine": self.engine, "name": served(self.model)}
            return f"{assets.short_name(self.model)}-{digest(parts)}"
        return f"{self.spec.method}-{digest(self.spec.identity() | {'evals': evals, 'every': str(self.curve_every)})}"

    @property
    def final_step(self) -> int:
        return self.spec.steps if self.spec else 0

    def plans_at(self, step: int) -> tuple[EvalPlan, ...]:
        """What is evaluated after `step` updates."""
        due = self.curve and (step == self.final_step or (self.curve_every and step % self.curve_every == 0))
        return ((self.curve,) if self.curve and due else ()) + (self.evals if step == self.final_step else ())


def is_done(cell: Cell, runs: Path) -> bool:
    """Whether the cell has its result."""
    return (runs / cell.run_id / "result.json").exists()


def run_cell(cell: Cell, runs: Path, report: Report = lambda what, done: None, folder: Path | None = None) -> Path:
    """Trains and evaluates what of the cell is not there yet; returns its folder, by default `<runs>/<run id>`.

    Of several processes (torchrun) all train, and the first one does all else.

    Raises:
        UserError: for bad input, a folder of another run, a cell that another process works on, a full disk.
        Preempted: after SIGTERM, with everything saved.
    """
    folder = folder or runs / cell.run_id
    machine = cell.spec.machine if cell.spec else cell.machine
    ranks = join(machine.device, machine.patience)
    with one_voice(machine.patience), Stop(ranks) as stop:
        try:
            if ranks.first:
                folder.mkdir(parents=True, exist_ok=True)
            with _locked(folder) if ranks.first else contextlib.nullcontext():
                if ranks.first:
                    _claim(cell, folder)
                if not ranks.all((folder / "result.json").exists())[0]:
                    (folder / "failed.txt").unlink(missing_ok=True)
                    if cell.spec is not None:
                        _train_and_evaluate(cell, cell.spec, folder, report, ranks, stop)
                    elif ranks.first:
                        _evaluate_reference(cell, folder, report)
                    result = {"run_id": cell.run_id, "finished": int(time.time()), "hub": assets.commits(cell.spec)}
                    if ranks.first:
                        write_atomic(folder / "result.json", json.dumps(result))
                ranks.wait()
        except Preempted as stopped:
            if ranks.first:
                print(f"opd: {stopped}", file=sys.stderr)
            raise
        except (MemoryError, RuntimeError) as error:
            if advice := out_of_memory(error, machine, ranks):
                raise UserError(advice) from error
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"no space left while writing {error.filename or folder}: free some and run the same command again, "
                "it continues from the last checkpoint"
            ) from None
    leave()
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process per cell. The kernel drops the lock with its holder, so kill -9 leaves none behind."""
    with (folder / "lock").open("w") as handle:
        for attempt in range(20):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A killed command's workers take up to a second to notice that it is gone.
                if attempt == 19:
                    raise CellBusy(f"another process is working on {folder}: wait for it or stop it") from None
                time.sleep(0.25)
        yield


def _claim(cell: Cell, folder: Path) -> None:
    """Writes what the folder is for, or refuses a folder that is for something else."""
    kept = folder / "spec.json"
    identity = cell.spec.identity() if cell.spec else {"model": cell.model}
    if not kept.exists():
        claim = {"run_id": cell.run_id, "identity": identity, "cell": describe(cell)}
        write_atomic(kept, json.dumps(claim, indent=1, sort_keys=True) + "\n")
    elif changed := differences(json.loads(kept.read_text())["identity"], identity):
        raise UserError(f"{folder} belongs to another run: it differs in {', '.join(changed)}; choose another folder")


def _evaluate_reference(cell: Cell, folder: Path, report: Report) -> None:
    import torch

    from trainer.policy import Policy

    if name := served(cell.model):
        from harness.evaluation.server import ServerResponder

        address = cell.model.removeprefix(f"{name}@")
        model = name.removeprefix("server:")
        _evaluate_at(cell, lambda plan: ServerResponder(address, model, plan), 0, folder, report, 0.0)
        return
    device = "cpu" if cell.engine == "vllm" else cell.machine.device
    policy = Policy.load(assets.model_folder(cell.model), device, getattr(torch, cell.dtype))
    if cell.engine == "vllm":
        engine = vllm_engine(cell.model, policy, cell.machine, cell.dtype)
        engine.sync(policy)
        _evaluate_at(cell, lambda plan: of_vllm(engine, plan, cell.model), 0, folder, report, 0.0)
    else:
        _evaluate_at(cell, lambda plan: of_policy(policy, plan, cell.model), 0, folder, report, 0.0)


def _train_and_evaluate(cell: Cell, spec: RunSpec, folder: Path, report: Report, ranks: Ranks, stop: Stop) -> None:
    from trainer.loop import TrainState, train

    assets.check_pins(spec)
    steps_file, timings_file, profiles_file = (folder / f"{name}.jsonl" for name in ("steps", "timings", "profiles"))
    checkpoint = folder / "checkpoint"
    if ranks.first:
        if (aside := folder / "checkpoint.old").exists() and not checkpoint.exists():
            aside.rename(checkpoint)  # killed between the two renames of a save
        shutil.rmtree(folder / "checkpoint.partial", ignore_errors=True)
    if ranks.all(checkpoint.exists())[0]:
        state = TrainState.load(spec, checkpoint, lambda path: load_student(spec, path))
    else:
        state = TrainState.start(spec, load_student(spec))
    teacher = load_teacher(spec, state.policy)
    if ranks.first:
        for path in (steps_file, profiles_file):
            cut_jsonl(path, state.step)
        cut_jsonl(timings_file, spec.steps)  # steps that will be made again did cost what they cost
    training = 0.75  # of a cell's work, for the progress bar
    engine = rollout_engine(spec, state.policy, teacher)
    reads = spec.objective().reads | method(spec.baseline).reads
    reference = load_reference(spec, state.policy) if "ref_logprobs" in reads else None
    source = open_prompts(spec, state.policy, lambda rows: report(f"reading {rows:,} rows of data", 0.0))
    if (said := getattr(source, "report", "")) and ranks.first:
        write_atomic(folder / "data.txt", f"{said}\n")
    trackers = open_trackers(cell.track, folder, cell.run_id, spec) if ranks.first else []

    hosted = spec.engine == "vllm" and spec.objective().sampler == "student"  # by an engine that holds the student

    def responder(plan: EvalPlan) -> Responder:
        if hosted:
            return of_vllm(engine, plan, cell.run_id)
        return of_policy(state.policy, plan, cell.run_id)

    def evaluate_now() -> None:
        done = training * state.step / spec.steps
        in_place = contextlib.nullcontext() if hosted else state.policy.whole(merged=True)
        with in_place, stop.at_once():
            if ranks.first:
                evaluated = _evaluate_at(cell, responder, state.step, folder, report, done)
                for name in evaluated if trackers else ():
                    right = [row["correct"] for row in graded(_eval_folder(folder, state.step), name)]
                    for tracker in trackers:
                        tracker.log({"step": state.step, "accuracy": sum(right) / len(right)}, kind=f"eval/{name}")
            ranks.wait()

    if state.step and cell.plans_at(state.step):  # what the checkpoint's step still owed
        if hosted:
            engine.sync(state.policy)
        evaluate_now()
    for step in train(spec, state, source, engine, teacher, verifier(state.policy), reference):
        if ranks.first:
            append_jsonl(steps_file, [asdict(step.record)])
            append_jsonl(timings_file, [asdict(step.timing)])
            for tracker in trackers:
                tracker.log(asdict(step.record))
                tracker.log(asdict(step.timing), kind="timing")
            if state.step in (1, spec.steps) or state.step % spec.machine.profile_every == 0:
                append_jsonl(profiles_file, filter(None, [profile(step, state.policy)]))
            report(f"step {state.step}/{spec.steps}", training * state.step / spec.steps)
            if state.step == spec.steps:
                views = token_views(cell.arm, cell.seed, step, state.policy)
                write_atomic(folder / "rollouts.json", json.dumps(views))
        owed, asked = bool(cell.plans_at(state.step)), stop.asked()
        if owed or asked or state.step % spec.machine.checkpoint_every == 0 or state.step == spec.steps:
            state.save(checkpoint)
        if asked:
            raise stop.sentence(f"after step {state.step} of {spec.steps}")
        if owed:
            evaluate_now()
    for tracker in trackers:
        tracker.finish()


def _evaluate_at(
    cell: Cell, responder: Callable[[EvalPlan], Responder], step: int, folder: Path, report: Report, done: float
) -> list[str]:
    """Evaluates what is owed at `step` and not there yet; names of the benchmarks that were."""
    plans = cell.plans_at(step)
    found = []
    at = _eval_folder(folder, step)
    measured = read_manifest(at).get("benches", {})
    for index, plan in enumerate(plans):
        if plan.name in measured:
            continue
        bench = load_benchmark(plan.bench, cell.data_dir)
        # The final evaluations fill what the bar has left.
        left = (1.0 - done) if step == cell.final_step else 0.0

        def progress(
            what: str, n: int, total: int, index: int = index, of: str = plan.name, left: float = left
        ) -> None:
            if what == "answers":
                report(f"{of} {n}/{total}", done + left * (index + n / total) / len(plans))

        evaluate(responder(plan), bench, plan, at, progress)
        found.append(plan.name)
    return found


def _eval_folder(folder: Path, step: int) -> Path:
    return folder / "eval" / f"step-{step:05d}"


SLIM = ("bench", "problem", "sample", "correct", "correct_paper", "answer", "parsed", "finish", "tokens")


def sample_rows(cell: Cell, runs: Path) -> list[dict[str, Any]]:
    """Every graded sample of a finished cell, with its arm, seed and step; the columns `SLIM`."""
    rows = []
    for at in sorted((runs / cell.run_id / "eval").glob("step-*")):
        place = {"arm": cell.arm, "seed": cell.seed, "step": int(at.name.removeprefix("step-"))}
        for bench in read_manifest(at)["benches"]:
            for row in graded(at, bench):
                row |= {"bench": bench, "answer": row["answer"] and row["answer"][:64]}
                rows.append(place | {name: row[name] for name in SLIM})
    return rows
