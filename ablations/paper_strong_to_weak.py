"""FiRe-OPD's strong-to-weak setting at full scale: Qwen3-4B learns from Qwen3-30B-A3B-Instruct-2507 (tables 2 and 6).

Models, data, batch, lengths and learning rate are those of the released scripts. All arms share learning rate, prompts,
rollouts, steps and the importance weights against the engine (token level, capped at 5). What the released code does
differently has arms of its own:
- its FiRe loss reads no importance weights and takes all statistics over a micro-batch of 1, which filters nothing:
  `fire-released`, to be read against `opd-uncorrected`;
- G-OPD, where ExOPD comes from, trains at 1e-5: `exopd-1e-5` beside `opd-1e-5`;
- Uni-OPD compares rollouts of one prompt: 64 prompts × 16, beside `opd-grouped`.
Of the scripts, optimiser settings that they leave open are those of their framework: AdamW, betas 0.9 and 0.999, weight
decay 0.01, clipping at 1, no warm-up, constant rate.
Not declared: GRPO, which is no distillation, and code benchmarks, which need a sandbox.
"""

from harness.evaluation import EvalPlan
from harness.grid import Arm, Grid
from trainer.config import Data, Machine, Optim, RunSpec
from trainer.rollout import Sampling

STUDENT = "hub:Qwen/Qwen3-4B@1cfa9a7208912126459214e8b04321603b3df60c"
TEACHER = "hub:Qwen/Qwen3-30B-A3B-Instruct-2507@0d7cf23991f47feeb3a57ecb4c9cee8ea4a17bfe"
MATH = "hub:Keven16/G-OPD-Training-Data:DeepMath-103K/train_filtered_level6.parquet"

BENCHES = ("aime24", "aime25", "hmmt25_feb", "hmmt25_nov", "math500", "amc23", "minerva", "olympiadbench")
EVALS = tuple(EvalPlan(bench, 8, 16384, style="paper") for bench in BENCHES)

UNCORRECTED = (("importance_cap", "none"),)
GROUPED = (("data.prompts", "64"), ("data.samples", "16"))
FAST = (("optim.lr", "1e-5"),)

COMPARED = (
    ("opd", Arm("opd", "OPD")),
    ("exopd", Arm("exopd", "ExOPD")),
    ("tip", Arm("tip", "TIP")),
    ("reopold", Arm("reopold", "REOPOLD")),
    ("eopd", Arm("eopd", "EOPD")),
    ("fire", Arm("fire", "FiRe-OPD")),
    ("opd-uncorrected", Arm("opd", "OPD, no importance weights", run=UNCORRECTED)),
    ("fire-released", Arm("fire-as-released", "FiRe-OPD as released", run=UNCORRECTED)),
    ("random-filter", Arm("random-filter", "Random filter (control)")),
)
SINGLE = (
    ("sft-on-teacher", Arm("sft-on-teacher", "SFT on the teacher (off-policy)")),
    ("opd-grouped", Arm("opd", "OPD, 16 rollouts a prompt", run=GROUPED)),
    ("uni-opd", Arm("uni-opd", "Uni-OPD, 16 rollouts a prompt", run=GROUPED)),
    ("opd-1e-5", Arm("opd", "OPD at 1e-5", run=FAST)),
    ("exopd-1e-5", Arm("exopd", "ExOPD at its own 1e-5", run=FAST)),
)

GRID = Grid(
    name="paper_strong_to_weak",
    title="FiRe-OPD, strong to weak: Qwen3-30B-A3B-Instruct-2507 → Qwen3-4B",
    base=RunSpec(
        method="opd",
        student=STUDENT,
        teachers=(("", TEACHER),),
        data=Data(MATH, prompts=1024),
        rollout=Sampling(max_tokens=16384),
        optim=Optim(lr=1e-6, beta2=0.999, weight_decay=0.01, warmup=0, decay="constant"),
        steps=165,
        importance_cap=5.0,
        dtype="bfloat16",
        engine="vllm",
        machine=Machine("cuda", micro_batch=8, engine_batch=1024, gradient_checkpointing=True),
    ),
    arms=(
        *COMPARED,
        *SINGLE,
        ("fire-filter-only", Arm("fire-filter-only", "Filter only")),
        ("fire-reweight-only", Arm("fire-reweight-only", "Without the filter")),
        ("fire-no-confidence", Arm("fire-no-confidence", "Without teacher confidence")),
        ("fire-no-confusion", Arm("fire-no-confusion", "Without student confusion")),
        ("fire-10", Arm("fire", "Drop 10 %", (("keep.fraction", "0.1"),))),
        ("fire-40", Arm("fire", "Drop 40 %", (("keep.fraction", "0.4"),))),
        ("fire-hard-hard", Arm("fire-hard-hard", "Hard and hard")),
        ("fire-soft-soft", Arm("fire-soft-soft", "Soft and soft")),
        ("fire-soft-hard", Arm("fire-soft-hard", "Soft, then hard")),
    ),
    baseline="opd",
    evals=EVALS,
    curve=EVALS[0],
    curve_every=10,
    seeds=(0, 1, 2),
    note="Prompts carry the instruction twice, as in the released evaluation (style 'paper'); avg@8 as in the paper.",
)
