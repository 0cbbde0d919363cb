"""One HTTP server, asked until it answers or it is plain that it will not. No torch.

The client is httpx2 (huggingface_hub's own, so nothing more to install), in asyncio, where whatever waits can be given
up at once. The openai package would add its own retries below ours.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import httpx2

from trainer.errors import UserError

T = TypeVar("T")

KEY: Final = "OPENAI_API_KEY"
ABSENT: Final = {404, 405, 501}  # the server knows no such path
_TRANSIENT: Final = {408, 409, 425, 429}  # and every 5xx


class Refused(UserError):
    """The server has answered, and said no: asking again would not help."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Endpoint:
    """A server with its address, its key and our patience with it.

    The key is read from the environment variable OPENAI_API_KEY; it goes into the request's header and nowhere else.

    Args:
        base_url: with or without the trailing /v1.
        timeout: seconds for one reply, from the request to its last byte.
        retries: further tries after a connection error, a timeout, a malformed reply, HTTP 408, 409, 425, 429 or 5xx.
        backoff: seconds before the first of them, doubled each time; a server's Retry-After counts where it is longer.
        longest_wait: seconds between two tries, whatever the server asks for.
        connections: at a time.
        advice: for a user whose request it refuses.
        afterwards: what the same command does once the server is there again.

    Attributes:
        url: below which the paths lie. where: the same for messages, without name and password.

    Raises:
        UserError: for an address or a key that cannot be one.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float,
        retries: int,
        backoff: float,
        longest_wait: float,
        connections: int,
        advice: str,
        afterwards: str,
    ) -> None:
        try:
            url = httpx2.URL(base_url.strip())
        except httpx2.InvalidURL as error:
            raise UserError(f"'{base_url}' is no address of a server ({error}): write http://HOST:PORT/v1") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(f"'{base_url}' is no address of a server: write http://HOST:PORT/v1")
        url = url.copy_with(path=url.path.rstrip("/") or "/v1", query=None, fragment=None)
        self.url, self.host = str(url), url.host
        self.where = str(url.copy_with(username="", password=""))
        self.timeout, self.retries, self.backoff, self.longest_wait = timeout, retries, backoff, longest_wait
        self.connections, self.advice, self.afterwards = connections, advice, afterwards
        self._key = os.environ.get(KEY, "").strip()
        if self._key and not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the key in {KEY} has characters that no key has: set it again")

    def client(self) -> httpx2.AsyncClient:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx2.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        # Of the waiting, `timeout` limits the whole; connecting is either quick or vain.
        return httpx2.AsyncClient(headers=headers, limits=limits, timeout=httpx2.Timeout(None, connect=30.0))

    async def tried(
        self,
        client: httpx2.AsyncClient,
        path: str,
        body: Any,
        read: Callable[[bytes], T],
        what: str,
        *,
        retries: int | None = None,
        above: bool = False,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> T:
        """What `read` makes of the reply to a GET, or with a body a POST.

        Args:
            read: raises ValueError for a malformed reply, which is then asked for again.
            what: is asked for, in messages. retries: instead of the endpoint's own.
            above: the path is not of the OpenAI interface: it is below the address without its /v1.
            unwanted: whether the reply is not wanted any more, so that a failure is the last.

        Raises:
            Refused: if the server refuses the request.
            UserError: once all tries have failed.
        """
        # Escaped to ASCII: a text may hold half of a surrogate pair, which UTF-8 cannot.
        method, content = ("GET", None) if body is None else ("POST", json.dumps(body).encode())
        url = (self.url.removesuffix("/v1") if above else self.url) + path
        most = self.retries if retries is None else retries
        reason = ""
        for attempt in range(most + 1):
            asked_to_wait = 0.0
            try:
                async with asyncio.timeout(self.timeout):
                    reply = await client.request(method, url, content=content)
            except TimeoutError:
                reason = f"no answer in {self.timeout:g} s"
            except httpx2.RequestError as error:
                reason = self._safe(str(error) or type(error).__name__)
            else:
                if reply.status_code == 200:
                    try:
                        return read(reply.content)
                    except (ValueError, RecursionError) as error:
                        reason = f"a malformed answer ({self._safe(str(error))[:200]})"
                else:
                    reason = f"HTTP {reply.status_code}{self._told(reply)}"
                    absent = method == "GET" and reply.status_code in ABSENT
                    if absent or (reply.status_code not in _TRANSIENT and reply.status_code < 500):
                        raise self._refused(reply.status_code, reason, what)
                    asked_to_wait = _retry_after(reply.headers.get("retry-after"))
            if attempt < most:
                ours = min(self.backoff * 2 ** min(attempt, 20), self.longest_wait) * random.uniform(0.75, 1.25)
                await _sleep(min(max(asked_to_wait, ours), self.longest_wait))
            if unwanted():
                break
        tries = f"after {attempt + 1} tries" if attempt else "at the only try"
        raise UserError(
            f"{self.where} did not give {what} {tries}: {reason}; see that it runs and can be reached, then give the "
            f"same command again, which {self.afterwards}"
        )

    def _refused(self, status: int, reason: str, what: str) -> Refused:
        if status in (401, 403):
            remedy = f"check the key in {KEY}" if self._key else f"put its key into the environment variable {KEY}"
        elif status == 404:
            remedy = "check the address and the model's name"
        elif 300 <= status < 400:
            remedy = "it sends requests elsewhere: give that address"
        else:
            remedy = self.advice
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

    def card(self, cards: list[Any], model: str) -> dict[str, Any]:
        """Of the models that the server lists, the one of this name; nothing where it names none.

        Raises:
            UserError: if it lists others only.
        """
        known = {str(card["id"]): card for card in cards if isinstance(card, dict) and "id" in card}
        if known and model not in known:
            names = ", ".join(sorted(known)[:20]) + (", …" if len(known) > 20 else "")
            raise UserError(f"{self.where} has no model '{model}': it has {names}")
        return known.get(model, {})


def listed_models(data: Any) -> list[Any]:
    """The cards in the answer to a request for /models. Raises: ValueError, if it holds none."""
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise ValueError("no list of models")
    return list(data["data"])


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


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
