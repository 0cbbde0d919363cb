"""The command line. Each command is a few lines over the modules that do the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import UserError

EXAMPLES = """examples:
  opd quickstart                                   train, evaluate and compare on the toy world (minutes, no GPU)
  opd methods                                      the table of objectives
  opd methods fire                                 one of them, with every hyper-parameter and its path for --set
  opd train --method fire --student toy:student --teacher toy:teacher-math --data toy:math --set keep.fraction=0.3
  opd train --method full-rkl --student toy:student --teacher math=toy:teacher-math --teacher code=toy:teacher-code \\
            --data toy:math+code --bench toy-aime toy-code
  opd eval toy:student --bench toy-aime --k 32
  opd eval DIR --bench aime24 minerva --data-dir BENCHMARKS --k 8
  opd eval - --engine replay --responses answers.jsonl --bench aime24 --data-dir BENCHMARKS --k 1
  opd ablate ablations/quickstart.py --dry-run     what would run, what is there
  opd report quickstart                            tables, figures and page again, from the kept records
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for a failed run, 2 for bad input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        return args.command(args)
    except UserError as error:
        print(f"opd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("opd: stopped; the same command continues where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opd",
        description="A laboratory for on-policy distillation: train, evaluate, ablate, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], help: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(command=run)
        return made

    from harness import commands as do

    quick = add("quickstart", do.quickstart, "train several objectives on the toy world, evaluate and compare them")
    _grid_options(quick)

    methods = add(
        "methods",
        do.methods,
        "list the objectives, or explain one",
        "examples:\n  opd methods fire\n  opd methods --filter TopFraction\n  opd methods --filter 2606.02684 --json",
    )
    methods.add_argument("name", nargs="?", help="a method to explain")
    methods.add_argument("--filter", metavar="TEXT", help="only lines whose name, change, paper or blocks contain this")
    methods.add_argument("--json", action="store_true", help="the table as JSON")

    train = add(
        "train",
        do.train,
        "distil a teacher, or several, into a student",
        "examples:\n  opd train --method fire --student toy:student --teacher toy:teacher-math --data toy:math\n"
        "  opd train --method opd --student DIR --teacher DIR --data problems.jsonl --set optim.lr=1e-6 --steps 100",
    )
    train.add_argument("--method", required=True, help="a name of `opd methods`")
    train.add_argument("--student", required=True, help="a transformers folder, or toy:student")
    train.add_argument(
        "--teacher",
        required=True,
        action="append",
        metavar="[DOMAIN=]MODEL",
        help="repeat with DOMAIN= to route by domain",
    )
    train.add_argument(
        "--data", required=True, help="a JSONL file (problem, answer, domain), or toy:math, toy:math+code"
    )
    train.add_argument("--steps", type=int, default=60, help="optimisation steps (default: %(default)s)")
    train.add_argument("--prompts", type=int, default=64, help="prompts per step (default: %(default)s)")
    train.add_argument("--samples", type=int, default=1, help="rollouts per prompt (default: %(default)s)")
    train.add_argument("--max-tokens", type=int, default=64, help="longest response (default: %(default)s)")
    train.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    train.add_argument("--seed", type=int, default=0, help="of prompts and sampling (default: %(default)s)")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="edits",
        help="a hyper-parameter of the method or the run: keep.fraction=0.3, optim.decay=cosine (repeatable)",
    )
    train.add_argument("--importance-cap", type=float, help="truncated importance weights for engine mismatch (off)")
    train.add_argument("--bench", nargs="*", default=[], help="benchmarks to evaluate on at the end")
    train.add_argument("--k", type=int, help="samples per problem (default: the benchmark's own)")
    train.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    train.add_argument("--device", default="cpu", help="(default: %(default)s)")
    train.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="(default: %(default)s)")
    train.add_argument("--micro-batch", type=int, default=64, help="rollouts per pass; never changes the mathematics")
    train.add_argument("--checkpoint-every", type=int, default=10, help="steps (default: %(default)s)")
    train.add_argument("--out", type=Path, help="folder of the run (default: results/runs/<run id>)")

    ev = add(
        "eval",
        do.evaluate,
        "sample answers of a model to benchmark problems and grade them with both checkers",
        "examples:\n  opd eval toy:student --bench toy-aime --k 32\n"
        "  opd eval DIR --bench aime24 minerva --data-dir BENCHMARKS --k 8 --limit 5\n"
        "  opd eval - --engine replay --responses FILE --bench aime24 --data-dir BENCHMARKS --k 1",
    )
    ev.add_argument("model", help="a transformers folder, a run's folder, toy:student, or - with --engine replay")
    ev.add_argument("--bench", nargs="+", required=True, help="names, or paths of JSONL/parquet files")
    ev.add_argument("--k", type=int, help="samples per problem (default: the benchmark's own)")
    ev.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    ev.add_argument("--limit", type=int, help="only the first problems")
    ev.add_argument("--engine", choices=["hf", "replay"], default="hf", help="(default: %(default)s)")
    ev.add_argument("--responses", type=Path, help="with --engine replay: JSONL of problem, response[, sample]")
    ev.add_argument("--prompt", choices=["clean", "paper", "plain"], help="instruction once, twice (as released), none")
    ev.add_argument("--max-tokens", type=int, help="longest response (default: 96 for toy, 2048 otherwise)")
    ev.add_argument("--temperature", type=float, default=1.0, help="(default: %(default)s)")
    ev.add_argument("--top-p", type=float, default=1.0, help="(default: %(default)s)")
    ev.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    ev.add_argument("--device", default="cpu", help="(default: %(default)s)")
    ev.add_argument("--out", type=Path, help="folder for generations and verdicts (default: under results/runs)")

    ablate = add(
        "ablate",
        do.ablate,
        "run a grid: arms × seeds, only what is missing",
        "examples:\n  opd ablate ablations/quickstart.py --dry-run\n  opd ablate quickstart --only fire --jobs 2",
    )
    ablate.add_argument("grid", type=Path, help="a Python file that declares GRID, or a name in ablations/")
    ablate.add_argument("--dry-run", action="store_true", help="say what is there and what would run")
    ablate.add_argument("--only", action="append", default=[], metavar="ARM", help="only this arm (repeatable)")
    _grid_options(ablate)

    report = add("report", do.report, "write tables, figures and page from kept records")
    report.add_argument("name", help="a grid in results/records, or a folder of records")
    report.add_argument("--out", type=Path, help="folder to write to (default: results)")

    toy = add("toy", do.toy, "the toy world's models")
    toy.add_argument("action", choices=["build"], help="train them from nothing and print their accuracies")
    toy.add_argument("--out", type=Path, help="folder (default: over the ones in the package)")
    toy.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    return parser


def _grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, help="cells side by side (default: one per core)")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: results/runs)")
    parser.add_argument(
        "--publish", action="store_true", help="also put records, tables and figures where the repository keeps them"
    )
