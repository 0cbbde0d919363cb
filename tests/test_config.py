from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from trainer.config import Data, Lora, Machine, Optim, RunSpec, Vllm, differences, digest, served
from trainer.errors import UserError
from trainer.methods import METHODS
from trainer.rollout import Sampling
from trainer.settings import edit, paths

SPEC = RunSpec(
    method="fire",
    student="models/student",
    teachers=(("math", "models/a"), ("code", "models/b")),
    data=Data("train.jsonl", prompts=8, samples=2),
    rollout=Sampling(max_tokens=32),
    optim=Optim(lr=3e-4),
    steps=20,
    seed=3,
    edits=(("keep.fraction", "0.3"),),
    digests=(("models/student", "0123"),),
)

# A valid other value for every field that counts, by its path.
OTHER: dict[str, Any] = {
    "method": "fire-filter-only",
    "student": "models/other",
    "teachers": (("", "models/a"),),
    "data.source": "other.jsonl",
    "data.prompts": 9,
    "data.samples": 3,
    "data.column": "question",
    "data.max_prompt": 512,
    "data.duplicates": "keep",
    "engine": "vllm",
    "rollout.max_tokens": 33,
    "rollout.temperature": 0.7,
    "optim.lr": 1e-4,
    "optim.beta1": 0.8,
    "optim.beta2": 0.99,
    "optim.weight_decay": 0.1,
    "optim.clip_norm": 0.5,
    "optim.warmup": 6,
    "optim.decay": "cosine",
    "optim.final": 0.2,
    "steps": 21,
    "seed": 4,
    "edits": (("keep.fraction", "0.4"),),
    "reference": "models/ref",
    "importance_cap": 5.0,
    "baseline": "full-rkl",
    "uncorrected": True,
    "dtype": "bfloat16",
    "lora.rank": 8,
    "lora.alpha": 16.0,
    "digests": (("models/student", "4567"),),
}
FIXED = {"rollout.top_p"}  # counts, but only 1 is allowed


def leaves(value: Any, prefix: str = "") -> list[str]:
    found = []
    for field in fields(value):
        item = getattr(value, field.name)
        found += leaves(item, f"{prefix}{field.name}.") if is_dataclass(item) else [prefix + field.name]
    return found


def change(spec: Any, path: str, value: Any) -> Any:
    head, _, rest = path.partition(".")
    return replace(spec, **{head: change(getattr(spec, head), rest, value) if rest else value})


# --- identity -------------------------------------------------------------------------------------------------


def test_the_id_is_the_method_and_eight_hex_digits() -> None:
    assert re.fullmatch(r"fire-[0-9a-f]{8}", SPEC.run_id)
    assert SPEC.run_id == replace(SPEC).run_id


def test_every_field_is_either_hashed_or_of_the_machine() -> None:
    machine = {path for path in leaves(SPEC) if path.startswith("machine.")}
    assert set(leaves(SPEC)) == set(OTHER) | FIXED | machine


@pytest.mark.parametrize("path", OTHER)
def test_every_hashed_field_changes_the_id_and_is_named(path: str) -> None:
    given = {"rollout.temperature": {"importance_cap": 2.0}, "lora.alpha": {"lora": Lora(4)}}
    base = replace(SPEC, **given.get(path, {}))
    other = change(base, path, OTHER[path])
    assert other != base
    assert other.run_id != base.run_id
    named = "objective" if path == "edits" else path.partition(".")[0]
    assert named in differences(base.identity(), other.identity())


def test_no_machine_field_changes_the_id() -> None:
    vllm = Vllm("http://h:1", "/shared", 0.3, 2, 4096, sleep=True)
    machine = Machine("cuda", 1, 2, 3, 4, 5, True, True, True, patience=6, score_cache="scores", vllm=vllm)
    assert all(getattr(machine, f.name) != getattr(SPEC.machine, f.name) for f in fields(Machine))
    assert all(getattr(vllm, f.name) != getattr(Vllm(), f.name) for f in fields(Vllm))
    base = replace(SPEC, engine="vllm")
    other = replace(base, machine=machine)
    assert other.run_id == base.run_id
    assert other == base
    assert differences(base.identity(), other.identity()) == []


