"""Finished evaluations, read: from a folder of `opd eval`, from a run, or from an arm of kept records. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from harness.errors import UserError
from harness.records import RESULTS, iter_jsonl, load

MANIFEST: Final = "evaluation.json"
COLUMNS: Final = (
    "bench",
    "seed",
    "problem",
    "sample",
    "correct",
    "correct_paper",
    "answer",
    "parsed",
    "reason",
    "finish",
    "tokens",
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Graded samples of one model, or of one arm over its training seeds.

    Attributes:
        benches: what each benchmark was measured with, see `harness.evaluation`.
        samples: a row per graded answer, with the columns `COLUMNS`.
    """

    name: str
    folder: Path | None
    benches: dict[str, dict[str, Any]]
    samples: pd.DataFrame

    def rows(self, bench: str) -> pd.DataFrame:
        """The samples of one benchmark."""
        return self.samples[self.samples["bench"] == bench]


def stem(bench: str) -> str:
    """What the files of a benchmark are called: its name without the colon of `lm-eval:TASK`."""
    return bench.replace(":", ".").replace("/", "-")


def load_evaluation(ref: str | Path) -> Evaluation:
    """An evaluation by its folder, by a run's folder (the last evaluation in it), or as GRID/ARM of kept records.

    Raises:
        UserError: if there is none under that name, or its files are broken.
    """
    folder = evaluation_folder(ref)
    if folder is not None:
        return _from_folder(folder, str(ref))
    grid, _, arm = str(ref).rpartition("/")
    if grid and ((RESULTS / "records" / grid).is_dir() or (Path(grid) / "manifest.json").exists()):
        return _from_records(grid, arm)
    raise UserError(
        f"no evaluation '{ref}': name a folder of `opd eval`, the folder of a run, or GRID/ARM of kept records"
    )


def evaluation_folder(ref: str | Path) -> Path | None:
    """The folder with the manifest that a folder or a run's name stands for, None where there is none."""
    for folder in (Path(ref), RESULTS / "runs" / str(ref)):
        if (folder / MANIFEST).exists():
            return folder
        steps = sorted(path.parent for path in folder.glob(f"eval/step-*/{MANIFEST}"))
        if steps:
            return steps[-1]
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an evaluation folder; empty where there is none yet.

    Raises:
        UserError: if it is not the JSON that we write.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise UserError(f"{path} is not the manifest of an evaluation: remove it and evaluate again") from None


def problems(folder: Path, bench: str) -> dict[str, dict[str, Any]]:
    """What was asked: id → row with `text`, `gold`, `family`, `slice`."""
    return {row["problem"]: row for row in iter_jsonl(folder / f"{stem(bench)}.problems.jsonl")}


def responses(folder: Path, bench: str) -> Iterator[dict[str, Any]]:
    """The generated answers one by one, in the order in which they were made."""
    return (row for row in iter_jsonl(folder / f"{stem(bench)}.jsonl") if "header" not in row)


def graded(folder: Path, bench: str) -> list[dict[str, Any]]:
    """A row per graded answer, both verdicts, without the text."""
    return [row for row in iter_jsonl(folder / f"{stem(bench)}.graded.jsonl") if "header" not in row]


def _from_folder(folder: Path, name: str) -> Evaluation:
    manifest = read_manifest(folder)
    rows = [{"bench": bench, "seed": 0, **row} for bench in manifest["benches"] for row in graded(folder, bench)]
    return Evaluation(name, folder, manifest["benches"], pd.DataFrame(rows, columns=list(COLUMNS)))


def _from_records(grid: str, arm: str) -> Evaluation:
    records = load(grid)
    manifest: Mapping[str, Any] = records.manifest
    if arm not in manifest["arms"]:
        raise UserError(f"grid '{grid}' has no arm '{arm}': it has {', '.join(manifest['arms'])}")
    samples = records.samples
    last = 0 if manifest["arms"][arm].get("reference") else manifest["final_step"]
    kept = samples[
        (samples["arm"] == arm) & (samples["step"] == last) & samples["bench"].isin(list(manifest["benches"]))
    ]
    benches = {name: bench for name, bench in manifest["benches"].items() if (kept["bench"] == name).any()}
    return Evaluation(f"{grid}/{arm}", None, benches, kept.reindex(columns=list(COLUMNS)).reset_index(drop=True))
