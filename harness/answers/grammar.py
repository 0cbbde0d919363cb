r"""The small language of ``arithmetic``: how latex2sympy reads plain LaTeX, evaluated while it is read.

Its peculiarities are the point: ``2\frac{1}{2}`` and ``2(3)`` are sums, ``1/2x`` is 1/(2x), ``x(t)`` is an unknown
function but ``n(n+1)`` a product, ``\sin x y`` is the sine of both, ``e`` is Euler's number, ``X`` is ``x``, and the
base of ``52_8`` is dropped. What is not sure is not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from harness.answers.parts import (
    Part,
    Unknown,
    careful,
    combined,
    fraction_of,
    negative,
    plus,
    power,
    product,
    quotient,
    rounded,
    symbol,
    times,
)

MAX_DEPTH: Final = 12

_TOKEN: Final = re.compile(
    r"(?P<space>\s+|\\[,;:](?![A-Za-z])|\\[,;: ]|\\q?quad(?![A-Za-z]))"
    r"|(?P<size>\\(?:left|right)(?=[()\[\]]|\\[{}]))"
    r"|(?P<number>\d*\.\d+|\d+)"
    r"|(?P<matrix>\\(?:begin|end)\{[pb]?matrix\})"
    r"|(?P<command>\\[A-Za-z]+|\\[{}\\])"
    r"|(?P<letter>[a-ce-zA-CF-HJ-Z]|(?<=_\{)d(?=\}))"  # not d, D (a differential), E, I (constants)
    r"|(?P<sign>[-+*/^_=,()\[\]{}!&])"
)
_GREEK: Final = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega varphi Gamma "
    "Delta Theta Lambda Xi Sigma Phi Psi Omega"
)
_NAMES: Final = frozenset("\\" + name for name in (*_GREEK.split(), "hbar", "ell"))
_FUNCTIONS: Final[dict[str, Callable[[float], float]]] = {
    "\\sin": math.sin,
    "\\cos": math.cos,
    "\\tan": math.tan,
    "\\cot": lambda x: 1 / math.tan(x),
    "\\sec": lambda x: 1 / math.cos(x),
    "\\csc": lambda x: 1 / math.sin(x),
    "\\exp": math.exp,
    "\\ln": math.log,
    "\\arcsin": math.asin,
    "\\arctan": math.atan,
}
_ROUNDINGS: Final = {"\\lfloor": ("\\rfloor", math.floor), "\\lceil": ("\\rceil", math.ceil)}


@dataclass(frozen=True)
class Reading:
    """``tokens`` is all that latex2sympy's parser would see; ``parts`` are the numbers and expressions compared.

    ``relation``: there is an equals sign, with ``parts`` and the tokens ``right`` to the right of it; ``named``: with a
    name or ``f(x)`` to the left. ``name``: the value is nothing but a name.
    """

    tokens: tuple[str, ...]
    parts: tuple[Part, ...]
    collection: bool = False
    relation: bool = False
    named: bool = False
    right: tuple[str, ...] = ()
    name: bool = False

    @staticmethod
    def of_words(words: str) -> Reading:
        return Reading(("\\text", words.replace(" ", "").lower()), (symbol("text " + words),), name=True)


def tokens_of(text: str) -> list[str]:
    """The tokens of ``text`` without spaces and sizes; raises ``Unknown`` for a sign that is none of them."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unknown
        position = match.end()
        if match.lastgroup not in ("space", "size"):
            tokens.append(match[0])
    return tokens


