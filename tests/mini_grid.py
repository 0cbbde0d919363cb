"""The quick start in miniature: the same path in seconds."""

from dataclasses import replace

from ablations.quickstart import GRID as QUICKSTART
from harness.evaluation import toy_plan
from harness.grid import Arm, Sweep
from trainer.config import Data, Machine

GRID = replace(
    QUICKSTART,
    name="mini",
    title="The quick start in miniature",
    base=replace(
        QUICKSTART.base,
        steps=4,
        data=Data("toy:math", prompts=8),
        machine=Machine(micro_batch=8, checkpoint_every=1),
    ),
    arms=(
        ("opd", Arm("opd", "OPD")),
        ("fire", Arm("fire", "FiRe-OPD", at=(("dropped", 0.2),))),
        ("neutral", Arm("random-filter", "No-op", edits=(("keep.fraction", "0.0"),), at=(("dropped", 0.0),))),
    ),
    evals=(toy_plan("toy-aime", 2),),
    curve=toy_plan("toy-held-out", 1),
    curve_every=2,
    seeds=(0,),
    axes=("dropped",),
    figures=(Sweep("dropped", "share of rollouts dropped"),),
)
