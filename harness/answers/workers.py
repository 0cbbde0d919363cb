"""A pool of killable judging processes: every task has a wall-clock limit, every process a memory limit.

Fresh interpreters, not forks: a fork after torch has started its threads can hang. Safe to call from several threads.
No process outlives this one: they end at interpreter exit, and by themselves when this process is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from harness.errors import UserError

MEMORY_MIB: Final = 1024
# Tasks sent ahead of their replies. Bounded in bytes, so that writing never waits for a process that hangs.
WINDOW: Final = 16_384
WINDOW_TASKS: Final = 32
START_SECONDS: Final = 120.0  # imports on a cold, busy machine
_ROOT: Final = str(Path(__file__).resolve().parents[2])
# The working directory must not shadow a library, so it gives up its place on the path to this package's parent.
_COMMAND: Final = "import sys; sys.path[0] = sys.argv.pop(1); from harness.answers.judge import main; main()"


@dataclass(frozen=True)
class Reply:
    """``timeout``: killed at the limit. ``error``: the process died, or no process was to be had in time."""

    outcome: Literal["equal", "different", "timeout", "error"]
    reason: str
    parsed: str | None = None


def _line(task: dict[str, Any], limit: float) -> bytes:
    return json.dumps({**task, "limit": limit}).encode("ascii") + b"\n"


def _fits(lines: Sequence[bytes]) -> bool:
    """Whether the last of ``lines`` may follow the others before the first is answered."""
    return len(lines) == 1 or (len(lines) <= WINDOW_TASKS and sum(map(len, lines)) <= WINDOW)


_DIED: Final = Reply("error", "error: the judging process died")


class _Worker:
    """One process; used by one thread at a time."""

    def __init__(self, memory: int, patience: float) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, _ROOT, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.unread = b""
        self.fit = True  # for another task
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.stdout, selectors.EVENT_READ)
        try:
            greeting = self._read(patience)
        except BaseException:
            self.close()
            raise
        if greeting is None or not greeting.get("ready"):
            self.close()
            if greeting is not None:
                raise UserError(
                    f"the answer checker does not start: {greeting['problem']} (install the package's dependencies)"
                )
            raise TimeoutError("a judging process did not start in time")

    def send(self, line: bytes) -> None:
        """Queues a task behind those not answered yet. Raises ``OSError`` where the process died."""
        self.stdin.write(line)
        self.stdin.flush()

    def receive(self, limit: float) -> Reply | None:
        """The reply to the oldest task, or None where the process died."""
        started = time.monotonic()
        answer = self._read(limit)
        if answer is not None:
            self.fit = answer["outcome"] != "error" and not answer["leaving"]
            return Reply(answer["outcome"], answer["reason"], answer["parsed"])
        self.fit = False
        if time.monotonic() - started >= limit:
            return Reply("timeout", "timeout")
        # the kernel's own limit on processor time can come a moment before ours
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.wait(1) == -getattr(signal, "SIGXCPU", 0):
                return Reply("timeout", "timeout")
        return None

    def _read(self, limit: float) -> dict[str, Any] | None:
        """One line as JSON; None when the process dies or ``limit`` seconds pass."""
        deadline = time.monotonic() + limit
        while b"\n" not in self.unread:
            if not self.selector.select(max(0.0, deadline - time.monotonic())):
                return None
            piece = os.read(self.stdout.fileno(), 65536)
            if not piece:
                return None
            self.unread += piece
        line, _, self.unread = self.unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        self.process.kill()
        self.forget()
        self.process.wait()

    def forget(self) -> None:
        """Lets go of the pipes without touching the process: what a forked child does with its parent's workers."""
        with contextlib.suppress(OSError):
            self.selector.close()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


