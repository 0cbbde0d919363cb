"""Evaluation: problems → generations (append-only JSONL, resumable) → verdicts of both checkers → a manifest.

<folder>/<bench>.problems.jsonl    what was asked: id, user turn, gold
         <bench>.jsonl             a header, then a line per generated answer, appended as it is made
         <bench>.graded.jsonl      a header, then a line per answer with both verdicts; needs no model to make again
         evaluation.json           written last: what each benchmark's numbers were measured with
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness.answers import CHECKER_VERSIONS, Graded, grade_many
from harness.benchmarks import LoadedBenchmark, prompt_hash, render_prompt
from harness.benchmarks.slices import slices
from harness.errors import UserError
from harness.evaluation.evaluations import MANIFEST, read_manifest, stem
from harness.evaluation.responders import Responder, Response, Wanted
from harness.provenance import provenance
from harness.records import append_jsonl, iter_jsonl, write_atomic
from trainer.data import derive_seed

Progress = Callable[[str, int, int], None]  # (what: "answers" or "verdicts", done, in all)

_CHUNK: Final = 4096  # answers held in memory while they are graded
_SHOWN: Final = 200  # characters kept of an extracted answer
_CLASS: Final = 64  # characters kept of an answer class


@dataclass(frozen=True)
class EvalPlan:
    """What to sample: k answers for every problem of a benchmark."""

    bench: str  # a registered name (with @revision, for the hub), or a file
    k: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    style: str = "clean"  # of the prompt: clean, paper or plain
    seed: int = 0
    limit: int | None = None  # only the first problems
    thinking: bool = False  # the chat template's switch

    def __post_init__(self) -> None:
        for name in ("k", "max_tokens", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"option '{name}' must be at least 1, got {value}")
        if not self.temperature >= 0 or not 0 < self.top_p <= 1:
            raise UserError("the temperature must not be negative, and top-p lies in (0, 1]")

    @property
    def name(self) -> str:
        """Of the benchmark in files and tables: its registered name, or the stem of a user's file."""
        path = Path(self.bench)
        return path.stem if path.suffix in (".jsonl", ".parquet") else self.bench.partition("@")[0]

    @property
    def sampling(self) -> dict[str, float]:
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}


def toy_plan(bench: str, k: int, seed: int = 0) -> EvalPlan:
    """The plan of a toy benchmark: bare problem text, short answers."""
    return EvalPlan(bench, k, max_tokens=96, style="plain", seed=seed)


def evaluate(
    responder: Responder, bench: LoadedBenchmark, plan: EvalPlan, folder: Path, progress: Progress | None = None
) -> None:
    """Generates what is missing, grades it, and enters the benchmark into the folder's manifest.

    Raises:
        UserError: if `folder` holds an evaluation of another model, or of this benchmark with another setting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_model(folder, responder.name)
    texts = {p.id: render_prompt(p, plan.style) for p in bench.problems[: plan.limit]}
    slice_of = slices(plan.name, bench.problems)
    asked = [
        {"problem": p.id, "text": texts[p.id], "gold": p.answer, "family": p.family, "slice": slice_of.get(p.id)}
        for p in bench.problems[: plan.limit]
    ]
    lines = "".join(json.dumps(row) + "\n" for row in asked)
    write_atomic(folder / f"{stem(plan.name)}.problems.jsonl", lines)
    header = _header(responder, plan, list(texts.values()))
    generate(responder, texts, plan, header, folder / f"{stem(plan.name)}.jsonl", progress)
    write_grades(folder, plan.name, plan.k, progress)
    of = {p.id: p.family for p in bench.problems if p.id in texts}
    entry = {
        "label": bench.spec.label,
        "n": len(texts),
        "k": plan.k,
        "source": bench.source,
        "sha256": bench.sha256,
        "content": bench.content,
        "revision": bench.revision,
        "licence": bench.spec.licence,
        "answer_type": bench.spec.answer_type,
        "style": plan.style,
        **{name: header[name] for name in ("prompt_hash", "rendered_hash", "thinking", "sampling", "seed")},
        "limit": plan.limit,
        "checkers": dict(CHECKER_VERSIONS),
        **({"clusters": of} if bench.spec.families else {}),
        **({"slices": {id: slice_of[id] for id in texts if id in slice_of}} if slice_of else {}),
    }
    enter(folder, responder.name, responder.engine, {plan.name: entry})


def check_model(folder: Path, model: str) -> None:
    """Raises: UserError, if the folder holds an evaluation of another model."""
    kept = read_manifest(folder).get("model", model)
    if kept != model:
        raise UserError(f"{folder} holds an evaluation of {kept}, not of {model}: name another folder with --out")


def enter(folder: Path, model: str, engine: str, benches: dict[str, dict[str, Any]]) -> None:
    """Adds benchmarks to a folder's manifest."""
    manifest = read_manifest(folder)
    manifest |= {"name": folder.name, "model": model, "engine": engine, "provenance": provenance()}
    manifest["benches"] = manifest.get("benches", {}) | benches
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _header(responder: Responder, plan: EvalPlan, texts: list[str]) -> dict[str, Any]:
    """What a file of generations is of; one that differs is another evaluation."""
    return {
        "bench": plan.name,
        "responder": responder.name,
        "prompt_hash": prompt_hash(texts),
        "rendered_hash": responder.rendered(texts),
        "thinking": plan.thinking,
        "sampling": plan.sampling,
        "seed": plan.seed,
    }


# --- generation ------------------------------------------------------------------------------------------------


