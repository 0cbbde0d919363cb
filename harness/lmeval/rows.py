"""lm-eval's verdicts on the documents of a task → our problems, generations and graded rows."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from harness.errors import UserError

Sample = Mapping[str, Any]  # lm-eval's record of one document under one filter

#: Metrics that say whether a document was solved, the first present one wins.
MAIN: Final = (
    "exact_match",
    "acc",
    "acc_norm",
    "pass@1",
    "pass_at_1",
    "prompt_level_strict_acc",
    "em",
    "exact",
    "accuracy",
    "math_verify",
)
_NO_MATCH: Final = "[invalid]"  # what lm-eval's regular expressions give where they find nothing


class Choice(NamedTuple):
    """The metric whose values are the verdicts, and the filter its answers went through."""

    metric: str
    filter: str


@dataclass(frozen=True)
class Facts:
    """What the rows need to know of a task.

    Attributes:
        kind: lm-eval's output type.
        choices: the options of a document, for multiple choice.
        tokens: length of a text, for generated answers.
        longest: tokens at which an answer is cut.
        regrade: verdict and answer of each sample of a document, where lm-eval itself looks at the first only.
    """

    kind: str
    choices: Callable[[Any], Sequence[str]] | None = None
    tokens: Callable[[str], int] = lambda text: 0
    longest: int = 0
    regrade: Callable[[Sample], list[tuple[bool, Any]]] | None = None


class Tables(NamedTuple):
    """The rows of the three files of a benchmark."""

    problems: list[dict[str, Any]]
    generations: list[dict[str, Any]]
    graded: list[dict[str, Any]]


def verdict(value: Any) -> bool | None:
    """A metric's value for one document, if it is 0 or 1."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return bool(value) if isinstance(value, numbers.Real) and value in (0, 1) else None


def choose(task: str, samples: Sequence[Sample], wanted: str | None = None) -> Choice | None:
    """Which metric gives the verdicts; None where none of `MAIN` is 0/1 on every document.

    Raises:
        UserError: if a metric was asked for that the task lacks, or that is no verdict.
    """
    there = list(dict.fromkeys(Choice(metric, one["filter"]) for one in samples for metric in one["metrics"]))
    if wanted is not None:
        metric, _, pipeline = wanted.partition(",")
        for choice in there:
            if choice.metric == metric and pipeline in ("", choice.filter):
                if _all_verdicts(samples, choice):
                    return choice
                raise UserError(f"metric '{wanted}' of lm-eval task '{task}' is not 0 or 1 on every document")
        names = ", ".join(f"{choice.metric},{choice.filter}" for choice in there)
        raise UserError(f"lm-eval task '{task}' has no metric '{wanted}': it has {names}")
    ranked = sorted((c for c in there if c.metric in MAIN), key=lambda c: MAIN.index(c.metric))
    return next((choice for choice in ranked if _all_verdicts(samples, choice)), None)


def _all_verdicts(samples: Sequence[Sample], choice: Choice) -> bool:
    kept = [one for one in samples if one["filter"] == choice.filter]
    return all(choice.metric in one and verdict(one[choice.metric]) is not None for one in kept)


def tables(task: str, samples: Sequence[Sample], choice: Choice, facts: Facts) -> Tables:
    """The rows of a task, problems in lm-eval's order, verdicts in (sample, problem) order.

    Every sample has a verdict where `facts.regrade` can give one; else there is one verdict per document.
    """
    made = Tables([], [], [])
    for one in sorted((s for s in samples if s["filter"] == choice.filter), key=lambda s: s["doc_id"]):
        problem = f"{task}-{one['doc_id']}"
        gold = _gold(one, facts)
        made.problems.append({"problem": problem, "text": prompt(one), "gold": gold, "family": problem, "slice": None})
        lengths = []
        for sample, text in enumerate(_responses(one, facts)):
            lengths.append(facts.tokens(text) if facts.kind == "generate_until" else 0)
            made.generations.append(
                {
                    "problem": problem,
                    "sample": sample,
                    "response": text,
                    "tokens": lengths[-1],
                    "finish": _finish(lengths[-1], facts),
                }
            )
        alone = [(bool(verdict(one[choice.metric])), _answer(one, choice, facts))]
        verdicts = facts.regrade(one) if facts.regrade else alone
        for sample, (correct, answer) in enumerate(verdicts):
            answer = None if answer is None or answer == _NO_MATCH else str(answer)
            made.graded.append(
                {
                    "problem": problem,
                    "sample": sample,
                    "correct": correct,
                    "answer": None if answer is None else answer[:200],
                    "parsed": None if answer is None else answer.strip()[:64],
                    "reason": f"lm-eval: {choice.metric}, filter {choice.filter}",
                    "correct_paper": None,
                    "answer_paper": None,
                    "reason_paper": None,
                    "finish": _finish(lengths[sample], facts),
                    "tokens": lengths[sample],
                }
            )
    made.graded.sort(key=lambda row: row["sample"])  # stable: problems stay in order
    return made


def _finish(tokens: int, facts: Facts) -> str:
    return "length" if facts.kind == "generate_until" and 0 < facts.longest <= tokens else "stop"


def prompt(one: Sample) -> str:
    """The prompt of a document as it was sent."""
    text = one["arguments"][0][0]
    return str(text[0] if isinstance(text, tuple) else text)  # a chat server's messages are JSON in a tuple


def _responses(one: Sample, facts: Facts) -> list[str]:
    """What the model gave: texts, or for a multiple choice the log-likelihood of every option."""
    if facts.kind == "generate_until":
        return [str(text) for text in one["resps"][0]]
    scores = _scores(one)
    options = list(facts.choices(one["doc"])) if facts.choices else [str(a[-1]) for a in one["arguments"]]
    return ["\n".join(f"{score:.4f}\t{option}" for score, option in zip(scores, options, strict=False))]


def _scores(one: Sample) -> list[float]:
    return [float(answers[0][0]) for answers in one["resps"]]


def _answer(one: Sample, choice: Choice, facts: Facts) -> Any:
    if facts.kind == "generate_until":
        kept = one["filtered_resps"][0]
        if isinstance(kept, (list, tuple)):
            kept = kept[0] if len(kept) == 1 else None
        return kept if isinstance(kept, str) else None
    if facts.kind != "multiple_choice" or facts.choices is None or choice.metric not in ("acc", "acc_norm"):
        return None
    options, scores = list(facts.choices(one["doc"])), _scores(one)
    if choice.metric == "acc_norm":
        scores = [score / max(1, len(option)) for score, option in zip(scores, options, strict=False)]
    return options[max(range(min(len(scores), len(options))), key=scores.__getitem__)]


def _gold(one: Sample, facts: Facts) -> str:
    target = one["target"]
    if isinstance(target, int) and not isinstance(target, bool) and facts.choices is not None:
        options = list(facts.choices(one["doc"]))
        target = options[target] if 0 <= target < len(options) else target
    return ", ".join(map(str, target)) if isinstance(target, (list, tuple)) else str(target)
