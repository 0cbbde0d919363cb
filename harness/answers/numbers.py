r"""Plain numbers, read exactly: e-notation, powers of ten, thousands, mixed numbers, fractions, percent, units.

A decimal keeps its number of significant figures, because a gold's own precision decides how near a prediction must be.
Everything is a ``Fraction``; digits and exponents are bounded, so ``9^9^9^9`` or ``1e999999999`` cost nothing.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal

from harness.answers.units import unit_suffix

MAX_DIGITS: Final = 1000
MAX_EXPONENT: Final = 3000  # with 1,000 digits still inside what Python turns into text (4,300 digits)

_DIGITS: Final = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_MANTISSA: Final = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_POWER: Final = (
    r"(?:[eE]\s?(?P<e>[+-]?\d+)"
    r"|\s*(?:\\times|\\cdot|\*|[xX])\s*10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<braced>[+-]?\s*\d+)\s*\}|(?P<bare>[+-]?\d+)))"
)
_POWER_ONLY: Final = r"10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<ten_braced>[+-]?\s*\d+)\s*\}|(?P<ten_bare>[+-]?\d+))"
_FRACTION: Final = (
    rf"(?:(?P<whole>\d+)?\s*\\frac\s*(?:\{{\s*(?P<over>[+-]?\s*{_MANTISSA})\s*\}}|(?P<over1>\d))"
    rf"\s*(?:\{{\s*(?P<under>[+-]?\s*{_MANTISSA})\s*\}}|(?P<under1>\d))"
    rf"|(?:(?P<apart>\d+)\s+)?(?P<left>{_MANTISSA})\s*/\s*(?P<right>[+-]?{_MANTISSA}))"
)
_NUMBER: Final = re.compile(
    rf"(?P<sign>(?:[+-]\s*)*)(?:"
    rf"{_FRACTION}|{_POWER_ONLY}(?!\s*[\d^!])"
    rf"|(?P<mantissa>{_MANTISSA})(?:\s*\\overline\s*\{{\s*(?P<repeat>\d+)\s*\}}|{_POWER})?"
    rf")"
)
_LEAD: Final = re.compile(r"(?:\s|=|\\(?:approx|simeq|sim)(?![A-Za-z]))*")
_CURRENCY: Final = re.compile(r"\s*(?:\\\$|\\text\s*\{\s*\\?\$\s*\}|\\pounds|€|£|¥)\s*")
_WRAPPER: Final = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathsf|boldsymbol|mbox|hbox|operatorname)\s*\{\s*([^{}\\]*?)\s*\}"
)

Kind = Literal["integer", "decimal", "fraction"]


@dataclass(frozen=True)
class Number:
    """An exact value as written; ``figures`` are the significant figures of a decimal, None for exact kinds.

    With ``percent`` the value is the p of "p %". ``unit`` is the text of a trailing unit, None without one.
    """

    value: Fraction
    kind: Kind
    figures: int | None = None
    percent: bool = False
    degrees: bool = False
    unit: str | None = None


@functools.lru_cache(maxsize=8192)
def parse_number(text: str, bare_units: bool = False) -> Number | None:
    """The number that ``text`` (as ``notation.clean`` leaves it) consists of, or None where it is anything else.

    A unit in a text group or spelt out is allowed after it; ``bare_units`` also allows one-letter units ("3 m"), which
    elsewhere are unknowns. Numbers beyond 1,000 digits or exponents beyond ±3,000 are no numbers here.
    """
    if len(text) > 4 * MAX_DIGITS:
        return None
    text = text.strip()
    whole = _WRAPPER.fullmatch(text)
    if whole:
        text = whole[1]
    text = text[_LEAD.match(text).end() :]  # type: ignore[union-attr]
    negative = text.startswith("-")
    money = _CURRENCY.match(text, 1 if negative else 0)
    if money:
        text = ("-" if negative else "") + text[money.end() :]
    match = _NUMBER.match(text)
    if not match:
        return None
    number = _core(match)
    if number is None:
        return None
    suffix = unit_suffix(text[match.end() :], bare_units)
    if suffix is None or (money and suffix.unit):
        return None
    if suffix.factor != 1:
        number = replace(number, value=number.value * suffix.factor)
    return replace(
        number,
        percent=suffix.percent,
        degrees=suffix.degrees,
        unit="dollars" if money else suffix.unit,
    )


def _core(match: re.Match[str]) -> Number | None:
    sign = -1 if match["sign"].count("-") % 2 else 1
    over = match["over"] or match["over1"] or match["left"]
    if over is not None:
        under = match["under"] or match["under1"] or match["right"]
        top, bottom = decimal_value(over), decimal_value(under)
        if top is None or not bottom:
            return None
        value = top / bottom
        whole = match["whole"] or match["apart"]
        if whole is not None:
            # "1\\frac{4}{5}" and "3 1/2" are mixed numbers; "2\\frac{3}{2}" is a product, so no plain number
            part = decimal_value(whole)
            if part is None or not 0 < value < 1 or "." in over + under:
                return None
            value += part
        return Number(sign * value, "fraction")
    ten = match["ten_braced"] or match["ten_bare"]
    if ten is not None:
        power = power_of_ten(ten)
        return None if power is None else Number(sign * power, "integer" if power >= 1 else "fraction")
    mantissa = match["mantissa"]
    base = decimal_value(mantissa)
    if base is None:
        return None
    if match["repeat"] is not None:
        return _repeating(mantissa, match["repeat"], sign)
    exponent = match["e"] or match["braced"] or match["bare"]
    if exponent is None and not re.search(r"\.\d", mantissa):
        return Number(sign * base, "integer")
    scale = power_of_ten(exponent or "0")
    if scale is None:
        return None
    return Number(sign * base * scale, "decimal", significant_figures(mantissa))


def decimal_value(text: str) -> Fraction | None:
    """``"1,234.5"`` as a fraction; None beyond 1,000 characters."""
    text = text.replace(",", "").replace(" ", "")
    return Fraction(text.rstrip(".") or "0") if len(text) <= MAX_DIGITS else None


def power_of_ten(exponent: str) -> Fraction | None:
    """10 to the integer written in ``exponent``; None beyond ±3,000."""
    exponent = exponent.replace(" ", "")
    if len(exponent) > 8 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return Fraction(10) ** int(exponent)


def significant_figures(mantissa: str) -> int:
    """Figures of a decimal as written: 3 for ``.0000672``, 2 for ``0.10``, 4 for ``100.0``."""
    return max(1, len(mantissa.replace(",", "").replace(".", "").lstrip("0")))


def _repeating(mantissa: str, repeat: str, sign: int) -> Number | None:
    """``0.1\\overline{6}``: the repeating digits as an exact fraction."""
    base, places = decimal_value(mantissa), len(mantissa.partition(".")[2])
    if base is None or "." not in mantissa or len(repeat) > MAX_DIGITS:
        return None
    tail = Fraction(int(repeat), (10 ** len(repeat) - 1) * 10**places)
    return Number(sign * (base + tail), "fraction")


def roundings(value: Fraction, figures: int) -> tuple[Fraction, Fraction]:
    """``value`` rounded to ``figures`` significant figures: ties away from zero, and ties to even."""
    if value == 0:
        return value, value
    magnitude = abs(value)
    exponent = len(str(magnitude.numerator)) - len(str(magnitude.denominator))
    if Fraction(10) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(10) ** (exponent - figures + 1)
    steps = magnitude / unit
    low = steps.numerator // steps.denominator
    rest = steps - low
    half = Fraction(1, 2)
    up = low + (rest >= half)
    even = low + (rest > half or (rest == half and low % 2 == 1))
    sign = 1 if value > 0 else -1
    return sign * up * unit, sign * even * unit


def show(value: Fraction) -> str:
    """One text for one value, short also for large powers of ten: ``17/2``, ``-3``, ``45e32``."""
    if value.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(value.numerator)
    stripped = digits.rstrip("0")
    zeros = len(digits) - len(stripped)
    return f"{stripped}e{zeros}" if zeros > 12 else digits
