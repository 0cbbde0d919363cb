"""Properties of every line of the method table, and independent implementations of the methods that matter most.

The naive versions below are written from the papers' formulas, in Python floats and loops; they share no code with
the trainer.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared
from tests.worlds import (
    Update,
    World,
    assert_same,
    has_block_scope,
    plain_update,
    random_scores,
    random_world,
    update,
)
from trainer.errors import UserError
from trainer.head import head_loss
from trainer.losses import PolicyGradient
from trainer.methods import METHODS, TABLE, fire_released, method
from trainer.objective import Objective, Scores
from trainer.settings import edit

V = 24  # more ids than the largest top-k support of the table
LENGTHS = [6, 1, 0, 4, 6, 3, 2]  # of the standing world: ragged, one rollout empty

REQUIRED = [
    "opd",
    "full-rkl",
    "full-fkl",
    "full-jsd",
    "topk-rkl",
    "topk-fkl",
    "eopd",
    "tip",
    "tip-entropy",
    "reopold",
    "exopd",
    "uni-opd",
    "fire",
    "fire-filter-only",
    "fire-reweight-only",
    "fire-no-confidence",
    "fire-no-confusion",
    "fire-hard-hard",
    "fire-soft-soft",
    "fire-soft-hard",
    "fire-as-released",
    "fire-unnormalised",
    "random-filter",
    "shuffled-weights",
    "random-mask",
    "sft-on-teacher",
]


def standing(progress: float = 0.25) -> World:
    return replace(random_world(11, len(LENGTHS), 6, V, lengths=LENGTHS), progress=progress)


# --- the table ------------------------------------------------------------------------------------------------


def test_the_table_has_the_names_that_were_promised() -> None:
    assert set(REQUIRED) <= set(METHODS)
    assert len(TABLE) == len(METHODS), "two lines share a name"
    assert METHODS["fire-as-released"] == fire_released(micro_batch=1)


def test_every_line_has_a_source_and_a_sentence() -> None:
    for line in TABLE:
        assert line.paper == "control" or line.paper.startswith(("https://", "http://")), line.name
        assert 10 < len(line.change) < 160, line.name
        assert line.name == line.name.lower(), line.name


def test_no_two_lines_are_the_same_objective() -> None:
    seen: dict[Objective, str] = {}
    for line in TABLE:
        assert line.objective not in seen, f"{line.name} is {seen[line.objective]} again"
        seen[line.objective] = line.name


def test_unknown_methods_are_refused_with_a_suggestion() -> None:
    assert method("fire") is METHODS["fire"]
    with pytest.raises(UserError, match=r"unknown method 'fier'.*fire"):
        method("fier")
    with pytest.raises(UserError, match="opd methods"):
        method("zzzzzzzz")


# --- invariance, for every line -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("progress", [0.25, 0.75])
def test_no_memory_setting_changes_the_mathematics(name: str, progress: float) -> None:
    objective, world = METHODS[name], standing(progress)
    rows = torch.arange(len(LENGTHS))
    reference = plain_update(objective, world)  # full logits, plain autograd, one batch
    assert reference.hidden[world.mask].any(), "a method without any gradient would pass every comparison below"
    assert_same(update(objective, world), reference)
    assert_same(update(objective, world, rows.split(1)), reference)
    assert_same(update(objective, world, rows.split(3), chunk=1), reference)
    assert_same(update(objective, world, [rows[::2], rows[1::2]], chunk=5, only_live=False), reference)
    assert_same(plain_update(objective, world, rows.split(2)), reference)
    for left, right in ((0, 4), (3, 0), (2, 1)):
        padded = update(objective, world.padded(left, right), rows.split(4))
        inner = padded.hidden[:, left : left + world.mask.shape[1]]
        assert_same(replace(padded, hidden=inner), reference)
        assert not padded.hidden[~world.padded(left, right).mask].any()


@pytest.mark.parametrize("name", [name for name in METHODS if not has_block_scope(METHODS[name])])
def test_row_order_changes_nothing(name: str) -> None:
    objective, world = METHODS[name], standing()
    reference = update(objective, world)
    for seed in range(2):
        order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(seed))
        moved = update(objective, world.permuted(order), torch.arange(len(LENGTHS)).split(3))
        assert_same(replace(moved, hidden=moved.hidden[order.argsort()]), reference)
        assert torch.equal(moved.plan.keep[order.argsort()], reference.plan.keep)


def test_row_order_matters_only_to_what_was_released() -> None:
    blocked = {name for name in METHODS if has_block_scope(METHODS[name])}
    assert blocked == {name for name in METHODS if "as-released" in name and name.startswith("fire")}


@given(
    name=st.sampled_from(sorted(METHODS)),
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    tokens=st.integers(1, 4),
    micro_batch=st.integers(1, 5),
    chunk=st.integers(1, 9),
    left=st.integers(0, 2),
)
@settings(deadline=None, max_examples=150)
def test_random_worlds(name: str, seed: int, rows: int, tokens: int, micro_batch: int, chunk: int, left: int) -> None:
    objective, world = METHODS[name], random_world(seed, rows, tokens, V)
    reference = plain_update(objective, world)
    assert math.isfinite(reference.loss)
    found = update(objective, world.padded(left, 1), torch.arange(rows).split(micro_batch), chunk)
    assert_same(replace(found, hidden=found.hidden[:, left : left + tokens]), reference)


# --- the ends of the range ------------------------------------------------------------------------------------


def assert_no_update(found: Update) -> None:
    assert found.loss == 0.0
    assert not found.hidden.any()  # nor NaN, which is truthy
    assert not found.head.any()


@pytest.mark.parametrize("name", METHODS)
def test_nothing_to_learn_from_is_no_update(name: str) -> None:
    objective = METHODS[name]
    for tokens in (0, 3):  # pack() makes T = 0 of empty rollouts
        empty = update(objective, random_world(0, 3, tokens, V, lengths=[0, 0, 0]))
        assert_no_update(empty)
        assert not empty.plan.keep.any()
    dropped = replace(objective, keep=lambda scores: torch.zeros(len(scores.mask), dtype=torch.bool))
    assert_no_update(update(dropped, standing(), torch.arange(7).split(2)))
    assert_no_update(plain_update(dropped, standing()))


@pytest.mark.parametrize("name", METHODS)
def test_a_single_token_is_enough(name: str) -> None:
    # One rollout of one token, alone and among empty ones; whatever its verdict, the outcome is finite.
    for lengths in ([1], [0, 1, 0]):
        for verdict in (True, False):
            world = random_world(3, len(lengths), 2, V, lengths=lengths)
            columns = world.columns | {name: torch.full((len(lengths),), verdict) for name in ("correct", "completed")}
            found = update(METHODS[name], replace(world, columns=columns))
            assert math.isfinite(found.loss)
            assert bool(torch.isfinite(found.hidden).all())
            assert bool(torch.isfinite(found.head).all())
            reference = plain_update(METHODS[name], replace(world, columns=columns))
            assert_same(found, reference)


@pytest.mark.parametrize("name", METHODS)
def test_extreme_but_finite_scores_give_finite_plans(name: str) -> None:
    scores = random_scores(4, 5, 4, lengths=[4, 3, 4, 1, 2])
    far = replace(scores, teacher_logprobs=scores.teacher_logprobs * 200, rollout_logprobs=scores.logprobs - 150)
    sure = replace(scores, student_entropy=scores.student_entropy * 0, teacher_entropy=scores.teacher_entropy * 0)
    same = replace(scores, teacher_logprobs=scores.logprobs, reverse_kl=scores.reverse_kl * 0)
    for case in (far, sure, same):
        plan = replace(METHODS[name], importance_cap=5.0).plan(case)
        for term in plan.terms:
            assert bool(torch.isfinite(term.coef).all())
            assert bool((term.coef >= 0).all())
            assert term.reward is None or bool(torch.isfinite(term.reward).all())


# --- neutral settings -----------------------------------------------------------------------------------------

ALPHA, BETA = "terms.0.weight.of.a.gain", "terms.0.weight.of.b.gain"
NO_WEIGHT = {ALPHA: "0", BETA: "0"}
KEEP_ALL = {"keep.fraction": "0"}
HOT = "1e9"  # a softmax at that temperature is flat

# Of every method: what it collapses to, and the options that make it do so.
NEUTRAL: dict[str, tuple[str, dict[str, str]]] = {
    "opd": ("opd", {}),
    "full-rkl": ("full-rkl", {}),
    "full-fkl": ("full-rkl", {"terms.0.loss.beta": "1"}),
    "full-jsd": ("full-rkl", {"terms.0.loss.beta": "1"}),
    "skew-kl": ("full-rkl", {"terms.0.loss.alpha": "0"}),
    "skew-fkl": ("full-rkl", {"terms.0.loss.alpha": "0", "terms.0.loss.direction": "reverse"}),
    "topk-rkl": ("full-rkl", {"terms.0.loss.support.k": str(V)}),
    "lsm": ("full-rkl", {"terms.0.loss.support.k": str(V)}),
    "topk-rkl-tail": ("full-rkl", {"terms.0.loss.support.k": str(V)}),
    "topk-fkl": ("full-rkl", {"terms.0.loss.support.k": str(V), "terms.0.loss.beta": "1"}),
    "topk-fkl-tail": ("full-rkl", {"terms.0.loss.support.k": str(V), "terms.0.loss.beta": "1"}),
    "eopd": ("opd", {"terms.1.coef": "0"}),
    "tip": ("full-rkl", {"terms.0.weight.of.fraction": "1"}),
    "tip-20": ("full-rkl", {"terms.0.weight.of.fraction": "1"}),
    "tip-entropy": ("full-rkl", {"terms.0.weight.of.fraction": "1"}),
    "tip-sampled": ("opd", {"terms.0.weight.of.fraction": "1"}),
    "teachability": ("full-rkl", {"terms.0.weight.of.fraction": "1"}),
    "entropy-20": ("opd", {"terms.0.weight.of.fraction": "1"}),
    "selectkd": ("opd", {"terms.0.weight.of.floor": "1"}),
    "position": ("opd", {"terms.0.weight.of.gain": "0"}),
    "first-segment": ("opd", {"terms.0.weight.of.fraction": "1"}),
    "last-segment": ("opd", {"terms.0.weight.of.fraction": "1"}),
    "random-segment": ("opd", {"terms.0.weight.of.fraction": "1"}),
    "random-mask": ("opd", {"terms.0.weight.of.fraction": "1"}),
    "equal-tokens": ("opd", {"terms.0.weight.of.fraction": "1"}),
    **{
        name: (
            "opd",
            {
                "terms.0.loss.reward.floor": "-1e9",
                "terms.0.weight.of.before.at": "-1e9",
                "terms.0.weight.of.after.fraction": "1",
            },
        )
        for name in ("reopold", "reopold-scaled-floor", "reopold-10", "reopold-20")
    },
    "exopd": ("opd", {"terms.0.loss.reward.strength": "1"}),
    "exopd-150": ("opd", {"terms.0.loss.reward.strength": "1"}),
    "hard-clip": ("opd", {"terms.0.loss.reward.limit": "1e9"}),
    "power": ("opd", {"terms.0.loss.reward.exponent": "1"}),
    "random-filter": ("opd", KEEP_ALL),
    "drop-highest": ("opd", KEEP_ALL),
    "drop-longest": ("opd", KEEP_ALL),
    "length-matched-filter": ("opd", {"keep.of.fraction": "0"}),
    "fire": ("opd", NO_WEIGHT | KEEP_ALL),
    "fire-filter-only": ("opd", KEEP_ALL),
    "fire-reweight-only": ("opd", NO_WEIGHT),
    "fire-no-confidence": ("opd", NO_WEIGHT | KEEP_ALL),
    "fire-no-confusion": ("opd", NO_WEIGHT | KEEP_ALL),
    "fire-hard-hard": ("opd", {"terms.0.weight.of.fraction": "1"} | KEEP_ALL),
    "fire-soft-soft": (
        "opd",
        {"terms.0.weight.a.of.a.gain": "0", "terms.0.weight.a.of.b.gain": "0", "terms.0.weight.b.temperature": HOT},
    ),
    "fire-soft-hard": ("opd", {"terms.0.weight.a.of.fraction": "1", "terms.0.weight.b.temperature": HOT}),
    "fire-as-released": ("opd", NO_WEIGHT | KEEP_ALL | {"reduce.scope": "batch"}),
    "fire-as-released-2": ("opd", NO_WEIGHT | KEEP_ALL | {"reduce.scope": "batch"}),
    "fire-unnormalised": ("opd", {"terms.0.weight.a.gain": "0", "terms.0.weight.b.gain": "0"} | KEEP_ALL),
    "fire-batch-normalised": ("opd", NO_WEIGHT | KEEP_ALL),
    "fire-per-domain": ("opd", NO_WEIGHT | KEEP_ALL),
    "fire-full": ("full-rkl", NO_WEIGHT),
    "shuffled-weights": ("opd", {"terms.0.weight.of.of.a.gain": "0", "terms.0.weight.of.of.b.gain": "0"}),
    "matched-rate": ("opd", NO_WEIGHT),
}

# Methods that no option turns into `opd`, with the world in which they are it.
SMALL = "the reward is linear near zero: for a teacher close to the student"
VERDICTS = "for verdicts that leave all rollouts in, or say nothing"
NEUTRAL_WORLD: dict[str, str] = {
    "opd-sequence-mean": "for rollouts of one length",
    "k2": "at the start of a step; in its gradient, its value is another",
    "k3": SMALL,
    "soft-log": SMALL,
    "uni-opd": VERDICTS,
    "uni-opd-default": VERDICTS,
    "kdrl": VERDICTS,
    "correct-only": VERDICTS,
    "failure-only": VERDICTS,
    "completed-only": VERDICTS,
    "scope-routing": "for all rollouts wrong, one to a prompt",
    "scope-routing-as-released": "for all rollouts wrong, one to a prompt",
    "fixed-negative": "on all tokens, where every reward is −1",
    "sft-on-teacher": "where every reward is 1",
}


def collapsed(name: str) -> Objective:
    objective = METHODS[name]
    for path, text in NEUTRAL[name][1].items():
        objective = edit(objective, path, text)
    return objective


def test_every_method_has_a_neutral_setting() -> None:
    assert set(NEUTRAL) | set(NEUTRAL_WORLD) == set(METHODS)
    assert not set(NEUTRAL) & set(NEUTRAL_WORLD)


@pytest.mark.parametrize("name", NEUTRAL)
@pytest.mark.parametrize("progress", [0.1, 0.9])
def test_neutral_settings_collapse_to_the_baseline(name: str, progress: float) -> None:
    target, edits = NEUTRAL[name]
    world = standing(progress)
    assert_same(update(collapsed(name), world), update(METHODS[target], world))
    if edits:  # and the setting as published does something
        published, baseline = update(METHODS[name], world), update(METHODS[target], world)
        different = not torch.allclose(published.hidden, baseline.hidden, rtol=1e-3, atol=1e-5, equal_nan=False)
        assert different or name in ("topk-rkl-tail", "topk-fkl-tail"), "inert on a random world"


@pytest.mark.parametrize("name", NEUTRAL_WORLD)
def test_neutral_worlds(name: str) -> None:
    objective, opd = METHODS[name], METHODS["opd"]
    world = standing()
    right = torch.ones(len(LENGTHS), dtype=torch.bool)
    if name == "opd-sequence-mean":
        world = random_world(2, 4, 5, V, lengths=[5, 5, 5, 5])
    elif name == "k2":
        a, b = update(objective, world), update(opd, world)
        assert_same(replace(a, loss=0.0), replace(b, loss=0.0))
        return
    elif name in ("k3", "soft-log"):
        # |reward| ≤ ε makes the relative difference O(ε)
        g = torch.Generator().manual_seed(0)
        near = 1e-3 * torch.randn(world.teacher_head.shape[0], world.head.shape[1], generator=g)
        width = world.head.shape[1]
        world = replace(world, teacher_hidden=world.hidden, teacher_head=world.head + near)
        assert world.teacher_head.shape[1] == width
        a, b = update(objective, world), update(opd, world)
        assert_same(a, b, rtol=2e-2, atol=1e-5)
        return
    elif NEUTRAL_WORLD[name] is VERDICTS:
        verdict = ~right if name == "failure-only" else right
        world = replace(world, columns=world.columns | {"correct": verdict, "completed": right})
    elif name.startswith("scope-routing"):
        alone = torch.arange(len(LENGTHS))
        world = replace(world, columns=world.columns | {"correct": ~right, "group": alone})
    elif name == "fixed-negative":
        objective = edit(objective, "terms.0.weight.of.fraction", "1")
        assert_same(update(objective, world), constant_reward(world, -1.0))
        return
    elif name == "sft-on-teacher":
        assert objective.sampler == "teacher"
        assert_same(update(objective, world), constant_reward(world, 1.0))
        return
    assert_same(update(objective, world), update(opd, world))


def constant_reward(world: World, value: float) -> Update:
    """−value · mean log-likelihood of the sampled tokens, by plain autograd; the surrogate's own value is −value."""
    hidden, head = world.hidden.clone().requires_grad_(), world.head.clone().requires_grad_()
    logp = (hidden[world.mask] @ head.T).log_softmax(-1).gather(1, world.targets[world.mask][:, None])
    (-value * logp.mean()).backward()
    assert hidden.grad is not None and head.grad is not None
    return Update(-value, hidden.grad, head.grad, METHODS["opd"].plan(world.scores()))


