"""The training loop: a generator that yields a record per optimisation step.

    state = TrainState.start(spec, policy)
    for step in train(spec, state, source, engine, teacher):
        ...                                   # keep step.record, evaluate, state.save(folder)

No callback, no logger, no stateful random generator: prompts and seeds are functions of (run seed, step), so the
weights, the optimiser and the step number are all there is to resume.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from trainer.config import RunSpec, differences
from trainer.data import PromptSource, derive_seed
from trainer.diagnostics import PlanDiagnostics, diagnose
from trainer.engines import RolloutEngine
from trainer.errors import UserError
from trainer.head import head_loss, score_head
from trainer.methods import METHODS
from trainer.objective import Objective, Plan
from trainer.policy import Policy
from trainer.rollout import Rollouts, pack
from trainer.scores import NonFiniteScores, Scores
from trainer.teachers import Teacher, TeacherScores

MAX_SKIPPED = 3  # consecutive non-finite steps before a run gives up


@dataclass(frozen=True)
class StepRecord:
    """One optimisation step in numbers; a function of the spec alone. Entropies and KL in nats, token means."""

    step: int  # from 1
    loss: float
    grad_norm: float  # before clipping
    lr: float
    kl: float  # mean of log S − log Q over response tokens: the k1 estimate of the reverse KL
    student_entropy: float
    teacher_entropy: float
    length_mean: float  # tokens
    length_p95: float
    truncated: float  # fraction of rollouts that hit the length limit
    kept: float  # fraction of rollouts
    kept_tokens: float  # fraction of response tokens with a non-zero coefficient
    weight_cv: float  # standard deviation ÷ mean of the non-zero token weights
    ess: float  # effective sample size of the coefficients ÷ response tokens
    cosine: float  # of the coefficients to the baseline's
    inert: bool  # plan and loss equal the baseline's
    engine_gap: float  # largest |log-prob of the engine − of the trainer|, nats
    generated_tokens: int  # since the start of the run
    trained_tokens: int  # of them with a non-zero coefficient
    skipped: bool  # no update: something was not finite


@dataclass(frozen=True)
class Timing:
    """What one step cost. Kept apart from the record, which is reproducible to the bit."""

    step: int
    seconds_rollout: float
    seconds_score: float
    seconds_plan: float
    seconds_update: float
    peak_memory_mib: float


@dataclass(frozen=True, eq=False)
class Step:
    """What `train` yields: the record, its cost, and the batch itself for whoever wants to look at tokens."""

    record: StepRecord
    timing: Timing
    rollouts: Rollouts
    scores: Scores | None
    plan: Plan | None


@dataclass
class TrainState:
    """All that changes during a run."""

    policy: Policy
    optimiser: torch.optim.Optimizer
    identity: dict[str, str]
    step: int = 0  # updates done
    generated_tokens: int = 0
    trained_tokens: int = 0
    skipped: int = field(default=0)  # in a row

    @classmethod
    def start(cls, spec: RunSpec, policy: Policy) -> TrainState:
        """A fresh state around the student's weights."""
        o = spec.optim
        optimiser = torch.optim.AdamW(
            policy.model.parameters(), lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay
        )
        return cls(policy, optimiser, spec.identity())

    def save(self, folder: Path) -> None:
        """Writes a checkpoint that appears whole or not at all.

        Raises:
            OSError: as the file system gives it (no space left); what was half-written is removed.
        """
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self.policy.save(partial)
            torch.save(self.optimiser.state_dict(), partial / "optimiser.pt")
            counters = {name: getattr(self, name) for name in ("step", "generated_tokens", "trained_tokens", "skipped")}
            (partial / "state.json").write_text(json.dumps({"identity": self.identity, **counters}))
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    @classmethod
    def load(cls, spec: RunSpec, folder: Path) -> TrainState:
        """Reads a checkpoint of this very run.

        Raises:
            UserError: if it belongs to another run, naming the fields that differ, or cannot be read.
        """
        try:
            kept = json.loads((folder / "state.json").read_text())
        except (OSError, json.JSONDecodeError):
            raise UserError(f"{folder} is not a whole checkpoint (no readable state.json): remove it") from None
        if changed := differences(kept["identity"], spec.identity()):
            raise UserError(f"{folder} is a checkpoint of another run: it differs in {', '.join(changed)}")
        policy = Policy.load(folder, spec.machine.device, getattr(torch, spec.machine.dtype))
        state = cls.start(spec, policy)
        try:
            state.optimiser.load_state_dict(torch.load(folder / "optimiser.pt", weights_only=True))
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise UserError(
                f"{folder}/optimiser.pt cannot be read ({str(error).splitlines()[0]}): remove {folder}"
            ) from None
        for name in ("step", "generated_tokens", "trained_tokens", "skipped"):
            setattr(state, name, kept[name])
        return state


