"""A cell: one run trained and evaluated in a folder of its own, resumable after kill -9 at any point.

<runs>/<run id>/spec.json       what was asked
                steps.jsonl     a record per optimisation step (reproducible to the bit)
                timings.jsonl   what each step cost
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
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import assets
from harness.answers import grade, grade_many
from harness.benchmarks import load_benchmark
from harness.errors import UserError
from harness.evaluate import EvalPlan, ModelResponder, evaluate
from harness.records import append_jsonl, cut_jsonl, read_jsonl, write_atomic
from trainer.config import RunSpec, differences, digest
from trainer.methods import method
from trainer.settings import canonical, describe

Report = Callable[[str, float], None]  # (what is going on, fraction of the cell that is done)

EVAL_BATCH = 256  # answers decoded side by side
SHOWN_ROLLOUTS = 6  # kept for the token page


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
        evals = canonical([*self.evals, self.curve])
        if self.spec is None:
            from trainer.policy import fingerprint

            parts = {"model": fingerprint(assets.model_folder(self.model)), "evals": evals}
            return f"{self.model.replace(':', '-').replace('/', '-')}-{digest(parts)}"
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

    Raises:
        UserError: for bad input, a folder of another run, a cell that another process works on, a full disk.
    """
    folder = folder or runs / cell.run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            _claim(cell, folder)
            if not (folder / "result.json").exists():
                (folder / "failed.txt").unlink(missing_ok=True)
                if cell.spec is None:
                    _evaluate_reference(cell, folder, report)
                else:
                    _train_and_evaluate(cell, cell.spec, folder, report)
                write_atomic(folder / "result.json", json.dumps({"run_id": cell.run_id, "finished": int(time.time())}))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left while writing {error.filename or folder}: free some and run the same command again, "
            "it continues from the last checkpoint"
        ) from None
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
                    raise UserError(f"another process is working on {folder}: wait for it or stop it") from None
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


def _train_and_evaluate(cell: Cell, spec: RunSpec, folder: Path, report: Report) -> None:
    from trainer.loop import TrainState, train

    assets.check_pins(spec)
    steps_file, timings_file, checkpoint = folder / "steps.jsonl", folder / "timings.jsonl", folder / "checkpoint"
    shutil.rmtree(folder / "checkpoint.partial", ignore_errors=True)
    state = TrainState.load(spec, checkpoint) if checkpoint.exists() else TrainState.start(spec, load_student(spec))
    teacher = load_teacher(spec, state.policy)
    for path in (steps_file, timings_file):
        read_jsonl(path, repair=True)
        cut_jsonl(path, state.step)
    training = 0.75  # of a cell's work, for the progress bar
    engine = _engine(spec, state.policy, teacher)
    reads = spec.objective().reads | method(spec.baseline).reads
    reference = load_reference(spec, state.policy) if "ref_logprobs" in reads else None
    source = assets.open_source(spec.data.source, spec.seed)

    def evaluate_now() -> None:
        done = training * state.step / spec.steps
        _evaluate_at(cell, state.policy, cell.run_id, state.step, folder, report, done)

    if state.step:
        evaluate_now()  # what the checkpoint's step still owed; a no-op where nothing is missing
    for step in train(spec, state, source, engine, teacher, _verifier(state.policy), reference):
        append_jsonl(steps_file, [asdict(step.record)])
        append_jsonl(timings_file, [asdict(step.timing)])
        report(f"step {state.step}/{spec.steps}", training * state.step / spec.steps)
        if state.step == spec.steps:
            write_atomic(folder / "rollouts.json", json.dumps(_show(cell, step, state.policy)))
        owed = bool(cell.plans_at(state.step))
        if owed or state.step % spec.machine.checkpoint_every == 0 or state.step == spec.steps:
            state.save(checkpoint)
        if owed:
            evaluate_now()


def load_student(spec: RunSpec) -> Any:
    """The student's policy, as the spec names it."""
    return _load(spec, spec.student)


def _load(spec: RunSpec, name: str) -> Any:
    import torch

    from trainer.policy import Policy

    return Policy.load(assets.model_folder(name), spec.machine.device, getattr(torch, spec.dtype))


def load_teacher(spec: RunSpec, student: Any) -> Any:
    """The teacher of a spec, routed where it names several; vocabularies are checked and shared.

    Raises:
        UserError: if a teacher's vocabulary differs from the student's.
    """
    from trainer.policy import share_vocabulary
    from trainer.teachers import LocalTeacher, RoutedTeacher

    teachers = {}
    for domain, name in spec.teachers:
        policy = _load(spec, name)
        share_vocabulary(student, policy)
        teachers[domain] = LocalTeacher(policy, spec.machine.micro_batch)
    for teacher in teachers.values():
        teacher.policy.vocab = student.vocab
    return teachers[""] if set(teachers) == {""} else RoutedTeacher(teachers)


