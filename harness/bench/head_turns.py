"""Sides of the head measurement taking turns on the same work, each time in a process of its own.

Memory is what a process holds at its peak beyond what it held before the inputs were made: inputs count, imported
libraries do not. Each side's loss and gradients are compared with ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness.bench.measures import Entry, at_least_one, common, cost, entry, in_process
from harness.errors import UserError

SIDE: Final = "harness.bench.head_side"
OURS: Final = "ours"
LIBRARIES: Final = {"trl": "trl", "liger": "liger_kernel"}  # side → package
BETAS: Final = ("full-rkl", "full-fkl", "full-jsd")  # methods whose loss TRL and Liger have, too
WHAT: Final = {
    "ours": "fused head",
    "products": "the matrix products alone, in the same chunks",
    "checkpointed": "plain torch, chunks of 256 tokens under torch.utils.checkpoint",
    "naive": "plain torch, all logits at once",
    "trl": "TRL, chunked divergence of DistillationTrainer",
    "liger": "Liger, LigerFusedLinearJSDLoss (its plain-torch form: its Triton kernels need a GPU)",
}
TOLERANCE: Final = {"float32": 1e-3, "bfloat16": 5e-2}  # of the norm of what is compared
FLAT: Final = 1.1  # peak memory of the largest batch over that of the smallest
Found = dict[str, list[dict[str, Any]]]  # side → what its turns reported


class Size(NamedTuple):
    """Rollouts × tokens of each."""

    rollouts: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rollouts * self.length

    def __str__(self) -> str:
        return f"{self.rollouts}×{self.length}"


def options(parser: argparse.ArgumentParser) -> None:
    """What both measurements of the head can be told."""
    common(parser, repeats=3)
    sizes = [Size(1, 1024), Size(4, 1024)]
    parser.add_argument(
        "--tokens", nargs="+", type=_size, default=sizes, metavar="BxT", help="(default: 1x1024 4x1024)"
    )
    parser.add_argument("--vocab", type=int, default=151_936, help="ids (default: Qwen3's, %(default)s)")
    parser.add_argument("--width", type=int, default=1024, help="of all hidden states (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of a side (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=0, help="tokens per chunk of 'products' and 'checkpointed'")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cuda: written, not run")
    parser.add_argument("--dtype", default="float32", choices=tuple(TOLERANCE), help="(default: %(default)s)")


def _size(text: str) -> Size:
    rollouts, _, length = text.partition("x")
    if not (rollouts.isdigit() and length.isdigit() and int(rollouts) * int(length)):
        raise argparse.ArgumentTypeError(f"sizes look like 4x1024 (rollouts x tokens), got {text!r}")
    return Size(int(rollouts), int(length))


def check(args: argparse.Namespace) -> None:
    """Refuses bad options, and makes a trial small. Raises: UserError, naming the option."""
    at_least_one(args, "repeats", "vocab", "width", "threads")
    args.tokens = sorted(set(args.tokens), key=lambda size: size.tokens)
    if args.small:
        args.tokens, args.vocab, args.width, args.repeats = [Size(1, 64), Size(2, 64)], 2000, 32, 1


# --- turns --------------------------------------------------------------------------------------------------------


def turns(
    args: argparse.Namespace, work: str, size: Size, vocab: int, sides: Sequence[str], repeats: int
) -> tuple[Found, dict[str, str]]:
    """What the sides reported, in turns so that all meet the same machine; and why others did not."""
    skipped = {side: why for side in sides if (why := unfit(args, side, work, size, vocab))}
    found: Found = {}
    for turn in range(repeats):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            if side in skipped:
                continue
            spec = {"side": side, "work": work, "rollouts": size.rollouts, "length": size.length, "vocab": vocab}
            spec |= {name: getattr(args, name) for name in ("width", "chunk", "device", "dtype", "threads")}
            try:
                one = in_process(SIDE, [], spec, args.threads)
            except UserError as error:
                if side == OURS:
                    raise
                skipped[side] = str(error)
                print(f"  {side}: {error}", flush=True)
                continue
            found.setdefault(side, []).append(one)
            shape = f"{work} {size} tokens, V = {vocab:,}"
            print(f"  {shape}  {side:<13}{one['seconds']:7.2f} s {one['peak_mib']:7.0f} MiB", flush=True)
    return found, skipped


def unfit(args: argparse.Namespace, side: str, work: str, size: Size, vocab: int) -> str:
    """Why a side cannot do this work; "" if it can."""
    if side in LIBRARIES and importlib.util.find_spec(LIBRARIES[side]) is None:
        return f"{LIBRARIES[side]} is not installed here: `make bench` sets up an environment that has it"
    if side in LIBRARIES and work not in BETAS:
        return "it has no such loss"
    rows = {"naive": size.tokens, "liger": min(size.tokens, 1024)}.get(side, 0)
    need = (8 * rows * vocab + 3 * vocab * args.width) * 4  # logits, log-probs and what autograd keeps of either model
    free = _available() if args.device == "cpu" else None
    if free is not None and rows and need > free:
        return f"it wants about {need / 2**30:.0f} GiB, {free / 2**30:.0f} GiB are free"
    return ""


def _available() -> int | None:
    """Bytes of memory that are free, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


