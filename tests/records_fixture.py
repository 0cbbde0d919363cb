"""Records of a made-up grid with the look of a real one: six arms, two references, two seeds, two benches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.records import Records
from tests.profiles_fixture import PROFILE, profiled

ARMS: dict[str, tuple[str, float, float]] = {  # label, gain over the start in logits, speed
    "opd": ("OPD", 0.55, 1.0),
    "full-rkl": ("OPD, full vocabulary", 0.60, 1.1),
    "fire": ("FiRe", 1.00, 1.4),
    "fire-filter-only": ("FiRe, filter only", 0.70, 1.0),
    "tip": ("TIP", 0.62, 0.9),
    "random-filter": ("random filter (control)", 0.05, 0.8),
}
BENCHES = {"toy-math": (48, 8, 0.0), "toy-code": (40, 8, 0.5)}


def fake_records(arms: int = 6, seeds: int = 2, steps: int = 60, inert: bool = False, key: int = 0) -> Records:
    """Deterministic in its arguments; `inert` adds an arm whose samples equal the baseline's."""
    draw = np.random.default_rng(key)
    chosen = dict(list(ARMS.items())[:arms])
    evaluated = [s for s in range(0, steps + 1, max(1, steps // 6)) if s]
    if evaluated[-1] != steps:
        evaluated.append(steps)
    difficulty = {
        b: np.log((p := draw.beta(0.8, 0.8, n)) / (1 - p)) + shift - 0.4 for b, (n, _, shift) in BENCHES.items()
    }
    taste = {(a, b): draw.normal(0, 0.45, len(difficulty[b])) for a in (*chosen, "start", "teacher") for b in BENCHES}
    frames = []
    for bench in BENCHES:
        frames.append(graded(draw, "start", 0, 0, bench, difficulty[bench]))
        frames.append(graded(draw, "teacher", 0, 0, bench, difficulty[bench] + 1.9))
        for arm, (_, gain, speed) in chosen.items():
            for seed in range(seeds):
                wobble = draw.normal(0, 0.06)
                for step in evaluated if bench == "toy-math" else [steps]:
                    done = 1 - np.exp(-3 * speed * step / steps)
                    logits = difficulty[bench] + done * (gain + wobble + taste[arm, bench])
                    frames.append(graded(draw, arm, seed, step, bench, logits))
    samples = pd.concat(frames, ignore_index=True)
    if inert:
        twin = samples[samples["arm"] == "opd"].assign(arm="tip-gain-0")
        samples = pd.concat([samples, twin], ignore_index=True)
        chosen["tip-gain-0"] = ("TIP, gain 0", 0.55, 1.0)
    samples["arm"] = samples["arm"].astype("category")
    curves = [curves_of(draw, arm, seed, steps, chosen[arm][2]) for arm in chosen for seed in range(seeds)]
    manifest = {
        "grid": "fake",
        "title": "A made-up grid",
        "baseline": "opd",
        "arms": {
            **{a: {"method": a, "label": chosen[a][0], "objective": f"{a}(…)", "reference": False} for a in chosen},
            "start": {"method": "", "label": "student before training", "objective": "", "reference": True},
            "teacher": {"method": "", "label": "teacher", "objective": "", "reference": True},
        },
        "order": ["start", "teacher", *chosen],
        "seeds": list(range(seeds)),
        "benches": {
            b: {"k": k, "n": n, "answer_type": "integer", "prompt_hash": f"{b}-5f3a", "label": b.replace("-", " ")}
            for b, (n, k, _) in BENCHES.items()
        },
        "checker": "strict",
        "checker_version": "1",
        "curve_bench": "toy-math",
        "final_step": steps,
        "steps": steps,
        "provenance": {
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
            "python": "3.11.2",
            "hardware": "2 CPU cores",
            "created": "2026-09-01T12:00:00Z",
        },
        "inert": {"tip-gain-0": "equals opd: every coefficient is the same at every step"} if inert else {},
        "note": "Numbers are drawn, not measured.",
        "profile": PROFILE,
    }
    steps_frame = pd.concat([c[0] for c in curves], ignore_index=True)
    timings = pd.concat([c[1] for c in curves], ignore_index=True)
    rollouts, profiles = profiled(list(chosen), seeds, steps, key)
    return Records(manifest, samples, steps_frame, timings, rollouts, profiles)


def graded(draw: np.random.Generator, arm: str, seed: int, step: int, bench: str, logits: np.ndarray) -> pd.DataFrame:
    n, k, _ = BENCHES[bench]
    correct = draw.random((n, k)) < 1 / (1 + np.exp(-logits))[:, None]
    problem, sample = np.divmod(np.arange(n * k), k)
    length = draw.random(n * k) < 0.04
    tokens = np.where(length, 256, draw.integers(20, 120, n * k))
    silent = ~correct.ravel() & (draw.random(n * k) < 0.15)
    return pd.DataFrame(
        {
            "arm": arm,
            "seed": seed,
            "step": step,
            "bench": bench,
            "problem": [f"{bench}-{i:03d}" for i in problem],
            "sample": sample,
            "correct": correct.ravel(),
            "correct_paper": correct.ravel() & (draw.random(n * k) < 0.97),
            "answer": [None if s else "7" if c else "3" for s, c in zip(silent, correct.ravel(), strict=True)],
            "finish": np.where(length, "length", "stop"),
            "tokens": tokens,
        }
    )


def curves_of(
    draw: np.random.Generator, arm: str, seed: int, steps: int, speed: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    t = np.arange(1, steps + 1)
    done = np.exp(-3 * speed * t / steps)
    filtered = arm in ("fire", "fire-filter-only", "random-filter")
    weighted = arm in ("fire", "tip")

    def jitter(scale: float) -> np.ndarray:
        return draw.normal(0, scale, steps)

    frame = pd.DataFrame(
        {
            "arm": arm,
            "seed": seed,
            "step": t,
            "loss": 0.05 + 0.2 * done + jitter(0.01),
            "grad_norm": 0.5 + done + jitter(0.05),
            "lr": 1e-4,
            "kl": 0.06 + 0.35 * done + jitter(0.015),
            "student_entropy": 0.35 + 0.4 * done + jitter(0.015),
            "teacher_entropy": 0.3 + 0.15 * done + jitter(0.01),
            "length_mean": 70 + 12 * done + jitter(1.5),
            "length_p95": 110 + 30 * done + jitter(3),
            "truncated": np.clip(0.02 + 0.08 * done + jitter(0.01), 0, 1),
            "kept": 0.8 if filtered else 1.0,
            "kept_tokens": 0.8 if filtered else 1.0,
            "weight_cv": 0.4 if weighted else 0.0,
            "ess": (0.86 + jitter(0.01) if weighted else 1.0) * (0.8 if filtered else 1.0),
            "cosine": 0.93 if weighted or filtered else 1.0,
            "engine_gap": np.abs(jitter(1e-6)),
            "generated_tokens": np.cumsum(70 * 64 + draw.integers(0, 200, steps)),
            "trained_tokens": np.cumsum(60 * 64 + draw.integers(0, 200, steps)),
        }
    )
    timing = pd.DataFrame(
        {
            "arm": arm,
            "seed": seed,
            "step": t,
            "seconds_rollout": 1.1 + np.abs(jitter(0.05)),
            "seconds_score": 0.2,
            "seconds_plan": 0.01,
            "seconds_update": 0.7 + np.abs(jitter(0.02)),
            "peak_memory_mib": 900.0,
        }
    )
    return frame, timing


def fake_rollout(tokens: list[str], key: int = 0, **changes: Any) -> dict[str, Any]:
    """One token-view object around these tokens."""
    draw = np.random.default_rng(key)
    n = len(tokens)
    teacher = -draw.exponential(0.5, n)
    view = {
        "arm": "fire",
        "seed": 0,
        "step": 60,
        "domain": "math",
        "prompt": "Compute 3 + 4 mod 10. Put the answer in a box.",
        "answer": "7",
        "correct": True,
        "kept": True,
        "score": float(teacher.mean()) if n else 0.0,
        "tokens": tokens,
        "ids": [int(i) for i in draw.integers(0, 151_936, n)],
        "weight": [float(w) for w in draw.gamma(4, 0.25, n)],
        "student_logprob": [float(v) for v in -draw.exponential(0.4, n)],
        "teacher_logprob": [float(v) for v in teacher],
        "student_entropy": [float(v) for v in draw.exponential(0.5, n)],
        "teacher_entropy": [float(v) for v in draw.exponential(0.4, n)],
    }
    return {**view, **changes}


def records_from(cells: dict[tuple[str, int, str], list[list[int]]], **changes: Any) -> Records:
    """Records of exactly these 0/1 matrices, keyed by (arm, seed, bench); the first arm is the baseline."""
    frames = []
    for (arm, seed, bench), matrix in cells.items():
        for problem, row in enumerate(matrix):
            for sample, right in enumerate(row):
                frames.append((arm, seed, 1, bench, f"p{problem}", sample, bool(right), bool(right), "1", "stop", 10))
    columns = ["arm", "seed", "step", "bench", "problem", "sample", "correct", "correct_paper", "answer", "finish"]
    arms = list(dict.fromkeys(arm for arm, _, _ in cells))
    benches = {bench: {"k": len(matrix[0]), "n": len(matrix)} for (_, _, bench), matrix in cells.items()}
    manifest = {
        "grid": "small",
        "title": "small",
        "baseline": arms[0],
        "arms": {arm: {"label": arm, "method": arm, "objective": "", "reference": arm == "teacher"} for arm in arms},
        "order": arms,
        "seeds": sorted({seed for _, seed, _ in cells}),
        "benches": benches,
        "checker": "strict",
        "curve_bench": next(iter(benches)),
        "final_step": 1,
        "steps": 1,
        **changes,
    }
    return Records(manifest, pd.DataFrame(frames, columns=[*columns, "tokens"]), pd.DataFrame(), pd.DataFrame())
