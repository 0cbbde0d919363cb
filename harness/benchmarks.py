r"""Benchmarks: loading their problems from a folder, from the hub, from a user's file or from the toy world.

No benchmark is part of this repository. A registry row says where its problems come from and what they must look like;
a file that differs is refused, because a number on other problems is another number.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from harness.errors import UserError
from harness.registry import BENCHMARKS, Benchmark, ToyRecipe, bare_name

__all__ = [
    "BENCHMARKS",
    "BenchProblem",
    "Benchmark",
    "LoadedBenchmark",
    "load_benchmark",
    "prompt_hash",
    "render_prompt",
    "strip_instruction",
]

INSTRUCTION: Final = "Please reason step by step, and put your final answer within \\boxed{}."
FAMILY_PREFIX: Final = 100  # characters shared by the sub-problems of one Minerva problem: 225 families of 272 problems
_SUFFIX: Final = re.compile(
    r"\s*(?:please|let's) (?:reason|think) step by step,? and (?:put|output) (?:your|the) final answer "
    r"(?:with)?in \\boxed\{\}\.?\s*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BenchProblem:
    """``problem`` is without instruction, ``stored`` the text as it stood in the file; ``family`` is its cluster."""

    id: str
    problem: str
    answer: str
    domain: str = "math"
    family: str = ""
    stored: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LoadedBenchmark:
    """A row with its problems; ``source`` names the file or hub id, ``sha256`` is of the file, or of the hub's rows."""

    spec: Benchmark
    problems: tuple[BenchProblem, ...]
    source: str = ""
    sha256: str = ""


