"""What does the objective change? Four published objectives and a control on the toy world, two seeds each."""

from harness.evaluation import toy_plan
from harness.grid import Arm, Grid
from trainer.config import Data, Optim, RunSpec
from trainer.rollout import Sampling

GRID = Grid(
    name="quickstart",
    title="On-policy distillation objectives on the toy world",
    base=RunSpec(
        method="opd",
        student="toy:student",
        teachers=(("", "toy:teacher-math"),),
        data=Data("toy:math", prompts=64),
        rollout=Sampling(max_tokens=64),
        optim=Optim(lr=1e-3),
        steps=60,
    ),
    arms=(
        ("opd", Arm("opd", "OPD (sampled token)")),
        ("full-rkl", Arm("full-rkl", "Full-trace KL")),
        ("tip", Arm("tip", "TIP (hard tokens)")),
        ("fire", Arm("fire", "FiRe-OPD")),
        ("random-filter", Arm("random-filter", "Random filter")),
    ),
    baseline="opd",
    evals=(toy_plan("toy-aime", 32), toy_plan("toy-minerva", 8)),
    curve=toy_plan("toy-held-out", 1),
    curve_every=20,
    seeds=(0, 1),
)
