from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import random_scores, reorder, shifted
from trainer import rewards as r
from trainer.errors import UserError
from trainer.quantities import LogRatio
from trainer.scores import Scores

WORLD = {"seed": st.integers(0, 10**6), "rows": st.integers(1, 6), "tokens": st.integers(1, 6)}


def ratios(rows: list[list[float]], mask: list[list[float]] | None = None, **fields: Tensor) -> Scores:
    """Scores whose log-ratio is `rows`."""
    teacher = torch.tensor(rows)
    m = torch.ones(teacher.shape) if mask is None else torch.tensor(mask)
    return Scores(m, torch.zeros(teacher.shape), teacher, **fields)


def close(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_shapes_of_rewards_by_hand() -> None:
    scores = ratios([[-4.0, -0.25, 0.0, 0.25, 4.0]])
    ratio = r.LogRatio()
    close(r.Constant(-2.0)(scores), [[-2.0] * 5])
    close(r.Scaled(ratio, 3.0)(scores), [[-12.0, -0.75, 0.0, 0.75, 12.0]])
    close(r.Plus(ratio, r.Constant(1.0))(scores), [[-3.0, 0.75, 1.0, 1.25, 5.0]])
    close(r.Floored(ratio, -1.0)(scores), [[-1.0, -0.25, 0.0, 0.25, 4.0]])
    close(r.Clamped(ratio, 1.0)(scores), [[-1.0, -0.25, 0.0, 0.25, 1.0]])
    close(r.Power()(scores), [[-2.0, -0.5, 0.0, 0.5, 2.0]])
    close(r.SoftLog()(scores), [[-math.log(5), -math.log(1.25), 0.0, math.log(1.25), math.log(5)]])


def test_odds_minus_one_by_hand() -> None:
    # Q/S − 1 for log-ratios ln ½, 0, ln 3; 50 is cut at 10 first
    scores = ratios([[math.log(0.5), 0.0, math.log(3.0), 50.0]])
    close(r.OddsMinusOne()(scores), [[-0.5, 0.0, 2.0, math.exp(10) - 1]])


def test_the_k3_reward_is_the_policy_gradient_of_forward_kl() -> None:
    # Enumerated: Σ_y S(y)·(Q/S − 1)·∇log S(y) = Σ_y Q(y)·∇log S(y) = −∇KL(Q ‖ S)
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=g, requires_grad=True)
    teacher = torch.randn(6, generator=g).log_softmax(-1)
    student = logits.log_softmax(-1)
    reward = r.OddsMinusOne()(Scores(torch.ones(1, 6), student[None], teacher[None]))[0]
    (ascent,) = torch.autograd.grad((student.detach().exp() * reward * student).sum(), logits, retain_graph=True)
    (descent,) = torch.autograd.grad((teacher.exp() * (teacher - student)).sum(), logits)
    torch.testing.assert_close(ascent, -descent)


def test_extrapolation_by_hand() -> None:
    # log S −3, log Q −1, log P −2; λ = 1.25: 1.25·(−1) − 0.25·(−2) + 3 = 2.25
    scores = Scores(
        torch.ones(1, 1), torch.tensor([[-3.0]]), torch.tensor([[-1.0]]), ref_logprobs=torch.tensor([[-2.0]])
    )
    close(r.Extrapolated(1.25)(scores), [[2.25]])
    close(r.Extrapolated(1.0)(scores), [[2.0]])  # plain OPD
    # −[(log S − log Q) + (λ − 1)(log P − log Q)], as methods.md 3.6 writes it
    close(r.Extrapolated(1.5)(scores), [[-((-3 + 1) + 0.5 * (-2 + 1))]])
    with pytest.raises(UserError, match="'ref_logprobs'"):
        r.Extrapolated()(ratios([[0.0]]))


# --- Uni-OPD --------------------------------------------------------------------------------------------------


def test_margin_shift_by_hand() -> None:
    # one prompt, four rollouts: correct means 1 and 0 → ½; wrong means (−1 + 2)/2 = ½ and 1.5 → 1; gap −½
    scores = ratios(
        [[1.0, 9.0], [0.0, 0.0], [-1.0, 2.0], [1.5, 9.0]],
        [[1, 0], [1, 1], [1, 1], [1, 0]],
        correct=torch.tensor([True, True, False, False]),
        group=torch.tensor([7, 7, 7, 7]),
    )
    # margin 0.4: shift 0.9, 0.45 up on the correct, 0.45 down on the wrong
    found = torch.where(scores.mask, r.MarginShift(margin=0.4)(scores), 0.0)
    close(found, [[1.45, 0.0], [0.45, 0.45], [-1.45, 1.55], [1.05, 0.0]])
    found = torch.where(scores.mask, r.MarginShift(margin=0.4, direction="correct")(scores), 0.0)
    close(found, [[1.9, 0.0], [0.9, 0.9], [-1.0, 2.0], [1.5, 0.0]])


