"""Records of a grid of the published size, drawn at random, the same for the same arguments."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from harness.records import Records
from trainer.record import PHASES

BENCHES: Final = {
    "aime24": 30,
    "aime25": 30,
    "hmmt25_feb": 30,
    "hmmt25_nov": 30,
    "amc23": 40,
    "math500": 500,
    "minerva": 272,
    "olympiadbench": 674,
}  # problems
STEPS: Final = 100
ENTROPY_EDGES: Final = [round(6.0 * (i / 24) ** 2, 6) for i in range(1, 25)]
WEIGHT_EDGES: Final = [0.0, *(round(2.0 ** ((i + 0.5) / 4), 6) for i in range(-13, 13))]
Draw = np.random.Generator


def large_records(arms: int = 10, seeds: int = 3, k: int = 32, benches: dict[str, int] = BENCHES) -> Records:
    """By default 30 cells × 1,606 problems × 32 samples: 1.54 million graded samples, 0.3 million rollouts."""
    draw = np.random.default_rng(0)
    names = ["opd", *(f"arm-{index}" for index in range(1, arms))]
    cells = [(arm, seed) for arm in names for seed in range(seeds)]
    difficulty = {bench: draw.beta(0.5, 0.5, n) for bench, n in benches.items()}
    samples, steps, timings, rollouts, profiles = [], [], [], [], []
    for arm, seed in cells:
        gain = 0.02 * names.index(arm)
        for bench, p in difficulty.items():
            samples.append(_samples(draw, (p + gain).clip(0, 1), k, {"arm": arm, "seed": seed, "bench": bench}))
        place = {"arm": arm, "seed": seed}
        steps.append(_steps(draw, place))
        timings.append(pd.DataFrame(place | {"step": np.arange(1, STEPS + 1)} | _seconds(draw)))
        for step in range(10, STEPS + 1, 10):
            rollouts.append(_rollouts(draw, place | {"step": step}))
            profiles += _profiles(draw, place | {"step": step})
    frames = (pd.concat(parts, ignore_index=True) for parts in (samples, steps, timings, rollouts, profiles))
    return Records(_manifest(names, seeds, k, benches), *frames)


def _samples(draw: Draw, p: Any, k: int, place: dict[str, Any]) -> pd.DataFrame:
    n = len(p)
    right = (draw.random((n, k)) < p[:, None]).ravel()
    answers = np.where(right, "42", draw.integers(0, 9, n * k).astype(str))
    frame = place | {
        "step": STEPS,
        "problem": np.repeat([f"{place['bench']}-{index:03d}" for index in range(n)], k),
        "sample": np.tile(np.arange(k), n),
        "correct": right,
        "correct_paper": right,
        "answer": answers,
        "parsed": answers,
        "finish": "stop",
        "tokens": draw.integers(100, 4000, n * k),
    }
    return pd.DataFrame(frame)


def _steps(draw: Draw, place: dict[str, Any]) -> pd.DataFrame:
    step = np.arange(1, STEPS + 1)
    done = np.exp(-3 * step / STEPS)

    def noisy(values: Any, scale: float) -> Any:
        return values + draw.normal(0, scale, STEPS)

    frame = place | {
        "step": step,
        "loss": noisy(0.05 + 0.2 * done, 0.01),
        "grad_norm": noisy(0.5 + done, 0.05),
        "lr": 1e-4,
        "kl": noisy(0.06 + 0.35 * done, 0.015),
        "student_entropy": noisy(0.35 + 0.4 * done, 0.015),
        "teacher_entropy": noisy(0.3 + 0.15 * done, 0.01),
        "length_mean": noisy(1000 + 200 * done, 20),
        "length_p95": noisy(2000 + 500 * done, 50),
        "truncated": noisy(0.02 + 0.08 * done, 0.01).clip(0, 1),
        "kept": 0.8,
        "kept_tokens": 0.8,
        "weight_cv": 0.4,
        "ess": noisy(0.86 * np.ones(STEPS), 0.01),
        "cosine": 0.93,
        "engine_gap": np.abs(noisy(np.zeros(STEPS), 1e-6)),
        "generated_tokens": np.cumsum(draw.integers(60_000, 70_000, STEPS)),
        "trained_tokens": np.cumsum(draw.integers(50_000, 60_000, STEPS)),
    }
    return pd.DataFrame(frame)


def _seconds(draw: Draw) -> dict[str, Any]:
    return {f"seconds_{phase}": draw.gamma(20, 0.05, STEPS) for phase in PHASES} | {"peak_memory_mib": 900.0}


def _rollouts(draw: Draw, place: dict[str, Any], n: int = 1024) -> pd.DataFrame:
    score = -np.exp(draw.normal(-1, 0.5, n))
    kept = score >= np.quantile(score, 0.2)
    frame = place | {
        "index": np.arange(n),
        "domain": "math",
        "length": draw.integers(300, 4000, n),
        "score": score.round(5),
        "student_score": (0.7 * score).round(5),
        "kept": kept,
        "completed": True,
        "correct": draw.random(n) < 0.5,
        "weight": kept / kept.mean(),
    }
    return pd.DataFrame(frame)


def _profiles(draw: Draw, place: dict[str, Any], n: int = 4000) -> list[pd.DataFrame]:
    student, teacher = draw.exponential(0.35, n), draw.exponential(0.2, n)
    kl = 0.6 * np.abs(student - teacher)
    weight = draw.gamma(4, 0.25, n)
    values = {"weight": weight, "advantage": draw.normal(-kl, 0.3), "kl": kl}
    values |= {"student_entropy": student, "teacher_entropy": teacher}
    zero = np.zeros(n, dtype=int)
    bins = {
        "entropies": (_bin(student, ENTROPY_EDGES), _bin(teacher, ENTROPY_EDGES)),
        "weights": (_bin(weight, WEIGHT_EDGES), zero),
        "positions": (draw.integers(0, 20, n), zero),
    }
    return [
        pd.DataFrame({"i": i, "j": j, "tokens": 1, **values})
        .groupby(["i", "j"], as_index=False)
        .sum()
        .assign(**place, kind=kind)
        for kind, (i, j) in bins.items()
    ]


def _bin(values: Any, edges: list[float]) -> Any:
    return np.searchsorted(edges, values).clip(max=len(edges) - 1)


def _manifest(names: list[str], seeds: int, k: int, benches: dict[str, int]) -> dict[str, Any]:
    arms: dict[str, Any] = {
        name: {"method": "opd", "label": name, "objective": "", "reference": False, "at": {}} for name in names
    }
    for index, name in enumerate(names[1:5]):
        arms[name]["at"] = {"keep.fraction": index / 10}
    for index, name in enumerate(names[5:9]):
        arms[name]["at"] = {"alpha": index % 2, "beta": index // 2}
    sweeps = [{"kind": "sweep", "axis": "keep.fraction"}] if len(names) > 2 else []
    maps = [{"kind": "heatmap", "x": "alpha", "y": "beta"}] if len(names) > 8 else []
    return {
        "grid": "large",
        "title": "A large grid, drawn at random",
        "baseline": names[0],
        "arms": arms,
        "order": names,
        "seeds": list(range(seeds)),
        "benches": {bench: {"n": n, "k": k, "label": bench, "prompt_hash": "x"} for bench, n in benches.items()},
        "checker": "strict",
        "checker_version": "1",
        "curve_bench": "aime24",
        "final_step": STEPS,
        "steps": STEPS,
        "profile": {"entropy_edges": ENTROPY_EDGES, "weight_edges": WEIGHT_EDGES, "positions": 20},
        "inert": {},
        "note": "Numbers are drawn, not measured.",
        "figures": [*sweeps, *maps, {"kind": "problems", "arm": names[-1]}],
    }
