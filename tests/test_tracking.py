"""Dashboards: TensorBoard's own event files where it is installed, stand-ins for those that live on servers."""

from __future__ import annotations

import builtins
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.errors import UserError
from harness.records import append_jsonl, cut_jsonl
from harness.runs.tracking import TRACKERS, open_trackers
from tests.conftest import ROOT
from tests.worlds import tiny_spec

SPEC = tiny_spec("fire")


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 1.0 / step, "skipped": False, "reverse_kl": float("nan")} | more


class Dashboard:
    """What wandb and trackio have in common: runs that outlive processes, and calls that are noted."""

    def __init__(self, name: str) -> None:
        self.module: Any = ModuleType(name)
        self.opened: list[dict[str, Any]] = []
        self.shown: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.trouble: Exception | None = None
        self.module.init = self.init

    def init(self, **options: Any) -> Dashboard:
        if self.trouble:
            raise self.trouble
        self.opened.append(options)
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        if self.trouble:
            raise self.trouble
        self.shown.append((step, numbers))

    def finish(self) -> None:
        if self.trouble:
            raise self.trouble
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def dashboard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboard]:
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    made = Dashboard(request.param)
    monkeypatch.setitem(sys.modules, request.param, made.module)
    yield made


def name_of(dashboard: Dashboard) -> str:
    return str(dashboard.module.__name__)


def test_a_run_is_opened_under_its_id_and_shown_its_numbers(dashboard: Dashboard, tmp_path: Path) -> None:
    [tracker] = open_trackers([name_of(dashboard)], tmp_path, "fire-12345678", SPEC)
    [options] = dashboard.opened
    assert options["project"] == "opd" and options["name"] == "fire-12345678" and options["resume"] == "allow"
    assert options["config"]["method"] == "fire" and options["config"]["data"]["prompts"] == 5
    if name_of(dashboard) == "wandb":
        assert options["id"] == "fire-12345678" and options["dir"] == str(tmp_path)
        assert "mode" not in options  # WANDB_MODE decides
    json.dumps(options["config"])
    tracker.log(row(1))
    tracker.log({"step": 1, "accuracy": 0.5, "note": "text", "none": None, "inf": math.inf}, kind="eval")
    tracker.log(row(2, skipped=True))
    tracker.finish()
    assert dashboard.shown == [
        (1, {"train/loss": 1.0, "train/skipped": 0.0}),
        (1, {"eval/accuracy": 0.5}),
        (2, {"train/loss": 0.5, "train/skipped": 1.0}),
    ]
    assert dashboard.finished == 1
    tracker.log(row(3))
    tracker.finish()
    assert len(dashboard.shown) == 3 and dashboard.finished == 1


def test_projects_can_be_named(dashboard: Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name_of(dashboard).upper()}_PROJECT", "mine")
    open_trackers([name_of(dashboard)], tmp_path, "x-1", SPEC)
    assert dashboard.opened[0]["project"] == "mine"


def test_a_continued_run_shows_no_step_twice_and_leaves_none_out(dashboard: Dashboard, tmp_path: Path) -> None:
    steps = tmp_path / "steps.jsonl"
    [tracker] = open_trackers([name_of(dashboard)], tmp_path, "x-1", SPEC)
    for step in range(1, 8):
        append_jsonl(steps, [row(step)])
        tracker.log(row(step))
    # killed at step 7; the checkpoint was of step 5, and steps 6 and 7 are made again
    cut_jsonl(steps, 5)
    [tracker] = open_trackers([name_of(dashboard)], tmp_path, "x-1", SPEC)
    for step in range(6, 11):
        append_jsonl(steps, [row(step)])
        tracker.log(row(step))
    assert [step for step, _ in dashboard.shown] == list(range(1, 11))
    assert [options["name"] for options in dashboard.opened] == ["x-1", "x-1"]


def test_a_tracker_that_joins_later_is_shown_what_it_missed(dashboard: Dashboard, tmp_path: Path) -> None:
    append_jsonl(tmp_path / "steps.jsonl", [row(step) for step in range(1, 6)])
    [tracker] = open_trackers([name_of(dashboard)], tmp_path, "x-1", SPEC)
    assert [step for step, _ in dashboard.shown] == [1, 2, 3, 4, 5]
    tracker.log(row(6))
    assert [step for step, _ in dashboard.shown][-1] == 6


