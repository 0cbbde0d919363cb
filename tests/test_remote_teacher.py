"""The remote teacher against a real HTTP server that misbehaves in every way it is told to, and the cache in front."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT as PROJECT
from tests.fake_vllm import MODEL, ROOT, ROWS, SEED, FakeVLLM, Reply, answer, failure
from tests.worlds import ListPrompts, tiny_policy, tiny_spec, tiny_tokenizer
from trainer import endpoint as module
from trainer.batches import take
from trainer.config import RunSpec
from trainer.data import Prompt
from trainer.divergences import generalised_jsd
from trainer.engines import HFEngine
from trainer.errors import UserError
from trainer.loop import TrainState, train
from trainer.losses import TopK
from trainer.policy import Policy
from trainer.prompt_logprobs import spread
from trainer.remote_teacher import RemoteTeacher
from trainer.rollout import Rollouts, Sample, pack
from trainer.score_cache import CachedTeacher, ScoreCache, cached, score_key
from trainer.teachers import LocalTeacher, RoutedTeacher, Teacher, TeacherScores, flatten, token_ids

KEY = "sk-very-secret-0123456789"
PROMPTS = [[3, 5, 6, 7, 4], [8], [9, 10, 11, 12], [13, 14], [15, 16]]
ANSWERS = [(20, 21, 1), (22, 1), (23, 24, 25, 26), (), (27, 28)]


def batch(rows: list[int] | None = None) -> Rollouts:
    rows = list(range(5)) if rows is None else rows
    return pack(
        [Prompt(f"p{i}", "") for i in rows],
        [PROMPTS[i] for i in rows],
        [Sample(ANSWERS[i], (0.0,) * len(ANSWERS[i]), "stop") for i in rows],
        rows,
        0,
    )


@pytest.fixture(scope="module")
def teacher_policy() -> Policy:
    return tiny_policy(SEED, ROWS)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, teacher_policy: Policy) -> Iterator[FakeVLLM]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == module.KEY:
            monkeypatch.delenv(name)
    made = FakeVLLM(teacher_policy)
    yield made
    made.close()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, none of which is waited for."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module, "_sleep", note)
    return waits


def remote(server: FakeVLLM, student: Policy | None = None, **options: Any) -> RemoteTeacher:
    student = student or tiny_policy(1)
    return RemoteTeacher(server.url, MODEL, student, **{"concurrency": 4, "timeout": 30.0, **options})


def one_by_one(policy: Policy) -> torch.Tensor:
    """[11] log-probs of the batch's response tokens, a plain forward per rollout."""
    found = []
    for prompt, response in zip(PROMPTS, ANSWERS, strict=True):
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
        logp = logits[:, : policy.vocab].float().log_softmax(-1)
        found += [logp[len(prompt) - 1 + i, token] for i, token in enumerate(response)]
    return torch.stack(found)


def meddled(server: FakeVLLM, change: Callable[[dict[str, Any], list[Any]], Any]) -> Callable[[Any, int], Reply]:
    """A right answer to token ids, after `change(data, its prompt log-probs)`."""

    def play(request: dict[str, Any], before: int) -> Reply:
        data = server.data(request)
        if isinstance(request["prompt"], list):
            change(data, data["choices"][0]["prompt_logprobs"])
        return answer(data)

    return play


# --- what is asked and what comes back --------------------------------------------------------------------------------


def test_log_probs_of_the_very_tokens_to_the_bit(server: FakeVLLM, teacher_policy: Policy) -> None:
    found = remote(server).score(batch())
    assert found.logits is None and found.topk is None and found.entropy is None
    assert found.logprobs is not None and found.logprobs.dtype == torch.float32
    assert torch.equal(found.logprobs, one_by_one(teacher_policy))  # JSON carries a float32 without loss


def test_a_request_for_every_rollout_with_token_ids(server: FakeVLLM) -> None:
    teacher = remote(server)
    assert teacher.provides == {"logprobs"}
    assert teacher.fingerprint == f"server:{MODEL}({ROOT})"
    probes = len(server.asked)
    teacher.score(batch())
    asked = sorted(server.asked[probes:], key=lambda request: request["prompt"])
    assert [request["prompt"] for request in asked] == sorted(
        [*prompt, *response] for prompt, response in zip(PROMPTS, ANSWERS, strict=True) if response
    )
    assert asked[0] == {
        "model": MODEL,
        "prompt": [3, 5, 6, 7, 4, 20, 21, 1],
        "prompt_logprobs": 0,
        "max_tokens": 1,
        "temperature": 0.0,
        "stream": False,
        "add_special_tokens": False,
    }
    assert {type(request["prompt"]) for request in server.asked[:probes]} == {str}


