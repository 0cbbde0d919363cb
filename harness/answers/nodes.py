"""The expression tree that ``syntax`` builds and ``evaluation`` evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

CONSTANTS: Final = frozenset(("e", "i", "\\pi", "\\infty"))


@dataclass(frozen=True)
class Node:
    """One vertex of an expression tree.

    ``head`` is num, sym, app (an unknown function applied), call (a known one), add, mul, div, pow, neg, deg, percent
    or factorial; ``name`` is the symbol, the function or the literal; ``value`` is that of a num.
    """

    head: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)

    def walk(self) -> Iterator[Node]:
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.args)


def symbols(node: Node) -> frozenset[str]:
    """Names of the unknowns: symbols that are no constants, and applied functions."""
    return frozenset(
        part.name for part in node.walk() if part.head == "app" or (part.head == "sym" and part.name not in CONSTANTS)
    )
