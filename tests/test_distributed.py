"""Two processes over gloo train as one does: sharded parameters, shared plans, checkpoints of either for the other.

All scenarios run in one pair of processes (`pair`), and again in this one; the tests compare what came back.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing import spawn

from tests.worlds import EOS, ListPrompts, tiny_policy, tiny_spec
from trainer.config import Data, Lora, Machine, Optim, RunSpec
from trainer.distributed import ALONE, Ranks, here
from trainer.engines import FrozenEngine, HFEngine
from trainer.errors import UserError
from trainer.filters import TrajectoryNoise
from trainer.loop import train
from trainer.methods import METHODS
from trainer.policy import Policy, share_vocabulary
from trainer.rollout import Rollouts, Sample
from trainer.scores import Scores
from trainer.sharding import prepare_student, prepare_teacher, routed, student_dtype
from trainer.state import TrainState
from trainer.teachers import LocalTeacher, TeacherScores

RANKS = 2
SLOW_STEPS = Optim(lr=3e-4, warmup=1)  # Adam makes steps of that size of gradients that are nothing but rounding
INVARIANT = ("full-rkl", "opd", "fire", "eopd", "tip", "random-filter")


# --- a run, in one process or as one of several ---------------------------------------------------------------


def lively(seed: int, head_rows: int = 64, tie: bool = False) -> Policy:
    """A tiny policy that ends some of its answers early."""
    policy = tiny_policy(seed, head_rows, tie)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[EOS] *= 2
    return policy


@dataclass(frozen=True)
class OnlyRow:
    """Keeps one rollout of the batch, so that all processes but one have nothing to learn from."""

    def __call__(self, scores: Scores) -> Tensor:
        noise = TrajectoryNoise()(scores)
        return (noise == noise.max()) & (scores.lengths > 0)


class Spoiled:
    """A teacher whose logits are NaN at its second call, in the last process only."""

    provides = LocalTeacher.provides

    def __init__(self, teacher: LocalTeacher) -> None:
        self.teacher, self.calls = teacher, 0

    def score(self, rollouts: Rollouts) -> TeacherScores:
        self.calls += 1
        found = self.teacher.score(rollouts)
        bad = self.calls == 2 and here().index == here().count - 1
        assert found.logits is not None
        return TeacherScores(logits=lambda p: found.logits(p) * (math.nan if bad else 1.0))  # type: ignore[misc]

    def release(self) -> None:
        self.teacher.policy.release()


@dataclass(frozen=True)
class Scenario:
    """A spec, and what is not in it."""

    spec: RunSpec
    tie: bool = False
    domains: tuple[str, ...] = ("",)
    spoil: bool = False
    steps: int | None = None  # stop after these, as a kill would
    save: str = ""  # a checkpoint at the end
    resume: str = ""  # or at the start
    tags: dict[str, Any] = field(default_factory=dict)


def student_of(scenario: Scenario, folder: Path | None = None) -> Policy:
    spec = scenario.spec
    if folder is not None:
        return prepare_student(Policy.load(folder, "cpu", student_dtype(spec)), spec)
    policy = lively(1, tie=scenario.tie)
    policy.model.to(getattr(torch, spec.dtype)).to(student_dtype(spec))  # as a folder of that dtype would be read
    policy.dtype = student_dtype(spec)
    return prepare_student(policy, spec)


def play(scenario: Scenario, folder: Path) -> dict[str, Any]:
    """Runs a scenario; returns the records, and the weights as an engine would get them."""
    spec = scenario.spec
    if scenario.resume:
        state = TrainState.load(spec, folder / scenario.resume, lambda path: student_of(scenario, path))
    else:
        state = TrainState.start(spec, student_of(scenario))
    members = {}
    for index, (domain, _) in enumerate(spec.teachers):
        policy = lively(2 + index, 72)
        policy.model.to(getattr(torch, spec.dtype))
        share_vocabulary(state.policy, policy)
        members[domain] = prepare_teacher(policy, spec.machine)
    teacher: Any = members[""] if set(members) == {""} else routed(members)
    engine: Any = HFEngine(state.policy, spec.machine.engine_batch)
    if spec.objective().sampler == "teacher":
        engine = FrozenEngine(HFEngine(teacher.policy, spec.machine.engine_batch))
    third = None
    if "ref_logprobs" in spec.objective().reads:
        reference = lively(1, tie=scenario.tie)
        share_vocabulary(state.policy, reference)
        third = prepare_teacher(reference, spec.machine)
    if scenario.spoil:
        teacher = Spoiled(teacher)
    records, kept = [], []
    source = ListPrompts(scenario.domains)
    for step in train(spec, state, source, engine, teacher, lambda rollouts: rollouts.completed, third):
        records.append(asdict(step.record))
        kept.append(None if step.plan is None else step.plan.keep.tolist())
        if state.step == scenario.steps:
            break
    if scenario.save:
        state.save(folder / scenario.save)
    weights = {name: value.clone() for name, value in state.policy.weights().items()}
    counters = (state.step, state.generated_tokens, state.trained_tokens)
    return {"records": records, "kept": kept, "weights": weights, "counters": counters}


def machine(**changes: Any) -> Machine:
    return Machine(**({"micro_batch": 64, "engine_batch": 64} | changes))


def scenarios() -> dict[str, Scenario]:
    """Everything that both sides run; saved checkpoints are for the other side to continue."""
    found: dict[str, Scenario] = {}

    def add(name: str, method: str, set_machine: dict[str, Any] | None = None, **changes: Any) -> None:
        outside = {key: changes.pop(key) for key in ("tie", "domains", "spoil") if key in changes}
        defaults = {"steps": 3 if method in INVARIANT else 2, "optim": SLOW_STEPS}
        spec = replace(tiny_spec(method, **(defaults | changes)), machine=machine(**(set_machine or {})))
        found[name] = Scenario(spec, **outside)

    for method in INVARIANT:
        add(f"{method}, many passes", method, {"micro_batch": 1}, tie=method in ("opd", "full-rkl"))
    add("eopd, one pass", "eopd", tie=True)
    two = {"teachers": (("math", "a"), ("code", "b"))}
    add("two teachers", "fire-per-domain", {"micro_batch": 2}, domains=("math", "math", "code"), **two)
    add("one teacher has no rows", "full-rkl", domains=("math",), **two)
    add("a reference", "exopd", {"micro_batch": 2})
    add("off-policy", "sft-on-teacher")
    add("groups", "uni-opd", data=Data("list", prompts=3, samples=3))
    add("one row is kept", "only-row", {"micro_batch": 1})
    add("one row is kept, one pass", "only-row")
    add("nothing is kept", "none-kept", {"micro_batch": 1})
    add("a teacher fails once", "full-rkl", spoil=True)
    add("token budget", "fire", {"token_budget": 24})
    add("adapters", "full-rkl", lora=Lora(4, 8.0))
    return found


#: Not lines of the table: what only a test would want.
EXTRA = {
    "only-row": replace(METHODS["opd"], keep=OnlyRow()),
    "none-kept": replace(METHODS["opd"], keep=METHODS["correct-only"].keep),
}


def continued() -> dict[str, Scenario]:
    """Runs of four steps that one side leaves after two, for the other side to end."""
    with_adapters = tiny_spec("opd", steps=4, optim=SLOW_STEPS, lora=Lora(4, 8.0))
    plain = tiny_spec("fire", steps=4, optim=SLOW_STEPS, micro_batch=2)
    return {"plain": Scenario(plain), "adapters": Scenario(with_adapters, tie=True)}


NARROW = Scenario(tiny_spec("full-rkl", dtype="bfloat16", optim=SLOW_STEPS, steps=4))


@dataclass(frozen=True)
class Nobody:
    """Keeps no rollout at all."""

    def __call__(self, scores: Scores) -> Tensor:
        return torch.zeros(len(scores.mask), dtype=torch.bool)


#: Not lines of the table: what only a test would want.
EXTRA = {
    "only-row": replace(METHODS["opd"], keep=OnlyRow()),
    "none-kept": replace(METHODS["opd"], keep=Nobody()),
}


def failing_saves(folder: Path) -> list[str]:
    """What every process gets to know when one of them cannot write, and what is left on the disk then."""
    import torch.distributed.checkpoint as dcp

    scenario = next(iter(continued().values()))
    state = TrainState.start(scenario.spec, student_of(scenario))
    state.save(folder / "kept")
    found = []

    def full(of: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(of, Policy):  # gathered by all, then written by the first
            of.weights(everywhere=False)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for rank, owner, name in ((0, Policy, "save"), (1, dcp.FileSystemWriter, "write_data")):
        real = getattr(owner, name)
        if here().index == rank:
            setattr(owner, name, full)
        try:
            state.step += 1
            state.save(folder / "kept")
            found.append("saved")
        except OSError as error:
            found.append(f"{error.errno} {sorted(p.name for p in folder.glob('kept*'))}")
        finally:
            setattr(owner, name, real)
        dist.barrier()
    return found


def exchanges(ranks: Ranks) -> dict[str, Any]:
    """The small collectives, on numbers that differ between the processes."""
    found: dict[str, Any] = {
        "most": ranks.most(3 + 4 * ranks.index),
        "total": ranks.total(0.1 + ranks.index),
        "all": ranks.all(f"from {ranks.index}"),
    }
    hands = [torch.tensor([0, 3]), torch.tensor([1, 2, 4])]
    rows = hands[ranks.index]
    found["rows"] = ranks.gather(10 * rows, hands)
    found["columns"] = ranks.gather(torch.stack([rows, -rows], 1)[:, : 1 + ranks.index].float(), hands, 4)
    found["samples"] = ranks.gather_samples(
        [Sample((7, 8), (-0.5, -1.25), "stop"), Sample((), (), "length")][: 1 + ranks.index]
    )
    for name, mine in (("quota", OSError(errno.EDQUOT, "full")), ("other", ValueError("odd"))):
        try:
            ranks.together(mine if ranks.index == 1 else None)
        except (OSError, RuntimeError, ValueError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    ranks.together()
    ranks.wait()
    return found


def work(rank: int, folder: str) -> None:
    """What a process of the pair does."""
    torch.set_num_threads(1)
    # The name of the machine may resolve to nothing; the loopback device is always there.
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    METHODS.update(EXTRA)
    place = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found: dict[Any, Any] = {name: play(scenario, place) for name, scenario in scenarios().items()}
    for name, scenario in continued().items():
        found[name, "whole"] = play(scenario, place)
        found[name, "half"] = play(replace(scenario, steps=2, save=f"pair-{name}"), place)
        found[name, "rest"] = play(replace(scenario, resume=f"one-{name}"), place)
        found[name, "own rest"] = play(replace(scenario, resume=f"pair-{name}"), place)
    found["narrow"] = play(NARROW, place)
    found["saves"] = failing_saves(place)
    found["exchanges"] = exchanges(here())
    torch.save(found, f"{folder}/rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[dict[Any, Any]]:
    """What each process of the pair found, by scenario. This process has left half-done runs for them before."""
    for name, scenario in continued().items():
        play(replace(scenario, steps=2, save=f"one-{name}"), folder)
    spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, objective in EXTRA.items():
        monkeypatch.setitem(METHODS, name, objective)


def assert_agree(found: dict[str, Any], expected: dict[str, Any], start: int = 0) -> None:
    """Losses to 1e-6, weights to 1e-5, all other records to rounding."""
    assert len(found["records"]) == len(expected["records"]) - start
    for a, b in zip(found["records"], expected["records"][start:], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6, abs=1e-6, nan_ok=True)
        assert a == pytest.approx(b, rel=1e-4, abs=2e-5, nan_ok=True)
    assert found["kept"] == expected["kept"][start:]
    assert found["counters"] == expected["counters"]
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=1e-5, msg=name)


def moved(result: dict[str, Any], scenario: Scenario) -> float:
    """By how much training changed the weight that it changed most."""
    start = lively(1, tie=scenario.tie).model.state_dict()
    return max(float((value - start[name]).abs().max()) for name, value in result["weights"].items())


# --- two processes do what one does ---------------------------------------------------------------------------

NAMES = [f"{method}, many passes" for method in INVARIANT] + [
    "eopd, one pass",
    "two teachers",
    "one teacher has no rows",
    "a reference",
    "off-policy",
    "groups",
    "one row is kept",
    "one row is kept, one pass",
    "nothing is kept",
    "a teacher fails once",
    "token budget",
    "adapters",
]


def test_every_scenario_has_its_test(extra: None) -> None:
    assert sorted(NAMES) == sorted(scenarios())


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_do_what_one_does(name: str, pair: list[dict[Any, Any]], folder: Path, extra: None) -> None:
    scenario = scenarios()[name]
    expected = play(scenario, folder)
    for rank in range(RANKS):
        assert_agree(pair[rank][name], expected)
    # and the comparison has something to find
    if name == "nothing is kept":
        assert moved(expected, scenario) == 0.0
    else:
        assert moved(expected, scenario) > 2e-4
    skipped = [record["skipped"] for record in expected["records"]]
    assert skipped == [False, "fails" in name, False][: scenario.spec.steps]


def test_both_processes_hold_the_same_to_the_bit(pair: list[dict[Any, Any]]) -> None:
    for name in NAMES:
        first, second = (json.dumps(pair[rank][name]["records"]) for rank in range(RANKS))
        assert first == second
        for key, value in pair[0][name]["weights"].items():
            assert torch.equal(value, pair[1][name]["weights"][key])


def test_small_exchanges(pair: list[dict[Any, Any]]) -> None:
    for rank in range(RANKS):
        found = pair[rank]["exchanges"]
        assert found["most"] == 7
        assert found["total"] == pytest.approx(1.2)
        assert found["all"] == ["from 0", "from 1"]
        assert found["rows"].tolist() == [0, 10, 20, 30, 40]
        # the first process has one column of its rows 0 and 3, the second both of its rows 1, 2 and 4
        assert found["columns"].tolist() == [[0, 0, 0, 0], [1, -1, 0, 0], [2, -2, 0, 0], [3, 0, 0, 0], [4, -4, 0, 0]]
        assert found["samples"] == [Sample((7, 8), (-0.5, -1.25), "stop")] * 2 + [Sample((), (), "length")]
        assert found["quota"].startswith("OSError")
        assert "odd" in found["other"]


def test_alone_nothing_is_exchanged() -> None:
    rows = torch.tensor([[1.0], [2.0]])
    assert ALONE.gather(rows, [torch.arange(2)], 1) is rows
    assert (ALONE.most(3), ALONE.total(0.1), ALONE.all("x"), ALONE.first) == (3, 0.1, ["x"], True)
    with pytest.raises(ValueError, match="own"):
        ALONE.together(ValueError("own"))


def test_fewer_rollouts_than_processes_are_refused() -> None:
    scenario = Scenario(tiny_spec("opd", data=Data("list", prompts=2)))
    state = TrainState.start(scenario.spec, student_of(scenario))
    state.policy.ranks = Ranks(0, 3)
    teacher = LocalTeacher(lively(2))
    with pytest.raises(UserError, match="2 rollouts cannot occupy 3 processes"):
        next(train(scenario.spec, state, ListPrompts(), HFEngine(state.policy), teacher))


# --- checkpoints of one side for the other --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "adapters"])
def test_a_run_may_go_on_with_another_number_of_processes(name: str, pair: list[dict[Any, Any]], folder: Path) -> None:
    scenario = continued()[name]
    expected = play(scenario, folder)
    for rank in range(RANKS):
        assert_agree(pair[rank][name, "whole"], expected)
        assert_agree(pair[rank][name, "rest"], expected, start=2)  # saved by one, continued by two
    assert_agree(play(replace(scenario, resume=f"pair-{name}"), folder), expected, start=2)


@pytest.mark.parametrize("name", ["plain", "adapters"])
def test_two_processes_continue_their_own_to_the_bit(name: str, pair: list[dict[Any, Any]]) -> None:
    whole, rest = pair[0][name, "whole"], pair[0][name, "own rest"]
    assert json.dumps(rest["records"]) == json.dumps(whole["records"][2:])
    for key, value in whole["weights"].items():
        assert torch.equal(rest["weights"][key], value), key


@pytest.mark.parametrize("name", ["plain", "adapters"])
@pytest.mark.parametrize("side", ["one", "pair"])
def test_every_checkpoint_is_a_plain_model_folder(
    name: str, side: str, pair: list[dict[Any, Any]], folder: Path
) -> None:
    at = folder / f"{side}-{name}"
    assert (at / "shards").is_dir() == (side == "pair" or name == "adapters")
    assert (at / "optimiser.pt").exists() == (side == "one" and name != "adapters")
    policy = Policy.load(at)
    state = policy.model.state_dict()
    assert set(state) == set(lively(1, tie=name == "adapters").model.state_dict())
    saved = pair[0][name, "half"]["weights"] if side == "pair" else state
    for key, value in saved.items():
        assert torch.equal(state[key], value), key
    assert not list(folder.glob("*.partial")) + list(folder.glob("*.old"))


def test_one_that_cannot_write_fails_all_and_leaves_the_last_checkpoint(
    pair: list[dict[Any, Any]], folder: Path
) -> None:
    for rank in range(RANKS):
        assert pair[rank]["saves"] == [f"{errno.ENOSPC} ['kept']"] * 2
    scenario = continued()["plain"]
    assert TrainState.load(scenario.spec, folder / "kept", lambda path: student_of(scenario, path)).step == 0


@pytest.mark.parametrize("damage", ["absent", "metadata", "half"])
def test_damaged_shards_are_refused_by_name(
    damage: str, pair: list[dict[Any, Any]], folder: Path, tmp_path: Path
) -> None:
    import shutil

    at = tmp_path / "checkpoint"
    shutil.copytree(folder / "pair-plain", at)
    if damage == "absent":
        (at / "shards" / "__1_0.distcp").unlink()
    elif damage == "metadata":
        (at / "shards" / ".metadata").write_bytes(b"rubbish")
    else:
        file = at / "shards" / "__0_0.distcp"
        file.write_bytes(file.read_bytes()[:999])
    scenario = continued()["plain"]
    with pytest.raises(UserError, match=re.escape(f"{at}/shards cannot be read")):
        TrainState.load(scenario.spec, at, lambda path: student_of(scenario, path))


# --- 16 bits --------------------------------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[None]:
    """Whatever process group a sharded policy of this process makes is gone afterwards."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_sixteen_bit_runs_agree_as_far_as_sixteen_bits_go(
    pair: list[dict[Any, Any]], folder: Path, group: None
) -> None:
    expected = play(NARROW, folder)
    wide = play(replace(NARROW, spec=replace(NARROW.spec, dtype="float32")), folder)
    for rank in range(RANKS):
        for a, b, c in zip(pair[rank]["narrow"]["records"], expected["records"], wide["records"], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=5e-3)
            assert b["loss"] == pytest.approx(c["loss"], rel=5e-3)
    # eight bits of mantissa: weights up to ½ are 2⁻⁹ = 0.002 apart, and four steps of 3e-4 may round to either side
    for name, value in expected["weights"].items():
        assert value.dtype == torch.bfloat16
        assert float((pair[0]["narrow"]["weights"][name].float() - value.float()).abs().max()) < 5e-3, name


