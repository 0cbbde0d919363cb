"""Prompts that nobody learned: 30 % are of difficulty 9 to 12, where student and teacher fail."""

from dataclasses import replace

from ablations._audit import AUDIT, REGIME
from trainer.config import Data

GRID = replace(
    AUDIT,
    name="regime_beyond",
    title="30 % of the prompts beyond student and teacher",
    base=replace(AUDIT.base, data=Data("toy:math:2-6,9-12@0.3", prompts=64)),
    arms=REGIME,
)
