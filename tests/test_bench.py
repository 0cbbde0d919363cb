"""The measurements themselves: ratios by hand, the shape of what they write, refusals, and small trials end to end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from harness.bench import all as everything
from harness.bench import figures, grid, measures, plan, records, startup, step
from harness.bench.__main__ import main
from harness.bench.large_records import BENCHES, large_records
from harness.bench.measures import TRIAL, cost, entry, limit, short, table
from harness.errors import UserError
from tests.conftest import ROOT

# --- costs, ratios, entries -----------------------------------------------------------------------------------------


def test_a_cost_is_a_median_with_its_range() -> None:
    assert cost("x", [3.0, 1.0, 8.0, 2.0], [10.0, 30.0]) == {
        "what": "x",
        "seconds": 2.5,  # between 2 and 3
        "seconds_range": [1.0, 8.0],
        "memory_mib": 20.0,
        "memory_range": [10.0, 30.0],
        "runs": 4,
    }


def test_what_was_not_measured_is_none() -> None:
    assert cost("x", [], []) == {
        "what": "x",
        "seconds": None,
        "seconds_range": None,
        "memory_mib": None,
        "memory_range": None,
        "runs": 0,
    }


def test_ratios_are_ours_over_the_peers() -> None:
    found = entry("w", cost("a", [1.0], [300.0]), cost("b", [4.0], [200.0]), time=0.5, memory=1.0)
    assert (found["time_ratio"], found["memory_ratio"]) == (0.25, 1.5)
    assert found["goal"] == "time ratio at most 0.5, memory ratio at most 1"
    assert found["met"] is False  # the memory
    assert list(found) == ["work", "ours", "peer", "time_ratio", "memory_ratio", "goal", "met"]


@pytest.mark.parametrize(
    ("seconds", "time", "met"), [(2.0, 0.5, True), (2.001, 0.5, False), (9.0, None, None), (0.1, 0.5, True)]
)
def test_a_goal_is_met_up_to_its_limit(seconds: float, time: float | None, met: bool | None) -> None:
    assert entry("w", cost("a", [seconds], []), cost("b", [4.0], []), time)["met"] is met


def test_a_goal_for_what_was_not_measured_is_not_met() -> None:
    found = entry("w", cost("a", [1.0], []), limit("limit", 2.0), time=1.0, memory=1.0)
    assert (found["time_ratio"], found["memory_ratio"], found["met"]) == (0.5, None, False)


def test_the_table_puts_ratios_first() -> None:
    one = entry("work", cost("a", [1.0], [300.0]), cost("b", [4.0], [200.0]), time=0.5, memory=1.0)
    two = entry("more", cost("a", [0.001], []), limit("limit", 10.0))
    lines = table([one, two], "said first").splitlines()
    assert lines[0] == "said first"
    assert lines[3].split() == [
        "0.25",
        "1.5",
        "1",
        "4",
        "300",
        "200",
        "time",
        "≤",
        "0.5,",
        "memory",
        "≤",
        "1",
        "MISSED",
        "work;",
        "a",
        "/",
        "b",
    ]
    assert lines[4].split() == ["0.0001", "—", "0.001", "10", "—", "—", "more;", "a", "/", "limit"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.81234, "0.812"), (12.345, "12.3"), (61_234.0, "61234"), (0.0000123, "1e-05"), (0.0, "0")]
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert short(value) == text


# --- one step ---------------------------------------------------------------------------------------------------------


def side(times: list[float], memory: float) -> dict[str, Any]:
    zero = {"seconds_student": 0.0, "seconds_backward": 0.0}
    rows = [{"seconds_rollout": 0.5, "seconds_teacher": 0.1 * index, **zero} for index in range(3)]
    return {"timed": times, "seconds": [2 * t for t in times], "memory_mib": memory, "phases": rows}


def test_each_peer_meets_its_opponent_and_its_goal() -> None:
    found = {
        "ours": [side([1.0, 1.0], 90.0), side([2.0, 1.0], 110.0)],  # median 1
        "ours-sampled": [side([3.0], 100.0)],
        "DistillationTrainer": [side([2.0], 100.0)],  # 1/2: just met
        "GKDTrainer": [side([1.4], 100.0)],  # 0.714 > 0.667
        "IWOPDTrainer": [side([6.0], 200.0)],
    }
    first, second, third = step.compare("w", found)
    assert (first["time_ratio"], first["memory_ratio"], first["met"]) == (0.5, 1.0, True)
    assert (second["time_ratio"], second["met"]) == (0.714286, False)
    assert (third["time_ratio"], third["ours"]["what"], third["met"]) == (0.5, "opd", None)
    assert first["ours"]["wall_seconds"] == 2.0
    assert first["ours"]["phases"] == {"rollout": 0.5, "teacher": 0.1, "student": 0.0, "backward": 0.0}  # medians
    # 0.1 of 0.6 s of ours; of 2 × 2 s and 2 × 1.4 s of wall clock
    assert step.shared([first, second, third]) == (
        "teacher's pass, student's pass and backward pass take 0.100 s (wall): 17% of our step, "
        "2% of TRL DistillationTrainer's, 4% of TRL GKDTrainer's"
    )


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answer(module: str, sides: tuple[str, ...], work: Any, rounds: int, threads: int) -> dict[str, Any]:
        asked.append(rounds)
        return {side: {"seconds": [2.0], "cpu_seconds": [1.0], "memory_mib": 1.0, "phases": []} for side in sides}

    monkeypatch.setattr(step, "in_turns", answer)
    work = {"threads": 1, "device": "cpu", "warmup": 1, "steps": 4}
    found = step.measure(work, 2, ("ours", "GKDTrainer"))
    assert asked == [5, 5]
    assert [one["timed"] for one in found["ours"]] == [[1.0], [1.0]]  # one thread: the processor's seconds
    assert step.measure(work | {"threads": 2}, 1, ("ours",))["ours"][0]["timed"] == [2.0]


TURNS = """
import json, sys, time
from harness.bench.measures import Turn
side, source, target = sys.argv[1:]
work = json.load(open(source))
turn, log = Turn(work["turn"]), open(work["log"], "a")
for unit in range(work["units"]):
    if side == "fails" and unit == 1:
        raise ValueError("no more")
    turn.wait()
    print(side, unit, "begins", file=log, flush=True)
    time.sleep(0.01)
    print(side, unit, "ends", file=log, flush=True)
