"""What a full-scale grid would cost, before it is run: arithmetic on the shapes of its models.

Nothing here is a measurement. Every number comes with the assumptions it was made from.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from harness.benchmarks.registry import BENCHMARKS
from harness.errors import UserError
from harness.evaluation import EvalPlan
from harness.formats import HOLE
from harness.runs.cell import Cell
from harness.runs.shapes import Shape, shape_of
from trainer.config import RunSpec, served
from trainer.methods import method
from trainer.objective import Objective

if TYPE_CHECKING:
    from rich.table import Table

    from harness.grid import Grid


@dataclass(frozen=True)
class Assumptions:
    """Of the hardware and of what the models will write. `lines` says them to the reader."""

    gpus: int = 8
    memory: float = 80e9  # bytes
    flops: float = 312e12  # dense bf16, per second
    bandwidth: float = 2.039e12  # bytes per second
    utilisation: float = 0.35  # of the FLOPs, in training and scoring
    decoding: float = 0.6  # of the bandwidth, in decoding
    engine: float = 0.6  # share of the memory for the engine's weights and cache
    side_by_side: int = 256  # sequences decoded at once, at most
    prompt: int = 200  # tokens
    response: int = 4500  # tokens, mean

    def length(self, limit: int) -> int:
        return min(self.response, limit)

    def lines(self) -> list[str]:
        return [
            f"{self.gpus} × A100 80 GB: bf16 {self.flops / 1e12:.0f} TFLOP/s, {self.bandwidth / 1e12:.2f} TB/s; "
            f"{self.utilisation:.0%} of the FLOP/s in training and scoring, {self.decoding:.0%} of the bandwidth in "
            f"decoding, at most {self.side_by_side} sequences side by side",
            f"prompts of {self.prompt} tokens, responses of {self.response} on average (strong-to-weak runs with these "
            "models report 3.3 to 8.5 thousand), cut at the run's own limit",
            "weights, gradients and AdamW sharded over all GPUs (FSDP): 16 bytes a parameter of the student (2 under "
            "adapters), 2 of a teacher or reference; a micro-batch of longest rollouts shared by the GPUs",
            f"the engine takes turns with the training and has {self.engine:.0%} of the memory, beside the shards",
            "kept and trained shares: what the method's plan does with made-up scores (entropies 0.30 and 0.33 nats)",
        ]


A100: Final = Assumptions()


@dataclass(frozen=True)
class Estimate:
    """Of one cell. Memory in bytes per GPU, times in GPU-seconds."""

    generated: float = 0.0  # tokens in training
    trained: float = 0.0  # of them with a non-zero coefficient
    flops: float = 0.0  # of training and scoring
    rollouts: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0
    training_memory: float = 0.0
    engine_memory: float = 0.0

    @property
    def gpu_hours(self) -> float:
        return (self.rollouts + self.training + self.evaluation) / 3600


# --- arithmetic -----------------------------------------------------------------------------------------------


def forward(model: Shape, prompt: float, response: float) -> float:
    """FLOPs of one pass over a rollout; the head only on the response."""
    length = prompt + response
    attention = 4 * model.layers * model.attention * length / 2  # per token; QKᵀ and AV, over half of the length
    return length * (2 * model.body + attention) + response * 2 * model.head


def decode_speed(model: Shape, prompt: float, response: float, given: Assumptions = A100) -> float:
    """Tokens per second and GPU: a step reads all weights once, and the cache of every sequence that is decoded.

    The engine spans as many GPUs as its weights need; sequences run side by side as far as the cache goes.
    """
    width = 1
    while 2 * model.parameters > 0.8 * given.engine * given.memory * width:
        width *= 2
    context = prompt + response / 2
    room = given.engine * given.memory * width - 2 * model.parameters
    sequences = max(1.0, min(given.side_by_side, room // (context * model.cache_bytes)))
    read = 2 * model.parameters + sequences * context * model.cache_bytes
    return sequences / (read / (width * given.bandwidth * given.decoding)) / width


@functools.cache
def shares(objective: Objective, samples: int = 1) -> tuple[float, float]:
    """(rollouts that keep any gradient, tokens with one) as fractions, from its plan for made-up scores.

    Exact for filters and selections by rank, which is what methods use; a threshold depends on the scores.
    """
    import torch

    from trainer.scores import Scores

    draw = torch.Generator().manual_seed(0)
    rows, width = 240, 64

    def spread(mean: float) -> torch.Tensor:
        return -torch.rand(rows, width, generator=draw).clamp(min=1e-6).log() * mean

    place = torch.arange(rows)
    common = {
        "mask": torch.ones(rows, width, dtype=torch.bool),
        "logprobs": -spread(0.3),
        "teacher_logprobs": -spread(0.4),
        "student_entropy": spread(0.3),
        "teacher_entropy": spread(0.33),
        "reverse_kl": spread(0.1),
        "forward_kl": spread(0.1),
        "ref_logprobs": -spread(0.4),
        "rollout_logprobs": -spread(0.3),
        "teacher_rank": 1.0 + spread(1.0).floor(),
        "teacher_mass": torch.rand(rows, width, generator=draw),
        "correct": torch.rand(rows, generator=draw) < 0.6,
        "completed": torch.ones(rows, dtype=torch.bool),
        "group": place // samples,
        "domain": place % 2,
        "uid": place,
    }
    moments = 12  # of a run, whose schedules count by their share of it
    kept, trained = 0.0, 0.0
    for moment in range(moments):
        live = objective.plan(Scores(**common, progress=(moment + 0.5) / moments)).live
        kept += float(live.any(1).double().mean()) / moments
        trained += float(live.double().mean()) / moments
    return kept, trained


def of_cell(cell: Cell, given: Assumptions = A100) -> Estimate:
    """The cost of a cell: of a run with its evaluations, or of a reference's evaluation alone."""
    if cell.spec is None:
        return Estimate() if served(cell.model) else Estimate(evaluation=_evaluation(cell, shape_of(cell.model), given))
    spec = cell.spec
    student, objective = shape_of(spec.student), spec.objective()
    teachers = [shape_of(model) for _, model in spec.teachers if not served(model)]  # a server has its own GPUs
    reads = objective.reads | method(spec.baseline).reads
    reference = shape_of(spec.reference or spec.student) if "ref_logprobs" in reads else None
    kept, trained = shares(objective, spec.data.samples)
    rollouts = spec.steps * spec.data.prompts * spec.data.samples
    response = given.length(spec.rollout.max_tokens)
    passed = forward(student, given.prompt, response)
    head = response * 2 * student.head
    # Scoring; then, of what is kept, forward and backward (3), and the body's forward once more where it is recomputed.
    again = passed - head if spec.machine.gradient_checkpointing else 0.0
    per_rollout = passed + kept * (3 * passed + again)
    per_rollout += sum(forward(teacher, given.prompt, response) for teacher in teachers) / len(spec.teachers)
    # The teacher's distributions once more, where there is a gradient.
    if objective.loss_needs & {"logits", "topk_logprobs"}:
        per_rollout += trained * sum(response * 2 * teacher.head for teacher in teachers) / len(spec.teachers)
    if reference:
        per_rollout += forward(reference, given.prompt, response)
    sampler = teachers[0] if objective.sampler == "teacher" else student
    flops = rollouts * per_rollout
    generated = float(rollouts * response)
    training, engine = _memory(spec, student, [*teachers, *([reference] if reference else [])], given)
    return Estimate(
        generated=generated,
        trained=generated * trained,
        flops=flops,
        rollouts=generated / decode_speed(sampler, given.prompt, response, given),
        training=flops / (given.flops * given.utilisation),
        evaluation=_evaluation(cell, student, given),
        training_memory=training,
        engine_memory=engine,
    )


