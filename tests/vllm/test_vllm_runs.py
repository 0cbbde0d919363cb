"""Whole runs with vLLM: rollouts in this process, rollouts of a server, a server as teacher that is killed midway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from harness.evaluation.evaluations import graded
from harness.records import read_jsonl
from harness.stats import paired
from harness.toy import STUDENT, TEACHERS
from tests.conftest import ROOT
from tests.vllm.serving import VLLMServer, vllm_server
from trainer.data import derive_seed
from trainer.engines import HFEngine
from trainer.errors import UserError
from trainer.policy import Policy
from trainer.rollout import Sampling
from trainer.vllm_server import VLLMServerEngine

CLOSE = 3e-5  # nats, float32: what rounding makes of 40 tokens' log-probs
PROMPTS = [
    f"Compute {a}*{b}-{c}+{a}" for a, b, c in zip(range(2, 10), (5, 3, 8, 6, 4, 7, 2, 9), range(1, 9), strict=True)
]


def opd(*words: str) -> list[str]:
    return [sys.executable, "-m", "harness.cli", *words]


def train(out: Path, *options: str, steps: int = 4, teacher: str = "toy:teacher-math") -> list[str]:
    given = ["--student", "toy:student", "--teacher", teacher, "--data", "toy:math", "--prompts", "16"]
    given += ["--steps", str(steps), "--out", str(out), "--checkpoint-every", "1", *options]
    return opd("train", "--method", "opd", *given)


def done(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / "steps.jsonl"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    log = tmp_path_factory.mktemp("served") / "serve.log"
    with vllm_server(STUDENT, log, "student", "--logprobs-mode", "processed_logprobs", dev=True) as made:
        yield made


# --- rollouts of a server -------------------------------------------------------------------------------------


def test_samples_and_log_probs_over_syncs(server: VLLMServer) -> None:
    """Greedy samples are those of transformers, and log-probs are those of the trainer, before and after five syncs."""
    policy = Policy.load(STUDENT)
    engine = VLLMServerEngine(server.url, policy)
    prompts = [policy.render(text) for text in PROMPTS]
    seeds = [derive_seed("server", i) for i in range(len(prompts))]
    for step in range(6):
        engine.sync(policy)
        assert engine.version == step + 1 and engine.gap < CLOSE
        greedy = engine.generate(prompts, seeds, Sampling(40, 0.0))
        there = HFEngine(policy).generate(prompts, seeds, Sampling(40, 0.0))
        assert sum(a.ids == b.ids for a, b in zip(greedy, there, strict=True)) >= len(prompts) - 1  # a tie may break
        drawn = engine.generate(prompts, seeds, Sampling(40))
        assert [s.ids for s in drawn] == [s.ids for s in engine.generate(prompts, seeds, Sampling(40))]
        from trainer.handover import gap

        assert gap(policy, prompts, drawn) < CLOSE
        warm = engine.generate(prompts, seeds, Sampling(40, 0.7))
        assert gap(policy, prompts, warm, Sampling(40, 0.7)) < CLOSE
        assert {s.finish for s in drawn} <= {"stop", "length"}
        assert all((s.ids[-1] in policy.eos_ids) == (s.finish == "stop") for s in drawn)
        with torch.no_grad():
            torch.manual_seed(step)
            for parameter in policy.model.parameters():
                parameter += 0.02 * parameter.std() * torch.randn_like(parameter)


def test_a_server_that_lost_the_weights_is_noticed(server: VLLMServer) -> None:
    """Started anew, or taken by another run: its log-probs are not this run's any more."""
    mine, other = Policy.load(STUDENT), Policy.load(STUDENT)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    first, second = (VLLMServerEngine(server.url, policy) for policy in (mine, other))
    prompts = [mine.render(text) for text in PROMPTS]
    first.sync(mine)
    first.generate(prompts, range(len(prompts)), Sampling(8))
    second.sync(other)
    with pytest.raises(UserError, match=r"does not hold this run's weights any more .*another run uses it"):
        first.generate(prompts, range(len(prompts)), Sampling(8))


@pytest.mark.parametrize("where", ["process", "server"])
def test_a_run_with_vllm(server: VLLMServer, tmp_path: Path, where: str) -> None:
    how = "machine.vllm.context=192" if where == "process" else f"machine.vllm.server={server.url}"
    out = done(train(tmp_path / "run", "--engine", "vllm", "--set", how, "--bench", "toy-aime", "--k", "2"))
    assert "toy-aime" in out
    rows = steps_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["engine_gap"] < CLOSE and not row["skipped"] for row in rows)
    assert all(0.999 < row["ratio_p01"] <= row["ratio_p99"] < 1.001 for row in rows)
    manifest = json.loads((tmp_path / "run" / "eval" / "step-00004" / "evaluation.json").read_text())
    assert manifest["engine"] == "vllm"


