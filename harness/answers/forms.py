r"""The shapes an answer can have: value, list, tuple, interval, set, matrix, relation, number in a base, words.

``parse_answer`` reads plain LaTeX into one of them and leaves every choice of meaning ("is (2,4) a point or an
interval?") to the comparison, because the gold decides it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from harness.answers.nodes import Node
from harness.answers.syntax import parse_expression
from harness.answers.tokens import Token, Unreadable, matching, split, tokenize
from harness.answers.units import changes_number

MAX_ITEMS: Final = 100


@dataclass(frozen=True)
class Value:
    """An expression; ``unit`` is a trailing text group, ``degrees`` and ``percent`` a trailing sign."""

    node: Node
    unit: str | None = None
    degrees: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Listing:
    """Answers side by side, in no order: ``1,-2``, ``\\{1,-2\\}`` (then ``braces``), both values of a ``\\pm``."""

    items: tuple[Form, ...]
    braces: bool = False


@dataclass(frozen=True)
class Bracket:
    """``(a,b)``, ``[a,b)``, …: an ordered tuple, and with two items perhaps an interval."""

    items: tuple[Form, ...]
    opener: str
    closer: str


@dataclass(frozen=True)
class SetOperation:
    """``left`` united with ``right``, or without it (``minus``)."""

    operation: str
    left: Form
    right: Form


@dataclass(frozen=True)
class Matrix:
    """Rows of entries, and what stands before it as a factor."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Chain:
    """Sides joined by relations: ``a = b``, ``3 < x \\le 4``, ``x \\in S``."""

    sides: tuple[Form, ...]
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Based:
    """Digits in a stated base: ``52_8``."""

    digits: str
    base: int


@dataclass(frozen=True)
class Words:
    """Text that is no mathematics."""

    text: str


@dataclass(frozen=True)
class Dots:
    """The dots of ``1, 2, \\ldots, n``."""


Form = Value | Listing | Bracket | SetOperation | Matrix | Chain | Based | Words | Dots

_BASES: Final = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}
_BASED: Final = re.compile(
    r"\(?\s*(?:\\(?:text|mathrm)\s*\{)?([0-9A-Fa-f]+)\}?\s*\)?\s*_\s*"
    rf"(?:\{{\s*\(?(\d{{1,2}}|{'|'.join(_BASES)})\)?\s*\}}|(\d{{1,2}})|\{{?\s*\\text\s*\{{\s*(\d{{1,2}}|{'|'.join(_BASES)})\s*\}}\s*\}}?)"
)
_IN_WORDS: Final = re.compile(
    rf"([0-9A-Fa-f]+)\s*\\text\s*\{{\s*,?\s*\(?\s*(?:in )?base[ -](\d{{1,2}}|{'|'.join(_BASES)})\s*\)?\s*\}}"
)
# What follows these words qualifies an answer that is already complete.
_QUALIFIERS: Final = ("for all", "for any", "for every", "where ", "since", "because")
_ARROWS: Final = {("cmd", arrow) for arrow in ("\\Rightarrow", "\\implies", "\\Longrightarrow")}
_BRACKETS: Final = frozenset(("(", "[", "{", "\\{", "\\langle"))
_LIST: Final = {("sep", ","), ("sep", ";"), ("sep", "and")}
_RELATIONS: Final = {("rel", sign) for sign in ("=", "~", "<", ">", "<=", ">=", "!=", "in")}


def parse_answer(text: str, names: tuple[str, ...] = ()) -> Form:
    """The form of ``text`` (as ``notation.clean`` leaves it); raises ``Unreadable`` where it is none of them."""
    based = _BASED.fullmatch(text.strip().rstrip("."))
    based = based or _IN_WORDS.fullmatch(text.strip().rstrip("."))
    if based and (any(char.isdigit() for char in based[1])):
        written = next(group for group in based.groups()[1:] if group)
        base = _BASES.get(written) or int(written)
        if 2 <= base <= 36 and all(int(char, 36) < base for char in based[1]):
            return Based(based[1].lower().lstrip("0") or "0", base)
    tokens = _without_full_stop(tokenize(text, names))
    if not tokens:
        raise Unreadable("nothing to read")
    return _listing(tokens)


def _without_full_stop(tokens: list[Token]) -> list[Token]:
    while tokens and (tokens[-1] in (Token("op", "."), Token("sep", ","), Token("cmd", "\\\\"))):
        tokens = tokens[:-1]
    return tokens


