"""Cells as Ray tasks: one cell, one task, with its processors and GPUs, on whatever machines the cluster has.

States, locks, checkpoints and results stay in the folder of runs, which every machine must see under the same path,
with the same version of this project installed. Ray only says where a cell runs.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.runs.cell import Cell, is_done
from harness.runs.cell_process import work_in
from harness.runs.execution import BUSY, TICK, Executor, Outcome, fail
from harness.runs.states import is_locked
from trainer.preemption import Preempted


def on_ray(jobs: int | None = None, cpus: float = 1.0, gpus: float = 0.0, processes: int = 1) -> Executor:
    """Executes on the cluster that RAY_ADDRESS names, or on one of its own on this machine, ended with it.

    Args:
        jobs: cells side by side, at most; None: as many as the cluster has room for.
        cpus, gpus: what one cell takes of the cluster, on one machine.
        processes: of a cell, see `harness.runs.cell_process`.

    Raises:
        UserError: if Ray is not installed, or gives no cluster.
    """
    if cpus < 0 or gpus < 0 or processes < 1 or (jobs is not None and jobs < 1):
        raise UserError(
            "a cell takes no less than 0 CPUs and GPUs, one process at least, and one at least runs at a time"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed: pip install 'opd-harness[ray]', or use --executor local") from None

    def execute(cells: Sequence[Cell], runs: Path) -> Iterator[Outcome]:
        _connect(ray, jobs, cpus)
        try:
            yield from _execute(ray, cells, runs, jobs, cpus, gpus, processes)
        finally:
            ray.shutdown()

    return execute


def _connect(ray: Any, jobs: int | None, cpus: float) -> None:
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address := os.environ.get("RAY_ADDRESS"):
        settings["address"] = address
    else:  # one of its own, not whichever somebody left running on this machine
        settings |= {"address": "local", "include_dashboard": False}
        if jobs is not None:
            settings["num_cpus"] = max(1, round(jobs * max(cpus, 1.0)))
    try:
        # Ray itself would try for minutes before it says that nobody is there.
        if found := re.search(r"([\w.-]+):(\d+)$", address or ""):
            socket.create_connection((found[1], int(found[2])), timeout=10.0).close()
        ray.init(**settings)
    except Exception as error:  # Ray's own kinds, the network's, a full /tmp
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"Ray gives no cluster ({reason}): check RAY_ADDRESS, or use --executor local") from None


def _execute(
    ray: Any, cells: Sequence[Cell], runs: Path, jobs: int | None, cpus: float, gpus: float, processes: int
) -> Iterator[Outcome]:
    total = ray.cluster_resources()
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > total.get(name, 0.0):
            raise UserError(f"a cell wants {wanted:g} {name}s, and the Ray cluster has {total.get(name, 0.0):g}")
    # A cell that dies is not tried again by Ray: the same command continues it from its checkpoint.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_task)
    queue = deque(cells)
    running: dict[Any, Cell] = {}
    while queue or running:
        for _ in range(len(queue)):
            if jobs is not None and len(running) >= jobs:
                break
            cell = queue.popleft()
            if is_done(cell, runs):  # by another command
                yield cell, None
            elif is_locked(runs / cell.run_id):
                queue.append(cell)
            else:
                threads = max(1, int(cpus))
                running[task.remote(cell, cell.run_id, str(runs), os.getcwd(), threads, processes)] = cell
        ready, _ = ray.wait(list(running), num_returns=1, timeout=TICK) if running else ([], [])
        if not running:  # all that is left is held by others
            time.sleep(TICK)
        for reference in ready:
            cell = running.pop(reference)
            try:
                why = ray.get(reference)
            except ray.exceptions.RayError as error:
                reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
                why = fail(runs / cell.run_id, f"its Ray task was lost: {reason}", str(error))
            if why == BUSY:
                queue.append(cell)
            else:
                yield cell, why
        yield None


def _task(cell: Cell, run_id: str, runs: str, folder: str, threads: int, processes: int) -> str | None:
    """One cell, in a worker of the cluster; see `harness.runs.cell_process.work_in`."""
    import torch

    if Path(folder).is_dir():
        os.chdir(folder)  # relative paths in specs are meant from where the command was given
    torch.set_num_threads(threads)
    if not Path(runs).is_dir():
        return f"{socket.gethostname()} does not see {runs}: name a folder that all machines share with --runs"
    if cell.run_id != run_id:
        return f"{socket.gethostname()} has another version of the project, or other model files: install the same"
    try:
        return work_in(cell, Path(runs), processes)
    except Preempted as stopped:
        return str(stopped)
