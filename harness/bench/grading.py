r"""Grading: ``harness.answers.grade_many`` with both checkers beside the serial loop of the released script, with one.

Both sides get the same made-up responses (``responses``), each in a process of its own, and must give the same released
verdict on every sample: a faster checker that says something else is another checker.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from harness.bench.responses import Item, responses
from harness.errors import UserError

HELP = "grading by grade_many (both checkers) against the released script's serial loop, on the same responses"
GOAL: Final = 0.05  # of the peer's time
SHOWN: Final = 20  # differing cases
_ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("math-verify", "latex2sympy2_extended", "antlr4-python3-runtime", "sympy", "mpmath")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--problems",
        nargs="+",
        default=["all"],
        metavar="BENCH",
        help="benchmarks whose golds are answered (default: the eight released ones)",
    )
    parser.add_argument("--samples", type=int, default=32, help="responses per problem (4 for a quick look)")
    parser.add_argument("--repeats", type=int, default=1, help="measurements of each side, of which the median counts")
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where the benchmark files are (or OPD_DATA)")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), metavar="FOLDER", help="for grading.json")


def lacking(args: argparse.Namespace) -> str:
    """Why it cannot be measured here at all; "" if it can."""
    if args.data_dir is None and not os.environ.get("OPD_DATA"):
        return "it needs the benchmark files: name their folder with OPD_DATA or --data-dir"
    return ""


def run(args: argparse.Namespace) -> int:
    for option in ("samples", "repeats"):
        if getattr(args, option) < 1:
            raise UserError(f"option '--{option}' must be at least 1, got {getattr(args, option)}")
    problems = golds(args.problems, args.data_dir)
    items = responses(problems, args.samples)
    print(f"{len(problems)} problems x {args.samples} samples = {len(items)} responses", flush=True)
    found = measure(items, args.repeats)
    report = summary(items, len(problems), found)
    print(table(report), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / "grading.json"
    target.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for case in report["differing"]:
        print(f"differs: gold {case['gold']!r}, response ends {case['response']!r}: peer says {case['peer']}")
    print(f"written to {target}")
    return 1 if report["differing"] else 0


def golds(names: Sequence[str], data_dir: Path | None) -> list[tuple[str, str]]:
    """(bench, gold) of every problem of the named benchmarks."""
    from harness.benchmarks import BENCHMARKS, load_benchmark

    chosen = [row.name for row in BENCHMARKS.values() if row.sha256] if list(names) == ["all"] else list(names)
    found = [(name, load_benchmark(name, data_dir)) for name in chosen]
    return [(Path(name).stem, problem.answer) for name, bench in found for problem in bench.problems]


def measure(items: Sequence[Item], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """What either side reports, ``repeats`` times, in turns so that both meet the same machine."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "items.json", Path(folder) / "found.json"
        source.write_text(json.dumps(items))
        for turn in range(repeats):
            for side in ("ours", "peer") if turn % 2 == 0 else ("peer", "ours"):
                command = [sys.executable, "-m", "harness.bench.grading_side", side, str(source), str(target)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, cwd=_ROOT, env=environment, stderr=subprocess.PIPE, text=True)
                if done.returncode:
                    raise UserError(f"the {side} side ended with an error: {done.stderr.strip()[-500:]}")
                found[side].append(json.loads(target.read_text()))
                print(f"  {side}: {found[side][-1]['seconds']:.1f} s", flush=True)
    return found


def summary(items: Sequence[Item], problems: int, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The numbers that are kept."""
    sides = {
        side: {
            name: round(statistics.median(one[name] for one in measured), 3)
            for name in ("seconds", "cpu_seconds", "memory_mib")
        }
        for side, measured in found.items()
    }
    ours, peer = sides["ours"], sides["peer"]
    verdicts = [one["verdicts"] for measured in found.values() for one in measured]
    differing = [
        {"bench": bench, "gold": gold, "response": response[-200:], "peer": found["peer"][0]["verdicts"][index]}
        for index, (response, gold, bench) in enumerate(items)
        if len({one[index] for one in verdicts}) > 1
    ]
    ratio = ours["seconds"] / peer["seconds"]
    return {
        "work": {
            "problems": problems,
            "samples": len(items) // problems,
            "responses": len(items),
            "repeats": len(found["ours"]),
            "accepted": sum(found["peer"][0]["verdicts"]),
            "per_bench": dict(Counter(bench for _, _, bench in items)),
        },
        "ours": {"what": "grade_many: strict and paper checker", **ours},
        "peer": {"what": "serial loop of the released script: math-verify once per sample", **peer},
        "time_ratio": round(ratio, 4),
        "memory_ratio": round(ours["memory_mib"] / peer["memory_mib"], 3) if peer["memory_mib"] else None,
        "times_as_fast": round(1 / ratio, 1),
        "cpu_ratio": round(ours["cpu_seconds"] / peer["cpu_seconds"], 4),
        "goal": f"time_ratio (ours / peer) at most {GOAL}",
        "met": ratio <= GOAL and not differing,
        "differing_samples": len(differing),
        "differing": differing[:SHOWN],
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """What the times depend on besides the code."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "packages": {name: version(name) for name in _PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }


def table(report: dict[str, Any]) -> str:
    """The compact form for the terminal."""
    rows: list[tuple[str, ...]] = [("", "seconds", "CPU s", "peak MiB")]
    for side in ("ours", "peer"):
        one = report[side]
        rows.append((side, *(f"{one[name]:.1f}" for name in ("seconds", "cpu_seconds", "memory_mib"))))
    lines = [f"{name:<6}{seconds:>10}{cpu:>10}{memory:>10}" for name, seconds, cpu, memory in rows]
    agreement = "all verdicts equal" if not report["differing_samples"] else f"{report['differing_samples']} DIFFER"
    memory = "unknown" if report["memory_ratio"] is None else f"{report['memory_ratio']:.2f}"
    lines.append(
        f"time ratio {report['time_ratio']:.3f} ({report['times_as_fast']} times as fast), "
        f"CPU ratio {report['cpu_ratio']:.3f}, memory ratio {memory}; "
        f"{agreement}; goal {GOAL}: {'met' if report['met'] else 'not met'}"
    )
    return "\n".join(lines)
