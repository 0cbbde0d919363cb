"""How a row of training data becomes a prompt: the formats of the field, told apart by their columns.

    plain     `problem` or `prompt` as text; `answer`, `domain`, `id` where there are such
    verl      `prompt` as a chat of one user message; `reward_model.ground_truth` is the answer,
              `extra_info.opd_teacher`, or else `data_source`, the domain
    messages  `messages` as a chat of one user message, or of one and its reply, which is left out

A null is an absent column. What could be read in two ways is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainer.errors import UserError

_TEXTS: Final = ("problem", "prompt", "messages")
_ANSWERS: Final = ("answer", "reward_model.ground_truth")
_DOMAINS: Final = ("domain", "extra_info.opd_teacher")
_SOURCE: Final = "data_source"  # verl's name of the data set: the domain where nothing else is
_VERL: Final = {"reward_model", "extra_info", _SOURCE}


class RowReader:
    """Reads the rows of one file, which all have one layout.

    Args:
        table: rows come from a table, which makes floats of whole numbers and has no other way to say that a cell is
            empty; JSON means what it says.
        column: of the text or chat; "" finds it.

    Attributes:
        columns: what a row may be asked for; `a.b` is a field of the column `a`.
    """

    def __init__(self, table: bool, column: str = "") -> None:
        self.table, self.column = table, column
        self.texts = (column,) if column else _TEXTS
        self.columns = (*self.texts, *_ANSWERS, *_DOMAINS, _SOURCE, "id")
        self.rows = 0
        self.layout = ""
        self.used: Counter[str] = Counter()

    def read(self, where: str, number: int, row: dict[str, Any]) -> tuple[str, str, str, str | None]:
        """(id, text, domain, answer). Raises: UserError, beginning with `where`."""
        self.rows += 1
        text = self._text(where, row)
        answer = self._one(where, row, _ANSWERS)
        domain = self._one(where, row, _DOMAINS) or self._one(where, row, (_SOURCE,)) or ""
        id = row.get("id")
        return str(number if id is None else id), text, domain, answer

    def report(self) -> str:
        """What was read from where."""
        found = ", ".join(f"{name} ({n:,})" if n < self.rows else name for name, n in self.used.items())
        return f"read as {self.layout}: {found}"

    def _text(self, where: str, row: dict[str, Any]) -> str:
        found = [name for name in self.texts if row.get(name) is not None]
        if len(found) > 1:
            raise UserError(
                f"{where}: both '{found[0]}' and '{found[1]}' could be the problem: say which with data.column, or "
                "leave one of them out"
            )
        if not found:
            sought = f"'{self.column}'" if self.column else "'problem' or 'prompt'"
            raise UserError(f"{where}: no text in the column {sought}, and no chat")
        name, value = found[0], row[found[0]]
        layout = "plain"
        if not isinstance(value, str):
            verl = name == "prompt" and _VERL & row.keys()
            layout = "verl's format" if verl else "messages" if name == "messages" else "chat"
        if self.layout not in ("", layout):
            raise UserError(f"{where}: reads as {layout}, the rows before it as {self.layout}: keep them in two files")
        self.layout = layout
        text = value if isinstance(value, str) else _of_chat(where, name, value)
        if not isinstance(text, str) or not text:
            raise UserError(f"{where}: no text in the column '{name}'")
        self.used[f"text from {name}"] += 1
        return text

    def _one(self, where: str, row: Mapping[str, Any], names: Sequence[str]) -> str | None:
        """The value of the first of the columns that has one; refused where another one disagrees."""
        found = {name: text for name in names if (text := self._plain(name, _cell(row, name))) is not None}
        if len(set(found.values())) > 1:
            (a, x), (b, y) = list(found.items())[:2]
            raise UserError(f"{where}: '{a}' is {x[:40]!r} and '{b}' {y[:40]!r}: leave one of these columns out")
        for name, text in found.items():
            self.used[f"{'answer' if names is _ANSWERS else 'domain'} from {name}"] += 1
            return text
        return None

    def _plain(self, name: str, value: Any) -> str | None:
        """A text or a number as text (a table's 27.0 is 27); None for what is neither, which is counted."""
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float) and self.table:
            if not math.isfinite(value):
                return None
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
        if isinstance(value, list | dict | tuple) or (self.table and isinstance(value, bool | bytes)):
            self.used[f"no text in {name}"] += 1
            return None
        return str(value)


def _of_chat(where: str, name: str, value: Any) -> Any:
    """The user's message of a chat that starts a rollout."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise UserError(f"{where}: no text in the column '{name}', and no chat either")
    roles = [str(message.get("role")) for message in value]
    if roles != ["user"] and not (name == "messages" and roles == ["user", "assistant"]):
        raise UserError(
            f"{where}: its {name} is a chat of {', '.join(roles) or 'no'} messages, and a rollout starts from one user "
            "message: put all of it into that one"
        )
    return value[0].get("content")


def _cell(row: Mapping[str, Any], name: str) -> Any:
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