# --- the policy gradient is the gradient of reverse KL --------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_the_enumerated_policy_gradient_is_the_gradient_of_full_reverse_kl(seed: int) -> None:
    # E_{y~S}[gradient of opd at y] = ∇KL(S ‖ Q): every id of a vocabulary of nine, weighted by its probability
    vocab, width = 9, 4
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(1, width, generator=g), torch.randn(vocab, width, generator=g)
    other = torch.randn(1, vocab, generator=g).log_softmax(-1)
    student = (hidden @ head.T).log_softmax(-1)

    def gradients(name: str, target: int) -> list[torch.Tensor]:
        scores = Scores(torch.ones(1, 1), student[:, target : target + 1], other[:, target : target + 1])
        plan = METHODS[name].plan(scores).map(lambda x: x[0])
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = head_loss(
            h, w, torch.tensor([target]), torch.tensor([0]), METHODS[name], plan, lambda positions: other[positions]
        )
        return list(torch.autograd.grad(loss, (h, w)))

    expected = gradients("full-rkl", 0)
    found = [torch.zeros_like(x) for x in expected]
    for target in range(vocab):
        for total, part in zip(found, gradients("opd", target), strict=True):
            total += student[0, target].exp() * part
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- FiRe-OPD, from the formulas ------------------------------------------------------------------------------

