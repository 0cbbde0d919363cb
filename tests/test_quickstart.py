"""The main job end to end, in miniature and in real processes: train, evaluate, report; killed and continued."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import records

GRID = Path(__file__).parent / "mini_grid.py"


def start(folder: Path) -> subprocess.Popen[str]:
    code = "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["ablate", str(GRID), "--runs", str(folder), "--jobs", "2"]
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def reproducible(folder: Path) -> dict[str, bytes]:
    """Everything in the cells that must not depend on how often a run was interrupted."""
    names = ("steps.jsonl", "*.graded.jsonl", "rollouts.json", "model.safetensors", "toy-*.jsonl")
    return {str(p.relative_to(folder)): p.read_bytes() for name in names for p in folder.rglob(name)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    child = start(folder)
    out, err = child.communicate(timeout=280)
    assert child.returncode == 0, out + err
    return folder, out


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
    child = start(folder)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "5 of 5 cells are there already" in out
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("steps.jsonl")}


def trial(whole: Path, folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(kills):
        child = start(folder)
        time.sleep(rng.uniform(4.0, 16.0))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    child = start(folder)
    out, err = child.communicate(timeout=280)
    assert child.returncode == 0, out + err
    assert reproducible(folder) == reproducible(whole)
    for path in folder.rglob("steps.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == [1, 2, 3, 4], "no step is lost or done twice"


def test_killed_and_continued_equals_uninterrupted(whole, tmp_path):
    trial(whole[0], tmp_path, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_ten_times(whole, tmp_path):
    trial(whole[0], tmp_path, kills=10, seed=1)


def test_ctrl_c_stops_at_once_with_a_sentence(tmp_path):
    child = start(tmp_path)
    time.sleep(8.0)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err
