r"""The corrected checker: typed golds, exact numbers, structure compared as structure.

``quick`` decides what needs no evaluation (plain numbers, equal texts) and may run anywhere; ``compare`` decides the
rest and belongs into a worker process, which bounds its time and memory.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from harness.answers.golds import Gold, gold_of
from harness.answers.notation import ascii_math, clean
from harness.answers.numbers import Number, parse_number, roundings, show
from harness.answers.units import conversion

MAX_PREDICTION: Final = 2000  # characters; the longest gold of the eight benchmarks has 210
MAX_GOLD: Final = 10_000
_ROUNDING_CAP: Final = Fraction(1, 20)
_RELATIVE: Final = Fraction(1, 100)
_RELATIVE_FROM: Final = 3  # figures
_RECURSION: Final = 12_000


@dataclass(frozen=True)
class Outcome:
    """``equal`` with the reason, and ``parsed``: one text per answer class, None where the prediction is unreadable.

    Every right answer has the class of its gold, so that votes over classes agree with the verdicts.
    """

    equal: bool
    reason: str
    parsed: str | None = None


@dataclass(frozen=True)
class Policy:
    """How a benchmark wants numbers read.

    ``rounding``: a prediction that rounds to a decimal gold at the gold's figures is right. ``relative``: so is one
    within 1 % of a gold with three or more figures. ``physical``: a letter behind a number may be a unit, and an
    equation may be divided by a quantity.
    """

    rounding: bool
    relative: bool
    physical: bool


_EXACT: Final = Policy(rounding=False, relative=False, physical=False)
_PHYSICS: Final = Policy(rounding=True, relative=True, physical=True)
_UNKNOWN: Final = Policy(rounding=True, relative=False, physical=False)
_EXACT_BENCHES: Final = re.compile(r"(aime|hmmt|amc|olympiad|toy|math[-_]?500)", re.IGNORECASE)


def policy(bench: str) -> Policy:
    """Contest sets are exact, Minerva follows the gold's precision, unlisted sets accept correct rounding only."""
    if _EXACT_BENCHES.match(bench):
        return _EXACT
    return _PHYSICS if "minerva" in bench.lower() else _UNKNOWN


def quick(gold: str, prediction: str, bench: str) -> Outcome | None:
    """The verdict where plain reading settles it, else None. Cheap, bounded, and never raises."""
    if len(prediction) > MAX_PREDICTION:
        return Outcome(False, "answer too long")
    if len(gold) > MAX_GOLD:
        return Outcome(False, "gold too long")
    entry, rules = gold_of(gold, bench), policy(bench)
    text = clean(prediction)
    if not _bare(text):
        return Outcome(False, "nothing to read")
    accepted = [clean(one) for one in entry.accepted]
    if _bare(text) in {_bare(one) for one in (*accepted, clean(gold))}:
        return Outcome(True, "same text", gold_class(entry))
    number = parse_number(text, rules.physical)
    if number is None:
        return None
    golds = [parse_number(one) for one in accepted]  # a letter in a gold is a quantity, never a unit
    for one in golds:
        if one is not None:
            why = numbers_agree(one, number, entry, rules)
            if why:
                return Outcome(True, why, gold_class(entry))
    return Outcome(False, "different number", show_number(number)) if all(golds) else None


def _bare(text: str) -> str:
    """``text`` without the spaces that mean nothing: not the one that tells "58, 500" from "58,500"."""
    return re.sub(r"(?<!,) ", "", text).rstrip(".")


def gold_class(entry: Gold) -> str:
    """The answer class of every right answer to this gold."""
    text = clean(entry.accepted[0])
    number = parse_number(text)
    return text if number is None else show_number(number)


def show_number(number: Number) -> str:
    """The class of a plain number: its exact value, a percentage kept apart from its hundredth."""
    return show(number.value) + (" %" if number.percent else "")


