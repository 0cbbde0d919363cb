"""What a grid would cost: every formula by hand, shapes against real models and torch's own counter."""

from __future__ import annotations

import argparse
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.commands import ablate
from harness.errors import UserError
from harness.evaluation import EvalPlan, toy_plan
from harness.grid import load_grid
from harness.runs import assets, estimates, pace
from harness.runs.cell import Cell
from harness.runs.estimates import A100, Assumptions, decode_speed, forward, of_cell, shares
from harness.runs.pace import Spent, seconds
from harness.runs.shapes import KNOWN, shape, shape_of
from harness.runs.states import read_state
from tests.conftest import ROOT
from tests.mini_grid import GRID as MINI
from trainer.config import Data, Lora, Machine, RunSpec
from trainer.head import CHUNK_ELEMENTS
from trainer.methods import METHODS
from trainer.policy import Policy
from trainer.rollout import Sampling

# --- shapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # a layer of Qwen3-4B: q and o 2·2560·4096, k and v 2·2560·1024, gate, up and down 3·2560·9728, norms 2·2560 + 2·128
        # = 20,971,520 + 5,242,880 + 74,711,040 + 5,376 = 100,930,816; 36 of them, embedding 151,936·2560, last norm 2560
        ("Qwen/Qwen3-4B", 36 * 100_930_816 + 388_956_160 + 2560),
        # of the 30B: attention 2·2048·4096 + 2·2048·512, router 2048·128, 128 experts of 3·2048·768, norms 4,352
        # = 18,874,368 + 262,144 + 603,979,776 + 4,352 = 623,120,640; 48 of them, embedding and head apart, last norm
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 48 * 623_120_640 + 2 * 311_164_928 + 2048),
        ("Qwen/Qwen3-0.6B", 596_049_920),  # as the hub's page of the model counts them
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_parameters_of_known_models(name: str, parameters: int) -> None:
    assert shape(name, KNOWN[name]).parameters == parameters


def test_active_parameters_and_cache_by_hand() -> None:
    moe = shape("moe", KNOWN["Qwen/Qwen3-30B-A3B-Instruct-2507"])
    # attention 18,874,368, router 262,144, 8 experts of 4,718,592 = 37,748,736: 56,885,248 a layer
    assert moe.body == 48 * 56_885_248
    assert moe.cache_bytes == 2 * 2 * 48 * 4 * 128
    dense = shape("dense", KNOWN["Qwen/Qwen3-4B"])
    assert dense.body == 36 * (100_930_816 - 5_376) and dense.cache_bytes == 2 * 2 * 36 * 8 * 128 == 147_456


@pytest.mark.parametrize("name", ["toy:student", "toy:teacher-math"])
def test_the_shape_is_that_of_the_model_itself(name: str) -> None:
    found = shape_of(name)
    model = Policy.load(assets.model_folder(name)).model
    assert found.parameters == sum(p.numel() for p in model.parameters())
    length = 24
    model.set_attn_implementation("eager")  # the counter does not know the CPU's fused attention
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, length, dtype=torch.int64))
    # torch counts the attention in full, QKᵀ and AV of length² each; `forward` half of it, as decoders need no more
    attention = 4 * found.layers * found.attention * length**2
    assert counter.get_total_flops() == forward(found, 0, length) + attention / 2


def test_biases_and_untied_heads_count() -> None:
    config = {
        "model_type": "qwen2",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
        "vocab_size": 32,
    }
    # a layer: q, o 2·8·8, k, v 2·8·4, feed-forward 3·8·16, norms 2·8, biases 8 + 2·4 = 128 + 64 + 384 + 16 + 16 = 608
    assert shape("x", config).parameters == 2 * 608 + 2 * 32 * 8 + 8
    with pytest.raises(UserError, match=r"the config of x does not say .*'vocab_size'"):
        shape("x", {name: value for name, value in config.items() if name != "vocab_size"})


