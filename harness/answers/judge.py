"""One judging process: reads tasks from standard input, one JSON object a line, and answers each with one line.

It ends when its standard input closes, which is how it notices that its parent is gone, and it never outlives its
processor time: the kernel ends it even inside a single endless instruction. One that has grown large says so and
leaves. Started by ``workers.Pool`` only.
"""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

from harness.answers import paper, strict
from harness.answers.strict import Outcome

try:
    import resource
except ImportError:  # not a POSIX system: time is bounded by the parent alone, memory is not
    resource = None  # type: ignore[assignment]

MAX_TEXT = 500  # characters of an answer class that travel back
RETIRES_AT = 0.5  # of the memory limit: what one answer has left behind must not be the undoing of the next


def main() -> None:
    """The loop; ``sys.argv[1:]`` is the memory limit in MiB."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    reply = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    sys.stdout = sys.stderr  # a library that prints must not break the protocol
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    try:
        _warm_up()
    except ImportError as problem:
        _say(reply, {"ready": False, "problem": str(problem)})
        return
    # What was imported stays; what SymPy makes by the hundred thousand is rarely garbage in cycles.
    gc.freeze()
    gc.set_threshold(100_000)
    limit = int(sys.argv[1])
    _limit_memory(limit)
    _say(reply, {"ready": True})
    leaving = False
    while not leaving:
        task = json.loads(tasks.get())
        _limit_time(task["limit"])
        found = answer(task)
        leaving = _has_grown(limit)
        _say(reply, {**found, "leaving": leaving})


def _listen(tasks: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        tasks.put(line)
    os._exit(0)


def _warm_up() -> None:
    """Imports and first calls happen before the clock of a task runs."""
    for gold, prediction in (("1", "2"), ("\\frac{1}{2}", "x=3")):
        paper.compare(gold, prediction)
        strict.compare(gold, prediction, "warm-up")


def _limit_memory(mebibytes: int) -> None:
    if resource is not None and mebibytes:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))


def _has_grown(mebibytes: int) -> bool:
    """Of the memory this process holds now. Its peak would not do: on Linux ``ru_maxrss`` outlives ``exec``, so that a
    process started by a trainer of many GB would begin its life too large."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no such file system: the limit on memory alone protects the machine
        return False
    return mebibytes > 0 and held > RETIRES_AT * (mebibytes << 20)


def _limit_time(seconds: float) -> None:
    if resource is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        allowed = math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """The reply to one task: ``outcome`` is equal, different or error."""
    try:
        if task["checker"] == "paper":
            outcome = paper.compare(task["gold"], task["prediction"])
        else:
            outcome = strict.compare(task["gold"], task["prediction"], task["bench"])
    except MemoryError:
        return {"outcome": "error", "reason": "error: out of memory", "parsed": None}
    except Exception as problem:
        return {"outcome": "error", "reason": f"error: {type(problem).__name__}", "parsed": None}
    return _reply(outcome)


def _reply(outcome: Outcome) -> dict[str, Any]:
    parsed = outcome.parsed if outcome.parsed is None else outcome.parsed[:MAX_TEXT]
    return {"outcome": "equal" if outcome.equal else "different", "reason": outcome.reason, "parsed": parsed}


def _say(reply: TextIO, message: dict[str, Any]) -> None:
    reply.write(json.dumps(message) + "\n")
    reply.flush()
