"""The page of samples: every problem of an evaluation with all its answers, both verdicts, and what looks odd.

One self-contained page without network access. What filters need is one compact array; the answers themselves lie
in the page gzipped, a block for each problem, and are unpacked when the problem is opened. Model text is hostile: it
travels compressed, and the page's only script inserts it by `textContent` under a content security policy.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from markupsafe import Markup

from harness.answers.golds import gold_of
from harness.errors import UserError
from harness.evaluation.evaluations import evaluation_folder, graded, problems, read_manifest, stem
from harness.samples import tokenpage
from harness.samples.excerpts import parts_of
from harness.samples.suspicions import KINDS, read, suspicions
from harness.stats import avg_at_k
from harness.tables.markup import shorten

LIMIT: Final = 20_000  # characters kept of a response
LEAST: Final = 100
SEARCHED: Final = 2_000  # characters of a problem that the list is searched in
LARGE: Final = 200_000_000  # bytes from which a page is slow to open

# what a sample's number in the array of the page is made of; suspicions follow, a bit each, in the order of KINDS
RIGHT, PAPER_RIGHT, NO_PAPER, TRUNCATED, NO_ANSWER = 1, 2, 4, 8, 16
FIRST_SUSPICION: Final = 5

Progress = Callable[[str, int, int], None]  # (benchmark, problems done, in all)


@dataclass
class BenchCounts:
    """What a page holds of one benchmark; `kinds` counts samples by suspicion."""

    problems: int = 0
    samples: int = 0
    suspicious: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A written page."""

    path: Path
    size: int
    benches: dict[str, BenchCounts]


def write_page(
    ref: str | Path,
    names: Sequence[str] = (),
    out: Path | None = None,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> Page:
    """Writes the page of an evaluation folder, or of a run's last evaluation; the same folder gives the same bytes.

    Args:
        names: benchmarks, all by default.
        out: the file, `<folder>/samples.html` by default.
        limit: characters kept of a longer response, or problem: its head, its tail and what is around the answer.

    Raises:
        UserError: if there is no such evaluation or benchmark, or its files are missing or contradict each other.
    """
    folder = evaluation_folder(ref)
    if folder is None:
        raise UserError(f"no evaluation in '{ref}': name a folder that `opd eval` wrote, or the folder of a run")
    manifest = read_manifest(folder)
    known = manifest.get("benches", {})
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"{folder} has no benchmark '{unknown[0]}': it has {', '.join(known) or 'none'}")
    if limit < LEAST:
        raise UserError(f"option 'limit-chars' must be at least {LEAST}, got {limit}")
    path = out or folder / "samples.html"
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the file to write with --out")
    sources = [_Source(folder, name, known[name], limit) for name in dict.fromkeys(names or known)]
    metas: list[dict[str, Any]] = []

    def blocks() -> Iterator[tuple[str, Markup]]:
        for number, source in enumerate(sources):
            with source:
                for index, block in enumerate(source.blocks()):
                    yield f"block-{number}-{index}", Markup(block)
                    if progress:
                        progress(source.name, index + 1, source.counts.problems)
            metas.append(source.meta(manifest))

    def meta() -> Markup:  # after the blocks: what is suspicious is known once they are made
        kinds = [[name, *kind] for name, kind in KINDS.items()]
        text = json.dumps({"benches": metas, "kinds": kinds}, separators=(",", ":"), allow_nan=False)
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))

    template = tokenpage.environment().get_template("samples.html.j2")
    title = "Samples of " + (shorten(str(manifest.get("model") or manifest.get("name") or "")) or "a model")
    parts = {"title": title, "style": style(), "script": script(), "script_hash": script_hash()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(template.generate(blocks=blocks(), meta=meta, **parts))
            stream.write("\n")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): name another file with --out") from None
    finally:
        partial.unlink(missing_ok=True)
    return Page(path, path.stat().st_size, {source.name: source.counts for source in sources})


def style() -> Markup:
    """The page's style sheet."""
    return Markup("".join((tokenpage.TEMPLATES / name).read_text("utf-8") for name in ("base.css", "samples.css")))


def script() -> Markup:
    """The page's only script."""
    return Markup((tokenpage.TEMPLATES / "samples.js").read_text("utf-8"))


