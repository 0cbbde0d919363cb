"""A cell: one run trained and evaluated in a folder of its own, resumable after kill -9 at any point.

<runs>/<run id>/spec.json       what was asked
                steps.jsonl     a record per optimisation step (reproducible to the bit)
                timings.jsonl   what each step cost; one that was lost with a process and made again is there twice
                profiles.jsonl  where some steps put their weight, see `trainer.profiles`
                checkpoint/     weights, optimiser, step
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
from harness.evaluation.responders import of_policy
from harness.records import append_jsonl, cut_jsonl, write_atomic
from harness.runs import assets
from harness.runs.models import load_reference, load_student, load_teacher, rollout_engine, verifier
from harness.runs.views import profile, token_views
from trainer.config import Machine, RunSpec, differences, digest
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
    data_dir: str | None = field(default=None, compare=False)

    @property
    def run_id(self) -> str:
        """Identity of the result: the run's, and what is evaluated."""
        evals = canonical([*sorted(self.evals, key=canonical), self.curve])
        if self.spec is None:
            parts = {"model": assets.model_digest(self.model), "evals": evals}
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
    machine = cell.spec.machine if cell.spec else Machine()
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
    from trainer.policy import Policy

    path = assets.model_folder(cell.model)
    _evaluate_at(cell, Policy.load(path), cell.model, 0, folder, report, 0.0)


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
    source = assets.open_source(spec.data.source, spec.seed)

    def evaluate_now() -> None:
        done = training * state.step / spec.steps
        with state.policy.whole(merged=True), stop.at_once():
            if ranks.first:
                _evaluate_at(cell, state.policy, cell.run_id, state.step, folder, report, done)
            ranks.wait()

    if state.step and cell.plans_at(state.step):
        evaluate_now()  # what the checkpoint's step still owed; a no-op where nothing is missing
    for step in train(spec, state, source, engine, teacher, verifier(state.policy), reference):
        if ranks.first:
            append_jsonl(steps_file, [asdict(step.record)])
            append_jsonl(timings_file, [asdict(step.timing)])
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


def _evaluate_at(cell: Cell, policy: Any, name: str, step: int, folder: Path, report: Report, done: float) -> None:
    plans = cell.plans_at(step)
    at = folder / "eval" / f"step-{step:05d}"
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

        evaluate(of_policy(policy, plan, name), bench, plan, at, progress)


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
