"""Plain arithmetic in floating point that says "unknown" where floating point could mislead.

An expression is its values at a few points, at which names have values of their own; there is no tree.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

POINTS: Final = 3
_ABSOLUTE: Final = 1e-5
_RELATIVE: Final = 1e-6
_CANCELLED: Final = 1e-6  # of the larger summand: a sum below it has lost too many digits
_LARGE: Final = 1e6  # beyond it, and below its inverse, an argument, an exponent or a function is not trusted
_SMALLEST: Final = 1e-290


class Unknown(Exception):
    """The text is not of the small language, or its value is not sure."""


@dataclass(frozen=True)
class Part:
    """One expression: its values at the points, and its exact value where SymPy makes it an Integer or a Rational."""

    values: tuple[float, ...]
    rational: Fraction | None = None

    @staticmethod
    def number(value: Fraction | float, rational: Fraction | None = None) -> Part:
        return Part((float(value),) * POINTS, rational)

    def differs(self, other: Part) -> bool:
        """Whether the two are apart beyond any of math-verify's tolerances; exact for two rationals."""
        if self.rational is not None and other.rational is not None:
            return self.rational != other.rational
        return any(map(_apart, self.values, other.values))


def _apart(left: float, right: float) -> bool:
    if math.isinf(left) or math.isinf(right):
        return left != right
    return abs(left - right) > max(_ABSOLUTE, _RELATIVE * max(abs(left), abs(right)))


@functools.lru_cache(maxsize=4096)
def symbol(name: str) -> Part:
    """Positive values that follow from the name; latex2sympy knows no capitals."""
    name = name.lower()
    return Part(tuple(0.3 + 2.4 * fraction_of(f"{name} {point}") for point in range(POINTS)))


def fraction_of(text: str) -> float:
    """A number in [0, 1) drawn from the hash of ``text``."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def combined(operation: Callable[..., float], *parts: Part) -> Part:
    values = tuple(operation(*row) for row in zip(*(part.values for part in parts), strict=True))
    if not all(isinstance(value, (float, int)) and _is_sound(value) for value in values):
        raise Unknown  # complex, infinite, or at the edge of what a float can hold
    return Part(tuple(map(float, values)))


def _is_sound(value: float) -> bool:
    return value == 0 or _SMALLEST < abs(value) < 1 / _SMALLEST


def plus(left: float, right: float) -> float:
    """The sum, unless most of its digits cancel; of whole numbers they may."""
    total, size = left + right, max(abs(left), abs(right))
    whole = left.is_integer() and right.is_integer() and size < 2**53
    if not whole and abs(total) < _CANCELLED * size:
        raise Unknown
    return total


def times(left: float, right: float) -> float:
    product = left * right
    if product == 0 and left != 0 and right != 0:
        raise Unknown
    return product


def power(base: float, exponent: float) -> float:
    power = base**exponent
    if abs(exponent) > _LARGE or (power == 0 and base != 0):
        raise Unknown
    return power


def careful(function: Callable[[float], float]) -> Callable[[float], float]:
    """``function`` where its argument has digits left after the point, and its value is neither nearly 0 nor a pole."""

    def checked(argument: float) -> float:
        value = function(argument)
        if abs(argument) > _LARGE or abs(value) > _LARGE or 0 < abs(value) < 1 / _LARGE:
            raise Unknown
        return value

    return checked


def rounded(function: Callable[[float], int]) -> Callable[[float], float]:
    def checked(argument: float) -> float:
        if abs(argument) > _LARGE or abs(argument - round(argument)) < 1 / _LARGE:
            raise Unknown
        return float(function(argument))

    return checked


def negative(part: Part) -> Part:
    negated = combined(lambda a: -a, part)
    return Part(negated.values, -part.rational) if part.rational is not None else negated


def quotient(left: Part, right: Part) -> Part:
    whole = [part.rational for part in (left, right) if part.rational is not None and part.rational.denominator == 1]
    value = combined(lambda a, b: a / b, left, right)
    return Part(value.values, whole[0] / whole[1]) if len(whole) == 2 else value


def product(factors: list[Part]) -> Part:
    """Factors side by side, from the right; a whole number before a positive fraction is a mixed number."""
    *before, product = factors
    for left in reversed(before):
        whole, fraction = left.rational, product.rational
        if whole is not None and whole.denominator == 1 and fraction is not None and fraction > 0:
            value = whole - fraction if whole < 0 else whole + fraction
            product = Part.number(value, value)
        else:
            product = combined(times, left, product)
    return product
