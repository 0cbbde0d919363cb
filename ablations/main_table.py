"""Which published objective is best at equal cost? One student, one teacher, one learning rate, the same prompts.

Methods that compare rollouts of one prompt draw 4 for each of 16 prompts instead of 1 for each of 64; so does
`opd-grouped`, which is what they are to be read against.
"""

from dataclasses import replace

from ablations._audit import AUDIT
from harness.grid import Arm

GROUPED = (("data.prompts", "16"), ("data.samples", "4"))

GRID = replace(
    AUDIT,
    name="main_table",
    title="Published objectives on the toy world",
    arms=(
        ("opd", Arm("opd", "OPD (sampled token)")),
        ("full-rkl", Arm("full-rkl", "Full-trace reverse KL")),
        ("full-fkl", Arm("full-fkl", "Full-trace forward KL")),
        ("full-jsd", Arm("full-jsd", "Full-trace JSD")),
        ("skew-kl", Arm("skew-kl", "Skewed reverse KL")),
        ("topk-rkl", Arm("topk-rkl", "Top-16 reverse KL")),
        ("topk-fkl", Arm("topk-fkl", "Top-16 forward KL")),
        ("eopd", Arm("eopd", "EOPD")),
        ("tip", Arm("tip", "TIP (hard tokens)")),
        ("tip-entropy", Arm("tip-entropy", "TIP (by entropy)")),
        ("entropy-20", Arm("entropy-20", "High-entropy fifth")),
        ("selectkd", Arm("selectkd", "SelecTKD")),
        ("teachability", Arm("teachability", "TA-OPD")),
        ("reopold", Arm("reopold", "REOPOLD")),
        ("exopd", Arm("exopd", "ExOPD")),
        ("fire", Arm("fire", "FiRe-OPD")),
        ("fire-as-released", Arm("fire-as-released", "FiRe-OPD, released code")),
        ("opd-grouped", Arm("opd", "OPD, 4 rollouts a prompt", run=GROUPED)),
        ("uni-opd", Arm("uni-opd", "Uni-OPD, 4 rollouts a prompt", run=GROUPED)),
        ("kdrl", Arm("kdrl", "KDRL, 4 rollouts a prompt", run=GROUPED)),
        ("scope-routing", Arm("scope-routing", "SCOPE, 4 rollouts a prompt", run=GROUPED)),
        ("random-filter", Arm("random-filter", "Random filter (control)")),
        ("sft-on-teacher", Arm("sft-on-teacher", "SFT on the teacher (off-policy)")),
    ),
)
