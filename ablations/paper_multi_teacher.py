"""FiRe-OPD's multi-teacher setting at full scale: Qwen3-4B learns math and code from two RL-trained twins (table 4).

Everything else is that of `paper_strong_to_weak`; read there what the released code does differently. Here the released
code runs at a micro-batch of 1 only, where it filters nothing, and has no OPD or ExOPD baseline with two teachers.
`fire-per-domain` keeps the scores of the two teachers apart, which one quantile mixes.
Left out: Uni-OPD, whose verifier cannot run code, and SFT, which needs one teacher. Code is not evaluated.
"""

from dataclasses import replace

from ablations.paper_strong_to_weak import COMPARED
from ablations.paper_strong_to_weak import GRID as STRONG_TO_WEAK
from harness.grid import Arm
from trainer.config import Data

TEACHERS = (
    ("code", "hub:Keven16/Qwen3-4B-Non-Thinking-RL-Code-Step300"),
    ("math", "hub:Keven16/Qwen3-4B-Non-Thinking-RL-Math-Step500"),
)

GRID = replace(
    STRONG_TO_WEAK,
    name="paper_multi_teacher",
    title="FiRe-OPD, two teachers: Qwen3-4B after RL on math, and on code → Qwen3-4B",
    base=replace(
        STRONG_TO_WEAK.base,
        teachers=TEACHERS,
        data=Data("hub:Keven16/G-OPD-Training-Data:math_and_code/train.parquet", prompts=1024),
        steps=148,  # three epochs of about 50,500 prompts
    ),
    arms=(*COMPARED, ("fire-per-domain", Arm("fire-per-domain", "FiRe-OPD per domain"))),
)
