"""The main job end to end, in miniature and in real processes: train, evaluate, report; killed and continued."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import records

GRID = Path(__file__).parent / "mini_grid.py"


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    # where the tests run in the background Ctrl-C is ignored, which a child would inherit
    hears = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{hears}; from harness.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["ablate", str(GRID), "--runs", str(folder), "--jobs", "2", *more]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, *more: str) -> str:
    child = start(folder, *more)
    out, err = child.communicate(timeout=280)
    assert child.returncode == 0, out + err
    return out


def reproducible(folder: Path) -> dict[str, bytes]:
    """Everything in the cells that must not depend on how often a run was interrupted."""
    names = ("steps.jsonl", "*.graded.jsonl", "rollouts.json", "model.safetensors", "toy-*.jsonl")
    return {str(p.relative_to(folder)): p.read_bytes() for name in names for p in folder.rglob(name)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, finish(folder)


def test_ends_with_where_the_results_are(whole):
    folder, out = whole
    last = out.strip().splitlines()[-1]
    page = Path(last.removeprefix("tables, figures and page: "))
    assert page.is_file() and page.suffix == ".html"
    report = folder / "report"
    kinds = {p.suffix for p in report.rglob("*") if p.is_file()}
    assert {".md", ".tex", ".csv", ".html", ".pdf", ".png", ".parquet", ".json"} <= kinds


def test_records_hold_every_cell(whole):
    folder, _ = whole
    kept = records.load(folder / "report" / "records" / "mini")
    assert kept.manifest["order"][:2] == ["start", "teacher"]
    assert not kept.manifest["missing"]
    assert set(kept.steps["arm"]) == {"opd", "fire", "neutral"}
    assert kept.steps.groupby("arm")["step"].max().tolist() == [4, 4, 4]
    final = kept.samples[(kept.samples["step"] == 4) & (kept.samples["bench"] == "toy-aime")]
    assert len(final) == 3 * 30 * 2
    curve = kept.samples[kept.samples["bench"] == "toy-held-out"]
    assert sorted(curve["step"].unique()) == [0, 2, 4]


def test_an_arm_that_does_nothing_is_called_inert(whole):
    folder, _ = whole
    kept = records.load(folder / "report" / "records" / "mini")
    assert set(kept.manifest["inert"]) == {"neutral"}
    assert "inert" in (folder / "report" / "pages" / "mini.html").read_text().lower()


def test_the_same_command_again_runs_nothing(whole):
    folder, _ = whole
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("steps.jsonl")}
    out = finish(folder)
    assert "5 of 5 cells are there already" in out
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("steps.jsonl")}


def test_the_manifest_says_where_arms_stand(whole):
    manifest = records.load(whole[0] / "report" / "records" / "mini").manifest
    assert manifest["figures"] == [{"kind": "sweep", "axis": "dropped", "label": "share of rollouts dropped"}]
    assert [manifest["arms"][arm].get("at") for arm in manifest["order"]] == [
        None,
        None,
        {},
        {"dropped": 0.2},
        {"dropped": 0.0},
    ]
    assert manifest["arms"]["neutral"]["edits"] == [["keep.fraction", "0.0"]] and not manifest["arms"]["fire"]["edits"]
    assert manifest["axes"] == ["dropped"] and manifest["set"] == [] and manifest["hub"] == {}


# --- killed ---------------------------------------------------------------------------------------------------

KEPT = ("samples.parquet", "steps.parquet", "rollouts.parquet", "profiles.parquet", "rollouts.json")


def written(folder: Path) -> int:
    """Bytes that the cells have left so far."""
    size = 0
    for at, _, names in os.walk(folder):  # passes over folders that vanish: a checkpoint is being replaced
        if not at.startswith((f"{folder}/report", f"{folder}/grids")):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    size += os.path.getsize(os.path.join(at, name))
    return size


def steps_made(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/timings.jsonl"))


def kill_after(folder: Path, measure: Callable[[Path], int], more: int, pause: float, *words: str) -> bool:
    """Kills a command and all of its processes once there is so much more; whether it was still at work."""
    child = start(folder, *words)
    goal = measure(folder) + more
    while child.poll() is None and measure(folder) < goal:
        time.sleep(0.005)
    time.sleep(pause)
    alive = child.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return alive


def finished(folder: Path) -> dict[Path, tuple[int, int]]:
    """The training logs of finished cells with size and time of their last change."""
    logs = [path for done in folder.glob("*/result.json") for path in done.parent.glob("*.jsonl")]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in logs}


def trial(whole: Path, folder: Path, kills: int, seed: int, *more: str) -> int:
    """How many steps were made again."""
    rng = random.Random(seed)
    total, done = written(whole), {}
    struck = 0
    for _ in range(kills):
        if rng.random() < 0.5:  # anywhere: while it starts, samples, grades, saves
            bytes_more = int(rng.uniform(0.0, 1.6) * total / (kills + 1))
            struck += kill_after(folder, written, bytes_more, rng.uniform(0.0, 0.4), *more)
        else:  # right after a step, which then has no checkpoint yet
            struck += kill_after(folder, steps_made, rng.randint(1, 6), 0.0, *more)
        # What was finished before is as it was: a cell that has its result is not opened for writing again.
        assert {path: mark for path, mark in finished(folder).items() if path in done} == done
        done = finished(folder)
    assert struck >= 0.7 * kills, "most kills found the grid at work"
    finish(folder, *more)
    assert {path: mark for path, mark in finished(folder).items() if path in done} == done
    assert reproducible(folder) == reproducible(whole)
    ours, theirs = (at / "report" / "records" / "mini" for at in (folder, whole))
    for name in KEPT:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    plain = [records.load(at).manifest | {"provenance": None} for at in (ours, theirs)]
    assert plain[0] == plain[1]
    # Timings are never taken back: they tell every step that was ever made. A step comes again only where a kill fell
    # between it and its checkpoint, which is one step of each of the two cells at work, and never from further back.
    again = 0
    for path in folder.rglob("timings.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == sorted(steps) and set(steps) == {1, 2, 3, 4}, path
        again += len(steps) - 4
    assert again <= 2 * struck
    return again


def test_killed_and_continued_equals_uninterrupted(whole, tmp_path):
    trial(whole[0], tmp_path, 1, 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fourteen_cells_killed_ten_times(tmp_path):
    seeds = ("--seeds", "0-3")
    finish(tmp_path / "whole", *seeds)
    assert len(list((tmp_path / "whole").glob("*/result.json"))) == 3 * 4 + 2
    again = trial(tmp_path / "whole", tmp_path / "killed", 10, 1, *seeds)
    print(f"{again} of {3 * 4 * 4} steps were made again")


def test_ctrl_c_stops_at_once_with_a_sentence(tmp_path):
    child = start(tmp_path)
    while not written(tmp_path) and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err
