"""What the grids of the audit share (results/PROTOCOL.md): three students, and 2,048 held-out problems."""

from dataclasses import replace

from ablations.quickstart import GRID as QUICKSTART
from harness.evaluation import toy_plan
from harness.grid import Arm

EVALS = (toy_plan("toy-2048", 1), toy_plan("toy-aime", 32), toy_plan("toy-minerva", 8))

#: Of grids that the primary comparison, or a whole table, rests on: five seeds of three students, 15 runs an arm.
AUDIT = replace(
    QUICKSTART,
    name="audit",
    title="The audit",
    evals=EVALS,
    curve_every=30,
    students=("toy:student-1", "toy:student-2"),
    seeds=(0, 1, 2, 3, 4),
)

#: Of grids that take a method apart: 6 runs an arm.
PARTS = replace(AUDIT, seeds=(0, 1))

REGIME = (
    ("opd", Arm("opd", "OPD")),
    ("full-rkl", Arm("full-rkl", "Full-trace reverse KL")),
    ("fire", Arm("fire", "FiRe-OPD")),
    ("random-filter", Arm("random-filter", "Random filter (control)")),
)
