from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.test_distributed import Scenario, lively, machine, play, student_of
from tests.worlds import EOS, ListPrompts, tiny_policy, tiny_spec
from trainer.adapters import merged
from trainer.config import Lora, Optim
from trainer.engines import HFEngine
from trainer.errors import UserError
from trainer.loop import train
from trainer.policy import Policy
from trainer.rollout import Sampling
from trainer.state import TrainState
from trainer.teachers import LocalTeacher

LORA = Lora(rank=3, alpha=6.0)
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(autouse=True)
def no_group_stays() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def spec_of(**changes):
    settings = {"method": "full-rkl", "lora": LORA, "steps": 3, "optim": Optim(lr=1e-2, warmup=0)}
    return tiny_spec(**(settings | changes))


def trained(**changes) -> TrainState:
    spec = spec_of(**changes)
    state = TrainState.start(spec, student_of(Scenario(spec)))
    list(train(spec, state, ListPrompts(), HFEngine(state.policy), LocalTeacher(lively(2))))
    return state


def test_merging_by_hand() -> None:
    # W = [[1, 2], [3, 4]], B = [[1], [−2]], A = [[3, 0.5]], scale 2: W + 2·B·A = [[1 + 6, 2 + 1], [3 − 12, 4 − 2]]
    state = {
        "layers.0.q.base_layer.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "layers.0.q.base_layer.bias": torch.tensor([5.0, 6.0]),
        "layers.0.q.lora_A.default.weight": torch.tensor([[3.0, 0.5]]),
        "layers.0.q.lora_B.default.weight": torch.tensor([[1.0], [-2.0]]),
        "norm.weight": torch.tensor([7.0]),
    }
    found = merged(state, 2.0)
    assert {name: value.tolist() for name, value in found.items()} == {
        "layers.0.q.weight": [[7.0, 3.0], [-9.0, 2.0]],
        "layers.0.q.bias": [5.0, 6.0],
        "norm.weight": [7.0],
    }


def test_sixteen_bit_weights_are_merged_in_float32() -> None:
    # 1 + 2⁻⁸ is halfway between 1 and the next bfloat16 number, 1 + 2⁻⁷; the product 2⁻⁸ + 2⁻¹⁷ goes beyond it. Had A been
    # rounded to bfloat16 first, to 1, the sum would be the tie, which goes to the even 1.
    state = {
        "q.base_layer.weight": torch.tensor([[1.0]], dtype=torch.bfloat16),
        "q.lora_A.default.weight": torch.tensor([[1 + 2.0**-9]]),
        "q.lora_B.default.weight": torch.tensor([[2.0**-8]]),
    }
    assert float(merged(state, 1.0)["q.weight"]) == 1 + 2.0**-7


def test_adapters_sit_on_every_linear_map_of_the_layers_and_start_without_effect() -> None:
    policy = student_of(Scenario(spec_of()))
    names = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    expected = {
        f"model.layers.{layer}.{'mlp' if '_proj' in name and name[0] in 'gud' else 'self_attn'}.{name}.lora_{side}.default.weight"
        for layer in range(2)
        for name in LINEAR
        for side in "AB"
    }
    assert set(names) == expected
    prompts = [[3, 5, 6], [3, 9, 8]]
    plain = HFEngine(lively(1)).generate(prompts, [1, 2], Sampling(6))
    assert HFEngine(policy).generate(prompts, [1, 2], Sampling(6)) == plain
    for name, value in policy.weights().items():
        assert torch.equal(value, lively(1).model.state_dict()[name]), name


def test_their_start_depends_on_the_seed_of_the_run_alone() -> None:
    def start(seed: int) -> torch.Tensor:
        torch.manual_seed(int(torch.randint(0, 99, ())))
        return student_of(Scenario(spec_of(seed=seed))).model.model.layers[1].mlp.up_proj.lora_A.default.weight

    before = torch.get_rng_state()
    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))
    torch.set_rng_state(before)
    student_of(Scenario(spec_of()))
    assert torch.equal(torch.get_rng_state(), before)  # no global generator is touched


