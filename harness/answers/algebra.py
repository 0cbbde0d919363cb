r"""Equality of expressions by evaluation: both sides at the same points, to 60 digits.

No symbolic simplification: two trees are equal where they agree at a dozen points that no formula was made for.
Unknowns are positive reals (the quantities of physics and of contest answers), integers where a floor, a ceiling or the
sign of a power asks for them, and of either sign where an absolute value is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

import mpmath

from harness.answers.evaluation import DIGITS, Point, close, exact, fraction_of, stable_value
from harness.answers.nodes import Node, symbols

_POINTS: Final = 12
_NEEDED: Final = 3  # agreeing points for two expressions with unknowns


def points(names: frozenset[str], left: Node, right: Node) -> Iterator[Point]:
    """Where to compare ``left`` with ``right``: the same values for the same names, in every process."""
    heads = {part.head + part.name for side in (left, right) for part in side.walk() if part.head == "call"}
    if heads & {"callfloor", "callceil"} or any(_alternates(part) for side in (left, right) for part in side.walk()):
        yield from (_integers(names, trial) for trial in range(4 * _POINTS))
        return
    ranges = [("1/10", "9/10"), ("11/10", "3")] * (_POINTS // 2)
    yield from (_reals(names, trial, low, high) for trial, (low, high) in enumerate(ranges))
    if "callabs" in heads:
        yield from (_reals(names, trial, "-2", "2") for trial in range(_POINTS))


def _alternates(part: Node) -> bool:
    """A power of a negative number with an unknown in the exponent, or a cosine or sine of a multiple of pi."""
    if part.head == "pow":
        base = exact(part.args[0])
        return base is not None and base < 0 and bool(symbols(part.args[1]))
    return (
        part.head == "call"
        and part.name in ("cos", "sin")
        and part.args[0].head == "mul"
        and any(inner.name == "\\pi" for inner in part.args[0].args)
        and all(inner.head in ("mul", "sym", "num") for inner in part.args[0].walk())
        and any(name in ("n", "k", "m") for name in symbols(part.args[0]))
    )


def _reals(names: frozenset[str], trial: int, low: str, high: str) -> Point:
    start, end = Fraction(low), Fraction(high)
    with mpmath.workdps(2 * DIGITS):
        width = mpmath.mpf((end - start).numerator) / (end - start).denominator
        first = mpmath.mpf(start.numerator) / start.denominator
        return {name: first + width * fraction_of(f"{name} {trial}") for name in names}


def _integers(names: frozenset[str], trial: int) -> Point:
    if len(names) == 1:
        extra = (31, 32, 33, 63, 64, 65, 99, 100, 127, 128)
        number = trial + 1 if trial < 38 else extra[trial - 38]
        return {name: mpmath.mpf(number) for name in names}
    return {name: mpmath.floor(1 + 40 * fraction_of(f"{name} {trial}")) for name in names}


def pairs(left: Node, right: Node, decimal_log: bool = False) -> Iterator[tuple[Any, Any, bool]]:
    """Values of both sides at every point where both have one, and whether the two are sure to count.

    Without an imaginary unit in sight, points count where both sides are real; where those are few, all of them do.
    """
    names = symbols(left) | symbols(right)
    imaginary = any(part.head == "sym" and part.name == "i" for side in (left, right) for part in side.walk())
    for point in points(names, left, right) if names else [{}]:
        one = stable_value(left, point, decimal_log)
        other = None if one is None else stable_value(right, point, decimal_log)
        if one is not None and other is not None:
            yield one, other, imaginary or (mpmath.im(one) == 0 and mpmath.im(other) == 0)


def equal(left: Node, right: Node) -> bool:
    """Whether two expressions agree wherever they are compared; a bare ``\\log`` is natural, or decimal, in both."""
    if left == right:
        return True
    readings = (False, True) if any(part.name == "log" for side in (left, right) for part in side.walk()) else (False,)
    needed = _NEEDED if symbols(left) | symbols(right) else 1
    return any(_agree(pairs(left, right, decimal_log), needed) for decimal_log in readings)


def _agree(found: Iterator[tuple[Any, Any, bool]], needed: int) -> bool:
    """Whether both values are the same wherever they count, in ``needed`` places at least; ends where two differ."""
    sure, others = 0, []
    for one, other, counts in found:
        if not counts:
            others.append(close(one, other))
        elif close(one, other):
            sure += 1
        else:
            return False
    return sure >= _NEEDED or (sure + len(others) >= needed and all(others))


def ratio(left: Node, right: Node) -> Any:
    """The constant r with right = r·left wherever they are compared; None where there is none, or it is 0."""
    sure: list[Any] = []
    others: list[Any] = []
    for one, other, counts in pairs(left, right):
        if one == 0 and other == 0:
            continue
        factor = None if one == 0 or other == 0 else other / one
        if counts and (factor is None or (sure and not close(factor, sure[0]))):
            return None
        (sure if counts else others).append(factor)
    if len(sure) >= _NEEDED:
        return sure[0]
    factors = sure + others
    if len(factors) < _NEEDED or None in factors or not all(close(factor, factors[0]) for factor in factors):
        return None
    return factors[0]


def first_point(names: frozenset[str]) -> Point:
    """One fixed point, the same in every process: what an expression is worth there names its class."""
    return _reals(names, 0, "1/10", "9/10")


def same_root(left: Node, right: Node, name: str) -> bool:
    """Whether ``left = 0`` and ``right = 0``, both of first degree in ``name``, have the same solution for it."""
    agreed = 0
    for trial in range(_POINTS):
        point = dict(_reals(symbols(left) | symbols(right), trial, "1/10", "3"))
        roots = [_root_of(side, point, name) for side in (left, right)]
        if roots[0] is None or roots[1] is None:
            continue
        if not close(roots[0], roots[1]):
            return False
        agreed += 1
    return agreed >= _NEEDED


def _root_of(side: Node, point: dict[str, Any], name: str) -> Any:
    values = [stable_value(side, {**point, name: mpmath.mpf(at)}) for at in (0, 1, 2)]
    if any(value is None for value in values):
        return None
    zero, one, two = values
    slope = one - zero
    if slope == 0 or not close(two - one, slope, mpmath.mpf(10) ** -25):
        return None
    return -zero / slope
