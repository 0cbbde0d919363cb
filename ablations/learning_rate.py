"""Is a difference one of the objective, or of the learning rate? Three methods at half, once and twice the rate."""

from dataclasses import replace

from ablations._audit import PARTS
from harness.grid import Arm, Sweep, sweep

OTHERS = (5e-4, 2e-3)

GRID = replace(
    PARTS,
    name="learning_rate",
    title="Objectives at other learning rates",
    arms=(
        ("opd", Arm("opd", "OPD, 1e-3", at=(("optim.lr", 1e-3),))),
        ("full-rkl", Arm("full-rkl", "Full-trace reverse KL, 1e-3", at=(("optim.lr", 1e-3),))),
        ("fire", Arm("fire", "FiRe-OPD, 1e-3", at=(("optim.lr", 1e-3),))),
        *sweep("opd", {"optim.lr": OTHERS}, "OPD, {optim.lr:.0e}"),
        *sweep("full-rkl", {"optim.lr": OTHERS}, "Full-trace reverse KL, {optim.lr:.0e}"),
        *sweep("fire", {"optim.lr": OTHERS}, "FiRe-OPD, {optim.lr:.0e}"),
    ),
    axes=("optim.lr",),
    figures=(Sweep("optim.lr", "learning rate"),),
)