def _listing(tokens: list[Token]) -> Form:
    if tokens[0].kind == "text" and len(tokens) > 1 and tokens[0].text.rstrip().endswith((":", "is", "are", "=")):
        tokens = tokens[1:]
    tokens = split(tokens, _ARROWS)[-1] or tokens  # an argument ends in its conclusion
    for index, token in enumerate(tokens):
        if index and (token == Token("cmd", "\\forall") or _is_qualifier(token)):
            tokens = _without_full_stop(tokens[:index])
            break
    parts = [part for part in split(tokens, _LIST) if part]
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    if not parts:
        raise Unreadable("nothing between the commas")
    if len(parts) == 1:
        return _item(parts[0])
    items = [_item(part) for part in parts]
    answers = [item for item in items if not _is_domain(item)]
    return answers[0] if len(answers) == 1 and len(items) > 1 else Listing(_flat(answers or items))


def _is_qualifier(token: Token) -> bool:
    return token.kind == "text" and (token.text.strip().lower() + " ").startswith(_QUALIFIERS)


def _is_domain(item: Form) -> bool:
    """``k \\in \\mathbb{Z}`` behind a list says what k is and is no answer of its own."""
    last = item.sides[-1] if isinstance(item, Chain) and item.relations == ("in",) else None
    return isinstance(last, Value) and last.node.name.startswith("\\mathbb")


def _flat(items: Iterable[Form]) -> tuple[Form, ...]:
    """``items`` with the two values of a ``\\pm`` taken out of their own little list."""
    flat: list[Form] = []
    for item in items:
        if isinstance(item, Listing) and not item.braces:
            flat.extend(item.items)
        else:
            flat.append(item)
    return tuple(flat)


def _item(tokens: list[Token]) -> Form:
    sides = split(tokens, _RELATIONS)
    if len(sides) > 1:
        depth, relations = 0, []
        for token in tokens:
            depth += {"open": 1, "close": -1}.get(token.kind, 0)
            if depth == 0 and token.kind == "rel":
                relations.append(token.text)
        if not sides[0] and relations[0] in ("=", "~"):  # "= 5" is 5
            sides, relations = sides[1:], relations[1:]
        if not all(sides):
            raise Unreadable("a relation without a side")
        if len(sides) > 1:
            return Chain(tuple(_set_or_single(side) for side in sides), tuple(relations))
        return _set_or_single(sides[0])
    return _set_or_single(tokens)


def _set_or_single(tokens: list[Token]) -> Form:
    for operation in ("union", "minus"):
        parts = split(tokens, {("op", operation)})
        if len(parts) > 1:
            if not all(parts):
                raise Unreadable("a set operation without a side")
            form = _set_or_single(parts[0])
            for part in parts[1:]:
                form = SetOperation(operation, form, _set_or_single(part))
            return form
    return _single(tokens)


def _single(tokens: list[Token]) -> Form:
    if [token.text for token in tokens] == ["..."]:
        return Dots()
    bracketed_matrix = tokens[0].text in ("(", "[") and matching(tokens, 0) == len(tokens) - 1
    if bracketed_matrix and len(tokens) > 2 and tokens[1].text in ("\\begin array", "\\begin matrix"):
        tokens = tokens[1:-1]
    for index, token in enumerate(tokens):
        if token.text.startswith("\\begin "):
            return _environment(tokens, index)
    if tokens[0].text in _BRACKETS and matching(tokens, 0) == len(tokens) - 1:
        bracketed = _bracketed(tokens)
        if bracketed is not None:
            return bracketed
    return _value(tokens)


def _bracketed(tokens: list[Token]) -> Form | None:
    opener, closer, inner = tokens[0].text, tokens[-1].text, tokens[1:-1]
    if opener == "\\{":
        return Listing(_flat(_item(part) for part in split(inner, _LIST) if part), braces=True)
    if opener == "{":
        return _listing(inner) if inner else None
    if not inner:
        raise Unreadable("empty brackets")
    parts = split(inner, {("sep", ","), ("sep", ";")})
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    if len(parts) > 1:
        if not all(parts):
            raise Unreadable("nothing between the commas")
        return Bracket(tuple(_item(part) for part in parts), "(" if opener == "\\langle" else opener, closer)
    return _item(inner) if opener in ("(", "[") and closer in (")", "]") else None


