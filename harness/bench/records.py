"""From kept records to tables, figures and page, for a grid of the published size."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from harness.bench.measures import ROOT, at_least_one, common, cost, entry, environment, keep, limit
from harness.errors import UserError

HELP = "`opd report` on records of 1.5 million samples: 30 cells x 1,606 problems x 32"
SECONDS, MIB = 60.0, 3e9 / 2**20
RUN: Final = """
import sys
from harness.bench.memory import highest
from harness.cli import main
code = main(["report", sys.argv[1], "--out", sys.argv[2]])
print("HIGHEST", highest(), file=sys.stderr)
sys.exit(code)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common(parser, repeats=1)
    parser.add_argument("--arms", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--k", type=int, default=32, help="samples per problem (default: %(default)s)")
    parser.add_argument("--no-curves", action="store_true", help="leave out the cost against the number of arms")


def run(args: argparse.Namespace) -> int:
    from harness.bench.large_records import BENCHES

    at_least_one(args, "repeats", "arms", "seeds", "k")
    if args.arms < 2:
        raise UserError(f"option '--arms' must be at least 2, a baseline and another, got {args.arms}")
    if args.small:
        args.arms, args.seeds, args.k, args.no_curves = 3, 1, 2, True
    found = [report(args.arms, args.seeds, args.k) for _ in range(args.repeats)]
    samples = found[0]["samples"]
    work = (
        f"report of {samples:,} samples: {args.arms * args.seeds} cells × {sum(BENCHES.values()):,} problems × {args.k}"
    )
    ours = cost("opd report", [one["seconds"] for one in found], [one["memory"] for one in found])
    result = entry(work, ours, limit("limit", SECONDS, MIB), 1.0, 1.0)
    curves = [] if args.no_curves else _curves(args, found)
    how = (
        f"the command in a process of its own, {args.repeats} time(s), wall clock from its start to its end, peak of "
        "its memory; records drawn at random and written to a temporary folder before",
        f"it wrote {found[0]['files']} files",
    )
    return keep("records", args, how, [result], curves)


def report(arms: int, seeds: int, k: int) -> dict[str, Any]:
    """Seconds and MiB of `opd report` on such records.

    Raises:
        UserError: with the last line that it printed, if it failed.
    """
    from harness.bench.large_records import large_records
    from harness.records import save

    with tempfile.TemporaryDirectory() as place:
        records = large_records(arms, seeds, k)
        save(records, Path(place) / "large")
        samples = len(records.samples)
        del records
        command = [sys.executable, "-c", RUN, str(Path(place) / "large"), str(Path(place) / "out")]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment(1), capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise UserError(f"opd report failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
        files = sum(path.is_file() for path in (Path(place) / "out").rglob("*"))
        memory = float(done.stderr.rsplit("HIGHEST", 1)[1])
        print(f"{samples:,} samples: {seconds:.1f} s, {memory:.0f} MiB, {files} files", flush=True)
        return {"seconds": seconds, "memory": memory, "samples": samples, "files": files}


def _curves(args: argparse.Namespace, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seconds: list[list[float]] = []
    memory: list[list[float]] = []
    for arms in sorted({2, max(2, args.arms // 2), args.arms}):
        ones = found if arms == args.arms else [report(arms, args.seeds, args.k)]
        for points, name in ((seconds, "seconds"), (memory, "memory")):
            values = sorted(one[name] for one in ones)
            points.append([arms, values[len(values) // 2], values[0], values[-1]])
    made = []
    for name, unit, points in (("report-arms", "seconds", seconds), ("report-memory", "MiB", memory)):
        what = f"opd report, {args.seeds} seeds, {args.k} samples a problem"
        series = [{"label": "opd report", "ours": True, "points": points}]
        made.append({"name": name, "title": what, "x": "arms", "unit": unit, "linear": False, "series": series})
    return made
