r"""Structure against structure: what counts as the same list, tuple, interval, set, matrix, equation or expression."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final

import mpmath

from harness.answers import algebra, sets
from harness.answers.classes import describe, endings_of, head_of, items_of
from harness.answers.evaluation import DIGITS
from harness.answers.forms import (
    Based,
    Bracket,
    Chain,
    Dots,
    Form,
    Listing,
    Matrix,
    SetOperation,
    Value,
    Words,
    parse_answer,
)
from harness.answers.golds import Gold
from harness.answers.nodes import Node, symbols
from harness.answers.notation import clean
from harness.answers.numbers import parse_number
from harness.answers.strict import Outcome, Policy, same_words
from harness.answers.tokens import Unreadable
from harness.answers.values import Rules, rename, same_value, with_and_without_arguments

MAX_MATCHED: Final = 60


def judge(entry: Gold, prediction: str, policy: Policy) -> Outcome:
    """``prediction`` (cleaned) against every accepted reading of the gold; raises nothing."""
    with mpmath.workdps(2 * DIGITS):
        return _judge(entry, prediction, policy)


def _judge(entry: Gold, prediction: str, policy: Policy) -> Outcome:
    rules = Rules(entry, policy)
    wordy = [same_words(one, prediction) for one in entry.accepted]
    if any(wordy):
        return Outcome(True, "same words")
    try:
        form = parse_answer(prediction, entry.names)
    except Unreadable as problem:
        return Outcome(False, f"unreadable: {problem}")
    parsed = describe(form)
    if all(said is False for said in wordy):
        return Outcome(False, "different words", parsed)
    reason = "different"
    for one in entry.accepted:
        try:
            if same(_gold_form(one, entry.names), form, rules):
                return Outcome(True, "equal")
        except Unreadable as problem:
            reason = f"not comparable: {problem}"
        except (ArithmeticError, ValueError, TypeError, RecursionError) as problem:
            reason = f"not comparable: {type(problem).__name__}"
    return Outcome(False, reason, parsed)


@functools.lru_cache(maxsize=1024)
def _gold_form(gold: str, names: tuple[str, ...]) -> Form:
    """A gold that is a plain number becomes one literal, which keeps its figures and its unit."""
    text = clean(gold)
    number = parse_number(text)
    if number is None:
        return parse_answer(text, names)
    literal = "" if number.figures is None else f"figures {number.figures}"
    return Value(Node("num", name=literal, value=number.value), number.unit, number.degrees, number.percent)


def same(gold: Form, said: Form, rules: Rules) -> bool:
    """Whether ``said`` is the answer ``gold``. Not symmetric by intent: the gold chooses how both are read."""
    if isinstance(gold, Chain):
        return _same_chain(gold, said, rules)
    if isinstance(said, Chain):
        if sets.is_inequality(said):
            return _same_as_inequality(gold, said, rules)
        return any(same(gold, ending, rules) for ending in endings_of(said))
    if isinstance(said, Listing) and len(said.items) == 1 and not isinstance(gold, Listing):
        return same(gold, said.items[0], rules)
    if isinstance(gold, Value):
        if isinstance(said, Based):
            return same_value(gold, Value(Node("num", value=Fraction(int(said.digits, said.base)))), rules)
        return isinstance(said, Value) and same_value(gold, said, rules)
    if isinstance(gold, Listing):
        return _same_listing(gold, said, rules)
    if isinstance(gold, Bracket):
        return _same_bracket(gold, said, rules)
    if isinstance(gold, SetOperation):
        return sets.same_set(gold, said)
    if isinstance(gold, Matrix):
        return _same_matrix(gold, said, rules)
    if isinstance(gold, Based):
        return _same_digits(gold, said)
    if isinstance(gold, Words):
        return isinstance(said, Words) and gold.text.casefold().strip() == said.text.casefold().strip()
    return isinstance(gold, Dots) and isinstance(said, Dots)


# --- relations -----------------------------------------------------------------------------------------------------


def _same_chain(gold: Chain, said: Form, rules: Rules) -> bool:
    if gold.relations == ("in",):
        return same(gold.sides[-1], said, rules)
    if sets.is_inequality(gold):
        interval = sets.as_interval(gold)
        said_set = not isinstance(said, Chain) or sets.is_inequality(said) or said.relations == ("in",)
        if interval is not None and said_set and same(interval, said, rules):
            return True
        return isinstance(said, Chain) and _same_inequality(gold, said)
    head = head_of(gold)
    if not isinstance(said, Chain):
        return head is not None and same(gold.sides[-1], said, rules)
    if not set(said.relations) <= {"=", "~"}:
        return False
    said_head = head_of(said)
    if head is not None and said_head is not None:
        translation = _renamed_arguments(head, said_head)
        if translation is not None:
            endings = [_substituted(ending, translation) for ending in endings_of(said)]
            if any(same(gold.sides[-1], ending, rules) for ending in endings):
                return True
    return _same_equation(gold, said, rules)


def _renamed_arguments(head: Node, said: Node) -> dict[str, str] | None:
    """How the arguments of ``said`` translate where both heads name one thing (f(n), f(x); m, m_max), else None."""
    same_name = head.name.split("_")[0] == said.name.split("_")[0] or (
        head.head == "app" and said == Node("sym", name="y")
    )
    if not same_name:
        return None
    if head.head == said.head == "app":
        if len(head.args) != len(said.args):
            return None
        translation = {}
        for mine, theirs in zip(head.args, said.args, strict=True):
            if mine != theirs and not mine.head == theirs.head == "sym":
                return None
            translation[theirs.name] = mine.name
        return translation
    return {}


def _substituted(form: Form, names: dict[str, str]) -> Form:
    return replace(form, node=rename(form.node, names)) if isinstance(form, Value) and names else form


def _difference(chain: Chain) -> Node | None:
    first, last = chain.sides[0], chain.sides[-1]
    if len(chain.sides) != 2 or not isinstance(first, Value) or not isinstance(last, Value):
        return None
    return Node("add", (first.node, Node("neg", (last.node,))))


def _same_equation(gold: Chain, said: Chain, rules: Rules) -> bool:
    """Equal up to a constant factor; in physics also up to a factor of the quantities (both solved for one of them)."""
    one, other = _difference(gold), _difference(said)
    if one is None or other is None:
        return False
    for left, right in with_and_without_arguments(one, other):
        if symbols(left) != symbols(right):
            continue
        if algebra.ratio(left, right) is not None:
            return True
        if rules.policy.physical and any(algebra.same_root(left, right, name) for name in sorted(symbols(left))):
            return True
    return False


def _same_inequality(gold: Chain, said: Chain) -> bool:
    """Two inequalities in several unknowns: the same up to a positive factor, or a negative one and the sign turned."""
    one, other = _difference(gold), _difference(said)
    if one is None or other is None or len(gold.relations) != 1 or len(said.relations) != 1:
        return False
    factor = algebra.ratio(one, other)
    if factor is None or mpmath.im(factor) != 0:
        return False
    turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!="}
    mine, theirs = gold.relations[0], said.relations[0]
    return theirs == mine if factor > 0 else theirs == turned.get(mine)


def _same_as_inequality(gold: Form, said: Chain, rules: Rules) -> bool:
    interval = sets.as_interval(said)
    if isinstance(gold, Bracket) and interval is not None:
        return _same_bracket(gold, interval, rules)
    return isinstance(gold, (SetOperation, Bracket)) and sets.same_set(gold, said)


# --- collections ---------------------------------------------------------------------------------------------------


def _labels(items: Sequence[Form]) -> list[str] | None:
    """The names of items that are all assignments to different names, else None."""
    labels = []
    for item in items:
        head = head_of(item) if isinstance(item, Chain) else None
        if head is None:
            return None
        dummies = all(
            argument.head == "sym" for argument in head.args
        )  # f(n) and f(x) are one name, T(10) and T(11) two
        labels.append(head.name if dummies else repr(head))
    return labels if len(set(labels)) == len(labels) else None


def _same_listing(gold: Listing, said: Form, rules: Rules) -> bool:
    if isinstance(said, SetOperation) or (isinstance(said, Listing) and any(map(sets.is_inequality, said.items))):
        return sets.same_set(gold, said)
    mine = items_of(gold)
    if isinstance(said, Bracket):
        # the tuple keeps an order that the gold has lost
        ordered = (said.opener, said.closer) == ("(", ")") and not gold.braces
        return ordered and _in_order(mine, said.items, rules)
    theirs = items_of(said)
    if len(mine) != len(theirs) or len(mine) > MAX_MATCHED:
        return False
    if any(isinstance(item, Dots) for item in mine):
        return _in_order(mine, theirs, rules)
    labels = _labels(mine)
    if labels is not None and len(mine) > 1:
        if set(_labels(theirs) or ()) != set(labels):
            return _in_order(mine, theirs, rules)
        by_label = dict(zip(_labels(theirs) or (), theirs, strict=True))
        return all(same(item, by_label[label], rules) for label, item in zip(labels, mine, strict=True))
    left = list(theirs)
    for item in mine:
        found = next((index for index, other in enumerate(left) if same(item, other, rules)), None)
        if found is None:
            return False
        del left[found]
    return True


def _in_order(mine: Sequence[Form], theirs: Sequence[Form], rules: Rules) -> bool:
    return len(mine) == len(theirs) and all(same(one, other, rules) for one, other in zip(mine, theirs, strict=True))


def _same_bracket(gold: Bracket, said: Form, rules: Rules) -> bool:
    if isinstance(said, Chain):
        return _same_as_inequality(gold, said, rules)
    if isinstance(said, SetOperation):
        return sets.same_set(gold, said)
    if isinstance(said, Bracket):
        ends = (gold.opener, gold.closer) == (said.opener, said.closer) or len(gold.items) > 2
        return ends and _in_order(gold.items, said.items, rules)
    tuple_like = (gold.opener, gold.closer) == ("(", ")")
    if isinstance(said, Listing):
        return tuple_like and not said.braces and _in_order(gold.items, items_of(said), rules)
    if isinstance(said, Matrix) and tuple_like:
        entries = [Value(cell) for row in said.rows for cell in row]
        return min(len(said.rows), len(said.rows[0])) == 1 and _in_order(gold.items, entries, rules)
    return False


def _same_matrix(gold: Matrix, said: Form, rules: Rules) -> bool:
    if isinstance(said, Bracket) and said.opener + said.closer in ("()", "(\\rangle"):  # a column vector as a tuple
        return all(len(row) == 1 for row in gold.rows) and _in_order(
            [Value(row[0]) for row in gold.rows], said.items, rules
        )
    if not isinstance(said, Matrix) or [len(row) for row in gold.rows] != [len(row) for row in said.rows]:
        return False
    cells = zip(itertools.chain(*gold.rows), itertools.chain(*said.rows), strict=True)
    return all(same_value(Value(mine), Value(theirs), rules) for mine, theirs in cells)


def _same_digits(gold: Based, said: Form) -> bool:
    """Digits and base; digits without a base are read in the base that the question asks for."""
    if isinstance(said, Based):
        return gold == said
    if not isinstance(said, Value) or said.node.head != "num" or said.unit or said.percent or said.degrees:
        return False
    return said.node.value.denominator == 1 and gold.digits == str(said.node.value.numerator)
