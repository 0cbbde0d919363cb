"""Finding a gold in an answer however it is spaced or spelled, apart from numbers that stand there by chance."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from harness.answers.golds import gold_of

TAIL: Final = 600  # characters at the end of an answer where a short gold is looked for
LONG_GOLD: Final = 4  # characters from which a gold is looked for in the whole answer
MOST_SPANS: Final = 50


class Span(NamedTuple):
    """Characters start … end of a text."""

    start: int
    end: int


def gold_spans(text: str, body: int, answer: Span | None, gold: str, bench: str, problem: str) -> tuple[Span, ...]:
    """Where the gold stands in `text` from `body` on, outside the extracted box `answer`.

    A gold that is short, or that the problem mentions, counts near the end only; one that is found everywhere by
    chance, only in a sentence that calls it the answer.
    """
    if answer:  # the box becomes blank, so that positions stay
        text = text[: answer.start] + " " * (answer.end - answer.start) + text[answer.end :]
    tail = max(body, len(text) - TAIL)
    found: set[Span] = set()
    for needle in _needles(gold, bench):
        pattern, group = (needle.said, "gold") if needle.common else (needle.pattern, 0)
        anywhere = not needle.common and needle.length >= LONG_GOLD and not needle.pattern.search(problem)
        for match in pattern.finditer(text, body if anywhere else tail):
            found.add(Span(*match.span(group)))
            if len(found) == MOST_SPANS:
                break
    return tuple(sorted(found))


def holds_gold(content: str, gold: str, bench: str) -> bool:
    """Whether the content of a box holds the gold; of a single character or a plain word, it must be all there is."""
    content = content[:2000]
    return any(
        needle.alone.fullmatch(content) if needle.common else needle.pattern.search(content)
        for needle in _needles(gold, bench)
    )


_TOKENS: Final = re.compile(r"\\[A-Za-z]+|\\.|\d*\.\d+|\d+|[A-Za-z]+|\S", re.DOTALL)
_INVISIBLE: Final = re.compile(r"\$|\\[,;:! ]|\\(?:left|right)(?![A-Za-z])")
_UNIT: Final = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\s*\^\s*(?:\d|\{\d\}))?")
_TEXT: Final = re.compile(r"\\(?:text|mbox|mathrm)\s*\{([^{}]*)\}")
_GAP: Final = r"(?:\s|\$|\\[,;:! ]|\\(?:left|right)(?![A-Za-z])){0,20}?"
_THOUSANDS: Final = r"(?:,\\!|\{,\}|\\,|,|\s)?"
_SAYS: Final = r"(?i:answer|result|solution|conclusion)\b[^\n.!?]{0,40}?"


@dataclass(frozen=True)
class _Needle:
    """How to find one reading of a gold: its pattern, its printed length, and whether it is a plain word."""

    pattern: re.Pattern[str]
    said: re.Pattern[str]
    alone: re.Pattern[str]
    length: int
    word: bool

    @property
    def common(self) -> bool:
        """Found everywhere by chance, so that only a sentence that calls it the answer counts."""
        return self.word or self.length < 2


@functools.lru_cache(maxsize=4096)
def _needles(gold: str, bench: str) -> tuple[_Needle, ...]:
    entry = gold_of(gold, bench)
    made = (_needle(text) for text in dict.fromkeys((*entry.accepted, entry.original)))
    return tuple(needle for needle in made if needle is not None)


def _needle(gold: str) -> _Needle | None:
    text = _INVISIBLE.sub(" ", gold)
    bare = _UNIT.sub(" ", text)
    text = bare if bare.strip() else _TEXT.sub(r"\1", text)
    text = re.sub(r"(?<=\d)(?:,|\{,\})\s*(?=\d{3}(?!\d))", "", text).strip().rstrip(".")
    tokens = _TOKENS.findall(text)
    if not tokens or len(tokens) > 100:
        return None
    middle = _GAP.join(_token(token) for token in tokens)
    pattern = _before(tokens[0]) + middle + _after(tokens[-1])
    unit = r"(?:\\?%|\\circ|\^|[{}.\s$]|\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[,;:! ]|[A-Za-z])*"  # no two overlap
    name = r"(?:[\s${]|\\(?:text|mbox|mathrm|textbf)(?![A-Za-z]))*"
    return _Needle(
        pattern=re.compile(pattern),
        said=re.compile(_SAYS + f"(?P<gold>{pattern})"),
        alone=re.compile(
            f"(?:.*=)?{name}{middle}{'' if tokens[-1][-1].isdigit() else _after(tokens[-1])}{unit}", re.DOTALL
        ),
        length=sum(1 if token.startswith("\\") else len(token) for token in tokens if token not in "{}"),
        word=text.isalpha(),
    )


def _token(token: str) -> str:
    if token.isdigit() and token.isascii():
        head = len(token) % 3 or 3
        return "0{0,3}" + _THOUSANDS.join([token[:head], *(token[i : i + 3] for i in range(head, len(token), 3))])
    if re.fullmatch(r"0?\.\d+", token, re.ASCII):
        return "0?" + re.escape(token.removeprefix("0"))
    return {"-": "[-−–]", "−": "[-−–]", "\\frac": r"\\[dt]?frac"}.get(token, re.escape(token))


def _before(token: str) -> str:
    """What must not stand in front: the rest of a longer number or word, a sign, an exponent, half a fraction."""
    if token[-1].isdigit():
        return r"(?<![\w\\.^/\-−–])(?<![\^_]\{)(?<!\d,)(?<!\{,\})(?<!frac\{)(?<!\}\{)"
    return r"(?<![A-Za-z\\])" if token[0].isalpha() else ""


def _after(token: str) -> str:
    if token[-1].isdigit():
        return r"(?![\w^])(?!\s*/\s*\d)(?!\.\d)(?!,\d{3})(?!\{,\}\d)"
    return r"(?![A-Za-z])" if token[-1].isalpha() else ""
