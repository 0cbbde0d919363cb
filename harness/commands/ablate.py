"""`opd ablate`: a grid file, as a dry run, or run and reported."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from harness.commands import console
from harness.errors import UserError

HELP = "run a grid: arms × seeds, only what is missing"
EXAMPLES = """opd ablate ablations/quickstart.py --dry-run
opd ablate quickstart --only fire --jobs 2
opd ablate filter_fraction --seeds 0-4 --set steps=120
opd ablate main_table --shard 2/8 --runs /shared/runs
opd ablate paper_strong_to_weak --executor ray --gpus 8 --procs 8 --runs /shared/runs"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", type=Path, help="a Python file that declares GRID, or a name in ablations/")
    parser.add_argument("--dry-run", action="store_true", help="say what is there, what would run, and at what cost")
    parser.add_argument("--only", action="append", default=[], metavar="ARM", help="run this arm alone (repeatable)")
    parser.add_argument("--seeds", metavar="SEEDS", help="instead of the grid's: 0-4, or 0,2,5")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="edit the run that all arms share: steps=120, optim.lr=1e-4 (repeatable); makes other cells",
    )
    parser.add_argument(
        "--executor",
        choices=["local", "ray"],
        default="local",
        help="processes of this machine, or the Ray cluster that RAY_ADDRESS names (default: %(default)s)",
    )
    parser.add_argument("--cpus", type=float, help="processors of a cell, for --executor ray (default: 1)")
    parser.add_argument("--gpus", type=float, help="GPUs of a cell, for --executor ray (default: 0)")
    parser.add_argument(
        "--procs", type=int, default=1, help="processes of a cell, one a GPU, by torchrun (default: %(default)s)"
    )
    parser.add_argument("--shard", metavar="I/N", help="part I of N of the cells, for job arrays")
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAME",
        help="show the records on tensorboard, wandb or trackio as well (repeatable)",
    )
    grid_options(parser)


def grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, help="cells side by side (default: one per core)")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: results/runs)")
    parser.add_argument(
        "--publish", action="store_true", help="also put records, tables and figures where the repository keeps them"
    )


