"""`opd eval` under kill -9: the same command ends with the files of an uninterrupted run, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.evaluation.evaluations import responses
from tests.conftest import ROOT

WORDS = ["eval", "toy:student", "--bench", "toy-minerva", "--k", "8"]


def start(out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "harness.cli", *WORDS, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_ten_times_while_answering(tmp_path):
    draw = random.Random(20261122)
    file = tmp_path / "killed" / "toy-minerva.jsonl"
    kills = 0
    while kills < 10:
        child = start(file.parent)
        before = size(file)
        # a block of 256 answers takes a fraction of a second: the kill comes somewhere within the next one or two
        while child.poll() is None and size(file) == before:
            time.sleep(0.01)
        assert child.poll() is None, "ended before it could be killed ten times"
        if kills < 9:  # one block a life leaves enough to kill
            time.sleep(draw.uniform(0, 0.1))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
        if size(file) > 0.8 * 272 * 8 * 400:  # nearly done: begin again with what a torn write would leave
            data = file.read_bytes()
            file.write_bytes(data[: int(len(data) * draw.uniform(0.1, 0.5))])
    assert start(file.parent).wait() == 0
    assert start(tmp_path / "whole").wait() == 0
    rows = [(row["problem"], row["sample"]) for row in responses(file.parent, "toy-minerva")]
    assert len(rows) == len(set(rows)) == 272 * 8
    for name in ("toy-minerva.jsonl", "toy-minerva.graded.jsonl", "toy-minerva.problems.jsonl", "metrics.csv"):
        assert (file.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
