"""Running the cells of a grid: those without a result, several at a time, each in a process that may die alone.

An executor takes cells and yields what became of each. All else is in files (`harness.runs.states`), so executors
on several machines, several commands and several grids can share a folder of runs: a cell that another process holds is
waited for, not done twice.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, TypeAlias

from harness.errors import UserError
from harness.records import write_atomic
from harness.runs.cell import Cell, CellBusy, is_done, run_cell
from harness.runs.states import CellState, Heartbeat, Planned, is_locked, read_state
from trainer.preemption import CODE, Preempted, Stop

#: A cell that is finished, with the sentence why it failed or None; or None: about half a second has passed.
Outcome: TypeAlias = tuple[Cell, str | None] | None
Executor: TypeAlias = Callable[[Sequence[Cell], Path], Iterator[Outcome]]
Watch: TypeAlias = Callable[[Mapping[str, CellState], Mapping[str, str]], None]

TICK: Final = 0.5  # seconds
GRACE: Final = 25.0  # seconds that workers have to save after SIGTERM; clusters kill after 30
BUSY: Final = "busy"


def planned(cell: Cell) -> Planned:
    """A cell as `harness.runs.states` knows it."""
    method = cell.spec.method if cell.spec else "reference"
    return Planned(cell.run_id, cell.arm, cell.seed, method, cell.final_step)


def shard(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """Part `index` (from 1) of `count` equal ones, dealt by id; the first also takes the reference cells.

    Which machine gets which cell depends on the cells alone, so that a job array needs no coordinator.
    """
    if not 1 <= index <= count:
        raise UserError(f"option '--shard' is i/n with i from 1 to n, got {index}/{count}")
    mine = set(sorted({cell.run_id for cell in cells if cell.spec})[index - 1 :: count])
    return [cell for cell in cells if (cell.run_id in mine if cell.spec else index == 1)]


def run_cells(cells: Sequence[Cell], runs: Path, executor: Executor, watch: Watch | None = None) -> dict[str, str]:
    """Runs the cells that have no result; returns {run id: why it failed}. A failure does not stop the others.

    Args:
        watch: called about twice a second with the states of all cells and the failures so far.

    Raises:
        Preempted: after SIGTERM, with everything saved.
    """
    named = {cell.run_id: cell for cell in cells}
    failures: dict[str, str] = {}
    todo = [cell for cell in named.values() if not is_done(cell, runs)]
    with _stoppable(), closing(executor(todo, runs)) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            if outcome is not None and outcome[1] is not None:
                failures[outcome[0].run_id] = outcome[1]
            if watch:
                watch({run_id: read_state(runs / run_id) for run_id in named}, failures)
    return failures


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Hands SIGTERM on to the workers, which save what they have, before it ends this process. A second one kills."""

    def hear(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        until = time.monotonic() + GRACE
        for child in children:
            child.join(max(0.0, until - time.monotonic()))
        raise Stop.sentence()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    except Preempted as stopped:
        print(f"opd: {stopped}", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def work(cell: Cell, runs: Path) -> str | None:
    """Runs one cell in this process. Returns None, or why it failed in one sentence, or `BUSY`.

    The reason and the traceback stay in the cell's `failed.txt`.

    Raises:
        Preempted: after SIGTERM, with everything saved; that is no failure.
    """
    folder = runs / cell.run_id
    heartbeat = Heartbeat(folder)
    try:
        run_cell(cell, runs, heartbeat)
    except CellBusy:
        return BUSY
    except UserError as error:
        return fail(folder, str(error))
    except Exception as error:
        return fail(folder, f"{type(error).__name__}: {error}", traceback.format_exc())
    heartbeat.done()
    return None


def fail(folder: Path, why: str, details: str = "") -> str:
    """Keeps why a cell failed, first line first; returns the sentence to show."""
    folder.mkdir(parents=True, exist_ok=True)
    line = " ".join(why.split()) or "no reason was given"
    write_atomic(folder / "failed.txt", f"{line}\n\n{details}".rstrip() + "\n")
    return f"{line} (traceback in {folder / 'failed.txt'})" if details else line


# --- local processes ------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    """A process that works on one cell after the other, and the pipe to it."""

    process: Any
    pipe: Connection
    cell: Cell | None = None


def local(jobs: int, processes: int = 1) -> Executor:
    """Executes `jobs` cells at a time on this machine, each single-threaded, or in `processes` processes of its own.

    On few cores several single-threaded cells beat one that uses all threads. A process that dies, for want of memory
    say, fails its own cell only.
    """
    for name, value in (("jobs", jobs), ("procs", processes)):
        if value < 1:
            raise UserError(f"option '--{name}' must be at least 1, got {value}")

    def execute(cells: Sequence[Cell], runs: Path) -> Iterator[Outcome]:
        queue = deque(cells)
        workers: list[_Worker] = []
        try:
            while queue or any(worker.cell for worker in workers):
                yield from _hand_out(queue, workers, jobs, processes, runs)
                busy = {worker.pipe: worker for worker in workers if worker.cell}
                if not busy:  # all that is left is held by others
                    time.sleep(TICK)
                for pipe in wait(list(busy), timeout=TICK):
                    worker = busy[pipe]  # type: ignore[index]
                    cell, worker.cell = worker.cell, None
                    assert cell is not None
                    try:
                        why = worker.pipe.recv()
                    except (EOFError, OSError):
                        workers.remove(worker)
                        why = _death(worker.process, runs / cell.run_id)
                    if why == BUSY:
                        queue.append(cell)
                    else:
                        yield cell, why
                yield None
            for worker in workers:
                worker.pipe.close()  # it ends by itself, and what it started with it
            for worker in workers:
                worker.process.join(10)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()

    return execute


def _hand_out(queue: deque[Cell], workers: list[_Worker], jobs: int, processes: int, runs: Path) -> Iterator[Outcome]:
    """Gives idle processes, or new ones, the first cells in the queue that nobody else works on."""
    for _ in range(len(queue)):
        idle = next((worker for worker in workers if worker.cell is None), None)
        if idle is None and len(workers) >= jobs:
            return
        cell = queue.popleft()
        if is_done(cell, runs):  # by another command
            yield cell, None
        elif is_locked(runs / cell.run_id):
            queue.append(cell)
        else:
            if idle is None:
                idle = _start()
                workers.append(idle)
            idle.cell = cell
            try:
                idle.pipe.send((cell, runs, processes))
            except OSError:  # it died while it was idle
                workers.remove(idle)
                queue.appendleft(cell)


def _start() -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, os.getpid()))  # not a daemon: those may start no judges
    # Workers are born deaf to Ctrl-C, which is the parent's to handle: it reaches the whole process group. Blocked, one
    # that comes meanwhile is not lost. The tracker unblocks it as it starts: hence it goes first.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return _Worker(process, ours)


def _serve(pipe: Connection, parent: int) -> None:
    """What a worker does: a cell at a time, until the pipe is closed or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what it starts is to be deaf, too
    import torch

    from harness.runs.cell_process import work_in

    torch.set_num_threads(1)

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(TICK)
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()
    while True:
        try:
            cell, runs, processes = pipe.recv()
        except EOFError:
            return
        pipe.send(work_in(cell, runs, processes))


def _death(process: Any, folder: Path) -> str:
    """Why a worker is gone. One that was asked to leave has saved its cell, which then did not fail."""
    process.join(5)
    code = process.exitcode
    if code in (CODE, -signal.SIGTERM):
        return "its process was stopped by SIGTERM; the same command continues it"
    if code is not None and code < 0:
        hint = " (out of memory? --jobs 1 needs less)" if -code == signal.SIGKILL else ""
        return fail(
            folder, f"its process was killed by {signal.Signals(-code).name}{hint}; the same command continues it"
        )
    return fail(folder, f"its process ended with code {code}; the same command continues it")
