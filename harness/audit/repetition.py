"""A run made again beside its kept record: which steps and answers are the same, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.errors import UserError
from harness.records import Records
from harness.tables.standings import CHECKERS

#: What makes a graded answer the same answer.
_ANSWER = ("step", "bench", "problem", "sample")


@dataclass(frozen=True)
class Agreement:
    """How far two records of one run agree.

    Attributes:
        steps, answers: (the same in both, in either).
        first: (step, column, kept, here) where training first differs; None where it nowhere does.
        accuracies: benchmark → (kept, here) after the last step, in percent, by the kept checker.
    """

    steps: tuple[int, int]
    answers: tuple[int, int]
    first: tuple[int, str, Any, Any] | None
    accuracies: dict[str, tuple[float, float]]

    @property
    def whole(self) -> bool:
        return self.steps[0] == self.steps[1] and self.answers[0] == self.answers[1]


def agreement(kept: Records, here: Records, arm: str, seed: int) -> Agreement:
    """Compares one run in two records: of every step all that was recorded, of every answer verdicts, text and length.

    What a step cost is left out: no two runs cost the same.

    Raises:
        UserError: if the kept records have no such run.
    """
    theirs, ours = (_of(records.samples, arm, seed) for records in (kept, here))
    if theirs.empty:
        raise UserError(f"the records of '{kept.manifest['grid']}' have no run of arm '{arm}' with seed {seed}")
    answers = _same(theirs.set_index(list(_ANSWER)), ours.set_index(list(_ANSWER)))
    before, after = (
        (_of(records.steps, arm, seed) if len(records.steps) else pd.DataFrame({"step": []})).set_index("step")
        for records in (kept, here)
    )
    steps = _same(before, after)
    first = None
    if not steps.all(axis=None):
        step = steps.index[~steps.all(axis=1)][0]
        column = steps.columns[~steps.loc[step]][0]
        first = (int(step), str(column), *(frame[column].get(step) for frame in (before, after)))
    return Agreement(_count(steps), _count(answers), first, _accuracies(theirs, ours, kept.manifest))


def _of(frame: pd.DataFrame, arm: str, seed: int) -> pd.DataFrame:
    return frame[(frame["arm"] == arm) & (frame["seed"] == seed)].drop(columns=["arm", "seed"])


def _same(kept: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    """Entry by entry, over the rows of either; an entry that is missing in both is the same."""
    rows = kept.index.union(here.index)
    kept, here = (frame.reindex(rows).astype(object) for frame in (kept, here.reindex(columns=kept.columns)))
    return (kept == here) | (kept.isna() & here.isna())


def _count(same: pd.DataFrame) -> tuple[int, int]:
    return int(same.all(axis=1).sum()), len(same)


def _accuracies(theirs: pd.DataFrame, ours: pd.DataFrame, manifest: dict[str, Any]) -> dict[str, tuple[float, float]]:
    correct = CHECKERS[manifest["checker"]]
    last = theirs["step"].max()
    kept, here = (100.0 * frame[frame["step"] == last].groupby("bench")[correct].mean() for frame in (theirs, ours))
    return {bench: (float(kept[bench]), float(here.get(bench, float("nan")))) for bench in manifest["benches"]}
