"""Kept records: append-only JSONL while a run is alive, slim parquet frames once a grid is done.

Tables, figures and pages are pure functions of `Records`; nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import UserError

RESULTS = Path(os.environ.get("OPD_RESULTS", "results"))

FRAMES = ("samples", "steps", "timings", "rollouts", "profiles")


@dataclass(frozen=True, eq=False)
class Records:
    """All that is kept of a grid.

    samples: a row per graded answer (arm, seed, step, bench, problem, sample, correct, correct_paper, answer, finish,
    tokens). steps: a row per optimisation step and run. timings: what each step cost. manifest: arms, benches, seeds,
    checker, provenance. rollouts, profiles: of some steps a row per rollout, and their tokens in bins (see
    `trainer.profiles`); empty in records that were made without.
    """

    manifest: dict[str, Any]
    samples: pd.DataFrame
    steps: pd.DataFrame
    timings: pd.DataFrame
    rollouts: pd.DataFrame = field(default_factory=pd.DataFrame)
    profiles: pd.DataFrame = field(default_factory=pd.DataFrame)


def load(name: str | Path) -> Records:
    """The records of a grid, by name (`results/records/<name>`) or by folder.

    Raises:
        UserError: if there are none, or a file of them is missing or broken.
    """
    folder = Path(name) if Path(name).is_dir() else RESULTS / "records" / str(name)
    if not (folder / "manifest.json").exists():
        kept = sorted(path.parent.name for path in (RESULTS / "records").glob("*/manifest.json"))
        raise UserError(f"no records '{name}': {folder} has no manifest.json; kept are {', '.join(kept) or 'none'}")
    try:
        frames = [pd.read_parquet(folder / f"{frame}.parquet") for frame in FRAMES if _kept(folder, frame)]
        return Records(json.loads((folder / "manifest.json").read_text()), *frames)
    except (OSError, ValueError) as error:
        raise UserError(
            f"records in {folder} cannot be read ({error}): restore them from git or rerun the grid"
        ) from None


def _kept(folder: Path, frame: str) -> bool:
    """Records made before rollouts and profiles were kept are whole without them."""
    return frame not in ("rollouts", "profiles") or (folder / f"{frame}.parquet").exists()


def save(records: Records, folder: Path) -> None:
    """Writes the records; the manifest comes last, so a half-written folder is never mistaken for a whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    for frame in FRAMES:
        # the slowest level takes a second, and a third off what the repository keeps
        path = folder / f"{frame}.parquet"
        getattr(records, frame).to_parquet(path, index=False, compression="zstd", compression_level=19)
    write_atomic(folder / "manifest.json", json.dumps(records.manifest, indent=1, sort_keys=True) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Writes a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows in one write and hands them to the operating system: a killed process loses nothing written."""
    text = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def read_jsonl(path: Path, repair: bool = False) -> list[dict[str, Any]]:
    """The rows of a file of our own; see `iter_jsonl`."""
    return list(iter_jsonl(path, repair))


def iter_jsonl(path: Path, repair: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of a file of our own, one by one; none where there is no file. An unfinished last line is no row.

    Args:
        repair: cut off a last line that a killed process left unfinished.

    Raises:
        UserError: naming file and line, for a broken row.
    """
    if not path.exists():
        return
    whole = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                yield json.loads(line.decode("utf-8", errors="replace"))
            except json.JSONDecodeError:
                raise UserError(f"{path}, line {number}: not valid JSON; remove the line and run again") from None
    if repair and whole < path.stat().st_size:
        with path.open("r+b") as stream:
            stream.truncate(whole)


def cut_jsonl(path: Path, step: int) -> None:
    """Keeps the rows up to a step: what lies beyond a checkpoint will be written again."""
    if path.exists():
        kept = [row for row in iter_jsonl(path, repair=True) if row["step"] <= step]
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in kept))
