"""Cells as Ray tasks on a real cluster of this machine: the records are those of local processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray

from harness.commands import ablate
from harness.errors import UserError
from harness.evaluation import toy_plan
from harness.records import load
from harness.runs.cell import Cell, is_done
from harness.runs.execution import run_cells
from harness.runs.ray_executor import on_ray
from harness.runs.states import read_state
from tests.conftest import ROOT
from tests.mini_grid import GRID as MINI
from trainer.config import Data

GRID = str(ROOT / "tests" / "mini_grid.py")
KEPT = ("samples.parquet", "steps.parquet", "rollouts.parquet", "profiles.parquet", "rollouts.json")
CODE = "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"


def finish(folder: Path, *words: str, **env: str) -> str:
    # As the project would be on every machine of a cluster: importable wherever a worker starts.
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.run(
        [sys.executable, "-c", CODE, "ablate", GRID, "--runs", str(folder), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths} | env,
        cwd=folder.parent,
        timeout=280,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "runs"
    finish(folder, "--jobs", "2")
    return folder


def assert_same(ours: Path, theirs: Path) -> None:
    ours, theirs = (at / "report" / "records" / "mini" for at in (ours, theirs))
    for name in KEPT:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    assert load(ours).manifest == load(theirs).manifest


def test_two_workers_give_the_records_of_local_processes(local: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    out = finish(runs, "--executor", "ray", "--jobs", "2")
    assert "5 cells on a Ray cluster" in out and "5/5" in out
    assert_same(runs, local)
    workers = {json.loads(path.read_text())["pid"] for path in runs.glob("*/status.json")}
    assert len(workers) == 2, "both worked"
    assert finish(runs, "--executor", "ray", "--jobs", "2").count("5 of 5 cells are there already") == 1


def test_a_cluster_that_is_there_is_used_and_left_running(local: Path, tmp_path: Path) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        address = ray.get_runtime_context().gcs_address
        for number in range(2):
            runs = tmp_path / f"runs-{number}"
            finish(runs, "--executor", "ray", RAY_ADDRESS=address)
            assert_same(runs, local)
        assert ray.is_initialized() and ray.cluster_resources()["CPU"] == 2
    finally:
        ray.shutdown()


# --- failures -------------------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the project where this process does."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", paths)


def test_failures_are_kept_and_do_not_stop_the_others(here: None, tmp_path: Path) -> None:
    plan = replace(toy_plan("toy-aime", 1), limit=1)
    bad = Cell("bad", 0, (), replace(MINI.base, data=Data("no/such/file.jsonl")))
    dies = Cell("dies", 0, (), replace(MINI.base, steps=10_000))
    good = Cell("good", 0, (plan,), model="toy:student", curve=plan)
    killed: list[int] = []

    def watch(states: object, failures: object) -> None:
        folder = tmp_path / dies.run_id
        if read_state(folder).step >= 2 and not killed:
            killed.append(json.loads((folder / "status.json").read_text())["pid"])
            os.kill(killed[0], signal.SIGKILL)

    failures = run_cells([bad, dies, good], tmp_path, on_ray(2), watch)
    assert set(failures) == {bad.run_id, dies.run_id} and is_done(good, tmp_path)
    assert "no/such/file.jsonl does not exist" in failures[bad.run_id]
    assert "its Ray task was lost" in failures[dies.run_id] and "\n" not in failures[dies.run_id]
    state = read_state(tmp_path / dies.run_id)
    assert state.state == "failed" and state.step >= 2 and "its Ray task was lost" in state.why


def test_a_cell_too_large_for_the_cluster_is_one_sentence(here: None, tmp_path: Path) -> None:
    cell = Cell("a", 0, (), MINI.base)
    with pytest.raises(UserError, match="a cell wants 3 GPUs, and the Ray cluster has 0"):
        run_cells([cell], tmp_path, on_ray(1, gpus=3))
    assert not ray.is_initialized()


def test_no_cluster_at_that_address_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"Ray gives no cluster \(.*refused.*check RAY_ADDRESS") as refused:
        run_cells([Cell("a", 0, (), MINI.base)], tmp_path, on_ray())
    assert "\n" not in str(refused.value)


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed: pip install 'opd-harness\[ray\]'"):
        on_ray()
    assert "ray" in ablate.EXAMPLES