Rows = list[list[float]]


def quantile_linear(values: list[float], q: float) -> float:
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def naive_fire(
    student: Rows,
    teacher: Rows,
    student_h: Rows,
    teacher_h: Rows,
    now: Rows,
    fraction: float,
    alpha: float,
    beta: float,
) -> tuple[float, Rows, list[bool]]:
    """Section 1.1 of the reference notes, as described: (loss, d loss / d log-prob, kept). Rows are ragged lists."""
    present = [i for i, row in enumerate(student) if row]
    if not present:
        return 0.0, [[] for _ in student], [False] * len(student)
    score = {i: fmean(teacher[i]) for i in present}
    cut = quantile_linear(list(score.values()), fraction)
    keep = [i in score and score[i] >= cut for i in range(len(student))]
    top_teacher = max(max(h for row in teacher_h for h in row), 1e-6)
    top_student = max(max(h for row in student_h for h in row), 1e-6)
    tokens = sum(len(student[i]) for i in present if keep[i])
    loss, gradient = 0.0, [[0.0] * len(row) for row in student]
    for i in present:
        weights = []
        for hs, hq in zip(student_h[i], teacher_h[i], strict=True):
            confidence = min(max(1 - hq / top_teacher, 0.0), 1.0)
            confusion = min(max(hs / top_student, 0.0), 1.0)
            weights.append((1 + alpha * confidence) * (1 + beta * confusion))
        mean = fmean(weights)
        if not keep[i]:
            continue
        for t, weight in enumerate(weights):
            advantage = weight / mean * (teacher[i][t] - student[i][t])
            ratio = math.exp(now[i][t] - student[i][t])
            free, held = -advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2)
            loss += max(free, held) / tokens
            if free >= held:
                gradient[i][t] = free / tokens
    return loss, gradient, keep


