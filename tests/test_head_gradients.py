"""Closed forms against autograd: of every loss that has one, and of whole objectives by blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import assert_near
from trainer import gradients
from trainer.divergences import generalised_jsd_slope, weighted
from trainer.gradients import blocks, logits_to_gradient
from trainer.losses import Divergence, SkewKL, Tokens, TopK
from trainer.methods import METHODS
from trainer.objective import Objective, Plan, Term, TermPlan

CLOSED = [
    *(Divergence(beta) for beta in (0.0, 0.1, 0.5, 0.9, 1.0)),
    *(SkewKL(alpha, direction) for alpha in (0.0, 0.1, 0.7) for direction in ("reverse", "forward")),  # type: ignore[arg-type]
]
LOSSES = {term.loss for objective in METHODS.values() for term in objective.terms}


def random_logits(seed: int, rows: int, vocab: int, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [n,V] of student and teacher, targets [n]."""
    g = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(rows, vocab, generator=g) for _ in range(2))
    return student, teacher, torch.randint(0, vocab, (rows,), generator=g)


def random_plan(objective: Objective, seed: int, logits: Tensor, targets: Tensor) -> Plan:
    """Coefficients with zeros among them, different for each term; ratios on both sides of the clip."""
    g = torch.Generator().manual_seed(seed)
    n = len(targets)

    def noise() -> Tensor:
        return torch.rand(n, generator=g)

    old = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0] + 0.6 * (noise() - 0.5)
    terms = tuple(
        TermPlan(
            torch.where(noise() < 0.3, 0.0, noise()),
            None if "logits" in term.loss.needs else 4.0 * (noise() - 0.5),
        )
        for term in objective.terms
    )
    return Plan(torch.ones(n, dtype=torch.bool), old, torch.ones(1, dtype=torch.bool), terms)


