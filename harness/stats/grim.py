"""Could this percentage have been printed? The granularity (GRIM) test of reported numbers.

An average over n problems and k samples of each is c/(n·k) for a whole number c, so most two-decimal numbers are
impossible for a small benchmark. Values are text: "6.25" and "6.250" promise different things. All arithmetic is exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError

HALF_UP: Final = "half up"
HALF_EVEN: Final = "half to even"
TRUNCATED: Final = "truncated"
RULES: Final = (HALF_UP, HALF_EVEN, TRUNCATED)
DESIGNS: Final = tuple(range(1, 65))
LARGEST: Final = 10**9
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,3}(?:\.[0-9]{1,4})?")


@dataclass(frozen=True)
class Grim:
    """What n problems with k samples each say about a printed percentage, or about a printed gain.

    `rules`: the ways of printing under which it is possible; truncation is not rounding, so it is not `possible` by it.
    `counts`: numbers of right answers (of a gain: differences in them) that print so under the rounding rules.
    `nearest`: the counts beside the value, and what they are in percent to two more decimals. Where the design is so
    large that each number with these decimals is possible, the test is not `informative`.
    """

    value: str
    n: int
    k: int
    rules: tuple[str, ...]
    counts: range
    nearest: tuple[tuple[int, str], ...]
    informative: bool

    @property
    def possible(self) -> bool:
        return any(rule != TRUNCATED for rule in self.rules)

    @property
    def verdict(self) -> str:
        """ "untestable", "possible", "truncated" (cut off, not rounded) or "impossible"."""
        if not self.informative:
            return "untestable"
        return "possible" if self.possible else TRUNCATED if self.rules else "impossible"


@dataclass(frozen=True)
class Average:
    """A printed average beside the mean of its printed cells.

    `low`/`high`: where the average can lie, as each cell stands for all numbers that round to it. `possible`: some of
    them prints as `printed`. `exact`: so does the mean of the cells as they are printed.
    """

    printed: str
    cells: tuple[str, ...]
    mean: str
    low: str
    high: str
    possible: bool
    exact: bool


def grim(value: str, n: int, k: int = 1) -> Grim:
    """Whether `value` percent can be c/(n·k), rounded half up or half to even to its decimals, or truncated.

    Raises:
        UserError: `value` is no percentage with at most 4 decimals, or n or k is not a positive whole number.
    """
    units, decimals = _read(value)
    if not 0 <= units <= 100 * 10**decimals:
        raise UserError(f"'{value}' is not between 0 and 100; a difference of two percentages is a gain (--gain)")
    total = _total(n, k)
    ranges = {rule: _counts(units, decimals, total, rule) for rule in RULES}
    rounded = [ranges[rule] for rule in (HALF_UP, HALF_EVEN) if ranges[rule]]
    counts = range(min(r.start for r in rounded), max(r.stop for r in rounded)) if rounded else range(0)
    rules = tuple(rule for rule in RULES if ranges[rule])
    return Grim(value, n, k, rules, counts, _nearest(units, decimals, total), total < 100 * 10**decimals)


def grim_gain(value: str, n: int, k: int = 1) -> Grim:
    """Whether a gain of `value` points can be had between two averages over the same design.

    Either way of making one counts: the difference is rounded, or two rounded numbers are subtracted. `counts` holds
    every difference in right answers that can print so.

    Raises:
        UserError: as in `grim`, with values from -100 to 100.
    """
    units, decimals = _read(value)
    scale = 100 * 10**decimals
    if abs(units) > scale:
        raise UserError(f"'{value}' is no difference of two percentages")
    total = _total(n, k)
    nearest = _nearest(units, decimals, total)
    if total >= scale:
        return Grim(value, n, k, RULES, range(0), nearest, False)
    found: dict[str, set[int]] = {rule: set() for rule in RULES}
    size = abs(units)
    # two roundings move a difference by at most one unit in the last place
    candidates = range(max(0, -(-(size - 1) * total // scale)), min(total, (size + 1) * total // scale) + 1)
    for rule in RULES:
        printed = _printed(np.arange(total + 1), total, scale, rule)
        itself = _counts(size, decimals, total, rule)
        for more in candidates:
            if more in itself or (printed[more:] - printed[: total + 1 - more] == size).any():
                found[rule].add(more if units >= 0 else -more)
    rounded = found[HALF_UP] | found[HALF_EVEN]
    counts = range(min(rounded), max(rounded) + 1) if rounded else range(0)
    return Grim(value, n, k, tuple(rule for rule in RULES if found[rule]), counts, nearest, True)


def designs(value: str, n: int, ks: Iterable[int] = DESIGNS, gain: bool = False) -> list[Grim]:
    """The verdict for each number of samples in `ks`."""
    return [(grim_gain if gain else grim)(value, n, k) for k in ks]


def average(cells: Sequence[str], printed: str) -> Average:
    """Whether a printed macro average can be the mean of numbers that are printed as `cells`.

    Raises:
        UserError: a text is no number, or there are no cells.
    """
    if not cells:
        raise UserError("an average needs the numbers that it is of")
    values = [_fraction(cell) for cell in cells]
    mean = sum(values, Fraction(0)) / len(values)
    slack = sum((_half(cell) for cell in cells), Fraction(0)) / len(values)
    distance = abs(mean - _fraction(printed))
    decimals = max(_read(text)[1] for text in (*cells, printed)) + 2
    middle, low, high = (_text(bound, decimals) for bound in (mean, mean - slack, mean + slack))
    possible, exact = distance <= slack + _half(printed), distance <= _half(printed)
    return Average(printed, tuple(cells), middle, low, high, possible, exact)


def subtract(value: str, baseline: str) -> str:
    """value − baseline as printed, with the decimals of the coarser of the two and a sign: "+2.13".

    Raises:
        UserError: one of them is no number.
    """
    decimals = min(_read(value)[1], _read(baseline)[1])
    difference = _fraction(value) - _fraction(baseline)
    return ("+" if difference >= 0 else "") + _text(difference, decimals)


def is_number(text: str) -> bool:
    """Whether a text is a number that can be tested: at most three digits and four decimals."""
    return _NUMBER.fullmatch(text) is not None


def _read(text: str) -> tuple[int, int]:
    """ "6.25" → (625, 2)."""
    if not is_number(text):
        raise UserError(f"'{text[:40]}' is no percentage: write it as printed, such as 6.25, with at most 4 decimals")
    whole, _, decimals = text.partition(".")
    return int(whole + decimals), len(decimals)


def _fraction(text: str) -> Fraction:
    units, decimals = _read(text)
    return Fraction(units, 10**decimals)


def _half(text: str) -> Fraction:
    """Half a unit in the last printed place."""
    return Fraction(1, 2 * 10 ** _read(text)[1])


def _text(value: Fraction, decimals: int) -> str:
    """Rounded half up in absolute value."""
    units = (2 * abs(value.numerator) * 10**decimals + value.denominator) // (2 * value.denominator)
    digits = f"{units:0{decimals + 1}d}"
    text = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
    return f"-{text}" if value < 0 and units else text


def _total(n: int, k: int) -> int:
    if n < 1 or k < 1 or n * k > LARGEST:
        raise UserError(f"n = {n} problems with k = {k} samples: both must be at least 1, and n·k at most {LARGEST:,}")
    return n * k


def _counts(units: int, decimals: int, total: int, rule: str) -> range:
    """The counts c in 0 … total whose percentage, `c/total` in units of the last printed place, prints as `units`."""
    scale = 100 * 10**decimals
    if rule == TRUNCATED:
        first, stop = -(-units * total // scale), -(-(units + 1) * total // scale)
    else:
        low, high = (2 * units - 1) * total, (2 * units + 1) * total  # of c · 2 · scale
        first, stop = -(-low // (2 * scale)), -(-high // (2 * scale))
        if rule == HALF_EVEN and units % 2:  # ties go to the even neighbours
            first = low // (2 * scale) + 1
        elif rule == HALF_EVEN:
            stop = high // (2 * scale) + 1
    first, stop = max(first, 0), min(stop, total + 1)
    return range(first, max(first, stop))


def _printed(counts: NDArray[np.int64], total: int, scale: int, rule: str) -> NDArray[np.int64]:
    """What each count prints as, in units of the last place."""
    whole, rest = np.divmod(counts * scale, total)
    if rule == TRUNCATED:
        return whole
    up = 2 * rest >= total if rule == HALF_UP else (2 * rest > total) | ((2 * rest == total) & (whole % 2 == 1))
    return whole + up


def _nearest(units: int, decimals: int, total: int) -> tuple[tuple[int, str], ...]:
    """The counts just below and above a value, a single one where it is met exactly."""
    scale = 100 * 10**decimals
    counts = dict.fromkeys((units * total // scale, -(-units * total // scale)))
    return tuple((count, _text(Fraction(100 * count, total), decimals + 2)) for count in counts)
