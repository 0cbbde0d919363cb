r"""The value of an expression: exactly where it is rational, else to 60 digits, with every operation bounded."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

import mpmath
from mpmath import mp

from harness.answers.nodes import Node
from harness.answers.tokens import Unreadable

DIGITS: Final = 60
CLOSE: Final = mpmath.mpf(10) ** -40
_MAX_EXPONENT: Final = mpmath.mpf(10) ** 9  # of a power or an exponential
_MAX_ANGLE: Final = mpmath.mpf(10) ** 1000
_EXACT_BITS: Final = 20_000

_TRIGONOMETRIC: Final[dict[str, Callable[[Any], Any]]] = {
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tan": mpmath.tan,
    "cot": mpmath.cot,
    "sec": mpmath.sec,
    "csc": mpmath.csc,
}
_FUNCTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    "arccot": mpmath.acot,
    "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc,
    "arcsinh": mpmath.asinh,
    "arccosh": mpmath.acosh,
    "arctanh": mpmath.atanh,
    "arccoth": mpmath.acoth,
    "arcsech": mpmath.asech,
    "arccsch": mpmath.acsch,
    "tanh": mpmath.tanh,
    "coth": mpmath.coth,
    "sinh": mpmath.sinh,
    "cosh": mpmath.cosh,
    "sech": mpmath.sech,
    "csch": mpmath.csch,
    "exp": mpmath.exp,
    "ln": mpmath.log,
    "lg": mpmath.log10,
    "abs": abs,
}
_EXPONENTIALS: Final = frozenset(("sinh", "cosh", "tanh", "coth", "sech", "csch", "exp"))

Point = Mapping[str, Any]


def exact(node: Node) -> Fraction | None:
    """The value of a tree of rational operations; None for anything else, and beyond 20,000 bits."""
    if node.head == "num":
        return node.value
    if node.head not in ("add", "mul", "div", "neg", "pow", "percent"):
        return None
    parts = [exact(part) for part in node.args]
    if any(part is None for part in parts):
        return None
    first, *others = (part for part in parts if part is not None)
    if node.head == "neg":
        return -first
    if node.head == "percent":
        return first / 100
    second = others[0]
    if node.head == "add":
        value = first + second
    elif node.head == "mul":
        value = first * second
    elif node.head == "div":
        if second == 0:
            return None
        value = first / second
    else:
        bits = max(first.numerator.bit_length(), first.denominator.bit_length())
        if second.denominator != 1 or abs(second) * bits > _EXACT_BITS or (first == 0 and second <= 0):
            return None
        value = first ** int(second)
    return value if value.numerator.bit_length() + value.denominator.bit_length() <= _EXACT_BITS else None


def evaluate(node: Node, point: Point, decimal_log: bool = False, angle: bool = False) -> Any:
    """The value of ``node`` (an mpf or mpc) at ``point``; raises ``Unreadable`` or ``ArithmeticError`` if it has none.

    ``decimal_log`` reads a bare ``\\log`` as base 10, else as natural. A degree sign counts only inside a
    trigonometric function (``angle``); on its own an answer in degrees is compared in degrees.
    """

    def value(part: Node, inside: bool = angle) -> Any:
        return evaluate(part, point, decimal_log, inside)

    head, args = node.head, node.args
    if head == "num":
        return mpmath.mpf(node.value.numerator) / node.value.denominator
    if head == "sym":
        return _symbol(node.name, point)
    if head == "add":
        return value(args[0]) + value(args[1])
    if head == "mul":
        return value(args[0]) * value(args[1])
    if head == "div":
        return value(args[0]) / value(args[1])
    if head == "neg":
        return -value(args[0])
    if head == "pow":
        return _power(value(args[0]), value(args[1], False))
    if head == "deg":
        return value(args[0]) * (mp.pi / 180 if angle else 1)
    if head == "percent":
        return value(args[0]) / 100
    if head == "factorial":
        return mpmath.factorial(_bounded(value(args[0]), _MAX_EXPONENT))
    if head == "app":
        return _unknown_function(node.name, [value(part) for part in args])
    return _call(node.name, args, value, decimal_log)


def _symbol(name: str, point: Point) -> Any:
    if name == "\\pi":
        return mp.pi + 0
    if name == "e":
        return mp.e + 0
    if name == "i":
        return mpmath.mpc(0, 1)
    if name == "\\infty":
        return mp.inf
    if name in point:
        return point[name]
    raise Unreadable(f"no value for {name}")


def _power(base: Any, exponent: Any) -> Any:
    if base == 0 and mpmath.re(exponent) <= 0:
        if exponent == 0:
            return mpmath.mpf(1)
        raise ZeroDivisionError
    if base != 0 and abs(exponent) * (abs(mpmath.log(abs(base), 2)) + 1) > _MAX_EXPONENT:
        raise OverflowError("power too large")
    return base**exponent


def _call(name: str, args: tuple[Node, ...], value: Callable[..., Any], decimal_log: bool) -> Any:
    if name in _TRIGONOMETRIC:
        return _TRIGONOMETRIC[name](_bounded(value(args[0], True), _MAX_ANGLE))
    first = value(args[0], False)
    if name == "sqrt":
        return mpmath.sqrt(first) if len(args) == 1 else _root(first, value(args[1], False))
    if name == "log":
        if len(args) == 2:
            return mpmath.log(first) / mpmath.log(value(args[1], False))
        return mpmath.log10(first) if decimal_log else mpmath.log(first)
    if name in ("floor", "ceil"):
        nearest = mpmath.nint(first)
        if abs(first - nearest) < CLOSE * max(1, abs(first)):
            return nearest  # log_2 8 is 3, whatever the last of 60 digits says
        return mpmath.floor(first) if name == "floor" else mpmath.ceil(first)
    if name == "binom":
        lower = value(args[1], False)
        return mpmath.binomial(_bounded(first, _MAX_EXPONENT), _bounded(lower, _MAX_EXPONENT))
    if name not in _FUNCTIONS:
        raise Unreadable(f"function {name}")
    return _FUNCTIONS[name](_bounded(first, _MAX_EXPONENT) if name in _EXPONENTIALS else first)


def _root(base: Any, degree: Any) -> Any:
    """The real root where there is one: the cube root of -8 is -2."""
    if (
        mpmath.im(base) == 0
        and mpmath.re(base) < 0
        and degree == mpmath.nint(degree)
        and int(mpmath.re(degree)) % 2 == 1
    ):
        return -_power(-base, 1 / degree)
    return _power(base, 1 / degree)


def _bounded(value: Any, limit: Any) -> Any:
    if abs(value) > limit:
        raise OverflowError("number too large")
    return value


def _unknown_function(name: str, arguments: list[Any]) -> Any:
    """A value that depends on the function's name and, to 25 digits, on its arguments, and on nothing else."""
    shown = ",".join(mpmath.nstr(mpmath.mpc(argument), 25) for argument in arguments)
    return mpmath.mpf(1) / 2 + fraction_of(f"{name}({shown})")


