from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.worlds import tiny_policy, tiny_tokenizer
from trainer.data import Prompt
from trainer.errors import UserError
from trainer.head import score_head
from trainer.methods import METHODS
from trainer.policy import Policy, share_vocabulary
from trainer.rollout import Rollouts, Sample, pack
from trainer.teachers import Lent, LocalTeacher, RoutedTeacher, TeacherScores, check_needs, flatten

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12], [13, 14], [15, 16]]
ANSWERS = [(20, 21, 1), (22, 1), (23, 24, 25, 26), (), (27, 28)]


def batch(domains: Sequence[str]) -> Rollouts:
    return pack(
        [Prompt(f"p{i}", "", domain) for i, domain in enumerate(domains)],
        PROMPTS,
        [Sample(a, (0.0,) * len(a), "stop") for a in ANSWERS],
        list(range(5)),
        0,
    )


def plain_logits(policy: Policy, row: int) -> torch.Tensor:
    """[tokens of the answer, vocab] by one unpadded forward."""
    prompt, answer = PROMPTS[row], ANSWERS[row]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    return logits[len(prompt) - 1 : len(prompt) - 1 + len(answer), : policy.vocab]


def everything(scores: TeacherScores, count: int) -> torch.Tensor:
    assert scores.logits is not None
    return scores.logits(torch.arange(count))


# --- local ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 2, 64])
def test_a_local_teacher_gives_the_logits_of_plain_forwards(micro_batch: int) -> None:
    policy = tiny_policy(2, head_rows=72)
    found = LocalTeacher(policy, micro_batch).score(batch([""] * 5))
    expected = torch.cat([plain_logits(policy, row) for row in range(5)])
    torch.testing.assert_close(everything(found, 11), expected, rtol=1e-4, atol=1e-5)
    assert found.logits is not None
    picked = found.logits(torch.tensor([10, 0, 3]))
    torch.testing.assert_close(picked, expected[[10, 0, 3]], rtol=1e-4, atol=1e-5)
    assert not picked.requires_grad


def test_a_local_teacher_provides_everything_and_is_frozen() -> None:
    policy = tiny_policy(2)
    teacher = LocalTeacher(policy)
    assert teacher.provides == {"logprobs", "entropy", "logits", "topk_logprobs"}
    assert not any(p.requires_grad for p in policy.model.parameters())


# --- routed ---------------------------------------------------------------------------------------------------


def test_a_routed_teacher_equals_each_specialist_on_its_rows() -> None:
    math, code = tiny_policy(2), tiny_policy(4)
    domains = ["math", "code", "code", "math", "math"]
    routed = RoutedTeacher({"math": LocalTeacher(math, 2), "code": LocalTeacher(code, 2)})
    found = routed.score(batch(domains))
    owner = {"math": math, "code": code}
    expected = torch.cat([plain_logits(owner[domain], row) for row, domain in enumerate(domains)])
    torch.testing.assert_close(everything(found, 11), expected, rtol=1e-4, atol=1e-5)
    assert found.logits is not None
    for positions in ([10, 0, 3, 4, 7], [3, 4], [0], [9, 9, 2]):  # any order, one owner only, repeats
        found_here = found.logits(torch.tensor(positions))
        torch.testing.assert_close(found_here, expected[positions], rtol=1e-4, atol=1e-5)


def test_a_batch_of_one_domain_asks_one_teacher() -> None:
    class Refuses(LocalTeacher):
        def score(self, rollouts: Rollouts) -> TeacherScores:
            raise AssertionError("asked")

    policy = tiny_policy(2)
    routed = RoutedTeacher({"math": LocalTeacher(policy), "code": Refuses(tiny_policy(4))})
    expected = torch.cat([plain_logits(policy, row) for row in range(5)])
    torch.testing.assert_close(everything(routed.score(batch(["math"] * 5)), 11), expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_domain_is_refused_by_name() -> None:
    routed = RoutedTeacher({"math": LocalTeacher(tiny_policy(2)), "code": LocalTeacher(tiny_policy(4))})
    with pytest.raises(UserError, match=r"'p1' has domain 'law'.*math, code"):
        routed.score(batch(["math", "law", "code", "math", "math"]))


class Remote:
    """A teacher that gives log-probs only."""

    provides = frozenset({"logprobs"})

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, rollouts: Rollouts) -> TeacherScores:
        return TeacherScores(logprobs=torch.full((int(rollouts.mask.sum()),), self.value))


def test_a_routed_teacher_of_members_that_give_log_probs_only() -> None:
    routed = RoutedTeacher({"math": Remote(-1.0), "code": Remote(-2.0)})
    assert routed.provides == {"logprobs"}
    found = routed.score(batch(["math", "code", "code", "math", "math"]))
    assert found.logits is None
    assert found.logprobs is not None
    # answers of 3, 2, 4, 0, 2 tokens
    assert found.logprobs.tolist() == [-1.0] * 3 + [-2.0] * 6 + [-1.0] * 2