def by_autograd(
    objective: Objective, plan: Plan, targets: Tensor, logits: Tensor, teacher: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss and its gradient with respect to the logits, through the whole of the objective's own definition."""
    leaf = logits.clone().requires_grad_()
    student = leaf.log_softmax(-1)
    sampled = student.gather(1, targets[:, None])[:, 0]
    loss = objective.loss(plan, Tokens(sampled, student, teacher.log_softmax(-1)))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def assert_equal_to_autograd(
    objective: Objective, plan: Plan, targets: Tensor, logits: Tensor, teacher: Tensor, rtol: float = 2e-5
) -> None:
    loss, gradient = by_autograd(objective, plan, targets, logits, teacher)
    found, kept = logits.clone(), teacher.clone()
    value = logits_to_gradient(objective, plan, targets, found, teacher)
    assert torch.equal(teacher, kept), "a teacher's logits are its own"
    assert bool(torch.isfinite(found).all())
    assert_near(value, loss, rtol)
    assert_near(found, gradient, rtol)


@pytest.fixture(params=[1, 50, 1 << 20])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Logits per block: less than a row, two rows of 24, everything."""
    monkeypatch.setattr(gradients, "BLOCK_ELEMENTS", request.param)
    return int(request.param)


# --- whole objectives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_equals_autograd(name: str, block: int) -> None:
    for seed, scale in ((0, 2.0), (1, 0.1), (2, 12.0)):  # also of hot and of cold distributions
        logits, teacher, targets = random_logits(seed, 7, 24, scale)
        plan = random_plan(METHODS[name], seed, logits, targets)
        assert_equal_to_autograd(METHODS[name], plan, targets, logits, teacher)


@given(
    loss=st.sampled_from([*CLOSED, *sorted(LOSSES, key=repr)]),
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 9),
    vocab=st.integers(1, 40),
    scale=st.floats(0.0, 20.0),
    elements=st.integers(1, 200),
)
@settings(deadline=None, max_examples=200)
def test_random_shapes(loss: Any, seed: int, rows: int, vocab: int, scale: float, elements: int) -> None:
    objective = Objective((Term(loss),))
    logits, teacher, targets = random_logits(seed, rows, vocab, scale)
    plan = random_plan(objective, seed, logits, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "BLOCK_ELEMENTS", elements)
        assert_equal_to_autograd(objective, plan, targets, logits, teacher)


@pytest.mark.parametrize("excluded", ["both", "student", "support"])
@pytest.mark.parametrize("loss", CLOSED, ids=repr)
def test_ids_that_are_excluded(loss: Any, excluded: str) -> None:
    # −inf logits of padding: in both models; in the student alone; in the teacher, where the value stays finite.
    if excluded == "support" and loss in (Divergence(1.0), SkewKL(0.0, "reverse")):
        pytest.skip("reverse KL to a teacher that excludes an id is infinite")
    if excluded == "student" and loss in (Divergence(0.0), SkewKL(0.0, "forward")):
        pytest.skip("forward KL to a student that excludes an id is infinite")
    logits, teacher, targets = random_logits(3, 6, 12)
    if excluded != "support":
        logits[:, 9:] = -torch.inf
    if excluded != "student":
        teacher[:, 9:] = -torch.inf
    objective = Objective((Term(loss),))
    plan = random_plan(objective, 3, logits, targets.clamp(max=8))
    assert_equal_to_autograd(objective, plan, targets.clamp(max=8), logits, teacher)


@pytest.mark.parametrize("loss", [Divergence(1.0), Divergence(0.0)], ids=repr)
def test_an_infinite_divergence_is_infinite_and_harms_nobody_without_a_coefficient(loss: Divergence) -> None:
    logits, teacher, targets = random_logits(4, 3, 5)
    (teacher if loss.beta else logits)[1, 2] = -torch.inf
    objective = Objective((Term(loss),))
    coef = torch.tensor([0.5, 1.0, 0.25])
    plan = replace(random_plan(objective, 4, logits, targets), terms=(TermPlan(coef, None),))
    assert logits_to_gradient(objective, plan, targets, logits.clone(), teacher).item() == float("inf")
    unharmed = replace(plan, terms=(TermPlan(coef * torch.tensor([1.0, 0.0, 1.0]), None),))
    found = logits.clone()
    value = logits_to_gradient(objective, unharmed, targets, found, teacher)
    assert not found[1].any()
    rows = torch.tensor([0, 2])
    loss_of_others, gradient = by_autograd(
        objective, unharmed.map(lambda x: x[rows]), targets[rows], logits[rows], teacher[rows]
    )
    assert_near(value, loss_of_others)
    assert_near(found[rows], gradient)


@pytest.mark.parametrize("loss", CLOSED, ids=repr)
def test_nan_is_not_hidden(loss: Any) -> None:
    objective = Objective((Term(loss),))
    for broken in ("student", "teacher"):
        logits, teacher, targets = random_logits(5, 3, 5)
        (logits if broken == "student" else teacher)[1, 2] = float("nan")
        plan = random_plan(objective, 5, logits, targets)
        plan = replace(plan, terms=(TermPlan(torch.ones(3), None),))
        assert logits_to_gradient(objective, plan, targets, logits, teacher).isnan()


@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_extreme_logits_are_finite(name: str) -> None:
    # Probabilities that underflow in float32, on either side and on both at once.
    logits, teacher, targets = random_logits(6, 8, 24, 300.0)
    plan = random_plan(METHODS[name], 6, logits, targets)
    value = logits_to_gradient(METHODS[name], plan, targets, logits, teacher)
    assert bool(value.isfinite())
    assert bool(logits.isfinite().all())


# --- losses with and without a closed form --------------------------------------------------------------------


@dataclass(frozen=True)
class Hellinger:
    """A loss that nobody has differentiated by hand: 1 − Σ √(S·Q)."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def target(self, scores: Any) -> None:
        return None

    def __call__(self, tokens: Tokens, old_logprobs: Tensor, reward: None) -> Tensor:
        assert tokens.student is not None and tokens.teacher is not None
        return 1.0 - (0.5 * (tokens.student + tokens.teacher)).exp().sum(-1)


def test_a_new_loss_works_at_once(block: int) -> None:
    logits, teacher, targets = random_logits(7, 7, 24)
    new: Any = Hellinger()
    for terms in ((Term(new),), (Term(new), Term(Divergence(1.0)), METHODS["opd"].terms[0], Term(new, coef=0.5))):
        objective = Objective(terms)
        assert_equal_to_autograd(objective, random_plan(objective, 7, logits, targets), targets, logits, teacher)


def test_terms_of_every_kind_add_up(block: int) -> None:
    logits, teacher, targets = random_logits(8, 7, 24)
    terms = [Term(loss) for loss in (*CLOSED[:3], SkewKL(0.1), Divergence(0.3, TopK(4, "student", "renormalise")))]
    objective = Objective((*terms, METHODS["opd"].terms[0], METHODS["k2"].terms[0]))
    assert_equal_to_autograd(objective, random_plan(objective, 8, logits, targets), targets, logits, teacher)


@pytest.mark.parametrize("loss", CLOSED, ids=repr)
def test_the_closed_form_is_used(loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, teacher, targets = random_logits(9, 3, 5)
    objective = Objective((Term(loss),))
    plan = random_plan(objective, 9, logits, targets)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("autograd was asked")

    monkeypatch.setattr(gradients, "_by_autograd", refuse)
    logits_to_gradient(objective, plan, targets, logits, teacher)


def test_a_support_has_no_closed_form() -> None:
    logits, _, _ = random_logits(10, 3, 5)
    logp = logits.log_softmax(-1)
    assert Divergence(1.0, TopK(2)).slope(logp, logp, logp.exp()) is None


# --- by hand --------------------------------------------------------------------------------------------------


def test_slopes_by_hand() -> None:
    # S = (½, ½), Q = (¼, ¾): log S/Q = (log 2, log ⅔); KL(S‖Q) = ½ log 2 + ½ log ⅔ = ½ log 4/3
    student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    value, slope = generalised_jsd_slope(student, teacher, student.exp(), 1.0)
    assert value.tolist() == pytest.approx([0.143841], abs=1e-6)
    assert slope[0].tolist() == pytest.approx([0.346574, -0.202733], abs=1e-6)
    # KL(Q‖S) = ¼ log ½ + ¾ log 3/2 = −0.173287 + 0.304099
    value, slope = generalised_jsd_slope(student, teacher, student.exp(), 0.0)
    assert value.tolist() == pytest.approx([0.130812], abs=1e-6)
    assert slope[0].tolist() == [-0.25, -0.75]
    # m = (⅜, ⅝); slope ½·½·log(S/m) = ¼ log 4/3, ¼ log 4/5
    _, slope = generalised_jsd_slope(student, teacher, student.exp(), 0.5)
    assert slope[0].tolist() == pytest.approx([0.071921, -0.055786], abs=1e-6)


def test_weighted_by_hand() -> None:
    inf = float("inf")
    cases: Sequence[tuple[list[float], list[float], float]] = [
        ([0.25, 0.75], [4.0, -2.0], -0.5),
        ([0.0, 1.0], [-inf, 3.0], 3.0),  # excluded: nothing, whatever its value
        ([0.0, 1.0], [float("nan"), 3.0], 3.0),
        ([0.5, 0.5], [inf, 3.0], inf),
    ]
    for p, values, expected in cases:
        total, product = weighted(torch.tensor([p]), torch.tensor([values]))
        assert total.item() == expected
        assert product.sum().item() == expected
    assert weighted(torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2))[0].isnan()


@given(rows=st.integers(0, 20), vocab=st.integers(1, 50), elements=st.integers(1, 300))
@settings(deadline=None)
def test_blocks_are_all_rows_in_order(rows: int, vocab: int, elements: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "BLOCK_ELEMENTS", elements)
        parts = list(blocks(torch.empty(rows, vocab)))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert all((part.stop - part.start) * vocab <= max(vocab, elements) for part in parts)
