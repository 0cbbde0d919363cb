"""Requests to a server, many at a time: bounded tries with growing waits, and one clear sentence where they fail.

The event loop lives in a thread of its own, so that callers need none and notebooks, which have one already, are no
special case.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import httpx2

from trainer.endpoint import Endpoint, listed_models
from trainer.errors import UserError

T = TypeVar("T")

_LONGEST_WAIT: Final = 60.0  # seconds between two tries, whatever the server asks for


class Request(NamedTuple):
    """A path below the server's address; a body makes it a POST. `what` it is for is said where it fails."""

    path: str
    body: dict[str, Any] | None
    what: str
    above: bool = False  # the path is not of the OpenAI interface: it is below the address without its /v1


class ServerClient(Endpoint):
    """An endpoint that is asked many things at a time, from code that is not asynchronous.

    Args:
        base_url, timeout, retries, backoff: see `Endpoint`; a wait is a minute at most.
        concurrency: requests in flight.

    Raises:
        UserError: for an address or a key that can be none.
    """

    def __init__(self, base_url: str, *, concurrency: int, timeout: float, retries: int, backoff: float) -> None:
        for option, value in (("concurrency", concurrency), ("timeout", timeout), ("retries", retries + 1)):
            if not value > 0:
                raise UserError(f"option '{option}' is too small")
        super().__init__(
            base_url,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            longest_wait=_LONGEST_WAIT,
            connections=concurrency,
            advice="see its log",
            afterwards="continues from the last checkpoint",
        )

    def cards(self, retries: int) -> list[Any]:
        """The models that the server lists. Raises: Refused, with a status of `ABSENT` where it keeps no list."""
        request = Request("/models", None, "its list of models")
        [(_, found)] = self.ask([request], lambda index, data: listed_models(data), retries)
        return found

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
        task = loop.create_task(self._all(requests, read, retries, done.put))

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
        retries: int | None,
        put: Callable[[tuple[int, T]], None],
    ) -> None:
        left = iter(enumerate(requests))
        errors: list[UserError] = []

        async def worker(client: httpx2.AsyncClient) -> None:
            for index, request in left:

                def reply(content: bytes, index: int = index) -> T:
                    return read(index, json.loads(content or b"null"))

                try:
                    answer = await self.tried(
                        client,
                        request.path,
                        request.body,
                        reply,
                        request.what,
                        retries=retries,
                        above=request.above,
                        unwanted=lambda: bool(errors),
                    )
                    put((index, answer))
                except UserError as error:
                    errors.append(error)
                if errors:
                    return

        async with self.client() as client:
            await asyncio.gather(*(worker(client) for _ in range(min(self.connections, len(requests)))))
        if errors:
            raise errors[0]
