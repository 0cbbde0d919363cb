from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import has_block_scope, random_scores, random_world
from trainer.errors import UserError
from trainer.filters import CorrectOnly, DropBottom, KeepAll
from trainer.losses import Divergence, PolicyGradient, SquaredLogRatio
from trainer.methods import METHODS, fire_released
from trainer.objective import Block, Objective, Scores, SequenceMean, SumOver, Term, TokenMean
from trainer.quantities import ReverseKL, StudentEntropy, TeacherEntropy
from trainer.rewards import Extrapolated, VerifierAdvantage
from trainer.scores import Scope
from trainer.weights import Boost, MeanOne, Threshold, TopFraction, Uniform

WORLD = {"seed": st.integers(0, 10**6), "rows": st.integers(1, 7), "tokens": st.integers(1, 6)}
OPD = METHODS["opd"]


def three_rows(**fields: Tensor) -> Scores:
    """Lengths 2, 1, 3; log S = −1, log Q = −2 everywhere; teacher entropy 1."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    return Scores(mask, torch.full((3, 3), -1.0), torch.full((3, 3), -2.0), teacher_entropy=torch.ones(3, 3), **fields)


class Keep:
    """A filter that says what it is told."""

    def __init__(self, *keep: bool) -> None:
        self.keep = torch.tensor(keep)

    def __call__(self, scores: Scores) -> Tensor:
        return self.keep


def coefficients(objective: Objective, scores: Scores) -> list[list[float]]:
    (term,) = objective.plan(scores).terms
    return [[round(v, 6) for v in row] for row in term.coef.tolist()]


# --- reductions -----------------------------------------------------------------------------------------------


def test_token_mean_by_hand() -> None:
    sixth, quarter = round(1 / 6, 6), 0.25
    assert coefficients(OPD, three_rows()) == [[sixth, sixth, 0], [sixth, 0, 0], [sixth] * 3]
    # without the first rollout four tokens are left
    kept = dataclasses.replace(OPD, keep=Keep(False, True, True))
    assert coefficients(kept, three_rows()) == [[0, 0, 0], [quarter, 0, 0], [quarter] * 3]


def test_token_mean_over_blocks_by_hand() -> None:
    # Block(2): rows 0, 1 (3 tokens) count 2/3, row 2 (3 tokens) counts 1/3: 2/9 and 1/9 per token
    blocks = dataclasses.replace(OPD, reduce=TokenMean(Block(2)))
    a, b = round(2 / 9, 6), round(1 / 9, 6)
    assert coefficients(blocks, three_rows()) == [[a, a, 0], [a, 0, 0], [b, b, b]]
    # the second rollout dropped: the first block's share goes to its two tokens left, 2/3 / 2
    dropped = dataclasses.replace(blocks, keep=Keep(True, False, True))
    third = round(1 / 3, 6)
    assert coefficients(dropped, three_rows()) == [[third, third, 0], [0, 0, 0], [b, b, b]]
    # a block that lost all its rollouts is lost: its share goes nowhere, as in the released code
    lost = dataclasses.replace(blocks, keep=Keep(False, False, True))
    assert coefficients(lost, three_rows()) == [[0, 0, 0], [0, 0, 0], [b, b, b]]


def test_sequence_mean_by_hand() -> None:
    # every rollout counts 1/3: per token 1/6, 1/3, 1/9
    mean = METHODS["opd-sequence-mean"]
    a, b, c = (round(x, 6) for x in (1 / 6, 1 / 3, 1 / 9))
    assert coefficients(mean, three_rows()) == [[a, a, 0], [b, 0, 0], [c, c, c]]
    kept = dataclasses.replace(mean, keep=Keep(True, False, True))
    assert coefficients(kept, three_rows()) == [[0.25, 0.25, 0], [0, 0, 0], [a, a, a]]
    # an empty rollout is not counted
    scores = Scores(torch.tensor([[1, 1], [0, 0]]), torch.zeros(2, 2), torch.zeros(2, 2))
    assert coefficients(mean, scores) == [[0.5, 0.5], [0, 0]]


def test_sum_over_by_hand() -> None:
    total = Objective((Term(PolicyGradient()),), reduce=SumOver(10.0))
    assert coefficients(total, three_rows()) == [[0.1, 0.1, 0], [0.1, 0, 0], [0.1, 0.1, 0.1]]


@given(**WORLD, scope=st.sampled_from(["batch", "trajectory", "group", "domain", Block(2)]))
@settings(deadline=None, max_examples=40)
def test_the_coefficients_of_a_mean_sum_to_the_share_of_the_populations_left(
    seed: int, rows: int, tokens: int, scope: Scope
) -> None:
    scores = random_scores(seed, rows, tokens)
    keep = DropBottom(0.4)
    plan = Objective((Term(PolicyGradient()),), keep, TokenMean(scope)).plan(scores)
    total = float(plan.terms[0].coef.sum())
    if scope == "batch":
        assert total == pytest.approx(1.0 if bool(plan.keep.any()) else 0.0, abs=1e-5)
    else:
        assert -1e-6 <= total <= 1.0 + 1e-5
    sequence = Objective((Term(PolicyGradient()),), keep, SequenceMean()).plan(scores)
    assert float(sequence.terms[0].coef.sum()) == pytest.approx(1.0 if bool(plan.keep.any()) else 0.0, abs=1e-5)


# --- plan -----------------------------------------------------------------------------------------------------


def test_a_coefficient_is_weight_times_keep_times_mask_over_denominator_times_coef() -> None:
    scores = random_scores(5, 6, 4, lengths=[4, 2, 0, 3, 1, 4])
    weight, keep = Boost(TeacherEntropy(), 0.7), DropBottom(0.3)
    plan = Objective((Term(PolicyGradient(), weight, coef=2.5),), keep).plan(scores)
    kept = keep(scores)
    n = int(scores.mask[kept].sum())
    for row in range(6):
        for t in range(4):
            valid = bool(scores.mask[row, t]) and bool(kept[row])
            expected = 2.5 * float(weight(scores)[row, t]) / n if valid else 0.0
            assert float(plan.terms[0].coef[row, t]) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(plan.keep, kept)
    assert torch.equal(plan.old_logprobs, scores.logprobs)


def test_a_plan_has_no_gradient_and_every_term() -> None:
    plan = METHODS["eopd"].plan(random_scores(1))
    assert len(plan.terms) == 2
    assert plan.terms[0].reward is not None
    assert plan.terms[1].reward is None  # a divergence has no reward
    assert not any(term.coef.requires_grad for term in plan.terms)


def test_a_gated_term_is_averaged_over_all_tokens() -> None:
    # EOPD: alpha/N over all N valid tokens, not over the gated ones. Entropies 1 ≥ 0.8: all gated in.
    plan = METHODS["eopd"].plan(three_rows())
    torch.testing.assert_close(plan.terms[1].coef, plan.terms[0].coef)
    some = three_rows()
    entropy = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.0, 0.0], [0.2, 0.3, 0.7]])
    gated = METHODS["eopd"].plan(dataclasses.replace(some, teacher_entropy=entropy)).terms[1].coef
    torch.testing.assert_close(gated, torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 0]]) / 6)


def test_live_tokens_are_those_of_any_term() -> None:
    scores = dataclasses.replace(three_rows(), teacher_entropy=torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.0]]))
    gate = Threshold(TeacherEntropy(), 0.5)
    only = Objective((Term(PolicyGradient(), gate),)).plan(scores)
    assert only.live.tolist() == [[True, False, False], [False] * 3, [False, False, True]]
    both = Objective((Term(PolicyGradient(), gate), Term(PolicyGradient(), Uniform()))).plan(scores)
    assert torch.equal(both.live, scores.mask)


def test_importance_weights_are_truncated_and_spare_divergences() -> None:
    # S/S_rollout = e^0.5 ≈ 1.65 → 1.5; e^−1; 1
    mask, logprobs = torch.ones(1, 3), torch.full((1, 3), -1.0)
    scores = Scores(
        mask, logprobs, logprobs, rollout_logprobs=torch.tensor([[-1.5, 0.0, -1.0]]), teacher_entropy=torch.ones(1, 3)
    )
    base = METHODS["eopd"]
    capped = dataclasses.replace(base, importance_cap=1.5)
    sampled, direct = capped.plan(scores).terms
    torch.testing.assert_close(sampled.coef, torch.tensor([[1.5, math.exp(-1), 1.0]]) / 3)
    torch.testing.assert_close(direct.coef, base.plan(scores).terms[1].coef)
    assert "rollout_logprobs" in capped.reads and "rollout_logprobs" not in base.reads
    with pytest.raises(UserError, match="'rollout_logprobs'"):
        capped.plan(three_rows())


@pytest.mark.parametrize("gap", [200.0, -200.0])
def test_importance_weights_of_impossible_tokens_stay_finite(gap: float) -> None:
    logprobs = torch.full((1, 1), -300.0)
    scores = Scores(torch.ones(1, 1), logprobs, logprobs, rollout_logprobs=logprobs - gap)
    coef = dataclasses.replace(OPD, importance_cap=5.0).plan(scores).terms[0].coef
    assert float(coef) == pytest.approx(5.0 if gap > 0 else 0.0)


# --- needs and reads ------------------------------------------------------------------------------------------


def test_reads_are_found_in_nested_blocks() -> None:
    fields = {"student_entropy", "teacher_entropy"}
    assert METHODS["fire"].reads == fields
    assert METHODS["fire-per-domain"].reads == fields | {"domain"}
    assert METHODS["tip"].reads == {"student_entropy", "reverse_kl"}
    assert METHODS["opd"].reads == frozenset()
    nested = Objective(
        (Term(PolicyGradient(Extrapolated()), MeanOne(TopFraction(ReverseKL()), "group")), Term(Divergence())),
        keep=CorrectOnly(),
        reduce=TokenMean("domain"),
    )
    assert nested.reads == {"ref_logprobs", "reverse_kl", "group", "correct", "domain"}
    assert Objective((Term(PolicyGradient(VerifierAdvantage())),)).reads == {"correct", "group"}


def test_needs_of_the_teacher() -> None:
    assert METHODS["opd"].needs == {"logprobs"}
    assert METHODS["fire"].needs == {"logprobs", "entropy"}
    assert METHODS["full-rkl"].needs == {"logprobs", "logits"}
    assert METHODS["tip-sampled"].needs == {"logprobs", "logits"}  # the loss is sampled, the selection is not
    assert METHODS["tip-sampled"].loss_needs == {"logprobs"}
    assert METHODS["eopd"].needs == {"logprobs", "topk_logprobs", "entropy"}
    assert METHODS["topk-fkl"].needs == {"logprobs", "topk_logprobs"}
    assert METHODS["topk-rkl"].needs == {"logprobs", "logits"}  # the student's most likely ids
    assert {METHODS[name].top_k for name in ("eopd", "lsm", "topk-fkl")} == {16}
    assert {METHODS[name].top_k for name in ("opd", "full-rkl", "topk-rkl")} == {0}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_reads_is_enough_to_plan_it_and_all_of_it_is_needed(name: str) -> None:
    objective = METHODS[name]
    full = random_scores(2, 6, 5, lengths=[5, 3, 0, 4, 2, 5])
    optional = [f.name for f in dataclasses.fields(Scores) if f.default is None and f.name != "uid"]
    assert objective.reads <= set(optional)
    bare = dataclasses.replace(full, **{field: None for field in optional if field not in objective.reads})
    objective.plan(bare)
    for field in objective.reads:
        with pytest.raises(UserError, match=f"'{field}'"):
            # progress 0 and 1: a schedule may read a field in one half of the run only
            for progress in (0.0, 1.0):
                objective.plan(dataclasses.replace(bare, **{field: None}, progress=progress))


# --- loss -----------------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    # reward −1, ratio e^0.1 on every token: −(−1)·e^0.1, mean of six equal values
    scores = three_rows()
    plan = OPD.plan(scores)
    logprobs = (scores.logprobs + 0.1).requires_grad_()
    loss = OPD.loss(plan, logprobs)
    assert loss.item() == pytest.approx(math.exp(0.1), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(logprobs.grad, scores.mask * math.exp(0.1) / 6)


@pytest.mark.parametrize("rubbish", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_dead_positions_may_hold_anything(rubbish: float) -> None:
    scores = three_rows()
    for loss in (PolicyGradient(), PolicyGradient(clip=None), SquaredLogRatio()):
        objective = Objective((Term(loss),), keep=Keep(True, False, True))
        plan = objective.plan(scores)
        logprobs = torch.where(plan.live, scores.logprobs, rubbish).requires_grad_()
        value = objective.loss(plan, logprobs)
        value.backward()
        assert math.isfinite(value.item())
        assert logprobs.grad is not None
        assert bool(torch.isfinite(logprobs.grad).all())
        assert not logprobs.grad[~plan.live].any()


@given(**WORLD, name=st.sampled_from(["opd", "fire", "eopd", "full-jsd", "tip", "scope-routing"]))
@example(seed=758, rows=6, tokens=1, name="opd")  # parts of 0.66 that sum to -0.04
@settings(deadline=None, max_examples=40)
def test_parts_sum_to_the_whole_however_rows_are_named(seed: int, rows: int, tokens: int, name: str) -> None:
    world, objective = random_world(seed, rows, tokens, vocab=20), METHODS[name]
    plan = objective.plan(world.scores())
    everything = torch.arange(rows)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        whole = objective.loss(plan, world.tokens(world.hidden, world.head, everything)).item()
        for split in (order.split(1), order.split(2), [order[:1], order[1:]]):
            parts = [objective.loss(plan, world.tokens(world.hidden, world.head, r), rows=r).item() for r in split]
            # fp32 rounds each part by its own size, not by that of a sum in which parts cancel
            assert math.fsum(parts) == pytest.approx(whole, rel=1e-5, abs=1e-6 * (1 + math.fsum(map(abs, parts))))
        picked = everything % 2 == 0  # a boolean selector is as good as indices
        by_mask = [
            objective.loss(plan, world.tokens(world.hidden, world.head, everything[m]), rows=m).item()
            for m in (picked, ~picked)
        ]
        assert math.fsum(by_mask) == pytest.approx(whole, rel=1e-5, abs=1e-6 * (1 + math.fsum(map(abs, by_mask))))


def test_a_divergence_through_the_log_probs_only_path_says_what_is_missing() -> None:
    plan = METHODS["full-rkl"].plan(three_rows())
    with pytest.raises(ValueError, match="distributions"):
        METHODS["full-rkl"].loss(plan, torch.zeros(3, 3))


def test_objectives_are_values() -> None:
    assert fire_released(20.0, 1.0, 1.0, 2) == fire_released(20.0, 1.0, 1.0, 2) != fire_released(micro_batch=3)
    assert hash(METHODS["fire"]) == hash(dataclasses.replace(METHODS["fire"]))
    assert KeepAll() == KeepAll() and TokenMean() != SequenceMean()
    with pytest.raises(dataclasses.FrozenInstanceError):
        OPD.importance_cap = 1.0  # type: ignore[misc]


def test_the_structure_probe_of_these_tests() -> None:
    assert has_block_scope(fire_released(micro_batch=1))
    assert has_block_scope(Objective((Term(PolicyGradient(), MeanOne(Boost(StudentEntropy()), Block(2))),)))
    assert not has_block_scope(METHODS["fire"])
