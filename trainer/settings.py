"""Edits of frozen dataclasses by path: `--set keep.fraction=0.3`. An unknown path is refused, never ignored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from trainer.errors import UserError
from trainer.scores import Block

T = TypeVar("T")


def paths(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every settable leaf of a nested dataclass with its current value, in order of declaration."""
    if is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Block):
        for field in fields(value):
            # None stands for a number that is switched off, or for a block that text cannot name.
            if (item := getattr(value, field.name)) is not None or "float" in str(field.type):
                yield from paths(item, f"{prefix}{field.name}.")
    elif isinstance(value, tuple) and any(map(is_dataclass, value)):
        for index, item in enumerate(value):
            yield from paths(item, f"{prefix}{index}.")
    else:
        yield prefix[:-1], value


def edit(value: T, path: str, text: str) -> T:
    """`value` with the leaf at `path` set to what `text` says, read as the type of what stood there.

    Raises:
        UserError: for a path that does not exist (with the nearest ones), or text of the wrong type.
    """
    leaves = dict(paths(value))
    if path not in leaves:
        near = get_close_matches(path, leaves, n=3, cutoff=0.4) or list(leaves)[:8]
        raise UserError(f"unknown option '{path}': did you mean {' or '.join(near)}?")
    return _put(value, path.split("."), _parse(path, leaves[path], text))


def _put(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, tuple):
        at = int(head)
        return (*value[:at], _put(value[at], rest, new), *value[at + 1 :])
    return replace(value, **{head: _put(getattr(value, head), rest, new)})


def _parse(path: str, old: Any, text: str) -> Any:
    if path.split(".")[-1] == "scope":
        if text.startswith("block:"):
            return Block(int(_number(path, text[6:], int)))
        if text not in ("batch", "trajectory", "group", "domain"):
            raise UserError(f"option '{path}' is a scope: batch, trajectory, group, domain or block:K, not '{text}'")
        return text
    if isinstance(old, bool):
        if text not in ("true", "false"):
            raise UserError(f"option '{path}' is true or false, not '{text}'")
        return text == "true"
    if isinstance(old, int):
        return _number(path, text, int)
    if isinstance(old, float):
        return _number(path, text, float)
    if old is None:
        return None if text == "none" else _number(path, text, float)
    if isinstance(old, str):
        return text
    raise UserError(f"option '{path}' holds {type(old).__name__}, which cannot be set from text")


def _number(path: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"option '{path}' is {'a whole number' if kind is int else 'a number'}, not '{text}'") from None


def describe(value: Any) -> Any:
    """A nested dataclass as plain JSON data: `{"is": class name, field: …}`. Equal values give equal text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": type(value).__name__} | {f.name: describe(getattr(value, f.name)) for f in fields(value)}
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
