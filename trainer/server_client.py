"""Requests to a server, many at a time: bounded tries with growing waits, and one clear sentence where they fail.

The client is httpx2 (huggingface_hub's own, so nothing more to install). The event loop lives in a thread of its own,
so that callers need none and notebooks, which have one already, are no special case.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import httpx2

from trainer.errors import UserError

T = TypeVar("T")

KEY: Final = "OPENAI_API_KEY"
_TRANSIENT: Final = {408, 409, 425, 429}  # and every 5xx
_LONGEST_WAIT: Final = 60.0  # seconds between two tries, whatever the server asks for


class Request(NamedTuple):
    """A path below the server's address; a body makes it a POST. `what` it is for is said where it fails."""

    path: str
    body: dict[str, Any] | None
    what: str
    above: bool = False  # the path is not of the OpenAI interface: it is below the address without its /v1


class Refused(UserError):
    """The server has answered, and said no: asking again would not help."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class ServerClient:
    """An address with the patience to use it.

    The key is read from the environment variable OPENAI_API_KEY; it goes into the request's header and nowhere else.

    Args:
        base_url: of the server, with or without the trailing /v1.
        concurrency: requests in flight.
        timeout: seconds for one answer, from the request to its last byte.
        retries: further tries after a connection error, a timeout, a malformed answer, HTTP 408, 409, 425, 429 or 5xx.
        backoff: seconds before the first of them, doubled each time up to a minute; a server's Retry-After counts where
            it is longer.

    Raises:
        UserError: for an address or a key that can be none.
    """

    def __init__(self, base_url: str, *, concurrency: int, timeout: float, retries: int, backoff: float) -> None:
        for option, value in (("concurrency", concurrency), ("timeout", timeout), ("retries", retries + 1)):
            if not value > 0:
                raise UserError(f"option '{option}' is too small")
        self.url, self.where = _address(base_url)
        self.concurrency, self.timeout, self.retries, self.backoff = concurrency, timeout, retries, backoff
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and (self._key.isprintable() or not self._key)):
            raise UserError(f"the key in {KEY} has characters that no key has: set it again")

    def ask(
        self, requests: Sequence[Request], read: Callable[[int, Any], T], retries: int | None = None
    ) -> Iterator[tuple[int, T]]:
        """(index, what `read(index, the answer's JSON)` makes of it) as answers come in.

        After a failure nothing more is asked, and what is on its way still arrives. Leaving early gives up the rest.

        Args:
            read: raises ValueError for an answer that is malformed, which is then asked for again.
            retries: instead of the client's own.

        Raises:
            Refused: if the server refuses a request.
            UserError: once all tries for one have failed.
        """
        done: queue.SimpleQueue[tuple[int, T] | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._all(requests, read, self.retries if retries is None else retries, done.put))

        def drive() -> None:
            try:
                loop.run_until_complete(task)
            except asyncio.CancelledError:
                pass
            except BaseException as error:  # to be raised where the answers are wanted
                done.put(error)
            finally:
                done.put(None)

        thread = threading.Thread(target=drive, daemon=True)
        thread.start()
        try:
            while (item := done.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
            loop.close()

    async def _all(
        self,
        requests: Sequence[Request],
        read: Callable[[int, Any], T],
        retries: int,
        put: Callable[[tuple[int, T]], None],
    ) -> None:
        left = iter(enumerate(requests))
        errors: list[UserError] = []

        async def worker(client: httpx2.AsyncClient) -> None:
            for index, request in left:
                try:
                    put((index, await self._tried(client, index, request, read, retries, errors)))
                except UserError as error:
                    errors.append(error)
                if errors:
                    return

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        # Of the waiting, `timeout` limits the whole; connecting is either quick or vain.
        patience = httpx2.Timeout(None, connect=30.0)
        async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=patience) as client:
            await asyncio.gather(*(worker(client) for _ in range(min(self.concurrency, len(requests)))))
        if errors:
            raise errors[0]

    async def _tried(
        self,
        client: httpx2.AsyncClient,
        index: int,
        request: Request,
        read: Callable[[int, Any], T],
        retries: int,
        errors: Sequence[UserError],
    ) -> T:
        method, body = ("GET", None) if request.body is None else ("POST", json.dumps(request.body).encode())
        base = self.url.removesuffix("/v1") if request.above else self.url
        reason = ""
        for attempt in range(retries + 1):
            wait = 0.0
            try:
                asked = client.request(
                    method, base + request.path, content=body, headers={"Content-Type": "application/json"}
                )
                reply = await asyncio.wait_for(asked, self.timeout)
            except TimeoutError:
                reason = f"no answer in {self.timeout:g} s"
            except httpx2.RequestError as error:
                reason = self._safe(str(error) or type(error).__name__)
            else:
                if reply.status_code == 200:
                    try:
                        return read(index, json.loads(reply.content or b"null"))
                    except (ValueError, RecursionError) as error:
                        reason = f"a malformed answer ({self._safe(str(error))[:200]})"
                else:
                    reason = f"HTTP {reply.status_code}{self._told(reply)}"
                    if reply.status_code not in _TRANSIENT and reply.status_code < 500:
                        raise self._refused(reply.status_code, reason, request.what)
                    wait = _retry_after(reply.headers.get("retry-after"))
            if attempt < retries:
                longest = min(self.backoff * 2**attempt, _LONGEST_WAIT)
                await _sleep(min(max(wait, longest * random.uniform(0.75, 1.25)), _LONGEST_WAIT))
            if errors:  # of another request: this one is not wanted any more
                break
        raise UserError(
            f"{self.where} did not give {request.what} after {attempt + 1} tries: {reason}; see that it runs and can "
            "be reached, then give the same command again, which continues from the last checkpoint"
        )

    def _refused(self, status: int, reason: str, what: str) -> Refused:
        if status in (401, 403):
            remedy = f"check the key in {KEY}" if self._key else f"put its key into the environment variable {KEY}"
        elif status == 404:
            remedy = "check the address and the name of the model"
        elif 300 <= status < 400:
            remedy = "it sends requests elsewhere: give that address"
        else:
            remedy = "see its log"
        return Refused(f"{self.where} refused {what}: {reason}; {remedy}", status, reason)

    def _told(self, reply: httpx2.Response) -> str:
        """The server's own words on an error, in short."""
        try:
            said = json.loads(reply.content)
            said = said.get("error", said)
            text = said.get("message", "") if isinstance(said, dict) else said
        except (ValueError, RecursionError, AttributeError):
            text = ""
        text = " ".join(self._safe(str(text)).split())
        return f" ({text[:200]})" if text else ""

    def _safe(self, text: str) -> str:
        """Without the key, which some servers repeat."""
        return text.replace(self._key, "…") if self._key else text


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _address(base_url: str) -> tuple[str, str]:
    """The URL below which the endpoints lie, and what to call it in messages: without name and password."""
    try:
        url = httpx2.URL(base_url.strip())
    except httpx2.InvalidURL as error:
        raise UserError(f"'{base_url}' is no address of a server ({error}): write http://HOST:PORT/v1") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"'{base_url}' is no address of a server: write http://HOST:PORT/v1")
    path = url.path.rstrip("/") or "/v1"
    url = url.copy_with(path=path, query=None, fragment=None)
    return str(url), str(url.copy_with(username="", password=""))


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks to wait for: a number, or a date."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
