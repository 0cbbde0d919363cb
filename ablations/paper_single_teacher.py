"""FiRe-OPD's same-size setting at full scale: Qwen3-4B learns from its RL-trained twin (table 3).

Everything but the teacher, and the arms of the strong-to-weak ablation, is that of `paper_strong_to_weak`; read there
what the released code does differently. The script that is released as "single teacher" names the 30B teacher instead.
"""

from dataclasses import replace

from ablations.paper_strong_to_weak import COMPARED, SINGLE
from ablations.paper_strong_to_weak import GRID as STRONG_TO_WEAK

TEACHER = "hub:Keven16/Qwen3-4B-Non-Thinking-RL-Math-Step500"

GRID = replace(
    STRONG_TO_WEAK,
    name="paper_single_teacher",
    title="FiRe-OPD, same size: Qwen3-4B after RL on math → Qwen3-4B",
    base=replace(STRONG_TO_WEAK.base, teachers=(("", TEACHER),)),
    arms=(*COMPARED, *SINGLE),
)
