"""The training loop: a generator that yields a record per optimisation step.

    state = TrainState.start(spec, policy)
    for step in train(spec, state, source, engine, teacher):
        ...                                   # keep step.record, evaluate, state.save(folder)

No callback, no logger, no stateful random generator: prompts and seeds are functions of (run seed, step), so the
weights, the optimiser and the step number are all there is to resume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.config import RunSpec
from trainer.data import PromptSource, derive_seed
from trainer.diagnostics import PlanDiagnostics, diagnose
from trainer.engines import RolloutEngine
from trainer.errors import UserError
from trainer.head import head_loss, score_head, target_logprobs
from trainer.methods import method
from trainer.objective import Objective, Plan
from trainer.record import Clock, StepRecord, Timing, step_record
from trainer.rollout import Rollouts, pack
from trainer.scores import FROM_LOGITS, NonFiniteScores, Scores
from trainer.state import TrainState
from trainer.teachers import Teacher, TeacherScores

__all__ = ["MAX_SKIPPED", "Step", "TrainState", "check_needs", "train"]

MAX_SKIPPED = 3  # consecutive non-finite steps before a run gives up


@dataclass(frozen=True, eq=False)
class Step:
    """What `train` yields: the record, its cost, and the batch itself for whoever wants to look at tokens."""

    record: StepRecord
    timing: Timing
    rollouts: Rollouts
    scores: Scores | None
    plan: Plan | None


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
    reference: Teacher | None = None,
) -> Iterator[Step]:
    """Runs the remaining steps of `spec` from `state`, which it advances; yields after each update.

    Args:
        engine: draws the rollouts; for an objective whose sampler is the teacher, an engine of the teacher's.
        verify: `[B]` bool verdicts on rollouts, for methods that read `correct`.
        reference: the third model, for methods that read `ref_logprobs`.

    Raises:
        UserError: if the method needs what the teacher does not provide, or after `MAX_SKIPPED` non-finite steps.
    """
    objective = spec.objective()
    baseline = replace(method(spec.baseline), importance_cap=spec.importance_cap)
    # The baseline is planned beside the method, so what it reads must be there, too.
    for name, planned in ((spec.method, objective), (spec.baseline, baseline)):
        check_needs(planned, teacher, name)
        if "correct" in planned.reads and verify is None:
            raise UserError(f"method '{name}' needs a verifier: prompts with an 'answer' column")
        if "ref_logprobs" in planned.reads and reference is None:
            raise UserError(f"method '{name}' needs a reference model: name one, or use the student's start")
    reads = objective.reads | baseline.reads
    engine.sync(state.policy)
    domains = sorted({domain for domain, _ in spec.teachers})
    while state.step < spec.steps:
        clock = Clock()
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
            extra = {}
            if "correct" in reads and verify:
                extra["correct"] = verify(rollouts)
            if "ref_logprobs" in reads and reference:
                extra["ref_logprobs"] = _reference_logprobs(rollouts, reference, state.policy.vocab)
            scores = _scores(spec, state, reads, rollouts, hidden, teacher_view, extra, domains)
            clock.lap("score")
            plan = objective.plan(scores)
            diagnostics = diagnose(objective, plan, baseline, baseline.plan(scores), scores)
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
        record = step_record(state, rollouts, scores, diagnostics, loss, norm, rate, not finite)
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
    reads: frozenset[str],
    rollouts: Rollouts,
    hidden: Tensor,
    teacher: TeacherScores,
    extra: dict[str, Tensor],
    domains: list[str],
) -> Scores:
    want = {"logprobs", "student_entropy"} | (reads & FROM_LOGITS)
    if teacher.logits:
        want |= {"teacher_logprobs", "teacher_entropy", "reverse_kl"}
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
        completed=rollouts.completed,
        group=torch.arange(len(mask), device=device) // spec.data.samples,
        domain=torch.tensor([numbers.get(p.domain, 0) for p in rollouts.prompts], device=device),
        uid=rollouts.uid,
        progress=state.step / spec.steps,
        **scores,
        **extra,
    )


def _reference_logprobs(rollouts: Rollouts, reference: Teacher, vocab: int) -> Tensor:
    view = reference.score(rollouts)
    flat = view.logprobs if view.logits is None else target_logprobs(view.logits, rollouts.targets, vocab)
    assert flat is not None
    return torch.zeros(rollouts.mask.shape, device=rollouts.mask.device).masked_scatter(rollouts.mask, flat)


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
    parts: Sequence[Tensor] = [torch.arange(len(mask), device=mask.device)]
    if hidden is None:  # an empty tensor splits into one empty part
        parts = rows.split(spec.machine.micro_batch) if len(rows) else []
    for part in parts:
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
