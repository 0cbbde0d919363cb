"""What do whole distributions give over the sampled token, as the batch grows? 16, 64 and 256 prompts a step."""

from dataclasses import replace

from ablations._audit import PARTS
from harness.grid import Arm, Sweep, sweep

OTHERS = (16, 256)

GRID = replace(
    PARTS,
    name="batch_size",
    title="Sampled token and whole distribution over the batch size",
    arms=(
        ("opd", Arm("opd", "OPD, 64 prompts", at=(("data.prompts", 64),))),
        ("full-rkl", Arm("full-rkl", "Full-trace reverse KL, 64 prompts", at=(("data.prompts", 64),))),
        *sweep("opd", {"data.prompts": OTHERS}, "OPD, {data.prompts} prompts"),
        *sweep("full-rkl", {"data.prompts": OTHERS}, "Full-trace reverse KL, {data.prompts} prompts"),
    ),
    axes=("data.prompts",),
    figures=(Sweep("data.prompts", "prompts per step"),),
)
