"""`opd train`: one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.commands import console
from harness.errors import UserError

HELP = "distil a teacher, or several, into a student"
EXAMPLES = """opd train --method fire --student toy:student --teacher toy:teacher-math --data toy:math
opd train --method opd --student DIR --teacher DIR --data problems.jsonl --set optim.lr=1e-6 --steps 100
opd train --method fire --student DIR --data train.parquet --engine vllm --dtype bfloat16 \\
          --teacher math=DIR --teacher code=server:coder@http://10.0.0.2:8000/v1
torchrun --nproc-per-node 8 -m harness.cli train … --device cuda --set machine.vllm.server=http://HOST:8000"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", required=True, help="a name of `opd methods`")
    parser.add_argument("--student", required=True, help="a transformers folder, or toy:student")
    parser.add_argument(
        "--teacher",
        required=True,
        action="append",
        metavar="[DOMAIN=]MODEL",
        help="a folder, or server:NAME@URL of a vLLM server; repeat with DOMAIN= to route by domain",
    )
    parser.add_argument(
        "--data",
        required=True,
        help="a JSONL or parquet file (plain, chat messages, or verl's columns), or toy:math, toy:math+code",
    )
    parser.add_argument("--steps", type=int, default=60, help="optimisation steps (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="prompts per step (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=1, help="rollouts per prompt (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="longest response (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and sampling (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="edits",
        help="a hyper-parameter of the method or the run: keep.fraction=0.3, optim.decay=cosine (repeatable)",
    )
    parser.add_argument("--importance-cap", type=float, help="truncated importance weights for engine mismatch (off)")
    parser.add_argument("--bench", nargs="*", default=[], help="benchmarks to evaluate on at the end")
    parser.add_argument("--k", type=int, help="samples per problem (default: the benchmark's own)")
    parser.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="(default: %(default)s)")
    parser.add_argument(
        "--engine", default="hf", choices=["hf", "vllm"], help="of rollouts and evaluation (default: %(default)s)"
    )
    parser.add_argument("--micro-batch", type=int, default=64, help="rollouts per pass; never changes the mathematics")
    parser.add_argument("--checkpoint-every", type=int, default=10, help="steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the run (default: results/runs/<run id>)")
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAME",
        help="show the records on tensorboard, wandb or trackio as well (repeatable)",
    )


def run(args: argparse.Namespace) -> int:

    from harness.evaluation.evaluations import load_evaluation
    from harness.evaluation.summary import measured, summary
    from harness.records import RESULTS, read_jsonl
    from harness.runs import assets
    from harness.runs.cell import Cell, run_cell
    from harness.runs.monitor import single_bar
    from harness.runs.tracking import available

    available(args.track)
    spec = assets.pin(_spec(args))
    plans = tuple(_plan(args, bench) for bench in args.bench)
    cell = Cell(args.method, args.seed, plans, spec, data_dir=args.data_dir, track=tuple(args.track))
    out = console()
    with single_bar(cell.run_id, out) as update:
        folder = run_cell(cell, RESULTS / "runs", update, args.out)
    steps = read_jsonl(folder / "steps.jsonl")
    first, last = steps[0], steps[-1]
    out.print(
        f"{spec.method}: {len(steps)} steps, KL to the teacher {first['kl']:.3f} → {last['kl']:.3f} nats, "
        f"kept {last['kept']:.0%} of the rollouts in the last step"
    )
    if all(row["inert"] for row in steps) and spec.method != "opd":
        out.print("[bold red]inert:[/bold red] every step of this run equals plain opd")
    if line := _costs(read_jsonl(folder / "timings.jsonl")):
        out.print(line)
    if plans:
        out.print(summary(measured(load_evaluation(folder), [plan.name for plan in plans])))
    if (data := folder / "data.txt").exists():
        out.print(data.read_text().strip(), soft_wrap=True, highlight=False, markup=False)
    out.print(f"run: {folder}", soft_wrap=True)
    return 0


def _costs(timings: list[dict[str, Any]]) -> str:
    """Seconds a step, and where they went, from the most expensive phase on; nothing where that was not kept."""
    from statistics import mean

    rows = [row for row in timings if "seconds_teacher" in row]
    if not rows:
        return ""
    phases = {
        name.removeprefix("seconds_"): mean(row[name] for row in rows)
        for name in rows[0]
        if name.startswith("seconds_")
    }
    step = sum(phases.values())
    if not step:
        return ""
    shares = {name: spent / step for name, spent in sorted(phases.items(), key=lambda item: -item[1])}
    rest = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != "teacher" and share >= 0.005)
    return f"{step:.2f} s a step: the teacher's share {shares['teacher']:.0%}, {rest}"


def _spec(args: argparse.Namespace) -> Any:
    """The run that the options describe; unknown paths of --set are refused."""
    from dataclasses import replace

    from trainer.config import Data, Machine, Optim, RunSpec
    from trainer.methods import method
    from trainer.rollout import Sampling
    from trainer.settings import assigned, edit, paths, unknown_option

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
        engine=args.engine,
        machine=Machine(args.device, args.micro_batch, checkpoint_every=args.checkpoint_every),
    )
    of_run = dict(paths(spec))
    for item in args.edits:
        path, value = assigned(item)
        if path in of_run:
            spec = edit(spec, path, value)
        elif path not in (of_method := dict(paths(spec.objective()))):
            raise unknown_option(path, [*of_method, *of_run])
        else:
            spec = replace(spec, edits=(*spec.edits, (path, value)))
    return spec


def _plan(args: argparse.Namespace, bench: str) -> Any:
    from harness.benchmarks import load_benchmark
    from harness.evaluation import EvalPlan

    spec = load_benchmark(bench, args.data_dir).spec
    k = spec.k if args.k is None else args.k
    return EvalPlan(bench, k, 96 if spec.toy else args.max_tokens, style=spec.style, seed=args.seed)


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
