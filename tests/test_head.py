from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import WANT, assert_near, assert_same, plain_update, random_world, tiny_policy, update
from trainer.head import (
    CHUNK_ELEMENTS,
    MASS_SUPPORT,
    HeadLogits,
    chunk_size,
    head_loss,
    project,
    score_head,
    target_logprobs,
)
from trainer.losses import Divergence, Tokens, TopK
from trainer.methods import METHODS
from trainer.objective import Objective, Plan, Term, TermPlan
from trainer.rollout import Sample, pack
from trainer.weights import Boost

OBJECTIVES = {
    "sampled": METHODS["fire"],
    "reverse": METHODS["full-rkl"],
    "jsd": METHODS["full-jsd"],
    "tip": METHODS["tip"],
    "two terms": METHODS["eopd"],
    "skewed": METHODS["skew-fkl"],
    "squared": METHODS["k2"],
    "top-k": Objective((Term(Divergence(0.3, TopK(4, "student", "renormalise")), coef=0.7),)),
}


def states(seed: int, n: int = 13, vocab: int = 20, width: int = 6, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """hidden [n,h], head [V,h], targets [n], teacher log-its [n,V], weights [n] with zeros among them."""
    g = torch.Generator().manual_seed(seed)
    hidden, head = torch.randn(n, width, generator=g).to(dtype), torch.randn(vocab, width, generator=g).to(dtype)
    targets = torch.randint(0, vocab, (n,), generator=g)
    teacher = torch.randn(n, vocab, generator=g)
    weight = torch.where(torch.rand(n, generator=g) < 0.3, 0.0, torch.rand(n, generator=g))
    return [hidden, head, targets, teacher, weight]


def flat_plan(objective: Objective, weight: Tensor, old: Tensor, reward: Tensor) -> Plan:
    """A plan of n tokens with given coefficients."""
    terms = tuple(
        TermPlan(weight * (i + 1), None if "logits" in t.loss.needs else reward) for i, t in enumerate(objective.terms)
    )
    return Plan(torch.ones(len(weight), dtype=torch.bool), old, torch.ones(1, dtype=torch.bool), terms)


def both_ways(
    name: str, seed: int, dtype: torch.dtype = torch.float32, chunk: int | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """[loss, d hidden, d head] fused and by plain autograd on the full logits."""
    objective = (OBJECTIVES | METHODS)[name]
    hidden, head, targets, teacher, weight = states(seed, dtype=dtype)
    old = (hidden @ head.T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0] + 0.05
    plan = flat_plan(objective, weight, old, teacher[:, 0])
    results = []
    for fused in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if fused:
            loss = head_loss(h, w, targets, torch.arange(len(h)), objective, plan, lambda p: teacher[p], chunk)
        else:
            student = (h @ w.T).float().log_softmax(-1)
            sampled = student.gather(1, targets[:, None])[:, 0]
            loss = objective.loss(plan, Tokens(sampled, student, teacher.log_softmax(-1)))
        loss.backward()
        assert h.grad is not None and w.grad is not None
        results.append([loss.detach(), h.grad, w.grad])
    return results[0], results[1]


# --- fused = plain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
@given(seed=st.integers(0, 10**6), chunk=st.sampled_from([1, 2, 5, 13, 100, None]))
@settings(deadline=None, max_examples=15)
def test_fused_equals_plain_autograd(name: str, seed: int, chunk: int | None) -> None:
    fused, plain = both_ways(name, seed, chunk=chunk)
    for a, b in zip(fused, plain, strict=True):
        assert_near(a, b)


@pytest.mark.parametrize("name", [*OBJECTIVES, *METHODS])
@pytest.mark.parametrize("chunk", [4, 100])
def test_fused_equals_plain_in_bfloat16(name: str, chunk: int) -> None:
    for seed in range(3):
        fused, plain = both_ways(name, seed, torch.bfloat16, chunk)
        assert fused[0].dtype == torch.float32  # losses are formed in float32 whatever the weights are
        assert fused[1].dtype == fused[2].dtype == torch.bfloat16
        torch.testing.assert_close(fused[0], plain[0], rtol=1e-5, atol=1e-5)
        for a, b in zip(fused[1:], plain[1:], strict=True):
            # eight bits of mantissa
            assert float((a - b).float().norm()) <= 0.01 * float(b.float().norm()) + 1e-6


def test_the_head_gradient_is_accumulated_in_float32() -> None:
    # 4096 equal chunks of one token: a running bfloat16 sum would stall at 256 times the first addend.
    n = 4096
    hidden = torch.ones(n, 1, dtype=torch.bfloat16, requires_grad=True)
    head = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    objective = METHODS["sft-on-teacher"]
    old = torch.full((n,), 0.5).log()
    plan = flat_plan(objective, torch.ones(n), old, torch.ones(n))
    head_loss(hidden, head, torch.zeros(n, dtype=torch.int64), torch.arange(n), objective, plan, None, 1).backward()
    assert head.grad is not None
    # d/d logits = coef · (p − onehot) = (−½, ½) per token
    assert head.grad[:, 0].tolist() == [-n / 2, n / 2]


def test_the_gradient_scales_with_what_comes_after() -> None:
    hidden, head, targets, teacher, weight = states(0)
    plan = flat_plan(METHODS["full-rkl"], weight, torch.zeros(13), torch.zeros(13))
    grads = []
    for scale in (1.0, -2.5):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = head_loss(h, w, targets, torch.arange(13), METHODS["full-rkl"], plan, lambda p: teacher[p], 5)
        (scale * loss + (h**2).sum()).backward()
        assert h.grad is not None and w.grad is not None
        grads.append((h.grad - 2 * hidden, w.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(-2.5 * a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_one_side_may_be_frozen(frozen: str) -> None:
    hidden, head, targets, teacher, weight = states(1)
    plan = flat_plan(METHODS["full-rkl"], weight, torch.zeros(13), torch.zeros(13))
    h, w = hidden.clone().requires_grad_(frozen != "hidden"), head.clone().requires_grad_(frozen != "head")
    loss = head_loss(h, w, targets, torch.arange(13), METHODS["full-rkl"], plan, lambda p: teacher[p])
    loss.backward()
    live, other = (w, h) if frozen == "hidden" else (h, w)
    assert live.grad is not None and bool(live.grad.any())
    assert other.grad is None


@pytest.mark.parametrize("name", METHODS)
def test_a_sliced_head_sends_its_gradient_to_the_whole_parameter(name: str) -> None:
    # Padded vocabulary: rows 20..31 belong to ids that do not exist. They may even hold NaN.
    hidden, head, targets, teacher, weight = states(2)
    objective = METHODS[name]
    plan = flat_plan(objective, weight, torch.full((13,), -3.0), weight)
    parameter = torch.cat([head, torch.full((12, 6), float("nan"))]).requires_grad_()
    h = hidden.clone().requires_grad_()
    loss = head_loss(h, parameter[:20], targets, torch.arange(13), objective, plan, lambda p: teacher[p], 3)
    loss.backward()
    assert parameter.grad is not None
    assert not parameter.grad[20:].any()
    same, k = parameter.detach().clone().requires_grad_(), hidden.clone().requires_grad_()
    whole = head_loss(k, same, targets, torch.arange(13), objective, plan, lambda p: teacher[p], 3, vocab=20)
    whole.backward()
    for a, b in ((whole, loss), (k.grad, h.grad), (same.grad, parameter.grad)):
        assert a is not None and torch.equal(a, b)  # type: ignore[arg-type]
    w = head.clone().requires_grad_()
    reference = head_loss(hidden, w, targets, torch.arange(13), objective, plan, lambda p: teacher[p])
    reference.backward()
    assert loss.item() == pytest.approx(reference.item())
    torch.testing.assert_close(parameter.grad[:20], w.grad)


def test_no_token_is_a_loss_of_zero_that_can_be_differentiated() -> None:
    h, w = torch.zeros(0, 6, requires_grad=True), torch.randn(20, 6, requires_grad=True)
    none = torch.zeros(0)
    for name in ("sampled", "reverse"):
        plan = flat_plan(OBJECTIVES[name], none, none, none)
        loss = head_loss(h, w, none.long(), none.long(), OBJECTIVES[name], plan, lambda p: torch.zeros(len(p), 20))
        assert loss.item() == 0.0
        loss.backward()
        assert w.grad is not None and not w.grad.any()


def test_the_teacher_is_asked_for_the_positions_given() -> None:
    hidden, head, targets, teacher, weight = states(3)
    objective = METHODS["full-rkl"]
    order = torch.tensor([7, 2, 11, 0])
    plan = flat_plan(objective, weight[order], torch.zeros(4), torch.zeros(4))
    asked: list[int] = []

    def spy(positions: Tensor) -> Tensor:
        asked.extend(positions.tolist())
        return teacher[positions]

    h = hidden[order].clone().requires_grad_()
    loss = head_loss(h, head, targets[order], order, objective, plan, spy, 3)
    assert asked == order.tolist()
    student = (hidden[order] @ head.T).log_softmax(-1)
    expected = objective.loss(plan, Tokens(student[:, 0], student, teacher[order].log_softmax(-1)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_gradient_is_given_away_once() -> None:
    hidden, head, targets, teacher, weight = states(0)
    plan = flat_plan(METHODS["full-rkl"], weight, torch.zeros(13), torch.zeros(13))
    h, w = hidden.requires_grad_(), head.requires_grad_()
    loss = head_loss(h, w, targets, torch.arange(13), METHODS["full-rkl"], plan, lambda p: teacher[p])
    loss.backward(retain_graph=True)
    assert h.grad is not None
    first = h.grad.clone()
    with pytest.raises(RuntimeError, match="head_loss again"):
        loss.backward()
    assert torch.equal(h.grad, first)


@pytest.mark.parametrize("chunk", [3, None])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_teacher_that_writes_into_our_memory_says_the_same(name: str, chunk: int | None) -> None:
    hidden, head, targets, _, weight = states(7)
    other, other_head, _, _, _ = states(8)
    plan = flat_plan(OBJECTIVES[name], weight, torch.full((13,), -3.0), weight)
    results = []
    for teacher in (HeadLogits(other, other_head), lambda p: other[p] @ other_head.T):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = head_loss(h, w, targets, torch.arange(13), OBJECTIVES[name], plan, teacher, chunk)
        loss.backward()
        scores = score_head(hidden, head, targets, teacher, WANT, chunk)
        assert h.grad is not None and w.grad is not None
        results.append([loss.detach(), h.grad, w.grad, *scores.values()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_wider_teacher_head_is_not_written_into_our_memory() -> None:
    # Rows for ids that the student lacks are a teacher's own mistake; ours would be to cut them in silence.
    _, head, targets, _, _ = states(7)
    teacher = HeadLogits(torch.ones(13, 2), torch.ones(21, 2))
    with pytest.raises(RuntimeError):
        score_head(torch.ones(13, 6), head, targets, teacher, ["reverse_kl"])


def test_a_sampled_loss_never_asks_the_teacher() -> None:
    hidden, head, targets, _, weight = states(4)

    def refuse(positions: Tensor) -> Tensor:
        raise AssertionError("asked")

    plan = flat_plan(METHODS["opd"], weight, torch.zeros(13), torch.ones(13))
    for teacher in (refuse, None):
        head_loss(hidden.requires_grad_(), head, targets, torch.arange(13), METHODS["opd"], plan, teacher).backward()


def test_a_divergence_without_a_teacher_says_so() -> None:
    hidden, head, targets, _, weight = states(4)
    plan = flat_plan(METHODS["full-rkl"], weight, torch.zeros(13), torch.ones(13))
    with pytest.raises(ValueError, match="distributions"):
        head_loss(hidden.requires_grad_(), head, targets, torch.arange(13), METHODS["full-rkl"], plan, None)


@pytest.mark.parametrize("scale", [30.0, 3000.0])
def test_gradients_stay_finite_on_very_sure_models(scale: float) -> None:
    for name, objective in OBJECTIVES.items():
        world = random_world(5, vocab=20)
        world = replace(world, head=world.head * scale, teacher_head=world.teacher_head * scale)
        found = update(objective, world, chunk=4)
        assert bool(torch.isfinite(found.hidden).all()), name
        assert bool(torch.isfinite(found.head).all()), name
        if scale == 30.0:  # beyond it, logits of 10⁴ have a rounding error of 10⁻³ of their own
            assert_same(found, plain_update(objective, world), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tie", [False, True])
def test_through_a_whole_model(tie: bool) -> None:
    # Head and embeddings may be one parameter: its gradient is the sum of both uses.
    policy = tiny_policy(0, tie=tie)
    objective = Objective((Term(Divergence(1.0), Boost(METHODS["position"].terms[0].weight.of.of, 2.0)),))  # type: ignore[attr-defined]
    rollouts = pack(
        (), [[5, 6], [7, 8, 9]], [Sample((10, 11, 12), (0.0,) * 3, "stop"), Sample((13,), (0.0,), "stop")], [1, 2], 0
    )
    teacher = torch.randn(4, policy.vocab, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([0.5, 0.0, 1.0, 2.0])
    plan = flat_plan(objective, weight, torch.zeros(4), torch.zeros(4))
    results = []
    for fused in (True, False):
        policy.model.zero_grad()
        hidden = policy.hidden(rollouts)
        if fused:
            loss = head_loss(
                hidden, policy.head, rollouts.targets, torch.arange(4), objective, plan, lambda p: teacher[p], 3
            )
        else:
            logits = policy.model(
                input_ids=rollouts.input_ids,
                attention_mask=rollouts.attention,
                position_ids=(rollouts.attention.cumsum(1) - 1).clamp(min=0),
            ).logits[:, 2:-1][rollouts.mask][:, : policy.vocab]
            student = logits.log_softmax(-1)
            loss = objective.loss(plan, Tokens(student[:, 0], student, teacher.log_softmax(-1)))
        loss.backward()
        results.append({name: p.grad.clone() for name, p in policy.model.named_parameters()})
    assert results[0].keys() == results[1].keys()
    assert ("lm_head.weight" in results[0]) is not tie
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-4, atol=1e-6, msg=name)


# --- scores ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), chunk=st.sampled_from([1, 3, 13, 50, None]), vocab=st.sampled_from([3, 20]))
@settings(deadline=None, max_examples=30)
def test_scores_against_naive_loops(seed: int, chunk: int | None, vocab: int) -> None:
    hidden, head, targets, teacher, _ = states(seed, vocab=vocab)
    found = score_head(hidden, head, targets, lambda p: teacher[p], WANT, chunk)
    assert set(found) == set(WANT)
    for i, target in enumerate(targets.tolist()):
        s = (head.double() @ hidden[i].double()).softmax(0)
        q = teacher[i].double().softmax(0)
        expected = {
            "logprobs": s[target].log(),
            "teacher_logprobs": q[target].log(),
            "student_entropy": -(s * s.log()).sum(),
            "teacher_entropy": -(q * q.log()).sum(),
            "reverse_kl": (s * (s / q).log()).sum(),
            "forward_kl": (q * (q / s).log()).sum(),
            "teacher_rank": 1.0 + sum(1 for x in q.tolist() if x > float(q[s.argmax()])),
            "teacher_mass": q[s.argsort(descending=True)[:MASS_SUPPORT]].sum(),
        }
        for name, value in expected.items():
            assert float(found[name][i]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name


def test_only_what_is_wanted_is_returned_in_float32() -> None:
    hidden, head, targets, teacher, _ = states(0, dtype=torch.bfloat16)
    found = score_head(hidden.requires_grad_(), head, targets, lambda p: teacher[p], ["logprobs", "reverse_kl"])
    assert set(found) == {"logprobs", "reverse_kl"}
    assert all(x.dtype == torch.float32 and not x.requires_grad for x in found.values())


def test_without_a_teacher_only_the_student_is_scored() -> None:
    hidden, head, targets, _, _ = states(0)
    found = score_head(hidden, head, targets, None, ["logprobs", "student_entropy"])
    expected = (hidden @ head.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found["logprobs"], expected)
    # rather refused than answered with whatever was in memory
    with pytest.raises(ValueError, match="teacher_entropy"):
        score_head(hidden, head, targets, None, ["logprobs", "teacher_entropy"])


def test_an_unknown_score_is_refused() -> None:
    hidden, head, targets, teacher, _ = states(0)
    with pytest.raises(ValueError, match="perplexity"):
        score_head(hidden, head, targets, lambda p: teacher[p], ["logprobs", "perplexity"])


def test_target_logprobs() -> None:
    _, _, targets, teacher, _ = states(6)
    found = target_logprobs(lambda p: teacher[p], targets, 20)
    torch.testing.assert_close(found, teacher.log_softmax(-1).gather(1, targets[:, None])[:, 0])


def test_chunks_bound_memory() -> None:
    for vocab in (2, 320, 151_936, 10**9):
        assert chunk_size(vocab) >= 1
        assert chunk_size(vocab) * vocab <= max(vocab, CHUNK_ELEMENTS)


def test_projection_is_float32() -> None:
    assert (
        project(torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(4, 3, dtype=torch.bfloat16)).dtype == torch.float32
    )
