"""Evaluation: problems → generations (append-only JSONL, resumable) → verdicts of both checkers → sample rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.answers import CHECKER_VERSIONS, grade_many
from harness.benchmarks import LoadedBenchmark, prompt_hash, render_prompt
from harness.errors import UserError
from harness.records import append_jsonl, read_jsonl, write_atomic
from trainer.data import derive_seed

Progress = Callable[[int, int], None]  # (samples done, samples in all)


@dataclass(frozen=True)
class EvalPlan:
    """What to sample: k answers for every problem of a benchmark."""

    bench: str
    k: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    style: str = "clean"  # of the prompt: clean, paper or plain
    seed: int = 0
    limit: int | None = None  # only the first problems

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"option 'k' must be at least 1, got {self.k}")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"option 'limit' must be at least 1, got {self.limit}")

    @property
    def name(self) -> str:
        """Of the benchmark in files and tables: its registered name, or the stem of a user's file."""
        return Path(self.bench).stem


@dataclass(frozen=True)
class Response:
    """One generated answer."""

    problem: str
    sample: int
    text: str
    tokens: int
    finish: str


class Responder(Protocol):
    """Whatever can answer problems: an engine with its model, or a file of responses made elsewhere."""

    name: str  # identity of what answers; part of a generation file's header

    def answer(self, wanted: Sequence[tuple[str, str, int, int]]) -> list[Response]:
        """Responses to (problem id, rendered problem text, sample index, seed), in order."""
        ...

    block: int  # samples per call, always cut at the same places


class ModelResponder:
    """Answers with a transformers model through the rollout engine."""

    def __init__(self, engine: Any, policy: Any, plan: EvalPlan, name: str) -> None:
        self.engine, self.policy, self.plan, self.name = engine, policy, plan, name
        self.block = engine.batch

    def answer(self, wanted: Sequence[tuple[str, str, int, int]]) -> list[Response]:
        from trainer.rollout import Sampling

        prompts = [self.policy.render(text) for _, text, _, _ in wanted]
        sampling = Sampling(self.plan.max_tokens, self.plan.temperature, self.plan.top_p)
        samples = self.engine.generate(prompts, [seed for *_, seed in wanted], sampling)
        return [
            Response(problem, index, self.policy.decode(s.ids), len(s.ids), s.finish)
            for (problem, _, index, _), s in zip(wanted, samples, strict=True)
        ]


class ReplayResponder:
    """Responses made elsewhere: JSONL rows with `problem` (id, or number from 0), `response`, optionally `sample`."""

    block = 4096

    def __init__(self, path: Path, bench: LoadedBenchmark) -> None:
        from trainer.data import read_jsonl as read_user_jsonl

        self.name = f"replay:{path.name}"
        self.path = path
        ids = [p.id for p in bench.problems]
        self.found: dict[tuple[str, int], dict[str, Any]] = {}
        for number, row in read_user_jsonl(path):
            key = next((row[name] for name in ("problem", "problem_id", "id") if name in row), None)
            problem = ids[key] if isinstance(key, int) and 0 <= key < len(ids) else str(key)
            text = row.get("response")
            if problem not in ids:
                raise UserError(
                    f"{path}, line {number}: no problem {key!r} in {bench.spec.name}; use its ids or 0…{len(ids) - 1}"
                )
            if not isinstance(text, str):
                raise UserError(f"{path}, line {number}: no text in the column 'response'")
            count = sum(1 for p, _ in self.found if p == problem) if "sample" not in row else row["sample"]
            if not isinstance(count, int) or (problem, count) in self.found:
                raise UserError(
                    f"{path}, line {number}: sample {count!r} of problem {key!r} is given twice or not a number"
                )
            self.found[problem, count] = row

    def answer(self, wanted: Sequence[tuple[str, str, int, int]]) -> list[Response]:
        responses = []
        for problem, _, index, _ in wanted:
            row = self.found.get((problem, index))
            if row is None:
                raise UserError(
                    f"{self.path} has no sample {index} of problem '{problem}': give k samples of every problem, "
                    "or lower --k"
                )
            responses.append(
                Response(problem, index, row["response"], int(row.get("tokens", 0)), str(row.get("finish", "stop")))
            )
        return responses


