"""A model's parameters spread over the processes with FSDP2, and teachers that are asked by all of them in step.

What is sharded: each decoder layer, and with the root what is outside of them (embeddings, last norm, head). Hidden
states leave through a forward method of the root, so that FSDP2 gathers and frees parameters around it. The root's own
stay gathered from the first pass of a step to the last: the head is gathered once a step, every pass's gradient of it
is scattered back at once. Tied embeddings are one parameter of the root and so have one gradient.

Gradients are summed, not averaged: the objective's denominators are the whole batch's already.

In 16-bit training, the shards are float32 masters; what is gathered from them is 16-bit, gradients are summed in
float32, and the optimiser sees float32 alone. Updates of one part in a thousand would be lost in bfloat16 weights.

Passes are collective: a process with fewer passes than the others makes up for it with passes over one filler token.

NOT run: anything on a GPU, including the offloading of teachers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.utils.checkpoint import checkpoint

from trainer import distributed
from trainer.adapters import attach
from trainer.batches import passes, take
from trainer.config import Machine, RunSpec
from trainer.errors import UserError
from trainer.head import HeadLogits
from trainer.policy import Policy
from trainer.rollout import Rollouts
from trainer.teachers import LocalTeacher, RoutedTeacher, Teacher, TeacherScores

NARROW = (torch.bfloat16, torch.float16)


def is_sharded(machine: Machine, dtype: torch.dtype = torch.float32) -> bool:
    """Whether a model's parameters are sharded here: a trained one's, where it computes in `dtype`."""
    return machine.shard or dtype in NARROW or distributed.here().count > 1


def student_dtype(spec: RunSpec) -> torch.dtype:
    """The dtype in which the student's folder is read: float32 where its weights are trained in 16 bits."""
    dtype = getattr(torch, spec.dtype)
    return torch.float32 if dtype in NARROW and not spec.lora.rank else dtype


def prepare_student(policy: Policy, spec: RunSpec) -> Policy:
    """What a run asks of its student: adapters, layers computed twice, shards. Call before an optimiser is made.

    Raises:
        UserError: if the model's class has no list of layers, or peft is missing.
    """
    dtype = getattr(torch, spec.dtype)
    if spec.lora.rank:
        attach(policy.model, spec.lora, spec.seed)
        policy.adapters = spec.lora.alpha / spec.lora.rank
    if spec.machine.gradient_checkpointing:
        for layer in _layers(policy):
            compute_twice(layer)
    if is_sharded(spec.machine, dtype):
        shard(policy, spec.machine, dtype)
    return policy


def prepare_teacher(policy: Policy, machine: Machine) -> LocalTeacher:
    """A teacher (or reference) as the machine's settings want it."""
    policy.model.requires_grad_(False)
    if is_sharded(machine):
        shard(policy, machine)
    if policy.sharded or machine.token_budget:
        return StepTeacher(policy, machine)
    return LocalTeacher(policy, machine.micro_batch, machine.offload_teacher)


