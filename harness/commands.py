"""What each command of the command line does. Heavy imports stay inside, so that `--help` is quick."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

from harness.errors import UserError

Args = argparse.Namespace


def quickstart(args: Args) -> int:
    """The shipped grid, run and reported."""
    from harness.grid import load_grid

    return _run_grid(load_grid(Path(__file__).parent.parent / "ablations" / "quickstart.py"), args, only=[])


def ablate(args: Args) -> int:
    """A grid file: dry run, or run and report."""
    from harness.grid import load_grid

    grid = load_grid(args.grid)
    return _dry_run(grid, args) if args.dry_run else _run_grid(grid, args, args.only)


def _cells(grid: Any, only: list[str]) -> list[Any]:
    names = [name for name, _ in grid.arms]
    if unknown := [arm for arm in only if arm not in names]:
        raise UserError(f"grid '{grid.name}' has no arm '{unknown[0]}': it has {', '.join(names)}")
    return [cell for cell in grid.cells() if not only or cell.spec is None or cell.arm in only]


def _runs(args: Args) -> Path:
    from harness.records import RESULTS

    return args.runs or RESULTS / "runs"


def _dry_run(grid: Any, args: Args) -> int:
    from rich.console import Console
    from rich.table import Table

    from trainer.config import differences

    runs = _runs(args)
    table = Table(title=f"{grid.name}: {grid.title}", title_justify="left")
    for column in ("arm", "seed", "run", "state", "differs from the baseline in"):
        table.add_column(column)
    cells = _cells(grid, args.only)
    base = next((c.spec.identity() for c in cells if c.spec and c.arm == grid.baseline), None)
    for cell in cells:
        folder = runs / cell.run_id
        state = "have" if (folder / "result.json").exists() else "failed" if (folder / "failed.txt").exists() else "run"
        changed = [f for f in differences(base, cell.spec.identity()) if f != "seed"] if base and cell.spec else []
        table.add_row(cell.arm, str(cell.seed), cell.run_id, state, ", ".join(changed) or "—")
    Console().print(table)
    return 0


def _run_grid(grid: Any, args: Args, only: list[str]) -> int:
    from rich.console import Console

    from harness.grid import collect, run_cells
    from harness.monitor import Monitor
    from harness.records import RESULTS, save, write_atomic

    console = Console()
    runs = _runs(args)
    jobs = args.jobs if args.jobs is not None else max(1, os.cpu_count() or 1)
    if jobs < 1:
        raise UserError(f"option '--jobs' must be at least 1, got {jobs}")
    cells = _cells(grid, only)
    console.print(f"[bold]{grid.title}[/bold]: {len(cells)} cells on {jobs} processes, in {runs}")
    with Monitor(cells, runs, console) as monitor:
        failures = run_cells(cells, runs, jobs, monitor.update)
    for run_id, why in failures.items():
        console.print(f"[red]failed[/red] {run_id}: {why}", soft_wrap=True)
    root = runs / "report"
    records = collect(grid, cells, runs)
    save(records, root / "records" / grid.name)
    shown = [rollout for cell in cells for rollout in _rollouts(runs / cell.run_id) if cell.seed == grid.seeds[0]]
    write_atomic(root / "records" / grid.name / "rollouts.json", json.dumps(shown))
    if args.publish:
        shutil.copytree(root / "records" / grid.name, RESULTS / "records" / grid.name, dirs_exist_ok=True)
        root = RESULTS
    _write(root / "records" / grid.name, root, console)
    return 1 if failures else 0


def _rollouts(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rollouts.json"
    return json.loads(path.read_text()) if path.exists() else []


def _write(kept: Path | str, root: Path, console: Any) -> None:
    """Tables, figures and page of records, and the table in the terminal."""
    from harness.records import load
    from harness.report import write_report
    from harness.tables import caption, comparison, to_rich

    records = load(kept)
    frame = comparison(records)
    console.print(to_rich(frame, caption(records, frame), records.manifest["title"]))
    page = write_report(records, _rollouts(Path(kept)), root)
    console.print(f"tables, figures and page: {page}", soft_wrap=True)


def report(args: Args) -> int:
    """Tables, figures and page of kept records."""
    from rich.console import Console

    from harness.records import RESULTS

    named = RESULTS / "records" / args.name
    kept = named if named.is_dir() else args.name
    _write(kept, args.out or RESULTS, Console())
    return 0


def train(args: Args) -> int:
    """One run."""
    from rich.console import Console

    from harness import assets
    from harness.benchmarks import load_benchmark
    from harness.monitor import single_bar
    from harness.records import RESULTS, read_jsonl
    from harness.run import Cell, run_cell
    from trainer.config import Data, Machine, Optim, RunSpec
    from trainer.methods import method
    from trainer.rollout import Sampling
    from trainer.settings import edit, paths

    method(args.method)
    spec = RunSpec(
        method=args.method,
        student=args.student,
        teachers=_teachers(args.teacher),
        data=Data(args.data, args.prompts, args.samples),
        rollout=Sampling(args.max_tokens),
        optim=Optim(lr=args.lr),
        steps=args.steps,
        seed=args.seed,
        importance_cap=args.importance_cap,
        dtype=args.dtype,
        machine=Machine(args.device, args.micro_batch, checkpoint_every=args.checkpoint_every),
    )
    of_run = {path for path, _ in paths(spec)}
    for item in args.edits:
        path, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set takes PATH=VALUE, got '{item}'")
        if path in of_run:
            spec = edit(spec, path, value)
        else:
            edit(spec.objective(), path, value)  # refuses an unknown path before anything is written
            from dataclasses import replace

            spec = replace(spec, edits=(*spec.edits, (path, value)))
    spec = assets.pin(spec)
    assets.open_source(spec.data.source, spec.seed)
    plans = []
    for bench in args.bench:
        loaded = load_benchmark(bench, args.data_dir)
        plans.append(_plan(bench, loaded, args.k, args.max_tokens if not bench.startswith("toy-") else None, args.seed))
    cell = Cell(args.method, args.seed, tuple(plans), spec, data_dir=args.data_dir)
    console = Console()
    with single_bar(cell.run_id, console) as update:
        folder = run_cell(cell, RESULTS / "runs", update, args.out)
    steps = read_jsonl(folder / "steps.jsonl")
    first, last = steps[0], steps[-1]
    console.print(
        f"{spec.method}: {len(steps)} steps, KL to the teacher {first['kl']:.3f} → {last['kl']:.3f} nats, "
        f"kept {last['kept']:.0%} of the rollouts in the last step"
    )
    if all(row["inert"] for row in steps) and spec.method != "opd":
        console.print("[bold red]inert:[/bold red] every step of this run equals plain opd")
    if plans:
        _print_summary(folder / "eval" / f"step-{spec.steps:05d}", plans, console)
    console.print(f"run: {folder}", soft_wrap=True)
    return 0


def _teachers(items: list[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for item in items:
        # A model named toy:teacher-math holds no "=", a path may: only a plain word before it is a domain.
        domain, equals, model = item.partition("=")
        domain, model = (domain, model) if equals and domain.isidentifier() else ("", item)
        if domain in found:
            raise UserError(
                f"two teachers for {'all prompts' if not domain else f'domain {domain!r}'}: name each domain once"
            )
        found[domain] = model
    if "" in found and len(found) > 1:
        raise UserError("mixing --teacher MODEL and --teacher DOMAIN=MODEL: give every teacher its domain")
    return tuple(sorted(found.items()))


def _plan(bench: str, loaded: Any, k: int | None, max_tokens: int | None, seed: int = 0, **sampling: Any) -> Any:
    from harness.evaluate import EvalPlan

    toy = bench.startswith("toy-")
    return EvalPlan(
        bench,
        k or loaded.spec.k,
        max_tokens or (96 if toy else 2048),
        style=sampling.pop("style", None) or loaded.spec.style,
        seed=seed,
        **sampling,
    )


def evaluate(args: Args) -> int:
    """Samples and grades."""
    from rich.console import Console

    from harness import assets
    from harness.benchmarks import load_benchmark
    from harness.evaluate import ModelResponder, ReplayResponder
    from harness.evaluate import evaluate as run_eval
    from harness.monitor import single_bar
    from harness.records import RESULTS, write_atomic
    from harness.run import EVAL_BATCH
    from trainer.config import digest
    from trainer.engines import HFEngine
    from trainer.policy import Policy, fingerprint
    from trainer.settings import canonical

    if (args.engine == "replay") != (args.responses is not None):
        raise UserError("--engine replay and --responses FILE go together")
    loaded = {bench: load_benchmark(bench, args.data_dir) for bench in args.bench}
    sampling = {"temperature": args.temperature, "top_p": args.top_p, "style": args.prompt, "limit": args.limit}
    plans = [_plan(b, loaded[b], args.k, args.max_tokens, args.seed, **sampling) for b in args.bench]
    names = [plan.name for plan in plans]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"benchmark '{min(doubled)}' is named twice: give each file a name of its own")
    policy = None
    if args.engine == "hf":
        folder = assets.model_folder(args.model)
        name = f"{args.model}@{fingerprint(folder)}"
        policy = Policy.load(folder, args.device)
    else:
        import hashlib

        if not args.responses.is_file():
            raise UserError(f"{args.responses} does not exist: name a JSONL file of responses")
        name = f"replay@{hashlib.sha256(args.responses.read_bytes()).hexdigest()[:16]}"
    identity = digest({"name": name, "plans": canonical([p for p in plans])}) if args.limit else digest({"name": name})
    out = args.out or RESULTS / "runs" / f"eval-{Path(args.model).name.replace(':', '-')}-{identity}"
    console = Console()
    for bench, plan in zip(args.bench, plans, strict=True):
        responder: Any
        if policy is None:
            responder = ReplayResponder(args.responses, loaded[bench])
        else:
            responder = ModelResponder(HFEngine(policy, EVAL_BATCH), policy, plan, name)
        with single_bar(bench, console) as update:

            def progress(done: int, total: int, name: str = plan.name, update: Any = update) -> None:
                update(f"{name} {done}/{total}", done / total)

            rows = run_eval(responder, loaded[bench], plan, out, progress)
        write_atomic(out / f"{plan.name}.rows.json", json.dumps(rows))
    families = {
        plan.name: {p.id: p.family for p in loaded[plan.bench].problems}
        for plan in plans
        if loaded[plan.bench].spec.families
    }
    _print_summary(out, plans, console, families)
    console.print(f"generations and verdicts: {out}", soft_wrap=True)
    return 0


def _print_summary(
    folder: Path, plans: list[Any], console: Any, families: dict[str, dict[str, str]] | None = None
) -> None:
    """A line per benchmark: avg@k with its interval under both checkers, and what went wrong.

    Problems of one family (`families[bench][problem]`) are one cluster of the interval.
    """
    import pandas as pd
    from rich.table import Table

    from harness.stats import avg_at_k

    table = Table(title="percent, 95 % t interval over problems", title_justify="left")
    for column in ("benchmark", "n", "k", "strict", "paper checker", "no answer", "truncated", "tokens"):
        table.add_column(column, justify="left" if column == "benchmark" else "right")
    for plan in plans:
        rows = pd.DataFrame(json.loads((folder / f"{plan.name}.rows.json").read_text()))

        family = (families or {}).get(plan.name)

        def estimate(column: str, rows: Any = rows, family: dict[str, str] | None = family) -> str:
            grid = rows.pivot(index="problem", columns="sample", values=column)
            e = avg_at_k(grid.to_numpy(dtype=float), clusters=[family[p] for p in grid.index] if family else None)
            return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"

        table.add_row(
            plan.name,
            str(rows["problem"].nunique()),
            str(plan.k),
            estimate("correct"),
            estimate("correct_paper"),
            f"{100 * rows['answer'].isna().mean():.1f}",
            f"{100 * (rows['finish'] == 'length').mean():.1f}",
            f"{rows['tokens'].mean():.0f}",
        )
    console.print(table)


def methods(args: Args) -> int:
    """The method table, or one line of it explained."""
    from harness.catalogue import show

    return show(args.name, args.filter, args.json)


def toy(args: Args) -> int:
    """Rebuilds the toy models."""
    from harness.toy.build import build

    build(args.out, seed=args.seed)
    return 0
