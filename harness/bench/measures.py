"""What every measurement shares: costs and their ratios, the file it leaves, the process a side runs in.

A module writes ``OUT/<name>.json``:

    {"bench", "how": [sentences], "entries": [entry], "curves": [curve], "trial": bool, "provenance": {…}}
    entry = {"work", "ours", "peer", "time_ratio", "memory_ratio", "goal", "met"}
    ours, peer = {"what", "seconds", "seconds_range", "memory_mib", "memory_range", "runs"}
    curve = {"name", "title", "x", "unit", "linear": bool, "series": [{"label", "points": [[x, median, low, high]]}]}

Ratios are ours over the peer's; where the goal is a limit, the peer is the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from harness.errors import UserError
from harness.provenance import provenance
from harness.records import write_atomic

ROOT: Final = Path(__file__).resolve().parents[2]
TRIAL: Final = "trial"  # folder of what --small writes
Entry = dict[str, Any]


def common(parser: argparse.ArgumentParser, repeats: int) -> None:
    """The options that all measurements have."""
    parser.add_argument("--small", action="store_true", help="a quick trial, whose numbers are marked as one")
    parser.add_argument("--repeats", type=int, default=repeats, help="measurements of each side (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/bench"), metavar="DIR", help="(default: %(default)s)")


def at_least_one(args: argparse.Namespace, *options: str) -> None:
    """Refuses options that are smaller than one.

    Raises:
        UserError: naming the option.
    """
    for option in options:
        if getattr(args, option) < 1:
            name = option.replace("_", "-")
            raise UserError(f"option '--{name}' must be at least 1, got {getattr(args, option)}")


# --- costs and entries ----------------------------------------------------------------------------------------


def load_average() -> list[float] | None:
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


BEFORE: Final = load_average()  # this process's own work not yet counted
IDLE: Final = 0.5  # load below which wall-clock times are worth something


def cost(what: str, seconds: Sequence[float], memory: Sequence[float]) -> dict[str, Any]:
    """Medians with smallest and largest value, of times in seconds and peaks of memory in MiB; none is None."""

    def spread(values: Sequence[float], digits: int) -> tuple[float | None, list[float] | None]:
        if not values:
            return None, None
        return round(statistics.median(values), digits), [round(min(values), digits), round(max(values), digits)]

    time, times = spread(seconds, 5)
    peak, peaks = spread(memory, 1)
    found = {"what": what, "seconds": time, "seconds_range": times, "memory_mib": peak, "memory_range": peaks}
    return found | {"runs": max(len(seconds), len(memory))}


def limit(what: str, seconds: float | None = None, memory: float | None = None) -> dict[str, Any]:
    """A fixed allowance in the place of a peer."""
    return cost(what, [] if seconds is None else [seconds], [] if memory is None else [memory]) | {"runs": 0}


def entry(
    work: str, ours: dict[str, Any], peer: dict[str, Any], time: float | None = None, memory: float | None = None
) -> Entry:
    """A row of the table.

    Args:
        time: what the ratio of times may be at most; None: it is only reported. memory: likewise.
    """
    found = {
        "time": _ratio(ours["seconds"], peer["seconds"]),
        "memory": _ratio(ours["memory_mib"], peer["memory_mib"]),
    }
    asked = {name: most for name, most in (("time", time), ("memory", memory)) if most is not None}
    met = all((ratio := found[name]) is not None and ratio <= most for name, most in asked.items())
    return {
        "work": work,
        "ours": ours,
        "peer": peer,
        "time_ratio": found["time"],
        "memory_ratio": found["memory"],
        "goal": ", ".join(f"{name} ratio at most {most:g}" for name, most in asked.items()) or "none",
        "met": met if asked else None,
    }


def _ratio(ours: float | None, peer: float | None) -> float | None:
    return round(ours / peer, 6) if ours is not None and peer else None


# --- files and tables -----------------------------------------------------------------------------------------


def keep(
    name: str,
    args: argparse.Namespace,
    how: Sequence[str],
    entries: Sequence[Entry],
    curves: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> int:
    """Prints how something was measured and what came out, and writes the module's file; returns the exit code 0."""
    small = bool(args.small)
    report = {"bench": name, "trial": small, "how": list(how), "entries": list(entries), "curves": list(curves)}
    report |= more | {"provenance": {**provenance(), "load_before": BEFORE, "load_after": load_average()}}
    folder = args.out / TRIAL if small else args.out
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.json"
    write_atomic(target, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for line in how:
        print(line)
    if BEFORE and BEFORE[0] > IDLE:
        print(f"warning: the machine was not idle (load {BEFORE[0]} at the start): wall-clock times say little")
    print(table(entries, "a trial: these numbers stand for nothing" if small else ""))
    print(f"written to {target}", flush=True)
    return 0


def table(entries: Sequence[Entry], title: str = "") -> str:
    """Entries for a terminal or a file, the ratios first."""
    head = ("time", "memory", "ours", "peer", "ours", "peer", "goal", "", "work")
    rows = [head, *(_row(one) for one in entries)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head) - 1)]

    def aligned(row: tuple[str, ...]) -> str:
        cells = zip(row[:-1], widths, strict=True)
        parts = [cell.rjust(width) if at < 6 else cell.ljust(width) for at, (cell, width) in enumerate(cells)]
        return "  ".join([*parts, row[-1]])

    lines = [aligned(row) for row in rows]
    return "\n".join(([title] if title else []) + ["ratios, ours / peer; then seconds, then MiB", *lines])