def _memory(spec: RunSpec, student: Shape, others: Sequence[Shape], given: Assumptions) -> tuple[float, float]:
    """Bytes per GPU while training, and while the engine decodes beside the shards."""
    from trainer.head import CHUNK_ELEMENTS

    own = 2 if spec.lora.rank else 16
    shards = (own * student.parameters + sum(2 * other.parameters for other in others)) / given.gpus
    longest = given.prompt + spec.rollout.max_tokens
    tokens = max(longest, (spec.machine.token_budget or spec.machine.micro_batch * longest) / given.gpus)
    # 34 bytes a token and channel of every layer, or of the one at work and 2 of the others; logits and gradients.
    layers = 2 * student.layers + 34 if spec.machine.gradient_checkpointing else 34 * student.layers
    activations = tokens * student.hidden * layers + 4 * 4 * CHUNK_ELEMENTS
    return shards + activations, shards + given.engine * given.memory


def _evaluation(cell: Cell, model: Shape, given: Assumptions) -> float:
    """GPU-seconds of all evaluations of a cell."""
    steps = range(0, cell.final_step + 1) if cell.spec else [0]
    total = 0.0
    for step in steps:
        if step or not cell.spec:
            plans: dict[str, EvalPlan] = {plan.name: plan for plan in cell.plans_at(step)}
            total += sum(_answers(plan, model, given) for plan in plans.values())
    return total