def test_shapes_come_from_files_first_and_from_the_table_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert shape_of("hub:Qwen/Qwen3-4B").hidden == 2560
    with pytest.raises(UserError, match="the shape of hub:me/new is not known"):
        shape_of("hub:me/new")
    root = tmp_path / "models--me--new"
    (root / "snapshots" / "abc").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    (root / "snapshots" / "abc" / "config.json").write_text(json.dumps(KNOWN["Qwen/Qwen3-0.6B"]))
    assert shape_of("hub:me/new").hidden == 1024
    (root / "snapshots" / "abc" / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        shape_of("hub:me/new")


# --- costs ----------------------------------------------------------------------------------------------------

# attention 2·10·(10 + 10) = 400 and feed-forward 3·10·20 = 600: body 1000, head 100·10 = 1000, norms 2·10 + 10
SMALL = shape(
    "small",
    {
        "model_type": "llama",
        "hidden_size": 10,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "intermediate_size": 20,
        "vocab_size": 100,
        "tie_word_embeddings": True,
    },
)
ROUND = Assumptions(gpus=4, memory=100e3, flops=1e4, bandwidth=1e5, utilisation=0.5, decoding=0.5, engine=0.5, prompt=10,
                    response=10, side_by_side=1000)  # fmt: skip
FORWARD = 20 * (2 * 1000 + 4 * 10 * 20 / 2) + 10 * 2 * 1000  # 20 tokens in the body, of which 10 in the head: 68,000
GPU = Machine("cuda", micro_batch=6, gradient_checkpointing=True)
SPEC = RunSpec("opd", "s", (("", "t"),), Data("d", prompts=3), Sampling(64), steps=2, machine=GPU)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "shape_of", lambda name: SMALL)


def cell(method: str, **more: Any) -> Cell:
    return Cell(method, 0, (), replace(SPEC, method=method, **more))


def test_flops_by_hand(small: None) -> None:
    assert forward(SMALL, 10, 10) == FORWARD == 68_000
    # 6 rollouts: student once to score, 3 + 1 times in the gradient pass (the recomputed head is not needed), teacher once
    opd = of_cell(cell("opd"), ROUND)
    assert opd.flops == 6 * (68_000 + 4 * 68_000 - 20_000 + 68_000)
    assert (opd.generated, opd.trained) == (60, 60)
    assert opd.training == opd.flops / 5e3
    # FiRe drops a fifth of the rollouts from the gradient pass
    fire = of_cell(cell("fire"), ROUND)
    assert fire.flops == pytest.approx(6 * (68_000 + 0.8 * (4 * 68_000 - 20_000) + 68_000))
    assert fire.trained == pytest.approx(48)
    # a divergence projects the teacher's states once more: 10 · 2 · 1000
    assert of_cell(cell("full-rkl"), ROUND).flops == opd.flops + 6 * 20_000
    # ExOPD asks its reference, too
    assert of_cell(cell("exopd"), ROUND).flops == opd.flops + 6 * 68_000
    # without recomputation, one pass of the body less
    assert of_cell(cell("opd", machine=Machine("cuda")), ROUND).flops == opd.flops - 6 * (68_000 - 20_000)
    # two teachers share the rollouts
    assert of_cell(cell("opd", teachers=(("a", "x"), ("b", "y"))), ROUND).flops == opd.flops


def test_memory_by_hand(small: None) -> None:
    parameters = 1000 + 1000 + 30
    # shards: 16 bytes a parameter of the student, 2 of the teacher, over 4 GPUs
    shards = (16 * parameters + 2 * parameters) / 4
    # 6 rollouts of 10 + 64 tokens over 4 GPUs, 10 channels: 2 bytes kept of the layer, 34 while it is at work
    activations = 6 * 74 / 4 * 10 * (2 * 1 + 34) + 16 * CHUNK_ELEMENTS
    found = of_cell(cell("opd"), ROUND)
    assert found.training_memory == shards + activations
    assert found.engine_memory == shards + 0.5 * 100e3
    # one GPU holds one rollout at least; a budget of tokens is shared, too; without recomputation all layers stay
    for machine, tokens, bytes_ in ((replace(GPU, micro_batch=1), 74, 36), (replace(GPU, token_budget=800), 200, 36),
                                    (replace(GPU, gradient_checkpointing=False), 111, 34)):  # fmt: skip
        other = of_cell(cell("opd", machine=machine), ROUND)
        assert other.training_memory == shards + tokens * 10 * bytes_ + 16 * CHUNK_ELEMENTS
    # adapters: 2 bytes a parameter, no optimiser worth the name
    assert of_cell(cell("opd", lora=Lora(8)), ROUND).engine_memory == (2 + 2) * parameters / 4 + 0.5 * 100e3
    # a reference is one more shard
    assert of_cell(cell("exopd"), ROUND).engine_memory == pytest.approx(found.engine_memory + 2 * parameters / 4)


