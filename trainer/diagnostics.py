"""What an arm really does to a batch: each plan proves its own effect against the baseline's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.objective import Objective, Plan


@dataclass(frozen=True)
class PlanDiagnostics:
    """Fractions in [0,1]; NaN where nothing was left to measure."""

    kept: float  # of the rollouts that have tokens
    kept_tokens: float  # of the response tokens
    weight_cv: float  # of the non-zero token weights
    ess: float  # effective sample size of the coefficients ÷ response tokens
    cosine: float  # of the coefficients to the baseline's
    inert: bool

    @classmethod
    def nothing(cls) -> PlanDiagnostics:
        """Of a batch that could not be planned."""
        nan = float("nan")
        return cls(nan, 0.0, nan, nan, nan, False)


def diagnose(objective: Objective, plan: Plan, baseline: Objective, reference: Plan) -> PlanDiagnostics:
    """Diagnostics of `plan` against `reference`, the baseline's plan of the same batch."""
    present = plan.mask.any(1)
    tokens = int(plan.mask.sum())
    ours, theirs = (torch.stack([t.coef for t in p.terms]).sum(0)[plan.mask].double() for p in (plan, reference))
    live = ours[ours != 0]
    if not len(live):
        return PlanDiagnostics.nothing()
    cosine = ours @ theirs / (ours.norm() * theirs.norm()).clamp(min=1e-300)
    return PlanDiagnostics(
        kept=float(plan.keep.sum() / present.sum().clamp(min=1)),
        kept_tokens=len(live) / tokens,
        weight_cv=float(live.std(unbiased=False) / live.mean().abs()),
        ess=float(live.sum() ** 2 / live.square().sum() / tokens),
        cosine=float(cosine),
        inert=_inert(objective, plan, baseline, reference),
    )


def _inert(objective: Objective, plan: Plan, baseline: Objective, reference: Plan) -> bool:
    """Whether the arm's update is the baseline's: same losses, same coefficients, same rewards."""
    if [t.loss for t in objective.terms] != [t.loss for t in baseline.terms]:
        return False

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b or (a is not None and b is not None and bool(torch.allclose(a, b, rtol=1e-5, atol=0.0)))

    return objective != baseline and all(
        same(a.coef, b.coef) and same(a.reward, b.reward) for a, b in zip(plan.terms, reference.terms, strict=True)
    )