@given(
    order=st.permutations((("keep.fraction", "0.3"), ("terms.0.weight.of.a.gain", "2"), ("terms.0.coef", "0.5"))),
    teachers=st.permutations((("math", "models/a"), ("code", "models/b"), ("logic", "models/a"))),
)
@settings(deadline=None, max_examples=30)
def test_the_order_of_edits_and_teachers_does_not_count(order: Any, teachers: Any) -> None:
    spec = replace(SPEC, edits=tuple(sorted(order)), teachers=tuple(sorted(teachers)))
    assert replace(SPEC, edits=tuple(order), teachers=tuple(teachers)).run_id == spec.run_id
    # who teaches what does count
    swapped = dict(teachers) | {"math": dict(teachers)["code"], "code": dict(teachers)["math"]}
    assert replace(spec, teachers=tuple(swapped.items())).run_id != spec.run_id


def test_without_adapters_their_scale_does_not_count() -> None:
    assert replace(SPEC, lora=Lora(0, 5.0)).run_id == SPEC.run_id
    assert replace(SPEC, lora=Lora(1)).run_id != SPEC.run_id
    assert edit(SPEC, "lora.rank", "8").lora == Lora(8)


def test_an_edit_that_changes_nothing_is_the_same_run() -> None:
    plain = replace(SPEC, edits=())
    assert METHODS["fire"].keep.fraction == 0.2  # type: ignore[attr-defined]
    assert replace(SPEC, edits=(("keep.fraction", "0.20"),)).run_id == plain.run_id != SPEC.run_id
    # the last of two edits of one path wins, here as in `objective`
    assert replace(SPEC, edits=(("keep.fraction", "0.4"), ("keep.fraction", "0.3"))).run_id == SPEC.run_id


def test_the_id_is_the_same_in_another_process() -> None:
    code = (
        "from tests.test_config import SPEC\n"
        "from trainer.config import RunSpec\n"
        "from trainer.methods import METHODS\n"
        "from dataclasses import replace\n"
        "print(*[replace(SPEC, method=m, edits=()).run_id for m in METHODS], SPEC.run_id)"
    )
    expected = [replace(SPEC, method=m, edits=()).run_id for m in METHODS] + [SPEC.run_id]
    assert len(set(expected)) == len(expected)
    for seed in ("1", "4242"):
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT)
        assert found.stdout.split() == expected, found.stderr


def test_a_change_of_the_table_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    # The objective is written out in the identity: a method redefined in a later version is another run.
    before = SPEC.run_id
    monkeypatch.setitem(METHODS, "fire", replace(METHODS["fire"], keep=METHODS["drop-highest"].keep))
    assert SPEC.run_id != before
    assert "objective" in SPEC.identity()


@given(
    seed=st.integers(0, 10**9),
    steps=st.integers(1, 10**6),
    lr=st.floats(1e-9, 1, allow_nan=False),
    student=st.text(min_size=1, max_size=20),
    digests=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=3),
    method=st.sampled_from(sorted(METHODS)),
)
@settings(deadline=None, max_examples=100)
def test_equal_specs_have_equal_ids_and_different_ones_do_not(
    seed: int, steps: int, lr: float, student: str, digests: list[tuple[str, str]], method: str
) -> None:
    def build() -> RunSpec:
        return RunSpec(
            method, student, (("", "t"),), Data("d"), Sampling(4), Optim(lr=lr), steps, seed, digests=tuple(digests)
        )

    a, b = build(), build()
    assert a == b
    assert a.run_id == b.run_id
    for other in (replace(a, seed=seed + 1), replace(a, steps=steps + 1), replace(a, student=student + "x")):
        assert other.run_id != a.run_id
    assert (a == SPEC) == (a.identity() == SPEC.identity())


