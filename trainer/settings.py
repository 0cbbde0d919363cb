"""Edits of frozen dataclasses by path: `--set keep.fraction=0.3`. An unknown path is refused, never ignored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import Field, fields, is_dataclass, replace
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from trainer.errors import UserError
from trainer.scores import Block

T = TypeVar("T")


def paths(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every settable leaf of a nested dataclass with its current value, in order of declaration."""
    if is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Block):
        for field in fields(value):
            # None stands for a number that is switched off, or for a block that text cannot name.
            if (item := getattr(value, field.name)) is not None or _is_number(field):
                yield from paths(item, f"{prefix}{field.name}.")
    elif isinstance(value, tuple) and any(map(is_dataclass, value)):
        for index, item in enumerate(value):
            yield from paths(item, f"{prefix}{index}.")
    else:
        yield prefix[:-1], value


def _is_number(field: Field[Any]) -> bool:
    return re.search(r"\b(int|float)\b", str(field.type)) is not None


def unknown_option(path: str, known: Collection[str]) -> UserError:
    """The refusal of a path that does not exist, with those that it may have been meant for."""
    near = get_close_matches(path, known, n=3, cutoff=0.4) or list(known)[:8]
    return UserError(f"unknown option '{path}': did you mean {' or '.join(near)}?")


def assigned(item: str) -> tuple[str, str]:
    """Path and text of an option as it is written on the command line, PATH=VALUE.

    Raises:
        UserError: if it has no equals sign.
    """
    path, equals, text = item.partition("=")
    if not equals:
        raise UserError(f"--set takes PATH=VALUE, got '{item}'")
    return path, text


def edit(value: T, path: str, text: str) -> T:
    """`value` with the leaf at `path` set to what `text` says, read as the type with which the leaf was declared.

    Raises:
        UserError: for a path that does not exist (with the nearest ones), or text of the wrong type.
    """
    leaves = dict(paths(value))
    if path not in leaves:
        raise unknown_option(path, leaves)
    steps = path.split(".")
    return _put(value, steps, _parse(path, _declared(value, steps), text))


def _put(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, tuple):
        at = int(head)
        return (*value[:at], _put(value[at], rest, new), *value[at + 1 :])
    return replace(value, **{head: _put(getattr(value, head), rest, new)})


def _declared(value: Any, path: list[str]) -> Any:
    """The type with which the field at the end of `path` was declared."""
    for step in path[:-1]:
        value = value[int(step)] if isinstance(value, tuple) else getattr(value, step)
    return get_type_hints(type(value))[path[-1]]


def _parse(path: str, declared: Any, text: str) -> Any:
    kinds = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
    names = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    if type(None) in kinds and text == "none":
        return None
    if Block in kinds and text.startswith("block:"):
        return Block(_number(path, text.removeprefix("block:"), int))
    if names and text in names:
        return text
    if names:
        known = f"a scope: {', '.join(names)} or block:K" if Block in kinds else " or ".join(names)
        raise UserError(f"option '{path}' is {known}, not '{text}'")
    if bool in kinds:
        if text not in ("true", "false"):
            raise UserError(f"option '{path}' is true or false, not '{text}'")
        return text == "true"
    for kind in (int, float):
        if kind in kinds:
            return _number(path, text, kind)
    if str in kinds:
        return text
    raise UserError(f"option '{path}' cannot be set from text")


def _number(path: str, text: str, kind: type) -> Any:
    try:
        if math.isfinite(number := kind(text)):
            return number
    except ValueError:
        pass
    raise UserError(f"option '{path}' is {'a whole number' if kind is int else 'a number'}, not '{text}'")


def describe(value: Any) -> Any:
    """A nested dataclass as plain JSON data: `{"is": class name, field: …}`. Equal values give equal text."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {f.name: describe(getattr(value, f.name)) for f in fields(value)}
        for field in fields(value):  # 1 and 1.0 are equal, and should not make two runs
            if type(found[field.name]) is int and "float" in str(field.type):
                found[field.name] = float(found[field.name])
        return {"is": type(value).__name__} | found
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in sorted(value.items())}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def canonical(value: Any) -> str:
    """Canonical JSON of `describe(value)`: sorted keys, no spaces. The text that identities are hashed from."""
    return json.dumps(describe(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
