"""Two specialists, one student: does a filter over the mixed batch drop a domain, and do statistics per domain help?"""

from dataclasses import replace

from ablations._audit import AUDIT, EVALS
from harness.evaluation import toy_plan
from harness.grid import Arm
from trainer.config import Data

GRID = replace(
    AUDIT,
    name="multi_teacher",
    title="A math and a code teacher on the toy world",
    base=replace(
        AUDIT.base,
        teachers=(("code", "toy:teacher-code"), ("math", "toy:teacher-math")),
        data=Data("toy:math+code", prompts=64),
    ),
    arms=(
        ("opd", Arm("opd", "OPD")),
        ("full-rkl", Arm("full-rkl", "Full-trace reverse KL")),
        ("fire", Arm("fire", "FiRe-OPD")),
        ("fire-per-domain", Arm("fire-per-domain", "FiRe-OPD per domain")),
        ("fire-filter-only", Arm("fire-filter-only", "Filter")),
        ("filter-per-domain", Arm("fire-filter-only", "Filter per domain", (("keep.scope", "domain"),))),
        ("random-filter", Arm("random-filter", "Random filter (control)")),
    ),
    evals=(*EVALS, toy_plan("toy-code", 8)),
)
