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
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness.errors import UserError

HELP = "the fused head's loss and gradients against the bare products, plain torch, TRL and Liger, on the same work"
BETAS: Final = ("full-rkl", "full-fkl", "full-jsd")  # methods whose loss TRL and Liger have, too
WORKS: Final = (*BETAS, "skew-kl", "fire-reweight-only", "topk-rkl", "topk-fkl-tail")
OURS: Final = "ours"
LIBRARIES: Final = ("trl", "liger")
PEERS: Final = ("products", "checkpointed", "naive", *LIBRARIES)
WHAT: Final = {
    "ours": "trainer.head: closed forms, chunks, gradient formed in the forward pass",
    "products": "the matrix products alone, in the same chunks",
    "checkpointed": "plain torch in chunks of 256 tokens under torch.utils.checkpoint",
    "naive": "plain torch on all logits at once",
    "trl": "TRL: the chunked divergence of DistillationTrainer",
    "liger": "Liger: LigerFusedLinearJSDLoss (its plain-torch form; its Triton kernels need a GPU)",
}
TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 5e-2}  # of the norm of what is compared
FLAT: Final = 1.1  # peak memory of the largest batch over that of the smallest
_ROOT: Final = Path(__file__).resolve().parents[2]


class Goal(NamedTuple):
    """Largest ratios, ours over the peer's, that a row may have; None where nothing is asked."""

    time: float | None = None
    memory: float | None = None

    def __str__(self) -> str:
        parts = [f"{name} at most {limit:.3g}" for name, limit in self._asdict().items() if limit is not None]
        return " and ".join(parts)


class Size(NamedTuple):
    """Rollouts × tokens of each."""

    rollouts: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rollouts * self.length

    def __str__(self) -> str:
        return f"{self.rollouts}x{self.length}"


