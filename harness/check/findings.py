"""What a self-check says of one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["right", "wrong", "absent"]
Progress = Callable[[str, int, int], None]  # (what, done, in all)

_SHOWN: Final = 5  # names in a sentence


@dataclass(frozen=True)
class Finding:
    """One sentence on one thing; `remedy` says what to do, or how to get what is not at hand."""

    state: State
    what: str
    remedy: str = ""


def right(what: str) -> Finding:
    return Finding("right", what)


def few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
