from __future__ import annotations

import contextlib
import json
import math
import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worlds import EOS, ListPrompts, tiny_policy, tiny_spec
from trainer.batches import passes
from trainer.config import Data, Optim, RunSpec
from trainer.engines import FrozenEngine, HFEngine, ScriptedEngine
from trainer.errors import UserError
from trainer.filters import CorrectOnly
from trainer.loop import MAX_SKIPPED, Step, TrainState, check_needs, train
from trainer.methods import METHODS
from trainer.policy import Policy, share_vocabulary
from trainer.rollout import Rollouts, Sample, Sampling
from trainer.sharding import StepTeacher, prepare_student
from trainer.teachers import LocalTeacher, RoutedTeacher, TeacherScores


def lively(seed: int, head_rows: int = 64) -> Policy:
    """A tiny policy that sometimes ends its answers early."""
    policy = tiny_policy(seed, head_rows)
    with torch.no_grad():
        policy.model.lm_head.weight[EOS] *= 2
    return policy


def setup(spec: RunSpec, state: TrainState | None = None, domains: Sequence[str] = ("",)) -> dict[str, Any]:
    """Everything `train` takes, fresh; heads of student (64) and teacher (72) differ in size."""
    state = state or TrainState.start(spec, lively(1))
    members = {domain: lively(2 + i, 72) for i, (domain, _) in enumerate(spec.teachers)}
    for policy in members.values():
        share_vocabulary(state.policy, policy)
    local = {domain: LocalTeacher(policy, spec.machine.micro_batch) for domain, policy in members.items()}
    teacher = local[""] if set(local) == {""} else RoutedTeacher(local)
    reference = lively(1)
    share_vocabulary(state.policy, reference)
    engine: Any = HFEngine(state.policy, spec.machine.engine_batch)
    if spec.objective().sampler == "teacher":
        engine = FrozenEngine(HFEngine(members[""], spec.machine.engine_batch))
    return {
        "spec": spec,
        "state": state,
        "source": ListPrompts(domains),
        "engine": engine,
        "teacher": teacher,
        "verify": lambda rollouts: rollouts.completed,
        "reference": LocalTeacher(reference),
    }


def run(spec: RunSpec, **changes: Any) -> tuple[list[Step], TrainState]:
    parts = setup(spec) | changes
    return list(train(**parts)), parts["state"]


def weights(state: TrainState) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in state.policy.model.named_parameters()}


def text(steps: Sequence[Step]) -> list[str]:
    """Records as the harness keeps them: equal text is equality to the bit, NaN included."""
    return [json.dumps(asdict(step.record)) for step in steps]


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# --- reproducible ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["opd", "fire", "tip", "random-mask"])
def test_the_same_seed_gives_the_same_bits(method: str) -> None:
    spec = tiny_spec(method)
    first, a = run(spec)
    torch.manual_seed(12345)  # no global generator plays a part
    second, b = run(spec)
    assert text(first) == text(second)
    assert_equal(weights(a), weights(b))
    other, _ = run(replace(spec, seed=1))
    assert text(other) != text(first)