def goal(work: str, peer: str) -> Goal:
    """What is asked of us."""
    if peer == "products":
        return Goal(time=1.3) if work == "full-rkl" else Goal()
    if peer == "trl":
        return Goal(time=1 / 3, memory=1 / 3) if work == "full-rkl" else Goal()
    return Goal(time=1 / 1.5) if peer == "checkpointed" else Goal()


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
    report = {
        "what": WHAT,
        "rows": [*compared(points, max(args.tokens, key=lambda size: size.tokens), args.vocab), *flat(points, args)],
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


# --- numbers --------------------------------------------------------------------------------------------------------


def point(
    work: str,
    size: Size,
    vocab: int,
    side: str,
    ones: Sequence[dict[str, Any]],
    reference: dict[str, Any],
    dtype: str,
) -> dict[str, Any]:
    """What is kept of a side's turns."""
    seconds = [one["seconds"] for one in ones]
    apart = None if side in (OURS, "products") else difference(ones[0], reference)
    return {
        "work": work,
        "size": str(size),
        "tokens": size.tokens,
        "vocab": vocab,
        "side": side,
        "seconds": round(statistics.median(seconds), 3),
        "spread": [round(min(seconds), 3), round(max(seconds), 3)],
        "cpu_seconds": round(statistics.median(one["cpu_seconds"] for one in ones), 3),
        "peak_mib": round(statistics.median(one["peak_mib"] for one in ones), 1),
        "extra_mib": round(statistics.median(one["extra_mib"] for one in ones), 1),
        "repeats": len(ones),
        "loss": ones[0]["loss"],
        "difference": apart,
        "agrees": None if apart is None else max(apart.values()) <= TOLERANCE[dtype],
        "load_average": [one["load_average"][0] for one in ones],
        "threads": ones[0]["threads"],
        "versions": ones[0]["versions"],
    }


def difference(one: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """Relative distances of the loss and of the compared rows of either gradient; infinite for anything not finite."""
    apart = {"loss": abs(one["loss"] - reference["loss"]) / max(abs(reference["loss"]), 1e-30)}
    for name in ("grad_hidden", "grad_weight"):
        pairs = list(zip(_flat(one[name]["rows"]), _flat(reference[name]["rows"]), strict=True))
        apart[name] = math.dist(*zip(*pairs, strict=True)) / max(math.hypot(*(b for _, b in pairs)), 1e-30)
        norms = one[name]["norm"], reference[name]["norm"]
        apart[f"{name}_norm"] = abs(norms[0] - norms[1]) / max(norms[1], 1e-30)
    return {name: value if math.isfinite(value) else math.inf for name, value in apart.items()}


def _flat(rows: Iterable[Iterable[float]]) -> Iterator[float]:
    return (value for row in rows for value in row)


def compared(points: Sequence[dict[str, Any]], size: Size, vocab: int) -> list[dict[str, Any]]:
    """Ours beside each peer at the largest size; where a peer could not do that, at the largest it could."""
    found = []
    for work in dict.fromkeys(one["work"] for one in points):
        mine = {one["size"]: one for one in points if (one["work"], one["side"], one["vocab"]) == (work, OURS, vocab)}
        for peer in PEERS:
            those = [
                one
                for one in points
                if (one["work"], one["side"], one["vocab"]) == (work, peer, vocab) and one["tokens"] <= size.tokens
            ]
            if those:
                other = max(those, key=lambda one: one["tokens"])
                found.append(row(mine[other["size"]], other, goal(work, peer), vocab))
    return found


def row(ours: dict[str, Any], peer: dict[str, Any], asked: Goal, vocab: int) -> dict[str, Any]:
    time_ratio, memory_ratio = ours["seconds"] / peer["seconds"], ours["peak_mib"] / max(peer["peak_mib"], 1e-9)
    met = (asked.time is None or time_ratio <= asked.time) and (asked.memory is None or memory_ratio <= asked.memory)
    return {
        "work": f"{ours['work']}, {ours['size']} tokens, V = {vocab}: against {peer['side']}",
        "ours": {"what": WHAT[OURS], **_kept(ours)},
        "peer": {"what": WHAT[peer["side"]], **_kept(peer)},
        "time_ratio": round(time_ratio, 4),
        "memory_ratio": round(memory_ratio, 4),
        "extra_memory_ratio": round(ours["extra_mib"] / max(peer["extra_mib"], 1e-9), 4),
        "difference": peer["difference"],
        "goal": str(asked) or None,
        "met": met and peer["agrees"] is not False if str(asked) else None,
    }


def flat(points: Sequence[dict[str, Any]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Our peak memory at the largest size over that at the smallest."""
    found = []
    for work in args.work:
        mine = [one for one in points if (one["work"], one["side"], one["vocab"]) == (work, OURS, args.vocab)]
        small, large = (pick(mine, key=lambda one: one["tokens"]) for pick in (min, max))
        if small is large:
            continue
        ratio = large["peak_mib"] / small["peak_mib"]
        found.append(
            {
                "work": f"{work}, V = {args.vocab}: peak memory of {large['size']} tokens against {small['size']}",
                "ours": {"what": WHAT[OURS], **_kept(large)},
                "peer": {"what": f"ours at {small['size']}", **_kept(small)},
                "time_ratio": round(large["seconds"] / small["seconds"], 4),
                "memory_ratio": round(ratio, 4),
                "extra_memory_ratio": round(large["extra_mib"] / max(small["extra_mib"], 1e-9), 4),
                "difference": None,
                "goal": str(Goal(memory=FLAT)),
                "met": ratio <= FLAT,
            }
        )
    return found


def _kept(one: dict[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("seconds", "spread", "cpu_seconds", "peak_mib", "extra_mib", "repeats")}


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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The compact form for the terminal."""
    lines = [f"{'':<78}{'ours s':>9}{'peer s':>9}{'time':>7}{'ours MiB':>10}{'peer MiB':>10}{'memory':>8}  goal"]
    for one in rows:
        ours, peer = one["ours"], one["peer"]
        said = "" if one["goal"] is None else f"{one['goal']}: {'met' if one['met'] else 'NOT met'}"
        lines.append(
            f"{one['work']:<78}{ours['seconds']:>9.2f}{peer['seconds']:>9.2f}{one['time_ratio']:>7.2f}"
            f"{ours['peak_mib']:>10.0f}{peer['peak_mib']:>10.0f}{one['memory_ratio']:>8.2f}  {said}"
        )
        if one["difference"]:
            lines.append("    differs by " + ", ".join(f"{n} {v:.1e}" for n, v in one["difference"].items()))
    return "\n".join(lines)