def check_needs(objective: Objective, teacher: Teacher, name: str) -> None:
    """Refuses, before anything is computed, a method that needs more than its teacher provides."""
    if missing := objective.needs - teacher.provides:
        raise UserError(
            f"method '{name}' needs {', '.join(sorted(missing))} from its teacher, which provides only "
            f"{', '.join(sorted(teacher.provides))}"
        )


def train(
    spec: RunSpec,
    state: TrainState,
    source: PromptSource,
    engine: RolloutEngine,
    teacher: Teacher,
    verify: Callable[[Rollouts], Tensor] | None = None,
) -> Iterator[Step]:
    """Runs the remaining steps of `spec` from `state`, which it advances; yields after each update.

    Args:
        verify: `[B]` bool verdicts on rollouts, for methods that read `correct`.

    Raises:
        UserError: if the method needs what the teacher does not provide, or after `MAX_SKIPPED` non-finite steps.
    """
    objective = spec.objective()
    check_needs(objective, teacher, spec.method)
    if "correct" in objective.reads and verify is None:
        raise UserError(f"method '{spec.method}' needs a verifier: prompts with an 'answer' column")
    engine.sync(state.policy)
    domains = sorted({domain for domain, _ in spec.teachers})
    while state.step < spec.steps:
        clock = _Clock()
        rollouts = _roll_out(spec, state, source, engine)
        clock.lap("rollout")
        teacher_view = teacher.score(rollouts)
        # With a single micro-batch the planning pass and the gradient pass share one forward.
        whole = len(rollouts.mask) <= spec.machine.micro_batch
        with torch.set_grad_enabled(whole):
            hidden = torch.cat([state.policy.hidden(rollouts.rows(rows)) for rows in _split(rollouts, spec)])
        scores: Scores | None = None
        plan: Plan | None = None
        try:
            correct = verify(rollouts) if verify else None
            scores = _scores(spec, state, objective, rollouts, hidden, teacher_view, correct, domains)
            clock.lap("score")
            plan = objective.plan(scores)
            baseline = METHODS["opd"].plan(scores)
            diagnostics = diagnose(objective, plan, METHODS["opd"], baseline)
            clock.lap("plan")
            loss, norm = _accumulate(spec, state, objective, plan, rollouts, hidden if whole else None, teacher_view)
            finite = bool(torch.isfinite(torch.tensor([loss, norm])).all())
        except NonFiniteScores:
            loss, norm, finite, diagnostics = float("nan"), float("nan"), False, PlanDiagnostics.nothing()
        rate = spec.optim.rate(state.step, spec.steps)
        if finite and diagnostics.kept_tokens > 0:
            for group in state.optimiser.param_groups:
                group["lr"] = rate
            state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        state.skipped = 0 if finite else state.skipped + 1
        state.step += 1
        state.generated_tokens += int(rollouts.mask.sum())
        state.trained_tokens += int(plan.live.sum()) if plan is not None else 0
        engine.sync(state.policy)
        clock.lap("update")
        record = _record(state, rollouts, scores, diagnostics, loss, norm, rate, not finite)
        yield Step(record, clock.timing(state.step), rollouts, scores, plan)
        if state.skipped >= MAX_SKIPPED:
            raise UserError(
                f"{MAX_SKIPPED} steps in a row gave NaN or infinity (last: step {state.step}); lower the learning rate "
                "or check the teacher"
            )


def _roll_out(spec: RunSpec, state: TrainState, source: PromptSource, engine: RolloutEngine) -> Rollouts:
    prompts = [p for p in source.batch(state.step, spec.data.prompts) for _ in range(spec.data.samples)]
    seeds = [
        derive_seed(spec.seed, "rollout", state.step, index, prompt.id, index % spec.data.samples)
        for index, prompt in enumerate(prompts)
    ]
    ids = [state.policy.render(prompt.text) for prompt in prompts]
    samples = engine.generate(ids, seeds, spec.rollout)
    return pack(prompts, ids, samples, seeds, state.policy.pad_id, engine.version, state.policy.device)


