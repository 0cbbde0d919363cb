"""The training loop: a generator that yields a record per optimisation step.

    state = TrainState.start(spec, policy)
    for step in train(spec, state, source, engine, teacher):
        ...                                   # keep step.record, evaluate, state.save(folder)

No callback, no logger, no stateful random generator: prompts and seeds are functions of (run seed, step), so the
weights, the optimiser and the step number are all there is to resume.

Several processes (`trainer.distributed`) draw and score a share of the rollouts each, have all samples and scores in
common, plan the whole batch alike, and run backward over their rows with the batch's denominators. Planning happens in
host memory then, where equal numbers give equal plans.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.batches import passes, take
from trainer.config import RunSpec
from trainer.data import PromptSource, derive_seed
from trainer.diagnostics import PlanDiagnostics, diagnose
from trainer.engines import RolloutEngine
from trainer.errors import UserError
from trainer.head import Logits, head_loss, score_head, target_logprobs
from trainer.methods import method
from trainer.objective import Objective, Plan
from trainer.policy import Policy
from trainer.record import Clock, StepRecord, Timing, step_record
from trainer.rollout import Rollouts, pack
from trainer.scores import FROM_LOGITS, NonFiniteScores, Scores
from trainer.state import TrainState
from trainer.teachers import Teacher, TeacherScores, check_needs

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
    ranks = state.policy.ranks
    if spec.data.prompts * spec.data.samples < ranks.count:
        raise UserError(
            f"a step of {spec.data.prompts * spec.data.samples} rollouts cannot occupy {ranks.count} processes: start "
            "fewer, or give a step more prompts"
        )
    engine.sync(state.policy)
    state.policy.release()
    domains = sorted({domain for domain, _ in spec.teachers})
    while state.step < spec.steps:
        clock = Clock()
        rollouts = _roll_out(spec, state, source, engine)
        if isinstance(engine, Releases):
            engine.release()
        hands = ranks.deal(rollouts.attention.sum(1).tolist())
        # This process's rows, on its device.
        local = rollouts if ranks.count == 1 else take(rollouts, hands[ranks.index], state.policy.device)
        clock.lap("rollout")
        teacher_view = teacher.score(local)
        clock.lap("teacher")
        # With a single pass, planning and gradient share one forward.
        parts = passes(local, spec.machine)
        whole = ranks.most(len(parts)) <= 1
        with torch.set_grad_enabled(whole):
            hidden = state.policy.hidden_in(local, parts)
        clock.lap("student")
        scores: Scores | None = None
        plan: Plan | None = None
        try:
            flat = _flat_scores(reads, state.policy, local, hidden, teacher_view)
            if "ref_logprobs" in reads and reference:
                flat["ref_logprobs"] = _reference_logprobs(local, reference, state.policy.vocab)
            correct = verify(local) if "correct" in reads and verify else None
            scores = _gather_scores(spec, state, rollouts, local, hands, flat, correct, domains)
            clock.lap("score")
            plan = objective.plan(scores)
            diagnostics = diagnose(objective, plan, baseline, baseline.plan(scores), scores)
            clock.lap("plan")
            mine = plan if ranks.count == 1 else _share(plan, hands[ranks.index], local)
            logits = teacher_view.logits or teacher_view.topk
            loss, norm = _accumulate(spec, state, objective, mine, local, hidden if whole else None, logits)
            finite = bool(torch.isfinite(torch.tensor([loss, norm])).all())
        except NonFiniteScores:
            loss, norm, finite, diagnostics = float("nan"), float("nan"), False, PlanDiagnostics.nothing()
        clock.lap("backward")
        for model in (state.policy, teacher, reference):
            if isinstance(model, Releases):
                model.release()
        rate = spec.optim.rate(state.step, spec.steps)
        if finite and diagnostics.kept_tokens > 0:
            for group in state.optimiser.param_groups:
                group["lr"] = rate
            state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        clock.lap("optimiser")
        state.skipped = 0 if finite else state.skipped + 1
        state.step += 1
        state.generated_tokens += int(rollouts.mask.sum())
        state.trained_tokens += int(plan.live.sum()) if plan is not None else 0
        engine.sync(state.policy)
        state.policy.release()
        clock.lap("sync")
        record = step_record(state, rollouts, scores, diagnostics, loss, norm, rate, not finite, spec.importance_cap)
        yield Step(record, clock.timing(state.step), rollouts, scores, plan)
        if state.skipped >= MAX_SKIPPED:
            raise UserError(
                f"{MAX_SKIPPED} steps in a row gave NaN or infinity (last: step {state.step}); lower the learning rate "
                "or check the teacher"
            )


@runtime_checkable
class Releases(Protocol):
    """A model that leaves something gathered in memory until the step is done with it."""

    def release(self) -> None: ...


def _modules_of(engine: RolloutEngine) -> list[Policy]:
    """The policy with whose modules an engine decodes."""
    held = getattr(getattr(engine, "engine", engine), "policy", None)
    return [held] if isinstance(held, Policy) else []


def _roll_out(spec: RunSpec, state: TrainState, source: PromptSource, engine: RolloutEngine) -> Rollouts:
    """The whole batch, in every process; each draws its share of the samples."""
    prompts = [p for p in source.batch(state.step, spec.data.prompts) for _ in range(spec.data.samples)]
    seeds = [
        derive_seed(spec.seed, "rollout", state.step, index, prompt.id, index % spec.data.samples)
        for index, prompt in enumerate(prompts)
    ]
    ids = [state.policy.render(prompt.text) for prompt in prompts]
    ranks = state.policy.ranks
    mine = ranks.slice(len(ids))
    with contextlib.ExitStack() as stack:
        for policy in _modules_of(engine):
            stack.enter_context(policy.whole())
        samples = ranks.gather_samples(engine.generate(ids[mine], seeds[mine], spec.rollout))
    device = state.policy.device if ranks.count == 1 else "cpu"
    return pack(prompts, ids, samples, seeds, state.policy.pad_id, engine.version, device)


def _flat_scores(
    reads: frozenset[str], policy: Policy, rollouts: Rollouts, hidden: Tensor, teacher: TeacherScores
) -> dict[str, Tensor]:
    """[N] of each token quantity, for the valid tokens of this process's rows."""
    want = {"logprobs", "student_entropy"} | (reads & FROM_LOGITS)
    if teacher.logits:
        want |= {"teacher_logprobs", "teacher_entropy", "reverse_kl"}
    flat = score_head(hidden.detach(), policy.head, rollouts.targets, teacher.logits, want)
    if teacher.logprobs is not None:
        flat["teacher_logprobs"] = teacher.logprobs
    if teacher.entropy is not None:
        flat["teacher_entropy"] = teacher.entropy
    return flat