def numbers_agree(gold: Number, number: Number, entry: Gold, rules: Policy) -> str | None:
    """Why ``number`` is the gold, or None where it is not."""
    value, target = number.value, gold.value
    if not entry.percent_asked:
        value /= 100 if number.percent else 1
        target /= 100 if gold.percent else 1
    if gold.unit and number.unit:
        factor = conversion(number.unit, gold.unit)
        if factor is not None:
            value *= factor
    return near(target, gold.figures, value, entry, rules)


def near(target: Fraction, figures: int | None, value: Fraction, entry: Gold, rules: Policy) -> str | None:
    """Why ``value`` counts as ``target``, written with ``figures`` significant figures (None: exact), or None.

    Never an absolute tolerance, except one that the source itself states; zero equals zero only.
    """
    if value == target:
        return "same number"
    if entry.tolerance is not None and abs(value - target) <= Fraction(entry.tolerance):
        return f"within the stated tolerance of {entry.tolerance}"
    if figures is None or target == 0 or value == 0 or not (rules.rounding or entry.rounded):
        return None
    error = abs(value - target) / abs(target)
    # One figure alone would let 1e-5 stand for 1.4e-5.
    if error <= _ROUNDING_CAP and target in roundings(value, figures):
        return f"same to {figures} significant figures"
    if rules.relative and figures >= _RELATIVE_FROM and error <= _RELATIVE:
        return "within 1 %"
    return None


def compare(gold: str, prediction: str, bench: str) -> Outcome:
    """The full verdict. Raises nothing for bad text; time and memory are the caller's to bound."""
    decided = quick(gold, prediction, bench)
    if decided is not None:
        return decided
    from harness.answers import comparison  # brings mpmath, which the parent process has no use for

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _RECURSION))
    try:
        entry = gold_of(gold, bench)
        outcome = comparison.judge(entry, clean(prediction), policy(bench))
        return replace(outcome, parsed=gold_class(entry)) if outcome.equal else outcome
    finally:
        sys.setrecursionlimit(limit)


_WORD_DRESS: Final = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|hbox|operatorname|boldsymbol|mathsf)(?![A-Za-z])"
)


def words(text: str) -> str:
    """``text`` as bare words, for answers that are no mathematics: no dress, brackets, case or final stop."""
    plain = _WORD_DRESS.sub(" ", ascii_math(text))
    plain = re.sub(r"\\[,;:! ]|[{}$\"'`*]", " ", plain)
    plain = " ".join(plain.split()).strip(" .,;:").casefold()
    return re.sub(r"^(?:(?:the )?(?:final )?answer(?: is|:) )?(?:an? |the )?(?=[a-z]{2})", "", plain)


_CHOICE: Final = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{\s*\(([A-Z])\)\s*\}")
_LETTER: Final = re.compile(r"\(?([A-Z])\)?")


def same_words(gold: str, prediction: str) -> bool | None:
    """Whether a gold of words is what the prediction says; None for a gold that is mathematics.

    A lettered choice, ``\\text{(C)}``, is also met by its letter alone and by the letter with what it stands for.
    """
    choice = _CHOICE.fullmatch(gold.strip())
    if choice:
        said = re.match(r"\(?([a-z])\)?(?![a-z0-9])", words(prediction))
        return bool(said) and said[1] == choice[1].lower()  # type: ignore[index]
    letter = _LETTER.fullmatch(gold.strip())
    if letter:
        said = _LETTER.fullmatch(" ".join(re.sub(r"[{}$]", " ", _WORD_DRESS.sub(" ", prediction)).split()))
        return True if said and said[1] == letter[1] else None
    plain = words(gold)
    if not re.fullmatch(r"[a-z]{2,}(?:[ '-][a-z]+)*", plain) or "\\" in _WORD_DRESS.sub("", gold):
        return None
    if plain == words(prediction):
        return True
    # three bare letters may be a product; in a text group, or longer, they are a word
    return False if _WORD_DRESS.search(gold) or len(plain) > 3 else None
