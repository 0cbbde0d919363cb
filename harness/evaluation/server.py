"""Answers from an OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a provider."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import httpx2

from harness.errors import UserError
from harness.evaluation import EvalPlan
from harness.evaluation.responders import Response, Wanted
from trainer.endpoint import ABSENT, Endpoint, Refused, listed_models

_CUT: Final = {"length", "max_tokens", "max_output_tokens"}
_BROKEN: Final = {"abort", "error"}  # of a server in trouble: no answer

_LONGEST_WAIT: Final = 300.0  # seconds between two tries, whatever the server asks for

_Done = asyncio.Queue[tuple[Response, asyncio.Future[None]] | None]


class ServerResponder:
    """Answers problems with the model of a server that speaks `/v1/chat/completions`.

    Each sample is a request of its own: the user turn as the only message, and a seed of its own, the lower 31 bits of
    the sample's, which every server takes. A server may ignore it (OpenAI promises best efforts only, and llama.cpp's
    slots influence each other): the samples are as good, but asking again gives others. Nothing here depends on it.

    The answer's text: `reasoning` (or `reasoning_content`), where a server keeps the thought apart, is put back in
    front as <think>…</think>, left open where the thought was cut. A server without a reasoning parser whose template
    opens the thought returns it without its opening. That is mended where the thought ends; a cut one cannot be told
    from an answer: start such a server with its reasoning parser.

    The finish: "length", or "stop" for everything else with which an answer is complete, a provider's content filter
    and tool calls included: the text is kept as given (often empty) and graded like any other. `notes` counts these,
    answers that came without a count of tokens (recorded as 0), and answers cut before `max_tokens`. Where that was
    for want of context, which vLLM does not tell, it is an error.

    The key, where a server wants one, is taken from the environment variable OPENAI_API_KEY.

    Args:
        base_url: of the server, with or without the trailing /v1.
        model: as the server calls it.
        extras: send what vLLM and SGLang know beyond OpenAI's own fields: the chat template's thinking switch, and
            top-k, min-p and repetition penalty switched off, which those servers otherwise take from the model's
            generation_config. To be switched off for a server that refuses unknown fields.
        concurrency: requests in flight.
        timeout, retries, backoff: our patience with a request, see `trainer.endpoint.Endpoint`.

    Raises:
        UserError: if the server cannot be reached, refuses the key, has no such model, or too short a context.
    """

    engine = "server"
    redraw = False

    def __init__(
        self,
        base_url: str,
        model: str,
        plan: EvalPlan,
        *,
        extras: bool = True,
        concurrency: int = 32,
        timeout: float = 3600.0,
        retries: int = 6,
        backoff: float = 1.0,
    ) -> None:
        for option, value in (("concurrency", concurrency), ("timeout", timeout), ("retries", retries + 1)):
            if not value > 0:
                raise UserError(f"option '{option}' is too small")
        advice = "if the prompt is too long for it, lower --max-tokens"
        advice += "; if it does not know vLLM's own fields, do without them" if extras else ""
        self.endpoint = Endpoint(
            base_url,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            longest_wait=_LONGEST_WAIT,
            connections=concurrency,
            advice=advice,
            afterwards="continues with what is missing",
        )
        self.model, self.plan, self.extras, self.concurrency = model, plan, extras, concurrency
        self.block = 16 * concurrency  # every block waits for its longest answer, so blocks are long
        self.notes: Counter[str] = Counter()
        card = asyncio.run(self._card())
        context = card.get("max_model_len")
        self.context = context if isinstance(context, int) else None
        if self.context is not None and plan.max_tokens >= self.context:
            raise self._too_short("no room for a problem")
        # vLLM's `root` tells which checkpoint stands behind a served name.
        root = card.get("root")
        root = f"({root})" if isinstance(root, str) and root != model else ""
        self.name = f"server:{model}{root}@{self.endpoint.host}"

    def rendered(self, texts: Sequence[str]) -> None:
        return None

    def answer(self, wanted: Sequence[Wanted]) -> Iterator[Response]:
        """The responses as they come in. After a failure nothing more is asked, and what is on its way still arrives.

        A request follows another only once the response to that one has been taken, and so is on disk: a kill loses no
        more than `concurrency` of them.

        Raises:
            UserError: once all tries for a sample have failed, or the server refuses it.
        """
        loop = asyncio.new_event_loop()
        try:
            done: _Done = asyncio.Queue()
            task = loop.create_task(self._all(wanted, done))
            while (given := loop.run_until_complete(done.get())) is not None:
                response, taken = given
                yield response
                taken.set_result(None)
            loop.run_until_complete(task)
        finally:
            if left := asyncio.all_tasks(loop):
                for one in left:
                    one.cancel()
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _all(self, wanted: Sequence[Wanted], done: _Done) -> None:
        """Puts every response into `done`, with what to set once it is taken, then None."""
        left, errors = iter(wanted), []

        async def worker(client: httpx2.AsyncClient) -> None:
            for one in left:
                try:
                    response = await self._one(client, one)
                except UserError as error:
                    errors.append(error)
                else:
                    taken = asyncio.get_running_loop().create_future()
                    done.put_nowait((response, taken))
                    await taken
                if errors:
                    return

        try:
            async with self.endpoint.client() as client:
                await asyncio.gather(*(worker(client) for _ in range(min(self.concurrency, len(wanted)))))
        finally:
            done.put_nowait(None)
        if errors:
            raise errors[0]

    async def _one(self, client: httpx2.AsyncClient, one: Wanted) -> Response:
        what = f"sample {one.sample} of '{one.problem}'"
        body = self._request(one)
        return self._response(one, await self.endpoint.tried(client, "/chat/completions", body, _completion, what))

    def _request(self, one: Wanted) -> dict[str, Any]:
        plan = self.plan
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": one.text}],
            "temperature": plan.temperature,
            "top_p": plan.top_p,
            "seed": one.seed & 0x7FFFFFFF,
            "stream": False,
        }
        if not self.extras:  # what OpenAI itself calls it by now
            return request | {"max_completion_tokens": plan.max_tokens}
        request |= {"max_tokens": plan.max_tokens, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        return request | {"chat_template_kwargs": {"enable_thinking": plan.thinking}}

    def _response(self, one: Wanted, data: dict[str, Any]) -> Response:
        choice = data["choices"][0]
        message = choice["message"]
        reason = str(choice.get("finish_reason") or "stop").lower()
        finish = "length" if reason in _CUT else "stop"
        if reason not in {"stop", *_CUT}:
            self.notes[f"answers that ended for the reason '{reason[:40]}'"] += 1
        usage = data.get("usage")
        tokens, prompt = (
            count if isinstance(usage, dict) and isinstance(count := usage.get(f"{of}_tokens"), int) else None
            for of in ("completion", "prompt")
        )
        if tokens is None:
            self.notes["answers without a count of tokens"] += 1
        elif finish == "length" and tokens < self.plan.max_tokens:
            # vLLM shortens a response to what its context leaves, without a word.
            if self.context is not None and prompt is not None and prompt + tokens >= self.context:
                raise self._too_short(f"cut sample {one.sample} of '{one.problem}' at {tokens}: no room for its prompt")
            self.notes["answers cut short of the limit"] += 1
        thought = message.get("reasoning") or message.get("reasoning_content") or ""
        return Response(
            one.problem, one.sample, _joined(thought, message.get("content") or "", finish), tokens or 0, finish
        )

    async def _card(self) -> dict[str, Any]:
        """What the server says of the model; nothing where it keeps no list."""
        try:
            async with self.endpoint.client() as client:
                few = min(self.endpoint.retries, 2)  # nothing is lost yet, and the address may be mistyped
                cards = await self.endpoint.tried(client, "/models", None, _models, "its list of models", retries=few)
        except Refused as refusal:
            if refusal.status in ABSENT:
                return {}
            raise
        return self.endpoint.card(cards, self.model)

    def _too_short(self, what: str) -> UserError:
        return UserError(
            f"{self.endpoint.where} serves '{self.model}' with {self.context} tokens of context, {what} and "
            f"{self.plan.max_tokens} tokens of response: lower --max-tokens, or start it with a longer context"
        )


def _models(content: bytes) -> list[Any]:
    return listed_models(json.loads(content))


def _completion(content: bytes) -> dict[str, Any]:
    data = json.loads(content)
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("no choices")
    message, reason = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, dict):
        raise ValueError("no message")
    for field in ("content", "reasoning", "reasoning_content"):
        if not isinstance(message.get(field), str | None):
            raise ValueError(f"'{field}' is no text")
    if isinstance(reason, str) and reason.lower() in _BROKEN:
        raise ValueError(f"ended for the reason '{reason}'")
    return dict(data)


def _joined(thought: str, content: str, finish: str) -> str:
    """One text of thought and answer."""
    if thought:
        ended = f"<think>\n{thought}"
        return ended if finish == "length" and not content else f"{ended}\n</think>\n\n{content}"
    if "</think>" in content and "<think>" not in content.partition("</think>")[0]:
        return f"<think>\n{content}"  # the template had opened it
    return content
