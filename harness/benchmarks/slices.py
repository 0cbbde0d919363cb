"""Parts of a benchmark that deserve a number of their own, because a checker or a model treats them differently."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from harness.answers.notation import clean
from harness.answers.numbers import parse_number
from harness.benchmarks import BenchProblem
from harness.toy.flawed import in_slice

#: How Minerva's golds are written, in the order of tables. math-verify reads `4.5e33` as 4.5 · e · 33, so that the
#: released checker marks every LaTeX answer to the first kind wrong: 58 of 272 problems.
MINERVA: Final = ("e-notation", "other numeric", "symbolic")
#: Of the toy world's held-out problems: whether the flawed teacher was taught a wrong product that is in them.
TOY: Final = ("with ×3 or ×7", "without")


def slices(bench: str, problems: Iterable[BenchProblem]) -> dict[str, str]:
    """Problem id → slice. A problem's own `slice` column comes first; empty for benchmarks without slices."""
    named = {p.id: p.slice or _named(bench, p) for p in problems}
    return {problem: name for problem, name in named.items() if name}


def _named(bench: str, problem: BenchProblem) -> str:
    if bench == "minerva":
        return notation_of(problem.answer)
    if bench == "toy-2048":
        return TOY[not in_slice(problem.problem)]
    return ""


def notation_of(gold: str) -> str:
    """The member of `MINERVA` a gold belongs to; a quotient of numbers (`-1./3`) is an expression, not a number."""
    number = parse_number(clean(gold))
    if number is None or number.kind == "fraction":
        return "symbolic"
    return "e-notation" if "e" in gold.lower() else "other numeric"