def _gather_scores(
    spec: RunSpec,
    state: TrainState,
    rollouts: Rollouts,
    local: Rollouts,
    hands: list[Tensor],
    flat: dict[str, Tensor],
    correct: Tensor | None,
    domains: list[str],
) -> Scores:
    """The scores of the whole batch, from those of each process's rows."""
    mask, device, ranks = rollouts.mask, rollouts.mask.device, state.policy.ranks
    tokens = {}
    for name in sorted(flat):  # in the same order everywhere
        values = torch.zeros(local.mask.shape, device=local.mask.device).masked_scatter(local.mask, flat[name])
        tokens[name] = ranks.gather(values, hands, mask.shape[1])
    numbers = {name: index for index, name in enumerate(domains)}
    return Scores(
        mask,
        rollout_logprobs=rollouts.logprobs,
        completed=rollouts.completed,
        correct=None if correct is None else ranks.gather(correct, hands),
        group=torch.arange(len(mask), device=device) // spec.data.samples,
        domain=torch.tensor([numbers.get(p.domain, 0) for p in rollouts.prompts], device=device),
        uid=rollouts.uid,
        progress=state.step / spec.steps,
        **tokens,
    )


def _share(plan: Plan, rows: Tensor, local: Rollouts) -> Plan:
    """The part of the whole batch's plan for the rows of this process."""
    width, device = local.mask.shape[1], local.mask.device
    return plan.map(lambda x: x[rows][:, :width].to(device))


def _reference_logprobs(rollouts: Rollouts, reference: Teacher, vocab: int) -> Tensor:
    view = reference.score(rollouts)
    flat = view.logprobs if view.logits is None else target_logprobs(view.logits, rollouts.targets, vocab)
    assert flat is not None
    return flat


def _accumulate(
    spec: RunSpec,
    state: TrainState,
    objective: Objective,
    plan: Plan,
    rollouts: Rollouts,
    hidden: Tensor | None,
    logits: Logits | None,
) -> tuple[float, float]:
    """Backward over the rows that receive gradient, in passes. Returns (loss, gradient norm) of the whole batch."""
    policy, ranks = state.policy, state.policy.ranks
    mask, live = plan.mask, plan.live
    place = torch.zeros_like(mask, dtype=torch.int64)
    place[mask] = torch.arange(int(mask.sum()), device=mask.device)
    total = 0.0
    nothing = torch.arange(0, device=mask.device)
    if hidden is not None:
        parts = [torch.arange(len(mask), device=mask.device)]
    else:
        parts = passes(rollouts, spec.machine, live.any(1).nonzero()[:, 0])
        parts += [nothing] * (ranks.most(len(parts)) - len(parts))  # as many as the others have
    for part in parts:
        states = hidden
        if states is None:
            states = policy.hidden(rollouts.rows(part)) if len(part) else policy.idle()
        # Of the pass's valid tokens, those with a coefficient: the others never reach the head.
        chosen = live[part][mask[part]]
        inside = live[part]
        loss = head_loss(
            states[chosen],
            policy.padded_head,
            rollouts.responses[part][inside],
            place[part][inside],
            objective,
            plan.map(lambda x, part=part, inside=inside: x[part][inside]),  # type: ignore[misc]
            logits,
            vocab=policy.vocab,
        )
        if loss.requires_grad:
            loss.backward()
        total += loss.item()
    policy.release()
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trained, spec.optim.clip_norm)
    return ranks.total(total), float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
