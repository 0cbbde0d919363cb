"""`opd grade`: verdicts again from kept generations; no model, no GPU."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.commands import console
from harness.errors import UserError

HELP = "grade kept generations again with this version's checkers"
EXAMPLES = "opd grade results/runs/eval-toy-student-1a2b3c4d\nopd grade results/runs/fire-0a1b2c3d"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="an evaluation's folder, or a run's: all its evaluations")


def run(args: argparse.Namespace) -> int:

    from harness.evaluation import regrade
    from harness.evaluation.evaluations import MANIFEST, evaluation_folder, load_evaluation
    from harness.evaluation.summary import measured, summary
    from harness.records import write_atomic
    from harness.runs.monitor import single_bar

    last = evaluation_folder(args.folder)
    if last is None:
        raise UserError(f"{args.folder} holds no evaluation: name the folder of `opd eval`, or of a run")
    folders = [last] if (args.folder / MANIFEST).exists() else sorted(last.parent.glob("step-*"))
    out = console()
    with single_bar("grading", out) as update:

        def progress(what: str, done: int, total: int, update: Any = update) -> None:
            update(f"{done} {what}", done / total if total else 0.0)

        for folder in folders:
            regrade(folder, force=True, progress=progress)
    evaluation = load_evaluation(last)
    found = measured(evaluation, list(evaluation.benches))
    write_atomic(last / "metrics.csv", found.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    out.print(summary(found))
    out.print(f"verdicts: {', '.join(map(str, folders))}", soft_wrap=True)
    return 0