def test_whole_numbers_for_floats_make_the_same_run() -> None:
    a = replace(SPEC, rollout=Sampling(32, temperature=1, top_p=1), optim=Optim(lr=1, clip_norm=1))
    b = replace(SPEC, rollout=Sampling(32, temperature=1.0, top_p=1.0), optim=Optim(lr=1.0, clip_norm=1.0))
    assert a == b
    assert a.run_id == b.run_id


def test_differences_and_digest() -> None:
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]
    assert digest({"a": "1", "b": "2"}) == digest({"b": "2", "a": "1"}) != digest({"a": "2", "b": "1"})
    assert re.fullmatch("[0-9a-f]{8}", digest({}))


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "fyre"}, "unknown method 'fyre'"),
        ({"steps": 0}, "'steps' must be at least 1"),
        ({"seed": -1}, "'seed' must be at least 0"),
        ({"teachers": ()}, "needs a teacher"),
        ({"teachers": (("math", "a"), ("code", "b"), ("math", "c"))}, "two teachers for domain 'math'"),
        ({"teachers": (("", "a"), ("", "b"))}, "two teachers for all prompts"),
        ({"engine": "sglang"}, "'engine' is hf or vllm"),
        ({"machine": Machine(vllm=Vllm(server="http://h:1"))}, "add engine=vllm"),
        ({"teachers": (("", "server:big"),)}, "'server:big' names no model on a server: write server:MODEL@http"),
        ({"rollout": Sampling(0)}, "'rollout.max_tokens' must be at least 1"),
        ({"rollout": Sampling(8, top_p=0.9)}, "top-p 1"),
        ({"rollout": Sampling(8, top_p=0.9), "importance_cap": 5.0}, "top-p 1"),
        ({"rollout": Sampling(8, temperature=0.0)}, "temperature"),
        ({"rollout": Sampling(8, temperature=0.0), "importance_cap": 5.0}, "temperature"),
        ({"rollout": Sampling(8, temperature=0.6)}, "temperature 1 or an importance cap"),
        ({"rollout": Sampling(8, temperature=0.0), "uncorrected": True}, "temperature above 0"),
        ({"importance_cap": 5.0, "uncorrected": True}, "without an importance cap"),
        ({"rollout": Sampling(8, top_p=0.9), "uncorrected": True}, "top-p 1"),
        ({"edits": (("keep.fractoin", "0.3"),)}, "unknown option 'keep.fractoin'.*keep.fraction"),
        ({"edits": (("keep.fraction", "much"),)}, "a number"),
        ({"edits": (("keep.fraction", "30"),)}, "between 0 and 1"),
        ({"edits": (("importance_cap", "5"),)}, "belongs to the run"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        replace(SPEC, **changes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Data("d", prompts=0),
        lambda: Data("d", samples=0),
        lambda: Data("d", max_prompt=0),
        lambda: Data("d", duplicates="some"),  # type: ignore[arg-type]
        lambda: Vllm(memory=0.0),
        lambda: Vllm(tensor_parallel=0),
        lambda: Vllm(context=-1),
        lambda: Machine(micro_batch=0),
        lambda: Machine(engine_batch=0),
        lambda: Machine(checkpoint_every=0),
        lambda: Machine(patience=0),
        lambda: Machine(token_budget=-1),
        lambda: Lora(rank=-1),
        lambda: Lora(alpha=0.0),
        lambda: Lora(alpha=float("nan")),
        lambda: replace(SPEC, dtype="float23"),
        lambda: Optim(lr=-1e-3),
        lambda: Optim(lr=float("nan")),
        lambda: Optim(clip_norm=0.0),
        lambda: Optim(weight_decay=-0.1),
        lambda: Optim(beta1=1.0),
        lambda: Optim(beta2=-0.1),
        lambda: replace(SPEC, optim=Optim(decay="cubic")),  # type: ignore[arg-type]
    ],
)
def test_options_out_of_range_are_refused_before_anything_runs(make: Any) -> None:
    with pytest.raises(UserError):
        make()


