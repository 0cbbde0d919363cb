"""A grid of eight cells on two cores: one cell at a time, and two."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from harness.bench.measures import ROOT, at_least_one, common, cost, entry, environment, keep
from harness.errors import UserError

HELP = "a grid of eight cells by `opd ablate`: two at a time against one at a time"
GOAL: Final = 1.4  # times the throughput
ARMS: Final = ("opd", "full-rkl", "tip", "fire")
FILE: Final = """
from dataclasses import replace

from ablations.quickstart import GRID as QUICKSTART
from harness.evaluation import toy_plan
from harness.grid import Arm
from trainer.config import Data

GRID = replace(
    QUICKSTART,
    name="bench",
    title="{cells} cells for their cost",
    base=replace(QUICKSTART.base, steps={steps}, data=Data("toy:math", prompts=32)),
    arms=tuple((name, Arm(name, name)) for name in {arms!r}),
    evals=(toy_plan("toy-aime", {k}),),
    curve=toy_plan("toy-held-out", 1),
    curve_every={steps},
    seeds={seeds!r},
)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    common(parser, repeats=1)
    parser.add_argument("--steps", type=int, default=40, help="of every cell (default: %(default)s)")
    parser.add_argument("--k", type=int, default=4, help="answers per problem of its evaluation (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time (default: %(default)s)")
    parser.add_argument("--no-curves", action="store_true", help="leave out the cost against the number of cells")


def run(args: argparse.Namespace) -> int:
    at_least_one(args, "repeats", "steps", "k", "jobs")
    if args.small:
        args.steps, args.k, args.repeats, args.no_curves = 1, 1, 1, True
    found: dict[int, list[dict[str, Any]]] = {1: [], args.jobs: []}
    for turn in range(args.repeats):
        for jobs in sorted(found, reverse=bool(turn % 2)):
            one = ablate(args, jobs, ARMS, (0, 1))
            found[jobs].append(one)
            spent = f"{one['seconds']:.1f} s for {one['cells']} trained cells, {one['command']:.1f} s in all"
            spent += f", {one['processor']:.1f} s of a core"
            print(f"--jobs {jobs}: {spent}")
            print(f"  evaluated once each: {', '.join(one['references'])}", flush=True)
    ours, peer = (
        cost(f"opd ablate --jobs {jobs}", *([one[what] for one in found[jobs]] for what in ("seconds", "memory")))
        for jobs in (args.jobs, 1)
    )
    for side, jobs in ((ours, args.jobs), (peer, 1)):
        side["processor_seconds"] = [round(one["processor"], 1) for one in found[jobs]]
    result = entry(f"a grid of {len(ARMS) * 2} cells, {args.steps} steps each", ours, peer, time=1 / GOAL)
    curves = [] if args.no_curves else [_curve(args, found[args.jobs])]
    how = (
        f"the command with its local executor in a new folder of runs, {args.repeats} time(s) each; every worker has "
        f"one thread, {os.cpu_count()} cores; seconds from the start of the command to the last cell's result, "
        "memory: the largest process. Two at a time only pay where two cores are idle: see the load average",
        "the start model and the teacher are cells of their own: each is evaluated once for all arms and seeds "
        f"({', '.join(found[1][0]['references'])} beside {found[1][0]['cells']} trained cells)",
    )
    return keep("grid", args, how, [result], curves, references=found[1][0]["references"])


def ablate(args: argparse.Namespace, jobs: int, arms: tuple[str, ...], seeds: tuple[int, ...]) -> dict[str, Any]:
    """Seconds of a grid's cells and of the whole command, with what the folder of runs holds afterwards.

    Raises:
        UserError: if a cell failed, or a model that all cells share was evaluated more than once.
    """
    import json

    with tempfile.TemporaryDirectory() as place:
        file, runs = Path(place) / "bench.py", Path(place) / "runs"
        cells = len(arms) * len(seeds)
        file.write_text(FILE.format(cells=cells, steps=args.steps, arms=arms, k=args.k, seeds=seeds))
        command = [sys.executable, "-m", "harness.cli", "ablate", str(file), "--jobs", str(jobs), "--runs", str(runs)]
        begun, start, before = time.time(), time.perf_counter(), _processor()
        done = subprocess.run(command, cwd=ROOT, env=environment(1), capture_output=True, text=True, check=False)
        whole = time.perf_counter() - start
        if done.returncode:
            raise UserError(f"the grid failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        results = sorted(runs.glob("*/result.json"))
        specs = [json.loads((path.parent / "spec.json").read_text())["cell"] for path in results]
        references = sorted(str(spec["model"]) for spec in specs if not spec["spec"])
        if len(set(references)) < len(references):
            raise UserError(f"a shared model was evaluated more than once: {', '.join(references)}")
        timings = [json.loads(line) for path in runs.glob("*/timings.jsonl") for line in path.read_text().splitlines()]
        return {
            "seconds": max(path.stat().st_mtime for path in results) - begun,
            "command": whole,
            "processor": _processor() - before,
            "memory": max(row["peak_memory_mib"] for row in timings),
            "cells": len(specs) - len(references),
            "references": references,
        }


def _processor() -> float:
    """Seconds of a core that the processes started here, and those that they started, have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _curve(args: argparse.Namespace, found: list[dict[str, Any]]) -> dict[str, Any]:
    points = []
    for count in (1, 2):
        one = ablate(args, args.jobs, ARMS[:count], (0, 1))
        points.append([2 * count, *[one["seconds"]] * 3])
    seconds = sorted(one["seconds"] for one in found)
    points.append([len(ARMS) * 2, seconds[len(seconds) // 2], seconds[0], seconds[-1]])
    return {
        "name": "grid-cells",
        "title": f"a grid, {args.jobs} cells at a time",
        "x": "trained cells, arms × 2 seeds",
        "unit": "seconds",
        "linear": True,
        "series": [{"label": f"opd ablate --jobs {args.jobs}", "ours": True, "points": points}],
    }