def test_beside_a_remote_member_the_others_logits_serve_for_log_probs() -> None:
    math = tiny_policy(2)
    routed = RoutedTeacher({"math": LocalTeacher(math, 2), "code": Remote(-2.0)})
    assert routed.provides == {"logprobs"}
    domains = ["math", "code", "code", "math", "math"]
    found = routed.score(batch(domains))
    assert found.logits is None and found.entropy is None and found.topk is None
    assert found.logprobs is not None
    expected = []
    for row, domain in enumerate(domains):
        chosen = plain_logits(math, row).log_softmax(-1)[range(len(ANSWERS[row])), list(ANSWERS[row])]
        expected.append(chosen if domain == "math" else torch.full((len(ANSWERS[row]),), -2.0))
    torch.testing.assert_close(found.logprobs, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_entropies_and_likely_ids_of_members_that_have_them_in_different_ways() -> None:
    math, code = tiny_policy(2), tiny_policy(4)

    class Known(Remote):
        """Gives what the local teacher of `code` would, without its logits."""

        provides = frozenset({"logprobs", "entropy", "topk_logprobs"})

        def score(self, rollouts: Rollouts) -> TeacherScores:
            view = LocalTeacher(code).score(rollouts)
            logprobs, entropy = flatten(view, rollouts.targets)
            return TeacherScores(logprobs=logprobs, entropy=entropy, topk=view.logits)

    domains = ["math", "code", "code", "math", "math"]
    mixed = RoutedTeacher({"math": LocalTeacher(math, 2), "code": Known(0.0)})
    assert mixed.provides == {"logprobs", "entropy", "topk_logprobs"}
    found = mixed.score(batch(domains))
    local = RoutedTeacher({"math": LocalTeacher(math, 2), "code": LocalTeacher(code)}).score(batch(domains))
    logprobs, entropy = flatten(local, batch(domains).targets)
    assert found.logits is None and found.logprobs is not None and found.entropy is not None and found.topk is not None
    assert entropy is not None
    torch.testing.assert_close(found.logprobs, logprobs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-5, atol=1e-6)
    for positions in ([10, 0, 3, 4, 7], [3, 4], [0], [9, 9, 2]):
        expected = everything(local, 11)[positions]
        torch.testing.assert_close(found.topk(torch.tensor(positions)), expected, rtol=1e-5, atol=1e-6)


def test_a_routed_teacher_knows_its_policies() -> None:
    routed = RoutedTeacher({"math": LocalTeacher(tiny_policy(2)), "code": LocalTeacher(tiny_policy(4))})
    assert routed.provides == {"logprobs", "entropy", "logits", "topk_logprobs"}
    assert [p.name for p in routed.policies] == ["tiny-2", "tiny-4"]


# --- what a method needs --------------------------------------------------------------------------------------


def test_a_lack_is_told_with_the_teacher_that_has_it() -> None:
    local = LocalTeacher(tiny_policy(2))
    for method in METHODS:
        check_needs(METHODS[method], local, method)
    check_needs(METHODS["opd"], Remote(-1.0), "opd")
    with pytest.raises(
        UserError, match=r"^method 'full-rkl' needs logits from its teacher, which provides only logprobs$"
    ):
        check_needs(METHODS["full-rkl"], Remote(-1.0), "full-rkl")
    routed = RoutedTeacher({"math": local, "code": Remote(-1.0)})
    check_needs(METHODS["opd"], routed, "opd")
    with pytest.raises(
        UserError, match=r"^method 'fire' needs entropy from its teacher for 'code', which provides only logprobs$"
    ):
        check_needs(METHODS["fire"], routed, "fire")


@dataclass(frozen=True)
class OnTheTeachersSupport:
    """What an objective says of itself whose loss asks for the teacher's 16 most likely ids."""

    needs: frozenset[str] = frozenset({"logprobs", "topk_logprobs"})
    top_k: int = 16


def test_too_few_likely_ids_are_told() -> None:
    class Top(Remote):
        provides = frozenset({"logprobs", "topk_logprobs"})

    few, enough = Top(-1.0), Top(-1.0)
    few.top_k, enough.top_k = 8, 16  # type: ignore[attr-defined]
    asked: Any = OnTheTeachersSupport()
    for fine in (enough, LocalTeacher(tiny_policy(2)), RoutedTeacher({"math": enough, "code": enough})):
        check_needs(asked, fine, "lsm")
    with pytest.raises(UserError, match=r"'lsm' needs the 16 most likely ids from its teacher for 'b', which gives 8"):
        check_needs(asked, RoutedTeacher({"a": enough, "b": few}), "lsm")


# --- offloading -----------------------------------------------------------------------------------------------


def test_on_the_cpu_offloading_moves_nothing() -> None:
    policy = tiny_policy(2)
    before = {name: p.data_ptr() for name, p in policy.model.named_parameters()}
    teacher = LocalTeacher(policy, 2, offload=True)
    teacher.score(batch([""] * 5))
    assert teacher.lent.copies == 0
    assert {name: p.data_ptr() for name, p in policy.model.named_parameters()} == before


@pytest.mark.parametrize("tie", [False, True])
def test_weights_are_lent_for_the_time_of_a_score(tie: bool) -> None:
    policy, calls = tiny_policy(2, tie=tie), 2
    expected = everything(LocalTeacher(policy, 2).score(batch([""] * 5)), 11)
    tensors = len([*policy.model.parameters(), *policy.model.buffers()])
    home = {name: p.data_ptr() for name, p in policy.model.named_parameters()}
    there: list[int] = []  # where the copies on "the device" are

    def to(kept: torch.Tensor, device: torch.device) -> torch.Tensor:
        there.append((copy := kept.clone()).data_ptr())
        return copy

    teacher = LocalTeacher(policy, 2)
    teacher.lent = Lent(policy.model, torch.device("cpu"), to)
    for call in range(calls):
        found = teacher.score(batch([""] * 5))
        assert teacher.lent.copies == len(there) == tensors * (call + 1)
        # home again, to the very memory: nothing is copied back
        assert {name: p.data_ptr() for name, p in policy.model.named_parameters()} == home
    state = policy.model.state_dict()
    with torch.no_grad():
        for value in state.values():
            value.fill_(float("nan"))  # what lies at home plays no part any more
    assert torch.equal(everything(found, 11), expected)


def test_weights_come_home_from_a_score_that_fails() -> None:
    policy = tiny_policy(2)
    home = policy.model.lm_head.weight.data_ptr()
    teacher = LocalTeacher(policy, 2)
    teacher.lent = Lent(policy.model, torch.device("cpu"), lambda kept, device: kept.clone())
    broken = batch([""] * 5)
    broken.input_ids.fill_(10**6)
    with pytest.raises(IndexError):
        teacher.score(broken)
    assert policy.model.lm_head.weight.data_ptr() == home


def test_flat_scores_are_to_the_bit_those_that_planning_sees() -> None:
    student, teacher = tiny_policy(1), tiny_policy(2)
    rollouts = batch([""] * 5)
    view = LocalTeacher(teacher, 2).score(rollouts)
    with torch.no_grad():
        hidden = student.hidden(rollouts)
    want = {"teacher_logprobs", "teacher_entropy"}
    planned = score_head(hidden, student.head, rollouts.targets, view.logits, want)
    logprobs, entropy = flatten(view, rollouts.targets)
    assert entropy is not None
    assert torch.equal(logprobs, planned["teacher_logprobs"]) and torch.equal(entropy, planned["teacher_entropy"])


# --- vocabularies ---------------------------------------------------------------------------------------------


def test_head_sizes_may_differ_where_the_tokenizer_is_the_same() -> None:
    student, teacher = tiny_policy(1, head_rows=64), tiny_policy(2, head_rows=72)
    share_vocabulary(student, teacher)
    assert student.vocab == teacher.vocab == 60  # the tokens there are
    assert student.head.shape == teacher.head.shape


def test_a_head_smaller_than_the_tokenizer_limits_both() -> None:
    big = tiny_tokenizer("w", 120)
    student, teacher = tiny_policy(1, 119, tokenizer=big), tiny_policy(2, 128, tokenizer=big)
    share_vocabulary(student, teacher)
    assert student.vocab == teacher.vocab == 119


def test_another_tokenizer_is_refused_with_the_first_difference() -> None:
    student, teacher = tiny_policy(1, name="small"), tiny_policy(2, tokenizer=tiny_tokenizer("v"), name="big")
    with pytest.raises(UserError, match=r"'small' and teacher 'big' have different vocabularies: id 5 is 'w5'.*'v5'"):
        share_vocabulary(student, teacher)


def test_a_tokenizer_of_half_the_size_is_refused() -> None:
    student = tiny_policy(1)
    teacher = tiny_policy(2, head_rows=128, tokenizer=tiny_tokenizer("w", 120))
    with pytest.raises(UserError, match="different vocabularies"):
        share_vocabulary(student, teacher)


def test_a_few_extra_tokens_at_the_end_are_cut_off() -> None:
    student = tiny_policy(1, 128, tokenizer=tiny_tokenizer("w", 120))
    teacher = tiny_policy(2, 128, tokenizer=tiny_tokenizer("w", 121))
    share_vocabulary(student, teacher)
    assert student.vocab == teacher.vocab == 120


def test_models_that_end_differently_are_refused() -> None:
    student, teacher = tiny_policy(1), tiny_policy(2)
    teacher.eos_ids = frozenset({9})
    with pytest.raises(UserError, match="no end-of-sequence id"):
        share_vocabulary(student, teacher)