def run(args: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a grid starts its own processes: run `opd ablate` without torchrun (--procs N inside a cell)")
    from dataclasses import replace

    from harness.grid import load_grid
    from harness.runs.tracking import available
    from trainer.settings import assigned

    available(args.track)
    grid = load_grid(args.grid)
    if args.seeds is not None:
        grid = replace(grid, seeds=_seeds(args.seeds))
    grid = grid.edited(tuple(map(assigned, args.settings)))
    if args.executor != "ray" and (args.cpus is not None or args.gpus is not None):
        raise UserError("options '--cpus' and '--gpus' say what a cell takes of a cluster: add --executor ray")
    return _dry_run(grid, args) if args.dry_run else run_grid(grid, args, _chosen(grid, args))


def _seeds(text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not (low.isdigit() and (high.isdigit() or not dash)) or (dash and int(high) < int(low)):
            raise UserError(f"option '--seeds' is a range or a list, such as 0-4 or 0,2,5, not '{text}'")
        seeds += range(int(low), int(high or low) + 1)
    return tuple(seeds)


def _chosen(grid: Any, args: argparse.Namespace) -> list[Any]:
    """The cells that this command is to run: of the arms and the shard that it names."""
    from harness.runs.execution import shard

    names = [name for name, _ in grid.arms]
    if unknown := [arm for arm in args.only if arm not in names]:
        raise UserError(f"grid '{grid.name}' has no arm '{unknown[0]}': it has {', '.join(names)}")
    cells = [cell for cell in grid.cells() if not args.only or cell.spec is None or cell.arm in args.only]
    if args.shard is None:
        return cells
    index, slash, count = args.shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise UserError(f"option '--shard' is i/n, such as 2/8, not '{args.shard}'")
    return shard(cells, int(index), int(count))


def runs_folder(args: argparse.Namespace) -> Path:
    from harness.records import RESULTS

    return args.runs or RESULTS / "runs"


def _jobs(args: argparse.Namespace) -> int:
    jobs = args.jobs if args.jobs is not None else max(1, os.cpu_count() or 1)
    if jobs < 1:
        raise UserError(f"option '--jobs' must be at least 1, got {jobs}")
    return jobs


def _dry_run(grid: Any, args: argparse.Namespace) -> int:
    from rich.markup import escape
    from rich.table import Table

    from harness.runs import estimates, pace
    from harness.runs.states import read_state

    out, runs = console(), runs_folder(args)
    table = Table(title=f"{escape(grid.name)}: {escape(grid.title)}", title_justify="left", box=None)
    for column, width in (("state", 7), ("run", 12), ("arm", 8), ("seed", 4), ("differs from the baseline in", 20)):
        table.add_column(column, overflow="fold", no_wrap=column == "run", min_width=width)
    cells = _chosen(grid, args)
    states = {cell.run_id: read_state(runs / cell.run_id) for cell in cells}
    for cell in cells:
        state = states[cell.run_id]
        said: str = state.state
        if state.state == "failed":
            said = f"failed: {state.why}"
        elif state.state == "run" and state.step:
            said = f"run from step {state.step}"
        elif state.state == "running":
            said = f"running: {state.doing}"
        differs = _differs(grid, cell) if cell.spec else f"reference: {cell.model}"
        table.add_row(escape(said), cell.run_id, escape(cell.arm), str(cell.seed), escape(differs))
    out.print(table)
    count = {name: sum(s.state == name for s in states.values()) for name in ("have", "running", "failed", "run")}
    out.print(f"{len(states)} cells: " + ", ".join(f"{n} {name}" for name, n in count.items() if n))
    if arms := estimates.of_grid(grid, cells):
        out.print(estimates.table(arms))
        for line in estimates.lines(arms):
            out.print(line, soft_wrap=True, highlight=False)
    elif line := pace.minutes_line(cells, states, runs, _jobs(args)):
        out.print(line, soft_wrap=True, highlight=False)
    out.print(f"runs: {runs}", soft_wrap=True)
    return 0


def _differs(grid: Any, cell: Any) -> str:
    """What makes an arm another run than the baseline's, in words of its declaration."""
    from harness.runs.collection import changes

    arm, base = dict(grid.arms)[cell.arm], dict(grid.arms)[grid.baseline]
    if cell.arm == grid.baseline:
        return "—"
    edits, run = changes(grid.base, arm)
    settings = [*(edits if not arm.at else []), *(s for s in run if s not in changes(grid.base, base)[1])]
    said = [f"method {arm.method}"] if arm.method != base.method else []
    said += [f"{axis} {value}" for axis, value in arm.at]  # stands for the edits that make it
    return ", ".join(said + [f"{path} = {text}" for path, text in settings]) or f"what {grid.baseline} sets itself"


def run_grid(grid: Any, args: argparse.Namespace, chosen: list[Any] | None = None) -> int:
    """Runs what is missing of a grid, or of the chosen cells; collects its records, writes its report."""
    from dataclasses import replace

    from harness.runs.cell import is_done
    from harness.runs.execution import local, planned, run_cells
    from harness.runs.monitor import Monitor
    from harness.runs.states import Plan, read_state, write_plan

    out, jobs = console(), _jobs(args)
    runs = runs_folder(args)
    cells = grid.cells()
    chosen = [replace(cell, track=tuple(getattr(args, "track", ()))) for cell in (cells if chosen is None else chosen)]
    ray = getattr(args, "executor", "local") == "ray"
    if ray:
        from harness.runs.ray_executor import on_ray

        runs = runs.absolute()  # a worker may live in another folder
        executor = on_ray(args.jobs, 1.0 if args.cpus is None else args.cpus, args.gpus or 0.0, args.procs)
    else:
        executor = local(jobs, getattr(args, "procs", 1))
    write_plan(Plan(grid.name, grid.title, jobs, tuple(map(planned, cells))), runs)
    where = "a Ray cluster" if ray else f"{jobs} processes"
    out.print(f"[bold]{grid.title}[/bold]: {len(chosen)} cells on {where}, in {runs}", soft_wrap=True)
    shown = [planned(cell) for cell in chosen]
    with Monitor(shown, {cell.run: read_state(runs / cell.run) for cell in shown}, out) as monitor:
        failures = run_cells(chosen, runs, executor, monitor.update)
    ours = {cell.run_id for cell in chosen}
    others = [cell for cell in cells if cell.run_id not in ours and not is_done(cell, runs)]
    if getattr(args, "shard", None) and others:
        how = f"has {len(failures)} failed cell{'s'[: len(failures) > 1]}" if failures else "is done"
        lack = f"{len(others)} cells of other shards are" if len(others) > 1 else "1 cell of other shards is"
        out.print(
            f"shard {args.shard} {how}; {lack} missing: the last shard to end, or the same command without --shard, "
            "writes the report",
            soft_wrap=True,
        )
        out.print(f"runs: {runs}", soft_wrap=True)
        return 1 if failures else 0
    return 1 if _report(grid, cells, runs, args.publish, out) or failures else 0


def _report(grid: Any, cells: list[Any], runs: Path, publish: bool, out: Any) -> int:
    """Records, tables, figures and page of what is finished."""
    from harness.commands.report import write
    from harness.records import RESULTS
    from harness.runs.cell import is_done
    from harness.runs.collection import keep

    if not any(is_done(cell, runs) for cell in cells):
        out.print(f"nothing to report: no cell is finished in {runs}", soft_wrap=True)
        return 1
    root = runs / "report"
    folder = root / "records" / grid.name
    records = keep(grid, cells, runs, folder)
    if missing := records.manifest["missing"]:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        out.print(f"[yellow]missing[/yellow]: {', '.join(missing[:8])}{more}", soft_wrap=True)
    if publish:
        shutil.copytree(folder, RESULTS / "records" / grid.name, dirs_exist_ok=True)
        root = RESULTS
    write(root / "records" / grid.name, root, out)
    return 0
