"""Planning a whole batch beside the step that it belongs to."""

from __future__ import annotations

import argparse
import statistics
from typing import Any, Final

from harness.bench.measures import at_least_one, common, cost, entry, in_process, keep
from harness.errors import UserError

HELP = "planning a batch of 1,024 x 16,384 tokens: time against its step, peak of memory against its inputs"
SIDE: Final = "harness.bench.plan_side"
TIME, MEMORY = 0.01, 4.0  # of the step; times the inputs
QWEN: Final[dict[str, Any]] = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
"""The shape of Qwen3-0.6B."""


def arguments(parser: argparse.ArgumentParser) -> None:
    common(parser, repeats=3)
    parser.add_argument("--method", default="fire", help="(default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1024, help="rollouts (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=16_384, help="of the longest response (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cuda: written, not run (default: %(default)s)")
    parser.add_argument("--no-large", action="store_true", help="leave out the step of a model of 0.6 B parameters")


def run(args: argparse.Namespace) -> int:
    from trainer.methods import METHODS, method

    at_least_one(args, "repeats", "rows", "tokens", "threads")
    if args.method not in METHODS:
        method(args.method)  # says which there are
    if METHODS[args.method].needs - {"logprobs", "entropy"}:
        raise UserError(
            f"method '{args.method}' reads more than log-probs and entropies, which are all that is made up"
        )
    if args.small:
        args.rows, args.tokens, args.repeats, args.no_large = 64, 1024, 1, True
    found = [_plan(args, args.rows, diagnostics=False) for _ in range(args.repeats)]
    beside = _plan(args, args.rows, diagnostics=True)
    shapes: list[tuple[str, Any, Any, int, int]] = [
        ("toy models (0.24 M, 0.63 M)", "toy:student", "toy:teacher-math", 8, 512)
    ]
    if not args.no_large:
        shapes.append(("student and teacher in the shape of Qwen3-0.6B", QWEN, QWEN, 1, 128))
    valid = args.rows * args.tokens * 5 / 8  # lengths are drawn between a quarter of the longest and the longest
    work = f"plan {args.method}, {args.rows:,} × {args.tokens:,} tokens"
    clock = "cpu_seconds" if args.device == "cpu" and args.threads == 1 else "seconds"
    ours = cost("objective.plan", [one[clock] for one in found], [one["memory_mib"] for one in found])
    entries = []
    for what, student, teacher, rows, tokens in shapes:
        per = _step(args, student, teacher, rows, tokens)
        step = cost(f"its step, {what}; its inputs", [valid * t for t in per[clock]], [found[0]["inputs_mib"]])
        step |= {"seconds_per_token": statistics.median(per[clock]), "parameters": per["parameters"]}
        entries.append(entry(work, ours, step, TIME, MEMORY))
        print(f"a step costs {1e3 * step['seconds_per_token']:.3g} ms a token: {what}", flush=True)
    whole = cost(
        "plan, the baseline's plan, diagnostics",
        [beside[clock] + beside[f"diagnostics_{clock}"]],
        [beside["memory_with_diagnostics_mib"]],
    )
    entries.append(entry(f"{work}, with what is said about it", whole, entries[0]["peer"]))
    how = (
        f"{args.repeats} processes, {args.threads} thread(s), {args.device}; scores are made up, lengths uniform "
        f"between {args.tokens // 4:,} and {args.tokens:,}; memory: the inputs and the highest use beyond",
        "the step is estimated: seconds a token of a teacher's forward, a student's forward and backward pass, heads "
        "included, measured here on short sequences, times 5/8 of the batch. Rollouts, the optimiser and the growth of "
        "attention with length are left out, which makes the step look cheaper than it is",
    )
    return keep("plan", args, how, entries, _curves(args))


def _plan(args: argparse.Namespace, rows: int, diagnostics: bool) -> Any:
    work = {"rows": rows, "tokens": args.tokens, "method": args.method, "diagnostics": diagnostics}
    return in_process(SIDE, ["plan"], work | {"threads": args.threads, "device": args.device}, args.threads)


def _step(args: argparse.Namespace, student: Any, teacher: Any, rows: int, tokens: int) -> Any:
    work = {"student": student, "teacher": teacher, "rows": rows, "tokens": tokens, "repeats": 1 if args.small else 3}
    return in_process(SIDE, ["step"], work | {"threads": args.threads, "device": args.device}, args.threads)


def _curves(args: argparse.Namespace) -> list[dict[str, Any]]:
    clock = "cpu_seconds" if args.device == "cpu" and args.threads == 1 else "seconds"
    seconds, memory, inputs = [], [], []
    for rows in [r for r in (args.rows // 16, args.rows // 8, args.rows // 4, args.rows // 2, args.rows) if r]:
        ones = [_plan(args, rows, diagnostics=False) for _ in range(args.repeats)]
        times, size = sorted(one[clock] for one in ones), rows * args.tokens
        seconds.append([size, statistics.median(times), times[0], times[-1]])
        peaks = sorted(one["memory_mib"] for one in ones)
        memory.append([size, statistics.median(peaks), peaks[0], peaks[-1]])
        inputs.append([size, *[ones[0]["inputs_mib"]] * 3])
    base = {"x": "positions of the batch, rollouts × tokens", "linear": True}
    return [
        base
        | {
            "name": "plan-time",
            "title": f"planning {args.method}",
            "unit": "seconds",
            "series": [{"label": "objective.plan", "ours": True, "points": seconds}],
        },
        base
        | {
            "name": "plan-memory",
            "title": f"memory of planning {args.method}",
            "unit": "MiB",
            "series": [
                {"label": "objective.plan, inputs included", "ours": True, "points": memory},
                {"label": "inputs", "ours": False, "points": inputs},
            ],
        },
    ]
