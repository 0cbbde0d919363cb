"""A real HTTP server that speaks vLLM's format, with the log-probs of a tiny policy; `python -m tests.fake_vllm PORT`.

The shape of requests, answers and refusals is that of `vllm serve` 0.32 (`tests/vllm` asks a real one). What a test wants
to go wrong it says with `play`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import torch

from tests.worlds import tiny_policy
from trainer.policy import Policy

MODEL, ROOT = "tiny/teacher", "/models/tiny-2"
SEED, ROWS = 2, 72  # of the teacher


class Reply(NamedTuple):
    """What the server does: `body` under `status`, or one of the things that no server should do."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    drop: bool = False  # closes the connection in the middle of the body


def answer(data: Any, **changes: Any) -> Reply:
    return Reply(json.dumps(data).encode())._replace(**changes)


def failure(status: int, message: str = "", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}})
    return Reply(body.encode(), status, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


class FakeVLLM:
    """Calls `play(request, how many times this very request has come before)` for every completion."""

    def __init__(self, policy: Policy, port: int = 0, max_logprobs: int = 20, max_model_len: int | None = None) -> None:
        self.policy, self.max_logprobs, self.max_model_len = policy, max_logprobs, max_model_len
        self.play: Callable[[dict[str, Any], int], Reply] = lambda request, before: self.complete(request)
        self.models: Callable[[int], Reply] = lambda before: answer({"object": "list", "data": [self.card()]})
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.listed = self.busy = self.busiest = 0
        self.released = threading.Event()  # what hangs, hangs until this
        self.arithmetic = threading.Lock()
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
                    known = self.path == "/v1/completions"
                    reply = outer.play(request, before) if known else failure(404, "Not Found")
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

        self.http = Quiet(("127.0.0.1", port), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def card(self, **changes: Any) -> dict[str, Any]:
        return {"id": MODEL, "object": "model", "root": ROOT, "max_model_len": self.max_model_len} | changes

    def ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return list(self.policy.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        return list(prompt)

    def data(self, request: dict[str, Any]) -> dict[str, Any]:
        """A right answer, as JSON data."""
        ids, k = self.ids(request["prompt"]), request["prompt_logprobs"]
        with self.arithmetic, torch.no_grad():  # one sequence at a time, whatever comes beside it
            logits = self.policy.model(input_ids=torch.tensor([ids])).logits[0]
            logp = logits[:, : self.policy.vocab].float().log_softmax(-1)
        entries: list[Any] = [None]
        for place, token in enumerate(ids[1:]):
            row = logp[place]
            top = row.topk(k).indices.tolist() if k else []
            entries.append(
                {
                    str(id): {"logprob": float(row[id]), "rank": int((row > row[id]).sum()) + 1, "decoded_token": "�"}
                    for id in dict.fromkeys([token, *top])
                }
            )
        choice = {"index": 0, "text": "w9", "logprobs": None, "finish_reason": "length", "prompt_logprobs": entries}
        usage = {"prompt_tokens": len(ids), "total_tokens": len(ids) + 1, "completion_tokens": 1}
        return {"id": "cmpl-1", "object": "text_completion", "model": MODEL, "choices": [choice], "usage": usage}

    def complete(self, request: dict[str, Any]) -> Reply:
        ids, k = self.ids(request["prompt"]), request["prompt_logprobs"]
        if request["model"] != MODEL:
            return failure(404, f"The model `{request['model']}` does not exist.")
        if k > self.max_logprobs:
            return failure(
                400, f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.max_logprobs}"
            )
        if request["max_tokens"] < 1:
            return failure(400, "max_tokens must be at least 1")
        if self.max_model_len is not None and len(ids) >= self.max_model_len:
            return failure(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        if beyond := [id for id in ids if id >= self.policy.vocab]:
            return failure(400, f"Token id {beyond[0]} is out of vocabulary")
        return answer(self.data(request))

    def hang(self) -> Reply:
        self.released.wait(60)
        return failure(500, "late")

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()


if __name__ == "__main__":
    FakeVLLM(tiny_policy(SEED, ROWS), int(sys.argv[1]))
    print("ready", flush=True)
    threading.Event().wait()
