"""An evaluation in numbers: every metric by benchmark, slice and checker, and the few of them for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from harness.evaluation.metrics import metrics
from harness.formats import HOLE, interval, percent
from harness.tables.markup import shorten
from harness.tables.standings import CHECKERS

if TYPE_CHECKING:
    from harness.evaluation.evaluations import Evaluation

WHOLE = "all"
_COLUMNS = ("n", "k", "avg@k\nstrict", "avg@k\npaper", "pass@k", "maj@k", "no\nanswer", "trun-\ncated", "tokens")


def measured(evaluation: Evaluation, benches: Sequence[str]) -> pd.DataFrame:
    """The frame of `evaluation.metrics` for each benchmark, its slices, and both checkers, one below the other.

    Raises:
        UserError: if samples are missing.
    """
    frames = []
    for bench in benches:
        entry, rows = evaluation.benches[bench], evaluation.rows(bench)
        slices = entry.get("slices") or {}
        parts = {WHOLE: rows} | {
            name: rows[rows["problem"].map(slices) == name] for name in dict.fromkeys(slices.values())
        }
        for part, chosen in parts.items():
            for checker, column in CHECKERS.items():
                if len(chosen) and chosen[column].notna().all():
                    frame = metrics(chosen, clusters=entry.get("clusters"), checker=checker)
                    frames.append(frame.assign(bench=bench, part=part, checker=checker))
    found = pd.concat(frames, ignore_index=True)
    return found[["bench", "part", "checker", *(c for c in found if c not in ("bench", "part", "checker"))]]


def summary(frame: pd.DataFrame) -> Table:
    """The rows of `measured` for people: avg@k under both checkers, pass@k and maj@k at the same k, what went wrong."""
    caption = (
        "percent ± half-width of the 95 % t interval over problems ([low, high] where it is not symmetric); "
        "tokens: mean length"
    )
    table = Table(caption=Text(caption), caption_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("benchmark", overflow="fold", min_width=13)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for (bench, part), rows in frame.groupby(["bench", "part"], sort=False):
        whole = part == WHOLE
        label = Text(shorten(str(bench)) if whole else f"· {shorten(str(part))}", style="" if whole else "dim")
        table.add_row(label, *_cells(rows), style="" if whole else "dim")
    return table


def _cells(rows: pd.DataFrame) -> list[str]:
    by_checker = {checker: _by_name(part) for checker, part in rows.groupby("checker")}
    strict, paper = by_checker["strict"], by_checker.get("paper")
    average = next(row for name, row in strict.items() if name.startswith("avg@"))
    k = int(average["k"])
    tokens = strict["length mean"]["value"]
    return [
        str(int(average["n"])),
        str(k),
        _estimate(average),
        _estimate(paper[f"avg@{k}"]) if paper else HOLE,
        percent(strict[f"pass@{k}"]["value"]),
        percent(strict[f"maj@{k}"]["value"]),
        percent(strict["no answer"]["value"]),
        percent(strict["truncated"]["value"]),
        HOLE if pd.isna(tokens) else f"{tokens:.0f}",
    ]


def _by_name(rows: pd.DataFrame) -> dict[str, Mapping[Any, Any]]:
    return {str(row["metric"]): row for row in rows.to_dict("records")}


def _estimate(row: Mapping[Any, Any]) -> str:
    return interval(row["value"], row["low"], row["high"])
