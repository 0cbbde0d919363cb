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


def test_what_is_discarded_by_hand() -> None:
    # token KL 1 2 | 3 4 | 10: the third rollout goes, with 10 of 20; of the rest nothing is masked
    mask = torch.tensor([[1, 1], [1, 1], [1, 0]])
    teacher = torch.tensor([[-1.0, -1.0], [-2.0, -2.0], [-9.0, 0.0]])
    kl = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 99.0]])
    scores = Scores(mask, torch.zeros(3, 2), teacher, student_entropy=kl, reverse_kl=kl)
    objective = METHODS["fire-filter-only"]
    plan = objective.plan(scores)
    found = diagnose(objective, plan, OPD, OPD.plan(scores), scores)
    assert found.dropped_kl == pytest.approx(10 / 20)
    assert found.discarded_kl == pytest.approx(10 / 20)
    # |reward| 1 1 2 2 on four kept tokens of equal coefficient; a tenth of five tokens is one: 2 of 6
    assert found.top_decile == pytest.approx(2 / 6)
    # entropy-20 keeps one token of five, the one with KL 10: no rollout is dropped, 10 of 20 is discarded
    hard = METHODS["entropy-20"]
    found = diagnose(hard, hard.plan(scores), OPD, OPD.plan(scores), scores)
    assert found.dropped_kl == 0.0
    assert found.discarded_kl == pytest.approx(10 / 20)
    assert found.top_decile == pytest.approx(1.0)


def test_the_signal_of_a_loss_is_its_gradient_not_its_target() -> None:
    # k2's target is the teacher's log-prob; its gradient is the policy gradient's, and so is where its signal lies
    scores = random_scores(1, 6, 5)

    def decile(name: str) -> float:
        plan = METHODS[name].plan(scores)
        return diagnose(METHODS[name], plan, OPD, OPD.plan(scores), scores).top_decile

    assert decile("k2") == pytest.approx(decile("opd"))


def test_without_full_distributions_nothing_is_said_of_kl() -> None:
    scores = replace(random_scores(1, 6, 5), reverse_kl=None)
    plan = OPD.plan(scores)
    found = diagnose(OPD, plan, OPD, plan, scores)
    assert math.isnan(found.discarded_kl) and math.isnan(found.dropped_kl)
    assert 0.1 < found.top_decile <= 1.0


def test_a_margin_shift_without_siblings_is_inert() -> None:
    # one rollout per prompt: no group holds a correct and a wrong one, so nothing is shifted
    scores = replace(random_scores(1, 6, 5), group=torch.arange(6))
    assert diagnosis(METHODS["uni-opd"], scores).inert
