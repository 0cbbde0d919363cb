"""Records of made-up grids with axes and figures of their own, and of one as large as the published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.records import Records
from tests.profiles_fixture import PROFILE, rollouts_of, tokens_of
from tests.records_fixture import ARMS, BENCHES, curves_of, fake_records, graded


def swept_records(seeds: int = 2, key: int = 0, figures: bool = True) -> Records:
    """A grid over the dropped fraction and over FiRe's two gains, with the figures that it declares."""
    draw = np.random.default_rng((key, 11))
    points: dict[str, tuple[str, dict[str, Any], float]] = {"opd": ("opd", {}, 0.5), "tip": ("tip", {}, 0.6)}
    for fraction in (0.05, 0.1, 0.2, 0.4, 0.6):
        effect = 0.5 + 2.4 * fraction - 4 * fraction**2
        points[f"filter-{fraction}"] = ("fire-filter-only", {"keep.fraction": fraction}, effect)
        points[f"random-{fraction}"] = ("random-filter", {"keep.fraction": fraction}, 0.5 - 0.5 * fraction)
    for alpha in (0, 0.5, 1, 2):
        for beta in (0, 1, 2):
            gain = 0.5 + 0.35 * beta - 0.1 * alpha - 0.12 * beta**2
            points[f"a{alpha}-b{beta}"] = ("fire", {"alpha": alpha, "beta": beta}, gain)
    difficulty = {b: draw.normal(shift, 1.6, n) for b, (n, _, shift) in BENCHES.items()}
    samples = pd.concat(
        [graded(draw, "start", 0, 0, bench, difficulty[bench]) for bench in BENCHES]
        + [
            graded(draw, arm, seed, 60, bench, difficulty[bench] + gain)
            for arm, (_, _, gain) in points.items()
            for seed in range(seeds)
            for bench in BENCHES
        ],
        ignore_index=True,
    )
    arms: dict[str, Any] = {
        arm: {"method": method, "label": arm, "objective": "", "reference": False, "at": at}
        for arm, (method, at, _) in points.items()
    }
    arms["start"] = {"method": "", "label": "student before training", "objective": None, "reference": True}
    declared = [
        {"kind": "sweep", "axis": "keep.fraction", "label": "share of rollouts dropped"},
        {"kind": "heatmap", "x": "alpha", "y": "beta", "x_label": "gain of confidence α", "y_label": "gain of β"},
        {"kind": "problems", "arm": "tip"},
    ]
    manifest = {
        **fake_records(1, 1, 2).manifest,
        **{"grid": "swept", "arms": arms, "order": ["start", *points], "seeds": list(range(seeds))},
        **{"final_step": 60, "steps": 60, "axes": ["keep.fraction", "alpha", "beta"]},
        "figures": declared if figures else [],
    }
    return Records(manifest, samples, pd.DataFrame(), pd.DataFrame())


LARGE = {"aime24": 30, "aime25": 30, "hmmt25_feb": 30, "hmmt25_nov": 30}
LARGE |= {"amc23": 40, "math500": 500, "minerva": 272, "olympiadbench": 674}


def large_records(arms: int = 10, seeds: int = 3, k: int = 32) -> Records:
    """A grid of the eight mathematics benchmarks; by default 1.5 million samples and 0.3 million rollouts."""
    draw = np.random.default_rng(0)
    likes = list(ARMS)  # what an arm's rollouts and tokens look like
    names = [f"arm{i}" for i in range(arms)]
    samples, rollouts, profiles = [], [], []
    for index, arm in enumerate(names):
        like = likes[index % len(likes)]
        for seed in range(seeds):
            for bench, n in LARGE.items():
                right = (draw.random((n, k)) < draw.beta(0.5, 0.5, n)[:, None]).ravel()
                answers = np.where(right, "42", draw.integers(0, 9, n * k).astype(str))
                problems = np.repeat([f"{bench}-{i:03d}" for i in range(n)], k)
                place = {"arm": arm, "seed": seed, "step": 100, "bench": bench, "problem": problems}
                place |= {"sample": np.tile(np.arange(k), n), "correct": right, "correct_paper": right}
                place |= {"answer": answers, "parsed": answers, "finish": "stop"}
                samples.append(pd.DataFrame({**place, "tokens": draw.integers(100, 4000, n * k)}))
            for step in range(10, 101, 10):
                rollouts.append(rollouts_of(draw, like, seed, step, 100, n=1024).assign(arm=arm))
                profiles += [frame.assign(arm=arm) for frame in tokens_of(draw, like, seed, step, n=4000)]
    specs = {a: {"method": "opd", "label": a, "objective": "", "reference": False, "at": {}} for a in names}
    for index, arm in enumerate(names[1:5]):
        specs[arm]["at"] = {"keep.fraction": index / 10}
    for index, arm in enumerate(names[5:9]):
        specs[arm]["at"] = {"alpha": index % 2, "beta": index // 2}
    curves = [curves_of(draw, arm, seed, 100, 1.0) for arm in names for seed in range(seeds)]
    manifest = {
        **{"grid": "large", "title": "A large grid", "baseline": names[0], "arms": specs, "order": names},
        **{"seeds": list(range(seeds)), "checker": "strict", "checker_version": "1", "curve_bench": "aime24"},
        **{"final_step": 100, "steps": 100, "profile": PROFILE, "inert": {}, "note": ""},
        "benches": {bench: {"n": n, "k": k, "label": bench, "prompt_hash": "x"} for bench, n in LARGE.items()},
        "figures": [
            {"kind": "sweep", "axis": "keep.fraction"},
            {"kind": "heatmap", "x": "alpha", "y": "beta"},
            {"kind": "problems", "arm": names[-1]},
        ],
    }
    steps, timings = (pd.concat(parts, ignore_index=True) for parts in zip(*curves, strict=True))
    kept = (pd.concat(parts, ignore_index=True) for parts in (rollouts, profiles))
    return Records(manifest, pd.concat(samples, ignore_index=True), steps, timings, *kept)