def compute_twice(layer: nn.Module) -> None:
    """Keeps only the layer's input for the backward pass, which computes the rest again. Decoding is left alone."""
    inner = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return checkpoint(inner, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    layer.forward = forward


def _layers(policy: Policy) -> list[nn.Module]:
    layers = getattr(getattr(policy.model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"{policy.name}: {type(policy.model).__name__} has no list of layers at 'model.layers'")
    return list(layers)


def shard(policy: Policy, machine: Machine, dtype: torch.dtype | None = None) -> None:
    """Spreads the policy's parameters over all processes. Every process calls it with the same weights.

    Args:
        dtype: in which a trained model computes; None for one that is not trained.
    """
    distributed.ensure_group(machine.device)
    kind = torch.device(machine.device).type
    layers = _layers(policy)
    narrow = dtype if dtype in NARROW else None
    offload = machine.offload_teacher and dtype is None and kind == "cuda"
    options: dict[str, Any] = {
        "mesh": init_device_mesh(kind, (dist.get_world_size(),)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32 if narrow else None),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
    }
    for layer in layers:
        fully_shard(layer, **options)
    root = policy.model
    fully_shard(root, **options)
    for module in _parts(root):
        # The default is the mean over processes. Sums also on gloo, which knows no other scaled sum.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    root.set_reshard_after_backward(False, recurse=False)
    root.decoder_states = lambda **inputs: root.model(**inputs).last_hidden_state
    register_fsdp_forward_method(root, "decoder_states")
    policy.ranks, policy.sharded, policy.dtype = distributed.here(), True, narrow or policy.dtype
    with torch.no_grad():  # the first forward tells FSDP2 which module is the root
        policy.idle()
    policy.release()


def _parts(root: nn.Module) -> list[FSDPModule]:
    return [module for module in root.modules() if isinstance(module, FSDPModule)]


@contextlib.contextmanager
def gathered(root: Any) -> Iterator[None]:
    """All parameters whole in every process, in the dtype of computation: decoding needs no communication.

    Processes decode for different times, so that gathering layer by layer would need them all to go on until the last
    one is done, and would send every weight for every token. In return the model must fit into each device whole.
    """
    parts = _parts(root)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        settle(root)
        for part in parts:
            part.set_reshard_after_forward(part is not root, recurse=False)


def settle(root: Any) -> None:
    """Frees all that is gathered, and forgets in which order it was used: a model that never goes backward keeps it."""
    for part in _parts(root):
        part.reshard()
    if hasattr(root, "reset_iter_state"):  # not in the oldest version of PyTorch that will do
        root.reset_iter_state()


class StepTeacher(LocalTeacher):
    """A local teacher whose passes follow the machine's settings, in step with those of the other processes."""

    def __init__(self, policy: Policy, machine: Machine) -> None:
        super().__init__(policy, machine.micro_batch, machine.offload_teacher and not policy.sharded)
        self.machine = machine

    @torch.no_grad()
    def score(self, rollouts: Rollouts) -> TeacherScores:
        with self.lent:
            hidden = self.policy.hidden_in(rollouts, passes(rollouts, self.machine))
            head = self.policy.head
        return TeacherScores(logits=HeadLogits(hidden, head))

    def release(self) -> None:
        """Frees what `score` gathered, once the step needs no more logits."""
        if self.policy.sharded:
            settle(self.policy.model)


class StepRoutedTeacher(RoutedTeacher):
    """Routed teachers that are all asked in each step, with no rows at all where a process has none for one of them."""

    def score(self, rollouts: Rollouts) -> TeacherScores:
        said = {}
        for name, teacher in self.teachers.items():
            rows = [row for row, prompt in enumerate(rollouts.prompts) if prompt.domain == name]
            said[name] = _Said(teacher.provides)
            if rows or isinstance(teacher, StepTeacher):
                mine = torch.tensor(rows, dtype=torch.int64, device=rollouts.mask.device)
                said[name].answer = teacher.score(take(rollouts, mine))
        return RoutedTeacher(said).score(rollouts)

    def release(self) -> None:
        """As `StepTeacher.release`."""
        for teacher in self.teachers.values():
            if isinstance(teacher, StepTeacher):
                teacher.release()


def routed(teachers: Mapping[str, Teacher]) -> RoutedTeacher:
    """One teacher per domain, asked in step where they have to be."""
    stepwise = any(isinstance(teacher, StepTeacher) for teacher in teachers.values())
    return (StepRoutedTeacher if stepwise else RoutedTeacher)(teachers)


class _Said:
    """A teacher that has been asked already."""

    def __init__(self, provides: frozenset[str]) -> None:
        self.provides = provides
        self.answer = TeacherScores()

    def score(self, rollouts: Rollouts) -> TeacherScores:
        return self.answer
