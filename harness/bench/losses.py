"""The other losses of the fused head beside plain torch: all at once, and in chunks that are computed twice."""

from __future__ import annotations

import argparse
from typing import Final

from harness.bench.head_turns import OURS, check, compared, flat, options, turns
from harness.bench.measures import Entry, keep
from harness.errors import UserError

HELP = "the fused head with other losses: forward KL, JS, sampled token with entropies, top-k"
WORKS: Final = {
    "full-fkl": "forward KL",
    "full-jsd": "Jensen–Shannon",
    "fire-reweight-only": "sampled token with entropies",
    "topk-rkl": "top-16 of the student, reverse KL",
    "topk-fkl-tail": "top-16 of the teacher and the rest, forward KL",
}
SIDES: Final = (OURS, "products", "checkpointed", "naive")
GOALS: Final = {"checkpointed": (1 / 1.5, None)}


def arguments(parser: argparse.ArgumentParser) -> None:
    options(parser)
    parser.add_argument("--work", nargs="+", default=list(WORKS), metavar="METHOD", help=f"among {', '.join(WORKS)}")


def run(args: argparse.Namespace) -> int:
    check(args)
    if unknown := [work for work in args.work if work not in WORKS]:
        raise UserError(f"option '--work' knows {', '.join(WORKS)}, not '{unknown[0]}'")
    entries: list[Entry] = []
    small, large = args.tokens[0], args.tokens[-1]
    for work in args.work:
        title = f"{WORKS[work]}, {small} tokens, V = {args.vocab:,}, forward and backward"
        found, skipped = turns(args, work, small, args.vocab, SIDES, args.repeats)
        for side, why in skipped.items():
            print(f"not measured: {side}: {why}")
        entries += compared(found, title, GOALS, args.dtype)
        if small != large:
            more, _ = turns(args, work, large, args.vocab, (OURS,), 1)
            entries.append(flat(f"{WORKS[work]}, peak memory at {large} tokens", more, found, (small, large)))
    how = (
        f"as the head's measurement; {args.repeats} turns at {small} tokens, and one of ours at {large} for its peak "
        f"memory; {args.threads} thread(s), {args.dtype}, {args.device}, hidden size {args.width}",
    )
    keep("losses", args, how, entries)
    return 0 if all(one.get("agrees", True) for one in entries) else 1