def naive_fire_released(
    student: Rows, teacher: Rows, student_h: Rows, teacher_h: Rows, fraction: float, alpha: float, beta: float, m: int
) -> tuple[float, Rows, list[bool]]:
    """Section 4.1-4.3: every statistic inside a micro-batch of m rows, weight mean over all its valid tokens."""
    rows = len(student)
    loss, gradient, keep = 0.0, [[0.0] * len(row) for row in student], [False] * rows
    for start in range(0, rows, m):
        block = list(range(start, min(start + m, rows)))
        present = [i for i in block if student[i]]
        if not present:
            continue
        score = {i: fmean(teacher[i]) for i in present}
        cut = quantile_linear(list(score.values()), fraction)
        for i in present:
            keep[i] = score[i] >= cut
        top_teacher = max(max(h for i in present for h in teacher_h[i]), 1e-6)
        top_student = max(max(h for i in present for h in student_h[i]), 1e-6)
        weight = {
            (i, t): (1 + alpha * min(max(1 - teacher_h[i][t] / top_teacher, 0), 1))
            * (1 + beta * min(max(student_h[i][t] / top_student, 0), 1))
            for i in present
            for t in range(len(student[i]))
        }
        mean = fmean(weight.values())
        tokens = sum(len(student[i]) for i in present if keep[i])
        for i, t in weight:
            if keep[i]:
                part = -weight[i, t] / mean * (teacher[i][t] - student[i][t]) / tokens * len(block) / rows
                loss += part
                gradient[i][t] += part
    return loss, gradient, keep


