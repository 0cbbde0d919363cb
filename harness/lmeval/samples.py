"""What `lm_eval --log_samples` wrote about an exported task, as responses to replay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError


def is_lm_eval_samples(path: Path) -> bool:
    """Whether a file is a log of lm-eval's samples, by the columns of its first line."""
    try:
        with path.open(encoding="utf-8") as lines:
            first = json.loads(next((line for line in lines if line.strip()), "null"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it as responses will say what is wrong
    return isinstance(first, dict) and {"doc_id", "doc", "resps"} <= first.keys()


def read_lm_eval_samples(path: Path) -> Iterator[dict[str, Any]]:
    """The responses to an exported task: `problem` (its id), `sample` (from 0), `response`, one row each.

    Raises:
        UserError: naming file and line, for a broken row or one of another kind of task.
    """
    from trainer.data import read_jsonl

    seen: dict[Any, Any] = {}  # document → filter; lm-eval repeats the responses for every filter
    for number, row in read_jsonl(path):
        doc, responses = row.get("doc"), row.get("resps")
        if not isinstance(doc, dict) or not isinstance(doc.get("problem"), str) or "gold" not in doc:
            raise UserError(
                f"{path}, line {number}: not of a task that `opd export-lm-eval` wrote; give the log of one"
            )
        if not (isinstance(responses, list) and len(responses) == 1 and isinstance(responses[0], list)):
            raise UserError(f"{path}, line {number}: no list of responses in the column 'resps'; mend or remove it")
        if seen.setdefault(row.get("doc_id"), row.get("filter")) != row.get("filter"):
            continue
        for sample, response in enumerate(responses[0]):
            yield {"problem": doc["problem"], "sample": sample, "response": str(response)}