def test_updates_below_the_resolution_of_sixteen_bits_add_up(group: None, tmp_path: Path) -> None:
    # A step of 1e-6 is nothing beside a bfloat16 weight of 0.1 (2⁻¹¹ = 5e-4), but it is to the float32 master.
    optim = Optim(lr=1e-6, warmup=0, decay="constant")
    scenario = replace(NARROW, spec=replace(NARROW.spec, optim=optim, steps=3))
    result = play(replace(scenario, save="c"), tmp_path)
    start = {name: value.bfloat16().float() for name, value in lively(1).model.state_dict().items()}
    same = [(value == start[name]).float().mean() for name, value in result["weights"].items()]
    assert float(torch.stack(same).mean()) > 0.99  # all but the weights next to zero
    state = TrainState.load(scenario.spec, tmp_path / "c", lambda path: student_of(scenario, path))
    steps = []
    for name, parameter in state.policy.model.named_parameters():
        master = parameter.detach().full_tensor()
        assert master.dtype == torch.float32
        steps.append((master - start[name]).abs().max())
        assert state.optimiser.state[parameter]["exp_avg"].dtype == torch.float32
    assert float(torch.stack(steps).max()) == pytest.approx(3e-6, rel=0.1)


def test_the_gathered_model_rolls_out_what_it_trains(group: None) -> None:
    # float32, sharded in one process: tokens and log-probs are those of the model that never was sharded
    spec = replace(tiny_spec("opd"), machine=machine(shard=True))
    sharded, plain = student_of(Scenario(spec)), lively(1)
    assert sharded.sharded
    prompts, seeds = [[3, 5, 6], [3, 9]], [11, 12]
    with sharded.whole():
        found = HFEngine(sharded).generate(prompts, seeds, spec.rollout)
    assert found == HFEngine(plain).generate(prompts, seeds, spec.rollout)
    with pytest.raises(RuntimeError, match="head is asked for"):
        _ = sharded.head
    state = sharded.weights()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(state[name], value)


