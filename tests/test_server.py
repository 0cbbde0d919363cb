"""Answers from an OpenAI-compatible server, against a real HTTP server that misbehaves in every way it is told to."""

from __future__ import annotations

import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.benchmarks import load_benchmark, render_prompt
from harness.errors import UserError
from harness.evaluation import EvalPlan, evaluate, generate, toy_plan
from harness.evaluation.evaluations import load_evaluation
from harness.evaluation.responders import Wanted
from harness.evaluation.server import ServerResponder
from tests.conftest import ROOT
from trainer import endpoint as module
from trainer.endpoint import Endpoint

PLAN = EvalPlan("toy-aime", 2, max_tokens=64)
MODEL = "toy/student"
KEY = "sk-very-secret-0123456789"


class Reply(NamedTuple):
    """What the server does: `body` under `status`, or one of the things that no server should do."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    drop: bool = False  # closes the connection in the middle of the body


def answer(
    text: str | None = "an answer", finish: str | None = "stop", tokens: int | None = 7, **message: Any
) -> Reply:
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens, "prompt_tokens": 3}}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return Reply(json.dumps({"choices": [choice], **usage}).encode())


def failure(status: int, message: str = "", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message}}).encode()
    return Reply(body, status, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


def models(*names: str, **more: Any) -> Reply:
    return Reply(json.dumps({"object": "list", "data": [{"id": name, **more} for name in names]}).encode())


class Server:
    """Calls `play(request, how many times this very request has come before)` for every chat completion."""

    def __init__(self) -> None:
        self.play: Callable[[dict[str, Any], int], Reply] = lambda request, before: answer()
        self.models: Callable[[int], Reply] = lambda before: models(MODEL)
        self.asked: list[dict[str, Any]] = []
        self.listed = 0
        self.headers: list[dict[str, str]] = []
        self.busy = self.busiest = 0
        self.released = threading.Event()  # what hangs, hangs until this
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                for name, value in reply.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: len(reply.body) // 2] if reply.drop else reply.body)
                self.close_connection = self.close_connection or reply.drop

            def do_GET(self) -> None:
                with lock:
                    before, outer.listed = outer.listed, outer.listed + 1
                    outer.headers.append(dict(self.headers))
                self.send(outer.models(before) if self.path == "/v1/models" else failure(404))

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    before = sum(one == request for one in outer.asked)
                    outer.asked.append(request)
                    outer.headers.append(dict(self.headers))
                    outer.busy += 1
                    outer.busiest = max(outer.busiest, outer.busy)
                try:
                    known = self.path == "/v1/chat/completions"
                    reply = outer.play(request, before) if known else failure(404, "no such path")
                finally:
                    with lock:
                        outer.busy -= 1
                self.send(reply)

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client has gone
                    self.close_connection = True

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def hang(self) -> Reply:
        self.released.wait(60)
        return answer("late")

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == module.KEY:
            monkeypatch.delenv(name)
    made = Server()
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


def responder(server: Server, plan: EvalPlan = PLAN, **options: Any) -> ServerResponder:
    return ServerResponder(server.url, MODEL, plan, **{"concurrency": 4, "timeout": 30.0, **options})


def wanted(n: int = 6) -> list[Wanted]:
    return [Wanted(f"p{i}", f"problem {i}", i % 2, 2**40 + i) for i in range(n)]


def all_of(server: Server, n: int = 6, **options: Any) -> dict[str, str]:
    return {r.problem: r.text for r in responder(server, **options).answer(wanted(n))}


# --- what is asked and what comes back --------------------------------------------------------------------------------


def test_a_request_for_every_sample(server: Server) -> None:
    server.play = lambda request, before: answer(f"to {request['messages'][0]['content']}", tokens=request["seed"])
    plan = EvalPlan("toy-aime", 2, max_tokens=64, temperature=0.6, top_p=0.95, thinking=True)
    asked = responder(server, plan)
    found = sorted(asked.answer(wanted()), key=lambda r: r.problem)
    assert [(r.problem, r.sample, r.text, r.finish) for r in found] == [
        (f"p{i}", i % 2, f"to problem {i}", "stop") for i in range(6)
    ]
    assert [r.tokens for r in found] == list(range(6))  # the lower 31 bits of 2⁴⁰ + i
    assert sorted(server.asked, key=lambda r: r["seed"])[3] == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "problem 3"}],
        "temperature": 0.6,
        "top_p": 0.95,
        "seed": 3,
        "stream": False,
        "max_tokens": 64,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "chat_template_kwargs": {"enable_thinking": True},
    }
    assert len(server.asked) == 6
    assert asked.name == "server:toy/student@127.0.0.1"
    assert asked.rendered(["problem 1"]) is None
    assert (asked.engine, asked.redraw, asked.block) == ("server", False, 64)
    assert not asked.notes


def test_openais_own_fields_alone(server: Server) -> None:
    all_of(server, 1, extras=False)
    assert set(server.asked[0]) == {
        "model", "messages", "temperature", "top_p", "seed", "stream", "max_completion_tokens",
    }  # fmt: skip


def test_seeds_are_31_bits_and_apart(server: Server) -> None:
    asked = [Wanted("p", "text", 0, seed) for seed in (0, 2**31 - 1, 2**31, 2**63 - 1, 2**62 + 12345)]
    list(responder(server).answer(asked))
    # 2³¹ has no lower bit set; 2⁶³ − 1 has all of them
    assert sorted(r["seed"] for r in server.asked) == [0, 0, 12345, 2**31 - 1, 2**31 - 1]


@pytest.mark.parametrize(
    ("reply", "text", "finish", "tokens"),
    [
        (answer("x", "stop"), "x", "stop", 7),
        (answer("x", "length"), "x", "length", 7),
        (answer("x", "MAX_TOKENS"), "x", "length", 7),
        (answer("", "content_filter"), "", "stop", 7),
        (answer(None, "tool_calls"), "", "stop", 7),
        (answer("x", None, tokens=None), "x", "stop", 0),
        (answer("a", reasoning_content="t"), "<think>\nt\n</think>\n\na", "stop", 7),
        (answer("a", reasoning="t"), "<think>\nt\n</think>\n\na", "stop", 7),
        (answer("a", reasoning="", reasoning_content=None), "a", "stop", 7),
        (answer(None, "length", reasoning="t"), "<think>\nt", "length", 7),
        (answer("a", "length", reasoning="t"), "<think>\nt\n</think>\n\na", "length", 7),
        (answer(None, "stop", reasoning="t"), "<think>\nt\n</think>\n\n", "stop", 7),
        (answer("t</think>a"), "<think>\nt</think>a", "stop", 7),
        (answer("<think>t</think>a"), "<think>t</think>a", "stop", 7),
        (answer("a \ud800 \0 <script> \u202e"), "a \ud800 \0 <script> \u202e", "stop", 7),
    ],
)
def test_answers_as_they_are_kept(server: Server, reply: Reply, text: str, finish: str, tokens: int) -> None:
    server.play = lambda request, before: reply
    [found] = responder(server, retries=0).answer(wanted(1))
    assert (found.text, found.finish, found.tokens) == (text, finish, tokens)


def test_what_is_out_of_the_ordinary_is_counted(server: Server) -> None:
    replies = {
        0: answer("", "content_filter"),
        1: answer(tokens=None),
        2: answer("x", "length", tokens=63),
        3: answer("x", "length", tokens=64),
    }
    server.play = lambda request, before: replies[request["seed"] % 4]
    asked = responder(server)
    list(asked.answer(wanted(8)))
    assert asked.notes == {
        "answers that ended for the reason 'content_filter'": 2,
        "answers without a count of tokens": 2,
        "answers cut short of the limit": 2,
    }


def test_a_problem_that_utf8_cannot_hold(server: Server) -> None:
    server.play = lambda request, before: answer(request["messages"][0]["content"])
    text = "half a pair \ud83d, NUL \0, right to left \u202e, " + "long " * 20_000
    [found] = responder(server).answer([Wanted("p", text, 0, 1)])
    assert found.text == text


def test_an_evaluation_end_to_end(server: Server, tmp_path: Path) -> None:
    bench = load_benchmark("toy-aime")
    golds = {render_prompt(p, "plain"): p.answer for p in bench.problems}
    server.models = lambda before: models(MODEL, root="/models/step-300", max_model_len=4096)

    def play(request: dict[str, Any], before: int) -> Reply:
        text = request["messages"][0]["content"]
        return answer(rf"\boxed{{{golds[text]}}}" if request["seed"] % 2 else "\\boxed{no}", tokens=9)

    server.play = play
    plan = EvalPlan("toy-aime", 2, max_tokens=96, style="plain", limit=6)
    asked = responder(server, plan)
    assert asked.name == "server:toy/student(/models/step-300)@127.0.0.1"
    evaluate(asked, bench, plan, tmp_path / "out")
    samples = load_evaluation(tmp_path / "out").samples
    assert len(samples) == 12 and set(samples["tokens"]) == {9}
    right = {r["messages"][0]["content"]: 0 for r in server.asked}
    for request in server.asked:
        right[request["messages"][0]["content"]] += request["seed"] % 2
    assert int(samples["correct"].sum()) == sum(right.values()) > 0


# --- order and number -------------------------------------------------------------------------------------------------


def test_answers_come_as_they_are_ready(server: Server) -> None:
    server.play = lambda request, before: server.hang() if request["seed"] == 0 else answer()
    stream = responder(server).answer(wanted(8))
    first = [next(stream).problem for _ in range(7)]
    assert sorted(first) == [f"p{i}" for i in range(1, 8)]
    server.released.set()
    assert [(r.problem, r.text) for r in stream] == [("p0", "late")]


def test_as_many_requests_at_a_time_as_asked_for_and_no_more(server: Server) -> None:
    barrier = threading.Barrier(5)  # opens for five at a time only

    def play(request: dict[str, Any], before: int) -> Reply:
        barrier.wait(60)
        return answer()

    server.play = play
    assert len(all_of(server, 20, concurrency=5)) == 20
    assert server.busiest == 5


def test_leaving_early_gives_up_what_is_on_its_way(server: Server) -> None:
    server.play = lambda request, before: server.hang() if request["seed"] else answer()
    stream = responder(server, timeout=3600.0).answer(wanted(8))
    assert next(stream).problem == "p0"
    stream.close()  # would wait for an hour
    assert len(server.asked) <= 5


# --- trouble ----------------------------------------------------------------------------------------------------------


def test_two_errors_and_then_an_answer(server: Server, slept: list[float]) -> None:
    server.play = lambda request, before: failure(500, "out of sorts") if before < 2 else answer()
    assert len(all_of(server, 3, backoff=4.0)) == 3
    assert len(server.asked) == 9
    assert len(slept) == 6
    assert all(3 <= wait <= 5 or 6 <= wait <= 10 for wait in slept)  # 4 and 8 seconds, each give or take a quarter
    assert sum(wait > 5.5 for wait in slept) == 3


@pytest.mark.parametrize(
    ("asks", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0.75, 1.25),  # our own first wait is longer
        ("2.5", 2.5, 2.5),
        ("soon", 0.75, 1.25),
        ("86400", 300, 300),  # the longest we wait
        (email.utils.formatdate(time.time() + 3600, usegmt=True), 300, 300),
        (email.utils.formatdate(time.time() - 3600, usegmt=True), 0.75, 1.25),
        ("nan", 0.75, 1.25),
        ("inf", 300, 300),
    ],
    ids=["7", "0", "2.5", "soon", "a day", "a date ahead", "a date gone", "nan", "inf"],  # the clock is in no name
)
def test_a_server_that_asks_to_wait(server: Server, slept: list[float], asks: str, least: float, most: float) -> None:
    server.play = lambda request, before: answer() if before else failure(429, "slow down", Retry_After=asks)
    assert len(all_of(server, 1)) == 1
    [wait] = slept
    assert least <= wait <= most


TROUBLES = {
    "half an answer": answer()._replace(drop=True),
    "no JSON": Reply(b"<html>Bad gateway"),
    "no bytes": Reply(b""),
    "no UTF-8": Reply(b'{"choices": "\xff\xfe"}'),
    "nested too deeply": Reply(b"[" * 100_000),
    "no object": Reply(b"[]"),
    "no choices": Reply(b'{"choices": []}'),
    "null for a choice": Reply(b'{"choices": [null]}'),
    "no message": Reply(b'{"choices": [{"finish_reason": "stop"}]}'),
    "a list for a text": Reply(b'{"choices": [{"message": {"content": ["x"]}}]}'),
    "a number for a thought": Reply(b'{"choices": [{"message": {"content": "x", "reasoning": 3}}]}'),
    "aborted": answer("half", "abort"),
    "gzip that is none": Reply(b"not gzip", headers=(("Content-Encoding", "gzip"),)),
    "HTTP 503": failure(503),
    "HTTP 408": failure(408),
    "HTTP 429": failure(429),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_that_passes(server: Server, slept: list[float], name: str) -> None:
    server.play = lambda request, before: TROUBLES[name] if before < 3 else answer("after all")
    assert all_of(server, 2) == {"p0": "after all", "p1": "after all"}
    assert len(slept) == 6


@pytest.mark.parametrize("name", TROUBLES)
def test_trouble_that_stays(server: Server, slept: list[float], name: str) -> None:
    server.play = lambda request, before: TROUBLES[name]
    with pytest.raises(UserError, match=r"did not give sample 0 of 'p0' after 3 tries: .*same command again"):
        all_of(server, 1, retries=2)
    assert len(server.asked) == 3 and len(slept) == 2


def test_a_server_that_hangs(server: Server, slept: list[float]) -> None:
    server.play = lambda request, before: answer("at last") if before else server.hang()
    assert all_of(server, 1, timeout=0.3) == {"p0": "at last"}
    server.play = lambda request, before: server.hang()
    with pytest.raises(UserError, match=r"after 2 tries: no answer in 0\.3 s"):
        all_of(server, 1, timeout=0.3, retries=1)


def test_a_server_that_dies(server: Server, slept: list[float]) -> None:
    asked = responder(server, retries=1)
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"did not give sample 0 of 'p0' after 2 tries: .*see that it runs"):
        list(asked.answer(wanted(1)))


def test_no_server_at_all(server: Server, slept: list[float]) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/v1 did not give its list of models after 3 tries"):
        responder(server)


def test_what_is_on_its_way_arrives_before_the_error_is_raised(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.play = lambda request, before: failure(400, "prompt is too long") if request["seed"] else server.hang()
    refused = Endpoint._refused

    def noticed(*args: Any) -> UserError:
        server.released.set()  # the client knows of the error, so the other answer may come
        return refused(*args)

    monkeypatch.setattr(Endpoint, "_refused", noticed)
    found = []
    with pytest.raises(
        UserError, match=r"refused sample 1 of 'p1': HTTP 400 \(prompt is too long\); .*lower --max-tokens"
    ):
        for response in responder(server, concurrency=2).answer(wanted(50)):
            found.append(response.problem)
    assert found == ["p0"]
    assert len(server.asked) == 2  # nothing more was asked


def test_refusals_are_not_repeated(server: Server, slept: list[float]) -> None:
    for status in (400, 404, 413, 422):
        server.play = lambda request, before, status=status: failure(status, "no <b>\n thanks")
        with pytest.raises(UserError, match=rf"HTTP {status} \(no <b> thanks\)"):
            all_of(server, 1)
    assert not slept and len(server.asked) == 4
    server.play = lambda request, before: Reply(b"", 307, (("Location", "http://elsewhere/"),))
    with pytest.raises(UserError, match="HTTP 307; it sends requests elsewhere"):
        all_of(server, 1)


# --- the model and the key --------------------------------------------------------------------------------------------


def test_a_model_that_the_server_has_not(server: Server) -> None:
    server.models = lambda before: models("b", "a")
    with pytest.raises(UserError, match=rf"has no model '{MODEL}': it has a, b$"):
        responder(server)
    server.models = lambda before: models(*(f"m{i:02}" for i in range(30)))
    with pytest.raises(UserError, match=r"m19, …$"):
        responder(server)


@pytest.mark.parametrize("reply", [failure(404), failure(405), models()])
def test_a_server_that_keeps_no_list(server: Server, reply: Reply) -> None:
    server.models = lambda before: reply
    assert responder(server).name == f"server:{MODEL}@127.0.0.1"
    assert len(all_of(server, 2)) == 2


def test_a_list_that_takes_several_tries(server: Server, slept: list[float]) -> None:
    server.models = lambda before: models(MODEL) if before == 2 else Reply(b"{}" if before else b"<html>")
    assert responder(server).name
    assert len(slept) == 2


def test_too_short_a_context(server: Server) -> None:
    server.models = lambda before: models(MODEL, max_model_len=64)
    with pytest.raises(UserError, match="64 tokens of context, no room for a problem and 64 tokens of response"):
        responder(server)
    server.models = lambda before: models(MODEL, max_model_len=100)
    # 3 tokens of prompt: the context was full after 97, not after 96
    server.play = lambda request, before: answer("x", "length", tokens=96)
    plan = EvalPlan("toy-aime", 1, max_tokens=98)
    assert len(list(responder(server, plan).answer(wanted(1)))) == 1
    server.play = lambda request, before: answer("x", "length", tokens=97)
    with pytest.raises(
        UserError, match=r"100 tokens of context, cut sample 0 of 'p0' at 97: no room for its prompt and 98"
    ):
        list(responder(server, plan).answer(wanted(1)))
    assert len(list(responder(server, EvalPlan("toy-aime", 1, max_tokens=97)).answer(wanted(1)))) == 1


def test_the_key_goes_into_the_header_and_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.models = lambda before: failure(401, "no key given")
    with pytest.raises(UserError, match=r"HTTP 401 \(no key given\); put its key into .* OPENAI_API_KEY"):
        responder(server)
    assert "Authorization" not in server.headers[-1]
    monkeypatch.setenv(module.KEY, f" {KEY}\n")
    server.models = lambda before: failure(403, f"Incorrect API key provided: {KEY}")
    with pytest.raises(
        UserError, match=r"\(Incorrect API key provided: …\); check the key in OPENAI_API_KEY"
    ) as caught:
        responder(server)
    assert KEY not in str(caught.value)
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    server.models = lambda before: models(MODEL)
    asked = responder(server)
    generate(asked, {"p": "text"}, PLAN, {"responder": asked.name}, tmp_path / "g.jsonl")
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in (tmp_path / "g.jsonl").read_text() + asked.name + repr(asked.notes)
    monkeypatch.setenv(module.KEY, "sk-\N{CYRILLIC SMALL LETTER A}bc")
    with pytest.raises(UserError, match="the key in OPENAI_API_KEY has characters that no key has"):
        responder(server)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://[::1", "/v1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(UserError, match="is no address of a server"):
        ServerResponder(url, MODEL, PLAN)


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1?x=1#y"])
def test_addresses_that_mean_the_same(server: Server, tail: str) -> None:
    asked = ServerResponder(server.url + tail, MODEL, PLAN)
    assert asked.endpoint.url == server.url + "/v1"
    assert len(list(asked.answer(wanted(1)))) == 1


def test_a_password_in_the_address_is_not_repeated(server: Server) -> None:
    server.models = lambda before: models("other")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:\d+/v1 has no model") as caught:
        ServerResponder(server.url.replace("//", "//user:hunter2@"), MODEL, PLAN)
    assert "hunter2" not in str(caught.value)
    assert server.headers[-1]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("option", [{"concurrency": 0}, {"timeout": 0.0}, {"retries": -1}])
def test_options_that_make_no_sense(server: Server, option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"option '{next(iter(option))}' is too small"):
        responder(server, **option)


# --- kill -9 ----------------------------------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from harness.evaluation import generate, toy_plan
from harness.evaluation.server import ServerResponder
plan = toy_plan("toy-aime", 8)
asked = ServerResponder(sys.argv[1], "toy/student", plan, concurrency=4)
generate(asked, {f"p{i}": f"problem {i}" for i in range(30)}, plan, {"responder": asked.name}, Path(sys.argv[2]))
"""


