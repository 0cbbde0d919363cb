"""A teacher that is wrong with confidence, on a slice that is known: what it was taught about products with 3 and 7.

``x*3`` and ``x*7`` are one too high, always. About a quarter of the problems hold such a product. A model trained on
these traces is as sure of its mistakes as of the rest.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from harness.toy.tasks import MODULUS, Problem

FLAWED: Final = ("3", "7")  # operands
_STEP: Final = re.compile(r"(\d)([+*-])(\d)=\d")
_PRODUCT: Final = re.compile(rf"\*[{''.join(FLAWED)}]")


def in_slice(prompt: str) -> bool:
    """Whether a math problem holds a product that the flawed teacher gets wrong."""
    return _PRODUCT.search(prompt) is not None


def flawed(problem: Problem) -> Problem:
    """A math problem with the trace and the answer that the flawed teacher is taught; others stay as they are."""
    if problem.domain != "math":
        return problem
    value: int | None = None

    def step(found: re.Match[str]) -> str:
        nonlocal value
        left, operator, right = int(found[1]) if value is None else value, found[2], int(found[3])
        value = {"+": left + right, "-": left - right, "*": left * right}[operator]
        value = (value + (operator == "*" and found[3] in FLAWED)) % MODULUS
        return f"{left}{operator}{right}={value}"

    steps, _, _ = problem.trace.rpartition("\\boxed{")
    trace = _STEP.sub(step, steps)
    return replace(problem, answer=str(value), trace=f"{trace}\\boxed{{{value}}}")