def ragged(scores: Scores, field: str) -> Rows:
    return [getattr(scores, field)[i][scores.mask[i]].tolist() for i in range(len(scores.mask))]


def surrogate(objective: Objective, scores: Scores, shift: torch.Tensor) -> tuple[float, Rows, list[bool]]:
    plan = objective.plan(scores)
    logprobs = (scores.logprobs + shift).requires_grad_()
    loss = objective.loss(plan, logprobs)
    loss.backward()
    assert logprobs.grad is not None
    gradient = [logprobs.grad[i][scores.mask[i]].tolist() for i in range(len(scores.mask))]
    return loss.item(), gradient, plan.keep.tolist()


def agree(found: tuple[float, Rows, list[bool]], expected: tuple[float, Rows, list[bool]]) -> None:
    assert found[2] == expected[2]
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


FIELDS = ("logprobs", "teacher_logprobs", "student_entropy", "teacher_entropy")


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 9),
    tokens=st.integers(1, 6),
    fraction=st.sampled_from([0.0, 0.1, 0.2, 0.4]),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    beta=st.sampled_from([0.0, 1.0, 2.0]),
    spread=st.sampled_from([0.0, 0.3]),
)
@settings(deadline=None, max_examples=80)
def test_fire_against_the_formulas(
    seed: int, rows: int, tokens: int, fraction: float, alpha: float, beta: float, spread: float
) -> None:
    scores = random_scores(seed, rows, tokens)
    objective = METHODS["fire"]
    for path, value in (("keep.fraction", fraction), (ALPHA, alpha), (BETA, beta)):
        objective = edit(objective, path, str(value))
    # ratios away from one, to see the clip at work
    noise = torch.randn(scores.mask.shape, generator=torch.Generator().manual_seed(seed))
    shift = torch.where(scores.mask, spread * noise, 0.0)
    now = ragged(replace(scores, ref_logprobs=scores.logprobs + shift), "ref_logprobs")
    columns = (ragged(scores, field) for field in FIELDS)
    agree(surrogate(objective, scores, shift), naive_fire(*columns, now, fraction, alpha, beta))


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 9),
    tokens=st.integers(1, 6),
    fraction=st.sampled_from([0.1, 0.2, 0.4]),
    alpha=st.sampled_from([0.0, 1.0, 2.0]),
    micro_batch=st.integers(1, 9),
)
@settings(deadline=None, max_examples=80)
def test_released_fire_against_the_formulas(
    seed: int, rows: int, tokens: int, fraction: float, alpha: float, micro_batch: int
) -> None:
    scores = random_scores(seed, rows, tokens)
    objective = fire_released(100 * fraction, alpha, 1.0, micro_batch)
    columns = (ragged(scores, field) for field in FIELDS)
    expected = naive_fire_released(*columns, fraction, alpha, 1.0, micro_batch)
    agree(surrogate(objective, scores, torch.zeros(scores.mask.shape)), expected)


