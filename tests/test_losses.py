from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import random_scores
from trainer.divergences import kl
from trainer.errors import UserError
from trainer.losses import Divergence, PolicyGradient, SkewKL, SquaredLogRatio, Tokens, TopK
from trainer.quantities import LogRatio
from trainer.rewards import Scaled

# --- the policy gradient --------------------------------------------------------------------------------------


def policy(ratio: float, reward: float, loss: PolicyGradient) -> tuple[float, float]:
    """(value, gradient with respect to the log-prob) at that ratio."""
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    value = loss(Tokens(logprob), torch.zeros(1), torch.tensor([reward]))
    value.sum().backward()
    assert logprob.grad is not None
    return value.item(), logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "reward", "value", "gradient"),
    [
        # inside the clip: −A r, and d(−A r)/d log r = −A r
        (1.1, 2.0, -2.2, -2.2),
        (0.9, -2.0, 1.8, 1.8),
        # above it, good token: max(−2·1.5, −2·1.2) = −2.4; the clip holds, no gradient
        (1.5, 2.0, -2.4, 0.0),
        # above it, bad token: max(2·1.5, 2·1.2) = 3; the worse counts, full gradient
        (1.5, -2.0, 3.0, 3.0),
        # below it, good token: max(−2·0.5, −2·0.8) = −1; full gradient
        (0.5, 2.0, -1.0, -1.0),
        # below it, bad token: max(2·0.5, 2·0.8) = 1.6; no gradient
        (0.5, -2.0, 1.6, 0.0),
    ],
)
def test_ppo_clip_by_hand(ratio: float, reward: float, value: float, gradient: float) -> None:
    found = policy(ratio, reward, PolicyGradient(clip=0.2))
    assert found == (pytest.approx(value, abs=1e-5), pytest.approx(gradient, abs=1e-5))


def test_the_upper_clip_may_differ() -> None:
    loss = PolicyGradient(clip=0.2, clip_high=0.5)
    assert policy(1.4, 1.0, loss) == (pytest.approx(-1.4, abs=1e-5), pytest.approx(-1.4, abs=1e-5))
    assert policy(1.6, 1.0, loss) == (pytest.approx(-1.5, abs=1e-5), 0.0)
    assert policy(0.7, -1.0, loss) == (pytest.approx(0.8, abs=1e-5), 0.0)  # the lower one stays


def test_without_a_clip_the_ratio_is_free() -> None:
    for ratio in (0.1, 5.0):
        for reward in (-2.0, 2.0):
            value, gradient = policy(ratio, reward, PolicyGradient(clip=None))
            assert value == pytest.approx(-reward * ratio, rel=1e-5)
            assert gradient == pytest.approx(-reward * ratio, rel=1e-5)


@pytest.mark.parametrize("clip", [0.2, 0.01, None])
@pytest.mark.parametrize("reward", [-1.7, 0.0, 2.3])
def test_at_ratio_one_the_gradient_is_reinforce(clip: float | None, reward: float) -> None:
    value, gradient = policy(1.0, reward, PolicyGradient(clip=clip))
    assert value == pytest.approx(-reward, abs=1e-6)
    assert gradient == pytest.approx(-reward, abs=1e-6)


def test_the_target_is_the_detached_reward() -> None:
    scores = random_scores(0)
    torch.testing.assert_close(PolicyGradient().target(scores), scores.teacher_logprobs - scores.logprobs)
    scaled = PolicyGradient(Scaled(LogRatio(), 2.0)).target(scores)
    torch.testing.assert_close(scaled, 2 * (scores.teacher_logprobs - scores.logprobs))
    assert not scaled.requires_grad


def test_squared_log_ratio_by_hand() -> None:
    # ½(−1 − (−3))² = 2, gradient log S − log Q = 2: that of the policy gradient with reward −2
    logprob = torch.tensor([-1.0], requires_grad=True)
    value = SquaredLogRatio()(Tokens(logprob), torch.tensor([-1.0]), torch.tensor([-3.0]))
    value.sum().backward()
    assert value.item() == pytest.approx(2.0)
    assert logprob.grad is not None
    assert float(logprob.grad) == pytest.approx(2.0)
    scores = random_scores(1)
    assert torch.equal(SquaredLogRatio().target(scores), scores.teacher_logprobs)


def test_needs() -> None:
    assert PolicyGradient.needs == SquaredLogRatio.needs == {"logprobs"}
    assert Divergence().needs == SkewKL.needs == Divergence(1.0, TopK(4, "student")).needs == {"logits"}
    assert Divergence(0.0, TopK(4)).needs == {"topk_logprobs"}


# --- top-k supports -------------------------------------------------------------------------------------------

STUDENT = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
TEACHER = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def restricted(k: int, of: str, tail: str) -> list[list[float]]:
    found = TopK(k, of, tail)(STUDENT, TEACHER)  # type: ignore[arg-type]
    return [[round(v, 5) for v in x.exp()[0].tolist()] for x in found]


