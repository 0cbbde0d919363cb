"""Rollouts at temperature 1.6, with importance weights, capped at 5, in every arm."""

from dataclasses import replace

from ablations._audit import AUDIT, REGIME
from trainer.rollout import Sampling

GRID = replace(
    AUDIT,
    name="regime_hot",
    title="Hot rollouts, corrected",
    base=replace(AUDIT.base, rollout=Sampling(max_tokens=64, temperature=1.6), importance_cap=5.0),
    arms=REGIME,
)
