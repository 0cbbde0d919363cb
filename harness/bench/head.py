"""The fused head beside the bare matrix products, plain torch and the libraries: loss and gradients of reverse KL.

The work: hidden states and head weights of student and teacher are given, and the loss is followed by the gradients of
the student's hidden states and head. A small trial:

    python -m harness.bench head --small

On a GPU, ``--device cuda --dtype bfloat16``; that has NOT been run.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from harness.bench.head_turns import OURS, Found, Size, check, compared, curves, flat, options, turns
from harness.bench.measures import Entry, keep

HELP = "the fused head's loss and gradients against the bare products, plain torch, TRL and Liger"
WORK: Final = "full-rkl"
SIDES: Final = (OURS, "products", "checkpointed", "naive", "trl", "liger")
#: (time, memory) ratios at the largest size.
GOALS: Final = {"products": (1.3, None), "checkpointed": (1 / 1.5, None), "trl": (1 / 3, 1 / 3)}
DRAWN: Final = (OURS, "checkpointed", "trl")
TOKENS: Final = (Size(1, 256), Size(1, 512), Size(2, 1024))  # of the curve, beside those that are compared
VOCABULARIES: Final = (18_992, 37_984, 75_968)  # an eighth, a quarter and half of Qwen3's


def arguments(parser: argparse.ArgumentParser) -> None:
    options(parser)
    parser.add_argument("--no-curves", action="store_true", help="leave out the costs against tokens and vocabulary")


def run(args: argparse.Namespace) -> int:
    check(args)
    skipped: dict[str, dict[str, str]] = {}
    at: dict[Size, Found] = {}
    entries: list[Entry] = []
    for size in args.tokens:
        title = f"full reverse KL, {size} tokens, V = {args.vocab:,}, forward and backward"
        at[size], skipped[str(size)] = turns(args, WORK, size, args.vocab, SIDES, args.repeats)
        entries += compared(at[size], title, GOALS if size == args.tokens[-1] else {}, args.dtype)
    small, large = args.tokens[0], args.tokens[-1]
    if small != large:
        title = f"full reverse KL, peak memory at {large} tokens"
        entries.append(flat(title, at[large], at[small], (small, large)))
    how = (
        f"each measurement in a process of its own, {args.repeats} of each side in turn, {args.threads} thread(s), "
        f"{args.dtype}, {args.device}, hidden size {args.width}; wall-clock seconds of loss and both gradients",
        "memory: the peak of a process beyond what it held before the inputs were made",
        *(
            f"not measured at {size} tokens: {side}: {why}"
            for size, whys in skipped.items()
            for side, why in whys.items()
        ),
    )
    keep("head", args, how, entries, [] if args.no_curves else _curves(args, at))
    return 0 if all(one.get("agrees", True) for one in entries) else 1


def _curves(args: argparse.Namespace, at: dict[Size, Found]) -> list[dict[str, Any]]:
    """Sizes that are only drawn are measured once."""

    def drawn(found: Found) -> Found:
        return {side: ones for side, ones in found.items() if side in DRAWN}

    small = args.tokens[0]
    by_tokens = {size.tokens: drawn(found) for size, found in at.items()}
    for size in (Size(1, 16), Size(1, 32)) if args.small else TOKENS:
        if size.tokens not in by_tokens:
            by_tokens[size.tokens], _ = turns(args, WORK, size, args.vocab, DRAWN, 1)
    by_vocab = {args.vocab: drawn(at[small])}
    for vocab in (500, 1000) if args.small else VOCABULARIES:
        if vocab not in by_vocab:
            by_vocab[vocab], _ = turns(args, WORK, small, vocab, DRAWN, 1)
    return [
        *curves("head-tokens", f"full reverse KL, V = {args.vocab:,}", "tokens", by_tokens),
        *curves("head-vocabulary", f"full reverse KL, {small} tokens", "vocabulary", by_vocab),
    ]
