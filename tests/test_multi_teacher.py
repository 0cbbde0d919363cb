"""Two specialists and one student, by way of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
from harness.evaluation.evaluations import graded

BENCHES = ["--bench", "toy-aime", "toy-code", "--k", "8"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_local_specialists_improve_both_domains(tmp_path: Path) -> None:
    words = ["train", "--method", "full-rkl", "--student", "toy:student", "--data", "toy:math+code"]
    words += ["--teacher", "math=toy:teacher-math", "--teacher", "code=toy:teacher-code"]
    assert cli.main([*words, "--steps", "40", "--prompts", "64", *BENCHES, "--out", str(tmp_path / "run")]) == 0
    assert cli.main(["eval", "toy:student", *BENCHES, "--out", str(tmp_path / "start")]) == 0
    for bench in ("toy-aime", "toy-code"):
        before = [row["correct"] for row in graded(tmp_path / "start", bench)]
        after = [row["correct"] for row in graded(tmp_path / "run" / "eval" / "step-00040", bench)]
        assert len(before) == len(after)
        assert sum(after) / len(after) > sum(before) / len(before) + 0.05, bench
