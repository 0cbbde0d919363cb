"""`opd compare`: two evaluations, problem by problem."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from harness.commands import console

HELP = "compare two evaluations on the same problems, and show which problems carry the difference"
EXAMPLES = """opd compare quickstart/opd quickstart/fire
opd compare results/runs/opd-0a1b2c3d results/runs/fire-4e5f6a7b
opd compare EVAL_A EVAL_B --allow sampling --out /tmp/comparison"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help="an evaluation's folder, a run's folder, or GRID/ARM of kept records")
    parser.add_argument("b", help="likewise; differences are B − A")
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        choices=["prompt", "checker", "problems", "k", "sampling"],
        help="compare although the two differ in this; the output says so",
    )
    parser.add_argument("--checker", choices=["strict", "paper"], default="strict", help="of the picture")
    parser.add_argument("--out", type=Path, help="folder of tables and figures (default: results/compare/A--B)")


def run(args: argparse.Namespace) -> int:
    from rich.text import Text

    from harness.evaluation.evaluations import load_evaluation
    from harness.plots.dumbbells import figure
    from harness.plots.style import save
    from harness.records import RESULTS, write_atomic
    from harness.tables import markup, pairing

    a, b = load_evaluation(args.a), load_evaluation(args.b)
    pairs, warnings = pairing.pair(a, b, args.allow)
    frame = pairing.compare(pairs)
    problems = pairing.by_problem(pairs, args.checker)
    out = args.out or RESULTS / "compare" / f"{_slug(args.a)}--{_slug(args.b)}"
    out.mkdir(parents=True, exist_ok=True)
    table = pairing.table(frame, a.name, b.name, warnings)
    write_atomic(out / "comparison.md", markup.markdown(table))
    write_atomic(out / "comparison.csv", frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_atomic(out / "problems.csv", problems.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    terminal = console()
    terminal.print(markup.to_rich(table))
    left, right = (markup.shorten(Path(e.name).name if e.folder else e.name) for e in (a, b))
    for one in pairs:
        rows = problems[problems["bench"] == one.bench]
        if rows.empty:
            continue
        terminal.print(Text(f"{one.label}: {pairing.carriers(rows['delta'])}"))
        drawn = figure(rows, left, right, f"{one.label}, {args.checker} checker")
        save(drawn, rows, out / _slug(one.bench))
    terminal.print(f"tables and pictures: {out}", soft_wrap=True)
    return 0


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(name)).strip("-.") or "evaluation"