@pytest.mark.parametrize("method", ["opd", "full-rkl", "eopd", "tip", "fire", "fire-as-released", "shuffled-weights"])
def test_memory_settings_change_nothing_but_rounding(method: str) -> None:
    # The optimiser divides by the gradient's size: its ε is far below rounding, hence a constant step of lr where
    # a gradient is nothing but rounding. Betas of zero would make it worse; a small rate keeps it below the bar.
    optim = Optim(lr=1e-6, warmup=0, decay="constant")
    spec = tiny_spec(method, optim=optim)
    reference, a = run(spec)
    for micro_batch, engine_batch in ((3, 64), (1, 2)):
        split = tiny_spec(method, optim=optim, micro_batch=micro_batch, engine_batch=engine_batch)
        assert split.run_id == spec.run_id
        steps, b = run(split)
        for x, y in zip(reference, steps, strict=True):
            assert asdict(x.record) == pytest.approx(asdict(y.record), rel=1e-4, abs=1e-5, nan_ok=True)
            assert torch.equal(x.rollouts.input_ids, y.rollouts.input_ids)
        for name, value in weights(b).items():
            torch.testing.assert_close(value, weights(a)[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["full-rkl", "fire", "eopd"])
def test_one_gradient_is_the_same_in_any_split(method: str) -> None:
    grads = []
    for micro_batch in (64, 3, 1):
        spec = tiny_spec(method, steps=1, micro_batch=micro_batch)
        parts = setup(spec)
        state = parts["state"]
        kept: dict[str, Tensor] = {}

        def look(*args: Any, state: TrainState = state, kept: dict[str, Tensor] = kept, **kwargs: Any) -> None:
            named = state.policy.model.named_parameters()
            kept.update({name: p.grad.clone() for name, p in named if p.grad is not None})

        state.optimiser.step = look  # type: ignore[method-assign]
        list(train(**parts))
        grads.append(kept)
    assert len(grads[0]) > 10
    for other in grads[1:]:
        for name, value in grads[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)


def gradients(
    spec: RunSpec, prepare: Callable[[Policy], Policy] = lambda policy: policy
) -> tuple[dict[str, Tensor], Step]:
    """The gradient of a run's first step, before it is clipped, and the step."""
    spec = replace(spec, optim=replace(spec.optim, clip_norm=1e9))
    parts = setup(spec, TrainState.start(spec, prepare(lively(1))))
    if spec.machine.token_budget:
        parts["teacher"] = StepTeacher(parts["teacher"].policy, spec.machine)
    state = parts["state"]
    kept: dict[str, Tensor] = {}

    def look(*args: Any) -> None:
        named = state.policy.model.named_parameters()
        kept.update({name: p.grad.clone() for name, p in named if p.grad is not None})

    state.optimiser.register_step_pre_hook(look)
    (step,) = list(train(**parts))
    return kept, step


@pytest.mark.parametrize("method", METHODS)
def test_a_token_budget_changes_no_loss_and_no_gradient(method: str) -> None:
    spec = tiny_spec(method, steps=1, data=Data("list", prompts=3, samples=2))
    expected, whole = gradients(spec)
    # six rollouts of at most 14 tokens: two or three to a pass, the longest and the shortest in different ones
    tight = replace(spec.machine, token_budget=30)
    found, step = gradients(replace(spec, machine=tight))
    assert 2 <= len(passes(step.rollouts, tight)) <= 4
    assert step.record.loss == pytest.approx(whole.record.loss, rel=1e-5, abs=1e-6)
    assert step.record.grad_norm == pytest.approx(whole.record.grad_norm, rel=1e-4, abs=1e-6)
    assert torch.equal(step.rollouts.input_ids, whole.rollouts.input_ids)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6 * float(whole.record.grad_norm) + 1e-7)


@pytest.mark.parametrize("micro_batch", [64, 2])
@pytest.mark.parametrize("method", ["fire", "full-rkl"])
def test_computing_layers_twice_changes_no_bit(method: str, micro_batch: int) -> None:
    spec = tiny_spec(method, steps=1, micro_batch=micro_batch)
    twice = replace(spec, machine=replace(spec.machine, gradient_checkpointing=True))
    calls = []

    def prepare(policy: Policy) -> Policy:
        norm = policy.model.model.layers[0].input_layernorm
        norm.register_forward_hook(lambda *args: calls.append(torch.is_grad_enabled()))
        return prepare_student(policy, twice)

    expected, whole = gradients(spec)
    found, step = gradients(twice, prepare)
    assert text([step]) == text([whole])
    assert_equal(found, expected)
    assert step.plan is not None
    kept = int(step.plan.keep.sum())
    rounds = 1 if micro_batch == 64 else math.ceil(kept / 2)
    assert calls.count(True) == 2 * rounds  # forward, and again for the backward pass


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("micro_batch", [64, 2])
def test_a_model_sharded_over_one_process_trains_the_same(micro_batch: int, twice: bool) -> None:
    spec = tiny_spec("fire", micro_batch=micro_batch)
    expected, a = run(spec)
    sharded = replace(spec, machine=replace(spec.machine, shard=True, gradient_checkpointing=twice))
    try:
        state = TrainState.start(sharded, prepare_student(lively(1), sharded))
        found, b = run(sharded, **{k: v for k, v in setup(sharded, state).items() if k != "spec"})
        for x, y in zip(found, expected, strict=True):
            assert asdict(x.record) == pytest.approx(
                asdict(y.record), rel=1e-6, nan_ok=True
            )  # the norm's order of sums
        for name, value in b.policy.weights().items():
            torch.testing.assert_close(value, a.policy.model.state_dict()[name], rtol=0, atol=1e-7)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method: str) -> None:
    spec = tiny_spec(method, steps=2, data=Data("list", prompts=3, samples=2))
    steps, state = run(spec)
    assert [s.record.step for s in steps] == [1, 2]
    assert not any(s.record.skipped for s in steps)
    moved = any(s.record.kept_tokens > 0 and s.record.grad_norm > 0 for s in steps)
    before = dict(lively(1).model.named_parameters())
    assert moved == any(not torch.equal(v, before[name]) for name, v in weights(state).items())
    assert moved or method == "correct-only"