def test_margin_shift_leaves_uniform_groups_alone() -> None:
    scores = ratios(
        [[1.0], [2.0], [3.0], [-4.0], [5.0]],
        [[1], [1], [1], [1], [0]],
        correct=torch.tensor([True, True, False, False, True]),  # the last one is empty: it does not make a mixed group
        group=torch.tensor([0, 0, 1, 1, 1]),
    )
    found = torch.where(scores.mask, r.MarginShift()(scores), 0.0)
    close(found, [[1.0], [2.0], [3.0], [-4.0], [0.0]])


@given(**WORLD, direction=st.sampled_from(["both", "correct"]), scope=st.sampled_from(["group", "batch", "domain"]))
@settings(deadline=None, max_examples=40)
def test_after_the_shift_the_gap_is_the_margin(seed: int, rows: int, tokens: int, direction: str, scope: str) -> None:
    scores = random_scores(seed, rows, tokens)
    reward = r.MarginShift(margin=0.4, direction=direction, scope=scope)(scores)  # type: ignore[arg-type]
    mean = torch.where(scores.mask, reward, 0.0).sum(1) / scores.lengths.clamp(min=1)
    names = torch.zeros(rows) if scope == "batch" else getattr(scores, scope)
    correct = scores.read("correct")
    for name in names.unique():
        here = (names == name) & (scores.lengths > 0)
        if (here & correct).any() and (here & ~correct).any():
            assert float(mean[here & correct].mean() - mean[here & ~correct].mean()) == pytest.approx(0.4, abs=1e-5)


# --- the verifier ---------------------------------------------------------------------------------------------


def test_verifier_advantage_by_hand() -> None:
    # group 0: correct, wrong, wrong → 2/3, −1/3, −1/3; group 1: correct and an empty one → 0
    scores = ratios(
        [[0.0, 0.0]] * 5,
        [[1, 1], [1, 0], [1, 1], [1, 1], [0, 0]],
        correct=torch.tensor([True, False, False, True, False]),
        group=torch.tensor([0, 0, 0, 1, 1]),
    )
    found = torch.where(scores.mask, r.VerifierAdvantage()(scores), 0.0)
    close(found, [[2 / 3, 2 / 3], [-1 / 3, 0.0], [-1 / 3, -1 / 3], [0.0, 0.0], [0.0, 0.0]])


# --- properties -----------------------------------------------------------------------------------------------

REWARDS = [
    r.Constant(),
    r.Plus(LogRatio(), r.VerifierAdvantage()),
    r.Floored(LogRatio(), -0.8),
    r.Clamped(LogRatio(), 1.0),
    r.SoftLog(),
    r.Power(),
    r.OddsMinusOne(),
    r.Extrapolated(),
    r.MarginShift(r.Clamped(LogRatio(), 10.0)),
    r.MarginShift(scope="batch", direction="correct"),
]


@pytest.mark.parametrize("reward", REWARDS, ids=lambda x: repr(x)[:60])
@given(**WORLD)
@settings(deadline=None, max_examples=12)
def test_every_reward_is_finite_and_blind_to_layout(reward: object, seed: int, rows: int, tokens: int) -> None:
    scores = random_scores(seed, rows, tokens)
    found = reward(scores)  # type: ignore[operator]
    assert found.shape == scores.mask.shape
    assert found.dtype == torch.float32
    assert bool(torch.isfinite(found).all())
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    moved = reward(reorder(scores, order))  # type: ignore[operator]
    torch.testing.assert_close(moved[scores.mask[order]], found[order][scores.mask[order]])
    wider = shifted(scores, 1, 2)
    torch.testing.assert_close(reward(wider)[wider.mask], found[scores.mask])  # type: ignore[operator]


@given(st.lists(st.integers(-20_000, 20_000).map(lambda n: n / 1000), min_size=1, max_size=8))
@settings(deadline=None)
def test_compressions_keep_sign_and_order(values: list[float]) -> None:
    scores = ratios([values])
    for reward in (r.SoftLog(), r.Power(), r.OddsMinusOne(30.0)):
        found = reward(scores)[0]
        plain = scores.teacher_logprobs[0]
        assert torch.equal(found.sign(), plain.sign())
        assert bool((found[plain.argsort()].diff() >= 0).all())