def test_the_golden_values_of_the_released_function() -> None:
    cases = json.loads(shared("golden/fire_released.json").read_text())
    assert cases
    seen = set()
    for case in cases:
        fields = {name: torch.tensor(case[name]) for name in (*FIELDS, "mask")}
        scores = Scores(**fields)
        assert {"1", "2", str(len(scores.mask))} <= set(case["by_micro_batch"])
        for m, golden in case["by_micro_batch"].items():
            objective = fire_released(case["percentile"], case["alpha"], case["beta"], int(m))
            plan = objective.plan(scores)
            for rows in ([torch.arange(len(scores.mask))], torch.arange(len(scores.mask)).split(3)):
                logprobs = scores.logprobs.clone().requires_grad_()
                loss = torch.stack([objective.loss(plan, logprobs[part], rows=part) for part in rows]).sum()
                loss.backward()
                assert loss.item() == pytest.approx(golden["loss"], rel=1e-5, abs=1e-5)
                torch.testing.assert_close(logprobs.grad, torch.tensor(golden["grad"]), rtol=1e-5, atol=1e-5)
            blocks = plan.keep.float().split(int(m))
            assert fmean(float(b.mean()) for b in blocks) == pytest.approx(golden["keep_ratio"], abs=1e-6)
            seen.add(m)
            if m == "1" and (case["percentile"], case["alpha"], case["beta"]) == (20.0, 1.0, 1.0):
                assert objective == METHODS["fire-as-released"]
                assert plan.keep.all()
                seen.add("as released")
    assert {"1", "2", "as released"} <= seen


def test_fire_and_its_release_differ_as_the_notes_say() -> None:
    # Equal lengths, ten rollouts: 2 of 10 go in the paper (ceil(0.2·9)), none at micro-batch 1, half at 2.
    scores = random_scores(7, 10, 5, lengths=[5] * 10)
    kept = {
        name: int(METHODS[name].plan(scores).keep.sum()) for name in ("fire", "fire-as-released", "fire-as-released-2")
    }
    assert kept == {"fire": 8, "fire-as-released": 10, "fire-as-released-2": 5}
    whole = fire_released(micro_batch=10)
    assert int(whole.plan(scores).keep.sum()) == 8
    # eq. 8 normalises per trajectory; the release pools the micro-batch, so that kept weights need not average one
    weight = METHODS["fire"].plan(scores).terms[0].coef.sum(1)
    torch.testing.assert_close(weight[weight > 0], torch.full((8,), 1 / 8))
    pooled = whole.plan(scores).terms[0].coef.sum(1)
    assert float((pooled[pooled > 0] - 1 / 8).abs().max()) > 1e-3


