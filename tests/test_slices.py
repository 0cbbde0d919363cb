"""Minerva's golds by how they are written, and slices that a user's file brings along."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from harness.answers import grade_many
from harness.benchmarks import BENCHMARKS, BenchProblem, load_benchmark
from harness.benchmarks.slices import MINERVA, notation_of, slices
from tests.conftest import shared


@pytest.mark.parametrize(
    ("gold", "name"),
    [
        ("4.5e33", "e-notation"),
        ("1e-8", "e-notation"),
        ("-2.0E5", "e-notation"),
        ("25", "other numeric"),
        ("+2", "other numeric"),
        (".006", "other numeric"),
        ("-12.5", "other numeric"),
        ("-1./3", "symbolic"),
        ("e^{t} / 3", "symbolic"),
        ("2.2 \\tau", "symbolic"),
        ("np.arcsin(10/13)", "symbolic"),
        ("", "symbolic"),
    ],
)
def test_how_a_gold_is_written(gold, name):
    assert notation_of(gold) == name


def test_minerva_has_58_130_and_84():
    problems = load_benchmark("minerva", shared("benchmarks")).problems
    found = slices("minerva", problems)
    assert Counter(found.values()) == dict(zip(MINERVA, (58, 130, 84), strict=True))
    # independently of our reading of numbers: what Python's float reads, with an e in it or without
    plain = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
    for p in problems:
        match = plain.fullmatch(p.answer.strip())
        wanted = "symbolic" if match is None else "e-notation" if match[2] else "other numeric"
        assert found[p.id] == wanted, p.answer


def test_the_released_checker_fails_in_one_slice_only():
    """Why the slice exists: a right LaTeX answer to each e-notation gold is wrong for the released checker."""
    problems = load_benchmark("minerva", shared("benchmarks")).problems
    found = slices("minerva", problems)
    golds = [p.answer for p in problems if found[p.id] == "e-notation"]
    answers = [f"\\boxed{{{mantissa} \\times 10^{{{power}}}}}" for mantissa, power in (g.split("e") for g in golds)]
    graded = grade_many([(text, gold, "minerva") for text, gold in zip(answers, golds, strict=True)])
    assert [both.strict.correct for both in graded] == [True] * 58
    assert [both.paper.correct for both in graded] == [False] * 58


def test_other_benchmarks_have_no_slices_of_their_own():
    assert slices("toy-aime", load_benchmark("toy-aime").problems) == {}
    sliced = {"minerva", "toy-2048"}
    assert not any(slices(name, [BenchProblem("a", "p", "1e5")]) for name in BENCHMARKS if name not in sliced)


def test_held_out_problems_tell_where_the_flawed_teacher_was_taught_wrong():
    by_hand = {"Compute 4+3*7": "with ×3 or ×7", "Compute 3*4+7": "without", "Compute 1*3": "with ×3 or ×7"}
    problems = [BenchProblem(text, text, "1") for text in by_hand]
    assert slices("toy-2048", problems) == by_hand
    counts = Counter(slices("toy-2048", load_benchmark("toy-2048").problems).values())
    # four operations on average, one in three a product, two of ten operands: 1 - (1 - 1/15)^4 is 0.24
    assert sum(counts.values()) == 2048 and 0.2 < counts["with ×3 or ×7"] / 2048 < 0.28


def test_a_problems_own_slice_comes_first():
    problems = [BenchProblem("a", "p", "1e5", slice="mine"), BenchProblem("b", "p", "1e5")]
    assert slices("my-set", problems) == {"a": "mine"}
    assert slices("minerva", problems) == {"a": "mine", "b": "e-notation"}
