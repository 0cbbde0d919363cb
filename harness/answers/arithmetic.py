r"""What math-verify says about plain arithmetic, without asking it.

Most questions are clear before anything is parsed symbolically: the two texts are the same tokens, or two plain
numbers, or they differ by a wide margin where both are evaluated. ``verdict`` settles those and no others. It reads a
small language exactly as math-verify does, peculiarities included, and leaves everything else to math-verify.

Why a difference settles it: math-verify accepts two expressions if their texts are equal, if SymPy finds them equal, or
if they agree to 6 decimals. None of these can be where they differ by 1e-5 and by 1e-6 of their size at one point.
Two collections are accepted only where every part of each has a partner in the other. tests/test_arithmetic.py puts
thousands of such claims to math-verify itself.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Final

from harness.answers.grammar import Reader, Reading, tokens_of
from harness.answers.parts import Part, Unknown

MAX_LENGTH: Final = 300

# A box that ends in a full stop is no LaTeX, and behind a brace no number either: only its text is compared.
_STOPPED: Final = re.compile(r"(?!.*\\frac)(?!.*[\s=]\**[-(.\d])[^$]+\.")
# Letters that are read as a word, and what may be taken for a unit at the end and dropped.
_MATRIX: Final = re.compile(r"\\(?:begin|end)\{[bp]?matrix\}")
_LETTERS: Final = re.compile(r"(?<![\\A-Za-z])[A-Za-z]+")
_WORD: Final = re.compile(r"and|or|pct|.*(?:tr|eye|gcd|lcm|svd|inf|eig).*|.{4,}")
_UNIT_LETTERS: Final = re.compile(r"[\d}\s](?:[a-z][A-Za-z]+|[a-ce-hlmost])$")
_UNIT: Final = re.compile(
    r"(?P<before>[^\\](?:.*[^\\])?)\\(?:text|mathrm|mbox)\{(?P<unit>[A-Za-z/ ]+)\}(?:\^\d|\{\^\d\})?"
)
_NO_UNIT: Final = re.compile(
    r"T|d|th|.*(?:(?<![a-z])(?:and|or|percent|percentage|pct)(?![a-z])|inf|sqrt).*", re.IGNORECASE
)
_WORDS: Final = re.compile(r"\\(?:text|mathrm|mbox|textbf)\{(?P<words>[A-Za-z ]*[A-Za-z])\s*\}")
_DEGREES: Final = re.compile(r"(?P<number>-?\s*(?:\d*\.\d+|\d+))\s*(?:\^\\circ|\^\{\\circ\})")
_GROUPED: Final = re.compile(r"-?[1-9]\d{0,2}(?:,\d{3})+")
_AMBIGUOUS: Final = re.compile(
    r"\d\s*,\s*\d{3}(?!\d)|\}\s*[\d.]|_\s*\{?\s*\\|\d\s+[\d.]|\^\s*\(|\)\s*_|(?<!\\)\\\\(?=[A-Za-z])"
)
_BRACELESS: Final = (  # as math-verify rewrites them, in its order
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s?(\d)\s?(\d+)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s?(\d)\s?\{(.*?)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s?(\d)"), r"\\sqrt{\1}"),
)


def verdict(gold: str, prediction: str) -> bool | None:
    """Whether math-verify accepts ``prediction``, or None where only math-verify knows."""
    mine = read(gold)
    if mine is None:
        return None
    if _STOPPED.fullmatch(prediction):
        return None if read(prediction[:-1]) is None else False
    theirs = read(prediction)
    if theirs is None:
        return None
    if mine.tokens == theirs.tokens:
        return True
    if mine.relation and (theirs.relation or not mine.named):
        return None
    if (mine.right or mine.tokens) == (theirs.right or theirs.tokens):
        return True
    ours, others = mine.parts, theirs.parts
    if not (mine.collection or theirs.collection) and None not in (ours[0].rational, others[0].rational):
        return ours[0].rational == others[0].rational
    if mine.name or theirs.name:  # names are compared letter by letter, a product of letters with them
        rational = (others if mine.name else ours)[0].rational
        return None if rational is None or mine.collection or theirs.collection else False
    if _unmatched(ours, others) or _unmatched(others, ours):
        return False
    return None


def _unmatched(parts: tuple[Part, ...], others: tuple[Part, ...]) -> bool:
    return any(all(part.differs(other) for other in others) for part in parts)


@functools.lru_cache(maxsize=65536)
def read(text: str) -> Reading | None:
    """The reading of a gold or a box's content, None where it is not of the small language."""
    text = re.sub(r"\\!\s*|\\?\$", "", text).strip()
    if not text or len(text) > MAX_LENGTH or not text.isascii() or "\n" in text:
        return None
    words = _WORDS.fullmatch(text)
    if words:
        return None if _NO_UNIT.fullmatch(words["words"]) else Reading.of_words(words["words"])
    dressed = _UNIT.fullmatch(text)
    if dressed:
        if _NO_UNIT.fullmatch(dressed["unit"].strip()):
            return None
        before = dressed["before"]
        text = re.sub(r"(?:\s|\\[ ,;:])+$", "", before)
        if "\\text" in text or "\\m" in text or ("," in text and re.search(r"\\[,;:]", before[len(text) :])):
            return None  # the thin space left behind "1,234" makes it two numbers
    degrees = _DEGREES.fullmatch(text)
    if degrees:
        text = degrees["number"]
    if _GROUPED.fullmatch(text):
        value = Fraction(text.replace(",", ""))
        return Reading((str(value),), (Part.number(value, value),))
    for pattern, replacement in _BRACELESS:
        text = pattern.sub(replacement, text)
    if _UNIT_LETTERS.search(text) or _AMBIGUOUS.search(text):
        return None
    if any(
        _WORD.fullmatch(letters) for letters in _LETTERS.findall(re.sub(r"\\(?:begin|end)\{[bp]?matrix\}", "", text))
    ):
        return None
    try:
        return Reader(tokens_of(text)).reading()
    except (Unknown, ArithmeticError, ValueError, RecursionError):
        return None
