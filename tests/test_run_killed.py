"""`opd train` under kill -9, and with a checkpoint that something has damaged."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness import cli
from harness.records import read_jsonl
from tests.conftest import ROOT
from tests.test_cli import TRAIN, fails

STEPS = 40
WORDS = [*TRAIN, "--steps", str(STEPS), "--prompts", "16", "--checkpoint-every", "2", "--bench", "toy-aime", "--k", "2"]
ALONE = [sys.executable, "-m", "harness.cli"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "harness.cli"]


def start(launch: list[str], out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*launch, *WORDS, "--out", str(out)], cwd=ROOT, stdout=-3, stderr=-3, start_new_session=True
    )


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in descendants(child)]


def killed(launch: list[str], out: Path, times: int, seed: int) -> None:
    """Runs the command, kills its process group that many times at random moments, and lets it end."""
    draw, steps = random.Random(seed), out / "steps.jsonl"
    for _ in range(times):
        before = steps.stat().st_mtime_ns if steps.exists() else 0
        child = start(launch, out)
        # Something of this life has to be written: then anywhere within the next steps, saving included.
        while child.poll() is None and (not steps.exists() or steps.stat().st_mtime_ns == before):
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.5))
        assert child.poll() is None, "ended before it was killed often enough"
        for pid in (child.pid, *descendants(child.pid)):  # torchrun's workers have process groups of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()
        rewind(out)
    assert start(launch, out).wait() == 0


def rewind(out: Path) -> None:
    """Nearly done: what is finished is forgotten, so that there is more to kill."""
    if (out / "steps.jsonl").exists() and len((out / "steps.jsonl").read_bytes().splitlines()) > STEPS - 10:
        for name in ("checkpoint", "checkpoint.old", "checkpoint.partial", "eval"):
            for path in sorted((out / name).rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            if (out / name).exists():
                (out / name).rmdir()


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_twenty_times_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    killed(ALONE, tmp_path / "killed", 20, seed=20261123)
    assert start(ALONE, tmp_path / "whole").wait() == 0
    for name in ("steps.jsonl", "profiles.jsonl", "rollouts.json", "checkpoint/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for path in sorted((tmp_path / "whole" / "eval").rglob("*.jsonl")):
        assert path.read_bytes() == (tmp_path / "killed" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    assert [row["step"] for row in read_jsonl(tmp_path / "killed" / "steps.jsonl")] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_with_two_processes_it_ends_alike(tmp_path: Path) -> None:
    killed(TWO, tmp_path / "killed", 4, seed=20261124)
    assert start(TWO, tmp_path / "whole").wait() == 0
    mine, theirs = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)
    rows = [list(read_jsonl(tmp_path / name / "steps.jsonl")) for name in ("killed", "whole")]
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)


@pytest.mark.parametrize("name", ["state.json", "optimiser.pt", "model.safetensors"])
@pytest.mark.parametrize("how", ["cut", "emptied", "gone"])
def test_a_damaged_checkpoint_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    words = [*TRAIN, "--prompts", "2", "--checkpoint-every", "1", "--out", str(tmp_path / "run")]
    assert cli.main([*words, "--steps", "1"]) == 0
    capsys.readouterr()
    (tmp_path / "run" / "result.json").unlink()
    file = tmp_path / "run" / "checkpoint" / name
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if how == "cut" else b"")
    said = fails(capsys, *words, "--steps", "1")
    assert str(tmp_path / "run" / "checkpoint") in said
    assert "remove" in said
