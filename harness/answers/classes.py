"""Answer classes: one text for equal answers, and the end of a chain that states its value."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath

from harness.answers import sets
from harness.answers.algebra import first_point
from harness.answers.evaluation import close, exact, stable_value
from harness.answers.forms import Based, Bracket, Chain, Form, Listing, Matrix, SetOperation, Value, Words
from harness.answers.nodes import Node, symbols
from harness.answers.numbers import show
from harness.answers.tokens import Unreadable


def endings_of(chain: Chain) -> list[Form]:
    r"""What a chain claims as its value: its last side, and before an ``\approx`` also the side it approximates."""
    if not set(chain.relations) <= {"=", "~", "in"}:
        return []
    if chain.relations[-1] != "~":
        return [chain.sides[-1]]
    before, last = (number_of(side) for side in chain.sides[-2:])
    if before is None or last is None:
        return [chain.sides[-1]]
    # two different guesses joined by an approximation sign are no answer
    return list(chain.sides[-2:]) if close(before, last, mpmath.mpf("0.02")) else []


def number_of(form: Form) -> Any:
    return stable_value(form.node) if isinstance(form, Value) and not symbols(form.node) else None


def head_of(chain: Chain) -> Node | None:
    """The name that a chain of equalities defines: a symbol or an applied function that its end does not contain."""
    first, last = chain.sides[0], chain.sides[-1]
    if not set(chain.relations) <= {"=", "~"} or not isinstance(first, Value) or first.node.head not in ("sym", "app"):
        return None
    if not symbols(first.node):
        return None
    name = first.node.name
    return None if isinstance(last, Value) and name in symbols(last.node) else first.node


def items_of(form: Form) -> list[Form]:
    r"""The single answers of a list; ``x = \pm 2`` among them counts as two."""
    if not isinstance(form, Listing):
        return [form]
    items: list[Form] = []
    for item in form.items:
        last = item.sides[-1] if isinstance(item, Chain) else None
        if isinstance(item, Chain) and isinstance(last, Listing) and set(item.relations) <= {"="}:
            items.extend(last.items)
        else:
            items.append(item)
    return items


def describe(form: Form) -> str | None:
    """One text per answer class, for votes over samples: equal answers in the same shape have equal texts."""
    try:
        return _described(form)
    except (Unreadable, ArithmeticError, ValueError, TypeError, RecursionError):
        return None


def _described(form: Form) -> str:
    if isinstance(form, Value):
        return _described_value(form)
    if isinstance(form, Listing):
        return "{" + ", ".join(sorted(_described(item) for item in items_of(form))) + "}"
    if isinstance(form, Bracket):
        return form.opener + ", ".join(_described(item) for item in form.items) + form.closer
    if isinstance(form, SetOperation):
        return f"{_described(form.left)} {form.operation} {_described(form.right)}"
    if isinstance(form, Matrix):
        return "[" + "; ".join(", ".join(_described(Value(cell)) for cell in row) for row in form.rows) + "]"
    if isinstance(form, Chain):
        interval = sets.as_interval(form) if sets.is_inequality(form) else None
        if interval is not None:
            return _described(interval)
        endings = endings_of(form)
        if endings and (form.relations == ("in",) or head_of(form) is not None or number_of(endings[0]) is not None):
            return _described(endings[0])
        return " ".join(itertools.chain(*zip(map(_described, form.sides), (*form.relations, ""), strict=True))).strip()
    if isinstance(form, Based):
        return f"{form.digits} base {form.base}"
    return "text " + form.text.casefold().strip() if isinstance(form, Words) else "..."


def _described_value(form: Value) -> str:
    percent = " %" if form.percent else ""
    rational = exact(form.node)
    if rational is not None:
        return show(rational) + percent
    names = symbols(form.node)
    point = first_point(names)
    value = stable_value(form.node, point)
    if value is None:
        raise Unreadable("no value")
    return f"{mpmath.nstr(value, 20)}{percent}" + (f" of {', '.join(sorted(names))}" if names else "")
