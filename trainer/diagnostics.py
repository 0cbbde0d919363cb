"""What an arm really does to a batch: each plan proves its own effect against the baseline's."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainer.losses import Loss, PolicyGradient, Tokens
from trainer.objective import Objective, Plan
from trainer.scores import Scores


@dataclass(frozen=True)
class PlanDiagnostics:
    """Fractions in [0,1] unless said otherwise; NaN where nothing was left to measure."""

    kept: float  # of the rollouts that have tokens
    kept_tokens: float  # of the response tokens, those with a non-zero coefficient
    weight_cv: float  # standard deviation ÷ mean of the non-zero coefficients
    ess: float  # effective sample size of the coefficients ÷ response tokens
    cosine: float  # of the coefficients to the baseline's, in [−1,1]
    top_decile: float  # share of the gradient signal on the tenth of the response tokens that have most of it
    discarded_kl: float  # share of the batch's token KL(S‖Q) on tokens without a coefficient
    dropped_kl: float  # share of it on rollouts that the filter drops
    inert: bool

    @classmethod
    def nothing(cls) -> PlanDiagnostics:
        """Of a batch that could not be planned, or from which nothing is learned."""
        empty = {field.name: float("nan") for field in fields(cls)} | {"kept_tokens": 0.0}
        return cls(**empty | {"inert": False})  # type: ignore[arg-type]


def diagnose(
    objective: Objective, plan: Plan, baseline: Objective, reference: Plan, scores: Scores | None = None
) -> PlanDiagnostics:
    """Diagnostics of `plan` against `reference`, the baseline's plan of the same batch.

    Args:
        scores: of the batch; with `reverse_kl`, for what is said about KL.
    """
    present = plan.mask.any(1)
    tokens = int(plan.mask.sum())
    ours, theirs = (torch.stack([t.coef for t in p.terms]).sum(0)[plan.mask].double() for p in (plan, reference))
    live = ours[ours != 0]
    if not len(live):
        return PlanDiagnostics.nothing()
    cosine = ours @ theirs / (ours.norm() * theirs.norm()).clamp(min=1e-300)
    kl = None if scores is None else scores.reverse_kl
    return PlanDiagnostics(
        kept=float(plan.keep.sum() / present.sum().clamp(min=1)),
        kept_tokens=len(live) / tokens,
        weight_cv=float(live.std(unbiased=False) / live.mean().abs()),
        ess=float(live.sum() ** 2 / live.square().sum() / tokens),
        cosine=float(cosine),
        top_decile=_top_decile(objective, plan, kl),
        discarded_kl=_share(kl, plan.mask & ~plan.live),
        dropped_kl=_share(kl, plan.mask & ~plan.keep[:, None]),
        inert=_inert(objective, plan, baseline, reference),
    )


def _top_decile(objective: Objective, plan: Plan, kl: Tensor | None) -> float:
    """The signal is |coefficient| times |d loss / d log-prob| for a sampled token (the reward, in a policy gradient),
    and times KL(S‖Q) for a divergence.
    """
    signal = torch.zeros_like(plan.old_logprobs)
    for term, part in zip(objective.terms, plan.terms, strict=True):
        size = kl
        if part.reward is not None:
            with torch.enable_grad():
                logprobs = plan.old_logprobs.clone().requires_grad_()
                value = term.loss(Tokens(logprobs), plan.old_logprobs, part.reward)  # type: ignore[arg-type]
                (size,) = torch.autograd.grad(value.sum(), logprobs)
        if size is None:
            return float("nan")
        signal = signal + part.coef.abs() * size.abs()
    ordered = signal[plan.mask].sort(descending=True).values
    whole = ordered.sum(dtype=torch.float64)
    top = ordered[: max(1, round(0.1 * len(ordered)))].sum(dtype=torch.float64)
    return float(top / whole) if whole > 0 else float("nan")


def _share(kl: Tensor | None, where: Tensor) -> float:
    if kl is None or not kl.sum() > 0:
        return float("nan")
    return float(kl[where].double().sum() / kl.double().sum())


def _inert(objective: Objective, plan: Plan, baseline: Objective, reference: Plan) -> bool:
    """Whether another objective's update is the baseline's: equal coefficients, equal rewards, equal divergences."""
    if objective == baseline or len(objective.terms) != len(baseline.terms):
        return False
    pairs = zip(objective.terms, baseline.terms, plan.terms, reference.terms, strict=True)
    return all(
        _same_kind(ours.loss, theirs.loss) and _same(a.coef, b.coef) and _same(a.reward, b.reward)
        for ours, theirs, a, b in pairs
    )


def _same_kind(a: Loss, b: Loss) -> bool:
    """Policy gradients differ by their rewards, which are compared as numbers; the clip is idle at ratio 1."""
    return (isinstance(a, PolicyGradient) and isinstance(b, PolicyGradient)) or a == b


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and bool(torch.allclose(a, b, rtol=1e-5, atol=0.0)))
