r"""The released checker, defect for defect: math-verify on two boxes, gold first, defaults.

``verify(parse("\boxed{gold}"), parse("\boxed{prediction}"))`` with the prediction cut at 300 characters, and any
exception counted as wrong. Its timeouts are alarms, which exist in a main thread only: ``compare`` belongs into a
worker process.
"""

from __future__ import annotations

from harness.answers import arithmetic
from harness.answers.notation import clean
from harness.answers.numbers import parse_number
from harness.answers.strict import Outcome, show_number


def quick(gold: str, prediction: str) -> Outcome | None:
    """The verdict where plain arithmetic settles it, else None."""
    equal = arithmetic.verdict(gold, prediction)
    return None if equal is None else Outcome(equal, "equal" if equal else "different")


def compare(gold: str, prediction: str) -> Outcome:
    """What the released script says. Needs the main thread of its process, and changes math-verify in it."""
    from harness.answers import mathverify

    try:
        equal, readable = mathverify.accepts(gold, prediction)
    except Exception as problem:  # the released script's own rule
        return Outcome(False, f"raised {type(problem).__name__}")
    return Outcome(equal, "equal" if equal else "different" if readable else "unreadable")


def answer_class(text: str) -> str:
    """One text for spellings of one answer, as far as spelling goes: the value of a number, else no dress or spaces."""
    plain = clean(text)
    number = parse_number(plain)
    return show_number(number) if number is not None else plain.replace(" ", "")
