r"""The released checker, defect for defect: math-verify on two boxes, gold first, defaults.

``verify(parse("\boxed{gold}"), parse("\boxed{prediction}"))`` with the prediction cut at 300 characters, and any
exception counted as wrong. Its timeouts are alarms, which exist in a main thread only: ``compare`` belongs into a
worker process.
"""

from __future__ import annotations

import re
from typing import Final

from harness.answers.strict import Outcome

# Where both sides are such integers the released checker compares them as integers (tests/test_answers.py tries it).
_PLAIN: Final = re.compile(r"-?[0-9]{1,15}")


def quick(gold: str, prediction: str) -> Outcome | None:
    """The verdict on two plain integers, else None."""
    if _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(prediction):
        value = int(prediction)
        equal = int(gold) == value
        return Outcome(equal, "equal" if equal else "different", str(value))
    return None


def compare(gold: str, prediction: str) -> Outcome:
    """What the released script says. Needs the main thread of its process."""
    from math_verify import parse, verify

    try:
        wanted = parse("\\boxed{" + gold + "}")
        target = parse("\\boxed{" + prediction + "}")
        equal = bool(verify(wanted, target))
    except Exception as problem:  # the released script's own rule
        return Outcome(False, f"raised {type(problem).__name__}")
    return Outcome(equal, "equal" if equal else "different" if target else "unreadable")
