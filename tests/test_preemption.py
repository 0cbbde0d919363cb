"""Processes that are asked to stop, or of which one fails: real ones, by way of the command line and torchrun."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from trainer import preemption
from trainer.distributed import Ranks
from trainer.preemption import CODE, Preempted, Stop

TOY = ["--student", "toy:student", "--max-tokens", "24", "--prompts", "6"]


def start(words: Sequence[str], processes: int = 1) -> subprocess.Popen[str]:
    """`python -m harness.cli …`, under torchrun where there are several processes."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *several, "-m", "harness.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def steps(folder: Path) -> list[dict[str, Any]]:
    path = folder / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_a_step(child: subprocess.Popen[str], folder: Path) -> None:
    while child.poll() is None and not steps(folder):
        time.sleep(0.1)


def said(err: str) -> list[str]:
    """What our own processes say; torchrun has its own to add."""
    return [line for line in err.splitlines() if line.startswith("opd: ")]


def train(out: Path, *more: str) -> list[str]:
    own = [] if "--teacher" in more else ["--teacher", "toy:teacher-math", "--data", "toy:math"]
    return ["train", "--method", "fire", *TOY, "--checkpoint-every", "1000", "--out", str(out), *own, *more]


# --- the listener ---------------------------------------------------------------------------------------------


def test_the_first_signal_is_heard_and_the_handler_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert not stop.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked()
        with pytest.raises(Preempted) as caught, stop.at_once():
            pytest.fail("work that could be left was begun after the signal")
    assert signal.getsignal(signal.SIGTERM) == before
    assert caught.value.code == CODE == 143
    assert str(caught.value) == "stopped by SIGTERM, everything is saved; the same command continues"


def test_work_that_can_be_left_is_left() -> None:
    with Stop() as stop, pytest.raises(Preempted), stop.at_once():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # cut short
    with Stop() as stop, stop.at_once():
        assert not stop.asked()


def test_among_several_processes_an_echo_is_no_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    # torchrun hands on what a cluster may have sent to every process already
    clock, killed = [100.0], []
    monkeypatch.setattr(preemption.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(preemption.os, "kill", lambda pid, number: killed.append(number))
    with Stop(Ranks(1, 2)) as stop:
        for moment in (100.0, 100.1, 100.0 + preemption.ECHO):
            clock[0] = moment
            signal.raise_signal(signal.SIGTERM)
        assert stop.since == 100.0
        assert killed == []
        clock[0] += 0.1
        signal.raise_signal(signal.SIGTERM)
        assert killed == [signal.SIGTERM]


LISTEN = """
import time
from trainer.preemption import Stop
with Stop() as stop:
    print("listening", flush=True)
    while not stop.asked():
        time.sleep(0.01)
    print("heard", flush=True)
    time.sleep(600)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    child = subprocess.Popen([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stdout is not None
    for line in ("listening", "heard"):
        assert child.stdout.readline().strip() == line
        child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=60) == -signal.SIGTERM
    child.stdout.close()


# --- the command line -----------------------------------------------------------------------------------------


def test_asked_to_stop_it_saves_the_step_and_the_same_command_continues(tmp_path: Path) -> None:
    words = train(tmp_path / "run", "--steps", "40")
    child = start(words)
    wait_for_a_step(child, tmp_path / "run")
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=120)
    assert child.returncode == CODE
    done = len(steps(tmp_path / "run"))
    (sentence,) = said(err)
    assert sentence == (
        f"opd: stopped by SIGTERM after step {done} of 40, everything is saved; the same command continues"
    )
    assert "Traceback" not in err
    assert 0 < done < 40
    # the step in hand is in the checkpoint, though none was due
    assert json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())["step"] == done
    assert not (tmp_path / "run" / "result.json").exists()


def test_one_process_that_fails_ends_all_with_one_sentence(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"problem": f"Compute {i}+4", "domain": "poetry" if i == 3 else "math"} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # both notice that there is no teacher for the poem, and one says so
    child = start(train(tmp_path / "run", "--teacher", "math=toy:teacher-math", "--data", str(data)), processes=2)
    _, err = child.communicate(timeout=200)
    assert child.returncode == 1  # torchrun's own
    [line] = said(err)
    assert re.fullmatch(
        r"opd: .*data.jsonl, line 4: a prompt of the domain .poetry., and there are teachers for math only: .*", line
    )
    assert "exitcode  : 2" in err
    assert not steps(tmp_path / "run")


STUCK = """
import sys, time
from trainer.distributed import join, one_voice
from trainer.errors import UserError
ranks = join("cpu", patience=10)
try:
    with one_voice(patience=10):
        if not ranks.first:
            time.sleep(600)
        ranks.most(1)
except UserError as error:
    sys.exit(f"opd: {error}")
"""


@pytest.mark.slow
def test_a_process_that_is_stuck_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "stuck.py"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=200, check=False)
    assert done.returncode == 1
    assert said(done.stderr) == [
        "opd: process 0 waited 10 s for the others: the same command continues from the last checkpoint; if a step may "
        "take longer, raise machine.patience"
    ]


@pytest.mark.slow
def test_two_processes_train_evaluate_and_are_continued_by_one(tmp_path: Path) -> None:
    both = tmp_path / "both"
    more = ("--steps", "20", "--bench", "toy-aime", "--k", "1")
    alone = start(train(tmp_path / "one", *more))
    _, err = alone.communicate(timeout=200)
    assert alone.returncode == 0, err
    child = start(train(both, *more), processes=2)
    wait_for_a_step(child, both)
    child.send_signal(signal.SIGTERM)  # to torchrun, which hands it on
    _, err = child.communicate(timeout=120)
    done = len(steps(both))
    assert done > 0
    assert said(err) == [
        f"opd: stopped by SIGTERM after step {done} of 20, everything is saved; the same command continues"
    ]
    # two again, then one
    child = start(train(both, *more), processes=2)
    whole, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert whole.count("fire: 20 steps") == 1  # one of them speaks
    for a, b in zip(steps(both), steps(tmp_path / "one"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
    assert [row["step"] for row in steps(both)] == list(range(1, 21))
    ours, theirs = (sorted(f.name for f in (d / "eval" / "step-00020").iterdir()) for d in (both, tmp_path / "one"))
    assert ours == theirs
    again = start(train(both, *more))
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
