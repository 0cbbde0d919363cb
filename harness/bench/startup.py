"""How soon a command answers that computes nothing."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Final

from harness.bench.measures import ROOT, at_least_one, common, cost, entry, environment, keep, limit
from harness.errors import UserError

HELP = "start-up of the commands that compute nothing: help, the table of methods"
LIMIT: Final = 0.5  # seconds
COMMANDS: Final = (
    ("--help",),
    ("methods",),
    ("methods", "fire"),
    ("report", "quickstart", "--help"),
)
SAY: Final = """
import sys
sys.argv = ["opd", *{words!r}]
from harness.cli import main
try:
    main()
except SystemExit:
    pass
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "transformers", "pandas", "matplotlib"}})
from harness.bench.memory import highest
print("HEAVY", highest(), *heavy, file=sys.stderr)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common(parser, repeats=11)


def run(args: argparse.Namespace) -> int:
    at_least_one(args, "repeats")
    if args.small:
        args.repeats = 3
    entries = []
    for words in COMMANDS:
        seconds, memory, heavy = [], [], ""
        for _ in range(args.repeats):
            spent, said = _timed(SAY.format(words=list(words)))
            peak, *names = said.split("HEAVY")[1].split()
            seconds.append(spent)
            memory.append(float(peak))
            heavy = ", ".join(names)
        what = f"opd {' '.join(words)}{f' (imports {heavy})' if heavy else ''}"
        one = entry("start-up", cost(what, seconds, memory), limit("limit", LIMIT), time=1.0)
        entries.append(one | {"met": bool(one["met"] and "torch" not in heavy)})
    seconds = [_timed("import harness.report")[0] for _ in range(args.repeats)]
    bare = [_timed("import pandas, matplotlib.figure")[0] for _ in range(args.repeats)]
    entries.append(
        entry(
            "import what writes reports",
            cost("harness.report", seconds, []),
            cost("pandas and matplotlib alone", bare, []),
        )
    )
    how = (
        f"a new interpreter each time, {args.repeats} times, wall clock from its start to its end, bytecode cached; "
        "met: the median is below half a second and torch is not imported",
    )
    return keep("startup", args, how, entries)


def _timed(code: str) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(1), capture_output=True, text=True, check=False
    )
    spent = time.perf_counter() - start
    if done.returncode:
        raise UserError(f"a command failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    return spent, done.stderr