def test_a_kill_between_note_and_step_leaves_it_out(dashboard: Dashboard, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    [tracker] = open_trackers([name_of(dashboard)], tmp_path, "x-1", SPEC)
    tracker.log(row(1))
    dashboard.trouble = Killed()  # type: ignore[assignment]
    with pytest.raises(Killed):
        tracker.log(row(2))
    dashboard.trouble = None
    append_jsonl(tmp_path / "steps.jsonl", [row(1), row(2)])
    [tracker] = open_trackers([name_of(dashboard)], tmp_path, "x-1", SPEC)
    tracker.log(row(3))
    assert [step for step, _ in dashboard.shown] == [1, 3]


@pytest.mark.parametrize("when", ["open", "log", "finish"])
def test_a_dashboard_in_trouble_warns_once_and_the_run_goes_on(dashboard: Dashboard, tmp_path: Path, when: str) -> None:
    name, trouble = name_of(dashboard), ConnectionError("no network\nand a long story")
    says = (
        rf"{name} is off for the rest of this run \(ConnectionError: no network\); the records in steps.jsonl are whole"
    )
    if when == "open":
        dashboard.trouble = trouble
        with pytest.warns(RuntimeWarning, match=says):
            [tracker] = open_trackers([name], tmp_path, "x-1", SPEC)
    else:
        [tracker] = open_trackers([name], tmp_path, "x-1", SPEC)
        tracker.log(row(1))
        dashboard.trouble = trouble
        with pytest.warns(RuntimeWarning, match=says):
            tracker.log(row(2)) if when == "log" else tracker.finish()
    assert not tracker.working
    dashboard.trouble = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log(row(3))
        tracker.finish()
    assert 3 not in [step for step, _ in dashboard.shown]


def test_a_note_that_cannot_be_read_is_trouble_too(dashboard: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / f"{name_of(dashboard)}.json").write_text("{")
    with pytest.warns(RuntimeWarning, match="is off for the rest of this run"):
        [tracker] = open_trackers([name_of(dashboard)], tmp_path, "x-1", SPEC)
    assert not tracker.working and not dashboard.opened


def test_bad_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown tracker 'tensorbord': there are tensorboard, wandb, trackio"):
        open_trackers(["tensorbord"], tmp_path, "x-1", SPEC)
    with pytest.raises(UserError, match="tracker 'wandb' is named twice"):
        open_trackers(["wandb", "wandb"], tmp_path, "x-1", SPEC)
    assert open_trackers([], tmp_path, "x-1", SPEC) == []


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_told_at_the_start(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named '{module}'")
        return real(module, *args, **kwargs)

    for module in [m for m in sys.modules if m.partition(".")[0] == name or m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    find = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda module: without(module) if module == name else find(module))
    with pytest.raises(
        UserError, match=rf"^tracker '{name}' needs the package '{name}' \(No .*\): pip install {name}$"
    ):
        open_trackers([name], tmp_path, "x-1", SPEC)


def test_nothing_of_a_dashboard_is_imported_before_it_is_wanted() -> None:
    code = (
        "import sys, harness.runs.tracking\n"
        "print({m.partition('.')[0] for m in sys.modules} & {'torch', 'tensorboard', 'wandb', 'trackio'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0})
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_tensorboards_own_files_hold_the_records(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    steps = tmp_path / "steps.jsonl"
    [tracker] = open_trackers(["tensorboard"], tmp_path, "x-1", SPEC)
    for step in range(1, 5):
        append_jsonl(steps, [row(step)])
        tracker.log(row(step))
    tracker.log({"step": 4, "accuracy": 0.25}, kind="eval")
    # killed: never finished
    cut_jsonl(steps, 2)
    [again] = open_trackers(["tensorboard"], tmp_path, "x-1", SPEC)
    for step in range(3, 7):
        append_jsonl(steps, [row(step)])
        again.log(row(step))
    again.finish()
    assert scalars(tmp_path) == {
        "train/loss": [(step, pytest.approx(1.0 / step)) for step in range(1, 7)],
        "train/skipped": [(step, 0.0) for step in range(1, 7)],
        "eval/accuracy": [(4, 0.25)],
    }


KILLED = """
import os, signal, sys
from pathlib import Path
from harness.runs.tracking import open_trackers
from tests.test_tracking import SPEC, row
[tracker] = open_trackers(["tensorboard"], Path(sys.argv[1]), "x-1", SPEC)
for step in range(1, 4):
    tracker.log(row(step))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_has_shown_what_it_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert [step for step, _ in scalars(tmp_path)["train/loss"]] == [1, 2, 3]


def test_a_real_record_is_shown_whole(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tests.test_loop import run

    [tracker] = open_trackers(["tensorboard"], tmp_path, SPEC.run_id, SPEC)
    steps, _ = run(SPEC)
    for step in steps:
        tracker.log(asdict(step.record))
        tracker.log(asdict(step.timing), kind="timing")
    tracker.finish()
    found = scalars(tmp_path)
    record = asdict(steps[0].record)
    assert {f"train/{name}" for name in record if name != "step"} <= set(found)
    for name, value in record.items():
        if name != "step":
            assert found[f"train/{name}"][0] == (1, pytest.approx(float(value), rel=1e-6)), name
    assert "timing/seconds_rollout" in found
