"""Our generalised Jensen–Shannon divergence against TRL's, an independent implementation of GKD.

TRL is no dependency: `pip install trl==1.16.0` next to the package brings these tests to life.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.divergences import generalised_jsd

BETAS = [0.0, 0.25, 0.5, 0.75, 1.0]
B, T, V = 3, 5, 41


@pytest.fixture(scope="module")
def theirs() -> Any:
    """`GKDTrainer.generalized_jsd_loss` (its student and teacher come as logits; beta has the same meaning as ours)."""
    pytest.importorskip("trl", reason="trl is not installed (pip install trl==1.16.0)")
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    return GKDTrainer.generalized_jsd_loss


def logits(seed: int, scale: float) -> Tensor:
    return scale * torch.randn(B, T, V, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("scale", [0.3, 3.0, 12.0])
def test_value_and_gradient_are_trls(theirs: Any, beta: float, scale: float) -> None:
    teacher = logits(2, scale)
    ours, other = logits(1, scale).requires_grad_(), logits(1, scale).requires_grad_()
    value = generalised_jsd(ours.log_softmax(-1), teacher.log_softmax(-1), beta).mean()
    value.backward()
    # Its default reduction averages over the vocabulary, too; with a count of tokens it is the mean over tokens.
    expected = theirs(other, teacher, beta=beta, num_items_in_batch=B * T)
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert ours.grad is not None and other.grad is not None
    assert float(other.grad.abs().max()) > 0
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("beta", BETAS)
def test_every_token_is_trls(theirs: Any, beta: float) -> None:
    student, teacher = logits(3, 2.0), logits(4, 2.0)
    labels = torch.zeros(B, T, dtype=torch.int64)
    labels[1, 2:] = -100  # TRL's mark of a position without loss
    expected = theirs(student, teacher, labels=labels, beta=beta, reduction="none").sum(-1)
    ours = generalised_jsd(student.log_softmax(-1), teacher.log_softmax(-1), beta)[labels != -100]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_ends_are_not_interchangeable(theirs: Any) -> None:
    student, teacher = logits(5, 2.0), logits(6, 2.0)
    forward, reverse = (theirs(student, teacher, beta=beta, num_items_in_batch=B * T) for beta in (0.0, 1.0))
    assert abs(float(forward - reverse)) > 1e-2
