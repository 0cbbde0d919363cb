"""Progress for people: bars in a terminal, a line per finished cell elsewhere, a table of a grid's cells. No torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from harness.formats import HOLE
from harness.runs.states import CellState, Plan, Planned, makespan, time_left

_COLOUR = {"have": "green", "running": "cyan", "failed": "red", "run": "default"}


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", style="dim"),
        console=console,
        transient=True,
    )


class Monitor:
    """Shows the cells of a grid: one bar for the whole, one for each cell that runs.

    Args:
        states: of the cells before anything is done.
    """

    def __init__(self, cells: Sequence[Planned], states: Mapping[str, CellState], console: Console) -> None:
        self.console, self.start = console, time.monotonic()
        self.names = {cell.run: cell.name for cell in cells}
        self.done = {run for run in self.names if states[run].state == "have"}
        self.already = len(self.done)
        self.failed: set[str] = set()
        self.bars = _bars(console)
        self.whole = self.bars.add_task("all cells", total=len(self.names), completed=len(self.done), what="")
        self.running: dict[str, TaskID] = {}

    def __enter__(self) -> Monitor:
        if self.already:
            self.console.print(f"{self.already} of {len(self.names)} cells are there already")
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def update(self, states: Mapping[str, CellState], failures: Mapping[str, str]) -> None:
        """Takes the states of the cells, and those that failed under this command with the reason."""
        minutes = (time.monotonic() - self.start) / 60
        for run, state in states.items():
            if state.state == "have" and run not in self.done:
                self.done.add(run)
                self.console.print(f"{len(self.done)}/{len(self.names)} {escape(self.names[run])} ({minutes:.1f} min)")
            elif run in failures and run not in self.failed:
                self.failed.add(run)
                why = escape(failures[run])
                self.console.print(f"[red]failed[/red] {escape(self.names[run])} ({run}): {why}", soft_wrap=True)
            if state.state == "running":
                if run not in self.running:
                    self.running[run] = self.bars.add_task(f"  {escape(self.names[run])}", total=1.0, what=state.doing)
                self.bars.update(self.running[run], completed=state.fraction, what=state.doing)
            elif run in self.running:
                self.bars.remove_task(self.running.pop(run))
        partial = sum(state.fraction for run, state in states.items() if run not in self.done)
        self.bars.update(self.whole, completed=len(self.done) + partial)


def status_table(plan: Plan, states: Mapping[str, CellState], jobs: int) -> tuple[Table, list[str]]:
    """The cells of a grid with their states; lines that say why some failed, and that sum all up."""
    left = time_left(plan.cells, states)
    table = Table(title=f"{escape(plan.grid)}: {escape(plan.title)}", title_justify="left")
    for column in ("arm", "seed", "run", "state", "step", "done", "elapsed", "left"):
        right = column not in ("arm", "run", "state")
        table.add_column(column, justify="right" if right else "left", no_wrap=True, min_width=7 if not right else None)
    for cell in plan.cells:
        state = states[cell.run]
        said = f"running: {state.doing}" if state.state == "running" else state.state
        table.add_row(
            escape(cell.arm),
            str(cell.seed),
            cell.run,
            f"[{_COLOUR[state.state]}]{escape(said)}[/]",
            f"{state.step}/{cell.steps}" if cell.steps else HOLE,
            f"{state.fraction:.0%}",
            duration(state.seconds) if state.seconds else HOLE,
            duration(left[cell.run]),
        )
    failed = [
        f"failed {cell.name}: {states[cell.run].why}" for cell in plan.cells if states[cell.run].state == "failed"
    ]
    return table, [*failed, _sum_up(plan.cells, states, left, jobs)]


def _sum_up(
    cells: Sequence[Planned], states: Mapping[str, CellState], left: Mapping[str, float | None], jobs: int
) -> str:
    unique = {cell.run: cell for cell in cells}
    count = {name: sum(states[run].state == name for run in unique) for name in _COLOUR}
    said = ", ".join(f"{count[name]} {name}" for name in _COLOUR if count[name])
    # those at work go on first; a failed cell runs again
    todo = sorted((run for run in unique if states[run].state != "have"), key=lambda r: states[r].state != "running")
    if not todo:
        return f"{len(unique)} cells: {said}; nothing is left"
    known = [seconds for run in todo if (seconds := left[run]) is not None]
    hours = duration(makespan(known, jobs)) if known else "unknown until a first cell is done"
    more = f", and {len(todo) - len(known)} cells of unknown cost" if known and len(known) < len(todo) else ""
    return f"{len(unique)} cells: {said}; time left on {jobs} at a time: {hours}{more}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 42 s, 7 min, 3.2 h, 2.5 d."""
    if seconds is None:
        return HOLE
    for size, unit, digits in ((86400.0, "d", 1), (3600.0, "h", 1), (60.0, "min", 0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def single_bar(name: str, console: Console) -> Iterator[Callable[[str, float], Any]]:
    """One bar; yields a function of (what is going on, fraction done). Silent where there is no terminal."""
    with _bars(console) if console.is_terminal else contextlib.nullcontext() as bars:
        if bars is None:
            yield lambda what, done: None
        else:
            task = bars.add_task(name, total=1.0, what="")
            yield lambda what, done: bars.update(task, completed=done, what=what)