def _split(rollouts: Rollouts, spec: RunSpec) -> tuple[Tensor, ...]:
    return torch.arange(len(rollouts.mask), device=rollouts.mask.device).split(spec.machine.micro_batch)


def _scores(
    spec: RunSpec,
    state: TrainState,
    objective: Objective,
    rollouts: Rollouts,
    hidden: Tensor,
    teacher: TeacherScores,
    correct: Tensor | None,
    domains: list[str],
) -> Scores:
    want = {"logprobs", "student_entropy"} | (objective.reads & {"reverse_kl", "forward_kl"})
    if teacher.logits:
        want |= {"teacher_logprobs", "teacher_entropy"}
    flat = score_head(hidden.detach(), state.policy.head, rollouts.targets, teacher.logits, want)
    if teacher.logprobs is not None:
        flat["teacher_logprobs"] = teacher.logprobs
    mask = rollouts.mask
    scores = {name: torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, v) for name, v in flat.items()}
    numbers = {name: index for index, name in enumerate(domains)}
    device = mask.device
    return Scores(
        mask,
        rollout_logprobs=rollouts.logprobs,
        correct=correct,
        completed=rollouts.completed,
        group=torch.arange(len(mask), device=device) // spec.data.samples,
        domain=torch.tensor([numbers.get(p.domain, 0) for p in rollouts.prompts], device=device),
        uid=rollouts.uid,
        progress=state.step / spec.steps,
        **scores,
    )


def _accumulate(
    spec: RunSpec,
    state: TrainState,
    objective: Objective,
    plan: Plan,
    rollouts: Rollouts,
    hidden: Tensor | None,
    teacher: TeacherScores,
) -> tuple[float, float]:
    """Backward over micro-batches of the rollouts that receive gradient. Returns (loss, gradient norm)."""
    mask, live = plan.mask, plan.live
    place = torch.zeros_like(mask, dtype=torch.int64)
    place[mask] = torch.arange(int(mask.sum()), device=mask.device)
    total = 0.0
    rows = live.any(1).nonzero()[:, 0]
    for part in (
        [torch.arange(len(mask), device=mask.device)] if hidden is not None else rows.split(spec.machine.micro_batch)
    ):
        states = hidden if hidden is not None else state.policy.hidden(rollouts.rows(part))
        # Of the micro-batch's valid tokens, those with a coefficient: the others never reach the head.
        chosen = live[part][mask[part]]
        inside = live[part]
        loss = head_loss(
            states[chosen],
            state.policy.head,
            rollouts.responses[part][inside],
            place[part][inside],
            objective,
            plan.map(lambda x, part=part, inside=inside: x[part][inside]),  # type: ignore[misc]
            teacher.logits,
        )
        if loss.requires_grad:
            loss.backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(state.policy.model.parameters(), spec.optim.clip_norm)
    return total, float(norm)


def _record(
    state: TrainState,
    rollouts: Rollouts,
    scores: Scores | None,
    diagnostics: PlanDiagnostics,
    loss: float,
    norm: float,
    rate: float,
    skipped: bool,
) -> StepRecord:
    def mean(values: Tensor | None) -> float:
        return float("nan") if values is None or scores is None else float(values[scores.mask].mean())

    lengths = rollouts.mask.sum(1).float()
    return StepRecord(
        step=state.step,
        loss=loss,
        grad_norm=norm,
        lr=rate,
        kl=mean(scores.logprobs - scores.teacher_logprobs if scores else None),
        student_entropy=mean(scores.student_entropy if scores else None),
        teacher_entropy=mean(scores.teacher_entropy if scores else None),
        length_mean=float(lengths.mean()),
        length_p95=float(lengths.quantile(0.95)),
        truncated=float((~rollouts.completed).float().mean()),
        kept=diagnostics.kept,
        kept_tokens=diagnostics.kept_tokens,
        weight_cv=diagnostics.weight_cv,
        ess=diagnostics.ess,
        cosine=diagnostics.cosine,
        inert=diagnostics.inert,
        engine_gap=float("nan")
        if scores is None
        else float((scores.logprobs - rollouts.logprobs)[scores.mask].abs().max()),
        generated_tokens=state.generated_tokens,
        trained_tokens=state.trained_tokens,
        skipped=skipped,
    )


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self.last
        self.last = now

    def timing(self, step: int) -> Timing:
        seconds = {
            f"seconds_{name}": round(self.laps.get(name, 0.0), 4) for name in ("rollout", "score", "plan", "update")
        }
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Timing(step=step, peak_memory_mib=round(peak, 1), **seconds)
