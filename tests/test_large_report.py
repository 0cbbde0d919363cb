"""A report of a grid of the published size, with every figure, fits into a small machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.bench.large_records import large_records
from harness.records import save

ROOT = Path(__file__).resolve().parent.parent

WRITE = """
import resource, sys
from pathlib import Path
from harness.records import load
from harness.report import write_report
folder = Path(sys.argv[1])
print(write_report(load(folder / "records"), [], folder / "out"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_million_and_a_half_samples_fit_into_three_gigabytes(tmp_path: Path) -> None:
    records = large_records()
    assert len(records.samples) == 30 * 1606 * 32  # cells, problems, samples
    save(records, tmp_path / "records")
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=280
    )
    page, peak = done.stdout.split()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    assert int(peak) * unit < 3e9
    figures = {path.stem for path in (tmp_path / "out" / "figures" / "large").glob("*.pdf")}
    assert {"forest", "pass-at-k", "scores", "entropies", "heatmap-alpha-beta", "sweep-keep.fraction"} <= figures
    assert Path(page).stat().st_size < 12e6
