"""The highest use of memory, of this process or of a GPU, MiB."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Final

PROCESSES: Final = Path("/proc")
STATUS: Final = PROCESSES / "self" / "status"


def forget(device: str = "cpu") -> float:
    """Starts a new count of the highest use; returns what is in use now."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated()) / 2**20
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return highest()


def highest(device: str = "cpu") -> float:
    """Since the last `forget`, or the start. Where the system keeps no count that can be reset, since the start."""
    if device != "cpu":
        import torch

        return float(torch.cuda.max_memory_allocated()) / 2**20
    if STATUS.exists():  # getrusage would also count the parent from which the process was forked
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def highest_of(pid: int) -> float:
    """Of another process, since its start; 0 where the system does not say."""
    try:
        return _status("VmHWM", PROCESSES / str(pid) / "status")
    except (OSError, StopIteration):
        return 0.0


def _status(field: str, source: Path = STATUS) -> float:
    line = next(line for line in source.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 2**10