def test_supports_by_hand() -> None:
    # the teacher's two best are ids 0, 1; the student's are 3, 2
    assert restricted(2, "teacher", "drop") == [[0.1, 0.2], [0.5, 0.3]]
    assert restricted(2, "student", "drop") == [[0.4, 0.3], [0.05, 0.15]]
    assert restricted(2, "teacher", "bucket") == [[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]
    assert restricted(2, "student", "bucket") == [[0.4, 0.3, 0.3], [0.05, 0.15, 0.8]]
    # 0.1/0.3, 0.2/0.3; 0.5/0.8, 0.3/0.8
    assert restricted(2, "teacher", "renormalise") == [[0.33333, 0.66667], [0.625, 0.375]]


def naive(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def divergence(loss: Divergence | SkewKL, student: Tensor = STUDENT, teacher: Tensor = TEACHER) -> Tensor:
    return loss(Tokens(student[..., 0], student, teacher), torch.zeros(student.shape[:-1]), None)


def test_top_k_divergences_by_hand() -> None:
    reverse, forward = (
        (lambda tail: Divergence(1.0, TopK(2, "teacher", tail))),
        (lambda tail: Divergence(0.0, TopK(2, "teacher", tail))),
    )
    s, q = [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]
    assert float(divergence(reverse("bucket"))) == pytest.approx(naive(s, q), abs=1e-5)
    assert float(divergence(forward("bucket"))) == pytest.approx(naive(q, s), abs=1e-5)
    # EOPD's term: Σ over the teacher's top k of Q (log Q − log S), nothing renormalised
    assert float(divergence(forward("drop"))) == pytest.approx(
        0.5 * math.log(0.5 / 0.1) + 0.3 * math.log(0.3 / 0.2), abs=1e-5
    )
    assert float(divergence(reverse("renormalise"))) == pytest.approx(naive([1 / 3, 2 / 3], [0.625, 0.375]), abs=1e-5)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(deadline=None, max_examples=30)
def test_a_support_of_the_whole_vocabulary_is_no_support(seed: int, beta: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 7, generator=g)
    teacher = torch.randn(4, 7, generator=g).log_softmax(-1)
    results = []
    for support in [None, *(TopK(k, of, tail) for k in (7, 50) for of in ("teacher", "student") for tail in ("bucket", "renormalise", "drop"))]:  # fmt: skip
        free = logits.clone().requires_grad_()
        value = divergence(Divergence(beta, support), free.log_softmax(-1), teacher)  # type: ignore[arg-type]
        value.sum().backward()
        results.append((value.detach(), free.grad))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_a_coarser_support_never_raises_the_divergence(seed: int, k: int) -> None:
    # Data processing: lumping outcomes together cannot increase a KL.
    g = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(4, 7, generator=g).log_softmax(-1) for _ in range(2))
    for beta in (0.0, 0.5, 1.0):
        lumped = divergence(Divergence(beta, TopK(k, "teacher", "bucket")), student, teacher)
        full = divergence(Divergence(beta), student, teacher)
        assert bool((lumped <= full + 1e-6).all())
        assert bool((lumped >= -1e-6).all())


def test_the_choice_of_the_students_support_has_no_gradient_path() -> None:
    logits = torch.tensor([[1.0, 0.5, 0.0]], requires_grad=True)
    value = divergence(Divergence(1.0, TopK(2, "student", "bucket")), logits.log_softmax(-1), TEACHER[:, :3])
    value.sum().backward()
    h = 1e-3
    for i in range(3):
        nudge = torch.zeros(1, 3)
        nudge[0, i] = h
        up, down = (
            divergence(
                Divergence(1.0, TopK(2, "student", "bucket")),
                (logits.detach() + s * nudge).log_softmax(-1),
                TEACHER[:, :3],
            )
            for s in (1, -1)
        )
        assert logits.grad is not None
        assert float(logits.grad[0, i]) == pytest.approx(float((up - down) / (2 * h)), abs=1e-3)


def test_an_empty_support_is_refused() -> None:
    for k in (0, -3):
        with pytest.raises(UserError, match="at least one id"):
            TopK(k)


# --- skewed KL ------------------------------------------------------------------------------------------------


def test_skew_kl_by_hand() -> None:
    s, q = STUDENT.exp()[0].tolist(), TEACHER.exp()[0].tolist()
    mixed = [0.9 * b + 0.1 * a for a, b in zip(s, q, strict=True)]
    assert float(divergence(SkewKL(0.1))) == pytest.approx(naive(s, mixed), abs=1e-5)
    mixed = [0.9 * a + 0.1 * b for a, b in zip(s, q, strict=True)]
    assert float(divergence(SkewKL(0.1, "forward"))) == pytest.approx(naive(q, mixed), abs=1e-5)
    assert torch.equal(divergence(SkewKL(0.0)), kl(STUDENT, TEACHER))
    assert torch.equal(divergence(SkewKL(0.0, "forward")), kl(TEACHER, STUDENT))


def test_skew_kl_is_bounded_where_kl_is_not() -> None:
    student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    # ½ ln(0.5/(0.9 + 0.05)) + ½ ln(0.5/0.05)
    expected = 0.5 * math.log(0.5 / 0.95) + 0.5 * math.log(10)
    assert float(divergence(SkewKL(0.1), student, teacher)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", [Divergence(), SkewKL()], ids=repr)
def test_a_divergence_without_distributions_says_so(loss: Divergence | SkewKL) -> None:
    with pytest.raises(ValueError, match="distributions"):
        loss(Tokens(torch.zeros(3)), torch.zeros(3), None)