def generate(
    responder: Responder,
    texts: dict[str, str],
    plan: EvalPlan,
    header: dict[str, Any],
    path: Path,
    progress: Progress | None = None,
) -> None:
    """All k answers to all problems (`texts`: id → user turn), each exactly once; those in `path` already are kept.

    An interrupted evaluation by a bit-for-bit engine ends with the very file of an uninterrupted one. A larger k keeps
    the first samples.

    Raises:
        UserError: if `path` holds answers of another model, prompt or sampling.
    """
    done = _done(path, header)
    if done is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_jsonl(path, [{"header": header}])
        done = set()
    wanted = [
        Wanted(problem, text, sample, derive_seed("eval", plan.seed, plan.name, problem, sample))
        for sample in range(plan.k)
        for problem, text in texts.items()
    ]
    there = sum((one.problem, one.sample) in done for one in wanted)
    if progress:
        progress("answers", there, len(wanted))
    for start in range(0, len(wanted), responder.block):
        block = wanted[start : start + responder.block]
        missing = [one for one in block if (one.problem, one.sample) not in done]
        if not missing:
            continue
        answers = responder.answer(block if responder.redraw else missing)
        fresh = (r for r in answers if (r.problem, r.sample) not in done)
        for part in [list(fresh)] if responder.redraw else ([r] for r in fresh):
            append_jsonl(path, [_row(r) for r in part])
            done |= {(r.problem, r.sample) for r in part}
            there += len(part)
            if progress:
                progress("answers", there, len(wanted))
        if lost := next((one for one in missing if (one.problem, one.sample) not in done), None):
            raise RuntimeError(f"{responder.name} gave no sample {lost.sample} of problem {lost.problem}")


def _done(path: Path, header: dict[str, Any]) -> set[tuple[str, int]] | None:
    """(problem, sample) of the answers in a file, None where there is no file yet."""
    rows = iter_jsonl(path, repair=True)
    first = next(rows, None)
    if first is None:
        return None
    kept = first.get("header")
    if not isinstance(kept, dict):
        raise UserError(f"{path} is no file of generations (its first line is no header): move it away")
    if kept != header:
        changed = sorted(name for name in header.keys() | kept.keys() if kept.get(name) != header.get(name))
        raise UserError(
            f"{path} holds generations of another setting (it differs in {', '.join(changed)}): move it away, "
            "or name another folder with --out"
        )
    return {(row["problem"], row["sample"]) for row in rows}


def _row(response: Response) -> dict[str, Any]:
    row = asdict(response)
    return {"problem": row.pop("problem"), "sample": row.pop("sample"), "response": row.pop("text"), **row}


# --- verdicts --------------------------------------------------------------------------------------------------


def write_grades(folder: Path, bench: str, k: int | None = None, progress: Progress | None = None) -> Path:
    """Grades the first k generations of every problem (all there are, by default) from the folder's own files.

    Raises:
        UserError: if the folder lacks the generations or the problems of `bench`.
    """
    generations, problems = folder / f"{stem(bench)}.jsonl", folder / f"{stem(bench)}.problems.jsonl"
    for path in (generations, problems):
        if not path.exists():
            raise UserError(f"{path} is missing: name the folder of an evaluation of '{bench}'")
    golds = {row["problem"]: row["gold"] for row in iter_jsonl(problems)}
    order = {problem: index for index, problem in enumerate(golds)}
    rows: list[dict[str, Any]] = []
    for chunk in _chunks(generations, golds, k):
        verdicts = grade_many([(row["response"], golds[row["problem"]], bench) for row in chunk])
        rows += [_graded(row, both) for row, both in zip(chunk, verdicts, strict=True)]
        if progress:
            progress("verdicts", len(rows), k * len(golds) if k else 0)
    rows.sort(key=lambda row: (row["sample"], order[row["problem"]]))
    header = {"bench": bench, "checkers": dict(CHECKER_VERSIONS)}
    text = "".join(json.dumps(row) + "\n" for row in ({"header": header}, *rows))
    path = folder / f"{stem(bench)}.graded.jsonl"
    write_atomic(path, text)
    return path


def regrade(folder: Path, force: bool = False, progress: Progress | None = None) -> list[str]:
    """Grades again what an older version of a checker graded (or everything); returns the benchmarks it touched."""
    benches = read_manifest(folder).get("benches", {})
    touched = [name for name, entry in benches.items() if force or entry["checkers"] != CHECKER_VERSIONS]
    touched = [name for name in touched if not name.startswith("lm-eval:")]  # graded by lm-eval itself
    for name in touched:
        write_grades(folder, name, benches[name]["k"], progress)
    if touched:
        manifest = read_manifest(folder)
        for name in touched:
            manifest["benches"][name]["checkers"] = dict(CHECKER_VERSIONS)
        write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return touched


def _chunks(path: Path, golds: dict[str, str], k: int | None) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in iter_jsonl(path, repair=True):
        if "header" in row or row["problem"] not in golds or (k is not None and row["sample"] >= k):
            continue
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _graded(row: dict[str, Any], both: Graded) -> dict[str, Any]:
    def cut(text: str | None, length: int) -> str | None:
        # a lone surrogate, which a model may write, is no text that a table or a parquet file could hold
        return None if text is None else text[:length].encode("utf-8", "backslashreplace").decode()

    strict, paper = both.strict, both.paper
    return {
        "problem": row["problem"],
        "sample": row["sample"],
        "correct": strict.correct,
        "answer": cut(strict.extracted, _SHOWN),
        "parsed": cut(strict.parsed, _CLASS),
        "reason": strict.reason,
        "correct_paper": paper.correct,
        "answer_paper": cut(paper.extracted, _SHOWN),
        "reason_paper": paper.reason,
        "finish": row["finish"],
        "tokens": row["tokens"],
    }
