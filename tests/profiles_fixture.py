"""Recorded rollouts and token profiles of made-up runs, as `trainer.profiles` counts them."""

from __future__ import annotations

import numpy as np
import pandas as pd

ENTROPY_EDGES = [round(6.0 * (i / 24) ** 2, 6) for i in range(1, 25)]
WEIGHT_EDGES = [0.0, *(round(2.0 ** ((i + 0.5) / 4), 6) for i in range(-13, 13))]
PROFILE = {"entropy_edges": ENTROPY_EDGES, "weight_edges": WEIGHT_EDGES, "positions": 20}


def profiled(arms: list[str], seeds: int, steps: int, key: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rollouts of two domains and token profiles, of every tenth step; from a generator of their own."""
    draw = np.random.default_rng((key, 7))
    rollouts, profiles = [], []
    for arm in arms:
        for seed in range(seeds):
            for step in sorted({1, *range(10, steps + 1, 10)}):
                rollouts.append(rollouts_of(draw, arm, seed, step, steps))
                profiles += tokens_of(draw, arm, seed, step)
    return pd.concat(rollouts, ignore_index=True), pd.concat(profiles, ignore_index=True)


def rollouts_of(draw: np.random.Generator, arm: str, seed: int, step: int, steps: int, n: int = 32) -> pd.DataFrame:
    domain = np.where(np.arange(n) % 4 == 3, "code", "math")
    right = draw.random(n) < 0.4 + 0.3 * step / steps
    score = -np.exp(draw.normal(np.where(right, -1.6, -0.8), 0.5))
    score[domain == "code"] *= 1.4
    kept = np.ones(n, dtype=bool)
    if arm in ("fire", "fire-filter-only"):
        kept = score >= np.quantile(score, 0.2)
    if arm == "random-filter":
        kept[draw.permutation(n)[: n // 5]] = False
    correct = pd.Series(right, dtype=object).where(domain == "math", None)  # code has no gold answer here
    frame = {"arm": arm, "seed": seed, "step": step, "index": np.arange(n), "domain": domain}
    frame |= {"length": draw.integers(30, 90, n), "score": score.round(5), "student_score": (score * 0.7).round(5)}
    frame |= {"kept": kept, "completed": True, "correct": correct, "weight": kept / kept.mean()}
    return pd.DataFrame(frame)


def tokens_of(draw: np.random.Generator, arm: str, seed: int, step: int, n: int = 1500) -> list[pd.DataFrame]:
    student, teacher = draw.exponential(0.35, n), draw.exponential(0.2, n)
    kl = np.abs(student - teacher) * 0.6
    weight = np.ones(n)
    if arm == "fire":
        weight = (1 + np.clip(1 - teacher / teacher.max(), 0, 1)) * (1 + np.clip(student / student.max(), 0, 1))
    if arm == "tip":
        weight = (student + kl > np.median(student + kl)).astype(float)
    if arm in ("fire", "fire-filter-only", "random-filter"):
        weight[draw.permutation(n)[: n // 5]] = 0
    values = {"weight": weight / weight.mean(), "advantage": draw.normal(-kl, 0.3), "kl": kl}
    values |= {"student_entropy": student, "teacher_entropy": teacher}
    place = draw.integers(0, 20, n)
    zero = np.zeros(n, dtype=int)
    bins = {
        "entropies": (_bin(student, ENTROPY_EDGES), _bin(teacher, ENTROPY_EDGES)),
        "weights": (_bin(weight / weight[weight > 0].mean(), WEIGHT_EDGES), zero),
        "positions": (place, zero),
    }
    return [
        pd.DataFrame({"i": i, "j": j, "tokens": 1, **values})
        .groupby(["i", "j"], as_index=False)
        .sum()
        .assign(arm=arm, seed=seed, step=step, kind=kind)
        for kind, (i, j) in bins.items()
    ]


def _bin(values: np.ndarray, edges: list[float]) -> np.ndarray:
    return np.searchsorted(edges, values).clip(max=len(edges) - 1)
