r"""Whether a training file holds the problems of a benchmark: n-gram overlap of prompts.

The rule of SimOPD: a problem that shares at least 80 % of its 13-grams with the training file is a duplicate. One
shared 13-gram is not: "can be written as m/n where m and n are relatively prime positive integers" is boilerplate.

A token is a LaTeX command, a run of letters, a run of digits, or one of + − * / = < >; case, spaces, other
punctuation, braces, and commands that only dress (`\left`, `\text`, …) do not count. A problem of fewer than 13 tokens
has no 13-gram: it is compared as a whole, with each training row and each paragraph of one. So are generated problems:
their vocabulary is so small that windows recur by chance.

Benchmarks are indexed and training rows streamed: memory does not grow with the training file.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from harness.benchmarks import LoadedBenchmark, strip_instruction
from harness.benchmarks.datafiles import Progress, rows
from harness.errors import UserError
from harness.evaluation.evaluations import Evaluation
from harness.stats import Estimate, SampleError, avg_at_k

NGRAM: Final = 13
THRESHOLD: Final = 0.8
COLUMNS: Final = ("problem", "prompt", "question", "messages")  # of a training file, in the order in which they count
FIELDS: Final = ("bench", "problem", "grams", "share", "flagged", "any", "line", "row_share", "excerpt")

_EXCERPT: Final = 160  # characters
_TOKEN: Final = re.compile(r"\\[a-z]+|[^\W\d_]+|\d+|(?<![a-z])-|-(?![a-z])|[+*/=<>]")
_DRESSING: Final = (
    "left right big bigg text textbf textit textrm mathrm mathbf mathit operatorname mbox displaystyle quad qquad "
    "begin end"
)
_DRESS: Final = frozenset("\\" + name for name in _DRESSING.split())
_SAME: Final = {"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne"}
_SIGNS: Final = str.maketrans({"−": "-", "–": "-", "×": "*"})

Gram = tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """How much of one problem the training file holds.

    Attributes:
        grams: distinct n-grams of the problem; 1 for a problem that is compared as a whole.
        share: fraction of them found anywhere in the file.
        line: of the training row that holds most of them (its row, from 0, in a parquet file); None without a match.
        row_share: fraction of them in that row.
        excerpt: how that row begins.
    """

    bench: str
    problem: str
    grams: int
    share: float
    line: int | None = None
    row_share: float = 0.0
    excerpt: str = ""

    @property
    def any(self) -> bool:
        return self.share > 0


def tokens(text: str) -> list[str]:
    """What of a text counts, in order."""
    text = text.lower()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).lower()
    return [_SAME.get(token, token) for token in _TOKEN.findall(text) if token not in _DRESS]


def training_text(row: Mapping[str, Any], where: str) -> str:
    """What a training row asks: the first of `COLUMNS` that holds text, or chat messages (the user's are read).

    Raises:
        UserError: naming the row, if there is none.
    """
    named = {str(name).lower(): value for name, value in row.items()}
    for name in COLUMNS:
        value = named.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list):
            said = [one.get("content") for one in value if isinstance(one, dict) and one.get("role", "user") == "user"]
            if said and all(isinstance(text, str) for text in said):
                return "\n".join(said)  # type: ignore[arg-type]
    raise UserError(f"{where}: no text in a column {', '.join(COLUMNS)}; name the column that holds the prompt so")


def scan(
    train: Path, benches: Sequence[LoadedBenchmark], n: int = NGRAM, progress: Progress | None = None
) -> list[Match]:
    """Every problem of the benchmarks with what the training file holds of it, in order.

    Raises:
        UserError: for an `n` below 1, a missing or broken training file, or one without prompts.
    """
    if n < 1:
        raise UserError(f"option 'n' must be at least 1, got {n}")
    index = _Index(benches, n)
    count = 0
    for where, row in rows(train, progress):
        index.read(training_text(row, f"{train}, {where}"), int(where.split()[-1]))
        count += 1
    if not count:
        raise UserError(f"{train} holds no rows: name a .jsonl or .parquet file of training prompts")
    return index.matches()


class _Index:
    """The n-grams of the benchmarks' problems, and what has been found of them so far."""

    def __init__(self, benches: Sequence[LoadedBenchmark], n: int) -> None:
        self.n = n
        self.keys = [(bench.spec.name, p.id) for bench in benches for p in bench.problems]
        self.grams: list[set[Gram]] = []
        self.homes: dict[Gram, list[int]] = {}  # n-gram → problems that hold it
        self.wholes: dict[Gram, list[int]] = {}  # problem as a whole → its numbers
        for bench in benches:
            for p in bench.problems:
                found = tuple(tokens(p.problem))
                whole = len(found) < n or bench.spec.toy is not None
                cut = {found} if whole else {found[i : i + n] for i in range(len(found) - n + 1)}
                for gram in cut:
                    (self.wholes if whole else self.homes).setdefault(gram, []).append(len(self.grams))
                self.grams.append(cut)
        self.known = {token for gram in self.homes for token in gram}
        self.found: list[set[Gram]] = [set() for _ in self.keys]
        self.best: list[tuple[int, int, str]] = [(0, 0, "") for _ in self.keys]  # n-grams in one row, its line, excerpt

    def read(self, text: str, line: int) -> None:
        paragraphs = [tokens(part) for part in strip_instruction(text).split("\n")]
        joined = [token for paragraph in paragraphs for token in paragraph]
        hits: dict[int, set[Gram]] = {}
        for gram in self._windows(joined):
            for problem in self.homes.get(gram, ()):
                hits.setdefault(problem, set()).add(gram)
        for one in {tuple(joined), *map(tuple, paragraphs)} if len(paragraphs) > 1 else (tuple(joined),):
            for problem in self.wholes.get(one, ()):
                hits.setdefault(problem, set()).add(one)
        for problem, grams in hits.items():
            self.found[problem] |= grams
            if len(grams) > self.best[problem][0]:
                self.best[problem] = (len(grams), line, _excerpt(text))

    def _windows(self, joined: list[str]) -> Iterator[Gram]:
        """The n-grams that hold only tokens of the benchmarks."""
        start = 0
        for end, token in enumerate(joined, 1):
            if token not in self.known:
                start = end
            elif end - start >= self.n:
                yield tuple(joined[end - self.n : end])

    def matches(self) -> list[Match]:
        out = []
        for (bench, problem), grams, found, best in zip(self.keys, self.grams, self.found, self.best, strict=True):
            most, line, excerpt = best
            share, row_share = len(found) / len(grams), most / len(grams)
            out.append(Match(bench, problem, len(grams), share, line if most else None, row_share, excerpt))
        return out


def _excerpt(text: str) -> str:
    """The beginning of a text on one line, without characters that do not print."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text[: 4 * _EXCERPT].split()))[:_EXCERPT]


def counts(matches: Sequence[Match], threshold: float = THRESHOLD) -> dict[str, dict[str, int]]:
    """Per benchmark: problems, flagged ones, and those that share any n-gram."""
    per = {
        what: Counter(m.bench for m in matches if chosen(m))
        for what, chosen in {
            "n": lambda m: True,
            "flagged": lambda m: m.share >= threshold,
            "any": lambda m: m.any,
        }.items()
    }
    return {bench: {what: per[what][bench] for what in per} for bench in dict.fromkeys(m.bench for m in matches)}


def write_csv(matches: Sequence[Match], threshold: float, path: Path) -> None:
    """A row per problem, with the columns `FIELDS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for m in matches:
            flags = (int(m.share >= threshold), int(m.any))
            line = "" if m.line is None else m.line
            writer.writerow(
                (m.bench, m.problem, m.grams, f"{m.share:.4f}", *flags, line, f"{m.row_share:.4f}", m.excerpt)
            )


def with_and_without(evaluation: Evaluation, bench: str, flagged: set[str]) -> tuple[Estimate, Estimate | None]:
    """avg@k over all problems of a benchmark, and over those that are not flagged (None where all are).

    Raises:
        UserError: if the evaluation lacks the benchmark, or some of its samples.
    """
    if bench not in evaluation.benches:
        raise UserError(
            f"{evaluation.name} has no benchmark '{bench}': it has {', '.join(evaluation.benches) or 'none'}"
        )
    families = evaluation.benches[bench].get("clusters")
    part = evaluation.rows(bench)
    grid = part.pivot_table(index="problem", columns=["seed", "sample"], values="correct", aggfunc="first")
    seeds = grid.columns.get_level_values("seed")
    kept = grid[~grid.index.isin(list(flagged))]

    def estimate(frame: Any) -> Estimate:
        values = np.stack([frame.loc[:, seeds == seed].to_numpy(dtype=float) for seed in sorted(set(seeds))])
        return avg_at_k(values, None if families is None else [families[problem] for problem in frame.index])

    try:
        return estimate(grid), estimate(kept) if len(kept) else None
    except (SampleError, ValueError) as problem:
        raise UserError(f"{evaluation.name} is not complete on '{bench}' ({problem}): evaluate it again") from None