def test_an_empty_batch_asks_nothing(server: FakeVLLM) -> None:
    teacher = remote(server, top_k=3)
    before = len(server.asked)
    found = teacher.score(batch([3]))
    assert len(server.asked) == before
    assert found.logprobs is not None and found.logprobs.shape == (0,)


@pytest.mark.parametrize("top_k", [0, 3])
def test_a_process_without_rollouts_has_no_scores(server: FakeVLLM, tmp_path: Path, top_k: int) -> None:
    teacher, local = remote(server, top_k=top_k), LocalTeacher(tiny_policy(3))
    nothing = take(batch(), torch.zeros(0, dtype=torch.int64))
    members: list[Teacher] = [teacher, RoutedTeacher({"": teacher}), RoutedTeacher({"a": local, "b": teacher})]
    members += [CachedTeacher(inner, ScoreCache(tmp_path), "t") for inner in (teacher, RoutedTeacher({"": local}))]
    for one in members:
        found = one.score(nothing).logprobs
        assert found is not None and found.shape == (0,)


def test_as_many_requests_at_a_time_as_asked_for_and_no_more(server: FakeVLLM) -> None:
    teacher = remote(server, concurrency=3)
    barrier = threading.Barrier(3)  # opens for three at a time only

    def play(request: dict[str, Any], before: int) -> Reply:
        barrier.wait(60)
        return server.complete(request)

    server.play, server.busiest = play, 0
    rows = [([5, 6], [7 + i, 8]) for i in range(12)]
    assert len(dict(teacher.score_rows(rows))) == 12
    assert server.busiest == 3


def test_rows_come_as_they_are_ready_and_the_rest_can_be_given_up(server: FakeVLLM) -> None:
    teacher = remote(server, timeout=3600.0)
    server.play = lambda request, before: server.hang() if request["prompt"][0] == 5 else server.complete(request)
    stream = teacher.score_rows([([5], [6]), ([7], [8]), ([9], [10])])
    assert {next(stream)[0] for _ in range(2)} == {1, 2}
    stream.close()  # would wait for an hour


def test_it_works_where_an_event_loop_is_running_already(server: FakeVLLM) -> None:
    async def notebook() -> TeacherScores:
        return remote(server).score(batch([0]))

    found = asyncio.run(notebook()).logprobs
    assert found is not None and found.shape == (3,)


# --- the most likely ids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "tail"), [(4, "drop"), (4, "renormalise"), (4, "bucket"), (20, "bucket"), (2, "drop")])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_losses_on_the_teachers_support_are_those_of_its_logits(
    server: FakeVLLM, teacher_policy: Policy, k: int, tail: Any, beta: float
) -> None:
    student = tiny_policy(1)
    teacher = remote(server, student, top_k=20)  # more than most of the losses ask for
    assert teacher.provides == {"logprobs", "topk_logprobs"}
    view, positions = teacher.score(batch()), torch.arange(11)
    here = LocalTeacher(teacher_policy).score(batch())
    assert here.logits is not None and view.topk is not None and view.logits is None
    assert torch.equal(view.logprobs, one_by_one(teacher_policy))  # type: ignore[arg-type]
    ours = torch.randn(11, student.vocab, generator=torch.Generator().manual_seed(0))
    support = TopK(k, "teacher", tail)
    grads, losses = [], []
    for logits in (here.logits, view.topk):
        mine = ours.clone().requires_grad_()
        loss = generalised_jsd(*support(mine.log_softmax(-1), logits(positions).log_softmax(-1)), beta)
        grads.append(torch.autograd.grad(loss.sum(), mine)[0])
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-5)


