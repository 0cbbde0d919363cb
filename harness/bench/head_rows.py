"""The numbers of the head measurement: points from turns, rows of ours beside a peer, how far answers are apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

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


class Size(NamedTuple):
    """Rollouts × tokens of each."""

    rollouts: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rollouts * self.length

    def __str__(self) -> str:
        return f"{self.rollouts}x{self.length}"


class Goal(NamedTuple):
    """Largest ratios, ours over the peer's, that a row may have; None where nothing is asked."""

    time: float | None = None
    memory: float | None = None

    def __str__(self) -> str:
        parts = [f"{name} at most {limit:.3g}" for name, limit in self._asdict().items() if limit is not None]
        return " and ".join(parts)


def goal(work: str, peer: str) -> Goal:
    """What is asked of us."""
    if peer == "products":
        return Goal(time=1.3) if work == "full-rkl" else Goal()
    if peer == "trl":
        return Goal(time=1 / 3, memory=1 / 3) if work == "full-rkl" else Goal()
    return Goal(time=1 / 1.5) if peer == "checkpointed" else Goal()


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
        "seconds": round(statistics.median(seconds), 6),
        "spread": [round(min(seconds), 6), round(max(seconds), 6)],
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
    time_ratio, memory_ratio = ours["seconds"] / max(peer["seconds"], 1e-9), _ratio(ours, peer, "peak_mib")
    met = (asked.time is None or time_ratio <= asked.time) and (asked.memory is None or memory_ratio <= asked.memory)
    return {
        "work": f"{ours['work']}, {ours['size']} tokens, V = {vocab}: against {peer['side']}",
        "ours": {"what": WHAT[OURS], **_kept(ours)},
        "peer": {"what": WHAT[peer["side"]], **_kept(peer)},
        "time_ratio": round(time_ratio, 4),
        "memory_ratio": round(memory_ratio, 4),
        "cpu_ratio": round(ours["cpu_seconds"] / max(peer["cpu_seconds"], 1e-9), 4),
        "extra_memory_ratio": round(_ratio(ours, peer, "extra_mib"), 4),
        "difference": peer["difference"],
        "goal": str(asked) or None,
        "met": met and peer["agrees"] is not False if str(asked) else None,
    }


def flat(points: Sequence[dict[str, Any]], vocab: int) -> list[dict[str, Any]]:
    """Our peak memory at the largest size over that at the smallest."""
    found = []
    for work in dict.fromkeys(one["work"] for one in points):
        mine = [one for one in points if (one["work"], one["side"], one["vocab"]) == (work, OURS, vocab)]
        small, large = (pick(mine, key=lambda one: one["tokens"]) for pick in (min, max))
        if small is large:
            continue
        ratio = _ratio(large, small, "peak_mib")
        found.append(
            {
                "work": f"{work}, V = {vocab}: peak memory of {large['size']} tokens against {small['size']}",
                "ours": {"what": WHAT[OURS], **_kept(large)},
                "peer": {"what": f"ours at {small['size']}", **_kept(small)},
                "time_ratio": round(large["seconds"] / max(small["seconds"], 1e-9), 4),
                "memory_ratio": round(ratio, 4),
                "extra_memory_ratio": round(_ratio(large, small, "extra_mib"), 4),
                "difference": None,
                "goal": str(Goal(memory=FLAT)),
                "met": ratio <= FLAT,
            }
        )
    return found


def _ratio(one: dict[str, Any], other: dict[str, Any], name: str) -> float:
    """Of memory: work that is too small to be seen in pages is not infinitely larger than other such work."""
    return float(max(one[name], 1.0) / max(other[name], 1.0))


def _kept(one: dict[str, Any]) -> dict[str, Any]:
    return {name: one[name] for name in ("seconds", "spread", "cpu_seconds", "peak_mib", "extra_mib", "repeats")}


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