def test_where_a_server_stands_is_no_part_of_a_run() -> None:
    here, there = (
        replace(SPEC, teachers=(("math", f"server:big/model@{url}"),))
        for url in ("http://127.0.0.1:8000/v1", "https://user:pass@far.example:443/v1")
    )
    assert here.run_id == there.run_id != replace(SPEC, teachers=(("math", "server:other@http://h/v1"),)).run_id
    assert served("server:a@b@http://h") == "server:a@b"  # a revision may stand in a name
    assert served("toy:teacher-math") == served("hub:a/b@http") == ""
    engine = replace(SPEC, engine="vllm")
    assert engine.run_id != SPEC.run_id  # it draws other samples
    assert replace(engine, machine=Machine(vllm=Vllm(server="http://h:1"))).run_id == engine.run_id


def test_a_temperature_is_allowed_where_it_is_corrected() -> None:
    assert replace(SPEC, rollout=Sampling(8, temperature=0.6), importance_cap=5.0).rollout.temperature == 0.6
    assert replace(SPEC, rollout=Sampling(8, temperature=1.6), uncorrected=True).importance_cap is None


def test_options_of_a_run_can_be_edited() -> None:
    assert edit(SPEC, "optim.lr", "1e-5").optim.lr == 1e-5
    assert edit(SPEC, "importance_cap", "2").importance_cap == 2.0
    assert edit(SPEC, "machine.micro_batch", "4").machine.micro_batch == 4
    assert edit(SPEC, "optim.decay", "constant").optim.decay == "constant"
    with pytest.raises(UserError, match="linear or cosine or constant"):
        edit(SPEC, "optim.decay", "cubic")
    with pytest.raises(UserError, match="at least 1"):
        edit(SPEC, "machine.micro_batch", "0")
    assert "optim.clip_norm" in dict(paths(SPEC))


# --- the objective of a run -----------------------------------------------------------------------------------


def test_edits_and_the_cap_reach_the_objective_in_order() -> None:
    spec = replace(SPEC, edits=(("keep.fraction", "0.3"), ("keep.fraction", "0.1")), importance_cap=4.0)
    objective = spec.objective()
    assert objective.keep.fraction == 0.1  # type: ignore[attr-defined]
    assert objective.importance_cap == 4.0
    assert replace(SPEC, edits=()).objective() == METHODS["fire"]


# --- learning rate --------------------------------------------------------------------------------------------


def test_learning_rates_by_hand() -> None:
    linear = Optim(lr=1.0, warmup=2, final=0.1)
    # steps 0, 1 warm up: 1/2, 1; then from step 2, done = 0 … of 10 − 2 = 8 steps: 1 − 0.9·done
    assert [round(linear.rate(s, 10), 6) for s in range(10)] == [
        0.5, 1.0, 1.0, 0.8875, 0.775, 0.6625, 0.55, 0.4375, 0.325, 0.2125,
    ]  # fmt: skip
    cosine = replace(linear, decay="cosine")
    assert cosine.rate(6, 10) == pytest.approx(0.1 + 0.9 * 0.5)  # half-way down
    constant = replace(linear, decay="constant")
    assert [constant.rate(s, 10) for s in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]
    assert Optim(lr=1.0, warmup=0).rate(0, 1) == 1.0


@given(
    warmup=st.integers(0, 20),
    steps=st.integers(1, 50),
    decay=st.sampled_from(["linear", "cosine", "constant"]),
    final=st.floats(0, 1),
)
@settings(deadline=None)
def test_learning_rates_stay_between_zero_and_the_peak(warmup: int, steps: int, decay: str, final: float) -> None:
    optim = Optim(lr=0.5, warmup=warmup, decay=decay, final=final)  # type: ignore[arg-type]
    rates = [optim.rate(step, steps) for step in range(steps)]
    assert all(0 <= r <= 0.5 + 1e-12 for r in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert all(a >= b - 1e-12 for a, b in zip(rates[peak:], rates[peak + 1 :], strict=False))
