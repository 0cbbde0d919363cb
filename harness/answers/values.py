"""Value against value: constants by the number rules, expressions by evaluation, names of constants set aside."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from harness.answers import algebra
from harness.answers.evaluation import as_fraction, exact, stable_value
from harness.answers.forms import Value
from harness.answers.golds import Gold
from harness.answers.nodes import Node, symbols
from harness.answers.numbers import significant_figures
from harness.answers.strict import Policy, near
from harness.answers.units import conversion

MAX_CONSTANTS: Final = 4


@dataclass(frozen=True)
class Rules:
    """What a comparison depends on besides its two sides."""

    gold: Gold
    policy: Policy


def same_value(gold: Value, said: Value, rules: Rules) -> bool:
    mine, theirs = gold.node, said.node
    if not rules.gold.percent_asked:
        mine = _hundredth(mine) if gold.percent else mine
        theirs = _hundredth(theirs) if said.percent else theirs
    if gold.unit and said.unit:
        factor = conversion(said.unit, gold.unit)
        if factor is not None:
            theirs = Node("mul", (Node("num", value=factor), theirs))
    if symbols(mine) and said.unit and len(said.unit) == 1:  # an unknown in upright type, not a unit
        theirs = Node("mul", (theirs, Node("sym", name=said.unit)))
    if not symbols(mine) and not symbols(theirs):
        return _same_constant(mine, theirs, rules)
    if said.percent != gold.percent and not rules.gold.percent_asked:
        return False
    return any(_same_expression(left, right, rules) for left, right in with_and_without_arguments(mine, theirs))


def _hundredth(node: Node) -> Node:
    return Node("percent", (node,))


def _same_constant(mine: Node, theirs: Node, rules: Rules) -> bool:
    target, value = exact(mine), exact(theirs)
    figures = _figures(mine)
    if target is not None and value is not None:
        return near(target, figures, value, rules.gold, rules.policy) is not None
    if algebra.equal(mine, theirs):
        return True
    if figures is None or target is None:
        return False
    evaluated = stable_value(theirs)
    value = None if evaluated is None else as_fraction(evaluated)
    return value is not None and near(target, figures, value, rules.gold, rules.policy) is not None


def _figures(node: Node) -> int | None:
    """The significant figures of a decimal literal, None for any other constant."""
    if node.head in ("neg", "deg", "percent"):
        return _figures(node.args[0])
    if node.head != "num":
        return None
    if node.name.startswith("figures "):
        return int(node.name.split()[1])
    mantissa = re.split("[eE]", node.name)[0]
    return significant_figures(mantissa) if "." in node.name or mantissa != node.name else None


def _same_expression(mine: Node, theirs: Node, rules: Rules) -> bool:
    for renamed in _renamings(mine, theirs, rules.gold.constants):
        if algebra.equal(mine, renamed):
            return True
    return _same_coefficient(mine, theirs, rules)


def _renamings(mine: Node, theirs: Node, constants: tuple[str, ...]) -> list[Node]:
    """``theirs``, and with arbitrary constants as many ways as there are to give its constants the gold's names."""
    if not constants or len(constants) > MAX_CONSTANTS:
        return [theirs]
    known = symbols(mine) - set(constants)
    free = sorted(symbols(theirs) - known)
    if len(free) != len(constants):
        return [theirs]
    return [rename(theirs, dict(zip(free, order, strict=True))) for order in itertools.permutations(constants)]


def _same_coefficient(mine: Node, theirs: Node, rules: Rules) -> bool:
    r"""``2.2 \tau`` for ``\tau \ln 9``: a rounded coefficient before the same product of unknowns."""
    if not (rules.policy.rounding or rules.gold.rounded) or symbols(mine) != symbols(theirs):
        return False
    factors = _factors(mine)
    decimals = [factor for factor in factors if _figures(factor) is not None]
    if len(decimals) != 1 or any(
        _figures(part) is not None for other in factors if other is not decimals[0] for part in other.walk()
    ):
        return False
    ratio = algebra.ratio(mine, theirs)
    factor = None if ratio is None else as_fraction(ratio)
    target = exact(decimals[0])
    if factor is None or target is None:
        return False
    return near(target, _figures(decimals[0]), target * factor, rules.gold, rules.policy) is not None


def _factors(node: Node) -> list[Node]:
    if node.head == "mul":
        return _factors(node.args[0]) + _factors(node.args[1])
    if node.head == "div":
        return [*_factors(node.args[0]), Node("div", (Node("num", name="1", value=Fraction(1)), node.args[1]))]
    return [node]


def rename(node: Node, names: dict[str, str]) -> Node:
    return replace(node, name=names.get(node.name, node.name), args=tuple(rename(part, names) for part in node.args))


def with_and_without_arguments(left: Node, right: Node) -> list[tuple[Node, Node]]:
    r"""The two trees, and again with ``x(t)`` written as ``x`` on both sides."""
    bare = _without_arguments(left), _without_arguments(right)
    return [(left, right)] if bare == (left, right) else [(left, right), bare]


def _without_arguments(node: Node) -> Node:
    if node.head == "app" and all(part.head == "sym" for part in node.args):
        return Node("sym", name=node.name)
    return replace(node, args=tuple(_without_arguments(part) for part in node.args))
