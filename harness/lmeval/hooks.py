"""What an exported task folder calls from inside lm-eval: its documents, and the score of one document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.answers import CHECKER_VERSIONS, grade_many
from harness.errors import UserError

COLUMNS = ("problem", "text", "gold", "bench")
#: Metric of a document → whether more of it is better.
METRICS = {"avg_at_k": True, "avg_at_k_paper": True, "no_answer": False, "distinct": True}


def documents(path: Path, k: int, checkers: Mapping[str, str]) -> Any:
    """The problems of a task as a data set with the split `test`; `k` samples each are expected.

    Raises:
        UserError: if the folder was exported for other versions of the checkers than those that would grade.
    """
    from datasets import Dataset, DatasetDict, Features, Value

    if dict(checkers) != CHECKER_VERSIONS:
        raise UserError(
            f"{path.parent} was exported for the checkers {', '.join(checkers.values())}, installed are "
            f"{', '.join(CHECKER_VERSIONS.values())}: export it again"
        )
    # Declared types: a reader that guesses turns a gold like 2024-01-01 into a date.
    features = Features({**{name: Value("string") for name in COLUMNS}, "k": Value("int64")})
    rows = [{**json.loads(line), "k": k} for line in path.read_text(encoding="utf-8").split("\n") if line]
    return DatasetDict({"test": Dataset.from_list(rows, features=features)})


def score(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """The metrics of one document, each a mean over its k samples, so that lm-eval's standard error is over problems.

    Raises:
        UserError: if lm-eval hands over anything but all k samples.
    """
    samples = results[0]
    if not isinstance(samples, (list, tuple)) or len(samples) != doc["k"]:
        given = len(samples) if isinstance(samples, (list, tuple)) else 1
        raise UserError(
            f"{given} of {doc['k']} samples of '{doc['problem']}' reached the checkers: `repeats`, the filter "
            "take_first_k and `k` must agree in the task's YAML; export the folder again"
        )
    graded = grade_many([(str(text), doc["gold"], doc["bench"]) for text in samples])
    return {
        "avg_at_k": sum(one.strict.correct for one in graded) / len(graded),
        "avg_at_k_paper": sum(one.paper.correct for one in graded) / len(graded),
        "no_answer": sum(one.strict.extracted is None for one in graded) / len(graded),
        "distinct": len(set(map(str, samples))) / len(graded),
    }