# --- resume ---------------------------------------------------------------------------------------------------


def test_killed_after_any_step_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    spec = tiny_spec("fire", steps=4, micro_batch=2)
    whole, final = run(spec)
    parts = setup(spec)
    for k, step in enumerate(train(**parts), 1):
        assert step.record.step == k
        parts["state"].save(tmp_path / f"at-{k}")
    for k in range(1, 5):
        state = TrainState.load(spec, tmp_path / f"at-{k}")
        assert state.step == k
        rest, state = run(spec, **{key: v for key, v in setup(spec, state).items() if key != "spec"})
        assert text(rest) == text(whole)[k:]
        assert_equal(weights(state), weights(final))
        assert state.generated_tokens == final.generated_tokens
        assert state.trained_tokens == final.trained_tokens


def test_saving_over_a_checkpoint_and_leaving_no_litter(tmp_path: Path) -> None:
    spec = tiny_spec()
    state = TrainState.start(spec, lively(1))
    (tmp_path / "checkpoint.partial").mkdir()
    (tmp_path / "checkpoint.partial" / "rubbish").write_text("half")
    for step in (1, 2):
        state.step = step
        state.save(tmp_path / "checkpoint")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert not (tmp_path / "checkpoint" / "rubbish").exists()
    assert TrainState.load(spec, tmp_path / "checkpoint").step == 2


def test_a_checkpoint_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stopped at every file operation in turn, what stands under the name is a whole checkpoint, or nothing.
    spec = tiny_spec()
    folder = tmp_path / "checkpoint"

    class Killed(BaseException):
        pass

    def die(operation: str, path: Path) -> None:
        if operation == "rmtree" and path.exists():  # half-way through
            for file in sorted(path.iterdir())[::2]:
                file.unlink()
        raise Killed

    for owner, operation in ((Path, "rename"), (shutil, "rmtree")):
        for survive in range(4):
            state = TrainState.start(spec, lively(1))
            state.step = 1
            state.save(folder)
            left = [survive]
            real = getattr(owner, operation)

            def sometimes(
                path: Path,
                *args: Any,
                real: Callable[..., Any] = real,
                left: list[int] = left,
                operation: str = operation,
                **kwargs: Any,
            ) -> Any:
                if left[0] == 0:
                    die(operation, path)
                left[0] -= 1
                return real(path, *args, **kwargs)

            state.step = 2
            with monkeypatch.context() as patch:
                patch.setattr(owner, operation, sometimes)
                with contextlib.suppress(Killed):
                    state.save(folder)
            if folder.exists():
                assert TrainState.load(spec, folder).step in (1, 2)
            state.save(folder)  # and the next one goes through
            assert TrainState.load(spec, folder).step == 2


