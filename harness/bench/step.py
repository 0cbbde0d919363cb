"""One optimisation step on the toy models: this project's trainer beside three of TRL's."""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
from typing import Any, Final

from harness.bench.measures import Entry, at_least_one, common, cost, entry, in_turns, keep
from harness.bench.step_side import PEERS
from harness.errors import UserError

HELP = "one optimisation step (rollouts, scores, update) of the toy models, against TRL's three on-policy trainers"
SIDE: Final = "harness.bench.step_side"
GOALS: Final = {"DistillationTrainer": 0.5, "GKDTrainer": 1 / 1.5, "IWOPDTrainer": None}
OPPONENT: Final = {"DistillationTrainer": "ours", "GKDTrainer": "ours", "IWOPDTrainer": "ours-sampled"}
WHAT: Final = {"ours": "full-rkl", "ours-sampled": "opd", **{peer: f"TRL {peer}" for peer in PEERS}}
BATCHES: Final = (8, 16, 32, 64)  # prompts of the curve
Found = dict[str, list[dict[str, Any]]]  # a side → what its processes reported
LENGTHS: Final = (16, 32, 64, 128)  # tokens of the curve


def arguments(parser: argparse.ArgumentParser) -> None:
    common(parser, repeats=3)
    parser.add_argument("--prompts", type=int, nargs="+", default=[32, 64], help="of a step (default: 32 64)")
    parser.add_argument("--tokens", type=int, default=64, help="of every response (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="timed in each process (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each side (default: %(default)s, as a grid's cells)")
    parser.add_argument("--device", default="cpu", help="cuda: written, not run (default: %(default)s)")
    parser.add_argument("--no-curves", action="store_true", help="leave out the costs against batch and length")


def run(args: argparse.Namespace) -> int:
    at_least_one(args, "repeats", "tokens", "steps", "warmup", "threads")
    if min(args.prompts) < 1:
        raise UserError(f"option '--prompts' must be at least 1, got {min(args.prompts)}")
    try:
        trl = importlib.metadata.version("trl")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("TRL is not installed here: `make bench` sets up an environment that has it") from None
    if args.small:
        args.prompts, args.tokens, args.steps, args.warmup, args.repeats = [4], 8, 2, 1, 1
    entries: list[Entry] = []
    floors: list[str] = []
    for prompts in args.prompts:
        print(f"{prompts} prompts × {args.tokens} tokens", flush=True)
        found = measure(_work(args, prompts, args.tokens), args.repeats)
        compared = compare(f"one step, {prompts} prompts × {args.tokens} tokens", found)
        floors.append(f"{prompts} prompts: {shared(compared)}")
        print(floors[-1], flush=True)
        entries += compared
    curves = [] if args.no_curves else _curves(args)
    how = (
        f"each side in a process of its own, {args.repeats} times; all are alive together and make one step in turn, "
        f"so that they meet the same machine; {args.warmup} steps to warm up and {args.steps} timed, {args.threads} "
        f"thread(s), float32, {args.device}, TRL {trl}",
        "the same student (0.24 M parameters), teacher (0.63 M), prompts, AdamW, clip norm; responses of one length, "
        "as no id ends them; gradient checkpointing and 16-bit of TRL's configurations are off",
        "times: processor seconds of the process on one thread of the CPU, else the wall clock's; memory: the peak of "
        "the whole process, its libraries included",
        *floors,
    )
    return keep("step", args, how, entries, curves)


def _work(args: argparse.Namespace, prompts: int, tokens: int) -> dict[str, Any]:
    return {
        "student": "toy:student",
        "teacher": "toy:teacher-math",
        "prompts": prompts,
        "tokens": tokens,
        "steps": args.steps,
        "warmup": args.warmup,
        "threads": args.threads,
        "device": args.device,
    }


def measure(
    work: dict[str, Any], repeats: int, sides: tuple[str, ...] = tuple(WHAT)
) -> dict[str, list[dict[str, Any]]]:
    """What every side reports, `repeats` times: all are alive together and make a step in turn."""
    found: Found = {side: [] for side in sides}
    clock = "cpu_seconds" if work["threads"] == 1 and work["device"] == "cpu" else "seconds"
    for _ in range(repeats):
        made = in_turns(SIDE, sides, work, work["warmup"] + work["steps"], work["threads"])
        for side, one in made.items():
            one["timed"] = one[clock]
            found[side].append(one)
            wall, timed = statistics.median(one["seconds"]), statistics.median(one["timed"])
            print(f"  {WHAT[side]:<24}{timed:.3f} s a step (wall {wall:.3f}), {one['memory_mib']:.0f} MiB", flush=True)
    return found


def compare(work: str, found: Found) -> list[Entry]:
    """An entry a peer; the times of ours come with the share of each phase."""
    entries = []
    for peer in PEERS:
        side = OPPONENT[peer]
        ours, theirs = (
            cost(
                WHAT[name], [t for one in found[name] for t in one["timed"]], [one["memory_mib"] for one in found[name]]
            )
            for name in (side, peer)
        )
        ours["wall_seconds"], theirs["wall_seconds"] = (
            round(statistics.median(_all(found[name], "seconds")), 5) for name in (side, peer)
        )
        ours["phases"] = phases(found[side])
        asked = GOALS[peer]
        entries.append(entry(work, ours, theirs, asked, None if asked is None else 1.0))
    return entries


def shared(entries: list[Entry]) -> str:
    """How much of every side's step are the passes that none can leave out: what a better loop can gain at the most."""
    phases = entries[0]["ours"]["phases"]
    passes = sum(phases[name] for name in ("teacher", "student", "backward"))
    whole = {"our step": sum(phases.values())}
    whole |= {f"{one['peer']['what']}'s": one["peer"]["wall_seconds"] for one in entries[:2]}
    parts = ", ".join(f"{passes / seconds:.0%} of {whose}" for whose, seconds in whole.items())
    return f"teacher's pass, student's pass and backward pass take {passes:.3f} s (wall): {parts}"


def _all(found: list[dict[str, Any]], name: str) -> list[float]:
    return [value for one in found for value in one[name]]


def phases(found: list[dict[str, Any]]) -> dict[str, float]:
    """Median wall-clock seconds of each phase of our step."""
    rows = [row for one in found for row in one["phases"]]
    return {name.removeprefix("seconds_"): round(statistics.median(row[name] for row in rows), 5) for name in rows[0]}


def _curves(args: argparse.Namespace) -> list[dict[str, Any]]:
    shapes = {
        "step-batch": ("prompts per step", [(n, n, 32) for n in ((4, 8) if args.small else BATCHES)]),
        "step-tokens": ("tokens per response", [(n, 16, n) for n in ((8, 16) if args.small else LENGTHS)]),
    }
    sides = ("ours",) if args.small else ("ours", "DistillationTrainer", "GKDTrainer")
    curves = []
    for name, (x, points) in shapes.items():
        series: dict[str, list[list[float]]] = {side: [] for side in sides}
        for value, prompts, tokens in points:
            print(f"{name}: {prompts} prompts × {tokens} tokens", flush=True)
            for side, ones in measure(_work(args, prompts, tokens), 1, sides).items():
                times = sorted(ones[0]["timed"])
                quarter = len(times) // 4
                series[side].append([value, statistics.median(times), times[quarter], times[-1 - quarter]])
        made = [
            {"label": f"ours, {WHAT[side]}" if side == "ours" else WHAT[side], "ours": side == "ours", "points": points}
            for side, points in series.items()
        ]
        rest = "32 tokens each" if name == "step-batch" else "16 prompts"
        title = f"one step of the toy models, {rest}"
        curves.append({"name": name, "title": title, "x": x, "unit": "seconds", "linear": True, "series": made})
    return curves