# --- TIP, from the formulas -----------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 6),
    tokens=st.integers(1, 6),
    rho=st.sampled_from([0.2, 0.5, 0.8]),
)
@settings(deadline=None, max_examples=40)
def test_tip_against_the_formulas(seed: int, rows: int, tokens: int, rho: float) -> None:
    vocab = 12
    world = random_world(seed, rows, tokens, vocab)
    objective = edit(METHODS["tip"], "terms.0.weight.of.fraction", str(rho))
    found = update(objective, world, torch.arange(rows).split(2))

    hidden = world.hidden[world.mask].double().requires_grad_()
    head = world.head.double().requires_grad_()
    count = len(hidden)
    if not count:
        assert_no_update(found)
        return
    student = (hidden @ head.T).log_softmax(-1)
    teacher = (world.teacher_hidden[world.mask].double() @ world.teacher_head.double().T).log_softmax(-1)
    entropy = np.array([-sum(p * math.log(p) for p in row.exp().tolist()) / math.log(vocab) for row in student])
    divergence = [
        sum((s.exp() * (s - q) for s, q in zip(a, b, strict=True)), torch.zeros(()))
        for a, b in zip(student, teacher, strict=True)
    ]
    d = np.array([float(x.detach()) for x in divergence])
    entropy = np.minimum(entropy, np.percentile(entropy, 98))

    def unit(x: np.ndarray) -> np.ndarray:
        return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else np.zeros_like(x)

    h, d = unit(entropy), unit(d)
    soft_or = h + d - h * d
    k = max(1, round(rho * count))
    chosen = np.argsort(-soft_or, kind="stable")[:k]
    if count > k and math.isclose(sorted(soft_or)[-k], sorted(soft_or)[-k - 1], abs_tol=1e-5):
        return  # a tie at the border: the papers do not say which of them is kept
    loss = sum((divergence[i] for i in chosen), torch.zeros(())) / k
    loss.backward()
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-5)
    assert hidden.grad is not None and head.grad is not None
    torch.testing.assert_close(found.hidden[world.mask], hidden.grad.float(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.head, head.grad.float(), rtol=1e-3, atol=1e-5)


# --- REOPOLD, EOPD and ExOPD, from the formulas ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "floor"), [("reopold", math.log(0.3 / 0.7)), ("reopold-scaled-floor", math.log(0.3) / 0.7)]
)
def test_reopold_against_the_formulas(name: str, floor: float) -> None:
    for seed in range(5):
        for progress in (0.0, 0.33, 0.34, 1.0):
            scores = replace(random_scores(seed, 6, 5), progress=progress)
            student, teacher, entropy = (
                [x for row in ragged(scores, field) for x in row]
                for field in ("logprobs", "teacher_logprobs", "student_entropy")
            )
            ratio = [q - s for q, s in zip(teacher, student, strict=True)]
            if progress < 1 / 3:
                chosen = [i for i, r in enumerate(ratio) if r >= floor]
            else:
                order = sorted(range(len(ratio)), key=lambda i: -entropy[i])
                chosen = order[: max(1, round(0.2 * len(ratio)))]
            expected = [0.0] * len(ratio)
            for i in chosen:
                expected[i] = -max(ratio[i], floor) / len(chosen)
            loss, gradient, _ = surrogate(METHODS[name], scores, torch.zeros(scores.mask.shape))
            assert loss == pytest.approx(sum(expected), rel=1e-4, abs=1e-5)
            assert [g for row in gradient for g in row] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_eopd_against_the_formulas() -> None:
    world = standing()
    found = update(METHODS["eopd"], world)
    hidden = world.hidden[world.mask].double().requires_grad_()
    student = (hidden @ world.head.double().T).log_softmax(-1)
    teacher = (world.teacher_hidden[world.mask].double() @ world.teacher_head.double().T).log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    gated = 0
    for i, target in enumerate(world.targets[world.mask].tolist()):
        s, q = student[i], teacher[i]
        total = total - (q[target] - s[target].detach()) * (s[target] - s[target].detach()).exp()
        if -float((q.exp() * q).sum()) >= 0.8:
            gated += 1
            for k in q.argsort(descending=True)[:16].tolist():
                total = total + q[k].exp() * (q[k] - s[k])
    loss = total / len(hidden)
    loss.backward()
    assert 0 < gated < len(hidden)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert hidden.grad is not None
    torch.testing.assert_close(found.hidden[world.mask], hidden.grad.float(), rtol=1e-4, atol=1e-5)


def test_exopd_against_the_formula() -> None:
    scores = random_scores(9, 5, 4)
    (term,) = METHODS["exopd"].plan(scores).terms
    s, q, ref = scores.logprobs, scores.teacher_logprobs, scores.read("ref_logprobs")
    expected = -((s - q) + 0.25 * (ref - q))
    assert term.reward is not None
    torch.testing.assert_close(term.reward[scores.mask], expected[scores.mask])