@pytest.mark.parametrize("limit", [20_000, 120_000])
def test_a_full_disk_is_an_os_error_and_leaves_the_last_checkpoint(tmp_path: Path, limit: int) -> None:
    spec = tiny_spec(steps=1)
    parts = setup(spec)
    list(train(**parts))  # so that the optimiser has something to write
    state = parts["state"]
    state.save(tmp_path / "checkpoint")
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "checkpoint").iterdir()}
    assert 20_000 < sizes["model.safetensors"] < 120_000 < sizes["optimiser.pt"], "each limit stops another writer"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    state.step = 7
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores the signal; writes fail with EFBIG
        with pytest.raises(OSError, match="File too large"):
            state.save(tmp_path / "checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert TrainState.load(spec, tmp_path / "checkpoint").step == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 9}, "seed"),
        ({"optim": Optim(lr=5e-4)}, "optim"),
        ({"method": "fire"}, "method, objective|objective, method"),
        ({"edits": (("terms.0.loss.clip", "0.1"),)}, "objective"),
        ({"steps": 9, "seed": 9}, "seed, steps"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_field(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    spec = tiny_spec()
    TrainState.start(spec, lively(1)).save(tmp_path / "c")
    with pytest.raises(UserError, match=f"another run: it differs in ({named})$"):
        TrainState.load(replace(spec, **changes), tmp_path / "c")
    same = replace(spec, machine=replace(spec.machine, micro_batch=1, checkpoint_every=7))
    assert TrainState.load(same, tmp_path / "c").step == 0


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    spec = tiny_spec(steps=1)
    parts = setup(spec)
    list(train(**parts))
    parts["state"].save(tmp_path / "good")
    original = {p.name: p.read_bytes() for p in (tmp_path / "good").iterdir()}
    for name in ("state.json", "optimiser.pt", "model.safetensors", "config.json"):
        data = original[name]
        for number, damage in enumerate((None, b"", b"{}", b"[1]", b"\xff\xfe\x00rubbish", data[: len(data) // 2])):
            folder = tmp_path / f"{name}-{number}"
            shutil.copytree(tmp_path / "good", folder)
            (folder / name).unlink()
            if damage is not None:
                (folder / name).write_bytes(damage)
            with pytest.raises(UserError, match=folder.name):
                TrainState.load(spec, folder)


# --- what is not finite ---------------------------------------------------------------------------------------


class Spoiled:
    """A teacher whose logits are NaN in the given calls (from 1)."""

    provides = LocalTeacher.provides

    def __init__(self, teacher: LocalTeacher, calls: Sequence[int], value: float = float("nan")) -> None:
        self.teacher, self.calls, self.count, self.value = teacher, calls, 0, value

    def score(self, rollouts: Rollouts) -> TeacherScores:
        self.count += 1
        found = self.teacher.score(rollouts)
        if self.count not in self.calls:
            return found
        assert found.logits is not None
        return TeacherScores(logits=lambda positions: found.logits(positions) * self.value)  # type: ignore[misc]


@pytest.mark.parametrize("micro_batch", [64, 2])
@pytest.mark.parametrize("method", ["opd", "full-rkl"])
def test_steps_that_are_not_finite_are_skipped_and_recorded(method: str, micro_batch: int) -> None:
    spec = tiny_spec(method, steps=6, micro_batch=micro_batch)
    parts = setup(spec)
    parts["teacher"] = Spoiled(parts["teacher"], [2, 3, 5])
    before: dict[str, Tensor] = weights(parts["state"])
    skipped = []
    for step in train(**parts):
        after = weights(parts["state"])
        unchanged = all(torch.equal(after[name], before[name]) for name in after)
        assert unchanged == step.record.skipped
        assert all(bool(torch.isfinite(value).all()) for value in after.values())
        skipped.append(step.record.skipped)
        if step.record.skipped:
            assert math.isnan(step.record.loss)
            assert step.record.kept_tokens == 0.0
        before = after
    assert skipped == [False, True, True, False, True, False]  # two in a row, and again one: no reason to give up


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_three_in_a_row_end_the_run_with_one_sentence(value: float) -> None:
    parts = setup(tiny_spec(steps=9))
    parts["teacher"] = Spoiled(parts["teacher"], range(2, 99), value)
    seen = []
    with pytest.raises(UserError, match=rf"{MAX_SKIPPED} steps in a row.*step 4.*learning rate"):
        for step in train(**parts):
            seen.append(step.record.skipped)
    assert seen == [False, True, True, True]


@pytest.mark.parametrize("micro_batch", [64, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_never_applied(bad: float, micro_batch: int) -> None:
    # The scores are fine: only the backward pass of the second step overflows.
    parts = setup(tiny_spec(steps=3, micro_batch=micro_batch))
    state = parts["state"]
    spoil = [False]
    state.policy.model.model.norm.weight.register_hook(lambda grad: grad * bad if spoil[0] else grad)
    skipped = []
    before = weights(state)
    for step in train(**parts):
        after = weights(state)
        assert all(torch.equal(after[n], before[n]) for n in after) == step.record.skipped
        assert all(bool(torch.isfinite(value).all()) for value in after.values())
        assert math.isfinite(step.record.loss)
        skipped.append(step.record.skipped)
        spoil[0] = step.record.step == 1
        before = after
    assert skipped == [False, True, False]


def test_the_count_of_skipped_steps_survives_a_resume(tmp_path: Path) -> None:
    spec = tiny_spec(steps=9)
    parts = setup(spec)
    parts["teacher"] = Spoiled(parts["teacher"], range(1, 99))
    for step in train(**parts):
        if step.record.step == 2:
            break
    parts["state"].save(tmp_path / "c")
    again = setup(spec, TrainState.load(spec, tmp_path / "c"))
    again["teacher"] = Spoiled(again["teacher"], range(1, 99))
    seen = []
    with pytest.raises(UserError, match="steps in a row"):
        for step in train(**again):
            seen.append(step.record.step)
    assert seen == [3]


# --- nothing left to learn from -------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [64, 2])
def test_a_step_that_keeps_no_rollout_changes_nothing(micro_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "none-right", replace(METHODS["opd"], keep=CorrectOnly()))
    spec = tiny_spec("none-right", steps=2, micro_batch=micro_batch)
    steps, state = run(spec, verify=lambda rollouts: torch.zeros(len(rollouts.mask), dtype=torch.bool))
    assert_equal(weights(state), dict(lively(1).model.named_parameters()))
    for step in steps:
        assert not step.record.skipped  # nothing was wrong with it
        assert step.record.loss == 0.0
        assert step.record.grad_norm == 0.0
        assert step.record.kept_tokens == 0.0
    assert state.trained_tokens == 0 < state.generated_tokens


@pytest.mark.parametrize("micro_batch", [64, 2])
def test_momentum_and_decay_wait_for_something_to_learn(micro_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "none-right", replace(METHODS["opd"], keep=CorrectOnly()))
    optim = Optim(lr=1e-3, warmup=0, weight_decay=0.1)
    parts = setup(tiny_spec("none-right", steps=3, micro_batch=micro_batch, optim=optim))
    state = parts["state"]
    parts["verify"] = lambda rollouts: torch.full((len(rollouts.mask),), state.step != 1)
    before = weights(state)
    moved = []
    for _ in train(**parts):
        after = weights(state)
        moved.append(any(not torch.equal(after[name], before[name]) for name in after))
        before = after
    assert moved == [True, False, True]


@pytest.mark.parametrize("micro_batch", [64, 2])
@pytest.mark.parametrize("method", ["opd", "fire", "tip", "eopd"])
def test_an_engine_that_says_nothing_at_all(method: str, micro_batch: int) -> None:
    silent = ScriptedEngine(lambda prompt, seed: Sample((), (), "stop"))
    steps, state = run(tiny_spec(method, steps=2, micro_batch=micro_batch), engine=silent)
    assert_equal(weights(state), dict(lively(1).model.named_parameters()))
    assert [s.record.loss for s in steps] == [0.0, 0.0]
    assert [s.record.length_mean for s in steps] == [0.0, 0.0]
    assert math.isnan(steps[0].record.kl)


def test_some_empty_rollouts_among_others() -> None:
    def script(prompt: Sequence[int], seed: int) -> Sample:
        return Sample((), (), "stop") if len(prompt) % 2 else Sample((7, 8, EOS), (-1.0, -1.0, -1.0), "stop")

    reference, _ = run(tiny_spec("fire"), engine=ScriptedEngine(script))
    steps, _ = run(tiny_spec("fire", micro_batch=1), engine=ScriptedEngine(script))
    for x, y in zip(reference, steps, strict=True):
        assert asdict(x.record) == pytest.approx(asdict(y.record), rel=1e-3, abs=1e-4, nan_ok=True)
    assert not any(s.record.skipped for s in steps)


# --- refusals before anything is computed ---------------------------------------------------------------------


class LogprobsOnly:
    """What a remote server can give."""

    provides = frozenset({"logprobs"})

    def __init__(self, teacher: LocalTeacher) -> None:
        self.teacher = teacher

    def score(self, rollouts: Rollouts) -> TeacherScores:
        found = self.teacher.score(rollouts)
        assert found.logits is not None
        logp = found.logits(torch.arange(int(rollouts.mask.sum()))).log_softmax(-1)
        return TeacherScores(logprobs=logp.gather(1, rollouts.targets[:, None])[:, 0])


@pytest.mark.parametrize("method", METHODS)
def test_a_teacher_that_gives_log_probs_only(method: str) -> None:
    parts = setup(tiny_spec(method, steps=1))
    full, teacher = parts["teacher"], LogprobsOnly(parts["teacher"])
    missing = METHODS[method].needs - {"logprobs"}
    calls: list[int] = []
    engine = parts["engine"]
    parts["engine"] = type(
        "Spy",
        (),
        {"version": 0, "sync": lambda s, p: None, "generate": lambda s, *a: calls.append(1) or engine.generate(*a)},
    )()
    parts["teacher"] = teacher
    if missing:
        with pytest.raises(UserError, match=f"'{method}' needs {', '.join(sorted(missing))} .*only logprobs"):
            list(train(**parts))
        assert not calls
        with pytest.raises(UserError):
            check_needs(METHODS[method], teacher, method)
    else:
        (step,) = train(**parts)
        reference, _ = run(tiny_spec(method, steps=1), teacher=full)
        assert step.record.loss == pytest.approx(reference[0].record.loss, rel=1e-4, abs=1e-5)
        assert math.isnan(step.record.teacher_entropy)


def test_methods_that_need_more_than_a_teacher_say_so() -> None:
    with pytest.raises(UserError, match="'correct-only' needs a verifier"):
        run(tiny_spec("correct-only"), verify=None)
    with pytest.raises(UserError, match="'exopd' needs a reference"):
        run(tiny_spec("exopd"), reference=None)


# --- what is recorded -----------------------------------------------------------------------------------------


def test_records_against_the_batch_they_describe() -> None:
    steps, _ = run(tiny_spec("fire-filter-only", steps=3))
    generated = trained = 0
    for step in steps:
        record, scores, plan = step.record, step.scores, step.plan
        assert scores is not None and plan is not None
        mask = scores.mask
        kl = (scores.logprobs - scores.teacher_logprobs)[mask]
        assert record.kl == pytest.approx(float(kl.mean()), rel=1e-5)
        assert record.student_entropy == pytest.approx(float(scores.read("student_entropy")[mask].mean()), rel=1e-5)
        assert record.teacher_entropy == pytest.approx(float(scores.read("teacher_entropy")[mask].mean()), rel=1e-5)
        lengths = mask.sum(1).tolist()
        assert record.length_mean == pytest.approx(sum(lengths) / 5)
        stopped = [int(i[m][-1]) == EOS for i, m in zip(step.rollouts.responses, mask, strict=True)]
        assert record.truncated == pytest.approx(stopped.count(False) / 5)
        assert record.kept == pytest.approx(0.8)  # 1 of 5 goes
        assert record.engine_gap < 1e-4  # engine and trainer share the weights: also after every update
        assert record.loss == pytest.approx(-float((plan.terms[0].coef * plan.terms[0].reward).sum()), rel=1e-4)
        generated += sum(lengths)
        trained += int(plan.live.sum())
        assert (record.generated_tokens, record.trained_tokens) == (generated, trained)
        timing = step.timing
        assert timing.step == record.step and timing.peak_memory_mib > 1
    assert [s.record.lr for s in steps] == [tiny_spec().optim.rate(i, 3) for i in range(3)]


def test_rollouts_are_identified_and_never_repeat() -> None:
    steps, _ = run(tiny_spec(steps=4, data=Data("list", prompts=3, samples=2)))
    uids = torch.cat([s.rollouts.uid for s in steps])
    assert len(uids.unique()) == 4 * 6
    groups = steps[0].scores.read("group")  # type: ignore[union-attr]
    assert groups.tolist() == [0, 0, 1, 1, 2, 2]
    ids = [p.id for p in steps[1].rollouts.prompts]
    assert ids == ["3", "3", "4", "4", "5", "5"]
    # the same prompt again and again: every rollout of it is still another one
    same, _ = run(tiny_spec(steps=4, data=Data("list", prompts=3, samples=2)), source=ListPrompts(count=1))
    assert len(torch.cat([s.rollouts.uid for s in same]).unique()) == 4 * 6
    other, _ = run(tiny_spec(steps=1, seed=1, data=Data("list", prompts=3, samples=2)))
    assert not set(other[0].rollouts.uid.tolist()) & set(uids.tolist())


def test_progress_runs_from_zero_towards_one() -> None:
    steps, _ = run(tiny_spec("reopold", steps=4))
    assert [s.scores.progress for s in steps if s.scores] == [0.0, 0.25, 0.5, 0.75]


def test_two_teachers_two_domains() -> None:
    spec = tiny_spec("fire-per-domain", steps=2, teachers=(("math", "a"), ("code", "b")))
    parts = setup(spec, domains=("math", "code"))
    steps = list(train(**parts))
    scores = steps[0].scores
    assert scores is not None
    names = [p.domain for p in steps[0].rollouts.prompts]
    assert scores.read("domain").tolist() == [["code", "math"].index(n) for n in names]
    # the filter works within each domain: of 3 math and 2 code rollouts it drops one each
    keep = steps[0].plan.keep.tolist()  # type: ignore[union-attr]
    assert sorted(n for n, kept in zip(names, keep, strict=True) if not kept) == ["code", "math"]


@pytest.mark.parametrize("name", ["fire-per-domain", "full-rkl"])
def test_a_batch_in_which_one_domain_is_missing(name: str) -> None:
    # Two teachers, but every prompt belongs to the first: the second is never asked, nothing becomes NaN.
    spec = tiny_spec(name, steps=2, teachers=(("math", "a"), ("code", "b")))
    for step in train(**setup(spec, domains=("math",))):
        assert {p.domain for p in step.rollouts.prompts} == {"math"}
        assert not step.record.skipped
        assert step.plan is not None
        assert all(torch.isfinite(term.coef).all() for term in step.plan.terms)
        assert math.isfinite(step.record.loss) and math.isfinite(step.record.grad_norm)


def test_the_baseline_of_a_capped_run_has_the_same_cap() -> None:
    # Otherwise `opd` itself would be called inert, or an arm would get credit for the cap that all arms share.
    for cap in (None, 5.0, 0.5):
        steps, _ = run(tiny_spec("opd", importance_cap=cap))
        assert [s.record.cosine for s in steps] == pytest.approx([1.0] * 3)
        assert not any(s.record.inert for s in steps)
    inert, _ = run(tiny_spec("fire-filter-only", importance_cap=0.5, edits=(("keep.fraction", "0"),)))
    assert all(s.record.inert for s in inert)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_may_be_the_baseline(name: str) -> None:
    # Whatever the baseline reads has to be there, also where the method itself does not read it.
    (step,), _ = run(tiny_spec("opd", steps=1, baseline=name))
    assert not step.record.skipped
    assert -1e-6 <= step.record.cosine <= 1 + 1e-6
    if name == "opd":
        assert step.record.cosine == pytest.approx(1.0)


def test_a_baseline_that_cannot_be_planned_is_refused_at_once() -> None:
    silent = ScriptedEngine(lambda prompt, seed: pytest.fail("asked for rollouts"))
    with pytest.raises(UserError, match="'correct-only' needs a verifier"):
        run(tiny_spec(baseline="correct-only"), verify=None, engine=silent)
    with pytest.raises(UserError, match="'exopd' needs a reference"):
        run(tiny_spec(baseline="exopd"), reference=None, engine=silent)
    parts = setup(tiny_spec(baseline="fire"))
    with pytest.raises(UserError, match="'fire' needs entropy"):
        list(train(**parts | {"teacher": LogprobsOnly(parts["teacher"]), "engine": silent}))
    with pytest.raises(UserError, match="unknown method 'fier'"):
        tiny_spec(baseline="fier")


def test_the_teacher_samples_for_off_policy_training() -> None:
    spec = tiny_spec("sft-on-teacher", steps=2, rollout=Sampling(7))
    parts = setup(spec)
    steps = list(train(**parts))
    for step in steps:
        assert step.scores is not None
        gap = (step.scores.teacher_logprobs - step.rollouts.logprobs)[step.scores.mask].abs().max()
        assert float(gap) < 1e-4  # drawn from the teacher
        assert step.record.engine_gap > 0.1


# --- it learns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "share"), [("full-rkl", 0.6), ("opd", 0.95), ("fire-full", 0.7)])
def test_training_lowers_the_divergence_from_the_teacher(method: str, share: float) -> None:
    spec = tiny_spec(
        method,
        steps=40,
        data=Data("list", prompts=11),
        optim=Optim(lr=3e-3, warmup=0, decay="constant"),
    )
    steps, _ = run(spec)
    kl = [s.record.kl for s in steps]
    assert sum(kl[-5:]) < share * sum(kl[:5])


def test_a_student_that_is_the_teacher_stays() -> None:
    spec = tiny_spec("full-rkl", steps=2)
    parts = setup(spec)
    parts["teacher"] = LocalTeacher(lively(1))
    steps = list(train(**parts))
    assert all(abs(s.record.kl) < 1e-5 for s in steps[:1])
    assert steps[0].record.loss == pytest.approx(0.0, abs=1e-6)
    assert steps[0].record.grad_norm < 1e-4
