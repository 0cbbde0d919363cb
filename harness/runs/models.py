"""A spec's names made into models: student, teachers, reference, rollout engine, verifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.answers import grade_many
from harness.errors import UserError
from harness.runs import assets
from trainer.config import RunSpec


def load_student(spec: RunSpec, folder: Path | None = None) -> Any:
    """The student's policy, ready for training: as the spec names it, or of a checkpoint's folder."""
    from trainer.sharding import prepare_student, student_dtype

    return prepare_student(_load(spec, folder or assets.model_folder(spec.student), student_dtype(spec)), spec)


def _load(spec: RunSpec, folder: Path, dtype: Any = None) -> Any:
    import torch

    from trainer.policy import Policy
    from trainer.sharding import is_sharded

    # What is to be sharded is read into the host's memory, and goes to its devices a layer at a time.
    device = "cpu" if is_sharded(spec.machine) else spec.machine.device
    return Policy.load(folder, device, dtype or getattr(torch, spec.dtype))


def load_teacher(spec: RunSpec, student: Any) -> Any:
    """The teacher of a spec, routed where it names several; vocabularies are checked and shared.

    Raises:
        UserError: if a teacher's vocabulary differs from the student's.
    """
    from trainer.policy import share_vocabulary
    from trainer.sharding import prepare_teacher, routed

    teachers = {}
    for domain, name in spec.teachers:
        policy = _load(spec, assets.model_folder(name))
        share_vocabulary(student, policy)
        teachers[domain] = prepare_teacher(policy, spec.machine)
    for teacher in teachers.values():
        teacher.policy.vocab = student.vocab
    return teachers[""] if set(teachers) == {""} else routed(teachers)


def load_reference(spec: RunSpec, student: Any) -> Any:
    """The third model: the one the spec names, or the student as it was before training."""
    from trainer.policy import share_vocabulary
    from trainer.sharding import prepare_teacher

    policy = _load(spec, assets.model_folder(spec.reference or spec.student))
    before = student.vocab
    share_vocabulary(student, policy)
    if student.vocab != before:
        raise UserError(f"reference '{policy.name}' lacks ids of student and teachers: use one of their tokenizer")
    return prepare_teacher(policy, spec.machine)


def rollout_engine(spec: RunSpec, policy: Any, teacher: Any) -> Any:
    from trainer.engines import FrozenEngine, HFEngine
    from trainer.teachers import LocalTeacher

    if spec.objective().sampler == "student":
        return HFEngine(policy, spec.machine.engine_batch)
    if not isinstance(teacher, LocalTeacher):
        raise UserError(f"method '{spec.method}' trains on the teacher's rollouts: give it one local --teacher MODEL")
    return FrozenEngine(HFEngine(teacher.policy, spec.machine.engine_batch))


def verifier(policy: Any) -> Callable[[Any], Any]:
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
