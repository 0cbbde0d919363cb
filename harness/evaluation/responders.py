"""What answers benchmark problems: a rollout engine with its model, or a file of responses made elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harness.benchmarks import LoadedBenchmark, prompt_hash
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.evaluation import EvalPlan

BATCH = 256  # answers decoded side by side


class Wanted(NamedTuple):
    """One sample to draw: of which problem, its user turn, which of the k, and the seed that is its alone."""

    problem: str
    text: str
    sample: int
    seed: int


@dataclass(frozen=True)
class Response:
    """One generated answer; `finish` is "stop", or "length" where it was cut at the length limit."""

    problem: str
    sample: int
    text: str
    tokens: int
    finish: str


class Responder(Protocol):
    """Whatever can answer problems.

    Attributes:
        name: identity of what answers (a model with its fingerprint); part of a generation file's header.
        engine: what kind of thing it is, for people.
        block: samples asked for at once; blocks are always cut at the same places.
        redraw: an interrupted block is drawn again as a whole, which a bit-for-bit engine needs, because the shape of
            a batch shows in the last bits. Elsewhere only what is missing is asked for.
    """

    name: str
    engine: str
    block: int
    redraw: bool

    def rendered(self, texts: Sequence[str]) -> str | None:
        """Hash of the prompts as the model sees them (token ids under its chat template); None where unknown."""
        ...

    def answer(self, wanted: Sequence[Wanted]) -> Iterator[Response]:
        """The responses as they finish, in any order."""
        ...


class ModelResponder:
    """Answers through a rollout engine that holds a model.

    Args:
        engine: a rollout engine with `batch` and with `stream`, which gives (index, sample) as samples are done.
        render, decode: a user turn → token ids, token ids → text.
        sampling: of the engine.
        redraw: see `Responder`.
    """

    def __init__(
        self,
        engine: Any,
        render: Callable[[str], Sequence[int]],
        decode: Callable[[Sequence[int]], str],
        sampling: Any,
        name: str,
        kind: str = "hf",
        redraw: bool = True,
    ) -> None:
        self.generator, self.decode, self.sampling = engine, decode, sampling
        self.render = functools.cache(lambda text: tuple(render(text)))  # each user turn serves k samples
        self.name, self.engine, self.redraw = name, kind, redraw
        self.block: int = engine.batch

    def rendered(self, texts: Sequence[str]) -> str:
        return prompt_hash(",".join(map(str, self.render(text))) for text in texts)

    def answer(self, wanted: Sequence[Wanted]) -> Iterator[Response]:
        prompts = [self.render(one.text) for one in wanted]
        # Some templates open the thought themselves; without its opening a cut thought would read as an answer.
        opened = ["<think>\n" if self._opens_thought(ids) else "" for ids in prompts]
        for at, sample in self.generator.stream(prompts, [one.seed for one in wanted], self.sampling):
            one, text = wanted[at], opened[at] + self.decode(sample.ids)
            yield Response(one.problem, one.sample, text, len(sample.ids), sample.finish)

    def _opens_thought(self, ids: Sequence[int]) -> bool:
        return self.decode(ids[-4:]).rstrip().endswith("<think>")


def of_policy(policy: Any, plan: EvalPlan, name: str) -> ModelResponder:
    """A transformers model as what answers a plan's problems."""
    from trainer.engines import HFEngine
    from trainer.rollout import Sampling

    sampling = Sampling(plan.max_tokens, plan.temperature, plan.top_p)
    render = functools.partial(policy.render, thinking=plan.thinking)
    return ModelResponder(HFEngine(policy, BATCH), render, policy.decode, sampling, name)


def of_vllm(engine: Any, plan: EvalPlan, name: str) -> ModelResponder:
    """A `trainer.vllm_engine.VLLMEngine` as what answers."""
    from trainer.rollout import Sampling

    sampling = Sampling(plan.max_tokens, plan.temperature, plan.top_p)
    render = functools.partial(engine.render, thinking=plan.thinking)
    return ModelResponder(engine, render, engine.decode, sampling, name, kind="vllm", redraw=False)


class ReplayResponder:
    """Responses made elsewhere: JSONL rows with `problem` (id, or number from 0), `response`, optionally `sample`,
    `tokens`, `finish`; or the samples that lm-eval logs for an exported task."""

    engine = "replay"
    block = 4096
    redraw = False

    def __init__(self, path: Path, bench: LoadedBenchmark, name: str = "") -> None:
        self.name = name or f"replay:{path.name}"
        self.path = path
        ids = [p.id for p in bench.problems]
        known = set(ids)
        self.found: dict[tuple[str, int], dict[str, Any]] = {}
        given: dict[str, int] = {}
        for number, row in _rows(path):
            key = next((row[name] for name in ("problem", "problem_id", "id") if name in row), None)
            problem = ids[key] if isinstance(key, int) and 0 <= key < len(ids) else str(key)
            text = row.get("response")
            if problem not in known:
                raise UserError(
                    f"{path}, line {number}: no problem {key!r} in {bench.spec.name}; use its ids or 0…{len(ids) - 1}"
                )
            if not isinstance(text, str):
                raise UserError(f"{path}, line {number}: no text in the column 'response'")
            sample = given.get(problem, 0) if "sample" not in row else row["sample"]
            if not isinstance(sample, int) or (problem, sample) in self.found:
                raise UserError(
                    f"{path}, line {number}: sample {sample!r} of problem {key!r} is given twice or not a number"
                )
            given[problem] = given.get(problem, 0) + 1
            self.found[problem, sample] = row

    def rendered(self, texts: Sequence[str]) -> None:
        return None

    def answer(self, wanted: Sequence[Wanted]) -> Iterator[Response]:
        for one in wanted:
            row = self.found.get((one.problem, one.sample))
            if row is None:
                raise UserError(
                    f"{self.path} has no sample {one.sample} of problem '{one.problem}': give k samples of every "
                    "problem, or lower --k"
                )
            yield Response(
                one.problem, one.sample, row["response"], int(row.get("tokens", 0)), str(row.get("finish", "stop"))
            )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, row) of a user's file, lm-eval's logged samples brought into our columns."""
    from harness.lmeval import is_lm_eval_samples, read_lm_eval_samples
    from trainer.data import read_jsonl

    if is_lm_eval_samples(path):
        yield from enumerate(read_lm_eval_samples(path), 1)
    else:
        yield from read_jsonl(path)
