"""What `opd train` and grids make of their options: teachers on servers, files of prompts, dashboards, advice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import cli
from harness.errors import UserError
from harness.grid import load_grid
from harness.records import read_jsonl
from harness.runs import assets
from harness.runs.cell import Cell, is_done, run_cell
from harness.runs.memory import out_of_memory
from harness.runs.models import vllm_engine
from harness.toy import TEACHERS
from tests.fake_vllm import MODEL, FakeVLLM
from tests.mini_grid import GRID
from tests.test_cli import TRAIN, changed, fails
from tests.worlds import tiny_policy
from trainer.config import Data, Machine, Vllm
from trainer.distributed import ALONE, Ranks
from trainer.policy import Policy

SMALL = ["--steps", "2", "--prompts", "4", "--max-tokens", "24", "--checkpoint-every", "1"]


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVLLM]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = FakeVLLM(Policy.load(TEACHERS["math"]))
    yield made
    made.close()


def steps(folder: str) -> list[dict[str, Any]]:
    return list(read_jsonl(Path(folder) / "steps.jsonl"))


def written(*rows: dict[str, Any]) -> str:
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "data.jsonl"


# --- teachers on servers --------------------------------------------------------------------------------------


def test_a_served_teacher_is_the_teacher(server: FakeVLLM) -> None:
    """The same records as with the same model here, but for rounding; where the server stands does not count."""
    assert cli.main([*TRAIN, *SMALL, "--out", "here"]) == 0
    served = changed(TRAIN, teacher=f"server:{MODEL}@{server.url}")
    cache = ["--set", "machine.score_cache=scores"]
    assert cli.main([*served, *SMALL, *cache, "--out", "there"]) == 0
    for a, b in zip(steps("here"), steps("there"), strict=True):
        assert b["kl"] == pytest.approx(a["kl"], abs=1e-4)
        assert b["generated_tokens"] == a["generated_tokens"]
    assert list(Path("scores").glob("*.scores"))
    # out of the cache, to the bit, from another address of the same server
    other = changed(TRAIN, teacher=f"server:{MODEL}@{server.url.replace('127.0.0.1', 'localhost')}")
    asked = len(server.asked)
    assert cli.main([*other, *SMALL, *cache, "--out", "again"]) == 0
    assert Path("again/steps.jsonl").read_bytes() == Path("there/steps.jsonl").read_bytes()
    assert (
        json.loads(Path("again/spec.json").read_text())["run_id"]
        == (json.loads(Path("there/spec.json").read_text())["run_id"])
    )
    texts = [request for request in server.asked[asked:] if isinstance(request["prompt"], str)]
    assert len(texts) == len(server.asked) - asked > 0  # the checks of the start alone: no rollout is asked for again


def test_what_a_served_teacher_cannot_give_is_refused_before_anything_runs(
    server: FakeVLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    served = changed(TRAIN, teacher=f"server:{MODEL}@{server.url}", method="full-rkl")
    assert "'full-rkl' needs logits from its teacher, which provides only logprobs" in fails(capsys, *served, *SMALL)
    assert "write server:MODEL@http" in fails(capsys, *changed(TRAIN, teacher="server:big"))
    assert "can only be a teacher" in fails(capsys, *changed(TRAIN, student=f"server:{MODEL}@{server.url}"))


def test_a_served_teacher_is_a_reference_row(server: FakeVLLM) -> None:
    """A grid evaluates it over the server: nothing of it is loaded here."""
    name = f"server:{MODEL}@{server.url}"
    plans = tuple(replace(plan, limit=2, k=1) for plan in GRID.evals)
    cell = Cell("teacher", 0, plans, model=name, curve=None)
    assert cell.run_id == replace(cell, model=name.replace("127.0.0.1", "localhost")).run_id
    assert cell.run_id.startswith(assets.short_name(name))
    with pytest.raises(UserError, match=r"did not give|refused"):  # the stand-in knows no chat
        run_cell(cell, Path("runs"))
    assert not is_done(cell, Path("runs"))


# --- files of prompts -----------------------------------------------------------------------------------------


def test_what_was_left_out_of_a_file_is_said_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"Compute {n}+{n}", "prompt": "x"} for n in (1, 2, 2, 3, 4)]
    long = {"question": "Compute " + "+".join(["1"] * 90), "prompt": "x"}
    data = changed(TRAIN, data=written(*rows, long))
    options = ["--set", "data.column=question", "--set", "data.max_prompt=60", "--out", "run"]
    assert cli.main([*data, *SMALL, *options]) == 0
    said = Path("run/data.txt").read_text()
    assert "4 prompts of 6 rows; left out 1 copies" in said and "left out 1 of more than 60 tokens" in said
    assert said.strip() in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    assert "no text in the column 'missing'" in fails(
        capsys, *data, *SMALL, "--set", "data.column=missing", "--out", "other"
    )


def test_prompts_without_a_teacher_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    rows = ({"problem": "Compute 1+1", "domain": "math"}, {"problem": "f(1)", "domain": "code"})
    routed = changed(TRAIN, data=written(*rows), teacher="math=toy:teacher-math")
    said = fails(capsys, *routed, *SMALL)
    assert "data.jsonl, line 2: a prompt of the domain 'code', and there are teachers for math only" in said
    bare = changed(TRAIN, data=written({"problem": "Compute 1+1"}), teacher="math=toy:teacher-math")
    assert "data.jsonl, line 1: a prompt of no domain (column 'domain'" in fails(capsys, *bare, *SMALL)


def test_options_of_files_are_refused_for_the_toy_world(capsys: pytest.CaptureFixture[str]) -> None:
    assert "are for files" in fails(capsys, *TRAIN, *SMALL, "--set", "data.max_prompt=9")
    with pytest.raises(UserError, match="are for files"):
        assets.open_source(Data("toy:math", column="x"), 0)


# --- engines --------------------------------------------------------------------------------------------------


def test_vllm_is_refused_where_it_cannot_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert "add engine=vllm" in fails(capsys, *TRAIN, *SMALL, "--set", "machine.vllm.sleep=true")
    policy = tiny_policy(1)
    with pytest.raises(UserError, match="float32 or bfloat16, not in float16"):
        vllm_engine("toy:student", policy, Machine(), "float16")
    policy.ranks = Ranks(0, 2)
    with pytest.raises(UserError, match="2 processes share one vLLM server"):
        vllm_engine("toy:student", policy, Machine(vllm=Vllm()), "float32")


def test_what_concerns_the_machine_renames_no_grid() -> None:
    grid = load_grid(Path("quickstart"))
    moved = grid.edited((("machine.micro_batch", "8"), ("machine.device", "cuda")))
    assert (moved.name, moved.title, moved.base.machine.micro_batch) == (grid.name, grid.title, 8)
    assert [cell.run_id for cell in moved.cells()] == [cell.run_id for cell in grid.cells()]
    assert {cell.machine.device for cell in moved.cells() if cell.spec is None} == {"cuda"}
    assert grid.edited((("machine.micro_batch", "8"), ("steps", "7"))).name == "quickstart-steps=7"


def test_reference_cells_are_made_as_the_run_is() -> None:
    half = replace(GRID, base=replace(GRID.base, dtype="bfloat16", engine="vllm"))
    for mine, theirs in zip(half.cells(), GRID.cells(), strict=True):
        assert mine.run_id != theirs.run_id
        if mine.spec is None:
            assert (mine.dtype, mine.engine) == ("bfloat16", "vllm")


# --- dashboards and advice ------------------------------------------------------------------------------------


def test_dashboards_are_checked_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown tracker 'tensorbored'" in fails(capsys, *TRAIN, *SMALL, "--track", "tensorbored")
    assert "unknown tracker" in fails(capsys, "ablate", "quickstart", "--dry-run", "--track", "x")
    assert not Path("results").exists()


def test_a_run_on_a_dashboard() -> None:
    pytest.importorskip("tensorboard")
    from tests.test_tracking import scalars

    assert cli.main([*TRAIN, *SMALL, "--bench", "toy-aime", "--k", "1", "--track", "tensorboard", "--out", "run"]) == 0
    shown = scalars(Path("run"))
    assert shown["train/kl"][0] == (1, pytest.approx(steps("run")[0]["kl"], rel=1e-6))
    assert {name for name in shown if name.startswith("eval/")} == {"eval/toy-aime/accuracy"}
    assert [step for step, _ in shown["timing/seconds_rollout"]] == [1, 2]


def test_out_of_memory_is_advice(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*about: Any, **named: Any) -> Any:
        return torch.empty(1 << 60)  # a real refusal of the allocator

    monkeypatch.setattr(Policy, "hidden_in", greedy)
    said = fails(capsys, *TRAIN, *SMALL)
    assert "cpu has not enough memory" in said
    assert (
        "machine.micro_batch below 64, or machine.engine_batch below 64, or machine.gradient_checkpointing=true" in said
    )
    assert "the same command then continues from the last checkpoint with the same results" in said


def test_other_errors_are_no_lack_of_memory() -> None:
    assert out_of_memory(RuntimeError("shapes differ"), Machine(), ALONE) == ""
    on_gpu = out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), Machine("cuda:0", 1), ALONE)
    assert "machine.offload_teacher=true, or more GPUs" in on_gpu and "micro_batch" not in on_gpu
    assert "MemoryError" in out_of_memory(MemoryError(), Machine(), ALONE)