def _answers(plan: EvalPlan, model: Shape, given: Assumptions) -> float:
    response = given.length(plan.max_tokens)
    return problems(plan) * plan.k * response / decode_speed(model, given.prompt, response, given)


def problems(plan: EvalPlan) -> int:
    """Problems of a benchmark; a user's own file is taken for a hundred."""
    row = BENCHMARKS.get(plan.bench.partition("@")[0])
    return min(n for n in (row.n if row else 100, plan.limit) if n is not None)


# --- for people -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArmEstimate:
    """An arm's cost per cell, and how many cells it has; without an estimate, why not."""

    arm: str
    cells: int
    estimate: Estimate | None
    why: str = ""


def of_grid(grid: Grid, cells: Sequence[Cell]) -> list[ArmEstimate]:
    """A row per arm, references first; none for a grid that is not made for GPUs."""
    if not grid.base.machine.device.startswith("cuda"):
        return []
    counts: dict[str, list[Cell]] = {}
    for cell in cells:
        counts.setdefault(cell.arm, []).append(cell)
    rows = []
    for arm, found in counts.items():
        try:
            rows.append(ArmEstimate(arm, len(found), of_cell(found[0])))
        except UserError as error:
            rows.append(ArmEstimate(arm, len(found), None, str(error)))
    return rows


def table(rows: Sequence[ArmEstimate]) -> Table:
    """The rows for the terminal; numbers are per cell."""
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = RichTable(title="ESTIMATE per cell, nothing was measured", title_justify="left", box=None)
    for head in ("arm", "cells", "GB/GPU training", "rollouts", "M tokens generated", "trained", "EFLOP"):
        shown.add_column(head, justify="left" if head == "arm" else "right")
    shown.add_column("GPU-hours: rollouts + training + evaluation", justify="right")
    for row in rows:
        found = row.estimate
        if found is None:
            shown.add_row(escape(row.arm), str(row.cells), *[HOLE] * 6)
            continue
        numbers = [found.training_memory / 1e9, found.engine_memory / 1e9, found.generated / 1e6, found.trained / 1e6]
        numbers.append(found.flops / 1e18)
        parts = [f"{seconds / 3600:.0f}" for seconds in (found.rollouts, found.training, found.evaluation)]
        shown.add_row(
            escape(row.arm),
            str(row.cells),
            *([f"{number:.0f}" for number in numbers] if found.generated else [HOLE] * 5),
            (f"{' + '.join(parts)} = " if found.generated else "") + f"{found.gpu_hours:.0f}",
        )
    return shown


def lines(rows: Sequence[ArmEstimate], given: Assumptions = A100) -> list[str]:
    """The sum over the cells, what does not fit or is not known, and every assumption."""
    known = [(row, row.estimate) for row in rows if row.estimate is not None]
    hours = sum(found.gpu_hours * row.cells for row, found in known)
    said = [f"in all {hours:,.0f} GPU-hours for these cells, {hours / given.gpus:,.0f} h on {given.gpus} GPUs"]
    for row, found in known:
        if (most := max(found.training_memory, found.engine_memory)) > given.memory:
            said.append(f"{row.arm} does not fit: {most / 1e9:.0f} GB a GPU, of {given.memory / 1e9:.0f}")
    said += list(dict.fromkeys(row.why for row in rows if row.why))
    return [*said, *(f"assumed: {line}" for line in given.lines())]