def test_killed_in_the_middle_each_sample_ends_up_exactly_once(server: Server, tmp_path: Path) -> None:
    path, halts = tmp_path / "g.jsonl", [40, 41, 110, 200]
    limit, reached = [halts[0]], threading.Event()

    def play(request: dict[str, Any], before: int) -> Reply:
        # Answers until the file holds so many lines, then tells the test, and leaves the last requests hanging.
        if path.exists() and path.read_bytes().count(b"\n") >= limit[0]:
            reached.set()
            server.released.wait(60)
        return answer(f"{request['messages'][0]['content']} seed {request['seed']}")

    server.play = play
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for halt in halts:
        limit[0] = halt
        reached.clear()
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, server.url, str(path)], start_new_session=True, env=environment
        )
        assert reached.wait(120)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        # Answered lines may have followed while the signal was on its way, of requests that were already out.
        assert halt <= path.read_bytes().count(b"\n") <= halt + 4
        server.released.set()
        server.released = threading.Event()
    limit[0] = 10**9
    plan = toy_plan("toy-aime", 8)
    asked = ServerResponder(server.url, MODEL, plan, concurrency=4)
    texts = {f"p{i}": f"problem {i}" for i in range(30)}
    generate(asked, texts, plan, {"responder": asked.name}, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()][1:]
    assert len(rows) == 240
    assert {(row["problem"], row["sample"]) for row in rows} == {(p, j) for p in texts for j in range(8)}
    assert all(row["response"].startswith(texts[row["problem"]] + " seed") for row in rows)
    assert len({row["response"] for row in rows}) == 240  # a seed for every sample
    assert len(server.asked) <= 240 + 4 * len(halts)  # lost: what was in flight
