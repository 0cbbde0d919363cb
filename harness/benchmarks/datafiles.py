"""Rows of JSONL and parquet files, one by one: memory does not grow with the file. No pandas, no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from harness.errors import UserError

SUFFIXES: Final = (".jsonl", ".parquet")
Progress = Callable[[int, int], None]  # (done, in all): bytes of a JSONL file, rows of a parquet file

_BATCH: Final = 2048  # rows of a parquet file held at once


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def rows(path: Path, progress: Progress | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for every row: `line 1` is the first of a JSONL file, `row 0` the first of a parquet file.

    Raises:
        UserError: for a missing file, or naming the line that is not a JSON object.
    """
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'missing'}: name a .jsonl or .parquet file")
    try:
        yield from _parquet(path, progress) if path.suffix == ".parquet" else _jsonl(path, progress)
    except PermissionError:
        raise UserError(f"{path} may not be read: change its permissions or copy it") from None


def _parquet(path: Path, progress: Progress | None) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet

    index = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    yield f"row {index}", row
                    index += 1
                if progress:
                    progress(index, file.metadata.num_rows)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} cannot be read as parquet ({type(problem).__name__}): get the file again") from None


def _jsonl(path: Path, progress: Progress | None) -> Iterator[tuple[str, dict[str, Any]]]:
    size, done = path.stat().st_size, 0
    with path.open("rb") as lines:  # cut at line feeds only: a text may hold U+2028, at which str.splitlines cuts
        for number, line in enumerate(lines, 1):
            done += len(line)
            if progress and number % _BATCH == 0:
                progress(done, size)
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {number}: not valid JSON (no UTF-8 text); save it as UTF-8") from None
            except (ValueError, RecursionError):
                raise UserError(f"{path}, line {number}: not valid JSON; mend or remove the line") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: not a JSON object; write one object a line")
            yield f"line {number}", row
    if progress:
        progress(size, size)


def plain(value: Any) -> str | None:
    """A text or a number as text, None for what is neither.

    A whole number stays whole where a table made it a float (27.0 is 27); NaN and infinities are no numbers.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    return str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, or the NaN with which tables stand for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))
