"""One HTTP server, asked for JSON until it answers or it is plain that it will not.

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
from typing import Any, Final

import httpx2

from harness.errors import UserError

KEY: Final = "OPENAI_API_KEY"
_TRANSIENT: Final = {408, 409, 425, 429}  # and every 5xx
_ABSENT: Final = {404, 405, 501}
_LONGEST_WAIT: Final = 300.0  # seconds between two tries, whatever the server asks for

Check = Callable[[Any], dict[str, Any]]  # a reply in the promised shape, or a ValueError that says what is missing


class Endpoint:
    """A server with its address, its key and our patience with it.

    The key is read from the environment variable OPENAI_API_KEY; it goes into the request's header and nowhere else.

    Args:
        base_url: with or without the trailing /v1.
        timeout: seconds for one reply, from the request to its last byte.
        retries: further tries after a connection error, a timeout, a malformed reply, HTTP 408, 409, 425, 429 or 5xx.
        backoff: seconds before the first of them, doubled each time; a server's Retry-After counts where it is longer.
        connections: at a time.
        advice: for a user whose request it refuses.

    Raises:
        UserError: for an address or a key that cannot be one.
    """

    def __init__(
        self, base_url: str, *, timeout: float, retries: int, backoff: float, connections: int, advice: str
    ) -> None:
        try:
            url = httpx2.URL(base_url.strip())
        except httpx2.InvalidURL as error:
            raise UserError(f"'{base_url}' is no address of a server ({error}): write http://HOST:PORT/v1") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(f"'{base_url}' is no address of a server: write http://HOST:PORT/v1")
        url = url.copy_with(path=url.path.rstrip("/") or "/v1", query=None, fragment=None)
        self.url, self.host = str(url), url.host
        self.where = str(url.copy_with(username="", password=""))  # what messages call it
        self.timeout, self.retries, self.backoff, self.connections = timeout, retries, backoff, connections
        self.advice = advice
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

    async def listed(self, client: httpx2.AsyncClient, path: str, check: Check, what: str) -> dict[str, Any] | None:
        """The reply to a GET, None where the server knows no such path.

        Raises:
            UserError: as `posted`, but soon: nothing is lost yet, and the address may be mistyped.
        """
        return await self._tried(client, "GET", path, None, check, what, min(self.retries, 2))

    async def posted(self, client: httpx2.AsyncClient, path: str, body: Any, check: Check, what: str) -> dict[str, Any]:
        """The reply to a POST.

        Raises:
            UserError: once all tries have failed, or the server refuses the request.
        """
        # Escaped to ASCII: a text may hold half of a surrogate pair, which UTF-8 cannot.
        reply = await self._tried(client, "POST", path, json.dumps(body).encode(), check, what, self.retries)
        assert reply is not None
        return reply

    async def _tried(
        self,
        client: httpx2.AsyncClient,
        method: str,
        path: str,
        content: bytes | None,
        check: Check,
        what: str,
        retries: int,
    ) -> dict[str, Any] | None:
        reason = ""
        for attempt in range(retries + 1):
            asked_to_wait = 0.0
            try:
                async with asyncio.timeout(self.timeout):
                    reply = await client.request(method, self.url + path, content=content)
            except TimeoutError:
                reason = f"no answer in {self.timeout:g} s"
            except httpx2.RequestError as error:
                reason = self._safe(str(error) or type(error).__name__)
            else:
                if reply.status_code == 200:
                    try:
                        return check(json.loads(reply.content))
                    except (ValueError, RecursionError) as error:
                        reason = f"a malformed answer ({self._safe(str(error))})"
                elif method == "GET" and reply.status_code in _ABSENT:
                    return None
                elif reply.status_code in _TRANSIENT or reply.status_code >= 500:
                    reason = f"HTTP {reply.status_code}{self._told(reply)}"
                    asked_to_wait = _retry_after(reply.headers.get("retry-after"))
                else:
                    raise self._refused(reply, what)
            if attempt < retries:
                ours = self.backoff * 2 ** min(attempt, 20) * random.uniform(0.75, 1.25)
                await _sleep(min(max(asked_to_wait, ours), _LONGEST_WAIT))
        tries = f"after {retries + 1} tries" if retries else "at the only try"
        raise UserError(
            f"{self.where} did not give {what} {tries}: {reason}; see that it runs and can be reached, then give the "
            "same command again, which continues with what is missing"
        )

    def _refused(self, reply: httpx2.Response, what: str) -> UserError:
        status = reply.status_code
        if status in (401, 403):
            remedy = f"check the key in {KEY}" if self._key else f"put its key into the environment variable {KEY}"
        elif status == 404:
            remedy = "check the address and the model's name"
        elif 300 <= status < 400:
            remedy = "it sends requests elsewhere: give that address"
        else:
            remedy = self.advice
        return UserError(f"{self.where} refused {what}: HTTP {status}{self._told(reply)}; {remedy}")

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
