r"""Which graded answers to look at first: signs that a verdict is due to format, extraction or length.

A suspicion is a hint for a reader and never changes a verdict. Every rule stands in `KINDS`, in the words that the
page of samples shows.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from harness.answers.extract import last_box
from harness.samples.needles import LONG_GOLD, TAIL, Span, gold_spans, holds_gold


class Kind(NamedTuple):
    """What a suspicion is called, and when it is raised."""

    label: str
    rule: str


LOOP_REPEATS: Final = 4
LOOP_LENGTH: Final = 200

KINDS: Final = {
    "gold-in-text": Kind(
        "gold in the text, not extracted",
        f"Judged wrong, and the gold stands outside the extracted box: anywhere in the answer for a gold of "
        f"{LONG_GOLD} or more characters that the problem does not mention, in the last {TAIL} characters for a "
        "shorter one, and only behind words like “the answer is” for a single character or a plain word.",
    ),
    "gold-in-box": Kind(
        "gold in the box, yet wrong",
        "Judged wrong, and the extracted answer contains the gold; of a single character or a plain word, it is the "
        "gold with no more than a name before or a unit behind.",
    ),
    "disagree": Kind("checkers disagree", "The two checkers give different verdicts."),
    "limit": Kind("hit the token limit", "The answer was cut at the token limit."),
    "boxes": Kind(
        "several different boxes",
        "Boxes with different contents stand behind the thinking (anywhere, where nothing is behind it); spacing and "
        "sizes of brackets and fractions do not count as different.",
    ),
    "open-box": Kind("box never closed", "A box is opened and its brace is never closed."),
    "thinking": Kind(
        "answer inside <think>", "The extracted box stands inside <think>…</think>, or behind a <think> never closed."
    ),
    "loop": Kind(
        "ends in a loop",
        f"The last {LOOP_LENGTH} or more characters are one block, word for word, at least {LOOP_REPEATS} times over.",
    ),
    "empty": Kind("empty response", "Nothing visible stands outside <think>…</think>."),
}


class Thinking(NamedTuple):
    """A reasoning trace with its tags; one that is not closed runs to the end."""

    start: int
    end: int
    closed: bool


@dataclass(frozen=True)
class Reading:
    """Where things stand in a response.

    Attributes:
        boxes: outermost closed boxes, wrappers included.
        answer: the one whose content the strict checker takes.
        body: where the answer proper begins: behind the last closed trace, if anything visible is there.
        gold: where the gold stands outside the extracted box, for a wrong answer only.
        kinds: the suspicions, in the order of `KINDS`.
    """

    boxes: tuple[Span, ...]
    answer: Span | None
    thinking: tuple[Thinking, ...]
    body: int
    gold: tuple[Span, ...]
    kinds: tuple[str, ...]


def suspicions(
    row: Mapping[str, Any], response: str | None, gold: str, bench: str = "", problem: str = ""
) -> list[str]:
    """Names in `KINDS` of all that is suspicious about a graded row.

    Args:
        row: has `correct`, `correct_paper`, `answer` and `finish`.
        response: its text, None where that was not kept: only what the row itself tells is looked at then.
        problem: the question's text; a gold that it mentions is no surprise in an answer.
    """
    if response is None:
        return _of_row(row)
    return list(read(row, response, gold, bench, problem).kinds)


def read(row: Mapping[str, Any], response: str, gold: str, bench: str = "", problem: str = "") -> Reading:
    """Boxes, traces, occurrences of the gold, and what is suspicious; see `suspicions`."""
    boxes, answer, still_open = _boxes(response)
    thinking = _thinking(response)
    body = _body(response, thinking)
    kinds = set(_of_row(row))
    found: tuple[Span, ...] = ()
    if not row["correct"]:
        found = gold_spans(response, body, answer, gold, bench, problem)
        extracted = response[slice(*answer)] if answer else str(row["answer"] or "")
        kinds |= {"gold-in-text"} if found else set()
        kinds |= {"gold-in-box"} if holds_gold(_unwrapped(extracted), gold, bench) else set()
    contents = {_content(response[slice(*box)]) for box in boxes if box.start >= body} - {""}
    kinds |= {"boxes"} if len(contents) > 1 else set()
    kinds |= {"open-box"} if still_open else set()
    inside = answer is not None and any(trace.start <= answer.start < trace.end for trace in thinking)
    kinds |= {"thinking"} if inside else set()
    kinds |= {"loop"} if _loops(response) else set()
    outside = "".join(_outside(response, [trace for trace in thinking if trace.closed]))
    kinds |= {"empty"} if not _visible(outside) else set()
    return Reading(boxes, answer, thinking, body, found, tuple(kind for kind in KINDS if kind in kinds))


def _of_row(row: Mapping[str, Any]) -> list[str]:
    paper = row["correct_paper"]
    found = ["disagree"] if paper is not None and bool(paper) != bool(row["correct"]) else []
    return found + (["limit"] if row["finish"] == "length" else [])


# --- boxes and traces --------------------------------------------------------------------------------------------

_OPENER: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_BOX_TOKEN: Final = re.compile(r"(?P<box>\\(?:boxed|fbox)(?![A-Za-z])\s*(?P<brace>\{)?)|\\.|[{}]", re.DOTALL)
_BARE: Final = re.compile(r"(-?\s*\\[A-Za-z]+(?:\s*\{[^{}]*\})*|[^\s$\\{}]+)")
_TAG: Final = re.compile(r"</?think>")


def _boxes(text: str) -> tuple[tuple[Span, ...], Span | None, bool]:
    """Outermost closed boxes, the one that `answers.extract.last_box` takes, and whether a box is left open."""
    first = _OPENER.search(text)
    if first is None:
        return (), None, False
    closed: list[Span] = []  # in order of closing
    stack: list[int] = []  # where an open box begins, -1 for any other brace
    for token in _BOX_TOKEN.finditer(text, first.start()):
        if token["brace"]:
            stack.append(token.start())
        elif token["box"]:
            bare = _BARE.match(text, token.end())
            if bare:
                closed.append(Span(token.start(), bare.start() + len(bare[1].rstrip(".,;:"))))
        elif token[0] == "{":
            stack.append(-1)
        elif token[0] == "}" and stack:
            start = stack.pop()
            if start >= 0:
                closed.append(Span(start, token.end()))
    still_open = [start for start in stack if start >= 0]
    answer = closed[-1] if closed and last_box(text).text is not None else None
    outermost: list[Span] = []
    for box in reversed(closed):
        if not outermost or box.end <= outermost[-1].start:
            outermost.append(box)
    return tuple(reversed(outermost)), answer, bool(still_open)


def _unwrapped(box: str) -> str:
    text = _OPENER.sub("", box).strip()
    for _ in range(8):
        if not (len(text) > 1 and text.startswith("{") and text.endswith("}")):
            break
        text = text[1:-1].strip()
    return text


def _content(box: str) -> str:
    """A box's content without what does not show in print: wrappers, spacing, sizes of brackets and fractions."""
    text = _unwrapped(box)
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text)
    return re.sub(r"\s|\$|\\[,;:! ]|\\(?:left|right)(?![A-Za-z])|\.$", "", text)


