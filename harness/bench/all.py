"""Every measurement, one after the other: one table, one file, the figures."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import harness.bench
from harness.bench.measures import ROOT, TRIAL, Entry, cost, table
from harness.errors import UserError
from harness.formats import HOLE
from harness.provenance import provenance
from harness.records import write_atomic
from harness.tables import markup
from harness.tables.markup import Cell, Row

HELP = "all of them, in turn: one table with the ratios first, latest.json and the figures"
SMALL: Final = {"grading": ["--samples", "1", "--problems", "hmmt25_feb"]}  # modules that know no --small
KEYS: Final = ("work", "ours", "peer", "time_ratio", "memory_ratio", "goal", "met")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these measurements alone")
    parser.add_argument("--missing", action="store_true", help="leave out those that OUT has of this very commit")
    parser.add_argument("--small", action="store_true", help="a quick trial, whose numbers never reach latest.json")
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where the benchmark files are (or OPD_DATA)")
    parser.add_argument("--device", default="cpu", help="for those that know it; cuda: not run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), metavar="DIR", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Each runs in a process of its own and leaves a file of its own: what is killed or fails costs no other."""
    known = dict(modules())
    if unknown := [name for name in args.only or [] if name not in known]:
        raise UserError(f"option '--only' knows no measurement '{unknown[0]}': there are {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    for name in args.only or known:
        if args.missing and not args.small and _is_there(args.out, name):
            print(f"== {name}: there, of this commit", flush=True)
            continue
        if why := getattr(known[name], "lacking", lambda args: "")(args):
            print(f"== {name}: left out: {why}", flush=True)
            continue
        print(f"== {name}: {known[name].HELP}", flush=True)
        command = [sys.executable, "-m", "harness.bench", name, *words(known[name], name, args)]
        code = subprocess.run(command, cwd=Path.cwd(), check=False, env=_environment()).returncode
        if code:
            failed[name] = f"exit code {code}"
        collect(args, known)
    entries = collect(args, known)
    print("\n" + table(entries, "a trial: these numbers stand for nothing" if args.small else ""))
    for path in figures(args, known):
        print(f"figure: {path}")
    for name, why in failed.items():
        print(f"{name} was not measured: {why}", file=sys.stderr)
    if not args.small:
        print(f"written to {args.out / 'latest.json'}")
    return 1 if failed else 0


def modules() -> Iterator[tuple[str, ModuleType]]:
    """Name and module of every measurement."""
    for found in sorted(pkgutil.iter_modules(harness.bench.__path__), key=lambda found: found.name):
        if not found.name.startswith("_") and found.name != "all":
            module = importlib.import_module(f"harness.bench.{found.name}")
            if hasattr(module, "HELP"):
                yield found.name.replace("_", "-"), module


def words(module: ModuleType, name: str, args: argparse.Namespace) -> list[str]:
    """The options that a measurement is given: those of `all` that it knows."""
    parser = argparse.ArgumentParser()
    module.arguments(parser)
    knows = parser._option_string_actions
    found = ["--out", str(args.out / TRIAL if args.small and "--small" not in knows else args.out)]
    if args.small:
        found += ["--small"] if "--small" in knows else SMALL.get(name, [])
    if args.data_dir is not None and "--data-dir" in knows:
        found += ["--data-dir", str(args.data_dir)]
    if args.device != "cpu" and "--device" in knows:
        found += ["--device", args.device]
    return found


def collect(args: argparse.Namespace, known: dict[str, ModuleType]) -> list[Entry]:
    """What the files of OUT hold, together; written to latest.json, unless it is a trial."""
    entries: list[Entry] = []
    for name in known:
        report = read(args.out / TRIAL if args.small else args.out, name)
        if report is not None:
            commit = (report.get("provenance") or {}).get("commit")
            entries += [one | {"bench": name, "commit": commit} for one in entries_of(report, name)]
    if not args.small:
        write_atomic(args.out / "latest.json", json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
        write_atomic(args.out / "latest.md", markup.markdown(with_goals(entries)))
    return entries


def with_goals(entries: Sequence[Entry]) -> markup.Table:
    """The entries of which something was asked, with the ratios that were asked about, for the README."""
    rows = []
    for one in entries:
        if one["met"] is None or (one["bench"] == "losses" and "memory" in one["goal"]):
            continue  # that memory stays flat is said once, of the head
        cells = []
        for name in ("time", "memory"):
            asked = _asked(one["goal"], name)
            ratio = one[f"{name}_ratio"]
            shown = HOLE if asked is None or ratio is None else f"{ratio:.2g}"
            cells.append(Cell(shown, "" if asked is None else f"≤ {asked:.2g}", bold=asked is not None and one["met"]))
        against = (Cell(one["ours"]["what"]), Cell(one["peer"]["what"]))
        rows.append(Row(one["work"], (*against, *cells, Cell("met" if one["met"] else "missed"))))
    return markup.Table(
        ("work", "ours", "against", "time", "memory", "goal"),
        tuple(rows),
        "Ratios of medians, ours over the other side's: below 1 we are faster or smaller; below each, what was asked. "
        "Seconds, MiB, their ranges and all that was measured without a goal are in results/bench/latest.json.",
        words=3,
    )


def _asked(goal: str, name: str) -> float | None:
    """The largest ratio that a goal allows, as its text has it."""
    found = re.search(rf"{name}[ _]ratio[^\d]*at most ([\d.]+)", goal)
    return float(found[1]) if found else None


def figures(args: argparse.Namespace, known: dict[str, ModuleType]) -> list[Path]:
    """Draws every curve that the files hold."""
    from harness.bench.figures import draw

    folder = args.out / TRIAL if args.small else args.out
    reports = [report for name in known if (report := read(folder, name)) is not None]
    curves = [curve for report in reports for curve in report.get("curves", [])]
    return draw(curves, folder, bool(args.small))


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """The file that a measurement left, if it left one that can be read; a list of entries is as good as a report."""
    for path in (folder / f"{name}.json", folder / f"{name.replace('-', '_')}.json"):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, list):
            return {"entries": found}
        return found if isinstance(found, dict) else None
    return None


def entries_of(report: dict[str, Any], name: str) -> list[Entry]:
    """The rows of a report; of one that holds a single comparison, that one."""
    if "entries" in report:
        return [{key: one.get(key) for key in KEYS} for one in report["entries"]]
    work = report.get("work", name)
    if isinstance(work, dict):
        work = f"{name}, " + ", ".join(f"{value:,} {key}" for key, value in work.items() if isinstance(value, int))
    sides = {}
    for side in ("ours", "peer"):
        one = report[side]
        sides[side] = cost(one["what"], [one["seconds"]], [one["memory_mib"]]) | {"runs": None}
    return [{key: report.get(key) for key in KEYS} | {"work": work} | sides]


def _is_there(folder: Path, name: str) -> bool:
    report, commit = read(folder, name), provenance()["commit"]
    return report is not None and (report.get("provenance") or {}).get("commit") == commit


def _environment() -> dict[str, str]:
    import os

    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])])}
