from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import tiny_spec
from trainer.errors import UserError
from trainer.methods import METHODS, fire_released
from trainer.scores import Block, Scope
from trainer.settings import canonical, describe, edit, paths


@dataclass(frozen=True)
class Leafy:
    number: float = 1.0
    count: int = 2
    switch: bool = False
    name: str = "x"
    perhaps: float | None = None
    side: Literal["left", "right"] = "left"
    scope: Scope = "batch"
    pair: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Tree:
    leaf: Leafy = Leafy()
    leaves: tuple[Leafy, ...] = (Leafy(), Leafy(number=5.0))


# --- edit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("number", "0.25", 0.25),
        ("number", "3", 3.0),
        ("number", "-1e-3", -0.001),
        ("count", "7", 7),
        ("switch", "true", True),
        ("switch", "false", False),
        ("name", "any text = at all", "any text = at all"),
        ("perhaps", "0.5", 0.5),
        ("perhaps", "none", None),
        ("side", "right", "right"),
        ("scope", "trajectory", "trajectory"),
        ("scope", "block:3", Block(3)),
    ],
)
def test_edit_sets_a_leaf_of_every_kind(path: str, text: str, value: object) -> None:
    for prefix in ("leaf.", "leaves.0.", "leaves.1."):
        tree = edit(Tree(), prefix + path, text)
        assert dict(paths(tree))[prefix + path] == value
        assert type(dict(paths(tree))[prefix + path]) is type(value)
        others = {p: v for p, v in paths(tree) if p != prefix + path}
        assert others == {p: v for p, v in paths(Tree()) if p != prefix + path}


def test_edit_leaves_the_original_alone() -> None:
    tree = Tree()
    assert edit(tree, "leaves.1.number", "9") != tree
    assert tree == Tree()


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("leaf.number", "much", "'leaf.number' is a number, not 'much'"),
        ("leaf.number", "nan", "a number"),
        ("leaf.number", "inf", "a number"),
        ("leaf.number", "", "a number"),
        ("leaf.number", "none", "a number"),
        ("leaf.count", "2.5", "a whole number"),
        ("leaf.count", "1e3", "a whole number"),
        ("leaf.switch", "yes", "true or false"),
        ("leaf.switch", "1", "true or false"),
        ("leaf.perhaps", "off", "a number"),
        ("leaf.side", "lfet", "left or right"),
        ("leaf.scope", "micro-batch", "a scope: batch, trajectory, group, domain or block:K"),
        ("leaf.scope", "block:x", "a whole number"),
        ("leaf.scope", "block:0", "at least one row"),
        ("leaf.pair", "1,2", "cannot be set"),
    ],
)
def test_text_of_the_wrong_type_is_refused_by_name(path: str, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        edit(Tree(), path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("keep.fractoin", "keep.fraction"),
        ("fraction", "keep.fraction"),
        ("keep", "keep.fraction"),
        ("terms.0.weight.of.a.gian", "terms.0.weight.of.a.gain"),
        ("terms.1.coef", "terms.0.coef"),
    ],
)
def test_an_unknown_path_is_refused_with_the_nearest(path: str, near: str) -> None:
    with pytest.raises(UserError, match=f"unknown option '{path}'.*{near}"):
        edit(METHODS["fire"], path, "0.1")


@pytest.mark.parametrize(
    "path", ["", ".", "terms", "terms.9.coef", "keep.", "__class__", "keep.__init__", "terms.x.coef"]
)
def test_odd_paths_are_refused(path: str) -> None:
    with pytest.raises(UserError, match="unknown option"):
        edit(METHODS["fire"], path, "0.1")


def test_the_clip_can_be_switched_off_and_on() -> None:
    off = edit(METHODS["opd"], "terms.0.loss.clip", "none")
    assert off.terms[0].loss.clip is None  # type: ignore[union-attr]
    assert edit(off, "terms.0.loss.clip", "0.2") == METHODS["opd"]


def test_edits_are_checked_by_the_block_they_change() -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        edit(METHODS["fire"], "keep.fraction", "20")
    with pytest.raises(UserError, match="at least 1"):
        edit(tiny_spec(), "steps", "0")


