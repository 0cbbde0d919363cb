"""The head measurement: what it compares, what it refuses, and one small run of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from harness.bench import head, head_side
from harness.bench.__main__ import main
from harness.bench.head_rows import Goal, Size, compared, difference, flat, goal, point, row, table
from trainer.losses import Divergence
from trainer.methods import METHODS


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    head.arguments(parser)
    return parser.parse_args(options)


def turn(seconds: float = 2.0, loss: float = 1.5, peak: float = 100.0, value: float = 3.0) -> dict[str, Any]:
    gradient = {"norm": value, "probes": [[value, 0.0], [0.0, 4.0]]}
    return {
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "peak_mib": peak,
        "extra_mib": peak / 2,
        "loss": loss,
        "grad_hidden": gradient,
        "grad_weight": gradient,
        "load_average": [0.5, 0.5, 0.5],
        "threads": 2,
        "versions": {},
    }


def measured(side: str, size: Size, *turns: dict[str, Any], work: str = "full-rkl") -> dict[str, Any]:
    return point(work, size, 1000, side, turns, turn(), "float32")


# --- numbers ------------------------------------------------------------------------------------------------------


def test_a_point_is_a_median_with_its_spread() -> None:
    found = measured("trl", Size(2, 8), turn(5.0), turn(2.0), turn(3.0))
    assert (found["seconds"], found["spread"], found["repeats"], found["tokens"]) == (3.0, [2.0, 5.0], 3, 16)
    assert found["agrees"] is True
    assert measured("products", Size(2, 8), turn(loss=0.0))["agrees"] is None  # it has no loss to agree with


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
    assert measured("trl", Size(2, 8), turn(**wrong))["agrees"] is False


def test_a_row_meets_its_goal_only_where_answers_agree() -> None:
    ours = measured("ours", Size(1, 8), turn(1.0, peak=30.0))
    fast = row(ours, measured("trl", Size(1, 8), turn(4.0, peak=100.0)), Goal(1 / 3, 1 / 3), 1000)
    assert (fast["time_ratio"], fast["memory_ratio"], fast["met"]) == (0.25, 0.3, True)
    assert fast["goal"] == "time at most 0.333 and memory at most 0.333"
    assert row(ours, measured("trl", Size(1, 8), turn(2.0)), Goal(1 / 3, 1 / 3), 1000)["met"] is False
    assert row(ours, measured("trl", Size(1, 8), turn(4.0, peak=80.0)), Goal(1 / 3, 1 / 3), 1000)["met"] is False
    assert row(ours, measured("trl", Size(1, 8), turn(4.0, loss=1.6)), Goal(1 / 3, 1 / 3), 1000)["met"] is False
    unasked = row(ours, measured("naive", Size(1, 8), turn(0.5)), Goal(), 1000)
    assert (unasked["goal"], unasked["met"]) == (None, None)


def test_a_peer_that_could_not_do_the_largest_size_is_met_at_the_largest_it_could() -> None:
    small, large = Size(1, 8), Size(2, 8)
    points = [
        measured("ours", small, turn(1.0)),
        measured("ours", large, turn(2.0)),
        measured("trl", small, turn(4.0)),
        measured("trl", large, turn(10.0)),
        measured("naive", small, turn(3.0)),
    ]
    found = {one["peer"]["what"]: one["time_ratio"] for one in compared(points, large, 1000)}
    assert found == {head.WHAT["trl"]: 0.2, head.WHAT["naive"]: pytest.approx(1 / 3, abs=1e-4)}


def test_flatness_is_a_row() -> None:
    points = [measured("ours", Size(1, 8), turn(peak=100.0)), measured("ours", Size(4, 8), turn(peak=109.0))]
    (found,) = flat(points, 1000)
    assert (found["memory_ratio"], found["met"]) == (1.09, True)
    points[1] = measured("ours", Size(4, 8), turn(peak=120.0))
    assert flat(points, 1000)[0]["met"] is False
    assert flat(points[:1], 1000) == []
    assert "NOT met" in table(flat(points, 1000))


def test_goals() -> None:
    assert goal("full-rkl", "trl") == Goal(1 / 3, 1 / 3)
    assert goal("full-rkl", "products") == Goal(time=1.3)
    assert all(goal(work, "checkpointed").time == 1 / 1.5 for work in head.WORKS)


# --- what is measured ---------------------------------------------------------------------------------------------


def test_the_betas_of_the_libraries_are_those_of_the_table() -> None:
    assert set(head_side.BETAS) == set(head.BETAS) <= set(head.WORKS) <= set(METHODS)
    for name, beta in head_side.BETAS.items():
        assert METHODS[name].terms[0].loss == Divergence(beta)
    assert {*head.PEERS, "ours"} == set(head_side.SIDES)


def test_sides_that_cannot_do_the_work_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    args, size = parsed(), Size(4, 1024)
    assert "--peer-python" in str(head.unfit(args, "trl", "full-rkl", size, 1000))
    args = parsed("--peer-python", "python")
    assert head.unfit(args, "trl", "full-rkl", size, 1000) is None
    assert "no such loss" in str(head.unfit(args, "liger", "skew-kl", size, 1000))
    monkeypatch.setattr(head, "_available", lambda: 2**30)
    assert "GiB" in str(head.unfit(args, "naive", "full-rkl", size, 151_936))
    assert head.unfit(args, "ours", "full-rkl", size, 151_936) is None


def test_curves_are_measured_once_beside_the_repeated_sizes() -> None:
    args = parsed(
        *("--work", "full-rkl", "full-fkl", "--tokens", "2x8", "1x8", "--repeats", "3", "--vocab", "50"),
        *("--curve-tokens", "1x4", "1x8", "--curve-vocab", "20", "50"),
    )
    assert list(head.cases(args)) == [
        *((work, size, 50, 3) for work in ("full-rkl", "full-fkl") for size in (Size(1, 8), Size(2, 8))),
        ("full-rkl", Size(1, 4), 50, 1),
        ("full-rkl", Size(1, 8), 20, 1),
    ]


@pytest.mark.parametrize("options", [["--tokens", "4"], ["--tokens", "0x8"], ["--work", "nothing"]])
def test_bad_options_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["head", *options])


def test_a_repeat_at_least(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["head", "--repeats", "0"]) == 2
    assert "--repeats" in capsys.readouterr().err


@pytest.mark.parametrize("work", head.WORKS)
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
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "head.json"
    options = ["--vocab", "300", "--width", "16", "--tokens", "1x8", "2x8", "--repeats", "1", "--work", "full-rkl"]
    assert main(["head", *options, "--peers", "products", "naive", "trl", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert [one["work"].split(": ")[1] for one in report["rows"]] == [
        "against products",
        "against naive",
        "peak memory of 2x8 tokens against 1x8",
    ]
    for one in report["rows"]:
        assert {"work", "ours", "peer", "time_ratio", "memory_ratio", "goal", "met"} <= set(one)
        assert one["ours"]["seconds"] > 0
    assert max(report["rows"][1]["difference"].values()) < 1e-3
    assert {(one["side"], one["tokens"]) for one in report["curves"]} == {
        (side, tokens) for side in ("ours", "products", "naive") for tokens in (8, 16)
    }
    assert {one["side"] for one in report["skipped"]} == {"trl"}
    assert "written to" in capsys.readouterr().out


def test_a_failing_peer_is_skipped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "head.json"
    options = ["--vocab", "300", "--width", "16", "--tokens", "1x8", "--repeats", "1", "--work", "full-rkl"]
    assert main(["head", *options, "--peers", "trl", "--peer-python", str(tmp_path / "none"), "--out", str(out)]) == 0
    assert "cannot run" in json.loads(out.read_text())["skipped"][0]["reason"]
    assert "cannot run" in capsys.readouterr().out
