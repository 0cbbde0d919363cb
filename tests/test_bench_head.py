"""The head measurements: what they compare, what they refuse, and one small run of each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from harness.bench import head, head_side, head_turns, losses
from harness.bench.__main__ import main
from harness.bench.head_turns import Size, compared, curves, difference, flat, unfit
from harness.errors import UserError
from trainer.losses import Divergence
from trainer.methods import METHODS

SMALL = ["--vocab", "300", "--width", "16", "--tokens", "1x8", "2x8", "--repeats", "1", "--threads", "1"]


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    head.arguments(parser)
    return parser.parse_args(options)


def turn(seconds: float = 2.0, loss: float = 1.5, peak: float = 100.0, value: float = 3.0) -> dict[str, Any]:
    gradient = {"norm": value, "probes": [[value, 0.0], [0.0, 4.0]]}
    return {"seconds": seconds, "peak_mib": peak, "loss": loss, "grad_hidden": gradient, "grad_weight": gradient}


def one(
    found: dict[str, list[dict[str, Any]]], time: float | None = None, memory: float | None = None
) -> dict[str, Any]:
    """The only comparison."""
    (made,) = compared(found, "w", {"trl": (time, memory)}, "float32")
    return made


# --- numbers ------------------------------------------------------------------------------------------------------


def test_differences_by_hand() -> None:
    # Probes ((3,0),(0,4)) have norm 5; with 3.5 in place of 3 they are 0.5 apart.
    found = difference(turn(loss=1.8, value=3.5), turn())
    assert found["loss"] == pytest.approx(0.2)
    assert found["grad_hidden"] == found["grad_weight"] == pytest.approx(0.1)
    assert found["grad_hidden_norm"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    "wrong", [{"loss": float("nan")}, {"value": float("nan")}, {"value": float("inf")}, {"loss": 1.6}]
)
def test_what_is_not_finite_or_not_equal_does_not_agree(wrong: dict[str, float]) -> None:
    assert one({"ours": [turn()], "trl": [turn(**wrong)]})["agrees"] is False


def test_an_entry_meets_its_goal_only_where_answers_agree() -> None:
    ours = [turn(5.0, peak=30.0), turn(1.0, peak=30.0), turn(0.5, peak=30.0)]  # median 1
    fast = one({"ours": ours, "trl": [turn(4.0, peak=100.0)]}, 1 / 3, 1 / 3)
    assert (fast["time_ratio"], fast["memory_ratio"], fast["met"]) == (0.25, 0.3, True)
    assert fast["ours"]["seconds_range"] == [0.5, 5.0]
    assert one({"ours": ours, "trl": [turn(2.0)]}, 1 / 3, 1 / 3)["met"] is False
    assert one({"ours": ours, "trl": [turn(4.0, peak=80.0)]}, 1 / 3, 1 / 3)["met"] is False
    assert one({"ours": ours, "trl": [turn(4.0, loss=1.6)]}, 1 / 3, 1 / 3)["met"] is False
    assert one({"ours": ours, "trl": [turn(0.5)]})["met"] is None


def test_bare_products_have_no_loss_to_agree_with() -> None:
    made = one({"ours": [turn()], "products": [turn(loss=0.0)]})
    assert "agrees" not in made and made["time_ratio"] == 1.0


def test_flatness_is_an_entry() -> None:
    sizes = (Size(1, 8), Size(4, 8))
    found = flat("w", {"ours": [turn(peak=109.0)]}, {"ours": [turn(peak=100.0)]}, sizes)
    assert (found["memory_ratio"], found["met"]) == (1.09, True)
    assert flat("w", {"ours": [turn(peak=120.0)]}, {"ours": [turn(peak=100.0)]}, sizes)["met"] is False


def test_curves_hold_the_medians_of_every_size() -> None:
    points = {16: {"ours": [turn(2.0), turn(4.0)]}, 8: {"ours": [turn(1.0)], "trl": [turn(3.0, peak=7.0)]}}
    time, memory = curves("head-tokens", "w", "tokens", points)
    assert time["series"][0] == {"label": "ours", "ours": True, "points": [[8, 1.0, 1.0, 1.0], [16, 3.0, 2.0, 4.0]]}
    assert memory["series"][1] == {"label": "trl", "ours": False, "points": [[8, 7.0, 7.0, 7.0]]}
    assert (time["linear"], memory["linear"]) == (True, False)


def test_goals() -> None:
    assert head.GOALS == {"trl": (1 / 3, 1 / 3), "products": (1.3, None), "checkpointed": (1 / 1.5, None)}
    assert losses.GOALS == {"checkpointed": (1 / 1.5, None)}


# --- what is measured ---------------------------------------------------------------------------------------------


def test_the_betas_of_the_libraries_are_those_of_the_table() -> None:
    assert set(head_side.BETAS) == set(head_turns.BETAS) <= {head.WORK, *losses.WORKS} <= set(METHODS)
    for name, beta in head_side.BETAS.items():
        assert METHODS[name].terms[0].loss == Divergence(beta)
    assert set(head.SIDES) == set(head_side.SIDES) == set(head_turns.WHAT)


def test_sides_that_cannot_do_the_work_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    args, size = parsed(), Size(4, 1024)
    monkeypatch.setattr(head_turns.importlib.util, "find_spec", lambda name: None)
    assert "make bench" in unfit(args, "trl", "full-rkl", size, 1000)
    monkeypatch.setattr(head_turns.importlib.util, "find_spec", lambda name: name)
    assert unfit(args, "trl", "full-rkl", size, 1000) == ""
    assert "no such loss" in unfit(args, "liger", "topk-rkl", size, 1000)
    monkeypatch.setattr(head_turns, "_available", lambda: 2**30)
    assert "GiB" in unfit(args, "naive", "full-rkl", size, 151_936)
    assert unfit(args, "ours", "full-rkl", size, 151_936) == ""


@pytest.mark.parametrize("options", [["--tokens", "4"], ["--tokens", "0x8"], ["--device", "tpu"]])
def test_bad_options_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["head", *options])


def test_options_are_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["head", "--repeats", "0"]) == 2
    assert "--repeats" in capsys.readouterr().err
    assert main(["losses", "--work", "nothing"]) == 2
    assert "full-fkl" in capsys.readouterr().err


@pytest.mark.parametrize("work", [head.WORK, *losses.WORKS])
def test_plain_torch_agrees_with_us_on_every_work(work: str) -> None:
    spec = {"work": work, "vocab": 40, "width": 8, "chunk": 5, "device": "cpu", "dtype": "float32"}
    found = {}
    for side in ("ours", "checkpointed", "naive"):
        made = head_side.Work.make(spec, 2, 7)
        loss = head_side.SIDES[side](made)
        loss.backward()
        assert made.hidden.grad is not None and made.weight.grad is not None and made.hidden.grad.any()
        found[side] = {
            "loss": loss.item(),
            **{
                f"grad_{name}": {"norm": float(gradient.norm()), "probes": head_side.probes(gradient)}
                for name, gradient in (("hidden", made.hidden.grad), ("weight", made.weight.grad))
            },
        }
    for side in ("checkpointed", "naive"):
        assert max(difference(found[side], found["ours"]).values()) < 1e-4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux only")
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "TOKENS", (Size(1, 4),))
    monkeypatch.setattr(head, "VOCABULARIES", (100,))
    assert main(["head", *SMALL, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "head.json").read_text())
    against = [(entry["work"].split(",")[1], entry["peer"]["what"]) for entry in report["entries"]]
    for side in ("products", "checkpointed", "naive"):
        assert [work for work, what in against if what == head_turns.WHAT[side]] == [" 1×8 tokens", " 2×8 tokens"]
    assert against[-1] == (" peak memory at 2×8 tokens", "itself at 1×8 tokens")
    for entry in report["entries"]:
        assert entry["ours"]["seconds"] > 0 and entry.get("agrees", True)
    assert [curve["name"] for curve in report["curves"]] == [
        *("head-tokens-time", "head-tokens-memory", "head-vocabulary-time", "head-vocabulary-memory"),
    ]
    assert [x for x, *_ in report["curves"][0]["series"][0]["points"]] == [4, 8, 16]
    assert [x for x, *_ in report["curves"][2]["series"][0]["points"]] == [100, 300]
    assert "written to" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux only")
def test_a_small_run_of_another_loss(tmp_path: Path) -> None:
    assert main(["losses", *SMALL, "--work", "topk-rkl", "--out", str(tmp_path)]) == 0
    entries = json.loads((tmp_path / "losses.json").read_text())["entries"]
    assert [entry["goal"] for entry in entries] == [
        *("none", "time ratio at most 0.666667", "none", "memory ratio at most 1.1"),
    ]


def test_a_failing_peer_is_skipped_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(module: str, words: list[str], spec: dict[str, Any], threads: int) -> dict[str, Any]:
        if spec["side"] == "naive":
            raise UserError("the side failed: no memory")
        return turn()

    monkeypatch.setattr(head_turns, "in_process", answer)
    found, skipped = head_turns.turns(parsed(*SMALL), "full-rkl", Size(1, 8), 300, ("ours", "naive"), 3)
    assert (len(found["ours"]), list(found)) == (3, ["ours"])
    assert skipped == {"naive": "the side failed: no memory"}
    assert capsys.readouterr().out.count("no memory") == 1
