"""`opd status`: how the cells of a grid are going, from the files of its runs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from harness.commands import console
from harness.errors import UserError

HELP = "how the cells of a grid are going, and how long it will take"
EXAMPLES = "opd status\nopd status quickstart\nopd status main_table --watch --jobs 8 --runs /shared/runs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", nargs="?", help="a grid that was started, or its file (default: list them)")
    parser.add_argument("--watch", action="store_true", help="again and again, until nothing is left (Ctrl-C ends it)")
    parser.add_argument("--jobs", type=int, help="cells side by side (default: as many as the grid was started with)")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: results/runs)")


def run(args: argparse.Namespace) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from harness.records import RESULTS
    from harness.runs.monitor import status_table
    from harness.runs.states import plans, read_plan, read_state

    runs: Path = args.runs or RESULTS / "runs"
    out = console()
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"option '--jobs' must be at least 1, got {args.jobs}")
    if args.grid is None:
        table = Table("grid", "have", "running", "failed", "run", title=f"grids in {runs}", title_justify="left")
        for name in plans(runs):
            found = [read_state(runs / run).state for run in {cell.run for cell in read_plan(name, runs).cells}]
            table.add_row(name, *(str(found.count(state)) for state in ("have", "running", "failed", "run")))
        out.print(table)
        out.print(f"runs: {runs}", soft_wrap=True)
        return 0
    name = Path(args.grid).stem if args.grid.endswith(".py") else args.grid
    plan = read_plan(name, runs)

    def look() -> tuple[Group, bool]:
        states = {cell.run: read_state(runs / cell.run) for cell in plan.cells}
        table, lines = status_table(plan, states, args.jobs or plan.jobs)
        return Group(table, *(Text(line) for line in lines)), all(state.state == "have" for state in states.values())

    shown, done = look()
    if args.watch and not done:
        with Live(shown, console=out, auto_refresh=False) as live:
            while not done:
                time.sleep(2.0)
                shown, done = look()
                live.update(shown, refresh=True)
    else:
        out.print(shown)
    out.print(f"runs: {runs}", soft_wrap=True)
    return 0
