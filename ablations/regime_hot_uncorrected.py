"""Rollouts at temperature 1.6 taken as the student's own, as training code does that ignores the mismatch."""

from dataclasses import replace

from ablations._audit import AUDIT, REGIME
from trainer.rollout import Sampling

GRID = replace(
    AUDIT,
    name="regime_hot_uncorrected",
    title="Hot rollouts, taken as the student's own",
    base=replace(AUDIT.base, rollout=Sampling(max_tokens=64, temperature=1.6), uncorrected=True),
    arms=REGIME,
)
