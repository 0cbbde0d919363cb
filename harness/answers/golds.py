r"""Golds that must not be taken at their word: repaired, annotated and widened by hand, each with its reason.

The original stays beside the repair. A gold that is not listed stands for itself. Only what the question of that
very problem says is used; nothing here was chosen by looking at a model's answers.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Gold:
    """How to read one gold.

    ``accepted`` are the texts any one of which is right; ``constants`` are arbitrary constants or integer parameters
    whose names do not matter; ``names`` are words to read as one symbol; ``percent_asked``: the question asks for a
    percentage, so a bare number is in percent; ``rounded``: it asks for a rounded number, so the decimal rule holds in
    an exact set too; ``tolerance``: the source's own ± around the gold.
    """

    original: str
    accepted: tuple[str, ...]
    reason: str = ""
    constants: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    percent_asked: bool = False
    rounded: bool = False
    tolerance: str | None = None


def _rows(*golds: Gold) -> dict[str, Gold]:
    return {" ".join(gold.original.split()): gold for gold in golds}


def _repaired(original: str, *accepted: str, reason: str) -> Gold:
    return Gold(original, accepted, reason)


def _free(original: str, *constants: str) -> Gold:
    return Gold(original, (original,), "names of arbitrary constants or integer parameters", constants=constants)


_MINERVA: Final = _rows(
    _repaired("np.arcsin(10/13)", r"\arcsin(\frac{10}{13})", reason="numpy call; the question forbids evaluating it"),
    _repaired("-1./3", r"-\frac{1}{3}", reason="Python quotient"),
    _repaired("-3./2", r"-\frac{3}{2}", reason="Python quotient"),
    _repaired("I(0)", "I(0)", "I_{0}", reason="the initial value under either name"),
    Gold("MR=SRMC", ("MR=SRMC",), "acronyms, not products of letters", names=("MR", "SRMC", "SMC")),
    Gold("SRAC=LRAC", ("SRAC=LRAC",), "acronyms, not products of letters", names=("SRAC", "LRAC")),
    Gold("SRMC=LRMC", ("SRMC=LRMC",), "acronyms, not products of letters", names=("SRMC", "LRMC")),
    _free(r"c x^{-2}-\frac{\cos (2 x)}{2 x^{2}}", "c"),
    _free(r"x / 2-1 / 4+c e^{-2 x}", "c"),
    _free(r"\frac{e^{t}} {3}+c e^{-2 t}", "c"),
    _free(r"\left(\frac{t^{2}}{2}-t+C\right) e^{-t}", "C"),
    _free(r"\frac{e^{2 i t}}{(2+2 i)}+C e^{-2 t}", "C"),
    _free(r"-\sin (3 t) / 5+ C_{1} \sin (2 t)+C_{2} \cos (2 t)", "C_1", "C_2"),
    _free(r"\frac{\cos (2 t)}{15}+C_{1} e^{t}+C_{2} e^{-t}+C_{3} \cos (t)+C_{4} \sin (t)", "C_1", "C_2", "C_3", "C_4"),
    _free(r"\frac{e^{-2 t}}{15}+C_{1} e^{t}+C_{2} e^{-t}+ C_{3} \cos (t)+C_{4} \sin (t)", "C_1", "C_2", "C_3", "C_4"),
)
_MATH500: Final = _rows(
    Gold(r"5.4 \text{ cents}", (r"5.4 \text{ cents}",), "asks for the nearest tenth of a cent", rounded=True),
)
_HMMT: Final = _rows(
    _repaired(r"\frac{sqrt{7} + 1}{2}", r"\frac{\sqrt{7} + 1}{2}", reason="backslash lost"),
)
_OLYMPIAD: Final = _rows(
    _repaired("$t(0,4]$", r"t \in (0,4]", reason='the sign "in" was lost'),
    _repaired("$221,$8$", "221, 8", reason="stray dollar"),
    _repaired(r"$(-\infty, 0) \cup\{1\}$.", r"(-\infty, 0) \cup\{1\}", reason="trailing full stop"),
    _repaired(
        r"$\angle B E A_{1}=90$,$\angle A E B_{1}=90$",
        r"\angle B E A_{1}=90, \angle A E B_{1}=90",
        r"\angle B E A_{1}=\angle A E B_{1}=90",
        "90",
        reason="both angles are 90 degrees; the degree sign was lost",
    ),
    Gold("17.5%", ("17.5%",), "asks for a percentage", percent_asked=True),
    Gold(r"$8 \%$", (r"8\%",), "asks for a percentage", percent_asked=True),
    Gold("4.2", ("4.2",), "asks for the r of r %; the source allows ± 0.1", percent_asked=True, tolerance="0.1"),
    Gold(r"$18.8^{\circ}$", (r"18.8^{\circ}",), "asks for the nearest tenth of a degree", rounded=True),
    Gold("$1.68,0.45$", ("(1.68,0.45)", "a=1.68, b=0.45"), "two named unknowns, to two decimal places", rounded=True),
    _repaired("-2,-2", "(-2,-2)", "a=-2, b=-2", reason="two named unknowns, a tuple in the source"),
    _repaired("-3,0", "(-3,0)", "b=-3, c=0", reason="two named unknowns, a tuple in the source"),
    _repaired("3,4", "(3,4)", "p=3, q=4", reason="two named unknowns, a tuple in the source"),
    _repaired("2,4,3", "(2,4,3)", "T(10)=2, T(11)=4, T(12)=3", reason="three named values in a stated order"),
    _repaired("$2,-1,-18$", "(2,-1,-18)", "a=2, h=-1, k=-18", reason="three named unknowns, a tuple in the source"),
    _repaired("$10^{3},10$", "(10^{3},10)", "x=10^{3}, y=10", reason="two named unknowns, a tuple in the source"),
    _repaired("19,0,1", "(19,0,1)", "x=19, y=0, z=1", reason="three named unknowns, a tuple in the source"),
    _repaired("$6764$,$10945$", "(6764,10945)", "e(18)=6764, e(19)=10945", reason="two named values in a stated order"),
    _repaired(r"$\frac{1}{3},-2,5$", r"(\frac{1}{3},-2,5)", r"a=\frac{1}{3}, b=-2, c=5", reason="three named unknowns"),
    _repaired("$1,2,3$", "(1,2,3)", "x=1, y=2, z=3", reason="three named unknowns of a system"),
    _repaired(
        r"$\frac{1}{3},1,\frac{1}{9}$",
        r"(\frac{1}{3},1,\frac{1}{9})",
        r"d(6)=\frac{1}{3}, d(16)=1, d(72)=\frac{1}{9}",
        reason="three named values in a stated order",
    ),
    _repaired(
        r"$\frac{1}{3}, 1, 9$",
        r"(\frac{1}{3},1,9)",
        r"d(3/5)=\frac{1}{3}, d(5/8)=1, d(7/18)=9",
        reason="three named values in a stated order",
    ),
    _repaired(
        r"$\frac{1}{2},\sqrt{x}$",
        r"y=\frac{1}{2}\sqrt{x}",
        r"\frac{1}{2},\sqrt{x}",
        reason="one product was cut in two; the question asks for y as a function of x",
    ),
    _repaired(
        "10,11,12,13,14,-2,-1,0,1,2",
        "10,11,12,13,14,-2,-1,0,1,2",
        "(10,11,12,13,14),(-2,-1,0,1,2)",
        reason="two sequences were run together",
    ),
    _repaired(
        "$41352,42351,51342$",
        "41352,42351,51342",
        "41352",
        "42351",
        "51342",
        reason="asks for one label; the source lists all that are right",
    ),
    _repaired(
        "$352146,362145,452136,562134$",
        "352146,362145,452136,562134",
        "352146,362145",
        "352146,452136",
        "352146,562134",
        "362145,452136",
        "362145,562134",
        "452136,562134",
        reason="asks for two labels; the source lists all that are right",
    ),
    _free(r"$x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k, \frac{2}{3} \pi+\pi k, \frac{5}{6} \pi+\pi k$", "k"),
)
_TABLES: Final = (
    (re.compile(r"minerva"), _MINERVA),
    (re.compile(r"^math[-_]?500$"), _MATH500),
    (re.compile(r"^hmmt"), _HMMT),
    (re.compile(r"^olympiad"), _OLYMPIAD),
)


@functools.lru_cache(maxsize=4096)
def gold_of(gold: str, bench: str) -> Gold:
    """The reading of ``gold`` in ``bench``: its row of the table, or the gold itself."""
    for pattern, table in _TABLES:
        if pattern.search(bench.lower()):
            listed = table.get(" ".join(gold.split()))
            if listed is not None:
                return listed
    return Gold(gold, (gold,))


def repaired_golds() -> list[tuple[str, Gold]]:
    """(bench pattern, gold) of every listed gold, for the check that lists them beside their originals."""
    return [(pattern.pattern, gold) for pattern, table in _TABLES for gold in table.values()]
