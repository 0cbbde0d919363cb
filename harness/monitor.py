"""Progress for people: bars in a terminal, a line per finished cell elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.run import Cell, is_done


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
    """Shows the cells of a grid: one bar for the whole, one for each cell that runs."""

    def __init__(self, cells: list[Cell], runs: Path, console: Console) -> None:
        self.console, self.start = console, time.monotonic()
        self.names = {cell.run_id: f"{cell.arm}" + (f" seed {cell.seed}" if cell.spec else "") for cell in cells}
        self.done = {cell.run_id for cell in cells if is_done(cell, runs)}
        self.already = len(self.done)
        self.bars = _bars(console)
        self.whole = self.bars.add_task("all cells", total=len(cells), completed=len(self.done), what="")
        self.running: dict[str, TaskID] = {}

    def __enter__(self) -> Monitor:
        if self.already:
            self.console.print(f"{self.already} of {len(self.names)} cells are there already")
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def update(self, status: dict[str, tuple[str, float]]) -> None:
        """Takes {run id: (what is going on, fraction done)}."""
        for run_id, (what, fraction) in status.items():
            if fraction >= 1.0 and run_id not in self.done:
                self.done.add(run_id)
                minutes = (time.monotonic() - self.start) / 60
                self.console.print(f"{len(self.done)}/{len(self.names)} {self.names[run_id]} ({minutes:.1f} min)")
                if run_id in self.running:
                    self.bars.remove_task(self.running.pop(run_id))
            elif 0.0 < fraction < 1.0:
                if run_id not in self.running:
                    self.running[run_id] = self.bars.add_task(f"  {self.names[run_id]}", total=1.0, what=what)
                self.bars.update(self.running[run_id], completed=fraction, what=what)
        partial = sum(fraction for run_id, (_, fraction) in status.items() if run_id not in self.done)
        self.bars.update(self.whole, completed=len(self.done) + partial)


@contextlib.contextmanager
def single_bar(name: str, console: Console) -> Iterator[Callable[[str, float], Any]]:
    """One bar; yields a function of (what is going on, fraction done). Silent where there is no terminal."""
    with _bars(console) if console.is_terminal else contextlib.nullcontext() as bars:
        if bars is None:
            yield lambda what, done: None
        else:
            task = bars.add_task(name, total=1.0, what="")
            yield lambda what, done: bars.update(task, completed=done, what=what)
