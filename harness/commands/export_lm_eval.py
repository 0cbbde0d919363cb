"""`opd export-lm-eval`: benchmarks as tasks of lm-evaluation-harness."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import console

HELP = "write benchmarks as a task folder for lm-evaluation-harness"
EXAMPLES = """opd export-lm-eval TASKS --bench aime24 minerva toy-aime
opd export-lm-eval TASKS --bench aime24 --data-dir BENCHMARKS --k 32 --max-tokens 16384
lm_eval run --include_path TASKS --tasks opd_aime24 --model vllm --model_args pretrained=DIR --apply_chat_template"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="new, empty, or exported before")
    parser.add_argument("--bench", nargs="+", required=True, help="names, or paths of JSONL/parquet files")
    parser.add_argument("--k", type=int, help="samples per problem (default: the benchmark's own)")
    parser.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    parser.add_argument("--prompt", choices=["clean", "paper", "plain"], help="instruction once, twice, not at all")
    parser.add_argument("--max-tokens", type=int, help="longest response (default: 96 for toy, 2048 otherwise)")
    parser.add_argument("--temperature", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--thinking", action="store_true", help="write command lines that switch thinking on")
    parser.add_argument("--limit", type=int, help="only the first problems")
    parser.set_defaults(seed=0)


def run(args: argparse.Namespace) -> int:
    from rich.markup import escape

    from harness.benchmarks import load_benchmark
    from harness.commands.eval import plan_for
    from harness.lmeval.export import export_tasks

    loaded = {bench: load_benchmark(bench, args.data_dir) for bench in args.bench}
    names = export_tasks(args.folder, [(loaded[bench], plan_for(args, bench, loaded[bench])) for bench in args.bench])
    out = console()
    tasks = escape(",".join(names))
    out.print(f"lm_eval run --include_path {escape(str(args.folder))} --tasks {tasks} …", soft_wrap=True)
    out.print(f"tasks, and command lines in README.md: {escape(str(args.folder))}", soft_wrap=True)
    return 0
