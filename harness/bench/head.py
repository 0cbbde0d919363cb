"""The fused head beside the bare matrix products, plain torch and the libraries: time and memory of loss and gradient.

The work: hidden states and head weights of student and teacher are given, and the loss is followed by the gradients of
the student's hidden states and head. Every measurement is a process of its own, sides take turns, and each side's loss
and gradients are compared with ours. Memory is what a process holds at its peak beyond what it held before the inputs
were made: inputs count, imported libraries do not. A small trial:

    python -m harness.bench head --vocab 8000 --width 128 --tokens 1x256 2x256 --repeats 1

On a GPU, ``--device cuda --dtype bfloat16``; that has NOT been run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from harness.bench.head_rows import LIBRARIES, OURS, PEERS, TOLERANCE, WHAT, Size, compared, flat, point, table
from harness.errors import UserError

HELP = "the fused head's loss and gradients against the bare products, plain torch, TRL and Liger, on the same work"
BETAS: Final = ("full-rkl", "full-fkl", "full-jsd")  # methods whose loss TRL and Liger have, too
WORKS: Final = (*BETAS, "skew-kl", "fire-reweight-only", "topk-rkl", "topk-fkl-tail")
_ROOT: Final = Path(__file__).resolve().parents[2]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", nargs="+", default=list(WORKS), choices=WORKS, metavar="METHOD", help="losses")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS, help="sides beside ours")
    parser.add_argument("--tokens", nargs="+", type=_size, default=[Size(1, 1024), Size(4, 1024)], metavar="BxT")
    parser.add_argument("--vocab", type=int, default=151_936, help="ids (default: Qwen3's)")
    parser.add_argument("--width", type=int, default=1024, help="of the hidden states, of student and teacher")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side, of which the median counts")
    parser.add_argument("--curve-tokens", nargs="*", type=_size, default=[], metavar="BxT", help="more sizes to draw")
    parser.add_argument(
        "--curve-vocab", nargs="*", type=int, default=[], help="more vocabularies to draw, smallest size"
    )
    parser.add_argument("--peer-python", metavar="PYTHON", help="interpreter that has trl and liger-kernel")
    parser.add_argument("--threads", type=int, default=0, help="of each side (default: torch's)")
    parser.add_argument("--chunk", type=int, default=0, help="tokens per chunk of 'products' and 'checkpointed'")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=tuple(TOLERANCE))
    parser.add_argument("--out", type=Path, default=Path("results/bench/head.json"), metavar="FILE")


def _size(text: str) -> Size:
    rollouts, _, length = text.partition("x")
    if not (rollouts.isdigit() and length.isdigit() and int(rollouts) * int(length)):
        raise argparse.ArgumentTypeError(f"sizes look like 4x1024 (rollouts x tokens), got {text!r}")
    return Size(int(rollouts), int(length))


def run(args: argparse.Namespace) -> int:
    for option in ("vocab", "width", "repeats"):
        if getattr(args, option) < 1:
            raise UserError(f"option '--{option}' must be at least 1, got {getattr(args, option)}")
    load = os.getloadavg()
    points: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for work, size, vocab, repeats in cases(args):
        points += measure(args, work, size, vocab, repeats, skipped)
    report: dict[str, Any] = {
        "what": WHAT,
        "rows": [
            *compared(points, max(args.tokens, key=lambda size: size.tokens), args.vocab),
            *flat(points, args.vocab),
        ],
        "curves": points,
        "skipped": skipped,
        "memory": "MiB at the peak beyond those held before the inputs were made (extra_mib: after)",
        "settings": {
            name: getattr(args, name) for name in ("width", "repeats", "threads", "chunk", "device", "dtype", "vocab")
        },
        "machine": machine(load),
    }
    print(table(report["rows"]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    differing = [one for one in points if one["agrees"] is False]
    for one in differing:
        print(f"differs: {one['work']} {one['size']} {one['side']}: {one['difference']}")
    print(f"written to {args.out}")
    return 1 if differing else 0


def cases(args: argparse.Namespace) -> Iterator[tuple[str, Size, int, int]]:
    """(work, size, vocabulary, repeats); what is only drawn is measured once, for the first work."""
    for work in args.work:
        for size in sorted(set(args.tokens), key=lambda size: size.tokens):
            yield work, size, args.vocab, args.repeats
    for size in args.curve_tokens:
        if size not in args.tokens:
            yield args.work[0], size, args.vocab, 1
    for vocab in args.curve_vocab:
        if vocab != args.vocab:
            yield args.work[0], min(args.tokens, key=lambda size: size.tokens), vocab, 1


def measure(
    args: argparse.Namespace, work: str, size: Size, vocab: int, repeats: int, skipped: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """A point per side: medians and spread of `repeats` turns, and how far its answers are from ours."""
    found: dict[str, list[dict[str, Any]]] = {}
    sides = [OURS]
    for side in args.peers:
        reason = unfit(args, side, work, size, vocab)
        if reason:
            skipped.append({"work": work, "size": str(size), "side": side, "reason": reason})
        else:
            sides.append(side)
    for turn in range(repeats):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            if turn and side not in found:
                continue  # it failed before
            try:
                one = ask(args, side, work, size, vocab)
            except UserError as error:
                if side == OURS:
                    raise
                skipped.append({"work": work, "size": str(size), "side": side, "reason": str(error)})
                print(f"  {work} {size} {side}: {error}", flush=True)
                continue
            found.setdefault(side, []).append(one)
            print(
                f"  {work} {size} V={vocab} {side}: {one['seconds']:.2f} s, {one['peak_mib']:.0f} MiB "
                f"(load {one['load_average'][0]})",
                flush=True,
            )
    return [point(work, size, vocab, side, ones, found[OURS][0], args.dtype) for side, ones in found.items()]


def unfit(args: argparse.Namespace, side: str, work: str, size: Size, vocab: int) -> str | None:
    """Why a side cannot do this work."""
    if side in LIBRARIES and args.peer_python is None:
        return "no --peer-python, the interpreter of an environment that has it"
    if side in LIBRARIES and work not in BETAS:
        return "it has no such loss"
    rows = {"naive": size.tokens, "liger": min(size.tokens, 1024)}.get(side, 0)
    need = (8 * rows * vocab + 3 * vocab * args.width) * 4  # logits, log-probs and what autograd keeps of either model
    free = _available() if args.device == "cpu" else None
    if free is not None and rows and need > free:
        return f"it wants about {need / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
    return None


def ask(args: argparse.Namespace, side: str, work: str, size: Size, vocab: int) -> dict[str, Any]:
    """One measurement in a fresh process."""
    spec = {
        "side": side,
        "work": work,
        "rollouts": size.rollouts,
        "length": size.length,
        "vocab": vocab,
        **{name: getattr(args, name) for name in ("width", "chunk", "device", "dtype", "threads")},
    }
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "spec.json", Path(folder) / "found.json"
        source.write_text(json.dumps(spec), encoding="utf-8")
        python = args.peer_python if side in LIBRARIES else sys.executable
        command = [python, "-m", "harness.bench.head_side", str(source), str(target)]
        try:
            done = subprocess.run(command, cwd=_ROOT, stderr=subprocess.PIPE, text=True, check=False)
        except OSError as error:
            raise UserError(f"cannot run {python}: {error.strerror}") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
            raise UserError(f"the side '{side}' failed: {last[:300]}")
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


def machine(load: Sequence[float]) -> dict[str, Any]:
    """What the times depend on besides the code."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_average_before": [round(one, 2) for one in load],
        "date": time.strftime("%Y-%m-%d"),
    }


def _available() -> int | None:
    """Bytes of memory that are free, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
