"""A spec's names made into what a run works with: student, teachers, reference, rollout engine, verifier, prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from harness.answers import grade_many
from harness.errors import UserError
from harness.runs import assets
from trainer.config import Machine, RunSpec, served
from trainer.data import PromptSource
from trainer.methods import method

IN_FLIGHT: Final = 32  # requests to a remote teacher, of all processes together


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

    local, teachers = [], {}
    for domain, name in spec.teachers:
        if not served(name):
            local.append(policy := _load(spec, assets.model_folder(name)))
            share_vocabulary(student, policy)
            teachers[domain] = prepare_teacher(policy, spec.machine)
    for policy in local:
        policy.vocab = student.vocab
    for domain, name in spec.teachers:  # the student's vocabulary is settled by now
        if served(name):
            teachers[domain] = _remote(spec, name, student)
    return teachers[""] if set(teachers) == {""} else routed({domain: teachers[domain] for domain, _ in spec.teachers})


def _remote(spec: RunSpec, name: str, student: Any) -> Any:
    from trainer.distributed import here
    from trainer.remote_teacher import RemoteTeacher
    from trainer.score_cache import ScoreCache, cached

    objective, cache = spec.objective(), spec.machine.score_cache
    address = name.removeprefix(f"{served(name)}@")
    model = served(name).removeprefix("server:")
    each = max(1, IN_FLIGHT // here().count)
    teacher = RemoteTeacher(address, model, student, top_k=objective.top_k, concurrency=each)
    needs = objective.needs | method(spec.baseline).needs
    return cached(teacher, ScoreCache(Path(cache)), teacher.fingerprint, needs) if cache else teacher


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
    """What draws the rollouts: of the student, or of a teacher for methods that train on the teacher's."""
    from trainer.engines import FrozenEngine, HFEngine
    from trainer.teachers import LocalTeacher
    from trainer.vllm_server import VLLMServerEngine

    if spec.objective().sampler == "student":
        if spec.engine == "vllm":
            return vllm_engine(spec.student, policy, spec.machine, spec.dtype)
        return HFEngine(policy, spec.machine.engine_batch)
    if not isinstance(teacher, LocalTeacher):
        raise UserError(f"method '{spec.method}' trains on the teacher's rollouts: give it one local --teacher MODEL")
    if spec.engine == "vllm":
        engine = vllm_engine(dict(spec.teachers)[""], teacher.policy, spec.machine, spec.dtype)
        if isinstance(engine, VLLMServerEngine):
            engine.confirm()  # that it serves this teacher, whose weights nobody hands over
        return FrozenEngine(engine)
    return FrozenEngine(HFEngine(teacher.policy, spec.machine.engine_batch))


def vllm_engine(model: str, policy: Any, machine: Machine, dtype: str) -> Any:
    """vLLM as a run's machine has it: a server, or in this process.

    Raises:
        UserError: for a dtype that vLLM has not, or several processes without a server.
    """
    given = machine.vllm
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"engine=vllm computes in float32 or bfloat16, not in {dtype}")
    if given.server:
        from trainer.vllm_server import VLLMServerEngine

        return VLLMServerEngine(given.server, policy, handover=given.handover, sleep=given.sleep)
    if policy.ranks.count > 1:
        raise UserError(
            f"{policy.ranks.count} processes share one vLLM server: start one and name it with "
            "machine.vllm.server=http://HOST:PORT"
        )
    from trainer.vllm_engine import VLLMEngine

    return VLLMEngine(
        assets.model_folder(model),
        dtype="float32" if dtype == "float32" else "bfloat16",
        max_model_len=given.context or None,
        gpu_memory_utilization=given.memory,
        tensor_parallel=given.tensor_parallel,
        sleep=given.sleep,
    )


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


def open_prompts(spec: RunSpec, student: Any, progress: Callable[[int], None]) -> PromptSource:
    """The prompts of a run.

    Args:
        progress: called with the number of rows read so far.

    Raises:
        UserError: as `assets.open_source`; for prompts that no teacher answers for.
    """
    source = assets.open_source(spec.data, spec.seed, lambda text: len(student.render(text)), progress)
    teachers = {domain for domain, _ in spec.teachers}
    if teachers != {""} and (lost := sorted(set(getattr(source, "domains", ())) - teachers)):
        where = getattr(source, "first", {}).get(lost[0], spec.data.source)
        domain = f"the domain '{lost[0]}'" if lost[0] else "no domain (column 'domain' or extra_info.opd_teacher)"
        raise UserError(
            f"{where}: a prompt of {domain}, and there are teachers for {', '.join(sorted(teachers))} only: add "
            f"--teacher {lost[0] or 'DOMAIN'}=MODEL, or leave such prompts out"
        )
    return source