def load_reference(spec: RunSpec, student: Any) -> Any:
    """The third model: the one the spec names, or the student as it was before training."""
    from trainer.policy import share_vocabulary
    from trainer.teachers import LocalTeacher

    policy = _load(spec, spec.reference or spec.student)
    before = student.vocab
    share_vocabulary(student, policy)
    if student.vocab != before:
        raise UserError(f"reference '{policy.name}' lacks ids of student and teachers: use one of their tokenizer")
    return LocalTeacher(policy, spec.machine.micro_batch)


def _engine(spec: RunSpec, policy: Any, teacher: Any) -> Any:
    from trainer.engines import FrozenEngine, HFEngine
    from trainer.teachers import LocalTeacher

    if spec.objective().sampler == "student":
        return HFEngine(policy, spec.machine.engine_batch)
    if not isinstance(teacher, LocalTeacher):
        raise UserError(f"method '{spec.method}' trains on the teacher's rollouts: give it one local --teacher MODEL")
    return FrozenEngine(HFEngine(teacher.policy, spec.machine.engine_batch))


def _verifier(policy: Any) -> Callable[[Any], Any]:
    """Verdicts of the strict checker on a batch of rollouts."""

    def verify(rollouts: Any) -> Any:
        import torch

        items = []
        for row, prompt in enumerate(rollouts.prompts):
            if prompt.answer is None:
                raise UserError(f"prompt '{prompt.id}' has no answer, which this method's verifier needs")
            items.append((policy.decode(rollouts.responses[row][rollouts.mask[row]].tolist()), prompt.answer, "train"))
        return torch.tensor([g.strict.correct for g in grade_many(items)], device=rollouts.mask.device)

    return verify


def _evaluate_at(cell: Cell, policy: Any, name: str, step: int, folder: Path, report: Report, done: float) -> None:
    from trainer.engines import HFEngine

    plans = cell.plans_at(step)
    at = folder / "eval" / f"step-{step:05d}"
    for index, plan in enumerate(plans):
        kept = at / f"{plan.name}.rows.json"
        if kept.exists():
            continue
        bench = load_benchmark(plan.bench, cell.data_dir)
        responder = ModelResponder(HFEngine(policy, EVAL_BATCH), policy, plan, name)
        # The final evaluations fill what the bar has left.
        left = (1.0 - done) if step == cell.final_step else 0.0

        def progress(n: int, total: int, index: int = index, bench_name: str = plan.bench, left: float = left) -> None:
            report(f"{bench_name} {n}/{total}", done + left * (index + n / total) / len(plans))

        rows = evaluate(responder, bench, plan, at, progress)
        write_atomic(kept, json.dumps(rows))


def sample_rows(cell: Cell, runs: Path) -> list[dict[str, Any]]:
    """Every graded sample of a finished cell, with its arm, seed and step."""
    rows = []
    for path in sorted((runs / cell.run_id / "eval").glob("step-*/*.rows.json")):
        step = int(path.parent.name.removeprefix("step-"))
        rows += [{"arm": cell.arm, "seed": cell.seed, "step": step, **row} for row in json.loads(path.read_text())]
    return rows


def _show(cell: Cell, step: Any, policy: Any) -> list[dict[str, Any]]:
    """A few rollouts of a step, token by token: the lowest- and the highest-scored, dropped ones among them."""
    import torch

    rollouts, scores, plan = step.rollouts, step.scores, step.plan
    if scores is None or plan is None:
        return []
    score = scores.teacher_logprobs.sum(1) / scores.lengths.clamp(min=1)
    order = score.argsort().tolist()
    half = SHOWN_ROLLOUTS // 2
    coef = torch.stack([term.coef for term in plan.terms]).sum(0)
    weight = coef / coef[coef != 0].abs().mean().clamp(min=1e-30)
    shown = []
    for row in dict.fromkeys(order[:half] + order[-half:]):
        mask = scores.mask[row]
        ids = rollouts.responses[row][mask].tolist()
        prompt = rollouts.prompts[row]

        def values(field: Any, row: int = row, mask: Any = mask) -> list[float] | None:
            return None if field is None else [round(v, 4) for v in field[row][mask].tolist()]

        text = policy.decode(ids)
        shown.append(
            {
                "arm": cell.arm,
                "seed": cell.seed,
                "step": step.record.step,
                "domain": prompt.domain,
                "prompt": prompt.text,
                "answer": prompt.answer,
                "correct": None if prompt.answer is None else grade(text, prompt.answer, bench="train").correct,
                "kept": bool(plan.keep[row]),
                "score": round(float(score[row]), 4),
                "tokens": [policy.tokenizer.decode([i]) for i in ids],
                "ids": ids,
                "weight": values(weight),
                "student_logprob": values(scores.logprobs),
                "teacher_logprob": values(scores.teacher_logprobs),
                "student_entropy": values(scores.student_entropy),
                "teacher_entropy": values(scores.teacher_entropy),
            }
        )
    return shown