def test_a_spread_by_hand() -> None:
    # 1 − (0.5 + 0.3) = 0.2 on two other ids: 0.1 each
    ids, top = torch.tensor([[2, 0]]), torch.tensor([[0.5, 0.3]]).log()
    torch.testing.assert_close(spread(ids, top, 4).exp(), torch.tensor([[0.3, 0.1, 0.5, 0.1]]))
    # an id beyond the vocabulary takes its mass with it
    ids = torch.tensor([[2, 9]])
    torch.testing.assert_close(spread(ids, top, 4).exp(), torch.tensor([[0.1, 0.1, 0.5, 0.1]]))
    # all of the mass on two ids: the others stay below the least of them
    ids, top = torch.tensor([[1, 3]]), torch.tensor([[0.0, -30.0]])
    torch.testing.assert_close(spread(ids, top, 4), torch.tensor([[-30.0, 0.0, -30.0, -30.0]]))


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), scale=st.sampled_from([0.1, 1.0, 5.0, 40.0]))
@settings(deadline=None, max_examples=60)
def test_a_spread_keeps_the_likely_ids_and_the_mass(seed: int, k: int, scale: float) -> None:
    logp = (scale * torch.randn(6, 12, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    top, ids = logp.topk(k)
    found = spread(ids, top, 12)
    assert torch.equal(found.gather(1, ids), top)
    assert torch.equal(found.topk(k).values, top)
    if scale <= 5:
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(6), rtol=0, atol=2e-6 * 12)


def test_top_k_limit_of_the_server_is_checked_at_the_start(server: FakeVLLM) -> None:
    server.max_logprobs = 8
    assert remote(server, top_k=8).top_k == 8
    with pytest.raises(UserError, match=r"does not give the 9 most likely ids .*--max-logprobs 9 or more \(HTTP 400"):
        remote(server, top_k=9)


def test_a_server_that_gives_fewer_ids_than_asked_for(server: FakeVLLM, slept: list[float]) -> None:
    server.play = lambda request, before: answer(
        server.data(request | {"prompt_logprobs": min(3, request["prompt_logprobs"])})
    )
    with pytest.raises(UserError, match=r"asked for the 9 most likely"):
        remote(server, top_k=9)


# --- trouble ----------------------------------------------------------------------------------------------------------


def cut(entries: list[Any], at: int | None = None) -> None:
    del entries[-1 if at is None else at]


def put(entries: list[Any], value: Any) -> None:
    entries[-1] = {id: item | {"logprob": value} for id, item in entries[-1].items()}


MALFORMED: dict[str, tuple[Callable[[dict[str, Any], list[Any]], Any], str]] = {
    "one log-prob too few": (lambda data, e: cut(e), "tokens, sent were"),
    "one too many": (lambda data, e: e.append(e[-1]), "tokens, sent were"),
    "another token": (lambda data, e: e.__setitem__(-1, {"59": {"logprob": -1.0}}), "no log-prob of token"),
    "an id that is none": (lambda data, e: e.__setitem__(-1, {"w7": {"logprob": -1.0}}), "invalid literal"),
    "nothing for a token": (lambda data, e: e.__setitem__(-1, None), "no log-probs at token"),
    "an empty mapping": (lambda data, e: e.__setitem__(-1, {}), "no log-probs at token"),
    "a bare number": (lambda data, e: e.__setitem__(-1, {next(iter(e[-1])): -1.0}), "no log-prob at token"),
    "NaN": (lambda data, e: put(e, float("nan")), "a log-prob of nan"),
    "minus infinity": (lambda data, e: put(e, float("-inf")), "a log-prob of -inf"),
    "vLLM's minus infinity": (lambda data, e: put(e, -9999.0), "a log-prob of -9999"),
    "null": (lambda data, e: put(e, None), "no log-prob at token"),
    "a text": (lambda data, e: put(e, "-1.0"), "no log-prob at token"),
    "true": (lambda data, e: put(e, True), "no log-prob at token"),
    "a logit": (lambda data, e: put(e, 3.5), r"3\.5 at token \d+ is no log-prob: start the server with raw_logprobs"),
    "no log-probs at all": (lambda data, e: data["choices"][0].pop("prompt_logprobs"), "no prompt log-probs"),
    "no choices": (lambda data, e: data.update(choices=[]), "no choices"),
    "null for a choice": (lambda data, e: data.update(choices=[None]), "no choices"),
}
BROKEN: dict[str, Callable[[FakeVLLM, Any], Reply]] = {
    "half an answer": lambda server, request: server.complete(request)._replace(drop=True),
    "truncated JSON": lambda server, request: Reply((body := server.complete(request).body)[: len(body) // 2]),
    "no JSON": lambda server, request: Reply(b"<html>Bad gateway"),
    "no bytes": lambda server, request: Reply(b""),
    "no UTF-8": lambda server, request: Reply(b'{"choices": "\xff\xfe"}'),
    "nested too deeply": lambda server, request: Reply(b"[" * 100_000),
    "no object": lambda server, request: Reply(b"[]"),
    "HTTP 500": lambda server, request: failure(500, "out of sorts"),
    "HTTP 503": lambda server, request: failure(503),
    "HTTP 429": lambda server, request: failure(429, Retry_After="2"),
    "HTTP 408": lambda server, request: failure(408),
}


def trouble(server: FakeVLLM, name: str) -> Callable[[Any, int], Reply]:
    if name in MALFORMED:
        return meddled(server, MALFORMED[name][0])
    return lambda request, before: BROKEN[name](server, request)


@pytest.mark.parametrize("name", [*MALFORMED, *BROKEN])
def test_trouble_that_passes(server: FakeVLLM, slept: list[float], teacher_policy: Policy, name: str) -> None:
    teacher = remote(server)
    bad = trouble(server, name)
    server.play = lambda request, before: bad(request, before) if before < 3 else server.complete(request)
    found = teacher.score(batch()).logprobs
    assert found is not None and torch.equal(found, one_by_one(teacher_policy))
    assert len(slept) == 12  # three times for each of four rollouts


@pytest.mark.parametrize("name", [*MALFORMED, *BROKEN])
def test_trouble_that_stays(server: FakeVLLM, slept: list[float], name: str) -> None:
    teacher = remote(server, retries=2)
    server.play = trouble(server, name)
    said = MALFORMED[name][1] if name in MALFORMED else "HTTP" if name.startswith("HTTP") else ""
    with pytest.raises(
        UserError,
        match=rf"http://127\.0\.0\.1:\d+/v1 did not give the log-probs of rollout 0 by '{MODEL}' after 3 tries: .*{said}"
        r".*same command again, which continues from the last checkpoint",
    ):
        teacher.score(batch([0]))
    assert len(slept) == 2


def test_probabilities_that_add_up_to_more_than_one(server: FakeVLLM, slept: list[float]) -> None:
    teacher = remote(server, top_k=3)
    server.play = meddled(server, lambda data, e: put(e, -0.7))  # three or four times exp(−0.7) = 0.497
    with pytest.raises(UserError, match="add up to more than 1"):
        teacher.score(batch([0]))


def test_waits_grow_and_are_bounded(server: FakeVLLM, slept: list[float]) -> None:
    teacher = remote(server, backoff=4.0)
    server.play = lambda request, before: failure(500)
    with pytest.raises(UserError, match="after 11 tries"):
        teacher.score(batch([0]))
    # 4, 8, 16, 32, then a minute each, give or take a quarter, but never more than a minute
    assert len(slept) == 10
    assert all(0.75 * due <= wait <= 1.25 * due for due, wait in zip((4, 8, 16, 32), slept[:4], strict=True))
    assert all(45 <= wait <= 60 for wait in slept[4:])
    server.play = lambda request, before: failure(429, Retry_After="7") if before == 11 else server.complete(request)
    slept.clear()
    teacher.score(batch([0]))
    assert slept == [7.0]


def test_a_server_that_hangs(server: FakeVLLM, slept: list[float]) -> None:
    teacher = remote(server, timeout=0.3, retries=1)
    server.play = lambda request, before: server.hang()
    with pytest.raises(UserError, match=r"after 2 tries: no answer in 0\.3 s"):
        teacher.score(batch([0]))


def test_refusals_are_not_repeated(server: FakeVLLM, slept: list[float]) -> None:
    teacher = remote(server)
    before = len(server.asked)
    with pytest.raises(UserError, match=r"refused the log-probs of rollout 0 .*Token id 60 is out of vocabulary"):
        list(teacher.score_rows([([5], [60])]))
    assert len(server.asked) == before + 1 and not slept


def test_what_is_on_its_way_arrives_before_the_error_is_raised(
    server: FakeVLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, refused = remote(server, concurrency=2), threading.Event()
    refuse = teacher.client._refused

    def noted(*about: Any) -> Any:
        refused.set()  # known to the client
        return refuse(*about)

    monkeypatch.setattr(teacher.client, "_refused", noted)

    def play(request: dict[str, Any], before: int) -> Reply:
        if request["prompt"][0] == 6:
            return failure(400, "no thanks")
        refused.wait(60)
        return server.complete(request)

    server.play, before = play, len(server.asked)
    found = []
    with pytest.raises(UserError, match=r"HTTP 400 \(no thanks\)"):
        for row, _ in teacher.score_rows([([5], [9]), ([6], [9]), *[([7], [9])] * 20]):
            found.append(row)
    assert found == [0]
    assert len(server.asked) == before + 2  # nothing more was asked


def test_a_context_that_is_too_short(server: FakeVLLM) -> None:
    server.max_model_len = 100
    teacher = remote(server)
    assert len(dict(teacher.score_rows([([5] * 90, [6] * 9)]))[0].logprobs) == 9
    with pytest.raises(UserError, match=rf"rollout 0 has 100 tokens, and '{MODEL}' at .* takes 99: .*--max-model-len"):
        list(teacher.score_rows([([5] * 90, [6] * 10)]))


# --- the start --------------------------------------------------------------------------------------------------------


def test_another_tokenizer_is_refused_with_the_first_difference(server: FakeVLLM) -> None:
    with pytest.raises(UserError, match=r"student 'tiny-1' and teacher 'tiny/teacher' at http.* have different .*'v"):
        remote(server, tiny_policy(1, tokenizer=tiny_tokenizer("v")))


def test_a_tokenizer_that_knows_a_few_words_less_is_refused(server: FakeVLLM) -> None:
    # Its first 50 words are the teacher's; the probes reach the others.
    with pytest.raises(UserError, match=r"id 50 \('w50'\) in one and 2 in the other"):
        server.policy = tiny_policy(SEED, ROWS, tokenizer=tiny_tokenizer("w", 50))
        remote(server)


def test_a_server_that_adds_a_token_in_front_is_refused(server: FakeVLLM) -> None:
    ids = FakeVLLM.ids

    server.ids = lambda prompt: [7, *ids(server, prompt)]  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"they make \d+ tokens in one and \d+ in the other|in one and"):
        remote(server)


def test_a_server_without_prompt_log_probs(server: FakeVLLM) -> None:
    def play(request: dict[str, Any], before: int) -> Reply:  # OpenAI and llama.cpp ignore what they do not know
        data = server.data(request)
        del data["choices"][0]["prompt_logprobs"]
        return answer(data)

    server.play = play
    with pytest.raises(UserError, match="gives no prompt log-probs: serve the teacher with vLLM"):
        remote(server)


def test_a_model_that_the_server_has_not(server: FakeVLLM) -> None:
    server.models = lambda before: answer({"data": [server.card(id="b"), server.card(id="a")]})
    with pytest.raises(UserError, match=rf"has no model '{MODEL}': it has a, b$"):
        remote(server)


@pytest.mark.parametrize("reply", [failure(404), failure(405), answer({"data": []})])
def test_a_server_that_keeps_no_list(server: FakeVLLM, reply: Reply) -> None:
    server.models = lambda before: reply
    assert remote(server).fingerprint == f"server:{MODEL}"


def test_no_server_at_all(server: FakeVLLM, slept: list[float]) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/v1 did not give its list of models after 3 tries"):
        remote(server)


def test_the_key_goes_into_the_header_and_nowhere_else(server: FakeVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    server.models = lambda before: failure(401, "no key given")
    with pytest.raises(UserError, match=r"HTTP 401 \(no key given\); put its key into .* OPENAI_API_KEY"):
        remote(server)
    assert "Authorization" not in server.headers[-1]
    monkeypatch.setenv(module.KEY, f" {KEY}\n")
    server.models = lambda before: failure(403, f"Incorrect API key provided: {KEY}")
    with pytest.raises(UserError, match=r"provided: …\); check the key in OPENAI_API_KEY") as caught:
        remote(server)
    assert KEY not in str(caught.value)
    server.models = lambda before: answer({"data": [server.card()]})
    teacher = remote(server)
    teacher.score(batch())
    assert {headers["Authorization"] for headers in server.headers[-5:]} == {f"Bearer {KEY}"}
    assert KEY not in teacher.name + teacher.fingerprint
    monkeypatch.setenv(module.KEY, "sk-\N{CYRILLIC SMALL LETTER A}bc")
    with pytest.raises(UserError, match="the key in OPENAI_API_KEY has characters that no key has"):
        remote(server)


def test_a_password_in_the_address_is_not_repeated(server: FakeVLLM) -> None:
    server.models = lambda before: answer({"data": [server.card(id="other")]})
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/v1 has no model") as caught:
        RemoteTeacher(server.url.replace("//", "//user:hunter2@"), MODEL, tiny_policy(1))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1", "/v1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UserError, match="is no address of a server"):
        RemoteTeacher(url, MODEL, tiny_policy(1))


@pytest.mark.parametrize("option", [{"concurrency": 0}, {"timeout": 0.0}, {"retries": -1}])
def test_options_that_make_no_sense(server: FakeVLLM, option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"option '{next(iter(option))}' is too small"):
        remote(server, **option)


# --- the cache --------------------------------------------------------------------------------------------------------


def values(n: int, seed: int = 0) -> torch.Tensor:
    return -torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 9


def test_what_was_put_is_got_to_the_bit_by_this_process_and_the_next(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "c")
    cache.put(b"a" * 16, values(5))
    cache.put(b"b" * 16, values(3), values(3, 1))
    cache.put(b"b" * 16, values(3, 7))  # known already
    for reader in (cache, ScoreCache(tmp_path / "c")):
        one, none = reader.get(b"a" * 16) or (None, None)
        two, entropy = reader.get(b"b" * 16) or (None, None)
        assert one is not None and two is not None and entropy is not None and none is None
        assert torch.equal(one, values(5)) and torch.equal(two, values(3)) and torch.equal(entropy, values(3, 1))
        assert reader.get(b"c" * 16) is None
        assert len(reader) == 2


def test_keys_are_of_teacher_prompt_and_response() -> None:
    rows = [("t", [1, 2], [3]), ("t", [1], [2, 3]), ("u", [1, 2], [3]), ("t", [1, 2, 3], []), ("t", [1, 2], [4])]
    assert len({score_key(*row) for row in rows}) == 5
    assert score_key("t", [1, 2], [3]) == score_key("t", (1, 2), (3,))


@given(cut_at=st.integers(0, 200))
@settings(deadline=None, max_examples=40)
def test_a_file_cut_short_anywhere_keeps_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, cut_at: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = ScoreCache(folder)
    # header of 32 bytes (4 + 16 + 3 · 4) and 4 bytes a token: records of 44, 40 and 52 bytes
    for key, n in ((b"a", 3), (b"b", 2), (b"c", 5)):
        cache.put(key * 16, values(n))
    [path] = folder.glob("*.scores")
    assert path.stat().st_size == 136
    with path.open("r+b") as stream:
        stream.truncate(min(cut_at, 136))
    found = ScoreCache(folder)
    whole = [key for key, end in ((b"a", 44), (b"b", 84), (b"c", 136)) if end <= cut_at]
    assert [key for key in (b"a", b"b", b"c") if found.get(key * 16) is not None] == whole
    found.put(b"d" * 16, values(4))  # what follows a torn record goes elsewhere
    again = ScoreCache(folder)
    assert again.get(b"d" * 16) is not None and len(again) == len(whole) + 1


def test_a_damaged_record_is_a_miss(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path)
    cache.put(b"a" * 16, values(3))
    cache.put(b"b" * 16, values(3))
    [path] = tmp_path.glob("*.scores")
    content = bytearray(path.read_bytes())
    content[40] ^= 1  # in the values of the first
    path.write_bytes(content)
    for reader in (cache, ScoreCache(tmp_path)):
        assert reader.get(b"a" * 16) is None
        assert reader.get(b"b" * 16) is not None
    (tmp_path / "0-rubbish.scores").write_bytes(b"rubbish" * 100)
    assert ScoreCache(tmp_path).get(b"b" * 16) is not None


def test_the_oldest_scores_make_room(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, max_bytes=10_000)
    keys = [bytes([i]) * 16 for i in range(100)]
    for key in keys:
        cache.put(key, values(92))  # 32 + 4 · 92 = 400 bytes: three in a segment of 1,250, at most 25 in the folder
        assert sum(path.stat().st_size for path in tmp_path.glob("*.scores")) <= 10_000
    there = [i for i, key in enumerate(keys) if cache.get(key) is not None]
    assert there == list(range(100 - len(there), 100)) and 20 <= len(there) <= 25
    assert len(cache) == len(there) == len(ScoreCache(tmp_path))
    cache.put(b"x" * 16, values(3000))  # larger than all of it
    assert cache.get(b"x" * 16) is None and len(cache) == len(there)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    mine, theirs = ScoreCache(tmp_path), ScoreCache(tmp_path)
    mine.put(b"a" * 16, values(3))
    theirs.put(b"b" * 16, values(4))
    assert mine.get(b"b" * 16) is None
    mine.refresh()
    theirs.refresh()
    assert mine.get(b"b" * 16) is not None and theirs.get(b"a" * 16) is not None
    for path in tmp_path.glob("*.scores"):
        path.unlink()  # as another process does that needs room
    assert mine.get(b"b" * 16) is None
    mine.put(b"c" * 16, values(2))
    assert mine.get(b"c" * 16) is not None
    theirs.refresh()
    assert theirs.get(b"c" * 16) is not None and len(theirs) == 1


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot hold cached scores"):
        ScoreCache(tmp_path / "file")
    cache = ScoreCache(tmp_path / "c")

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.warns(UserWarning, match="no longer cached: .*No space left"):
        cache.put(b"a" * 16, values(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(b"b" * 16, values(3))  # once is enough


def test_a_remote_teacher_is_asked_for_what_is_missing(
    server: FakeVLLM, teacher_policy: Policy, tmp_path: Path
) -> None:
    inner = remote(server)
    teacher = CachedTeacher(inner, ScoreCache(tmp_path), inner.fingerprint)
    assert teacher.provides == {"logprobs"}
    probes = len(server.asked)
    teacher.score(batch([1, 3]))
    assert len(server.asked) == probes + 1  # rollout 3 is empty
    for _ in range(2):
        found = teacher.score(batch()).logprobs
        assert found is not None and torch.equal(found, one_by_one(teacher_policy))
        assert len(server.asked) == probes + 4
    other = CachedTeacher(inner, ScoreCache(tmp_path), "another model")
    other.score(batch())
    assert len(server.asked) == probes + 8


def test_what_came_before_a_failure_is_kept(server: FakeVLLM, slept: list[float], tmp_path: Path) -> None:
    inner = remote(server, concurrency=1, retries=1)
    teacher = CachedTeacher(inner, ScoreCache(tmp_path), "t")
    server.play = lambda request, before: failure(500) if request["prompt"][0] == 9 else server.complete(request)
    with pytest.raises(UserError, match="rollout 2"):
        teacher.score(batch())
    server.play = lambda request, before: server.complete(request)
    before = len(server.asked)
    CachedTeacher(inner, ScoreCache(tmp_path), "t").score(batch())
    assert sorted(request["prompt"][0] for request in server.asked[before:]) == [9, 15]


@pytest.mark.parametrize("rows", [None, [0, 2]])
def test_a_local_teachers_scores_are_those_it_gives_without_a_cache(
    teacher_policy: Policy, tmp_path: Path, rows: list[int] | None
) -> None:
    local = LocalTeacher(teacher_policy, 2)
    teacher = CachedTeacher(local, ScoreCache(tmp_path), "t")
    assert teacher.provides == {"logprobs", "entropy"}
    logprobs, entropy = flatten(local.score(batch()), batch().targets)
    if rows is not None:
        teacher.score(batch(rows))  # a part of it is known, from another batch
    for _ in range(2):
        found = teacher.score(batch())
        assert found.logits is None and found.logprobs is not None and found.entropy is not None and entropy is not None
        assert torch.equal(found.logprobs, logprobs) or (rows is not None and teacher.hits > 3)
        torch.testing.assert_close(found.logprobs, logprobs, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.entropy, entropy, rtol=0, atol=1e-5)
    assert teacher.hits >= 5


def test_a_method_that_needs_more_goes_without_a_cache(teacher_policy: Policy, tmp_path: Path) -> None:
    local, cache = LocalTeacher(teacher_policy), ScoreCache(tmp_path)
    assert isinstance(cached(local, cache, "t", frozenset({"logprobs", "entropy"})), CachedTeacher)
    for needs in ({"logprobs", "logits"}, {"logprobs", "topk_logprobs"}):
        assert cached(local, cache, "t", frozenset(needs)) is local
    spread_out = tiny_policy(2)
    spread_out.sharded = True
    asked_by_all = LocalTeacher(spread_out)
    assert cached(asked_by_all, cache, "t", frozenset({"logprobs"})) is asked_by_all


# --- a run ------------------------------------------------------------------------------------------------------------


def run(spec: RunSpec, teacher: Teacher, student: Policy, each: Callable[[int], None] = lambda step: None) -> list[str]:
    """The records of a run and its last weights, as text."""
    state = TrainState.start(spec, student)
    records = []
    for step in train(spec, state, ListPrompts(), HFEngine(student), teacher):
        records.append(json.dumps(asdict(step.record)))
        each(state.step)
    weights = torch.cat([p.detach().flatten() for p in student.model.parameters()])
    return [*records, str(weights.double().sum().item()), weights.numpy().tobytes().hex()]


def test_a_method_that_needs_more_is_refused_at_the_start(server: FakeVLLM) -> None:
    student = tiny_policy(1)
    for method, needs in (("full-rkl", "logits"), ("fire", "entropy"), ("eopd", "entropy")):
        with pytest.raises(UserError, match=rf"method '{method}' needs .*{needs}.* which provides only logprobs"):
            run(tiny_spec(method), remote(server, student), student)


def test_the_cache_changes_no_bit_of_a_run(server: FakeVLLM, tmp_path: Path) -> None:
    spec, found = tiny_spec("opd"), []
    for wrap in (False, True, True):
        student = tiny_policy(1)
        inner = remote(server, student)
        teacher = CachedTeacher(inner, ScoreCache(tmp_path), inner.fingerprint) if wrap else inner
        before = len(server.asked)
        found.append(run(spec, teacher, student))
        asked = len(server.asked) - before
    assert found[0] == found[1] == found[2]
    assert isinstance(teacher, CachedTeacher) and asked == 0 and teacher.misses == 0  # the third run asked nothing


def test_a_frozen_engines_arms_ask_once(server: FakeVLLM, tmp_path: Path) -> None:
    """Two methods on the same rollouts (a student that is not trained, for its rate is 0) share the teacher's answers."""
    counts = []
    for method in ("opd", "opd-sequence-mean"):
        student = tiny_policy(1)
        spec = tiny_spec(method, optim=tiny_spec().optim.__class__(lr=0.0))
        inner = remote(server, student)
        teacher = CachedTeacher(inner, ScoreCache(tmp_path), inner.fingerprint)
        run(spec, teacher, student)
        counts.append((teacher.hits, teacher.misses))
    assert counts[0][1] > 0
    assert counts[1] == (counts[0][0] + counts[0][1], 0)


class Process:
    """The server as a process of its own, to be killed."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.fake_vllm", str(self.port)]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=PROJECT)
        assert self.child.stdout is not None and self.child.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()
        assert self.child.stdout is not None
        self.child.stdout.close()


def test_a_server_killed_in_the_middle_of_a_run_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == module.KEY:
            monkeypatch.delenv(name)
    spec = tiny_spec("opd", steps=4)
    process = Process()
    restarts: list[threading.Thread] = []

    def teacher(student: Policy) -> RemoteTeacher:
        return RemoteTeacher(process.url, MODEL, student, concurrency=2, backoff=0.2, retries=12)

    def kill(step: int) -> None:
        if step == 2:  # the next step's requests meet a dead port until the server is up again
            process.kill()
            restarts.append(threading.Thread(target=process.start))
            restarts[0].start()

    try:
        student = tiny_policy(1)
        whole = run(spec, teacher(student), student)
        student = tiny_policy(1)
        assert run(spec, teacher(student), student, kill) == whole
        assert len(restarts) == 1
    finally:
        for thread in restarts:
            thread.join()
        process.kill()


KILLED = """
import sys
from pathlib import Path
from tests.fake_vllm import MODEL
from tests.worlds import tiny_policy
from tests.test_remote_teacher import batch
from trainer.remote_teacher import RemoteTeacher
from trainer.score_cache import CachedTeacher, ScoreCache
inner = RemoteTeacher(sys.argv[1], MODEL, tiny_policy(1), concurrency=1)
CachedTeacher(inner, ScoreCache(Path(sys.argv[2])), "t").score(batch())
"""


def test_a_trainer_killed_while_its_teacher_scores_asks_for_the_rest_only(
    server: FakeVLLM, teacher_policy: Policy, tmp_path: Path
) -> None:
    reached = threading.Event()

    def play(request: dict[str, Any], before: int) -> Reply:
        if request["prompt"][0] == 15:  # the last of the batch: the three before it are kept
            reached.set()
            server.released.wait(60)
        return server.complete(request)

    server.play = play
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path)], env=environment, cwd=PROJECT)
    assert reached.wait(120)
    child.kill()
    child.wait()
    server.released.set()
    before = len(server.asked)
    inner = remote(server)
    probes = len(server.asked) - before
    found = CachedTeacher(inner, ScoreCache(tmp_path), "t").score(batch()).logprobs
    assert [request["prompt"] for request in server.asked[before + probes :]] == [[15, 16, 27, 28]]
    assert found is not None and torch.equal(found, one_by_one(teacher_policy))


def test_token_ids_are_those_without_padding() -> None:
    assert token_ids(batch()) == [(p, list(a)) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