def test_misspelt_words_never_become_another_method() -> None:
    for name, path in (
        ("topk-rkl", "terms.0.loss.support.of"),
        ("topk-rkl", "terms.0.loss.support.tail"),
        ("skew-fkl", "terms.0.loss.direction"),
        ("uni-opd", "terms.0.loss.reward.direction"),
        ("opd", "sampler"),
    ):
        with pytest.raises(UserError, match=f"'{path}' is "):
            edit(METHODS[name], path, "techer")


# --- every option of every method -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_set_to_its_own_value_without_effect(name: str) -> None:
    objective = METHODS[name]
    options = dict(paths(objective))
    assert len(options) == len(list(paths(objective))), "two options share a path"
    for path, value in options.items():
        text = f"block:{value.rows}" if isinstance(value, Block) else "none" if value is None else str(value)
        text = text.lower() if isinstance(value, bool) else text
        again = edit(objective, path, text)
        assert again == objective, path
        assert canonical(again) == canonical(objective), path


def holds(value: Any, declared: Any) -> bool:
    if get_origin(declared) is Literal:
        return value in get_args(declared)
    options = get_args(declared) or (declared,)
    if any(get_origin(o) is Literal for o in options) and not isinstance(value, Block):
        return any(value in get_args(o) for o in options)
    return type(value) in options


def declared_leaves(value: Any) -> list[tuple[str, Any, Any]]:
    found = []
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in declared_leaves(item)]
    hints = get_type_hints(type(value))
    for field in fields(value):
        item = getattr(value, field.name)
        if (is_dataclass(item) and not isinstance(item, Block)) or isinstance(item, tuple):
            found += declared_leaves(item)
        elif isinstance(item, int | float | str | Block):
            found.append((f"{type(value).__name__}.{field.name}", item, hints[field.name]))
    return found


@pytest.mark.parametrize("name", METHODS)
def test_every_value_in_the_table_has_the_type_it_is_declared_with(name: str) -> None:
    for where, value, declared in declared_leaves(METHODS[name]):
        assert holds(value, declared), (where, value, declared)


# --- canonical text -------------------------------------------------------------------------------------------


def test_describe_by_hand() -> None:
    assert describe(Leafy()) == {
        "is": "Leafy",
        "number": 1.0,
        "count": 2,
        "switch": False,
        "name": "x",
        "perhaps": None,
        "side": "left",
        "scope": "batch",
        "pair": [1, 2],
    }
    assert describe(Block(2)) == {"is": "Block", "rows": 2}


def test_canonical_text_is_sorted_compact_and_strict() -> None:
    assert canonical({"b": 1, "a": (1.5, None, True)}) == '{"a":[1.5,null,true],"b":1}'
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    text = canonical(METHODS["fire"])  # the order of declaration does not count either
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    with pytest.raises(ValueError):
        canonical(float("nan"))
    with pytest.raises(TypeError, match="no canonical form"):
        canonical(object())
    with pytest.raises(TypeError, match="no canonical form"):
        canonical(Tree)


def test_equal_values_have_equal_text() -> None:
    assert Leafy(number=1) == Leafy(number=1.0)
    assert canonical(Leafy(number=1)) == canonical(Leafy(number=1.0))
    assert canonical(Leafy(perhaps=2)) == canonical(Leafy(perhaps=2.0))
    assert canonical(Leafy(count=1)) != canonical(Leafy(count=2))
    assert canonical(fire_released(micro_batch=2)) == canonical(METHODS["fire-as-released-2"])


def test_different_objectives_have_different_text() -> None:
    texts = {canonical(objective) for objective in METHODS.values()}
    assert len(texts) == len(METHODS)
    for text in texts:
        assert json.loads(text)["is"] == "Objective"


@given(
    st.sampled_from(sorted(METHODS)),
    st.data(),
    st.floats(0, 1, exclude_max=True, allow_subnormal=False),
)
@settings(deadline=None, max_examples=60)
def test_every_numeric_edit_changes_the_text(name: str, data: st.DataObject, number: float) -> None:
    numeric = [path for path, value in paths(METHODS[name]) if isinstance(value, float)]
    path = data.draw(st.sampled_from(numeric))
    changed = edit(METHODS[name], path, repr(number))
    assert (canonical(changed) == canonical(METHODS[name])) == (changed == METHODS[name])
    assert dict(paths(changed))[path] == number
