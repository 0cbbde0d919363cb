r"""Sets of real numbers: intervals, finite sets, inequalities, unions and differences, compared point by point.

Two such sets are equal if they contain the same endpoints and the same points between neighbouring endpoints.
"""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
from mpmath import mp

from harness.answers.evaluation import close, stable_value
from harness.answers.forms import Bracket, Chain, Form, Listing, SetOperation, Value
from harness.answers.nodes import Node, symbols
from harness.answers.tokens import Unreadable

INEQUALITIES = frozenset(("<", ">", "<=", ">=", "!="))


def is_inequality(form: Form) -> bool:
    return isinstance(form, Chain) and bool(INEQUALITIES.intersection(form.relations))


def as_interval(chain: Chain) -> Bracket | None:
    r"""``3 < x \le 4``, ``x > 2`` and their mirror images as an interval with the same ends; None for anything else."""
    sides, relations = chain.sides, chain.relations
    if not all(relation in ("<", ">", "<=", ">=") for relation in relations):
        return None
    if relations[0].startswith(">"):
        sides = sides[::-1]
        relations = tuple(relation.replace(">", "<") for relation in reversed(relations))
    if any(relation.startswith(">") for relation in relations):
        return None
    unknown = [index for index, side in enumerate(sides) if _is_unknown(side)]
    infinity = Value(Node("sym", name="\\infty"))
    if len(sides) == 2 and len(unknown) >= 1:
        # of two unknowns ("x < a") the one on the left is taken for the variable
        if unknown[0] == 0:
            return Bracket((Value(Node("neg", (infinity.node,))), sides[1]), "(", _bracket(relations[0], "])"))
        return Bracket((sides[0], infinity), _bracket(relations[0], "[("), ")")
    if len(sides) == 3 and 1 in unknown:
        return Bracket((sides[0], sides[2]), _bracket(relations[0], "[("), _bracket(relations[1], "])"))
    return None


def _bracket(relation: str, closed_open: str) -> str:
    return closed_open[0] if relation == "<=" else closed_open[1]


def _is_unknown(form: Form) -> bool:
    return isinstance(form, Value) and form.node.head in ("sym", "app") and bool(symbols(form.node))


def same_set(left: Form, right: Form) -> bool:
    """Whether two forms are the same set of reals; raises ``Unreadable`` where one is no such set."""
    ends = _ends(left) + _ends(right)
    finite = sorted({mpmath.nstr(end, 50): end for end in ends if mpmath.isfinite(end)}.values())
    distinct: list[Any] = []
    for end in finite:
        if not distinct or not close(distinct[-1], end):
            distinct.append(end)
    probes = list(distinct)
    probes += [(one + other) / 2 for one, other in itertools.pairwise(distinct)]
    probes += [distinct[0] - 1, distinct[-1] + 1] if distinct else [mpmath.mpf(0)]
    return all(_contains(left, probe) == _contains(right, probe) for probe in probes)


def _real(form: Form) -> Any:
    value = stable_value(form.node) if isinstance(form, Value) and not symbols(form.node) else None
    if value is None or mpmath.im(value) != 0:
        raise Unreadable("no real number")
    return value


def _ends(form: Form) -> list[Any]:
    if isinstance(form, Bracket):
        if len(form.items) != 2:
            raise Unreadable("no interval")
        return [_real(item) for item in form.items]
    if isinstance(form, SetOperation):
        return _ends(form.left) + _ends(form.right)
    if isinstance(form, Listing):
        return [end for item in form.items for end in (_ends(item) if _is_set(item) else [_real(item)])]
    if isinstance(form, Chain):
        if form.relations == ("in",):
            return _ends(form.sides[-1])
        if form.relations == ("!=",):
            return [_real(form.sides[1])]
        interval = as_interval(form)
        if interval is None:
            raise Unreadable("no interval")
        return _ends(interval)
    if _named_set(form) is not None:
        return []
    raise Unreadable("no set")


def _is_set(form: Form) -> bool:
    return isinstance(form, (Bracket, SetOperation, Chain))


def _named_set(form: Form) -> bool | None:
    """True for the reals, False for the empty set."""
    if isinstance(form, Value) and form.node.head == "sym":
        return {"\\mathbb R": True, "\\emptyset": False}.get(form.node.name)
    return None


def _contains(form: Form, x: Any) -> bool:
    if isinstance(form, Bracket):
        low, high = (_real(item) for item in form.items)
        above = x > low and not close(x, low)
        below = x < high and not close(x, high)
        return bool(
            (above or (form.opener == "[" and close(x, low))) and (below or (form.closer == "]" and close(x, high)))
        )
    if isinstance(form, SetOperation):
        left, right = _contains(form.left, x), _contains(form.right, x)
        return left or right if form.operation == "union" else left and not right
    if isinstance(form, Listing):
        return any(_contains(item, x) if _is_set(item) else close(x, _real(item)) for item in form.items)
    if isinstance(form, Chain):
        if form.relations == ("in",):
            return _contains(form.sides[-1], x)
        if form.relations == ("!=",):
            return not close(x, _real(form.sides[1]))
        interval = as_interval(form)
        return interval is not None and _contains(interval, x)
    return bool(_named_set(form)) and abs(x) != mp.inf