def load_benchmark(
    name_or_path: str | Path, data_dir: str | Path | None = None, allow_changed: bool = False
) -> LoadedBenchmark:
    """The problems of a registered benchmark, or of a user's ``.jsonl`` or ``.parquet`` file.

    A registered one comes from ``data_dir`` (else the folder in ``OPD_DATA``, else the hub) and must have its row count
    and, where the released file is known, its SHA-256; ``allow_changed`` lets another hash pass, never another count.

    Raises ``UserError`` for an unknown name, a missing folder, file or column, a broken row, or a file that is not the
    released one; the sentence names the file, the line where there is one, and what to do.
    """
    name = str(name_or_path)
    if name in BENCHMARKS:
        return _load_registered(BENCHMARKS[name], data_dir, allow_changed)
    path = Path(name_or_path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(
            f"unknown benchmark '{name}': choose one of {', '.join(BENCHMARKS)}, or name a .jsonl or .parquet file"
        )
    if not path.is_file():
        raise UserError(f"benchmark file {path} does not exist: check the path")
    spec = Benchmark(path.stem, path.stem, n=0, k=8, files=(path.stem,))
    problems = tuple(_problems(spec, _read(path), str(path)))
    if not problems:
        raise UserError(f"{path} holds no problems: give one JSON object with problem and answer a line")
    return LoadedBenchmark(replace(spec, n=len(problems)), problems, str(path), _file_hash(path))


def _load_registered(spec: Benchmark, data_dir: str | Path | None, allow_changed: bool) -> LoadedBenchmark:
    if spec.toy is not None:
        return _load_toy(spec, spec.toy)
    folder = data_dir if data_dir is not None else os.environ.get("OPD_DATA") or None
    if folder is None:
        return _load_hub(spec)
    path = _find(spec, Path(folder))
    found = _file_hash(path)
    if spec.sha256 is not None and path.suffix == ".jsonl" and found != spec.sha256 and not allow_changed:
        raise UserError(
            f"{path} is not the released file of '{spec.name}': its SHA-256 is {found}, expected {spec.sha256}; "
            "get the released file, or pass it as a benchmark of your own by its path"
        )
    problems = tuple(_problems(spec, _read(path), str(path)))
    _check_count(spec, problems, str(path))
    return LoadedBenchmark(spec, problems, str(path), found)


def _check_count(spec: Benchmark, problems: tuple[BenchProblem, ...], source: str) -> None:
    if len(problems) != spec.n:
        raise UserError(
            f"{source} holds {len(problems)} problems, but '{spec.name}' has {spec.n}: get the whole file, "
            "or pass it as a benchmark of your own by its path"
        )


def _load_toy(spec: Benchmark, recipe: ToyRecipe) -> LoadedBenchmark:
    from harness.toy.tasks import generate

    made = generate(recipe.domain, recipe.split, spec.n, difficulty=recipe.difficulty, seed=recipe.seed)
    problems = tuple(BenchProblem(one.id, one.prompt, one.answer, one.domain, one.id, one.prompt) for one in made)
    return LoadedBenchmark(
        spec, problems, "generated", prompt_hash(one.problem + "\n" + one.answer for one in problems)
    )


# --- files -------------------------------------------------------------------------------------------------------


def _find(spec: Benchmark, folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(
            f"the benchmark folder {folder} does not exist: name the folder that holds {spec.name}.jsonl "
            "with --data-dir or OPD_DATA"
        )
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and bare_name(entry.name) in spec.files:
            for name in ("test.jsonl", "test.parquet", "train.jsonl", "train.parquet"):
                if (entry / name).is_file():
                    return entry / name
        elif entry.suffix in (".jsonl", ".parquet") and bare_name(entry.stem) in spec.files:
            return entry
    wanted = ", ".join(f"{name}.jsonl" for name in (spec.name, *spec.files[1:]))
    raise UserError(
        f"no file of '{spec.name}' in {folder}: put {wanted} or {spec.name}/test.jsonl there, "
        "or name another folder with --data-dir or OPD_DATA"
    )


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) for every row of a file."""
    if path.suffix == ".parquet":
        import pandas as pd

        try:
            frame = pd.read_parquet(path)
        except Exception as problem:
            raise UserError(
                f"{path} cannot be read as parquet ({type(problem).__name__}): get the file again"
            ) from None
        for index, record in enumerate(frame.to_dict(orient="records")):
            yield f"row {index}", {str(key): value for key, value in record.items()}
        return
    # split on line feeds only: a problem may hold U+2028 and other separators that splitlines would cut at
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except ValueError:
            raise UserError(f"{path}, line {number}: not valid JSON; mend or remove the line") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: not a JSON object; write one object with problem and answer a line"
            )
        yield f"line {number}", row


def _problems(spec: Benchmark, rows: Iterable[tuple[str, dict[str, Any]]], source: str) -> Iterator[BenchProblem]:
    seen: set[str] = set()
    for index, (where, row) in enumerate(rows):
        stored = _column(row, spec.problem_columns, f"{source}, {where}", "problem")
        if row.get("context"):
            stored = f"{row['context']}\n{stored}"
        problem = strip_instruction(stored)
        if not problem:
            raise UserError(f"{source}, {where}: the problem is empty; mend or remove the row")
        # a registered set has the same ids from every source, a user's file may bring its own
        identifier = f"{spec.name}-{index:03d}" if spec.n or row.get("id") is None else str(row["id"])
        if identifier in seen:
            raise UserError(f"{source}, {where}: the id '{identifier}' appears twice; make the ids unique")
        seen.add(identifier)
        yield BenchProblem(
            identifier,
            problem,
            _column(row, spec.answer_columns, f"{source}, {where}", "answer"),
            str(row.get("domain") or "math"),
            problem[:FAMILY_PREFIX] if spec.families else str(row.get("family") or identifier),
            stored,
        )


def _column(row: dict[str, Any], names: tuple[str, ...], where: str, what: str) -> str:
    for name in names:
        value = row.get(name)
        if value is None:
            continue
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
        raise UserError(f"{where}: the {what} in column '{name}' is no text or number; mend the row")
    raise UserError(f"{where}: no {what}; name the column {' or '.join(names[:2])}")


# --- hub ---------------------------------------------------------------------------------------------------------


def _load_hub(spec: Benchmark) -> LoadedBenchmark:
    remedy = f"name the folder that holds {spec.name}.jsonl with --data-dir or OPD_DATA"
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"'{spec.name}' is not at hand: {remedy}, or install the hub client: pip install 'opd-harness[hub]'"
        ) from None
    try:
        table = datasets.load_dataset(spec.hub_id, spec.config, split=spec.split, revision=spec.revision)
    except Exception as problem:  # the client raises its own, the network's and the file system's kinds
        raise UserError(
            f"'{spec.name}' cannot be fetched from the hub as {spec.hub_id} ({type(problem).__name__}): {remedy}"
        ) from None
    rows = ((f"row {index}", dict(row)) for index, row in enumerate(table))
    problems = tuple(_problems(spec, rows, str(spec.hub_id)))
    _check_count(spec, problems, str(spec.hub_id))
    content = prompt_hash(one.problem + "\n" + one.answer for one in problems)
    return LoadedBenchmark(spec, problems, str(spec.hub_id), content)


# --- prompts -----------------------------------------------------------------------------------------------------


def strip_instruction(text: str) -> str:
    """``text`` without the instruction that released files carry at the end of every problem, however often."""
    while (shorter := _SUFFIX.sub("", text)) != text:
        text = shorter
    return text.strip()


def render_prompt(problem: BenchProblem | str, style: str) -> str:
    """The user turn: ``clean`` has the instruction once, ``paper`` twice as released, ``plain`` not at all.

    ``paper`` keeps the file's own text, its blank lines included, and appends the instruction the way the released
    script does. Raises ``UserError`` for another style.
    """
    if isinstance(problem, str):
        problem = BenchProblem("", strip_instruction(problem), "", stored=problem)
    if style == "plain":
        return problem.problem
    if style == "clean":
        return f"{problem.problem}\n{INSTRUCTION}"
    if style == "paper":
        stored = problem.stored if problem.stored is not None and _SUFFIX.search(problem.stored) else None
        return f"{stored or render_prompt(problem, 'clean')}\n{INSTRUCTION}"
    raise UserError(f"unknown prompt style '{style}': choose clean, paper or plain")


def prompt_hash(texts: Iterable[str]) -> str:
    """16 hex digits that change with any text, their order or their number."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]
