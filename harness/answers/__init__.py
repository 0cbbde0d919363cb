r"""Grading answers with two checkers: ``paper`` repeats the released evaluation, ``strict`` is right.

``grade`` gives one verdict, ``grade_many`` both for many answers. What plain reading settles is decided here;
everything else runs in killable worker processes, so that no answer can hang or crash its reader. Importing this
package is cheap.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from harness.answers import paper, strict
from harness.answers.extract import answer_box, released_box
from harness.answers.memo import Key, Memo
from harness.answers.strict import Outcome
from harness.answers.workers import Pool, Reply, shared_pool
from harness.errors import UserError

__all__ = ["CHECKER_VERSIONS", "Graded", "Verdict", "grade", "grade_many"]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


#: What a stored verdict depends on besides bench, gold and prediction.
CHECKER_VERSIONS: Final = {
    "strict": f"strict-2/mpmath-{_installed('mpmath')}",
    "paper": "/".join(
        ["paper-1", *(f"{name}-{_installed(name)}" for name in ("math-verify", "latex2sympy2_extended", "sympy"))]
    ),
}
#: Wall-clock seconds for one answer in a worker. math-verify has alarms of its own after 5 s, so it needs more than 5.
TIME_LIMITS: Final = {"strict": 5.0, "paper": 8.0}
_ANSWER_SECONDS: Final = 9.5  # what ``grade`` may take altogether
_SAVE_EVERY: Final = 500
_COLLECTED: Final = 256  # questions read before they are handed over, ordered by gold
_PORTION: Final = 16  # questions a process takes at a time
_WITHOUT: Final = {
    "none": "no box",
    "unclosed": "unclosed box",
    "empty": "empty box",
    "thinking": "unfinished thought",
}


@dataclass(frozen=True)
class Verdict:
    """``extracted`` is the text judged (None: no answer found), ``parsed`` its answer class, for votes over samples."""

    correct: bool
    extracted: str | None
    reason: str
    parsed: str | None = None


@dataclass(frozen=True)
class Graded:
    """Both verdicts on one response."""

    strict: Verdict
    paper: Verdict


@dataclass(frozen=True)
class _Box:
    """What one checker takes from a response: the text it judges, or why there is none."""

    text: str | None
    note: str = ""


@dataclass(frozen=True)
class _Question:
    """One gold and one box up to the point where they have to be compared, or already decided."""

    checker: str
    bench: str
    gold: str
    box: _Box
    decided: Outcome | None = None

    @property
    def key(self) -> Key:
        # the released checker knows no benchmarks
        bench = "" if self.checker == "paper" else self.bench
        return CHECKER_VERSIONS[self.checker], bench, self.gold, self.box.text or ""

    @property
    def task(self) -> tuple[dict[str, Any], float]:
        """What a judging process is asked, and its limit in seconds."""
        task = {"checker": self.checker, "gold": self.gold, "prediction": self.box.text, "bench": self.bench}
        return task, TIME_LIMITS[self.checker]

    def verdict(self, outcome: Outcome) -> Verdict:
        reason = (
            f"{outcome.reason} ({self.box.note})" if self.box.note and self.box.text is not None else outcome.reason
        )
        parsed = outcome.parsed
        if self.checker == "paper" and self.box.text is not None:
            parsed = paper.answer_class(self.gold if outcome.equal else self.box.text)
        return Verdict(outcome.equal, self.box.text, reason, parsed)


_memo = Memo()


def grade(response: str, gold: str, checker: str = "strict", bench: str = "minerva") -> Verdict:
    """The verdict of one checker on one response; ``bench`` decides how exact a number has to be.

    Raises nothing for any response or gold, returns within 10 s, and works in any thread. Raises ``UserError`` for an
    unknown checker, or where math-verify is not installed.
    """
    started = time.monotonic()
    if checker not in _BOXES:
        raise UserError(f"unknown checker {checker!r}: choose strict or paper")
    question = _question(checker, bench, str(gold), _BOXES[checker](str(response)))
    outcome = question.decided or _memo.get(question.key)
    if outcome is None:
        left = _ANSWER_SECONDS - (time.monotonic() - started)
        reply = shared_pool().run(*question.task, within=left)
        outcome = _outcome(reply)
        if reply.outcome in ("equal", "different"):
            _memo.put(question.key, outcome)
    return question.verdict(outcome)


def grade_many(
    items: Iterable[tuple[str, str, str]],
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    memo: Path | str | None = None,
) -> list[Graded]:
    """Both verdicts for each (response, gold, bench), in order; equal questions are asked once.

    ``workers`` processes at most (default: one per core, four at most); ``progress(done, total)`` counts distinct open
    questions; ``memo`` is a file that keeps verdicts between runs.
    """
    found = Memo(Path(memo)) if memo is not None else _memo
    questions: dict[tuple[str, str, str, _Box], _Question] = {}
    outcomes: dict[Key, Outcome] = {}
    asked: list[list[_Question]] = []
    asking = _Asking(workers)
    try:
        for response, gold, bench in items:
            both = []
            for checker, box_of in _BOXES.items():
                read = (checker, bench, str(gold), box_of(str(response)))
                question = questions.get(read)
                if question is None:
                    question = questions[read] = _question(*read)
                    if question.decided is None and question.key not in outcomes:
                        known = found.get(question.key)
                        if known is not None:
                            outcomes[question.key] = known
                        else:
                            asking.ask(question)
                both.append(question)
            asked.append(both)
        for done, (question, reply) in enumerate(asking.replies(), 1):
            outcomes[question.key] = _outcome(reply)
            if reply.outcome in ("equal", "different"):
                found.put(question.key, outcomes[question.key])
            if done % _SAVE_EVERY == 0:
                found.save()
            if progress is not None:
                progress(done, asking.total)
    finally:
        asking.stop()
        found.save()
    verdicts = {
        id(question): question.verdict(question.decided or outcomes[question.key]) for question in questions.values()
    }
    return [Graded(*(verdicts[id(question)] for question in both)) for both in asked]


class _Asking:
    """Open questions on their way through the judging processes, each asked once; these start with the first."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers
        self._known: set[Key] = set()
        self._number = itertools.count()  # so that portions of equal rank need not be compared
        self._collected: list[_Question] = []
        self._todo: queue.PriorityQueue[tuple[float, int, list[_Question]]] = queue.PriorityQueue()
        self._done: queue.SimpleQueue[tuple[_Question, Reply] | BaseException] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    @property
    def total(self) -> int:
        return len(self._known)

    def ask(self, question: _Question) -> None:
        if question.key in self._known:
            return
        self._known.add(question.key)
        self._collected.append(question)
        if not self._threads:
            self._start()
        if len(self._collected) >= _COLLECTED:
            self._hand_over()

    def replies(self) -> Iterator[tuple[_Question, Reply]]:
        """Every question with its reply, as they come; to be called when all have been asked."""
        self._hand_over()
        self._end(math.inf)
        for _ in range(self.total):
            answered = self._done.get()
            if isinstance(answered, BaseException):
                raise answered
            yield answered

    def stop(self) -> None:
        self._stopped.set()
        self._end(-math.inf)

    def _end(self, when: float) -> None:
        for _ in self._threads:
            self._todo.put((when, next(self._number), []))

    def _start(self) -> None:
        pool = shared_pool()
        if self.workers is not None:
            pool.grow(self.workers)
        self._threads = [
            threading.Thread(target=self._work, args=(pool,), daemon=True) for _ in range(self.workers or pool.size)
        ]
        for thread in self._threads:
            thread.start()

    def _hand_over(self) -> None:
        """Questions in portions, those of one gold together; long golds go first, as they take the longest."""
        ordered = sorted(self._collected, key=lambda question: (-len(question.gold), question.gold, question.checker))
        self._collected = []
        for start in range(0, len(ordered), _PORTION):
            portion = ordered[start : start + _PORTION]
            self._todo.put((-len(portion[0].gold), next(self._number), portion))

    def _work(self, pool: Pool) -> None:
        try:
            pool.start()
            while (portion := self._todo.get()[2]) and not self._stopped.is_set():
                replies = pool.run_all([question.task for question in portion])
                with contextlib.closing(replies):
                    for question, reply in zip(portion, replies, strict=True):
                        self._done.put((question, reply))
                        if self._stopped.is_set():
                            return
        except BaseException as problem:
            self._done.put(problem)


def _strict_box(response: str) -> _Box:
    box = answer_box(response)
    if box.text is None:
        return _Box(None, _WITHOUT[box.note])
    return _Box(box.text, "last of several boxes" if box.note == "multiple" else "")


def _paper_box(response: str) -> _Box:
    text = released_box(response)
    return _Box(None, "no box") if text is None else _Box(text)


_BOXES: Final[dict[str, Callable[[str], _Box]]] = {"strict": _strict_box, "paper": _paper_box}


def _question(checker: str, bench: str, gold: str, box: _Box) -> _Question:
    if box.text is None:
        decided: Outcome | None = Outcome(False, box.note)
    elif checker == "strict":
        decided = strict.quick(gold, box.text, bench)
    else:
        decided = paper.quick(gold, box.text)
    return _Question(checker, bench, gold, box, decided)


def _outcome(reply: Reply) -> Outcome:
    return Outcome(reply.outcome == "equal", reply.reason, reply.parsed)