@functools.lru_cache(maxsize=4096)
def fraction_of(text: str) -> Any:
    """A number in [0, 1) drawn from the hash of ``text``."""
    with mpmath.workdps(DIGITS):  # the cache must not keep what some smaller precision rounded
        return mpmath.mpf(int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")) / 2**64


def stable_value(node: Node, point: Point = {}, decimal_log: bool = False) -> Any:  # noqa: B006 (never written to)
    """``evaluate`` at two precisions, so that what cancels to nothing is 0; None where there is no finite value."""
    values = []
    for digits in (DIGITS, 2 * DIGITS):
        with mpmath.workdps(digits):
            try:
                value = evaluate(node, point, decimal_log)
            except (ArithmeticError, ValueError, TypeError):
                return None
            if mpmath.isnan(value) or (mpmath.isinf(value) and value not in (mp.inf, -mp.inf)):
                return None
            values.append(value)
    coarse, fine = values
    if mpmath.isinf(fine):
        return fine
    if abs(fine) < abs(coarse) * CLOSE or (abs(coarse) < CLOSE and abs(fine) < abs(coarse) ** mpmath.mpf("1.5")):
        return mpmath.mpf(0)
    if not close(coarse, fine, mpmath.mpf(10) ** -20):
        return None
    if mpmath.im(fine) != 0 and abs(mpmath.im(fine)) < abs(fine) * CLOSE:
        return mpmath.re(fine)
    return fine if mpmath.im(fine) != 0 else mpmath.re(fine)


def close(left: Any, right: Any, tolerance: Any = CLOSE) -> bool:
    """Relative closeness; zero is close to zero only."""
    if left == right:
        return True
    if mpmath.isinf(left) or mpmath.isinf(right):
        return False
    return bool(abs(left - right) <= tolerance * max(abs(left), abs(right)))


def as_fraction(value: Any) -> Fraction | None:
    """A real mpf as the exact rational it is; None for complex, infinite and very large or small values."""
    if mpmath.im(value) != 0 or not mpmath.isfinite(value):
        return None
    sign, man, exponent, _ = mpmath.re(value)._mpf_
    if abs(exponent) > 10_000:
        return None
    return Fraction((-1) ** sign * int(man)) * Fraction(2) ** exponent
