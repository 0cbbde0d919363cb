"""Cells in processes that die, wait for each other and fail alone; what is going on, read from files."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness.commands import ablate, status
from harness.errors import UserError
from harness.evaluation import toy_plan
from harness.records import load
from harness.runs.cell import Cell, is_done
from harness.runs.execution import Outcome, _start, fail, local, planned, run_cells, shard, work
from harness.runs.monitor import duration, status_table
from harness.runs.states import (
    CellState,
    Heartbeat,
    Plan,
    Planned,
    is_locked,
    makespan,
    plans,
    read_plan,
    read_state,
    time_left,
    write_plan,
)
from tests.conftest import ROOT
from tests.mini_grid import GRID as MINI
from trainer.config import Data

GRID = str(Path(__file__).parent / "mini_grid.py")


def tiny(name: str, bench: str = "toy-aime") -> Cell:
    """A cell of a second or two: the student on one problem."""
    plan = replace(toy_plan(bench, 1), limit=1)
    return Cell(name, 0, (plan,), model="toy:student", curve=plan)


def broken(name: str) -> Cell:
    """A cell that fails when it runs."""
    return Cell(name, 0, (), replace(MINI.base, data=Data("no/such/file.jsonl")))


# --- states ---------------------------------------------------------------------------------------------------


def test_a_cell_is_what_its_files_say(tmp_path: Path) -> None:
    assert read_state(tmp_path / "nothing") == CellState("run")
    (tmp_path / "steps.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')  # the third was cut off
    (tmp_path / "status.json").write_text(
        json.dumps({"doing": "step 2/4", "fraction": 0.375, "seconds": 8.0, "time": 50})
    )
    assert read_state(tmp_path) == CellState("run", "", 2, 0.375, 8.0)
    fail(tmp_path, "ValueError: no\nline breaks", "Traceback …")
    assert (tmp_path / "failed.txt").read_text() == "ValueError: no line breaks\n\nTraceback …\n"
    assert read_state(tmp_path) == CellState("failed", "step 2/4", 2, 0.375, 8.0, "ValueError: no line breaks")
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # 12 s after the last sign of life, it has been at it for 8 + 12 s
        assert read_state(tmp_path, now=62.0) == CellState("running", "step 2/4", 2, 0.375, 20.0)
    assert read_state(tmp_path).state == "failed"
    (tmp_path / "result.json").write_text("{}")
    assert read_state(tmp_path) == CellState("have", "", 2, 1.0, 8.0)


@pytest.mark.parametrize("rubbish", ["", "{", "[1]", '{"seconds": 3'])
def test_a_broken_status_is_no_status(tmp_path: Path, rubbish: str) -> None:
    (tmp_path / "status.json").write_text(rubbish)
    (tmp_path / "steps.jsonl").write_text(rubbish + "\n")
    assert read_state(tmp_path) == CellState("run")


def test_a_killed_process_is_not_running(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True);"
        "time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        (tmp_path / "status.json").write_text('{"doing": "step 1/4", "fraction": 0.2, "seconds": 1, "time": 0}')
        assert read_state(tmp_path).state == "running" and is_locked(tmp_path)
    finally:
        child.kill()
        child.wait()
    assert read_state(tmp_path).state == "run" and not is_locked(tmp_path)


def test_seconds_add_up_over_attempts(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"seconds": 100.0}')
    beat = Heartbeat(tmp_path)
    beat.start -= 20.0  # it began 20 s ago
    beat("step 1/4", 0.2)
    found = json.loads((tmp_path / "status.json").read_text())
    assert 120.0 <= found["seconds"] < 130.0 and found["doing"] == "step 1/4" and found["pid"] == os.getpid()
    beat("step 2/4", 0.4)  # too soon after the first to be worth a write
    assert json.loads((tmp_path / "status.json").read_text()) == found
    beat.done()
    assert read_state(tmp_path).fraction == 1.0
    Heartbeat(tmp_path / "x").done()  # nothing was done, nothing is written
    assert not (tmp_path / "x").exists()


# --- time left ------------------------------------------------------------------------------------------------

A, B, C, R = (Planned("a", "a", 0, "opd", 4), Planned("b", "b", 0, "fire", 4), Planned("c", "c", 0, "fire", 4),
              Planned("r", "start", 0, "reference", 0))  # fmt: skip


def test_time_left_by_hand() -> None:
    states = {
        "a": CellState("have", seconds=40.0, fraction=1.0),
        "b": CellState("running", seconds=30.0, fraction=0.25),  # at this pace 30 · 0.75/0.25 = 90 s more
        "c": CellState("run", fraction=0.5),  # no fire is finished: half of what opd took, 40 · 0.5
        "r": CellState("run"),  # a reference is no run
    }
    assert time_left([A, B, C, R], states) == {"a": 0.0, "b": 90.0, "c": 20.0, "r": None}
    # once a cell of its method is finished, that one counts, not the others: 60 · 0.5
    states["b"] = CellState("have", seconds=60.0, fraction=1.0)
    assert time_left([A, B, C], states)["c"] == 30.0
    # nothing finished: what running cells will take by their progress, 30/0.25 = 120 s, of which half is done
    states = {"b": CellState("running", seconds=30.0, fraction=0.25), "c": CellState("run", fraction=0.5)}
    assert time_left([B, C], states) == {"b": 90.0, "c": 60.0}
    # too early to say
    states["b"] = CellState("running", seconds=2.0, fraction=0.02)
    assert time_left([B, C], states) == {"b": None, "c": None}


def test_makespan_by_hand() -> None:
    # two at a time: 5 | 3, then 3+4 = 7, then 5+2 = 7, then 7+1 = 8
    assert makespan([5, 3, 4, 2, 1], 2) == 8
    assert makespan([5, 3, 4, 2, 1], 1) == 15 and makespan([5, 3, 4, 2, 1], 9) == 5 and makespan([], 2) == 0


@given(st.lists(st.floats(0, 1e6), max_size=20), st.integers(1, 8))
def test_makespan_lies_between_its_bounds(durations: list[float], jobs: int) -> None:
    span = makespan(durations, jobs)
    least = max([sum(durations) / jobs, *durations], default=0.0)
    assert least * (1 - 1e-9) <= span <= sum(durations) + 1e-9
    assert span <= 2 * least + 1e-9  # Graham's bound


def test_the_table_says_states_steps_and_times() -> None:
    plan = Plan("g", "A [grid]", 2, (A, B, C, R))
    states = {
        "a": CellState("have", "", 4, 1.0, 40.0),
        "b": CellState("running", "step 1/4", 1, 0.25, 30.0),
        "c": CellState("failed", "step 2/4", 2, 0.5, 7000.0, "ValueError: [red]no[/red]"),
        "r": CellState("run"),
    }
    table, lines = status_table(plan, states, 2)
    console = Console(width=160, record=True)
    console.print(table)
    text = console.export_text()
    assert "A [grid]" in text, "what others named is no markup"
    shown = [row.split() for row in text.splitlines() if "│" in row]
    assert shown[1] == [
        "│",
        "b",
        "│",
        "0",
        "│",
        "b",
        "│",
        "running:",
        "step",
        "1/4",
        "│",
        "1/4",
        "│",
        "25%",
        "│",
        "30",
        "s",
        "│",
        "90",
        "s",
        "│",
    ]
    assert lines[0] == "failed c seed 0: ValueError: [red]no[/red]"
    # what is running goes on first: 90 s beside the failed cell's 20 s (half of 40)
    assert lines[1] == (
        "4 cells: 1 have, 1 running, 1 failed, 1 run; time left on 2 at a time: 90 s, and 1 cells of unknown cost"
    )
    done = {cell.run: CellState("have", seconds=1.0) for cell in plan.cells}
    assert status_table(plan, done, 2)[1] == ["4 cells: 4 have; nothing is left"]
    fresh = {cell.run: CellState("run") for cell in plan.cells}
    assert status_table(plan, fresh, 2)[1][0].endswith("time left on 2 at a time: unknown until a first cell is done")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "—"), (0.4, "0 s"), (90, "90 s"), (120, "2 min"), (3600, "60 min"), (9000, "2.5 h"), (1e5, "27.8 h"), (2e5, "2.3 d")],
)  # fmt: skip
def test_durations_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


# --- plans and shards -----------------------------------------------------------------------------------------


def test_a_plan_is_read_as_written(tmp_path: Path) -> None:
    plan = Plan("mini", "title", 3, tuple(map(planned, MINI.cells())))
    write_plan(plan, tmp_path)
    assert read_plan("mini", tmp_path) == plan and plans(tmp_path) == ["mini"]
    with pytest.raises(UserError, match=r"no grid 'maxi' was started .*started: mini"):
        read_plan("maxi", tmp_path)
    (tmp_path / "grids" / "mini.json").write_text("{}")
    with pytest.raises(UserError, match="not the plan of a grid"):
        read_plan("mini", tmp_path)


@given(count=st.integers(1, 9), seeds=st.sets(st.integers(0, 99), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25)
def test_shards_are_a_partition(count: int, seeds: set[int]) -> None:
    cells = replace(MINI, seeds=tuple(seeds)).cells()
    parts = [shard(cells, index, count) for index in range(1, count + 1)]
    assert sorted(c.run_id for part in parts for c in part) == sorted(c.run_id for c in cells)
    sizes = [sum(cell.spec is not None for cell in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert all(cell.spec for part in parts[1:] for cell in part), "references are the first shard's"
    # the order in which seeds or arms are named does not move a cell to another machine
    other = replace(MINI, seeds=tuple(sorted(seeds, reverse=True)), arms=MINI.arms[::-1]).cells()
    assert {c.run_id for c in shard(other, 1, count)} == {c.run_id for c in parts[0]}


@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_is_none_is_refused(index: int, count: int) -> None:
    with pytest.raises(UserError, match="i/n with i from 1 to n"):
        shard(MINI.cells(), index, count)


# --- running --------------------------------------------------------------------------------------------------


def test_what_a_cell_cannot_do_is_kept_with_its_reason(tmp_path: Path) -> None:
    cell = broken("a")
    why = work(cell, tmp_path)
    assert why == "no/such/file.jsonl does not exist: name a JSONL file of prompts"
    assert read_state(tmp_path / cell.run_id).why == why
    wrong = Cell("b", 0, (), replace(MINI.base, dtype="float64"), data_dir=3)  # type: ignore[arg-type]
    fine = replace(
        wrong, evals=(replace(toy_plan("toy-aime", 1), limit=1),), spec=None, model="toy:student", curve=None
    )
    assert work(fine, tmp_path) is None and work(fine, tmp_path) is None


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = tiny("a")

    def explode(*args: object) -> None:
        raise ZeroDivisionError("deep\ninside")

    monkeypatch.setattr("harness.runs.cell._evaluate_reference", explode)
    why = work(cell, tmp_path)
    assert why is not None and why.startswith("ZeroDivisionError: deep inside (traceback in ")
    kept = (tmp_path / cell.run_id / "failed.txt").read_text()
    assert kept.startswith("ZeroDivisionError: deep inside\n\nTraceback") and "in explode" in kept
    monkeypatch.undo()
    # a failed cell runs again, and leaves no trace of the failure
    assert work(cell, tmp_path) is None and read_state(tmp_path / cell.run_id).state == "have"
    assert not (tmp_path / cell.run_id / "failed.txt").exists()


def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    cells = [broken("a"), tiny("b"), replace(broken("c"), seed=1), tiny("d", "toy-code"), tiny("b again")]
    seen: list[dict[str, CellState]] = []
    failures = run_cells(cells, tmp_path, local(2), lambda states, failures: seen.append(dict(states)))
    assert list(failures) == [cells[0].run_id] and "no/such/file.jsonl" in failures[cells[0].run_id]
    assert [is_done(cell, tmp_path) for cell in cells] == [False, True, False, True, True]
    # a and c are one cell, as b and "b again" are
    assert set(seen[-1]) == {cell.run_id for cell in cells} and len(seen[-1]) == 3
    assert not multiprocessing_children()


def multiprocessing_children() -> list[object]:
    import multiprocessing

    return list(multiprocessing.active_children())


def test_a_killed_worker_fails_its_own_cell_only(tmp_path: Path) -> None:
    cells = [Cell("long", 0, (), replace(MINI.base, steps=10_000)), tiny("short"), tiny("other", "toy-code")]
    folder = tmp_path / cells[0].run_id
    killed: list[int] = []

    def watch(states: object, failures: object) -> None:
        state = read_state(folder)
        if state.step >= 2 and not killed:
            killed.append(json.loads((folder / "status.json").read_text())["pid"])
            os.kill(killed[0], signal.SIGKILL)

    failures = run_cells(cells, tmp_path, local(1), watch)
    assert killed and "killed by SIGKILL (out of memory?" in failures[cells[0].run_id]
    assert [is_done(cell, tmp_path) for cell in cells] == [False, True, True]
    state = read_state(folder)
    assert state.state == "failed" and state.step >= 2, "its progress is kept, and the same command goes on from there"


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_sigterm_saves_and_the_same_command_continues(processes: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = ("--jobs", "1", "--only", "fire", "--set", "steps=2000", "--set", "machine.checkpoint_every=1000")
    words += ("--procs", processes)
    child = start(runs, *words)
    while child.poll() is None and not any(read_state(path).step >= 3 for path in runs.glob("fire-*")):
        time.sleep(0.05)
    child.terminate()  # the parent alone, as `kill` does; the rest is its affair
    out, err = child.communicate(timeout=60)
    assert child.returncode == 143, out + err
    assert "opd: stopped by SIGTERM, everything is saved; the same command continues" in err and "Traceback" not in err
    [folder] = runs.glob("fire-*")
    state = read_state(folder)
    assert state.state == "run" and state.step >= 3, "no failure, nobody at work"
    saved = json.loads((folder / "checkpoint" / "state.json").read_text())["step"]
    assert saved == state.step, "what was done is saved, though no checkpoint was due before step 1000"


def test_a_worker_that_is_told_to_stop_did_not_fail(tmp_path: Path) -> None:
    cells = [Cell("long", 0, (), replace(MINI.base, steps=10_000)), tiny("short")]
    folder = tmp_path / cells[0].run_id
    told: list[int] = []

    def watch(states: object, failures: object) -> None:
        if read_state(folder).step >= 2 and not told:
            told.append(json.loads((folder / "status.json").read_text())["pid"])
            os.kill(told[0], signal.SIGTERM)

    failures = run_cells(cells, tmp_path, local(1), watch)
    assert failures == {cells[0].run_id: "its process was stopped by SIGTERM; the same command continues it"}
    assert read_state(folder).state == "run" and is_done(cells[1], tmp_path)


def test_a_cell_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    mine, theirs = tiny("mine"), tiny("theirs", "toy-code")
    held, given_up = tmp_path / theirs.run_id, tiny("left", "toy-minerva")
    order: list[str] = []
    locks = []
    for folder in (held, tmp_path / given_up.run_id):
        folder.mkdir()
        locks.append((folder / "lock").open("w"))
        fcntl.flock(locks[-1], fcntl.LOCK_EX)

    def watch(states: dict[str, CellState], failures: object) -> None:
        order.extend(run for run, state in states.items() if state.state == "have" and run not in order)
        if mine.run_id in order and not (held / "result.json").exists():
            (held / "result.json").write_text('{"theirs": true}')  # the other process finished this one …
            locks[1].close()  # … and died over that one

    assert run_cells([theirs, given_up, mine], tmp_path, local(1), watch) == {}  # type: ignore[arg-type]
    locks[0].close()
    assert order[0] == mine.run_id, "what is free is done first"
    assert json.loads((held / "result.json").read_text()) == {"theirs": True}, "their result was not touched"
    assert is_done(given_up, tmp_path)


def test_an_executor_is_closed_when_watching_fails(tmp_path: Path) -> None:
    closed: list[bool] = []

    def executor(cells: object, runs: Path) -> Iterator[Outcome]:
        try:
            while True:
                yield None
        finally:
            closed.append(True)

    def interrupt(states: object, failures: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells([tiny("a")], tmp_path, executor, interrupt)
    assert closed == [True]


@pytest.mark.parametrize("count", [0, -1])
def test_no_jobs_are_refused(count: int) -> None:
    with pytest.raises(UserError, match="'--jobs' must be at least 1"):
        local(count)
    with pytest.raises(UserError, match="'--procs' must be at least 1"):
        local(1, count)


# --- several processes a cell ---------------------------------------------------------------------------------


def steps(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_cell_in_two_processes_is_that_of_one(tmp_path: Path) -> None:
    plan = replace(toy_plan("toy-aime", 1), limit=4)
    cell = Cell("fire", 0, (plan,), replace(MINI.base, method="fire", steps=3))
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_cells([cell], one, local(1)) == {}
    assert run_cells([cell], two, local(1, processes=2)) == {}, (two / cell.run_id / "output.txt").read_text()
    assert is_done(cell, two)
    for a, b in zip(steps(one / cell.run_id), steps(two / cell.run_id), strict=True):
        assert a["generated_tokens"] == b["generated_tokens"] and a["kept"] == b["kept"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3) and a["grad_norm"] == pytest.approx(
            b["grad_norm"], rel=1e-3
        )


@pytest.mark.slow
def test_a_failure_in_two_processes_is_one_sentence(tmp_path: Path) -> None:
    cell = broken("a")
    failures = run_cells([cell], tmp_path, local(1, processes=2))
    assert failures == {cell.run_id: "no/such/file.jsonl does not exist: name a JSONL file of prompts"}
    assert read_state(tmp_path / cell.run_id).state == "failed"


# --- commands -------------------------------------------------------------------------------------------------


def command(module: object, *words: str) -> int:
    parser = argparse.ArgumentParser()
    module.arguments(parser)  # type: ignore[attr-defined]
    return module.run(parser.parse_args(list(words)))  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "fyre"], "no arm 'fyre': it has opd, fire, neutral"),
        (["--seeds", "4-0"], "'--seeds' is a range or a list"),
        (["--seeds", "a"], "'--seeds' is a range or a list"),
        (["--seeds", "1,1"], "seeds must be different"),
        (["--shard", "2"], "'--shard' is i/n"),
        (["--shard", "3/2"], "i from 1 to n"),
        (["--set", "optim.lr"], "PATH=VALUE"),
        (["--set", "optim.lrr=1"], "unknown option 'optim.lrr'"),
        (["--gpus", "1"], "add --executor ray"),
    ],
)
def test_options_that_make_no_sense_are_refused(words: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        command(ablate, GRID, "--dry-run", "--runs", str(tmp_path), *words)
    assert not list(tmp_path.iterdir())


def test_the_dry_run_says_what_is_there_and_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = replace(MINI, seeds=(0, 2)).cells()
    have, failed, stopped, running = cells[0], cells[2], cells[3], cells[4]
    for cell in (have, failed, stopped, running):
        (tmp_path / cell.run_id).mkdir()
    (tmp_path / have.run_id / "result.json").write_text("{}")
    fail(tmp_path / failed.run_id, "the disk is full")
    (tmp_path / stopped.run_id / "steps.jsonl").write_text('{"step": 3}\n')
    before = sorted(path for path in tmp_path.rglob("*"))
    with (tmp_path / running.run_id / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command(ablate, GRID, "--dry-run", "--runs", str(tmp_path), "--seeds", "0,2") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"have {have.run_id} start 0 reference: toy:student" in lines
    assert f"failed: the disk is full {failed.run_id} opd 0 —" in lines
    assert f"run from step 3 {stopped.run_id} fire 0 method fire, dropped 0.2" in lines
    assert f"running: starting {running.run_id} neutral 0 method random-filter, dropped 0.0" in lines
    assert "8 cells: 1 have, 1 running, 1 failed, 5 run" in lines
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "lock") == before


def test_status_reads_files_only_and_needs_no_torch(tmp_path: Path) -> None:
    write_plan(Plan("mini", "title", 2, tuple(map(planned, MINI.cells()))), tmp_path)
    (tmp_path / MINI.cells()[0].run_id).mkdir()
    (tmp_path / MINI.cells()[0].run_id / "result.json").write_text("{}")
    code = (
        "import argparse, sys\nfrom harness.commands import status\np = argparse.ArgumentParser()\nstatus.arguments(p)\n"
        f"for words in (['mini'], ['mini.py', '--jobs', '1'], []):\n"
        f"    status.run(p.parse_args([*words, '--runs', {str(tmp_path)!r}]))\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers', 'trainer'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] in ("[]", "['trainer']")
    assert "5 cells: 1 have, 4 run; time left on 2 at a time: unknown" in done.stdout
    with pytest.raises(UserError, match="no grid 'maxi' was started"):
        command(status, "maxi", "--runs", str(tmp_path))
    with pytest.raises(UserError, match="'--jobs'"):
        command(status, "mini", "--jobs", "0", "--runs", str(tmp_path))


def test_a_finished_grid_is_not_watched_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(Plan("mini", "title", 2, (A,)), tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text("{}")
    assert command(status, "mini", "--watch", "--runs", str(tmp_path)) == 0
    assert "1 cells: 1 have; nothing is left" in capsys.readouterr().out


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    code = "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["ablate", GRID, "--runs", str(folder), *more]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def executed(folder: Path) -> dict[str, list[int]]:
    """The steps that were ever made, per cell: timings are appended and never taken back."""
    return {
        path.parent.name: [json.loads(line)["step"] for line in path.read_text().splitlines()]
        for path in folder.glob("*/timings.jsonl")
    }


@pytest.mark.slow
def test_two_commands_on_one_folder_share_the_work(tmp_path: Path) -> None:
    children = [start(tmp_path, "--jobs", "1") for _ in range(2)]
    for child in children:
        out, err = child.communicate(timeout=280)
        assert child.returncode == 0, out + err
    assert sorted(executed(tmp_path).values()) == [[1, 2, 3, 4]] * 3, "no step is made twice"
    assert load(tmp_path / "report" / "records" / "mini").manifest["missing"] == []


@pytest.mark.slow
def test_shards_together_are_the_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (GRID, "--runs", str(tmp_path), "--jobs", "1", "--set", "steps=2", "--shard")
    name = "mini-steps=2"
    assert command(ablate, *words, "1/2") == 0
    assert "shard 1/2 is done; 1 cell of other shards is missing" in capsys.readouterr().out
    assert not (tmp_path / "report").exists()
    assert command(ablate, *words, "2/2") == 0
    kept = load(tmp_path / "report" / "records" / name)
    assert kept.manifest["missing"] == [] and set(kept.steps["arm"]) == {"opd", "fire", "neutral"}
    assert kept.manifest["set"] == [["steps", "2"]] and kept.manifest["final_step"] == 2
    assert sorted(executed(tmp_path).values()) == [[1, 2]] * 3


def test_only_runs_one_arm_and_reports_the_others_as_holes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(ablate, GRID, "--runs", str(tmp_path), "--jobs", "1", "--set", "steps=2", "--only", "fire") == 0
    assert "missing: opd seed 0, neutral seed 0" in capsys.readouterr().out
    manifest = load(tmp_path / "report" / "records" / "mini-steps=2").manifest
    assert manifest["order"] == ["start", "teacher", "opd", "fire", "neutral"]
    assert [manifest["arms"][arm]["run_ids"] for arm in ("opd", "neutral")] == [[], []]


def test_nothing_finished_is_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = tmp_path / "grid.py"
    grid.write_text(
        "from dataclasses import replace\nfrom tests.mini_grid import GRID as MINI\n"
        "GRID = replace(MINI, base=replace(MINI.base, student='no/model'), name='sad')\n"
    )
    with pytest.raises(UserError, match="model folder no/model does not exist"):
        command(ablate, str(grid), "--runs", str(tmp_path / "runs"))
    grid.write_text(
        "from dataclasses import replace\nfrom tests.mini_grid import GRID as MINI\nfrom harness.grid import Arm\n"
        "from trainer.config import Data\n"
        "GRID = replace(MINI, base=replace(MINI.base, data=Data('no/file.jsonl')), name='sad')\n"
    )
    assert command(ablate, str(grid), "--runs", str(tmp_path / "runs"), "--jobs", "1", "--shard", "2/2") == 1
    out = capsys.readouterr().out
    assert out.count("no/file.jsonl does not exist: name a JSONL file of prompts") == 1
    assert "shard 2/2 has 1 failed cell; 4 cells of other shards are missing" in out
    assert not (tmp_path / "runs" / "report").exists()


def test_ctrl_c_while_a_worker_is_started_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "multiprocessing.context.SpawnProcess.start", lambda process: os.kill(os.getpid(), signal.SIGINT)
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            _start()
            time.sleep(30)  # in case that it is yet to arrive
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