turn.done()
json.dump({"side": side}, open(target, "w"))
"""


@pytest.fixture
def turning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "turning.py").write_text(TURNS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "turning"


def test_one_side_works_while_the_others_wait(turning: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = measures.in_turns(turning, ("a", "b"), {"log": str(log), "units": 3}, 3)
    assert found == {"a": {"side": "a"}, "b": {"side": "b"}}
    order = [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]  # back and forth
    assert log.read_text().split("\n")[:-1] == [f"{s} {n} {what}" for s, n in order for what in ("begins", "ends")]


def test_a_side_that_fails_ends_the_others(turning: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the side 'turning fails' failed: ValueError: no more"):
        measures.in_turns(turning, ("a", "fails"), {"log": str(tmp_path / "log"), "units": 3}, 3)


# --- large records ----------------------------------------------------------------------------------------------------


def test_large_records_are_the_same_every_time() -> None:
    benches = {"aime24": 3, "minerva": 4}
    one, two = (large_records(3, 2, 2, benches) for _ in range(2))
    for name in ("samples", "steps", "timings", "rollouts", "profiles"):
        assert_frame_equal(getattr(one, name), getattr(two, name))
    assert len(one.samples) == 3 * 2 * 7 * 2
    assert one.manifest == two.manifest


def test_the_default_is_as_large_as_it_says() -> None:
    assert sum(BENCHES.values()) == 1606
    parser = argparse.ArgumentParser()
    records.arguments(parser)
    args = parser.parse_args([])
    assert args.arms * args.seeds * sum(BENCHES.values()) * args.k == 30 * 1606 * 32


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_slope_by_hand() -> None:
    x = np.array([1.0, 2.0, 4.0])
    assert figures.slope(x, 3 * x) == pytest.approx(1.0)
    assert figures.slope(x, 5 * x**2) == pytest.approx(2.0)
    assert figures.slope(x, 0 * x + 7) == pytest.approx(0.0, abs=1e-12)
    assert figures.slope(x[:1], x[:1]) is None
    assert figures.slope(x, np.array([0.0, 1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(16, "16"), (1000, "1k"), (2_097_152, "2.1M"), (0.05, "0.05"), (3e9, "3G"), (65_536, "66k"), (151_936, "152k")],
)
def test_sizes_in_words(value: float, text: str) -> None:
    assert figures.amount(value) == text


def curve(name: str = "a-curve") -> dict[str, Any]:
    points = [[x, 0.1 * x, 0.09 * x, 0.12 * x] for x in (8, 16, 32)]
    series = [{"label": "ours", "ours": True, "points": points}, {"label": "peer", "points": points}]
    return {"name": name, "title": "a cost", "x": "tokens", "unit": "seconds", "linear": True, "series": series}


def test_a_curve_becomes_an_image_a_page_and_its_numbers(tmp_path: Path) -> None:
    assert figures.draw([curve()], tmp_path) == [tmp_path / "a-curve.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"a-curve.png", "a-curve.pdf", "a-curve.csv"}
    rows = (tmp_path / "a-curve.csv").read_text().splitlines()
    assert rows[:2] == ["series,tokens,seconds,low,high", "ours,8,0.8,0.72,0.96"]
    figure, _ = figures.cost_figure(curve(), trial=True)
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "a cost (trial)"
    assert sum("slope 1.00" in text.get_text() for text in axes.texts) == 2
    assert "dotted: proportional to size" in [text.get_text() for text in axes.texts]


# --- all of them ------------------------------------------------------------------------------------------------------


def options(folder: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    everything.arguments(parser)
    return parser.parse_args([*words, "--out", str(folder)])


def report(name: str, **more: Any) -> dict[str, Any]:
    one = entry(f"work of {name}", cost("a", [1.0], [1.0]), cost("b", [2.0], [2.0]), time=0.5)
    return {"bench": name, "entries": [one], "curves": [curve(name)], "provenance": {"commit": "x"}} | more


def put(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_latest_holds_every_measurement_there_is(tmp_path: Path) -> None:
    known = dict(everything.modules())
    assert {"head", "losses", "step", "grid", "plan", "records", "startup", "grading"} <= set(known)
    put(tmp_path, "step", report("step"))
    put(tmp_path, "plan", report("plan"))
    put(tmp_path, "startup", "no report")
    everything.collect(options(tmp_path), known)
    latest = json.loads((tmp_path / "latest.json").read_text())
    assert [one["bench"] for one in latest] == ["plan", "step"]
    for one in latest:
        assert set(one) == {*everything.KEYS, "bench", "commit"}
        assert (one["time_ratio"], one["met"], one["commit"]) == (0.5, True, "x")
    rows = (tmp_path / "latest.md").read_text().splitlines()
    assert rows[2] == "| work of plan | a | b | **0.5**<br><sub>≤ 0.5</sub> | — | met |"


def test_a_trial_never_reaches_latest(tmp_path: Path) -> None:
    put(tmp_path / TRIAL, "step", report("step"))
    found = everything.collect(options(tmp_path, "--small"), dict(everything.modules()))
    assert len(found) == 1
    assert not (tmp_path / "latest.json").exists()


def test_a_report_of_one_comparison_is_an_entry(tmp_path: Path) -> None:
    both = {"seconds": 3.0, "memory_mib": 20.0, "cpu_seconds": 1.0}
    found = {"work": {"problems": 2, "responses": 1000}, "ours": {"what": "a", **both}, "peer": {"what": "b", **both}}
    (one,) = everything.entries_of(
        found | {"time_ratio": 1.0, "memory_ratio": 1.0, "goal": "g", "met": True}, "grading"
    )
    assert one["work"] == "grading, 2 problems, 1,000 responses"
    assert (one["ours"]["seconds"], one["peer"]["memory_mib"], one["met"]) == (3.0, 20.0, True)
    assert table([one])


def test_what_all_hands_on_is_what_a_measurement_knows(tmp_path: Path) -> None:
    known = dict(everything.modules())
    args = options(tmp_path, "--small", "--data-dir", "there", "--device", "cuda")
    assert everything.words(known["startup"], "startup", args) == ["--out", str(tmp_path), "--small"]
    assert everything.words(known["step"], "step", args)[2:] == ["--small", "--device", "cuda"]
    graded = everything.words(known["grading"], "grading", args)
    assert graded[:2] == ["--out", str(tmp_path / TRIAL)]
    assert "--small" not in graded and graded[-2:] == ["--data-dir", "there"]


def test_a_measurement_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(command: list[str], **_: Any) -> Any:
        name = command[3]
        if name == "step":
            put(tmp_path, "step", report("step"))
        return argparse.Namespace(returncode=0 if name == "step" else 2)

    monkeypatch.setattr(everything.subprocess, "run", start)
    assert main(["all", "--only", "plan", "step", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "plan was not measured: exit code 2" in said.err and "work of step" in said.out
    assert len(json.loads((tmp_path / "latest.json").read_text())) == 1
    assert (tmp_path / "step.png").exists()


def test_a_measurement_whose_data_are_not_here_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPD_DATA", raising=False)
    asked: list[str] = []
    monkeypatch.setattr(
        everything.subprocess, "run", lambda command, **_: asked.append(command[3]) or argparse.Namespace(returncode=0)
    )
    assert main(["all", "--only", "grading", "plan", "--out", str(tmp_path)]) == 0
    assert asked == ["plan"]
    assert "== grading: left out: it needs the benchmark files" in capsys.readouterr().out
    assert main(["all", "--only", "grading", "--data-dir", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert asked == ["plan", "grading"]


def test_what_is_there_of_this_commit_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "provenance", lambda: {"commit": "x"})
    put(tmp_path, "step", report("step"))
    put(tmp_path, "plan", report("plan", provenance={"commit": "older"}))
    asked: list[str] = []
    monkeypatch.setattr(
        everything.subprocess, "run", lambda command, **_: asked.append(command[3]) or argparse.Namespace(returncode=0)
    )
    assert main(["all", "--only", "plan", "step", "--missing", "--out", str(tmp_path)]) == 0
    assert asked == ["plan"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["all", "--only", "nosuch"], "option '--only' knows no measurement 'nosuch': there are grading, grid"),
        (["step", "--steps", "0"], "option '--steps' must be at least 1, got 0"),
        (["step", "--prompts", "8", "0"], "option '--prompts' must be at least 1, got 0"),
        (["step", "--threads", "-2"], "option '--threads' must be at least 1, got -2"),
        (["plan", "--rows", "0"], "option '--rows' must be at least 1, got 0"),
        (["plan", "--method", "fir"], "unknown method 'fir'"),
        (["plan", "--method", "tip"], "method 'tip' reads more than log-probs and entropies"),
        (["grid", "--jobs", "0"], "option '--jobs' must be at least 1, got 0"),
        (["records", "--arms", "1"], "option '--arms' must be at least 2"),
        (["startup", "--repeats", "0"], "option '--repeats' must be at least 1, got 0"),
    ],
)
def test_bad_options_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_peer_the_step_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(package: str) -> str:
        raise step.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(step.importlib.metadata, "version", absent)
    assert main(["step", "--out", str(tmp_path)]) == 2
    assert "`make bench` sets up an environment that has it" in capsys.readouterr().err


def test_a_side_that_fails_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"the side 'harness.bench.step_side nosuch' failed: .*"):
        measures.in_process("harness.bench.step_side", ["nosuch"], {"threads": 1})


# --- small trials, end to end -----------------------------------------------------------------------------------------


def trial(folder: Path, name: str, *words: str) -> dict[str, Any]:
    assert main([name, "--small", *words, "--out", str(folder)]) == 0
    assert not list(folder.glob("*.json"))
    found: dict[str, Any] = json.loads((folder / TRIAL / f"{name}.json").read_text())
    assert found["trial"] is True and found["how"] and found["provenance"]["packages"]
    return found


@pytest.mark.slow
def test_planning_on_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = trial(tmp_path, "plan")
    first = found["entries"][0]
    assert first["memory_ratio"] == pytest.approx(first["ours"]["memory_mib"] / first["peer"]["memory_mib"], rel=0.1)
    # mask and four float32 fields of 64 × 1,024: 17 bytes a position
    assert first["peer"]["memory_mib"] == pytest.approx(17 * 64 * 1024 / 2**20, abs=0.06)
    assert [curve["name"] for curve in found["curves"]] == ["plan-time", "plan-memory"]
    assert [point[0] for point in found["curves"][0]["series"][0]["points"]] == [
        rows * 1024 for rows in (4, 8, 16, 32, 64)
    ]
    said = capsys.readouterr().out
    assert "a trial: these numbers stand for nothing" in said and "the step is estimated" in said


def test_start_up_on_trial(tmp_path: Path) -> None:
    entries = trial(tmp_path, "startup")["entries"]
    assert [one["ours"]["what"] for one in entries[:2]] == ["opd --help", "opd methods"]  # no "(imports torch)"
    assert all(one["ours"]["runs"] == 3 for one in entries)


@pytest.mark.slow
def test_a_large_report_on_trial(tmp_path: Path) -> None:
    (one,) = trial(tmp_path, "records")["entries"]
    assert one["work"] == "report of 9,636 samples: 3 cells × 1,606 problems × 2"
    assert one["ours"]["memory_mib"] > 50


@pytest.mark.slow
def test_a_grid_on_trial(tmp_path: Path) -> None:
    found = trial(tmp_path, "grid")
    assert found["references"] == ["toy:student", "toy:teacher-math"]
    (one,) = found["entries"]
    assert (one["ours"]["what"], one["peer"]["what"]) == ("opd ablate --jobs 2", "opd ablate --jobs 1")


@pytest.mark.slow
def test_a_step_on_trial(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    found = trial(tmp_path, "step", "--no-curves")
    assert [one["peer"]["what"] for one in found["entries"]] == [f"TRL {peer}" for peer in step.PEERS]
    phases = found["entries"][0]["ours"]["phases"]
    assert set(phases) == {"rollout", "teacher", "student", "score", "plan", "backward", "optimiser", "sync"}


def test_every_measurement_says_what_it_is() -> None:
    for module in (grid, plan, records, startup, step):
        assert module.HELP and module.__doc__
    assert (ROOT / "requirements-bench.txt").exists()
