from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from torch import Tensor

from trainer.divergences import entropy, generalised_jsd, kl, mixture
from trainer.losses import Divergence, SkewKL, Tokens, TopK

INF = float("inf")
BETAS = [0.0, 0.25, 0.5, 0.9, 1.0]


def logp(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities).log()


def pair(seed: int, tokens: int = 5, vocab: int = 9, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple((torch.randn(tokens, vocab, generator=g) * scale).log_softmax(-1) for _ in range(2))  # type: ignore[return-value]


def naive_kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def naive_jsd(student: list[float], teacher: list[float], beta: float) -> float:
    if beta == 0.0:
        return naive_kl(teacher, student)
    if beta == 1.0:
        return naive_kl(student, teacher)
    m = [beta * q + (1 - beta) * s for q, s in zip(teacher, student, strict=True)]
    return beta * naive_kl(teacher, m) + (1 - beta) * naive_kl(student, m)


# --- values ---------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    p, q = logp(0.5, 0.5), logp(0.25, 0.75)
    # ½ ln 2 + ½ ln(2/3) = ½ ln(4/3)
    assert float(kl(p, q)) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    # ¼ ln ½ + ¾ ln 1.5
    assert float(kl(q, p)) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-6)
    assert float(entropy(p)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(entropy(logp(1.0, 0.0, 0.0))) == 0.0
    # m = 0.375, 0.625; half of each KL
    expected = 0.5 * (0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625))
    expected += 0.5 * (0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625))
    assert float(generalised_jsd(p, q, 0.5)) == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 10**6), st.sampled_from(BETAS))
@settings(deadline=None, max_examples=60)
def test_against_naive_loops_and_scipy(seed: int, beta: float) -> None:
    student, teacher = pair(seed)
    found = generalised_jsd(student, teacher, beta)
    for row in range(len(student)):
        s, t = (x[row].double().exp() for x in (student, teacher))
        s, t = (s / s.sum()).tolist(), (t / t.sum()).tolist()
        assert float(found[row]) == pytest.approx(naive_jsd(s, t, beta), abs=2e-5)
        assert float(entropy(student[row])) == pytest.approx(scipy_entropy(s), abs=1e-5)
        if beta == 0.5:
            assert float(found[row]) == pytest.approx(jensenshannon(s, t) ** 2, abs=1e-5)
        if beta == 1.0:
            assert float(found[row]) == pytest.approx(scipy_entropy(s, t), abs=2e-5)
        if beta == 0.0:
            assert float(found[row]) == pytest.approx(scipy_entropy(t, s), abs=2e-5)


@given(st.integers(0, 10**6), st.sampled_from(BETAS), st.floats(0.1, 20))
@settings(deadline=None, max_examples=60)
def test_zero_on_itself_non_negative_and_dual(seed: int, beta: float, scale: float) -> None:
    p, q = pair(seed, scale=scale)
    assert float(generalised_jsd(p, p, beta).abs().max()) < 1e-6
    assert float(generalised_jsd(p, q, beta).min()) > -1e-6
    # forward and reverse are each other with the models exchanged; so are β and 1 − β
    torch.testing.assert_close(generalised_jsd(p, q, beta), generalised_jsd(q, p, 1.0 - beta), atol=1e-6, rtol=1e-5)


