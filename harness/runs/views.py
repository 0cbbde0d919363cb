"""What is kept of a step besides its record: some rollouts token by token, and all of them counted into bins."""

from __future__ import annotations

from typing import Any

from harness.answers import grade, grade_many

SHOWN_ROLLOUTS = 6  # kept for the token page


def profile(step: Any, policy: Any) -> dict[str, Any] | None:
    """The step's rollouts, and its tokens by entropies, weight and position; None for a skipped step."""
    from trainer.profiles import as_dicts, profile_rows, rollout_rows

    if step.scores is None or step.plan is None:
        return None
    rollouts, number = step.rollouts, step.record.step
    asked = [row for row, prompt in enumerate(rollouts.prompts) if prompt.answer is not None]
    answers = [
        (policy.decode(rollouts.responses[row][rollouts.mask[row]].tolist()), rollouts.prompts[row].answer, "train")
        for row in asked
    ]
    correct: list[bool | None] = [None] * len(rollouts.prompts)
    for row, verdict in zip(asked, grade_many(answers), strict=True):
        correct[row] = verdict.strict.correct
    return {
        "step": number,
        "rollouts": as_dicts(rollout_rows(number, rollouts, step.scores, step.plan, correct)),
        "profile": as_dicts(profile_rows(number, step.scores, step.plan)),
    }


def token_views(arm: str, seed: int, step: Any, policy: Any) -> list[dict[str, Any]]:
    """A few rollouts of a step, token by token: the lowest- and the highest-scored, dropped ones among them."""
    import torch

    rollouts, scores, plan = step.rollouts, step.scores, step.plan
    if scores is None or plan is None:
        return []
    score = scores.teacher_logprobs.sum(1) / scores.lengths.clamp(min=1)
    order = score.argsort().tolist()
    half = SHOWN_ROLLOUTS // 2
    coef = torch.stack([term.coef for term in plan.terms]).sum(0)
    weight = coef / coef[coef != 0].abs().mean().clamp(min=1e-30)
    shown = []
    for row in dict.fromkeys(order[:half] + order[-half:]):
        mask = scores.mask[row]
        ids = rollouts.responses[row][mask].tolist()
        prompt = rollouts.prompts[row]

        def values(field: Any, row: int = row, mask: Any = mask) -> list[float] | None:
            return None if field is None else [round(v, 4) for v in field[row][mask].tolist()]

        text = policy.decode(ids)
        shown.append(
            {
                "arm": arm,
                "seed": seed,
                "step": step.record.step,
                "domain": prompt.domain,
                "prompt": prompt.text,
                "answer": prompt.answer,
                "correct": None if prompt.answer is None else grade(text, prompt.answer, bench="train").correct,
                "kept": bool(plan.keep[row]),
                "score": round(float(score[row]), 4),
                "tokens": [policy.tokenizer.decode([i]) for i in ids],
                "ids": ids,
                "weight": values(weight),
                "student_logprob": values(scores.logprobs),
                "teacher_logprob": values(scores.teacher_logprobs),
                "student_entropy": values(scores.student_entropy),
                "teacher_entropy": values(scores.teacher_entropy),
            }
        )
    return shown
