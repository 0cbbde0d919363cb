"""What a step leaves behind: a record that is reproducible to the bit, and apart from it what the step cost."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.diagnostics import PlanDiagnostics
from trainer.rollout import Rollouts
from trainer.scores import Scores
from trainer.state import TrainState


@dataclass(frozen=True)
class StepRecord:
    """One optimisation step in numbers; a function of the spec alone. Entropies and KL in nats, token means."""

    step: int  # from 1
    loss: float
    grad_norm: float  # before clipping
    lr: float
    kl: float  # mean of log S − log Q over response tokens: the k1 estimate of the reverse KL
    reverse_kl: float  # exact KL(S‖Q); NaN where the teacher gives no logits
    student_entropy: float
    teacher_entropy: float
    length_mean: float  # tokens
    length_p95: float
    truncated: float  # fraction of rollouts that hit the length limit
    kept: float  # fraction of rollouts
    kept_tokens: float  # fraction of response tokens with a non-zero coefficient
    weight_cv: float  # standard deviation ÷ mean of the non-zero coefficients
    ess: float  # effective sample size of the coefficients ÷ response tokens
    cosine: float  # of the coefficients to the baseline's
    top_decile: float  # share of the gradient signal on the tenth of the tokens that have most of it
    discarded_kl: float  # share of the batch's token KL on tokens without a coefficient
    dropped_kl: float  # share of it on rollouts that the filter drops
    inert: bool  # the update equals the baseline's
    engine_gap: float  # largest |log-prob of the engine − of the trainer|, nats
    ratio_p01: float  # of the tokens' probability ratios, trainer ÷ engine: the 1 % quantile
    ratio_p99: float
    ratio_capped: float  # fraction of tokens whose importance weight the cap cuts; 0 without one
    generated_tokens: int  # since the start of the run
    trained_tokens: int  # of them with a non-zero coefficient
    skipped: bool  # no update: something was not finite


PHASES = ("rollout", "teacher", "student", "score", "plan", "backward", "optimiser", "sync")


@dataclass(frozen=True)
class Timing:
    """What one step cost, phase by phase; the seconds add up to the step. Kept apart from the record, which is
    reproducible to the bit."""

    step: int
    seconds_rollout: float  # prompts drawn, responses generated
    seconds_teacher: float  # the teacher's pass over them, its head left out
    seconds_student: float  # the student's pass, its head left out; the only one where a step is one pass
    seconds_score: float  # both heads at every token, without gradient; a reference model and a verifier, too
    seconds_plan: float  # the method's plan, the baseline's, the diagnostics
    seconds_backward: float  # losses and backward passes, with the forward passes that several parts need again
    seconds_optimiser: float
    seconds_sync: float  # new weights to the engine
    peak_memory_mib: float


def step_record(
    state: TrainState,
    rollouts: Rollouts,
    scores: Scores | None,
    diagnostics: PlanDiagnostics,
    loss: float,
    norm: float,
    rate: float,
    skipped: bool,
    cap: float | None = None,
) -> StepRecord:
    def mean(values: Tensor | None) -> float:
        return float("nan") if values is None or scores is None else float(values[scores.mask].mean())

    lengths = rollouts.mask.sum(1).float()
    gaps = torch.tensor([float("nan")])  # of the tokens' log-probs, trainer − engine
    if scores is not None and scores.mask.any():
        gaps = (scores.logprobs - rollouts.logprobs)[scores.mask]
    # Exact order statistics of any number of tokens: `quantile` takes 16 million at most.
    ordered = gaps.sort().values
    low, high = (float(ordered[round(q * (len(ordered) - 1))].exp()) for q in (0.01, 0.99))
    return StepRecord(
        step=state.step,
        loss=loss,
        grad_norm=norm,
        lr=rate,
        kl=mean(scores.logprobs - scores.teacher_logprobs if scores else None),
        reverse_kl=mean(scores.reverse_kl if scores else None),
        student_entropy=mean(scores.student_entropy if scores else None),
        teacher_entropy=mean(scores.teacher_entropy if scores else None),
        length_mean=float(lengths.mean()),
        length_p95=float(lengths.quantile(0.95)),
        truncated=float((~rollouts.completed).float().mean()),
        kept=diagnostics.kept,
        kept_tokens=diagnostics.kept_tokens,
        weight_cv=diagnostics.weight_cv,
        ess=diagnostics.ess,
        cosine=diagnostics.cosine,
        top_decile=diagnostics.top_decile,
        discarded_kl=diagnostics.discarded_kl,
        dropped_kl=diagnostics.dropped_kl,
        inert=diagnostics.inert,
        engine_gap=float(gaps.abs().max()),
        ratio_p01=low,
        ratio_p99=high,
        ratio_capped=0.0 if cap is None else float((gaps > math.log(cap)).float().mean()),
        generated_tokens=state.generated_tokens,
        trained_tokens=state.trained_tokens,
        skipped=skipped,
    )


class Clock:
    """A stop watch over the phases of one step. A lap on a GPU ends when the device has done what was asked of it."""

    def __init__(self) -> None:
        self.laps = dict.fromkeys(PHASES, 0.0)
        self.last = self._now()

    def lap(self, phase: str) -> None:
        """Counts the time since the last lap, or the start, as spent in `phase`."""
        now = self._now()
        self.laps[phase] += now - self.last
        self.last = now

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def timing(self, step: int) -> Timing:
        seconds = {f"seconds_{phase}": round(spent, 4) for phase, spent in self.laps.items()}
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Timing(step=step, peak_memory_mib=round(peak, 1), **seconds)