def _environment(tokens: list[Token], start: int) -> Form:
    """A matrix, with a factor before it perhaps, or the lines of ``cases`` and ``aligned`` as a list."""
    if matching(tokens, start) != len(tokens) - 1:
        raise Unreadable("text after an environment")
    kind = tokens[start].text.split()[-1].rstrip("*")
    before, body = tokens[:start], tokens[start + 1 : -1]
    if kind == "array" and body and body[0].text == "{":
        body = body[matching(body, 0) + 1 :]
    rows = [row for row in split(body, {("cmd", "\\\\")}) if row]
    if not rows or len(rows) > MAX_ITEMS:
        raise Unreadable("an environment without rows")
    if kind in ("aligned", "align", "gathered"):
        rows = [[token for token in row if token != Token("op", "&")] for row in rows]
    if kind in ("cases", "aligned", "align", "gathered") and not before:
        return Listing(_flat(_item(_without_full_stop(row)) for row in rows))
    if kind not in ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"):
        raise Unreadable(f"environment {kind}")
    entries = [tuple(parse_expression(cell) for cell in split(row, {("op", "&")})) for row in rows]
    if before:
        if before[-1] in (Token("op", "-"), Token("op", "+")):
            before = [*before, Token("num", "1")]
        factor = parse_expression(before)
        entries = [tuple(Node("mul", (factor, cell)) for cell in row) for row in entries]
    return Matrix(tuple(entries))


def _value(tokens: list[Token]) -> Form:
    """An expression with its dress: leading words and currency, trailing unit, degree or percent sign."""
    while len(tokens) > 1 and (tokens[0].kind == "text" or tokens[0] == Token("cmd", "\\$")):
        tokens = tokens[1:]
    if len(tokens) == 1 and tokens[0].kind == "text":
        return Words(tokens[0].text)
    unit, tokens = _unit(tokens)
    percent = tokens[-1] == Token("op", "%") and len(tokens) > 1
    if percent:
        tokens = tokens[:-1]
    signs = [token for token in tokens if token.kind == "op" and token.text in ("pm", "mp")]
    uppers = (True, False) if signs else (True,)
    values: list[Form] = []
    for upper in uppers:
        node = parse_expression(tokens, upper)
        degrees = unit == "degrees" or _is_degrees(node)
        values.append(Value(node, None if unit == "degrees" else unit, degrees, percent or unit in ("%", "percent")))
    return values[0] if len(values) == 1 else Listing(tuple(values))


def _unit(tokens: list[Token]) -> tuple[str | None, list[Token]]:
    """Trailing text groups with their exponents (``\\text{ inches}^2``) taken off."""
    names: list[str] = []
    while len(tokens) > 1:
        if tokens[-1].kind == "text":
            names.insert(0, tokens[-1].text)
            tokens = tokens[:-1]
            continue
        power = _unit_power(tokens)
        if power is None or len(tokens) <= power[0] + 1:
            break
        names[:0] = [tokens[-power[0] - 1].text, power[1]]
        tokens = tokens[: -power[0] - 1]
    if changes_number(" ".join(names)):
        raise Unreadable(f"{names[0].strip()} behind an expression")
    while names and tokens[-1:] and tokens[-1] in (Token("op", "/"), Token("op", "*")) and len(tokens) > 1:
        tokens = tokens[:-1]
    return (" ".join(names) or None), tokens


def _unit_power(tokens: list[Token]) -> tuple[int, str] | None:
    """(tokens it takes, text) of an exponent at the end that stands on a text group."""
    if len(tokens) >= 3 and tokens[-3].kind == "text" and tokens[-2].text == "^" and tokens[-1].kind == "num":
        return 2, "^" + tokens[-1].text
    for size in (4, 5):
        tail = tokens[-size:]
        if (
            len(tokens) > size
            and tokens[-size - 1].kind == "text"
            and [tail[0].text, tail[1].text, tail[-1].text] == ["^", "{", "}"]
        ):
            return size, "^" + "".join(token.text for token in tail[2:-1])
    return None


def _is_degrees(node: Node) -> bool:
    """A degree sign on the answer itself: on the whole, or on each summand."""
    if node.head == "deg":
        return True
    if node.head in ("neg",):
        return _is_degrees(node.args[0])
    if node.head == "add":
        return all(_is_degrees(part) for part in node.args)
    return node.head == "mul" and _is_degrees(node.args[-1])
