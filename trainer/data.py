"""Prompts and where they come from. A source is a pure function of the step, so a resume needs no cursor file."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, overload

from trainer.errors import UserError
from trainer.prompt_formats import RowReader

_BATCH: Final = 128  # rows of a parquet file held at once, beside the row group that they are in
_TICK: Final = 1024  # rows between reports of progress


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


def read_parquet(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 0, row) with those of the wanted columns that there are; `a.b` is a field of the column `a`.

    Raises:
        UserError: for a missing or broken file.
    """
    import pyarrow.parquet

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: name a parquet file of prompts")
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            paths = [file.schema.column(i).path for i in range(len(file.schema.names))]
            columns = [name for name in wanted if any(f"{p}.".startswith(f"{name}.") for p in paths)]
            for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} cannot be read as parquet ({type(problem).__name__}): get the file again") from None


class Shelf(Sequence[Prompt]):
    """Prompts in a temporary file that vanishes with the process: in memory are 8 bytes of each."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="opd-prompts-")  # noqa: SIM115  # open as long as the run
        self._ends = array("q", [0])

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def append(self, prompt: Prompt) -> None:
        self._ends.append(self._ends[-1] + self._file.write(json.dumps(astuple(prompt)).encode()))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Prompt]: ...

    def __getitem__(self, index: int | slice) -> Prompt | Sequence[Prompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        self._file.flush()
        start, end = self._ends[index % len(self)], self._ends[index % len(self) + 1]
        return Prompt(*json.loads(os.pread(self._file.fileno(), end - start, start)))


class FilePrompts:
    """Prompts of a JSONL or parquet file in any of the layouts of `trainer.prompt_formats`.

    The file is read once, from its beginning; of the prompts only places are kept in memory (and some 200 bytes of each
    while it is read, to know its copies by), the rest in a temporary file. Every epoch is a permutation of its own,
    derived from the seed.

    Args:
        duplicates: "drop" leaves out all but the first of the prompts with one text and one domain.
        column: of the problem's text or chat, where the file has several.
        max_prompt: leaves out prompts of more tokens, as `count` counts them (as the policy renders them).
        progress: called with the number of rows read, now and then.

    Attributes:
        report: one line on how the file was read and what was left out.
        domains: prompts of each domain.
        first: where the first prompt of each domain stands.

    Raises:
        UserError: naming the file and the line or row.
    """

    def __init__(
        self,
        path: Path,
        seed: int,
        *,
        duplicates: Literal["drop", "keep"] = "drop",
        column: str = "",
        max_prompt: int | None = None,
        count: Callable[[str], int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.seed = seed
        self.prompts: Sequence[Prompt] = (shelf := Shelf())
        self.domains: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self._orders: dict[int, array[int]] = {}  # of the epoch that was asked for last
        table = path.suffix == ".parquet"
        reader = RowReader(table, column)
        word, rows = ("row", read_parquet(path, reader.columns)) if table else ("line", read_jsonl(path))
        first: dict[bytes, bytes] = {}  # answers by prompt, both as hashes
        copies = contradicting = long = 0
        for number, row in rows:
            where = f"{path}, {word} {number}"
            prompt = Prompt(*reader.read(where, number, row))
            if progress and reader.rows % _TICK == 0:
                progress(reader.rows)
            if duplicates == "drop":
                key, answer = _hash(prompt.text, prompt.domain), _hash(str(prompt.answer))
                if (kept := first.setdefault(key, answer)) is not answer:
                    copies += 1
                    contradicting += kept != answer
                    continue
            if max_prompt is not None and count is not None and count(prompt.text) > max_prompt:
                long += 1
                continue
            self.domains[prompt.domain] += 1
            self.first.setdefault(prompt.domain, where)
            shelf.append(prompt)
        if not shelf:
            raise UserError(
                f"{path} holds no prompt of up to {max_prompt} tokens: raise data.max_prompt"
                if long
                else f"{path} holds no prompts"
            )
        said = [f"{path}: {len(shelf):,} prompts of {reader.rows:,} rows"]
        if copies:
            said.append(f"left out {copies:,} copies ({contradicting:,} with another answer than the first)")
        if long:
            said.append(f"left out {long:,} of more than {max_prompt} tokens")
        said.append(reader.report())
        if len(self.domains) > 1:
            said.append("domains " + ", ".join(f"{name or 'none'} {n:,}" for name, n in sorted(self.domains.items())))
        self.report = "; ".join(said)

    def batch(self, step: int, size: int) -> list[Prompt]:
        return [self._at(index) for index in range(step * size, (step + 1) * size)]

    def _at(self, index: int) -> Prompt:
        epoch, place = divmod(index, len(self.prompts))
        if epoch not in self._orders:
            order = array("q", range(len(self.prompts)))
            random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
            self._orders = {epoch: order}
        return self.prompts[self._orders[epoch][place]]


def _hash(*texts: str) -> bytes:
    joined = "\x1f".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).digest()
