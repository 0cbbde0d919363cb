"""A cell in several processes of its own, which torchrun starts: one a GPU, the student sharded over them.

    python -m torch.distributed.run --standalone --nproc_per_node=N -m harness.runs.cell_process FOLDER PID

FOLDER holds the cell, and takes the answer; when the process PID is gone, the cell is saved and left.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.records import write_atomic
from harness.runs.cell import Cell, is_done
from harness.runs.execution import TICK, fail, work
from trainer.preemption import CODE, Preempted, Stop


def work_in(cell: Cell, runs: Path, processes: int) -> str | None:
    """As `harness.runs.execution.work`, in `processes` processes; what they print goes to the cell's `output.txt`.

    Raises:
        Preempted: after SIGTERM, with everything saved.
    """
    if processes == 1:
        return work(cell, runs)
    folder = runs / cell.run_id
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="opd-cell-") as place, (folder / "output.txt").open("ab") as output:
        (Path(place) / "cell").write_bytes(pickle.dumps((cell, runs.absolute())))
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        words += ["-m", "harness.runs.cell_process", place, str(os.getpid())]
        child = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        with _hand_on(child) as told:
            code = child.wait()
        if told:
            raise Stop.sentence()
        answer = Path(place) / "answer"
        if answer.exists():
            return answer.read_text(encoding="utf-8")
    if is_done(cell, runs):
        return None
    return fail(folder, f"its {processes} processes ended with code {code}: {folder / 'output.txt'} says how")


@contextlib.contextmanager
def _hand_on(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hands SIGTERM on to torchrun, which hands it on to all; gives a list that is no longer empty then."""
    told: list[int] = []

    def hear(number: int, frame: Any) -> None:
        told.append(number)
        child.terminate()

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield told
    finally:
        if child.poll() is None:
            child.kill()
        signal.signal(signal.SIGTERM, before)


def _follow(pid: int) -> None:
    """Leaves as after SIGTERM once the process that asked for the cell is gone."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(TICK)


def main(place: Path, pid: int) -> int:
    """What each of the processes does; the one that fails writes the answer."""
    threading.Thread(target=_follow, args=(pid,), daemon=True).start()
    cell, runs = pickle.loads((place / "cell").read_bytes())
    try:
        why = work(cell, runs)
    except Preempted:
        return CODE
    if why is not None:
        write_atomic(place / "answer", why)
    return 0 if why is None else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