@pytest.mark.parametrize("shard", [False, True])
def test_only_adapters_have_gradients_and_change(shard: bool) -> None:
    spec = spec_of(machine=machine(shard=shard))
    state = TrainState.start(spec, student_of(Scenario(spec)))
    graded: set[str] = set()

    def look(*args, **kwargs) -> None:
        graded.update(name for name, p in state.policy.model.named_parameters() if p.grad is not None)

    state.optimiser.register_step_pre_hook(look)
    list(train(spec, state, ListPrompts(), HFEngine(state.policy), LocalTeacher(lively(2))))
    assert graded and all(".lora_" in name for name in graded)
    start = lively(1).model.state_dict()
    changed = {n for n, value in state.policy.weights().items() if not torch.equal(value, start[n])}
    assert changed == {f"{name.split('.lora_')[0]}.weight" for name in graded}
    for name, value in state.policy.model.state_dict().items():
        if ".base_layer." in name:
            whole = value.full_tensor() if shard else value
            assert torch.equal(whole, start[name.replace(".base_layer", "")])
    held = [p for group in state.optimiser.param_groups for p in group["params"]]
    assert len(held) == len(graded)


@pytest.mark.parametrize("shard", [False, True])
def test_the_saved_folder_is_merged_and_is_what_evaluations_see(tmp_path: Path, shard: bool) -> None:
    state = trained(machine=machine(shard=shard))
    state.save(tmp_path / "c")
    loaded = Policy.load(tmp_path / "c")
    assert set(loaded.model.state_dict()) == set(lively(1).model.state_dict())
    prompts = [[3, 5, 6], [3, 9, 8], [3, 7]]
    seeds, sampling = [1, 2, 3], Sampling(12)
    frozen = {n: v.clone() for n, v in _whole(state).items() if ".base_layer." in n}
    with state.policy.whole(merged=True):
        seen = HFEngine(state.policy).generate(prompts, seeds, sampling)
    assert seen == HFEngine(loaded).generate(prompts, seeds, sampling)  # to the bit
    assert seen != HFEngine(lively(1)).generate(prompts, seeds, sampling)
    # and nothing of it stays: frozen weights to the bit, adapters at work again
    for name, value in _whole(state).items():
        if ".base_layer." in name:
            assert torch.equal(value, frozen[name])
    with state.policy.whole():
        beside = HFEngine(state.policy).generate(prompts, seeds, sampling)
    for a, b in zip(seen, beside, strict=True):
        assert a.ids == b.ids
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def _whole(state: TrainState) -> dict[str, torch.Tensor]:
    items = state.policy.model.state_dict().items()
    return {name: v.full_tensor() if hasattr(v, "full_tensor") else v for name, v in items}


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    scenario = Scenario(spec_of(method="fire", steps=4, micro_batch=2))
    whole = play(scenario, tmp_path)
    for k in (1, 3):
        play(replace(scenario, steps=k, save=f"at-{k}"), tmp_path)
        rest = play(replace(scenario, resume=f"at-{k}"), tmp_path)
        assert rest["records"] == whole["records"][k:]
        for name, value in whole["weights"].items():
            assert torch.equal(rest["weights"][name], value), name


def test_adapters_learn() -> None:
    spec = spec_of(steps=30, optim=Optim(lr=1e-2, warmup=0, decay="constant"))
    state = TrainState.start(spec, student_of(Scenario(spec)))
    steps = list(train(spec, state, ListPrompts(), HFEngine(state.policy), LocalTeacher(lively(2))))
    kl = [step.record.kl for step in steps]
    assert sum(kl[-5:]) < 0.7 * sum(kl[:5])
    assert all(step.record.engine_gap < 1e-4 for step in steps)


def test_without_peft_the_option_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"'lora.rank' needs peft .*opd-harness\[lora\]"):
        student_of(Scenario(spec_of()))


def test_tied_embeddings_stay_frozen_and_tied(tmp_path: Path) -> None:
    spec = spec_of(steps=1)
    state = TrainState.start(spec, student_of(Scenario(spec, tie=True)))
    list(train(spec, state, ListPrompts(), HFEngine(state.policy), LocalTeacher(lively(2))))
    state.save(tmp_path / "c")
    model = Policy.load(tmp_path / "c").model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = tiny_policy(1, tie=True).model.model.embed_tokens.weight.detach().clone()
    expected[EOS] *= 2
    assert torch.equal(model.lm_head.weight, expected)