def generate(
    responder: Responder, bench: LoadedBenchmark, plan: EvalPlan, path: Path, progress: Progress | None = None
) -> list[Response]:
    """All k answers to all problems, each exactly once; those already in `path` are kept.

    Work is cut into the same blocks at every start, and an unfinished block is drawn again as a whole, so that an
    interrupted evaluation ends with the very responses of an uninterrupted one. A larger k keeps the first ones.

    Raises:
        UserError: if `path` holds answers of another model, prompt or sampling.
    """
    problems = bench.problems[: plan.limit]
    texts = {p.id: render_prompt(p, plan.style) for p in problems}
    header = {
        "bench": plan.name,
        "responder": responder.name,
        "prompt_hash": prompt_hash(list(texts.values())),
        "sampling": {"max_tokens": plan.max_tokens, "temperature": plan.temperature, "top_p": plan.top_p},
        "seed": plan.seed,
    }
    rows = read_jsonl(path, repair=True)
    if rows and rows[0] != {"header": header}:
        changed = sorted(name for name in header if rows[0].get("header", {}).get(name) != header[name])
        raise UserError(
            f"{path} holds generations of another setting (it differs in {', '.join(changed)}): move it away"
        )
    if not rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_jsonl(path, [{"header": header}])
    done = {(row["problem"], row["sample"]): _response(row) for row in rows[1:]}
    wanted = [
        (p.id, texts[p.id], sample, derive_seed("eval", plan.seed, plan.name, p.id, sample))
        for sample in range(plan.k)
        for p in problems
    ]
    for start in range(0, len(wanted), responder.block):
        block = wanted[start : start + responder.block]
        if any((problem, sample) not in done for problem, _, sample, _ in block):
            fresh = [r for r in responder.answer(block) if (r.problem, r.sample) not in done]
            append_jsonl(path, [_row(r) for r in fresh])
            done |= {(r.problem, r.sample): r for r in fresh}
        if progress:
            progress(min(start + responder.block, len(wanted)), len(wanted))
    return [done[problem, sample] for problem, _, sample, _ in wanted]


def _row(response: Response) -> dict[str, Any]:
    return {
        "problem": response.problem,
        "sample": response.sample,
        "response": response.text,
        "tokens": response.tokens,
        "finish": response.finish,
    }


def _response(row: dict[str, Any]) -> Response:
    return Response(row["problem"], row["sample"], row["response"], row["tokens"], row["finish"])


def evaluate(
    responder: Responder, bench: LoadedBenchmark, plan: EvalPlan, folder: Path, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Generates and grades; returns the sample rows (see `records.Records.samples`), which it also keeps in `folder`.

    `folder` gets `<bench>.jsonl` (generations) and `<bench>.graded.jsonl` (a row per sample with both verdicts).
    """
    responses = generate(responder, bench, plan, folder / f"{plan.name}.jsonl", progress)
    golds = {p.id: p.answer for p in bench.problems}
    graded = grade_many([(r.text, golds[r.problem], plan.name) for r in responses])
    rows: list[dict[str, Any]] = [
        {
            "problem": r.problem,
            "sample": r.sample,
            "correct": g.strict.correct,
            "correct_paper": g.paper.correct,
            "answer": None if g.strict.extracted is None else g.strict.extracted[:64],
            "reason": g.strict.reason,
            "finish": r.finish,
            "tokens": r.tokens,
        }
        for r, g in zip(responses, graded, strict=True)
    ]
    write_atomic(
        folder / f"{plan.name}.graded.jsonl",
        "".join(json.dumps({"bench": plan.name, "gold": golds[row["problem"]], **row}) + "\n" for row in rows),
    )
    return [{"bench": plan.name, **row} for row in rows]


def checker_version() -> str:
    """Version of the strict checker, whose verdicts tables show."""
    return CHECKER_VERSIONS["strict"]


def toy_plan(bench: str, k: int, seed: int = 0) -> EvalPlan:
    """The plan of a toy benchmark: bare problem text, short answers."""
    return EvalPlan(bench, k, max_tokens=96, style="plain", seed=seed)
