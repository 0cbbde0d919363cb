r"""Grading answers with two checkers: ``paper`` repeats the released evaluation, ``strict`` is right.

``grade`` gives one verdict, ``grade_many`` both for many answers. What plain reading settles is decided here;
everything else runs in killable worker processes, so that no answer can hang or crash its reader. Importing this
package is cheap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from harness.answers import paper, strict
from harness.answers.extract import last_box, released_box
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
    "strict": f"strict-1/mpmath-{_installed('mpmath')}",
    "paper": "/".join(
        ["paper-1", *(f"{name}-{_installed(name)}" for name in ("math-verify", "latex2sympy2_extended", "sympy"))]
    ),
}
#: Wall-clock seconds for one answer in a worker. math-verify has alarms of its own after 5 s, so it needs more than 5.
TIME_LIMITS: Final = {"strict": 5.0, "paper": 8.0}
_ANSWER_SECONDS: Final = 9.5  # what ``grade`` may take altogether
_SAVE_EVERY: Final = 500


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
class _Question:
    """One response read up to the point where gold and prediction have to be compared, or already decided."""

    checker: str
    bench: str
    gold: str
    prediction: str | None
    note: str
    decided: Outcome | None = None

    @property
    def key(self) -> Key:
        # the released checker knows no benchmarks
        return (
            CHECKER_VERSIONS[self.checker],
            "" if self.checker == "paper" else self.bench,
            self.gold,
            self.prediction or "",
        )

    def verdict(self, outcome: Outcome) -> Verdict:
        reason = f"{outcome.reason} ({self.note})" if self.note else outcome.reason
        return Verdict(outcome.equal, self.prediction, reason, outcome.parsed)


_memo = Memo()


def grade(response: str, gold: str, checker: str = "strict", bench: str = "minerva") -> Verdict:
    """The verdict of one checker on one response; ``bench`` decides how exact a number has to be.

    Raises nothing for any response or gold, returns within 10 s, and works in any thread. Raises ``UserError`` for an
    unknown checker, or where math-verify is not installed.
    """
    started = time.monotonic()
    question = _question(str(response), str(gold), checker, bench)
    outcome = question.decided or _memo.get(question.key)
    if outcome is None:
        left = _ANSWER_SECONDS - (time.monotonic() - started)
        reply = _ask(shared_pool(), question, left)
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
    asked = [
        tuple(_question(str(response), str(gold), checker, bench) for checker in ("strict", "paper"))
        for response, gold, bench in items
    ]
    found = Memo(Path(memo)) if memo is not None else _memo
    outcomes: dict[Key, Outcome] = {}
    waiting: dict[Key, _Question] = {}
    for question in (question for both in asked for question in both):
        if question.decided is None and question.key not in outcomes:
            known = found.get(question.key)
            if known is not None:
                outcomes[question.key] = known
            else:
                waiting[question.key] = question
    if waiting:
        outcomes.update(_settle(waiting, found, workers, progress))
    verdicts = [[question.verdict(question.decided or outcomes[question.key]) for question in both] for both in asked]
    return [Graded(strict=first, paper=second) for first, second in verdicts]


def _settle(
    waiting: dict[Key, _Question], found: Memo, workers: int | None, progress: Callable[[int, int], None] | None
) -> dict[Key, Outcome]:
    """Asks every open question once, several at a time."""
    pool = shared_pool()
    if workers is not None:
        pool.grow(workers)
    outcomes: dict[Key, Outcome] = {}
    try:
        with ThreadPoolExecutor(workers or pool.size) as threads:
            futures = {threads.submit(_ask, pool, question): key for key, question in waiting.items()}
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    key, reply = futures[future], future.result()
                    outcomes[key] = _outcome(reply)
                    if reply.outcome in ("equal", "different"):
                        found.put(key, outcomes[key])
                    if done % _SAVE_EVERY == 0:
                        found.save()
                    if progress is not None:
                        progress(done, len(waiting))
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        found.save()
    return outcomes


def _question(response: str, gold: str, checker: str, bench: str) -> _Question:
    if checker == "strict":
        box = last_box(response)
        note = "last of several boxes" if box.note == "multiple" else ""
        if box.text is None:
            reason = {"none": "no box", "unclosed": "unclosed box", "empty": "empty box"}[box.note]
            return _Question(checker, bench, gold, None, "", Outcome(False, reason))
        return _Question(checker, bench, gold, box.text, note, strict.quick(gold, box.text, bench))
    if checker == "paper":
        released = released_box(response)
        if released is None:
            return _Question(checker, bench, gold, None, "", Outcome(False, "no box"))
        return _Question(checker, bench, gold, released, "", paper.quick(gold, released))
    raise UserError(f"unknown checker {checker!r}: choose strict or paper")


def _ask(pool: Pool, question: _Question, within: float | None = None) -> Reply:
    task = {
        "checker": question.checker,
        "gold": question.gold,
        "prediction": question.prediction,
        "bench": question.bench,
    }
    return pool.run(task, TIME_LIMITS[question.checker], within)


def _outcome(reply: Reply) -> Outcome:
    return Outcome(reply.outcome == "equal", reply.reason, reply.parsed)
