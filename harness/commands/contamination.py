"""`opd contamination`: whether a training file holds the problems of a benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.commands import console
from harness.errors import UserError

HELP = "look for benchmark problems in a training file: overlap of 13-grams"
EXAMPLES = """opd contamination train.parquet --bench aime24 minerva --data-dir BENCHMARKS
opd contamination train.jsonl --bench math500 --data-dir BENCHMARKS --threshold 0.6
opd contamination train.jsonl --bench aime24 --data-dir BENCHMARKS --evaluation results/runs/opd-0a1b2c3d"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "train", type=Path, help="JSONL or parquet with a column problem, prompt, question or messages (chat)"
    )
    parser.add_argument("--bench", nargs="+", required=True, help="names, or paths of JSONL/parquet files")
    parser.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    parser.add_argument(
        "--threshold", type=float, default=0.8, help="share of a problem's n-grams that flags it (default: %(default)s)"
    )
    parser.add_argument("--n", type=int, default=13, help="tokens of an n-gram (default: %(default)s)")
    parser.add_argument(
        "--evaluation", metavar="FOLDER|RUN|GRID/ARM", help="also show its avg@k without the flagged problems"
    )
    parser.add_argument("--out", type=Path, help="folder of contamination.csv (default: under results/runs)")


def run(args: argparse.Namespace) -> int:
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table

    from harness.benchmarks import contamination, load_benchmark
    from harness.evaluation.evaluations import load_evaluation
    from harness.records import RESULTS

    if str(args.train).startswith("toy:"):
        raise UserError(f"'{args.train}' is generated, from another split than every benchmark: name a training file")
    if not 0 < args.threshold <= 1:
        raise UserError(f"--threshold lies in (0, 1], got {args.threshold:g}")
    loaded = [load_benchmark(name, args.data_dir) for name in args.bench]
    names = [bench.spec.name for bench in loaded]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"benchmark '{min(doubled)}' is named twice: name it once")
    evaluation = load_evaluation(args.evaluation) if args.evaluation else None
    out = console()
    with Progress(console=out, transient=True, disable=not out.is_terminal) as bars:
        task = bars.add_task(args.train.name)
        matches = contamination.scan(
            args.train, loaded, args.n, lambda done, total: bars.update(task, completed=done, total=total)
        )
    table = Table()
    for column in ("benchmark", "n", "flagged", "any", *(("avg@k", "without flagged") if evaluation else ())):
        table.add_column(column, justify="left" if column == "benchmark" else "right", no_wrap=True)
    for bench in loaded:
        mine = [match for match in matches if match.bench == bench.spec.name]
        count = contamination.counts(mine, args.threshold)[bench.spec.name]
        cells = [escape(bench.spec.label), *(str(count[what]) for what in ("n", "flagged", "any"))]
        if evaluation:
            flagged = {match.problem for match in mine if match.share >= args.threshold}
            everything, rest = contamination.with_and_without(evaluation, bench.spec.name, flagged)
            cells += [_percent(everything), _percent(rest)]
        table.add_row(*cells)
    out.print(table)
    out.print(
        f"flagged: at least {100 * args.threshold:g} % of the problem's {args.n}-grams are in {args.train.name}; "
        f"any: at least one is",
        soft_wrap=True,
        markup=False,
    )
    if evaluation:
        said = f"{evaluation.name} in percent, with 95 % intervals over problems, strict checker"
        out.print(said, soft_wrap=True, markup=False)
    path = (args.out or RESULTS / "runs" / f"contamination-{args.train.stem}") / "contamination.csv"
    contamination.write_csv(matches, args.threshold, path)
    out.print(f"every problem with its best matching training row: {path}", soft_wrap=True, markup=False)
    return 0


def _percent(estimate: Any) -> str:
    if estimate is None:
        return "–"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