class Pool:
    """At most ``size`` judging processes, started when first needed and replaced when they die or are killed."""

    def __init__(self, size: int | None = None, memory_mib: int = MEMORY_MIB) -> None:
        self.size = size or min(4, os.cpu_count() or 1)
        self.memory_mib = memory_mib
        self._free = threading.Condition()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._starting = 0
        self._closed = False

    def run(self, task: dict[str, Any], limit: float, within: float | None = None) -> Reply:
        """The reply to ``task``, at most ``limit`` seconds after a process took it.

        ``within`` bounds the whole call, waiting for a process included; without it the call waits for its turn, and
        raises ``TimeoutError`` if a process does not start in two minutes. Raises ``UserError`` where the checkers'
        dependencies are missing.
        """
        end = None if within is None else time.monotonic() + within
        for _ in range(2):  # a process may have been ended by others: a task is to blame only for the second death
            try:
                worker = self._acquire(end)
            except TimeoutError:
                if end is None:
                    raise
                return Reply("error", "error: no judging process was free in time")
            reply = None
            try:
                bound = limit if end is None else max(0.0, min(limit, end - time.monotonic()))
                with contextlib.suppress(OSError):
                    worker.send(_line(task, bound))
                    reply = worker.receive(bound)
            finally:
                self._release(worker, alive=reply is not None and worker.fit)
            if reply is not None:
                return reply
        return _DIED

    def run_all(self, tasks: Sequence[tuple[dict[str, Any], float]]) -> Generator[Reply, None, None]:
        """The replies to (task, limit), in order, from one process that always has its next tasks at hand.

        A limit counts from the reply before. Raises what ``run`` raises.
        """
        lines = [_line(task, limit) for task, limit in tasks]
        done, deaths = 0, 0
        while done < len(tasks):
            worker = self._acquire(None)
            try:
                sent = done
                while done < len(tasks) and worker.fit:
                    try:
                        while sent < len(tasks) and _fits(lines[done : sent + 1]):
                            worker.send(lines[sent])
                            sent += 1
                        reply = worker.receive(tasks[done][1])
                    except OSError:
                        worker.fit, reply = False, None
                    if reply is None:
                        deaths += 1
                        if deaths < 2:
                            break
                        reply = _DIED
                    done, deaths = done + 1, 0
                    yield reply
            except BaseException:
                worker.fit = False
                raise
            finally:
                self._release(worker, alive=worker.fit and done == len(tasks))

    def start(self) -> None:
        """Has one more process ready for who asks next, if there is room; quietly not, where it does not start."""
        with self._free:
            if self._closed or len(self._all) + self._starting >= self.size:
                return
            self._starting += 1
        with contextlib.suppress(RuntimeError, TimeoutError, UserError):
            self._release(self._launch(START_SECONDS), alive=True)

    def grow(self, size: int) -> None:
        """Allows at least ``size`` processes."""
        with self._free:
            self.size = max(self.size, size)
            self._free.notify_all()

    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        with self._free:
            return [worker.process.pid for worker in self._all]

    def close(self) -> None:
        """Ends every process; a pool that is used again afterwards raises ``RuntimeError``."""
        with self._free:
            self._closed = True
            workers, self._all, self._idle = self._all, set(), []
            self._free.notify_all()
        for worker in workers:
            worker.close()

    def forget(self) -> None:
        for worker in self._all:
            worker.forget()

    def _acquire(self, end: float | None) -> _Worker:
        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        with self._free:
            while True:
                if self._closed:
                    raise RuntimeError("the pool of judging processes is closed")
                if self._idle:
                    return self._idle.pop()
                if len(self._all) + self._starting < self.size:
                    self._starting += 1
                    break
                if not self._free.wait(left()):
                    raise TimeoutError("no judging process was free in time")
        patience = left()
        return self._launch(START_SECONDS if patience is None else patience)

    def _launch(self, patience: float) -> _Worker:
        """A new process, which the caller has counted as starting."""
        worker = None
        try:
            worker = _Worker(self.memory_mib, patience)
        finally:
            with self._free:
                self._starting -= 1
                if worker is not None:
                    self._all.add(worker)
                self._free.notify()
        if self._closed:
            worker.close()
            raise RuntimeError("the pool of judging processes is closed")
        return worker

    def _release(self, worker: _Worker, alive: bool) -> None:
        with self._free:
            keep = alive and not self._closed
            if keep:
                self._idle.append(worker)
            else:
                self._all.discard(worker)
            self._free.notify()
        if not keep:
            worker.close()


_lock = threading.Lock()
_shared: Pool | None = None


def shared_pool() -> Pool:
    """The pool of this process, made on first use."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = Pool()
            atexit.register(close_shared_pool)
        return _shared


def close_shared_pool() -> None:
    """Ends the workers of this process; the next ``shared_pool`` starts afresh."""
    global _shared
    with _lock:
        pool, _shared = _shared, None
    if pool is not None:
        pool.close()


def _after_fork() -> None:
    """A forked child has its parent's workers in memory only: it must not use them, end them or hold their pipes."""
    global _shared, _lock
    _lock = threading.Lock()
    pool, _shared = _shared, None
    if pool is not None:
        pool.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
