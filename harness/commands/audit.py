"""`opd audit`: the audit's tables and figures across grids, from kept records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import console
from harness.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

HELP = "the audit's comparisons across grids, from kept records"
EXAMPLES = """opd audit
opd audit --out /tmp/audit
opd audit --measure formats --data-dir BENCHMARKS
opd audit --measure noise"""
MEASURED = ("formats", "noise")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--measure",
        nargs="+",
        choices=MEASURED,
        default=[],
        help="make these anew first: formats, the verdicts on Minerva's golds as models write them (needs its file); "
        "noise, of the gradient at the students' starts",
    )
    parser.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write tables and figures to (results)")


def run(args: argparse.Namespace) -> int:
    import pandas as pd
    from rich.progress import track

    from harness.audit import GRIDS, primary
    from harness.audit.report import all_regimes, primary_table, write
    from harness.audit.study import study
    from harness.records import RESULTS, load, write_atomic
    from harness.tables.markup import to_rich

    folder = RESULTS / "records" / "audit"
    for name in args.measure:
        folder.mkdir(parents=True, exist_ok=True)
        text = _measure(name, args.data_dir).to_csv(index=False, lineterminator="\n", float_format="%.6g")
        write_atomic(folder / f"{name}.csv", text)
    measured = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    there = [grid for grid in GRIDS if (RESULTS / "records" / grid).is_dir()]
    if not there and not measured:
        raise UserError(
            f"there are no records of the audit in {RESULTS / 'records'}: run and publish one of its grids first, for "
            "example opd ablate main_table --publish"
        )
    studies = {grid: study(load(grid)) for grid in track(there, "grids", transient=True)}
    written = write(studies, measured, args.out or RESULTS)
    frame = all_regimes(studies)
    out = console()
    if len(frame):
        out.print(to_rich(primary_table(primary(frame)), "FiRe-OPD against OPD, in every regime"))
    out.print(f"tables and figures: {', '.join(sorted({str(path.parent) for path in written}))}", soft_wrap=True)
    return 0


def _measure(name: str, data_dir: str | None) -> pd.DataFrame:
    from harness.audit import answer_formats, noise
    from harness.benchmarks import load_benchmark
    from harness.grid import load_grid

    if name == "formats":
        return answer_formats.measure(load_benchmark("minerva", data_dir))
    grid = load_grid(Path("main_table"))
    students = (grid.base.student, *grid.students)
    return noise.measure(students, progress=lambda n, total: print(f"noise: {n}/{total}", flush=True))