def _row(one: Entry) -> tuple[str, ...]:
    ours, peer = one["ours"], one["peer"]
    ratios = ["—" if one[name] is None else short(one[name]) for name in ("time_ratio", "memory_ratio")]
    seconds = ["—" if side["seconds"] is None else short(side["seconds"]) for side in (ours, peer)]
    memory = ["—" if side["memory_mib"] is None else f"{side['memory_mib']:.0f}" for side in (ours, peer)]
    goal = one["goal"].replace(" ratio at most ", " ≤ ")
    said = {True: "met", False: "MISSED", None: ""}[one["met"]]
    against = f"{one['work']}; {ours['what']} / {peer['what']}"
    return (*ratios, *seconds, *memory, "" if goal == "none" else goal, said, against)


def short(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:.3g}" if 1e-4 <= abs(value) < 1000 else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1g}"


# --- processes ------------------------------------------------------------------------------------------------


def in_process(module: str, words: Sequence[str], work: Any, threads: int = 1, patience: float = 3600) -> Any:
    """What ``python -m MODULE WORDS IN OUT`` writes to OUT for `work` in IN: a side in a process of its own.

    Raises:
        UserError: with the last line that it printed, if it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "work.json", Path(folder) / "found.json"
        source.write_text(json.dumps(work))
        command = [sys.executable, "-m", module, *words, str(source), str(target)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(threads), capture_output=True, text=True, timeout=patience, check=False
        )
        if done.returncode or not target.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"the side '{' '.join([module, *words])}' failed: {last}")
        return json.loads(target.read_text())


def in_turns(module: str, sides: Sequence[str], work: dict[str, Any], rounds: int, threads: int = 1) -> dict[str, Any]:
    """What ``python -m MODULE SIDE IN OUT`` writes, of all sides alive together: one works while the others wait.

    In every round each side does one unit of its work, in an order that alternates, so that all of them meet the same
    machine within seconds. A side finds the file descriptors of its two pipes in ``work["turn"]``, see `Turn`.

    Raises:
        UserError: with the last line that a side printed, if it failed.
    """
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        started: dict[str, tuple[subprocess.Popen[bytes], int, int]] = {}
        for side in sides:
            (their_go, go), (said, their_said) = os.pipe(), os.pipe()
            (folder / f"{side}.in").write_text(json.dumps(work | {"turn": [their_go, their_said]}))
            errors = stack.enter_context((folder / f"{side}.err").open("wb"))
            command = [sys.executable, "-m", module, side, str(folder / f"{side}.in"), str(folder / f"{side}.out")]
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(threads),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(their_go, their_said),
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            for theirs in (their_go, their_said):
                os.close(theirs)
            for ours in (go, said):
                stack.callback(os.close, ours)
            started[side] = (process, go, said)
        try:
            for turn in range(rounds):
                for side in sides if turn % 2 == 0 else sides[::-1]:
                    _, go, said = started[side]
                    if not turn and not os.read(said, 1):  # it says that it is ready
                        raise BrokenPipeError
                    os.write(go, b".")
                    if not os.read(said, 1):
                        raise BrokenPipeError
            for side in sides:
                if started[side][0].wait():
                    raise BrokenPipeError
        except BrokenPipeError:
            lines = (folder / f"{side}.err").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise UserError(f"the side '{module} {side}' failed: {lines[-1]}") from None
        return {side: json.loads((folder / f"{side}.out").read_text()) for side in sides}


class Turn:
    """A side's end of `in_turns`; without pipes it is always this side's turn."""

    def __init__(self, pipes: Sequence[int] | None) -> None:
        self.pipes = pipes

    def wait(self) -> None:
        """Says that a unit of work is done, or the first may begin, and waits for the next turn."""
        if self.pipes:
            go, said = self.pipes
            os.write(said, b".")
            if not os.read(go, 1):
                raise SystemExit("nobody waits for this side any more")

    def done(self) -> None:
        """Says that the last unit is done."""
        if self.pipes:
            os.write(self.pipes[1], b".")


def environment(threads: int) -> dict[str, str]:
    """Of a side: so many threads, no network, this project first."""
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([before] if before else [])]),
    }
