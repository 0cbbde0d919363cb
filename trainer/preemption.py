"""SIGTERM, by which a cluster asks for a machine back: the step in hand is finished and saved, then the run leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from trainer.distributed import ALONE, Ranks

CODE: Final = 128 + signal.SIGTERM  # as a shell gives it to what a signal ended; Ctrl-C is 130
ECHO: Final = 5.0  # seconds


class Preempted(SystemExit):
    """The run was asked to stop. `str` of it is a sentence for people, `code` the process's exit code."""

    def __init__(self, sentence: str) -> None:
        super().__init__(CODE)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class Stop:
    """Listens for SIGTERM in a `with` block: the first asks the run to leave, a second one ends the process at once.

    A cluster may send the signal to every process of a job, and torchrun hands on to its own what it gets: among
    several processes, what comes within `ECHO` seconds of the first is the same signal again. torchrun itself kills
    them 30 seconds after (`--shutdown-timeout`): longer than a step takes, or the last checkpoint is what remains.

    Outside of a main thread nothing can listen, and a signal has its usual effect.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.since: float | None = None
        self.interruptible = False
        self.before: Any = None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *problem: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.since is None:
            self.since = now
            if self.ranks.count == 1:  # the system's own way, which also ends what runs outside of Python
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self.interruptible:
                raise self.sentence()
        elif now - self.since > ECHO:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    def asked(self) -> bool:
        """Whether one of the processes was asked to leave; all of them call this, and have the same answer."""
        return any(self.ranks.all(self.since is not None))

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Around work that can be left anywhere and continued, after all has been saved."""
        if self.since is not None:
            raise self.sentence()
        self.interruptible = True
        try:
            yield
        finally:
            self.interruptible = False

    @staticmethod
    def sentence(done: str = "") -> Preempted:
        """What to raise in order to leave."""
        return Preempted(f"stopped by SIGTERM{done and f' {done}'}, everything is saved; the same command continues")
