"""`opd rerun`: one run of a kept grid made again, and set beside its record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.commands import console
from harness.errors import UserError

HELP = "make one run of a kept grid again and say whether it ends as recorded"
EXAMPLES = """opd rerun quickstart fire
opd rerun main_table fire --seed 103          # the second student's run with seed 3
opd rerun main_table teacher                  # a model that is only evaluated"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", type=Path, help="a grid whose records are kept: its name or its file")
    parser.add_argument("arm", help="a row of its table")
    parser.add_argument(
        "--seed", type=int, default=0, help="the run's number as in the records: 100 × student + seed (default: 0)"
    )
    parser.add_argument("--records", type=Path, help="folder of the kept records (default: results/records/GRID)")
    parser.add_argument("--runs", type=Path, help="folder to run in (default: results/runs/again)")


def run(args: argparse.Namespace) -> int:
    from harness.audit.repetition import agreement
    from harness.grid import load_grid
    from harness.records import RESULTS, load
    from harness.runs.cell import is_done
    from harness.runs.collection import collect
    from harness.runs.execution import local, planned, run_cells
    from harness.runs.monitor import Monitor
    from harness.runs.states import read_state

    out, grid = console(), load_grid(args.grid)
    kept = load(args.records or grid.name)
    cell = _cell(grid, args.arm, args.seed, kept.manifest)
    runs = args.runs or RESULTS / "runs" / "again"
    out.print(f"[bold]{grid.title}[/bold]: arm {cell.arm}, seed {cell.seed}, in {runs / cell.run_id}", soft_wrap=True)
    if is_done(cell, runs):
        out.print("it was made again before: remove that folder to start over")
    with Monitor([planned(cell)], {cell.run_id: read_state(runs / cell.run_id)}, out) as monitor:
        if run_cells([cell], runs, local(1), monitor.update):
            return 1
    here = collect(grid, [cell], runs)
    found = agreement(kept, here, cell.arm, cell.seed)
    for line in _lines(found, kept.manifest["provenance"], here.manifest["provenance"]):
        out.print(line, soft_wrap=True, highlight=False)
    return 0 if found.whole else 1


def _cell(grid: Any, arm: str, seed: int, manifest: dict[str, Any]) -> Any:
    cells = grid.cells()
    if arm not in (arms := list(dict.fromkeys(cell.arm for cell in cells))):
        raise UserError(f"grid '{grid.name}' has no arm '{arm}': it has {', '.join(arms)}")
    mine = {cell.seed: cell for cell in cells if cell.arm == arm}
    if seed not in mine:
        raise UserError(f"arm '{arm}' of grid '{grid.name}' has no run {seed}: it has {', '.join(map(str, mine))}")
    ids = manifest["arms"].get(arm, {}).get("run_ids", [])
    if mine[seed].spec and mine[seed].run_id not in ids:
        raise UserError(
            f"the kept records of '{grid.name}' are not of run {mine[seed].run_id}: grid, methods or models have "
            f"changed since; check out commit {manifest['provenance']['commit'][:12]}, or run the grid again"
        )
    return mine[seed]


def _lines(found: Any, kept: dict[str, Any], here: dict[str, Any]) -> list[str]:
    lines = []
    if found.steps[1]:
        lines.append(f"steps     {found.steps[0]:,} of {found.steps[1]:,} the same to the last bit")
    if found.first:
        step, column, old, new = found.first
        lines.append(f"          training first differs at step {step}: {column} {old} kept, {new} here")
    lines.append(f"answers   {found.answers[0]:,} of {found.answers[1]:,} the same, with their verdicts")
    width = max(map(len, found.accuracies))
    lines += [f"{bench:{width}}  {a:6.2f} % kept, {b:6.2f} % here" for bench, (a, b) in found.accuracies.items()]
    if found.whole:
        return [*lines, "[green]reproduced[/green]: the kept record, bit for bit"]
    lines.append("[yellow]not the same bits[/yellow]: rounding decides, once in a while, which token is drawn")
    made = {**kept["packages"], "hardware": kept["hardware"]}
    now = {**here["packages"], "hardware": here["hardware"]}
    other = [f"{name} {value} (here {now.get(name, 'none')})" for name, value in made.items() if now.get(name) != value]
    same = "packages and number of cores are those of the record: the processor, or the code, is another"
    lines.append(f"the record was made with {', '.join(other)}" if other else same)
    return lines
