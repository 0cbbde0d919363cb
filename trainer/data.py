"""Prompts and where they come from. A source is a pure function of the step, so a resume needs no cursor file."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainer.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """One problem to roll out. `domain` routes it to a teacher; `answer` is for verifiers, never shown to a model."""

    id: str
    text: str
    domain: str = ""
    answer: str | None = None


class PromptSource(Protocol):
    """Where training prompts come from."""

    def batch(self, step: int, size: int) -> list[Prompt]:
        """The `size` prompts of optimisation step `step` (from 0): the same ones at every call."""
        ...


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable, the same on every machine.

    vLLM gives sample j of a request the seed s + j, so plain seeds of neighbouring runs overlap; derived ones do not.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every non-empty line.

    Raises:
        UserError: naming file and line, for a missing file or a line that is not a JSON object.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, line {number}: not valid JSON ({error.msg}); mend or remove it") from None
                except RecursionError:
                    raise UserError(f"{path}, line {number}: JSON nested too deeply; mend or remove it") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
                yield number, row
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a JSONL file of prompts") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name a JSONL file of prompts") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None


class JsonlPrompts:
    """Prompts of a JSONL file with the columns `problem` (or `prompt`), `answer`, `domain` and `id`, the last
    three optional. Every epoch is a permutation of its own, derived from the seed.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.seed = seed
        self.prompts: list[Prompt] = []
        for number, row in read_jsonl(path):
            text = row.get("problem", row.get("prompt"))
            if not isinstance(text, str) or not text:
                raise UserError(f"{path}, line {number}: no text in the column 'problem' or 'prompt'")
            # A column that holds null is a column that is absent.
            given = {name: str(row[name]) for name in ("id", "domain", "answer") if row.get(name) is not None}
            self.prompts.append(
                Prompt(given.get("id", str(number)), text, given.get("domain", ""), given.get("answer"))
            )
        if not self.prompts:
            raise UserError(f"{path} holds no prompts")

    def batch(self, step: int, size: int) -> list[Prompt]:
        return [self._at(index) for index in range(step * size, (step + 1) * size)]

    def _at(self, index: int) -> Prompt:
        epoch, place = divmod(index, len(self.prompts))
        if epoch not in (cache := self.__dict__.setdefault("_orders", {})):
            order = list(range(len(self.prompts)))
            random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
            cache.clear()
            cache[epoch] = order
        return self.prompts[cache[epoch][place]]
