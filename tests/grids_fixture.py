"""Records of made-up grids with axes and figures of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from harness.records import Records
from tests.records_fixture import BENCHES, fake_records, graded


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