def script_hash() -> str:
    """The content-security-policy source that admits `script()` and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


class _Source:
    """One benchmark of the folder; a context that holds the file of generations open."""

    def __init__(self, folder: Path, name: str, entry: Mapping[str, Any], limit: int) -> None:
        self.name, self.entry, self.limit = name, entry, limit
        self.foreign = name.startswith("lm-eval:")  # one verdict, lm-eval's own
        # where options were scored, not generated, the text is a list of them all
        self.generated = not self.foreign or entry.get("answer_type") == "generate_until"
        self.problems = problems(folder, name)
        if not self.problems:
            raise UserError(f"{folder / stem(name)}.problems.jsonl is missing or empty: evaluate '{name}' again")
        rows = graded(folder, name)
        if not rows:
            raise UserError(f"{folder / stem(name)}.graded.jsonl is missing or empty: grade with `opd grade {folder}`")
        self.rows: dict[str, dict[int, dict[str, Any]]] = {problem: {} for problem in self.problems}
        for row in rows:
            if row["problem"] not in self.rows:
                raise UserError(
                    f"{folder / stem(name)}.graded.jsonl has problem '{row['problem']}', which is not in "
                    f"{stem(name)}.problems.jsonl: grade again with `opd grade {folder}`"
                )
            self.rows[row["problem"]][row["sample"]] = row
        self.path = folder / f"{stem(name)}.jsonl"
        self.counts = BenchCounts(len(self.problems), sum(map(len, self.rows.values())))
        self.bits: list[list[int]] = []

    def __enter__(self) -> _Source:
        self.offsets = _offsets(self.path)
        self.file: BinaryIO | None = self.path.open("rb") if self.offsets else None
        return self

    def __exit__(self, *error: object) -> None:
        if self.file:
            self.file.close()

    def blocks(self) -> Iterator[str]:
        """For each problem its text and graded answers: JSON, gzipped, in base64."""
        for id, problem in self.problems.items():
            samples = [self._sample(problem, row) for _, row in sorted(self.rows[id].items())]
            self.bits.append([bits for bits, _ in samples])
            block = {"text": parts_of(problem["text"], self.limit), "samples": [sample for _, sample in samples]}
            data = json.dumps(block, separators=(",", ":")).encode()
            yield base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()

    def _text(self, problem: str, sample: int) -> str | None:
        offset = self.offsets.get((problem, sample))
        if offset is None or self.file is None:
            return None
        self.file.seek(offset)
        return str(json.loads(self.file.readline().decode("utf-8", errors="replace"))["response"])

    def _sample(self, problem: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """The number that filters read, and what is shown of a sample."""
        text = self._text(row["problem"], row["sample"])
        asked = (str(problem["gold"]), self.name, problem["text"])
        reading = read(row, text, *asked) if text is not None and self.generated else None
        kinds = suspicions(row, None, *asked) if reading is None else list(reading.kinds)
        self.counts.kinds.update(kinds)
        self.counts.suspicious += bool(kinds)
        paper = row["correct_paper"]
        bits = RIGHT * bool(row["correct"]) + PAPER_RIGHT * bool(paper) + NO_PAPER * (paper is None)
        bits += TRUNCATED * (row["finish"] == "length") + NO_ANSWER * (row["answer"] is None)
        bits += sum(1 << (FIRST_SUSPICION + index) for index, kind in enumerate(KINDS) if kind in kinds)
        shown = {
            "n": row["sample"],
            "strict": [row["answer"], row["parsed"], row["reason"]],
            "paper": None if paper is None else [row["answer_paper"], None, row["reason_paper"]],
            "finish": row["finish"],
            "tokens": row["tokens"],
            "chars": None if text is None else len(text),
            "parts": None if text is None else parts_of(text, self.limit, reading, row["answer"]),
        }
        return bits, shown

    def meta(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """What the page knows of a benchmark before any block is unpacked."""
        judge = "lm-eval" if self.foreign else "strict"
        scores = [[judge, *self._score("correct")], ["paper", *self._score("correct_paper")]]
        self._remark()
        listed = []
        for (id, problem), bits in zip(self.problems.items(), self.bits, strict=True):
            numbers = sorted(self.rows[id])
            gold = gold_of(str(problem["gold"]), self.name)
            family = problem.get("family")
            shown = {
                "id": id,
                "text": problem["text"][:SEARCHED],
                "gold": str(problem["gold"]),
                "family": family if family and family != id and not problem["text"].startswith(family) else "",
                "slice": problem.get("slice") or "",
                "bits": bits,
            }
            if numbers != list(range(len(numbers))):
                shown["numbers"] = numbers
            if gold.reason:
                shown["note"] = gold.reason
                shown["accepted"] = [text for text in gold.accepted if text != gold.original]
            listed.append(shown)
        return {
            "name": self.name,
            "label": str(self.entry.get("label") or self.name),
            "judge": judge,
            "scores": scores[: 1 if self.foreign else 2],
            "size": f"avg@{self.entry.get('k', 'k')} · n = {len(self.problems):,}",
            "facts": _facts(manifest, self.entry),
            "remarks": self.counts.remarks,
            "problems": listed,
        }

    def _score(self, column: str) -> list[str]:
        """avg@k with its interval as text; a dash where samples or verdicts are missing."""
        k = max((len(rows) for rows in self.rows.values()), default=0)
        grid = [[rows[sample].get(column) for sample in sorted(rows)] for rows in self.rows.values()]
        if not k or any(len(row) != k or None in row for row in grid):
            return ["—", ""]
        family = self.entry.get("clusters")
        clusters = [family[id] for id in self.rows] if family else None
        found = avg_at_k([[int(bool(value)) for value in row] for row in grid], clusters)
        return [f"{100 * found.value:.1f} %", f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"]

    def _remark(self) -> None:
        remarks, k = self.counts.remarks, self.entry.get("k")
        graded = {(id, sample) for id, rows in self.rows.items() for sample in rows}
        if k is not None and len(graded) != (whole := len(self.problems) * k):
            remarks.append(f"{len(graded):,} of {whole:,} samples are graded: there is no interval for a part of them.")
        if lost := len(graded - self.offsets.keys()):
            remarks.append(f"The text of {lost:,} of {len(graded):,} samples is not in {self.path.name}.")
        if ahead := len(self.offsets.keys() - graded):
            remarks.append(f"{ahead:,} answers in {self.path.name} are not graded and not shown.")


def _offsets(path: Path) -> dict[tuple[str, int], int]:
    """Where in a file of generations the line of each (problem, sample) begins; the texts stay on disk."""
    found: dict[tuple[str, int], int] = {}
    if not path.exists():
        return found
    at = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break  # a killed process left it unfinished
            try:
                row = json.loads(line.decode("utf-8", errors="replace"))
                if "header" not in row:
                    found.setdefault((row["problem"], row["sample"]), at)
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}, line {number}: not an answer as `opd eval` writes it; remove it") from None
            at += len(line)
    return found


def _facts(manifest: Mapping[str, Any], entry: Mapping[str, Any]) -> list[list[str]]:
    """Name and value of what the numbers were measured with."""
    sampling, provenance = entry.get("sampling") or {}, manifest.get("provenance") or {}
    known = {
        "model": manifest.get("model"),
        "engine": manifest.get("engine"),
        "sampling": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sampling.items()),
        "thinking": {True: "on", False: "off"}.get(entry.get("thinking")),  # type: ignore[arg-type]
        "seed": entry.get("seed"),
        "prompt": " ".join(str(entry[name]) for name in ("style", "prompt_hash") if entry.get(name)),
        "rendered prompts": entry.get("rendered_hash"),
        "first problems only": entry.get("limit"),
        **{f"{name} checker": version for name, version in sorted((entry.get("checkers") or {}).items(), reverse=True)},
        "problems from": entry.get("source"),
        "their SHA-256": entry.get("sha256"),
        "revision": entry.get("revision"),
        "licence": entry.get("licence"),
        "interval": "95 %, problems as a sample of all such problems" + (", in families" * ("clusters" in entry)),
        "code": provenance.get("commit"),
        "day": manifest.get("created") or provenance.get("created"),
    }
    return [[name, str(value)] for name, value in known.items() if value not in (None, "")]