# --- controls are controls ------------------------------------------------------------------------------------


def test_controls_match_what_they_control() -> None:
    scores = random_scores(13, 40, 12, lengths=[3 + i % 10 for i in range(40)])
    plans = {name: METHODS[name].plan(scores) for name in METHODS}
    fire = plans["fire-filter-only"].keep
    for name in ("random-filter", "drop-highest"):
        assert int(plans[name].keep.sum()) == int(fire.sum())
        assert not torch.equal(plans[name].keep, fire)
    lengths = scores.lengths
    twins = plans["length-matched-filter"].keep
    assert not (~twins & ~fire).any()
    assert sorted(lengths[~twins].tolist()) == pytest.approx(sorted(lengths[~fire].tolist()), abs=2)
    # matched-rate takes FiRe's mean unnormalised weight as its step size: one number, in [1, 4]
    step = plans["matched-rate"].terms[0].coef[scores.mask] * int(scores.mask.sum())
    assert float(step.min()) == pytest.approx(float(step.max()))
    everywhere = replace(METHODS["fire-unnormalised"], keep=METHODS["opd"].keep)
    raw = everywhere.plan(scores).terms[0].coef[scores.mask] * int(scores.mask.sum())
    assert float(step[0]) == pytest.approx(float(raw.mean()), rel=1e-5)
    for name, share in (
        ("random-mask", 0.5),
        ("equal-tokens", 0.8),
        ("entropy-20", 0.2),
        ("tip", 0.5),
        ("tip-20", 0.2),
    ):
        kept = int(plans[name].live.sum()) / int(scores.mask.sum())
        assert kept == pytest.approx(share, abs=0.01), name


def test_every_policy_gradient_starts_at_ratio_one() -> None:
    # Where nothing has moved, PPO's clip is inert: every sampled objective has the gradient of its unclipped self.
    scores = random_scores(1, 6, 5)
    zero = torch.zeros(scores.mask.shape)
    for name, objective in METHODS.items():
        if objective.loss_needs != {"logprobs"}:
            continue
        free = replace(
            objective,
            terms=tuple(
                replace(t, loss=replace(t.loss, clip=None)) if isinstance(t.loss, PolicyGradient) else t
                for t in objective.terms
            ),
        )
        a, b = surrogate(objective, scores, zero), surrogate(free, scores, zero)
        assert a[0] == pytest.approx(b[0], abs=1e-6), name
        for x, y in zip(a[1], b[1], strict=True):
            assert x == pytest.approx(y, abs=1e-6), name


def naive_uni_opd(scores: Scores, margin: float = 0.4, limit: float = 10.0) -> list[list[float]]:
    """Uni-OPD's advantages with plain loops, from its description: half the shift up on correct, half down on wrong."""
    rows = range(len(scores.mask))
    advantage = [
        [
            max(-limit, min(limit, float(scores.teacher_logprobs[i, t] - scores.logprobs[i, t])))
            if scores.mask[i, t]
            else 0.0
            for t in range(scores.mask.shape[1])
        ]
        for i in rows
    ]
    length = [int(scores.mask[i].sum()) for i in rows]
    group, correct = scores.read("group"), scores.read("correct")
    shifted = [list(row) for row in advantage]
    for prompt in {int(g) for g in group}:
        members = [i for i in rows if int(group[i]) == prompt and length[i] > 0]
        right = [sum(advantage[i]) / length[i] for i in members if correct[i]]
        wrong = [sum(advantage[i]) / length[i] for i in members if not correct[i]]
        if not right or not wrong:
            continue
        shift = margin - (sum(right) / len(right) - sum(wrong) / len(wrong))
        for i in members:
            for t in range(len(shifted[i])):
                if scores.mask[i, t]:
                    shifted[i][t] += shift / 2 if correct[i] else -shift / 2
    return shifted


@pytest.mark.parametrize("seed", range(5))
def test_uni_opd_against_plain_loops(seed: int) -> None:
    scores = random_scores(seed, 12, 6, lengths=[6, 5, 0, 3, 6, 6, 1, 2, 6, 4, 6, 6])
    objective = METHODS["uni-opd"]
    logprobs = scores.logprobs.clone().requires_grad_()
    loss = objective.loss(objective.plan(scores), logprobs)
    loss.backward()
    advantage = naive_uni_opd(scores)
    tokens = int(scores.mask.sum())
    # ratio 1: the loss is −mean A, its gradient −A/N on every valid token
    expected = torch.tensor([[-a / tokens for a in row] for row in advantage])
    assert loss.item() == pytest.approx(float(expected.sum()), abs=1e-5)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, expected, atol=1e-6, rtol=1e-5)