@dataclass
class Reader:
    """Recursive descent along latex2sympy's grammar: additive, mp, unary, postfix, exp, comp."""

    tokens: list[str]
    at: int = 0
    depth: int = 0
    after_name: bool = False  # the factor just read is a name: a bracket would make it a function

    def reading(self) -> Reading:
        if "=" in self.tokens:
            return self._relation()
        parts = self._list(("",))
        if self.tokens in (["0.5"], [".5"]):  # the one decimal that is made a fraction
            parts = [Part.number(0.5, Fraction(1, 2))]
        collection = len(parts) > 1 or self.tokens[0] == "\\{" or self.tokens[0].startswith("\\begin")
        return Reading(self._seen(0), tuple(parts), collection, name=self._is_only_name(0))

    def _relation(self) -> Reading:
        self._additive()
        left = self.tokens[: self.at]
        named = _is_name(left[0]) and left[0] != "e" and (len(left) == 1 or _is_applied(left))
        self._take("=")
        start = self.at
        value = self._additive()
        self._take("")
        return Reading(
            self._seen(0),
            (value,),
            relation=True,
            named=named,
            right=self._seen(start),
            name=self._is_only_name(start),
        )

    def _seen(self, start: int) -> tuple[str, ...]:
        """The tokens from ``start`` on, without the plus signs that mean nothing."""
        tokens = self.tokens[start:]
        return tuple(
            token
            for before, token in zip(["(", *tokens], tokens, strict=False)
            if token != "+" or before not in ("(", "[", "{", "\\{", ",", "=", "&", "\\\\")
        )

    def _is_only_name(self, start: int) -> bool:
        rest = self.tokens[start:]
        return _is_name(rest[0]) and (len(rest) == 1 or rest[1] == "_")

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _take(self, wanted: str) -> None:
        if self._peek() != wanted:
            raise Unknown
        self.at += 1

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unknown

    # --- collections ---

    def _list(self, closers: tuple[str, ...]) -> list[Part]:
        parts = self._element()
        while self._peek() == ",":
            self.at += 1
            parts += self._element()
        if self._peek() not in closers:
            raise Unknown
        return parts

    def _element(self) -> list[Part]:
        """An expression, the two of a plus-minus, or a collection in brackets, which its comma gives away."""
        start = self.at
        if self._peek().startswith("\\begin"):
            return self._matrix()
        if self._peek() in ("(", "[", "\\{"):
            self.at += 1
            self._enter()
            parts = self._list(("\\}",) if self.tokens[start] == "\\{" else (")", "]"))
            self.at += 1
            self.depth -= 1
            if self.tokens[start] + self.tokens[self.at - 1] in ("(]", "[)") and not _ascending(parts):
                raise Unknown  # an empty set
            alone = self._peek() in ("", ",", ")", "]", "\\}")
            if alone and (len(parts) > 1 or self.tokens[start] == "\\{"):
                return parts
            self.at = start
        sign = self._peek() in ("+", "-")
        if self.tokens[self.at + sign : self.at + sign + 1] == ["\\infty"]:
            infinite = -math.inf if self._peek() == "-" else math.inf
            self.at += sign + 1
            return [Part.number(infinite)]
        left = Part.number(0) if self._peek() == "\\pm" else self._additive()
        if self._peek() != "\\pm":
            return [left]
        self.at += 1
        right = self._additive()
        return [combined(plus, left, right), combined(lambda a, b: plus(a, -b), left, right)]

    def _matrix(self) -> list[Part]:
        closer = self._peek().replace("begin", "end")
        self.at += 1
        cells = [self._additive()]
        while self._peek() in ("&", "\\\\"):
            self.at += 1
            cells.append(self._additive())
        self._take(closer)
        return cells

    # --- expressions ---

    def _additive(self) -> Part:
        part = self._mp()
        while self._peek() in ("+", "-"):
            minus = self._peek() == "-"
            self.at += 1
            right = self._mp()
            part = combined(lambda a, b, sign=-1 if minus else 1: plus(a, sign * b), part, right)
        return part

    def _mp(self, bare: bool = False) -> Part:
        """``bare``: inside an argument without brackets, which another function ends."""
        part = self._unary(bare)
        while self._peek() in ("*", "/", "\\cdot", "\\times"):
            divide = self._peek() == "/"
            self.at += 1
            right = self._unary(bare)
            part = quotient(part, right) if divide else combined(times, part, right)
        return part

    def _unary(self, bare: bool) -> Part:
        if self._peek() in ("+", "-"):
            minus = self._peek() == "-"
            self.at += 1
            part = self._unary(bare)
            return negative(part) if minus else part
        factors = [self._postfix()]
        while self._starts_factor(bare):
            if _is_number(self._peek()) and _is_number(self.tokens[self.at - 1]):
                raise Unknown
            factors.append(self._postfix())
        self.after_name = False
        return product(factors)

    def _starts_factor(self, bare: bool) -> bool:
        token = self._peek()
        if self.after_name and (token in ("[", "{") or (token == "(" and self._has_single_argument())):
            raise Unknown  # a function with an exponent, or in brackets of another kind
        if bare and (token in _FUNCTIONS or token in ("\\sqrt", "e")):
            return False
        if bare and _is_name(token) and "(" in self.tokens[self.at + 1 :]:
            raise Unknown  # perhaps another function, which would end the argument
        starts = token in ("(", "[", "\\frac", "\\sqrt", "\\pi") or token in _FUNCTIONS or token in _ROUNDINGS
        return starts or _is_name(token) or _is_number(token)

    def _postfix(self) -> Part:
        part = self._exponential()
        if self._peek() != "!":
            return part
        self.at += 1
        if self._peek() in ("!", "^", "_"):
            raise Unknown
        self.after_name = False
        return combined(lambda a: math.gamma(a + 1), part)

    def _exponential(self) -> Part:
        base = self._component()
        if self._peek() != "^":
            return base
        after_name = self.after_name
        self.at += 1
        token = self._peek()
        if token == "{":
            exponent = self._braced()
        elif _is_number(token):
            self.at += 1
            exponent = _literal(token)
        elif _is_name(token) and token != "e":
            self.at += 1
            exponent = symbol(token)
            after_name = True
        else:
            raise Unknown
        if self._peek() in ("^", "_"):
            raise Unknown
        self.after_name = after_name
        return combined(power, base, exponent)

    def _component(self) -> Part:
        token = self._peek()
        self.after_name = False
        self.at += 1
        if _is_number(token):
            if self._peek() == "_":
                self._base()
            return _literal(token)
        if token == "e":
            if self._peek() in ("_", "(", "["):
                raise Unknown
            return Part.number(math.e)
        if token == "\\pi":
            if self._peek() in ("_", "(", "["):
                raise Unknown
            return Part.number(math.pi)
        if _is_name(token):
            if self._peek() == "_":
                token += "_" + self._subscript()
            if self._peek() == "(" and self._has_single_argument():
                return self._applied(token)
            self.after_name = True
            return symbol(token)
        if token in ("(", "["):
            return self._bracketed(")" if token == "(" else "]")
        if token == "\\frac":
            over, under = self._braced(), self._braced()
            return quotient(over, under)
        if token == "\\sqrt":
            return self._root()
        if token in _ROUNDINGS:
            closer, function = _ROUNDINGS[token]
            return combined(rounded(function), self._bracketed(closer))
        if token in _FUNCTIONS:
            return self._function(token)
        raise Unknown

    def _base(self) -> None:
        """``_8`` or ``_{8}`` behind a number, which means nothing here."""
        self.at += 1
        braced = self._peek() == "{"
        self.at += braced
        if not _is_number(self._peek()):
            raise Unknown
        self.at += 1
        if braced:
            self._take("}")
        if self._peek() not in ("", ","):
            raise Unknown

    def _bracketed(self, closer: str) -> Part:
        self._enter()
        part = self._additive()
        self._take(closer)
        self.depth -= 1
        self.after_name = False
        return part

    def _braced(self) -> Part:
        self._take("{")
        return self._bracketed("}")

    def _root(self) -> Part:
        degree = Part.number(2)
        if self._peek() == "[":
            self.at += 1
            degree = self._bracketed("]")
        radicand = self._braced()
        if min(radicand.values) < 0:
            raise Unknown
        return combined(lambda a, b: power(a, 1 / b), radicand, degree)

    def _has_single_argument(self) -> bool:
        """Whether the bracket that opens here holds one name or number: what makes a function of the name before it."""
        inner = self.tokens[self.at + 1 : self.tokens.index(")", self.at)] if ")" in self.tokens[self.at :] else []
        if not inner or not (_is_name(inner[0]) or _is_number(inner[0]) or inner[0] == "\\pi"):
            return False
        if len(inner) > 1 and set(inner) & {"^", "_"}:
            raise Unknown
        return len(inner) == 1 and inner[0] != "e"

    def _applied(self, name: str) -> Part:
        """An unknown function: some number that follows from its name and its argument."""
        if name.startswith("\\"):
            raise Unknown  # a space behind a Greek letter makes another function of it
        self.at += 1
        argument = self._bracketed(")")
        self.after_name = True
        return Part(tuple(fraction_of(f"{name.lower()}({value:.9g})") + 0.3 for value in argument.values))

    def _function(self, name: str) -> Part:
        exponent: Part | None = None
        if self._peek() == "^":
            self.at += 1
            exponent = self._braced() if self._peek() == "{" else _literal(self._peek())
            self.at += self.tokens[self.at - 1] != "}"
            if exponent.rational is None or exponent.rational <= 0:
                raise Unknown
        if self._peek() == "(":
            self.at += 1
            argument = self._bracketed(")")
            if self._peek() == "^":
                raise Unknown
        elif self._peek() == "{":
            argument = self._braced()
            if self._peek() not in ("", "+", "-", ")", "}", ","):
                raise Unknown  # the argument goes on
        elif _is_name(self._peek()) or _is_number(self._peek()) or self._peek() == "\\pi":
            self._enter()
            argument = self._mp(bare=True)
            self.depth -= 1
        else:
            raise Unknown
        self.after_name = False
        value = combined(careful(_FUNCTIONS[name]), argument)
        return value if exponent is None else combined(power, value, exponent)

    def _subscript(self) -> str:
        self.at += 1
        token = self._peek()
        if _is_number(token) or token.isalpha():
            self.at += 1
            return token
        self._take("{")
        name = ""
        while self._peek().isalnum():
            name += self._peek()
            self.at += 1
        self._take("}")
        if not name:
            raise Unknown
        return name


def _ascending(parts: list[Part]) -> bool:
    return len(parts) == 2 and all(low < high for low, high in zip(parts[0].values, parts[1].values, strict=True))


def _is_applied(tokens: list[str]) -> bool:
    return len(tokens) == 4 and tokens[1] == "(" and tokens[3] == ")" and tokens[2].isalpha() and tokens[2] != "e"


def _is_name(token: str) -> bool:
    return token.isalpha() or token in _NAMES


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or (token[:1] == "." and len(token) > 1)


def _literal(token: str) -> Part:
    value = Fraction(token)
    return Part.number(value, value if "." not in token else None)
