from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.worlds import random_scores
from trainer.diagnostics import PlanDiagnostics, diagnose
from trainer.methods import METHODS
from trainer.objective import Objective, Scores
from trainer.settings import edit

OPD = METHODS["opd"]


def diagnosis(objective: Objective, scores: Scores, baseline: Objective = OPD) -> PlanDiagnostics:
    return diagnose(objective, objective.plan(scores), baseline, baseline.plan(scores))


def test_by_hand() -> None:
    # four rollouts, lengths 2 2 1 0; scores −1 −2 −9 —: the third goes (quantile 0.2 of three, position 0.4)
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]])
    teacher = torch.tensor([[-1.0, -1.0], [-2.0, -2.0], [-9.0, 0.0], [0.0, 0.0]])
    scores = Scores(mask, torch.zeros(4, 2), teacher)
    found = diagnosis(METHODS["fire-filter-only"], scores)
    assert found.kept == pytest.approx(2 / 3)  # of the three that have tokens
    assert found.kept_tokens == pytest.approx(4 / 5)
    assert found.weight_cv == pytest.approx(0.0)
    assert found.ess == pytest.approx(4 / 5)  # (Σw)²/Σw² = 4 of 5 tokens
    # (¼, ¼, ¼, ¼, 0) against (⅕, …): 0.2 / (0.5 · √0.2)
    assert found.cosine == pytest.approx(0.2 / (0.5 * math.sqrt(0.2)))
    assert not found.inert


def test_weights_by_hand() -> None:
    # weights 1 and 3 on two tokens: mean 2, sd 1 → cv ½; ess (4)²/(1 + 9) = 1.6 of 2 tokens
    scores = Scores(
        torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), student_entropy=torch.tensor([[0.0, 1.0]]),
        teacher_entropy=torch.tensor([[1.0, 1.0]]),
    )  # fmt: skip
    objective = edit(METHODS["fire-reweight-only"], "terms.0.weight.of.b.gain", "2")
    found = diagnosis(objective, scores)
    assert found.weight_cv == pytest.approx(0.5)
    assert found.ess == pytest.approx(0.8)
    assert found.cosine == pytest.approx(4 / (math.sqrt(10) * math.sqrt(2)))


def test_the_baseline_is_not_inert_but_its_copies_are() -> None:
    scores = random_scores(1, 6, 5)
    assert not diagnosis(OPD, scores).inert
    assert diagnosis(edit(METHODS["fire-filter-only"], "keep.fraction", "0"), scores).inert
    assert diagnosis(edit(METHODS["random-mask"], "terms.0.weight.of.fraction", "1"), scores).inert
    assert diagnosis(edit(METHODS["fire-filter-only"], "keep.scope", "trajectory"), scores).inert


@pytest.mark.parametrize("name", [name for name in METHODS if name != "opd"])
def test_no_published_setting_is_inert(name: str) -> None:
    scores = random_scores(7, 12, 6, lengths=[6, 5, 0, 3, 6, 6, 1, 2, 6, 4, 6, 6])
    found = diagnosis(METHODS[name], scores)
    assert not found.inert
    assert 0 < found.kept <= 1
    assert 0 < found.kept_tokens <= 1
    assert 0 < found.ess <= found.kept_tokens + 1e-6
    assert -1e-9 <= found.cosine <= 1 + 1e-9


def test_another_loss_with_the_same_coefficients_is_not_inert() -> None:
    scores = random_scores(1, 6, 5)
    for name in ("full-rkl", "exopd", "hard-clip"):
        found = diagnosis(METHODS[name], scores)
        assert found.cosine == pytest.approx(1.0)
        assert not found.inert


def test_nothing_left_is_not_a_number() -> None:
    scores = random_scores(1, 4, 3)
    none = replace(OPD, keep=lambda s: torch.zeros(len(s.mask), dtype=torch.bool))
    for found in (diagnosis(none, scores), diagnosis(OPD, random_scores(0, 2, 3, lengths=[0, 0]))):
        assert found.kept_tokens == 0.0
        assert math.isnan(found.ess)
        assert math.isnan(found.cosine)
        assert not found.inert
