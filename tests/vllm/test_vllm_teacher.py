"""A real vLLM server as a teacher, beside the same teacher in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")

from harness.runs.prompts import toy
from harness.toy import STUDENT, TEACHERS
from tests.vllm.serving import vllm_server
from tests.worlds import tiny_policy
from trainer.config import Data, Optim, RunSpec
from trainer.data import derive_seed
from trainer.engines import HFEngine
from trainer.errors import UserError
from trainer.loop import Step, TrainState, train
from trainer.policy import Policy, share_vocabulary
from trainer.remote_teacher import RemoteTeacher
from trainer.rollout import Rollouts, Sampling, pack
from trainer.score_cache import CachedTeacher, ScoreCache
from trainer.teachers import LocalTeacher, Teacher, flatten

CLOSE = 1e-4  # nats, float32: what rounding makes of 40 tokens' log-probs (2.3e-5 was the most seen)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if "OPD_TEST_TEACHER_URL" in os.environ:  # one that is running already
        yield os.environ["OPD_TEST_TEACHER_URL"]
        return
    with vllm_server(TEACHERS["math"], tmp_path_factory.mktemp("served") / "serve.log", "toy") as server:
        yield server.url


@pytest.fixture(scope="module")
def pair() -> tuple[Policy, Policy]:
    student, teacher = Policy.load(STUDENT), Policy.load(TEACHERS["math"])
    share_vocabulary(student, teacher)
    return student, teacher


@pytest.fixture(scope="module")
def rollouts(pair: tuple[Policy, Policy]) -> Rollouts:
    student, _ = pair
    prompts = toy("toy:math", 0).batch(0, 48)
    ids = [student.render(prompt.text) for prompt in prompts]
    seeds = [derive_seed("teacher test", i) for i in range(48)]
    samples = HFEngine(student).generate(ids, seeds, Sampling(40))
    return pack(prompts, ids, samples, seeds, student.pad_id)


def test_its_log_probs_and_likely_ids_are_those_of_the_same_model_here(
    url: str, pair: tuple[Policy, Policy], rollouts: Rollouts
) -> None:
    student, teacher = pair
    here = LocalTeacher(teacher).score(rollouts)
    assert here.logits is not None
    remote = RemoteTeacher(url, "toy", student, top_k=16)
    assert remote.provides == {"logprobs", "topk_logprobs"}
    assert remote.context == 192 and remote.fingerprint == f"server:toy({TEACHERS['math']})"
    there = remote.score(rollouts)
    expected, _ = flatten(here, rollouts.targets)
    assert there.logprobs is not None and there.topk is not None
    assert float((there.logprobs - expected).abs().max()) < CLOSE
    positions = torch.arange(len(expected))
    full, known = here.logits(positions).log_softmax(-1), there.topk(positions)
    torch.testing.assert_close(known.topk(16).values, full.topk(16).values, rtol=0, atol=CLOSE)
    torch.testing.assert_close(known.exp().sum(-1), torch.ones(len(expected)), rtol=0, atol=1e-5)
    # without the likely ids the same numbers come back
    alone = RemoteTeacher(url, "toy", student).score(rollouts)
    assert alone.topk is None and alone.logprobs is not None
    torch.testing.assert_close(alone.logprobs, there.logprobs, rtol=0, atol=CLOSE)


def run(spec: RunSpec, teacher: Teacher, student: Policy) -> list[Step]:
    state = TrainState.start(spec, student)
    return list(train(spec, state, toy("toy:math", 0), HFEngine(student), teacher))


def test_training_with_it_is_training_with_the_same_model_here(
    url: str, pair: tuple[Policy, Policy], tmp_path: Path
) -> None:
    spec = RunSpec("opd", "toy", (("", "toy"),), Data("toy:math", 16), Sampling(40), Optim(lr=1e-4, warmup=1), steps=3)
    policies = [Policy.load(STUDENT) for _ in range(4)]
    for policy in policies:
        share_vocabulary(policy, pair[1])
    local = run(spec, LocalTeacher(pair[1]), policies[0])
    remote = run(spec, RemoteTeacher(url, "toy", policies[1]), policies[1])
    for a, b in zip(local, remote, strict=True):
        assert torch.equal(a.rollouts.input_ids, b.rollouts.input_ids)
        assert b.record.kl == pytest.approx(a.record.kl, abs=CLOSE)
        assert b.record.grad_norm == pytest.approx(a.record.grad_norm, rel=1e-3)
        assert not b.record.skipped
    # through a cache the first time, and out of it the second: the same records to the bit
    again = []
    for policy in policies[2:]:
        inner = RemoteTeacher(url, "toy", policy)
        teacher = CachedTeacher(inner, ScoreCache(tmp_path / "cache"), inner.fingerprint)
        again.append([str(asdict(step.record)) for step in run(spec, teacher, policy)])
    assert again[0] == again[1]
    assert (teacher.hits, teacher.misses) == (48, 0)


def test_its_limits_are_told_at_the_start(url: str, pair: tuple[Policy, Policy], rollouts: Rollouts) -> None:
    student, _ = pair
    with pytest.raises(UserError, match=r"the 21 most likely ids .*--max-logprobs 21 or more .*max allowed: 20"):
        RemoteTeacher(url, "toy", student, top_k=21)
    with pytest.raises(UserError, match=r"has no model 'gpt': it has toy"):
        RemoteTeacher(url, "gpt", student)
    with pytest.raises(UserError, match=r"have different vocabularies: of .* serve a model of the student's tokenizer"):
        RemoteTeacher(url, "toy", tiny_policy(1))
    remote = RemoteTeacher(url, "toy", student)
    with pytest.raises(UserError, match=r"rollout 0 has 192 tokens, and 'toy' at .* takes 191: .*--max-model-len"):
        list(remote.score_rows([([5] * 100, [6] * 92)]))
    assert len(dict(remote.score_rows([([5] * 100, [6] * 91)]))[0].logprobs) == 91
    with pytest.raises(UserError, match=r"refused the log-probs of rollout 0 .*out of vocabulary"):
        list(remote.score_rows([([5, 6], [7, 999])]))
