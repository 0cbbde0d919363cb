"""Losses on the teacher's most likely ids in a run: a server's answers against the same teacher in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fake_vllm import MODEL, ROWS, SEED, FakeVLLM
from tests.worlds import ListPrompts, tiny_policy, tiny_spec
from trainer.config import Optim
from trainer.engines import HFEngine
from trainer.errors import UserError
from trainer.loop import TrainState, train
from trainer.policy import Policy
from trainer.record import StepRecord
from trainer.remote_teacher import RemoteTeacher
from trainer.score_cache import CachedTeacher, ScoreCache, cached
from trainer.teachers import LocalTeacher, Teacher

STEADY = Optim(lr=1e-6, warmup=0, decay="constant")  # rounding does not grow into other rollouts


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVLLM]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    made = FakeVLLM(tiny_policy(SEED, ROWS))
    yield made
    made.close()


def run(method: str, student: Policy, teacher: Teacher, micro_batch: int = 64) -> list[StepRecord]:
    spec = tiny_spec(method, optim=STEADY, micro_batch=micro_batch)
    state = TrainState.start(spec, student)
    return [step.record for step in train(spec, state, ListPrompts(), HFEngine(student), teacher)]


@pytest.mark.parametrize("method", ["lsm", "topk-rkl-tail", "topk-fkl", "topk-fkl-tail"])
@pytest.mark.parametrize("micro_batch", [64, 2])
def test_a_run_with_the_servers_likely_ids_is_one_with_its_logits(
    server: FakeVLLM, method: str, micro_batch: int
) -> None:
    local = run(method, tiny_policy(1), LocalTeacher(server.policy), micro_batch)
    student = tiny_policy(1)
    remote = run(method, student, RemoteTeacher(server.url, MODEL, student, top_k=16), micro_batch)
    for here, there in zip(local, remote, strict=True):
        assert here.loss != 0 and not there.skipped
        assert there.loss == pytest.approx(here.loss, rel=1e-4)
        assert there.grad_norm == pytest.approx(here.grad_norm, rel=1e-4)
    student = tiny_policy(1)
    with pytest.raises(UserError, match=rf"'{method}' needs the 16 most likely ids from its teacher, which gives 8"):
        run(method, student, RemoteTeacher(server.url, MODEL, student, top_k=8))


@pytest.mark.parametrize("method", ["topk-rkl", "eopd", "full-rkl", "tip", "fire"])
def test_what_likely_ids_are_not_enough_for_is_refused(server: FakeVLLM, method: str) -> None:
    student = tiny_policy(1)
    with pytest.raises(
        UserError, match=rf"method '{method}' needs (entropy|logits).* from its teacher, which provides"
    ):
        run(method, student, RemoteTeacher(server.url, MODEL, student, top_k=16))


def test_the_cache_of_a_local_teacher_changes_no_weight(tmp_path: Path) -> None:
    found = []
    for wrap in (False, True, True):
        student, teacher = tiny_policy(1), LocalTeacher(tiny_policy(SEED))
        needs = tiny_spec("fire").objective().needs
        given = cached(teacher, ScoreCache(tmp_path), "t", needs) if wrap else teacher
        records = run("fire", student, given)
        found.append(torch.cat([p.detach().flatten() for p in student.model.parameters()]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])
    assert isinstance(given, CachedTeacher) and given.misses == 0
    assert records[0].teacher_entropy > 0