def test_decoding_by_hand() -> None:
    # context 10 + 5, cache 2·2·1·10 = 40 bytes a token: 600 bytes a sequence. Room 50,000 − 4,060 = 45,940: 76 sequences.
    # A step reads 4,060 + 76·600 = 49,660 bytes at 50,000 a second.
    assert decode_speed(SMALL, 10, 10, ROUND) == pytest.approx(76 / (49_660 / 50_000))
    assert decode_speed(SMALL, 10, 10, replace(ROUND, side_by_side=2)) == pytest.approx(2 / (5_260 / 50_000))
    # Weights over 0.8·0.5·memory = 4,000 need two GPUs: room 2·5,000 − 4,060 = 5,940, 9 sequences, twice the bandwidth;
    # per GPU half of what the two give together.
    tight = replace(ROUND, memory=10e3)
    assert decode_speed(SMALL, 10, 10, tight) == pytest.approx(9 / ((4_060 + 9 * 600) / 100_000) / 2)


def test_qwen3_4b_decodes_as_fast_as_the_arithmetic_says() -> None:
    # cache 2450·147,456 = 361,267,200 a sequence; (48e9 − 8,044,936,192) / that = 110 sequences;
    # 47,784,328,192 bytes a step at 2.039e12·0.6: 39.06 ms
    assert decode_speed(shape_of("hub:Qwen/Qwen3-4B"), 200, 4500) == pytest.approx(110 / 0.0390586, rel=1e-4)


def test_evaluation_by_hand(small: None) -> None:
    curve, final = EvalPlan("toy-held-out", 1, 8), EvalPlan("toy-aime", 4, 64, limit=5)
    run = replace(cell("opd", steps=5), evals=(final,), curve=curve, curve_every=2)
    # the curve (256 answers of 8 tokens) after steps 2, 4 and 5, the rest (5·4 of 10 tokens) after 5
    expected = 3 * 256 * 8 / decode_speed(SMALL, 10, 8, ROUND) + 20 * 10 / decode_speed(SMALL, 10, 10, ROUND)
    assert of_cell(run, ROUND).evaluation == pytest.approx(expected)
    start = Cell("start", 0, (final,), model="s", curve=curve)
    once = 256 * 8 / decode_speed(SMALL, 10, 8, ROUND) + 20 * 10 / decode_speed(SMALL, 10, 10, ROUND)
    assert of_cell(start, ROUND).gpu_hours == pytest.approx(once / 3600)


@pytest.mark.parametrize(
    ("method", "kept", "trained"),
    [
        ("opd", 1.0, 1.0),
        ("fire", 0.8, 0.8),  # 48 of 240 dropped: ceil(0.2·239)
        ("fire-as-released", 1.0, 1.0),  # a quantile of one drops nothing
        ("fire-as-released-2", 0.5, 0.5),
        ("tip", 1.0, 0.5),
        ("tip-20", 1.0, 0.2),
        ("equal-tokens", 1.0, 0.8),
        ("first-segment", 1.0, 0.5),
        ("sft-on-teacher", 1.0, 1.0),
    ],
)
def test_shares_by_hand(method: str, kept: float, trained: float) -> None:
    assert shares(METHODS[method]) == pytest.approx((kept, trained), abs=1e-9)


def test_every_method_has_shares() -> None:
    for name, objective in METHODS.items():
        kept, trained = shares(objective, 4)
        assert 0.0 < trained <= kept <= 1.0, name


def test_a_schedule_counts_by_its_share_of_the_run() -> None:
    # REOPOLD: tokens above the floor for a third of the run, then a fifth of them
    phase_one = 3 * (shares(METHODS["reopold"])[1] - 2 / 3 * 0.2)
    assert 0.8 < phase_one < 1.0


# --- for people -----------------------------------------------------------------------------------------------


def dry_run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    ablate.arguments(parser)
    return ablate.run(parser.parse_args([*words, "--dry-run"]))


