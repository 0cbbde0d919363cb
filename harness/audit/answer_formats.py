r"""How far the format of right answers alone moves Minerva: every gold, written the ways models write.

A format is a rule that rewrites a gold without changing what it says, and leaves alone what it has nothing to do with.
The score of a format is that of a model which is right on all 272 problems and always writes so. What is kept of a
measurement is a row per problem and format with the verdicts of both checkers; golds are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final

import pandas as pd

from harness.answers import grade_many
from harness.benchmarks import LoadedBenchmark
from harness.benchmarks.slices import MINERVA, notation_of

_E: Final = re.compile(r"(-?\d+(?:\.\d*)?)[eE]([+-]?\d+)")
_PLAIN: Final = re.compile(r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")


def _power(sign: str) -> Callable[[str], str]:
    def write(gold: str) -> str:
        found = _E.fullmatch(gold)
        return gold if found is None else rf"{found[1]} {sign} 10^{{{int(found[2])}}}"

    return write


def _capital(gold: str) -> str:
    return gold.replace("e", "E") if _E.fullmatch(gold) else gold


def _decimal(gold: str) -> str:
    """Digits alone, where they are at most fifteen: nobody writes 10^33 out."""
    found = _E.fullmatch(gold)
    return gold if found is None or abs(int(found[2])) > 12 else format(Decimal(gold), "f")


def _thousands(separator: str) -> Callable[[str], str]:
    def write(gold: str) -> str:
        text = _decimal(gold)
        if not _PLAIN.fullmatch(text) or "e" in text.lower():
            return gold
        whole, point, rest = text.partition(".")
        return gold if len(whole.lstrip("-")) < 4 else f"{int(whole):,}".replace(",", separator) + point + rest

    return write


def _number(rewrite: Callable[[str], str]) -> Callable[[str], str]:
    return lambda gold: rewrite(gold) if _PLAIN.fullmatch(gold) else gold


def _symbols(gold: str) -> str:
    """Larger fractions and brackets, as models set them."""
    if _PLAIN.fullmatch(gold):
        return gold
    text = re.sub(r"\\frac(?![A-Za-z])", r"\\dfrac", gold)
    plain = "\\left" not in text and text.count("(") == text.count(")")
    return text.replace("(", r"\left(").replace(")", r"\right)") if plain else text


_times: Final = _power(r"\times")

#: Name → rule.
FORMATS: Final[Mapping[str, Callable[[str], str]]] = {
    "as the gold": lambda gold: gold,
    r"4.5 \times 10^{33}": _times,
    r"4.5 \cdot 10^{33}": _power(r"\cdot"),
    "4.5E33": _capital,
    "0.0045": _decimal,
    "12,000": _thousands(","),
    r"12{,}000": _thousands("{,}"),
    r"\approx 4.5e33": _number(lambda gold: rf"\approx {gold}"),
    "x = 4.5e33": _number(lambda gold: f"x = {gold}"),
    r"4.5e33 \text{ m}": _number(lambda gold: rf"{gold} \text{{ m}}"),
    "$4.5e33$": lambda gold: f"${gold}$",
    r"\dfrac, \left(": _symbols,
    # What a model of today writes, all at once.
    r"4.5 \times 10^{33} \text{ m}, \dfrac, \left(": lambda gold: (
        rf"{_times(gold)} \text{{ m}}" if _PLAIN.fullmatch(gold) else _symbols(gold)
    ),
}


def measure(bench: LoadedBenchmark) -> pd.DataFrame:
    """Both verdicts on every gold in every format.

    Columns: `problem`, `slice` (a member of `MINERVA`), `format`, `changed` (whether the rule rewrites this gold),
    `strict`, `paper`.
    """
    asked = [
        (problem.id, notation_of(problem.answer), name, rule(problem.answer), problem.answer)
        for name, rule in FORMATS.items()
        for problem in bench.problems
    ]
    items = [(rf"The answer is \boxed{{{text}}}.", gold, bench.spec.name) for _, _, _, text, gold in asked]
    rows = [
        {
            "problem": problem,
            "slice": part,
            "format": name,
            "changed": text != gold,
            "strict": graded.strict.correct,
            "paper": graded.paper.correct,
        }
        for (problem, part, name, text, gold), graded in zip(asked, grade_many(items), strict=True)
    ]
    return pd.DataFrame(rows)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Of every format: share of right answers marked right, whole and by slice.

    Columns: `format`, `checker`, `part` ("all" or a slice), `n`, `changed` (problems), `right` (problems), `score`.
    """
    rows = []
    for name in dict.fromkeys(frame["format"]):
        of = frame[frame["format"] == name]
        for checker in ("paper", "strict"):
            for part in ("all", *MINERVA):
                here = of if part == "all" else of[of["slice"] == part]
                counted = {"n": len(here), "changed": int(here["changed"].sum()), "right": int(here[checker].sum())}
                rows.append(
                    {"format": name, "checker": checker, "part": part, **counted, "score": float(here[checker].mean())}
                )
    return pd.DataFrame(rows)