def test_the_ends_and_the_bound_of_jensen_shannon() -> None:
    p, q = pair(3)
    assert torch.equal(generalised_jsd(p, q, 0.0), kl(q, p))  # forward: KL(teacher ‖ student)
    assert torch.equal(generalised_jsd(p, q, 1.0), kl(p, q))  # reverse: KL(student ‖ teacher)
    # disjoint supports: ln 2, where either KL is infinite
    a, b = logp(1.0, 0.0), logp(0.0, 1.0)
    assert float(generalised_jsd(a, b, 0.5)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(kl(a, b)) == INF


def test_generalised_jsd_tends_to_the_kls_at_its_ends() -> None:
    # d/dβ at β → 0 of the generalised JSD is KL(Q ‖ S), and KL(S ‖ Q) at the other end: which end is which
    p, q = (x.double() for x in pair(4, scale=1.0))
    h = 1e-5
    torch.testing.assert_close(generalised_jsd(p, q, h) / h, kl(q, p), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(generalised_jsd(p, q, 1 - h) / h, kl(p, q), rtol=1e-3, atol=1e-4)


def test_mixture_by_hand() -> None:
    p, q = logp(1.0, 0.0, 0.0), logp(0.5, 0.5, 0.0)
    # 0.25·(1, 0, 0) + 0.75·(0.5, 0.5, 0)
    assert mixture(p, q, 0.25).exp().tolist() == pytest.approx([0.625, 0.375, 0.0])
    assert torch.equal(mixture(p, q, 0.0), q)


# --- ids that do not exist ------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
def test_ids_that_both_exclude_contribute_nothing(beta: float) -> None:
    g = torch.Generator().manual_seed(0)
    short = [torch.randn(4, 6, generator=g) for _ in range(2)]
    gradients = []
    values = []
    for pad in (0, 3):
        logits = torch.nn.functional.pad(short[0], (0, pad), value=-INF).requires_grad_()
        other = torch.nn.functional.pad(short[1], (0, pad), value=-INF)
        value = generalised_jsd(logits.log_softmax(-1), other.log_softmax(-1), beta)
        value.sum().backward()
        assert logits.grad is not None
        assert bool(torch.isfinite(logits.grad).all())
        assert not logits.grad[:, 6:].any()
        values.append(value.detach())
        gradients.append(logits.grad[:, :6])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_an_id_that_only_one_excludes() -> None:
    both, one = logp(0.5, 0.5), logp(1.0, 0.0)
    assert float(kl(one, both)) == pytest.approx(math.log(2), abs=1e-6)  # 1·ln(1/0.5)
    assert float(kl(both, one)) == INF
    for beta in (0.25, 0.5, 0.9):
        student = torch.tensor([0.3, -0.2], requires_grad=True)
        value = generalised_jsd(student.log_softmax(-1), one, beta)
        value.backward()
        assert math.isfinite(float(value.detach()))
        assert student.grad is not None
        assert bool(torch.isfinite(student.grad).all())


# --- gradients ------------------------------------------------------------------------------------------------

LOSSES = [
    *(Divergence(beta) for beta in BETAS),
    *(
        Divergence(beta, TopK(3, of, tail))  # type: ignore[arg-type]
        for beta in (0.0, 0.5, 1.0)
        for of in ("teacher", "student")
        for tail in ("bucket", "renormalise", "drop")
    ),
    SkewKL(0.1),
    SkewKL(0.1, "forward"),
    SkewKL(0.0),
]


def evaluate(loss: Divergence | SkewKL, student: Tensor, teacher: Tensor) -> Tensor:
    sampled = student[..., 0]
    return loss(Tokens(sampled, student, teacher), torch.zeros_like(sampled), None)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_finite_at_low_temperature(
    loss: Divergence | SkewKL, temperature: float, dtype: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(16, 8, generator=g).to(dtype).requires_grad_()
    other = torch.randn(16, 8, generator=g).to(dtype)
    student = (logits.float() / temperature).log_softmax(-1)
    teacher = (other.float() / temperature).log_softmax(-1)
    value = evaluate(loss, student, teacher)
    assert bool(torch.isfinite(value).all())
    value.sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradients_are_finite_with_ids_that_neither_model_has(loss: Divergence | SkewKL) -> None:
    # Two real ids of six: fewer than the support of a top-k loss, so that the tail is empty.
    logits = torch.tensor([[0.3, -0.2]], requires_grad=True)
    student = torch.nn.functional.pad(logits, (0, 4), value=-INF).log_softmax(-1)
    teacher = torch.tensor([[1.0, 0.5, -INF, -INF, -INF, -INF]]).log_softmax(-1)
    value = evaluate(loss, student, teacher)
    assert bool(torch.isfinite(value).all())
    value.sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_against_finite_differences(beta: float) -> None:
    g = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 5, generator=g, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, generator=g, dtype=torch.float64).log_softmax(-1)
    assert torch.autograd.gradcheck(lambda x: generalised_jsd(x.log_softmax(-1), teacher, beta), logits)


def test_the_gradient_of_reverse_kl_is_the_published_one() -> None:
    # dKL(S‖Q)/dlogits = p·(log p − log q − KL), design.md "The head"
    g = torch.Generator().manual_seed(5)
    logits = torch.randn(3, 7, generator=g, requires_grad=True)
    teacher = torch.randn(3, 7, generator=g).log_softmax(-1)
    student = logits.log_softmax(-1)
    kl(student, teacher).sum().backward()
    with torch.no_grad():
        expected = student.exp() * (student - teacher - kl(student, teacher)[:, None])
    torch.testing.assert_close(logits.grad, expected)