# --- which rows, in which pass --------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 400), min_size=1, max_size=60), count=st.integers(1, 8))
@settings(deadline=None)
def test_rows_are_dealt_once_and_evenly(lengths: list[int], count: int) -> None:
    hands = Ranks(0, count).deal(lengths)
    assert len(hands) == count
    assert sorted(row for hand in hands for row in hand.tolist()) == list(range(len(lengths)))
    assert all(hand.tolist() == sorted(hand.tolist()) for hand in hands)
    assert all(len(hand) for hand in hands) or len(lengths) < count
    loads = [sum(lengths[row] for row in hand.tolist()) for hand in hands]
    if len(lengths) >= count:  # longest first: nobody exceeds the average by more than the longest rollout
        assert max(loads) <= sum(lengths) / count + max(lengths)


def test_one_process_keeps_the_order() -> None:
    assert ALONE.deal([5, 9, 1])[0].tolist() == [0, 1, 2]
    # by hand: 9 to the first, 5 to the second, 4 to the second (5 < 9), 1 to the first of (9, 9)
    assert [hand.tolist() for hand in Ranks(0, 2).deal([5, 9, 1, 4])] == [[1, 2], [0, 3]]


@given(size=st.integers(0, 50), count=st.integers(1, 9))
def test_slices_cover_the_batch(size: int, count: int) -> None:
    parts = [Ranks(index, count).slice(size) for index in range(count)]
    assert [i for part in parts for i in range(size)[part]] == list(range(size))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
