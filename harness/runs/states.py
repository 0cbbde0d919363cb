"""What is going on in a folder of runs, from its files alone: no torch, no grid file, from any machine that sees them.

<runs>/grids/<name>.json        the cells of a grid, left by the command that runs it
<runs>/<run id>/lock            held for as long as a process works on the cell, dropped by the kernel when it dies
                status.json     what it is doing, and for how long it has been at it, over all attempts
                failed.txt      one line of why, then the traceback
                result.json     the cell is done
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from harness.records import write_atomic

State = Literal["have", "running", "failed", "run"]


@dataclass(frozen=True)
class Planned:
    """A cell of a grid, as far as one must know it to say how it is going. `steps` is 0 for a reference."""

    run: str
    arm: str
    seed: int
    method: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}" if self.steps else self.arm


@dataclass(frozen=True)
class CellState:
    """How a cell is going. `run` means: will be run, from `step` where an earlier attempt got that far."""

    state: State
    doing: str = ""
    step: int = 0
    fraction: float = 0.0
    seconds: float = 0.0  # of work, over all attempts
    why: str = ""  # it failed


def read_state(folder: Path, now: float | None = None) -> CellState:
    """The state of the cell in a folder. A cell whose process was killed is not running: nobody holds its lock."""
    status = _status(folder)
    step = _last_step(folder / "steps.jsonl")
    seconds = float(status.get("seconds", 0.0))
    if (folder / "result.json").exists():
        return CellState("have", "", step, 1.0, seconds)
    doing, fraction = str(status.get("doing", "")), float(status.get("fraction", 0.0))
    if is_locked(folder):
        waited = (time.time() if now is None else now) - float(status.get("time", 0.0)) if status else 0.0
        return CellState("running", doing or "starting", step, fraction, seconds + max(0.0, waited))
    if (folder / "failed.txt").exists():
        why = (folder / "failed.txt").read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0]
        return CellState("failed", doing, step, fraction, seconds, why or "no reason was given")
    return CellState("run", "", step, fraction, seconds)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the cell's lock."""
    try:
        with (folder / "lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file; a file system without locks has nobody to ask
        return False
    return False


def _status(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_step(path: Path) -> int:
    """The step of the last whole row of a file that may be being written."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 16384))
            lines = stream.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class Heartbeat:
    """Writes `status.json` for whoever works on a cell; called as `run_cell`'s report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = float(_status(folder).get("seconds", 0.0))
        self.start = time.monotonic()
        self.written = -1.0

    def __call__(self, doing: str, fraction: float) -> None:
        seconds = time.monotonic() - self.start
        if self.written >= 0.0 and seconds - self.written < 0.3 and fraction < 1.0:
            return  # an evaluation reports every answer
        self.written = seconds
        status = {
            "doing": doing,
            "fraction": round(fraction, 4),
            "seconds": round(self.before + seconds, 2),
            "time": round(time.time(), 2),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        write_atomic(self.folder / "status.json", json.dumps(status))

    def done(self) -> None:
        """The last beat of a cell that this process finished; none where there was nothing to do."""
        if self.written >= 0.0:
            self("done", 1.0)


# --- grids ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The cells that a command set out to run, and how many at a time."""

    grid: str
    title: str
    jobs: int
    cells: tuple[Planned, ...]


def write_plan(plan: Plan, runs: Path) -> None:
    """Leaves the plan for `opd status`."""
    (runs / "grids").mkdir(parents=True, exist_ok=True)
    write_atomic(runs / "grids" / f"{plan.grid}.json", json.dumps(asdict(plan), indent=1) + "\n")


def read_plan(name: str, runs: Path) -> Plan:
    """The plan of a grid.

    Raises:
        UserError: if no command ever set out to run it in that folder.
    """
    path = runs / "grids" / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Plan(found["grid"], found["title"], found["jobs"], tuple(Planned(**cell) for cell in found["cells"]))
    except FileNotFoundError:
        known = ", ".join(plans(runs)) or "none"
        raise UserError(
            f"no grid '{name}' was started in {runs} (started: {known}): `opd ablate {name} --dry-run` says what would "
            "run"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not the plan of a grid: remove it and start the grid again") from None


def plans(runs: Path) -> list[str]:
    """The grids that were started in a folder of runs."""
    return sorted(path.stem for path in (runs / "grids").glob("*.json"))


# --- time -----------------------------------------------------------------------------------------------------


def time_left(cells: Sequence[Planned], states: Mapping[str, CellState]) -> dict[str, float | None]:
    """Seconds of work that each cell still needs; None where nothing is known yet.

    A cell is expected to cost what finished cells of its method did, or else of any method; where none is finished,
    what running ones will by their progress. What it has done counts by its fraction.
    """
    costs: dict[tuple[bool, str], list[float]] = {}
    for wanted in ("have", "running"):
        for cell in cells:
            state = states[cell.run]
            total = state.seconds / state.fraction if state.state == wanted and state.fraction >= 0.1 else 0.0
            if total > 0.0:
                costs.setdefault((cell.steps > 0, cell.method), []).append(total)
        if costs:
            break
    left: dict[str, float | None] = {}
    for cell in cells:
        same = [cost for (trained, _), found in costs.items() if trained == (cell.steps > 0) for cost in found]
        known = costs.get((cell.steps > 0, cell.method)) or same
        state = states[cell.run]
        if state.state == "have":
            left[cell.run] = 0.0
        elif state.state == "running" and state.fraction >= 0.1:
            left[cell.run] = state.seconds * (1.0 - state.fraction) / state.fraction
        else:
            left[cell.run] = sum(known) / len(known) * (1.0 - state.fraction) if known else None
    return left


def makespan(durations: Sequence[float], jobs: int) -> float:
    """When the last of these ends if `jobs` are done side by side, each taken in turn by whoever is free."""
    free = [0.0] * max(1, jobs)
    for duration in durations:
        at = free.index(min(free))
        free[at] += duration
    return max(free)
