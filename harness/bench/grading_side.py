r"""One side of the grading measurement, in a process of its own: ``python -m harness.bench.grading_side SIDE IN OUT``.

``peer`` is the loop of the released script, stated again: serial, one comparison per sample, gold and prediction parsed
each time. ``ours`` is ``grade_many``, which decides with two checkers.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.bench.memory import highest, highest_of

CUT = 300


def peer(items: Sequence[tuple[str, str, str]]) -> list[bool]:
    """The released verdicts. Its imports happened before, as they would have long before in the released script."""
    from math_verify import parse, verify

    verdicts = []
    for response, gold, _ in items:
        answer = boxed(response.strip())
        correct = False
        if answer is not None:
            try:
                correct = verify(parse("\\boxed{" + gold + "}"), parse("\\boxed{" + answer[:CUT] + "}"))
            except Exception:
                correct = False
        verdicts.append(bool(correct))
    return verdicts


def boxed(response: str) -> str | None:
    r"""What is between ``\boxed{`` and the brace that closes it, for the last box; None where there is no such box."""
    start = response.rfind("\\boxed")
    if start < 0:
        start = response.rfind("\\fbox")
    if start < 0:
        return None
    depth = 0
    for end in range(start, len(response)):
        if response[end] == "{":
            depth += 1
        elif response[end] == "}":
            depth -= 1
            if depth == 0:
                found = response[start : end + 1]
                return found[7:-1] if found.startswith("\\boxed{") else None
    return None


def ours(items: Sequence[tuple[str, str, str]]) -> list[bool]:
    """Our verdicts of the released checker; those of the strict one are found on the way."""
    from harness.answers import grade_many

    return [graded.paper.correct for graded in grade_many(items)]


def _spent(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    side, source, target = sys.argv[1:]
    items = [tuple(row) for row in json.loads(Path(source).read_text())]
    if side == "peer":
        import math_verify  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    verdicts = (peer if side == "peer" else ours)(items)
    seconds = time.perf_counter() - started
    memory = highest()
    if side == "ours":
        from harness.answers.workers import close_shared_pool, shared_pool

        memory += sum(map(highest_of, shared_pool().pids()))
        close_shared_pool()
    after, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = {
        "verdicts": verdicts,
        "seconds": seconds,
        "cpu_seconds": _spent(after) - _spent(before) + _spent(workers),
        "memory_mib": memory,
    }
    Path(target).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