def test_both_engines_train_alike(tmp_path: Path) -> None:
    """Other samples, the same method: after 40 steps both students have gained, and their difference is unresolved."""
    bench = ("--bench", "toy-aime", "--k", "16", "--prompts", "64", "--method", "full-rkl")
    done(train(tmp_path / "hf", *bench, steps=40))
    done(train(tmp_path / "vllm", *bench, "--engine", "vllm", "--set", "machine.vllm.context=192", steps=40))
    done(opd("eval", "toy:student", "--bench", "toy-aime", "--k", "16", "--out", str(tmp_path / "start")))
    right = {name: per_problem(tmp_path / name / "eval" / "step-00040") for name in ("hf", "vllm")} | {
        "start": per_problem(tmp_path / "start")
    }
    for name in ("hf", "vllm"):
        assert paired(right["start"], right[name]).low > 0
    difference = paired(right["hf"], right["vllm"])
    print(f"vllm − hf after 40 steps: {difference.delta:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]")
    assert difference.low < 0 < difference.high


def per_problem(folder: Path) -> Any:
    """[n,k] verdicts."""
    found: dict[str, list[bool]] = {}
    for row in sorted(graded(folder, "toy-aime"), key=lambda row: (row["problem"], row["sample"])):
        found.setdefault(row["problem"], []).append(row["correct"])
    return np.array(list(found.values()))


def test_two_processes_share_a_server(server: VLLMServer, tmp_path: Path) -> None:
    command = train(tmp_path / "two", "--engine", "vllm", "--set", f"machine.vllm.server={server.url}", steps=2)
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *command[1:]]
    done(started)
    rows = steps_of(tmp_path / "two")
    assert len(rows) == 2 and all(row["engine_gap"] < CLOSE for row in rows)
    refused = train(tmp_path / "no", "--engine", "vllm", steps=2)
    alone = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *refused[1:]]
    ended = subprocess.run(alone, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert ended.returncode != 0
    assert "2 processes share one vLLM server: start one and name it with machine.vllm.server=" in ended.stderr


# --- a server as teacher --------------------------------------------------------------------------------------


def reached(child: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    """Waits until a run has made its step number `step`."""
    steps, end = folder / "steps.jsonl", time.monotonic() + 300
    while not (steps.exists() and len(steps.read_bytes().splitlines()) >= step):
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def test_run_and_teacher_killed_midway_are_continued(tmp_path: Path) -> None:
    """SIGKILL for the server, which a run waits for; for the run; for both: every step is there once."""
    out = tmp_path / "run"
    with vllm_server(TEACHERS["math"], tmp_path / "serve.log", "big") as server:
        more = ("--set", f"machine.score_cache={tmp_path / 'scores'}")
        command = train(out, *more, steps=40, teacher=f"server:big@{server.url}")
        child = subprocess.Popen(command, cwd=ROOT)
        reached(child, out, 3)
        server.kill()
        server.start()
        server.wait()
        reached(child, out, 8)  # the same process: it has waited
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        before = steps_of(out)
        assert 8 <= len(before) < 40
        server.kill()
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
        assert ended.returncode == 2
        assert f"{server.url} did not give its list of models after 3 tries" in ended.stderr
        assert steps_of(out) == before[: len(steps_of(out))]  # nothing lost but, at most, a step without a checkpoint
        assert len(steps_of(out)) >= len(before) - 1
        server.start()
        server.wait()
        done(command)
    rows = steps_of(out)
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[: len(before) - 1] == before[:-1]


def test_a_local_and_a_remote_specialist(tmp_path: Path) -> None:
    """Two domains, one teacher here and one behind a server: the student gets better in both."""
    with vllm_server(TEACHERS["code"], tmp_path / "serve.log", "coder") as server:
        command = opd("train", "--method", "topk-fkl", "--student", "toy:student", "--data", "toy:math+code")
        command += ["--teacher", "math=toy:teacher-math", "--teacher", f"code=server:coder@{server.url}"]
        benches = ["--bench", "toy-aime", "toy-code", "--k", "8"]
        done([*command, *benches, "--steps", "40", "--prompts", "64", "--out", str(tmp_path / "run")])
        refused = [*command, "--steps", "2", "--out", str(tmp_path / "x")]
        refused[refused.index("topk-fkl")] = "full-rkl"
        ended = subprocess.run(refused, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
        assert ended.returncode == 2
        assert "method 'full-rkl' needs logits from its teacher for 'code', which provides only" in ended.stderr
    done(opd("eval", "toy:student", *benches, "--out", str(tmp_path / "start")))
    for bench in ("toy-aime", "toy-code"):
        before = [row["correct"] for row in graded(tmp_path / "start", bench)]
        after = [row["correct"] for row in graded(tmp_path / "run" / "eval" / "step-00040", bench)]
        assert len(before) == len(after)
        assert sum(after) / len(after) > sum(before) / len(before) + 0.05, bench