def _thinking(text: str) -> tuple[Thinking, ...]:
    """Traces in order. A template may put the opening tag into the prompt: then the first closing tag ends a trace."""
    found: list[Thinking] = []
    opened: int | None = None
    for tag in _TAG.finditer(text):
        if tag[0] == "<think>":
            opened = tag.start() if opened is None else opened
        elif opened is not None:
            found.append(Thinking(opened, tag.end(), True))
            opened = None
        elif not found:
            found.append(Thinking(0, tag.end(), True))
    if opened is not None:
        found.append(Thinking(opened, len(text), False))
    return tuple(found)


def _body(text: str, thinking: tuple[Thinking, ...]) -> int:
    end = thinking[-1].end if thinking and thinking[-1].closed else 0
    return end if text[end:].strip() else 0


def _outside(text: str, spans: list[Thinking]) -> list[str]:
    starts = [0, *(span.end for span in spans)]
    ends = [*(span.start for span in spans), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def _visible(text: str) -> bool:
    return any(unicodedata.category(char)[0] not in "CZ" for char in text)


def _loops(text: str) -> bool:
    return any(_periodic(end) for end in (text[-20_000:], text[-20_000:].rstrip()))


def _periodic(text: str) -> bool:
    """Whether `text` ends in equal blocks: distances at which its last characters recur are tried as their length."""
    if len(text) < LOOP_LENGTH:
        return False
    probe, at = text[-16:], len(text) - 16
    for _ in range(64):
        at = text.rfind(probe, 0, at + 15)
        if at < 0:
            return False
        period = len(text) - 16 - at
        repeats = max(LOOP_REPEATS, math.ceil(LOOP_LENGTH / period))
        if period * repeats <= len(text) and text.endswith(text[-period:] * repeats):
            return True
    return False
