from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worlds import random_scores, reorder, shifted
from trainer import quantities as q
from trainer.errors import UserError
from trainer.scores import Block, Scores


def scores_of(mask: list[list[float]], **fields: Tensor) -> Scores:
    m = torch.tensor(mask)
    return Scores(
        m, fields.pop("logprobs", torch.zeros(m.shape)), fields.pop("teacher", torch.zeros(m.shape)), **fields
    )


def entropies(rows: list[list[float]], mask: list[list[float]], **fields: Tensor) -> Scores:
    return scores_of(mask, student_entropy=torch.tensor(rows), **fields)


def close(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


# --- plain readings -------------------------------------------------------------------------------------------


def test_plain_quantities_read_their_field() -> None:
    scores = random_scores(1)
    pairs = {
        q.StudentEntropy(): scores.student_entropy,
        q.TeacherEntropy(): scores.teacher_entropy,
        q.TeacherLogprob(): scores.teacher_logprobs,
        q.StudentLogprob(): scores.logprobs,
        q.ReverseKL(): scores.reverse_kl,
        q.ForwardKL(): scores.forward_kl,
        q.TeacherRank(): scores.teacher_rank,
        q.TeacherMass(): scores.teacher_mass,
    }
    for quantity, field in pairs.items():
        assert field is not None
        assert torch.equal(quantity(scores), field)


def test_log_ratio_is_teacher_minus_student() -> None:
    # log Q − log S = −1 − (−3) = 2: positive where the teacher likes the token better
    scores = scores_of([[1.0]], logprobs=torch.tensor([[-3.0]]), teacher=torch.tensor([[-1.0]]))
    close(q.LogRatio()(scores), [[2.0]])


@pytest.mark.parametrize(
    ("quantity", "field"),
    [
        (q.StudentEntropy(), "student_entropy"),
        (q.TeacherEntropy(), "teacher_entropy"),
        (q.ReverseKL(), "reverse_kl"),
        (q.ForwardKL(), "forward_kl"),
        (q.TeacherRank(), "teacher_rank"),
        (q.TeacherMass(), "teacher_mass"),
    ],
)
def test_a_quantity_declares_and_misses_the_field_it_reads(quantity: q.Quantity, field: str) -> None:
    assert type(quantity).reads == {field}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"'{field}'"):
        quantity(scores_of([[1.0]]))


# --- combinators, by hand -------------------------------------------------------------------------------------


