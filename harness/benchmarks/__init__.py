r"""Benchmarks: loading their problems from a folder, from the hub, from a user's file or from the toy world.

No benchmark is part of this repository. A registry row says where its problems come from and what they must look like;
a file that differs is refused, because a number on other problems is another number. From the hub the pinned commit is
loaded, and the commit is recorded; ``content`` says whether two copies hold the same problems and answers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from harness.benchmarks import hub
from harness.benchmarks.datafiles import SUFFIXES, file_hash, missing, plain, rows
from harness.benchmarks.registry import BENCHMARKS, Benchmark, ToyRecipe, bare_name
from harness.errors import UserError

__all__ = [
    "BENCHMARKS",
    "BenchProblem",
    "Benchmark",
    "LoadedBenchmark",
    "content_hash",
    "has_file",
    "load_benchmark",
    "prompt_hash",
    "render_prompt",
    "strip_instruction",
]

INSTRUCTION: Final = "Please reason step by step, and put your final answer within \\boxed{}."
FAMILY_PREFIX: Final = 100  # characters shared by the sub-problems of one Minerva problem: 225 families of 272 problems
_SUFFIX: Final = re.compile(
    r"(?:please|let's) (?:reason|think) step by step,? and (?:put|output) (?:your|the) final answer "
    r"(?:with)?in \\boxed\{\}\.?\Z",
    re.IGNORECASE,
)
_LONGEST_SUFFIX: Final = 100  # characters


@dataclass(frozen=True)
class BenchProblem:
    """``problem`` is without instruction, ``stored`` the text as it stood in the file; ``family`` is its cluster."""

    id: str
    problem: str
    answer: str
    domain: str = "math"
    family: str = ""
    stored: str | None = field(default=None, repr=False)
    slice: str = ""


@dataclass(frozen=True)
class LoadedBenchmark:
    """A row with its problems.

    Attributes:
        source: the file, the hub id, or "generated".
        sha256: of the file; without a file, `content`.
        revision: the hub's commit; empty for files and the toy world.
        content: hash of problems and answers in their order. The same from every source of the same problems.
    """

    spec: Benchmark
    problems: tuple[BenchProblem, ...]
    source: str = ""
    sha256: str = ""
    revision: str = ""
    content: str = ""

    @property
    def released(self) -> bool | None:
        """Whether these are the problems and answers released with FiRe-OPD; None where that is not known."""
        return None if self.spec.content is None else self.spec.content == self.content


def load_benchmark(
    name_or_path: str | Path, data_dir: str | Path | None = None, allow_changed: bool = False
) -> LoadedBenchmark:
    """The problems of a registered benchmark, or of a user's ``.jsonl`` or ``.parquet`` file.

    A registered one comes from ``data_dir`` (else the folder in ``OPD_DATA``, else the hub) and must have its row count
    and, where the released file is known, its SHA-256 or its content; ``allow_changed`` lets others pass, never another
    count. ``aime24@REVISION`` means that commit, tag or branch of the hub, whatever folder is named.

    Raises ``UserError`` for an unknown name, a missing folder, file or column, a broken row, or a file that is not the
    released one; the sentence names the file, the line where there is one, and what to do.
    """
    path = Path(name_or_path)
    if path.suffix not in SUFFIXES:
        name, at, revision = str(name_or_path).partition("@")
        if name in BENCHMARKS and bool(at) == bool(revision):
            return _load_registered(BENCHMARKS[name], data_dir, allow_changed, revision or None)
        raise UserError(
            f"unknown benchmark '{name_or_path}': choose one of {', '.join(BENCHMARKS)}, "
            "or name a .jsonl or .parquet file"
        )
    if not path.is_file():
        raise UserError(f"benchmark file {path} does not exist: check the path")
    spec = Benchmark(path.stem, path.stem, n=0, k=8, files=(path.stem,))
    problems = tuple(_problems(spec, rows(path), str(path)))
    if not problems:
        raise UserError(f"{path} holds no problems: give one JSON object with problem and answer a line")
    spec = replace(spec, n=len(problems), families=any(p.family != p.id for p in problems))
    return LoadedBenchmark(spec, problems, str(path), file_hash(path), "", content_hash(problems))


def _load_registered(
    spec: Benchmark, data_dir: str | Path | None, allow_changed: bool, revision: str | None
) -> LoadedBenchmark:
    if spec.toy is not None:
        if revision is not None:
            raise UserError(f"'{spec.name}' is generated and has no revisions: leave out '@{revision}'")
        return _load_toy(spec, spec.toy)
    if revision is not None:
        return _load_hub(spec, revision)
    folder = data_dir if data_dir is not None else os.environ.get("OPD_DATA") or None
    if folder is None:
        return _load_hub(spec, spec.revision)
    path = _find(spec, Path(folder))
    found = file_hash(path)
    changed = spec.sha256 is not None and path.suffix == ".jsonl" and found != spec.sha256 and not allow_changed
    try:
        problems = tuple(_problems(spec, rows(path), str(path)))
    except UserError:
        if not changed:
            raise
        problems = ()
    content = content_hash(problems)
    if changed and content != spec.content:
        raise UserError(
            f"{path} is not the released file of '{spec.name}': its SHA-256 is {found}, expected {spec.sha256}, "
            "and its problems differ; get the released file, or pass it as a benchmark of your own by its path"
        )
    _check_count(spec, problems, str(path))
    return LoadedBenchmark(spec, problems, str(path), found, "", content)


def _load_hub(spec: Benchmark, revision: str | None) -> LoadedBenchmark:
    table, commit = hub.fetch(spec, revision)
    source = f"{spec.hub_id}@{commit}"
    problems = tuple(_problems(spec, ((f"row {index}", dict(row)) for index, row in enumerate(table)), source))
    _check_count(spec, problems, source)
    content = content_hash(problems)
    return LoadedBenchmark(spec, problems, str(spec.hub_id), content, commit, content)


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
    content = content_hash(problems)
    return LoadedBenchmark(spec, problems, "generated", content, "", content)


# --- files -------------------------------------------------------------------------------------------------------


def has_file(spec: Benchmark, folder: Path) -> bool:
    """Whether a folder holds a file of a registered benchmark. Raises `UserError` where there is no such folder."""
    return _look(spec, folder) is not None


def _find(spec: Benchmark, folder: Path) -> Path:
    found = _look(spec, folder)
    if found is not None:
        return found
    wanted = ", ".join(f"{name}.jsonl" for name in (spec.name, *spec.files[1:]))
    raise UserError(
        f"no file of '{spec.name}' in {folder}: put {wanted} or {spec.name}/test.jsonl there, "
        "or name another folder with --data-dir or OPD_DATA"
    )


def _look(spec: Benchmark, folder: Path) -> Path | None:
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
        elif entry.suffix in SUFFIXES and bare_name(entry.stem) in spec.files:
            return entry
    return None


def _problems(spec: Benchmark, rows: Iterable[tuple[str, dict[str, Any]]], source: str) -> Iterator[BenchProblem]:
    seen: set[str] = set()
    for index, (place, row) in enumerate(rows):
        where = f"{source}, {place}"
        stored = _column(row, spec.problem_columns, where, "problem")
        if context := _optional(row, "context", where):
            stored = f"{context}\n{stored}"
        problem = strip_instruction(stored)
        if not problem:
            raise UserError(f"{where}: the problem is empty; mend or remove the row")
        # a registered set has the same ids from every source, a user's file may bring its own
        identifier = f"{spec.name}-{index:03d}" if spec.n else _optional(row, "id", where) or f"{spec.name}-{index:03d}"
        if identifier in seen:
            raise UserError(f"{where}: the id '{identifier}' appears twice; make the ids unique")
        seen.add(identifier)
        yield BenchProblem(
            identifier,
            problem,
            _column(row, spec.answer_columns, where, "answer"),
            _optional(row, "domain", where) or "math",
            problem[:FAMILY_PREFIX] if spec.families else _optional(row, "family", where) or identifier,
            stored,
            _optional(row, "slice", where),
        )


def _column(row: dict[str, Any], names: tuple[str, ...], where: str, what: str) -> str:
    """The text of the first column of `names` that holds anything; of a list of answers, all of them."""
    for name in names:
        value = row.get(name)
        if missing(value):
            continue
        parts = [plain(one) for one in value] if isinstance(value, list) else [plain(value)]
        if not all(part is not None for part in parts):
            raise UserError(f"{where}: the {what} in column '{name}' is no text or number; mend the row")
        text = ", ".join(part for part in parts if part is not None)
        if not text.strip():
            raise UserError(f"{where}: the {what} is empty; mend or remove the row")
        return text
    if present := [name for name in names if name in row]:
        raise UserError(f"{where}: the {what} in column '{present[0]}' is empty; mend or remove the row")
    raise UserError(
        f"{where}: no {what}; name the column {' or '.join(names[:2])} (the row has {', '.join(row) or 'none'})"
    )


def _optional(row: dict[str, Any], name: str, where: str) -> str:
    if missing(value := row.get(name)):
        return ""
    text = plain(value)
    if text is None:
        raise UserError(f"{where}: the column '{name}' holds no text or number; mend the row or leave it out")
    return text


# --- prompts -----------------------------------------------------------------------------------------------------


def strip_instruction(text: str) -> str:
    """``text`` without the instruction that released files carry at the end of every problem, however often."""
    end = len(text.rstrip())
    while (start := _instruction(text, end)) is not None:
        end = len(text[:start].rstrip())
    return text[:end].strip()


def _instruction(text: str, end: int) -> int | None:
    """Where the instruction that ends at `end` begins, None where there is none."""
    found = _SUFFIX.search(text, max(0, end - _LONGEST_SUFFIX), end)
    return found and found.start()


def render_prompt(problem: BenchProblem | str, style: str) -> str:
    """The user turn: ``clean`` has the instruction once, ``paper`` twice as released, ``plain`` not at all.

    ``paper`` is what FiRe-OPD's ``eval_math.py`` builds from the released files: the file's own text, its blank lines
    included, and the instruction once more on a line of its own. A copy without the instruction (the hub's) gets it
    the way the released files have it. Raises ``UserError`` for another style.
    """
    if isinstance(problem, str):
        problem = BenchProblem("", strip_instruction(problem), "", stored=problem)
    if style == "plain":
        return problem.problem
    if style == "clean":
        return f"{problem.problem}\n{INSTRUCTION}"
    if style == "paper":
        stored = problem.problem if problem.stored is None else problem.stored
        if _instruction(stored, len(stored.rstrip())) is None:
            stored = f"{stored}\n{INSTRUCTION}"
        return f"{stored}\n{INSTRUCTION}"
    raise UserError(f"unknown prompt style '{style}': choose clean, paper or plain")


def prompt_hash(texts: Iterable[str]) -> str:
    """16 hex digits that change with any text, their order or their number."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def content_hash(problems: Iterable[BenchProblem]) -> str:
    """Hash of problems and answers in their order: ids are numbered by it, so another order is another benchmark."""
    return prompt_hash(f"{one.problem}\n{one.answer}" for one in problems)