# --- entries and curves -------------------------------------------------------------------------------------------


def spent(side: str, found: Found) -> dict[str, Any]:
    """Costs of a side as `measures.cost` has them."""
    return cost(WHAT[side], [one["seconds"] for one in found[side]], [one["peak_mib"] for one in found[side]])


def compared(
    found: Found, title: str, goals: Mapping[str, tuple[float | None, float | None]], dtype: str
) -> Iterator[Entry]:
    """An entry for every side but ours: goals are (time, memory). Where answers differ, no goal is met."""
    for side in found:
        if side == OURS:
            continue
        made = entry(title, spent(OURS, found), spent(side, found), *goals.get(side, (None, None)))
        if side != "products":
            made["difference"] = difference(found[side][0], found[OURS][0])
            made["agrees"] = max(made["difference"].values()) <= TOLERANCE[dtype]
            made["met"] = made["met"] and made["agrees"]
        yield made


def flat(title: str, large: Found, small: Found, sizes: tuple[Size, Size]) -> Entry:
    """Our peak memory at the largest size over that at the smallest."""
    ours, peer = spent(OURS, large), spent(OURS, small)
    return entry(title, ours, peer | {"what": f"itself at {sizes[0]} tokens"}, memory=FLAT)


def difference(one: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """Relative distances of the loss and of the probes of either gradient; infinite for anything not finite."""
    apart = {"loss": abs(one["loss"] - reference["loss"]) / max(abs(reference["loss"]), 1e-30)}
    for name in ("grad_hidden", "grad_weight"):
        pairs = list(zip(_flat(one[name]["probes"]), _flat(reference[name]["probes"]), strict=True))
        apart[name] = math.dist(*zip(*pairs, strict=True)) / max(math.hypot(*(b for _, b in pairs)), 1e-30)
        norms = one[name]["norm"], reference[name]["norm"]
        apart[f"{name}_norm"] = abs(norms[0] - norms[1]) / max(norms[1], 1e-30)
    return {name: value if math.isfinite(value) else math.inf for name, value in apart.items()}


def _flat(probes: Iterable[Iterable[float]]) -> Iterator[float]:
    return (value for probe in probes for value in probe)


def curves(name: str, title: str, x: str, points: dict[int, Found]) -> list[dict[str, Any]]:
    """Seconds and peak memory against a size: `points` holds the turns at each."""
    made = []
    for what, unit, linear in (("seconds", "seconds", True), ("peak_mib", "MiB", False)):
        series: dict[str, list[list[float]]] = {}
        for value, found in sorted(points.items()):
            for side, ones in found.items():
                values = [one[what] for one in ones]
                series.setdefault(side, []).append([value, statistics.median(values), min(values), max(values)])
        lines = [{"label": side, "ours": side == OURS, "points": line} for side, line in series.items()]
        made.append(
            {
                "name": f"{name}-{'time' if linear else 'memory'}",
                "title": f"{title}: {'time' if linear else 'peak memory'}",
                "x": x,
                "unit": unit,
                "linear": linear,
                "series": lines,
            }
        )
    return made