def test_unit_max_by_hand() -> None:
    scores = entropies([[1, 2, 9], [4, 9, 9], [9, 9, 9]], [[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    entropy = q.StudentEntropy()
    # batch maximum 4 (the 9s are outside of the mask): 1/4, 2/4, 4/4
    close(q.UnitMax(entropy)(scores), [[0.25, 0.5, 0], [1, 0, 0], [0, 0, 0]])
    # trajectory maxima 2 and 4
    close(q.UnitMax(entropy, "trajectory")(scores), [[0.5, 1, 0], [1, 0, 0], [0, 0, 0]])
    close(q.UnitMax(entropy, Block(1))(scores), [[0.5, 1, 0], [1, 0, 0], [0, 0, 0]])
    # rows 0 and 1 are one block of two
    close(q.UnitMax(entropy, Block(2))(scores), [[0.25, 0.5, 0], [1, 0, 0], [0, 0, 0]])


def test_unit_max_guards_a_maximum_of_zero() -> None:
    scores = entropies([[0.0, 0.0]], [[1, 1]])
    close(q.UnitMax(q.StudentEntropy())(scores), [[0, 0]])  # 0 / max(0, 1e-6) = 0
    tiny = entropies([[1e-7, 5e-7]], [[1, 1]])
    close(q.UnitMax(q.StudentEntropy())(tiny), [[0.1, 0.5]])  # 1e-7 / 1e-6, 5e-7 / 1e-6
    close(q.UnitMax(q.StudentEntropy(), floor=1e-3)(tiny), [[1e-4, 5e-4]])


def test_unit_max_clips_below_zero() -> None:
    # of log Q = −1 and 2 (a made-up quantity that may be negative): max 2; −1/2 is clipped to 0
    scores = scores_of([[1, 1]], teacher=torch.tensor([[-1.0, 2.0]]))
    close(q.UnitMax(q.TeacherLogprob())(scores), [[0, 1]])


def test_unit_min_max_by_hand() -> None:
    scores = entropies([[1, 2, 9], [5, 9, 9]], [[1, 1, 0], [1, 0, 0]], domain=torch.tensor([1, 0]))
    # minimum 1, maximum 5: (2 − 1)/4 = 0.25
    found = q.UnitMinMax(q.StudentEntropy())(scores)
    close(torch.where(scores.mask, found, 0.0), [[0, 0.25, 0], [1, 0, 0]])
    # by domain: {1, 2} → 0, 1; {5} has no spread → 0
    found = q.UnitMinMax(q.StudentEntropy(), "domain")(scores)
    close(torch.where(scores.mask, found, 0.0), [[0, 1, 0], [0, 0, 0]])


def test_unit_min_max_cuts_the_top_before_it_scales() -> None:
    # values 0, 1, 2, 3, 100; the 75th percentile is the value at position 0.75·4 = 3, so 3; 100 becomes 3
    scores = entropies([[0, 1, 2, 3, 100]], [[1, 1, 1, 1, 1]])
    close(q.UnitMinMax(q.StudentEntropy(), cut=75.0)(scores), [[0, 1 / 3, 2 / 3, 1, 1]])
    # the 87.5th lies half-way between 3 and 100: 51.5
    close(q.UnitMinMax(q.StudentEntropy(), cut=87.5)(scores), [[0, 1 / 51.5, 2 / 51.5, 3 / 51.5, 1]])


def test_unit_min_max_leaves_the_scores_alone() -> None:
    scores = entropies([[0, 1, 2, 3, 100]], [[1, 1, 1, 1, 1]])
    q.UnitMinMax(q.StudentEntropy(), cut=50.0)(scores)
    assert scores.read("student_entropy").tolist() == [[0, 1, 2, 3, 100]]


def test_unit_robust_by_hand() -> None:
    # values 0..4: the 25th and 75th percentiles are 1 and 3, so x ↦ (x − 1)/2 clipped
    scores = entropies([[0, 1, 2, 3, 4]], [[1, 1, 1, 1, 1]])
    close(q.UnitRobust(q.StudentEntropy(), low=25.0, high=75.0)(scores), [[0, 0, 0.5, 1, 1]])
    flat = entropies([[2, 2, 7]], [[1, 1, 0]])
    close(q.UnitRobust(q.StudentEntropy())(flat), [[0, 0, 0]])


def test_position_runs_from_first_to_last_token() -> None:
    # four tokens: 0, 1/3, 2/3, 1; a single token is at 0; padding columns before the tokens do not count
    scores = scores_of([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1]])
    found = torch.where(scores.mask, q.Position()(scores), 0.0)
    close(found, [[0, 1 / 3, 2 / 3, 1], [0, 0, 0, 0], [0, 0, 0, 1]])


def test_arithmetic_of_combinators() -> None:
    scores = entropies([[0.25, 1.0]], [[1, 1]], teacher_entropy=torch.tensor([[0.5, 1.0]]))
    a, b = q.StudentEntropy(), q.TeacherEntropy()
    close(q.Complement(a)(scores), [[0.75, 0]])
    close(q.SoftOr(a, b)(scores), [[0.25 + 0.5 - 0.125, 1 + 1 - 1]])
    close(q.Product(a, b)(scores), [[0.125, 1]])
    close(q.Negative(a)(scores), [[-0.25, -1]])


# --- properties -----------------------------------------------------------------------------------------------

UNIT = [
    q.UnitMax(q.TeacherEntropy()),
    q.UnitMax(q.TeacherEntropy(), "trajectory"),
    q.UnitMinMax(q.ReverseKL()),
    q.UnitMinMax(q.StudentEntropy(), "domain", cut=80.0),
    q.UnitRobust(q.ReverseKL(), "group"),
    q.Complement(q.UnitMax(q.TeacherEntropy())),
    q.SoftOr(q.UnitMinMax(q.StudentEntropy(), cut=98.0), q.UnitMinMax(q.ReverseKL())),
    q.Product(q.UnitMax(q.TeacherEntropy()), q.Position()),
    q.Position(),
]


@pytest.mark.parametrize("quantity", UNIT, ids=repr)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 6), tokens=st.integers(1, 6))
@settings(deadline=None, max_examples=15)
def test_unit_quantities_stay_in_the_unit_interval_and_ignore_layout(
    quantity: q.Quantity, seed: int, rows: int, tokens: int
) -> None:
    scores = random_scores(seed, rows, tokens)
    found = quantity(scores)
    valid = found[scores.mask]
    assert found.shape == scores.mask.shape
    assert bool(((valid >= 0) & (valid <= 1)).all())
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    moved = quantity(reorder(scores, order))
    torch.testing.assert_close(moved[scores.mask[order]], found[order][scores.mask[order]])
    wider = shifted(scores, 2, 3)
    torch.testing.assert_close(quantity(wider)[wider.mask], valid)


# --- the quantile ---------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40)
    | st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=1, max_size=40),
    st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.4, 0.5, 0.98, 1.0]),
)
@settings(deadline=None, max_examples=300)
def test_quantile_is_torch_quantile_to_the_bit(values: list[float], fraction: float) -> None:
    tensor = torch.tensor(values)
    assert float(q.quantile(tensor, fraction)) == float(torch.quantile(tensor, fraction))


def test_quantile_by_hand() -> None:
    values = torch.tensor([4.0, 1.0, 3.0, 2.0])
    # sorted 1 2 3 4; position 0.2·3 = 0.6: 1 + 0.6·1
    assert float(q.quantile(values, 0.2)) == pytest.approx(1.6)
    assert float(q.quantile(values, 0.0)) == 1.0
    assert float(q.quantile(values, 1.0)) == 4.0
    assert float(q.quantile(torch.tensor([7.0]), 0.2)) == 7.0


def test_quantile_of_more_values_than_torch_takes() -> None:
    n = 2**24 + 2
    with pytest.raises(RuntimeError):
        torch.quantile(torch.zeros(n), 0.5)
    values = torch.zeros(n)
    values[: n // 4] = -1.0
    assert float(q.quantile(values, 0.2)) == -1.0


def test_percentiles_outside_of_the_hundred_are_refused() -> None:
    for cut in (-1.0, 101.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 100"):
            q.UnitMinMax(q.StudentEntropy(), cut=cut)
        with pytest.raises(UserError, match="between 0 and 100"):
            q.UnitRobust(q.StudentEntropy(), high=cut)