def test_the_dry_run_of_a_full_scale_grid_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert dry_run("paper_strong_to_weak", "--runs", str(tmp_path), "--seeds", "0") == 0
    out = capsys.readouterr().out
    assert "ESTIMATE per cell, nothing was measured" in out
    for line in A100.lines():
        assert f"assumed: {line}" in out
    rows = {cells[0]: cells for line in out.splitlines() if (cells := line.split()) and " = " in line and "+" in line}
    # 165 steps of 1024 rollouts of 4500 tokens: 760 M, of which FiRe trains on 80 % and TIP on half
    assert (
        rows["opd"][4:6] == ["760", "760"]
        and rows["fire"][4:6] == ["760", "608"]
        and rows["tip"][4:6] == ["760", "380"]
    )
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_or_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = load_grid(Path("paper_strong_to_weak"))
    cells = [one for one in grid.cells() if one.seed == 0 and one.arm in ("start", "opd")]
    rows = estimates.of_grid(grid, cells)
    assert estimates.lines(rows)[0].startswith("in all ") and not any(
        "does not fit" in s for s in estimates.lines(rows)
    )
    crowded = replace(A100, memory=20e9)
    said = estimates.lines(rows, crowded)
    assert any(line.startswith("opd does not fit: 64 GB a GPU, of 20") for line in said)
    strange = grid.edited((("student", "hub:me/new"),))
    unknown = estimates.of_grid(strange, [one for one in strange.cells() if one.arm == "opd"])
    assert unknown[0].estimate is None
    assert "the shape of hub:me/new is not known" in "\n".join(estimates.lines(unknown))
    assert estimates.table(unknown).row_count == len(unknown) == 1
    assert estimates.of_grid(MINI, MINI.cells()) == [], "no estimate in GPU-hours for the toy world"


# --- the toy world --------------------------------------------------------------------------------------------


def finished(runs: Path, name: str, prompts: int, per_step: float, total: float, answers: int) -> None:
    """A finished run of 4 steps, as its files would be."""
    folder = runs / name
    (folder / "eval" / "step-00004").mkdir(parents=True)
    spec = {"student": "toy:student", "steps": 4, "data": {"prompts": prompts, "samples": 1}}
    (folder / "spec.json").write_text(json.dumps({"cell": {"spec": spec}}))
    rows = [{"step": s, "seconds_rollout": per_step / 2, "seconds_update": per_step / 2} for s in (1, 2, 3, 4)]
    (folder / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "status.json").write_text(json.dumps({"seconds": total}))
    manifest = {"benches": {"toy-aime": {"n": answers, "k": 1}}}
    (folder / "eval" / "step-00004" / "evaluation.json").write_text(json.dumps(manifest))
    (folder / "result.json").write_text("{}")


def test_toy_runs_are_estimated_from_finished_ones(tmp_path: Path) -> None:
    finished(tmp_path, "opd-1", 8, 2.0, 18.0, 100)  # 8 s for 32 rollouts, 10 s for 100 answers
    finished(tmp_path, "fire-1", 64, 4.0, 36.0, 100)  # 16 s for 256 rollouts, 20 s for 100 answers
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "spec.json").write_text((tmp_path / "opd-1" / "spec.json").read_text())
    found = sorted(pace.measured(tmp_path), key=lambda spent: spent.batch)
    assert found == [Spent(8.0, 32, 8, 10.0, 100), Spent(16.0, 256, 64, 20.0, 100)]
    plan = replace(toy_plan("toy-aime", 2), limit=5)
    run = Cell(
        "opd", 0, (plan,), replace(MINI.base, steps=3), curve=replace(toy_plan("toy-code", 1), limit=4), curve_every=2
    )
    # 3 steps of 8 rollouts at 8/32 s; answers at 30/200 s: the curve's 4 after steps 2 and 3, 5·2 after 3
    assert seconds(run, found) == pytest.approx(24 * 0.25 + (2 * 4 + 10) * 0.15)
    # no run had batches of 16: all of them count, 24 s for 288 rollouts
    other = replace(run, spec=replace(MINI.base, steps=3, data=Data("toy:math", prompts=16)))
    assert seconds(other, found) == pytest.approx(48 * 24 / 288 + 18 * 0.15)
    cells = [run, Cell("start", 0, (plan,), model="toy:student")]
    states = {one.run_id: read_state(tmp_path / one.run_id) for one in cells}
    line = pace.minutes_line(cells, states, tmp_path, 1)
    assert line == "estimate: 9 s for 1 run, 1 at a time (by 2 finished runs in that folder)"


def test_without_finished_runs_kept_records_serve_and_without_those_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = MINI.cells()
    states = {one.run_id: read_state(tmp_path / one.run_id) for one in cells}
    monkeypatch.setattr("harness.records.RESULTS", tmp_path)
    assert pace.minutes_line(cells, states, tmp_path, 2) == ""
    broken = tmp_path / "records" / "broken"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    assert pace.minutes_line(cells, states, tmp_path, 2) == "", "records that cannot be read are no reason to stop"
    monkeypatch.setattr("harness.records.RESULTS", ROOT / "results")
    assert "kept grids, training alone" in pace.minutes_line(cells, states, tmp_path, 2)
