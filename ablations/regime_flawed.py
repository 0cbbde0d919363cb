"""A teacher that is wrong with confidence where a 3 or a 7 is multiplied, about a quarter of the problems."""

from dataclasses import replace

from ablations._audit import AUDIT, REGIME

GRID = replace(
    AUDIT,
    name="regime_flawed",
    title="A teacher with a confident flaw",
    base=replace(AUDIT.base, teachers=(("", "toy:teacher-flawed"),)),
    arms=REGIME,
)
