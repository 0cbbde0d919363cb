"""The grading measurement: its responses, its restatement of the released loop, and what it says where sides disagree."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.answers.extract import last_box, released_box
from harness.bench import grading, grading_side
from harness.bench.__main__ import main
from harness.bench.responses import WRONG, dressed, responses, wrong_answers
from tests.conftest import shared

PROBLEMS = [("aime24", "204"), ("aime24", "25"), ("math500", r"\frac{1}{2}"), ("minerva", "4.5e33"), ("minerva", "m")]


# --- responses ----------------------------------------------------------------------------------------------------


def test_responses_follow_from_golds_and_seed():
    assert responses(PROBLEMS, 3) == responses(PROBLEMS, 3)
    assert responses(PROBLEMS, 3) != responses(PROBLEMS, 3, seed=1)


def test_more_samples_keep_the_first_ones():
    few, many = responses(PROBLEMS, 3), responses(PROBLEMS, 8)
    assert [few[index] for index in range(len(few))] == [
        many[8 * problem + sample] for problem in range(len(PROBLEMS)) for sample in range(3)
    ]


def test_responses_look_like_those_of_a_model():
    """Lengths, missing and unfinished boxes in about the shares they were drawn with, and answers that repeat."""
    items = responses(PROBLEMS * 40, 10)
    notes = Counter(last_box(response).note for response, _, _ in items)
    assert len(items) == 2000
    assert all(900 < len(response) < 3400 for response, _, _ in items)
    assert 40 < notes["none"] < 130 and 40 < notes["unclosed"] < 130 and 30 < notes["multiple"] < 100  # 4, 4 and 3 %
    answers = [released_box(response) for response, gold, _ in items if gold == "204"]
    assert len(set(answers)) < len(answers) / 4
    right = sum(answer == "204" for answer in answers)
    assert 0.1 * len(answers) < right < 0.9 * len(answers)


@pytest.mark.parametrize("gold", ["204", "m", r"\text{east}", "(3,4]", "-1./3", ""])
def test_wrong_answers_are_wrong_and_distinct(gold):
    import random

    made = wrong_answers(gold, ["17", "x+1"], random.Random(3))
    assert len(made) == len(set(made)) == WRONG and gold not in made


def test_e_notation_is_dressed_as_models_write_it():
    forms = {re.sub(r"\s", "", dressed("4.5e33", "minerva", style)) for style in range(200)}
    assert {r"4.5\times10^{33}", r"4.5\cdot10^{33}"} <= forms
    assert not any("e33" in form for form in forms)


# --- the released loop ----------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([r"\boxed", r"\fbox", "{", "}", r"\{", " ", "5", "x" * 200]), max_size=14).map("".join))
def test_two_statements_of_the_released_extraction(response):
    """The peer's loop and the paper checker each state the released rule, and cut at 300 characters."""
    found = grading_side.boxed(response.strip())
    assert (found[: grading_side.CUT] if found is not None else None) == released_box(response)


def test_the_loop_says_what_the_released_script_says():
    items = [
        (r"\boxed{4.5 \times 10^{33}}", "4.5e33", ""),  # its well-known defect
        (r"\boxed{\frac{17}{2}}", "8.5", ""),
        (r"\fbox{5}", "5", ""),
        (r"\boxed{45\%}", "45", ""),
        ("5", "5", ""),
        (r"\boxed{\frac{1}{0}}", "5", ""),
    ]
    assert grading_side.peer(items) == [False, True, False, True, False, False]


# --- the measurement ------------------------------------------------------------------------------------------------


def test_both_sides_agree_on_real_golds(tmp_path, capsys):
    folder = str(shared("benchmarks"))
    arguments = ["grading", "--problems", "hmmt25_feb", "amc23", "--samples", "3", "--data-dir", folder]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "grading.json").read_text())
    assert report["work"] | {"accepted": 0} == {
        "problems": 70,
        "samples": 3,
        "responses": 210,
        "repeats": 1,
        "accepted": 0,
        "per_bench": {"hmmt25_feb": 90, "amc23": 120},
    }
    assert 20 < report["work"]["accepted"] < 190
    assert (report["differing_samples"], report["differing"]) == (0, [])
    assert report["time_ratio"] == pytest.approx(report["ours"]["seconds"] / report["peer"]["seconds"], abs=1e-3)
    assert report["met"] == (report["time_ratio"] <= grading.GOAL)
    assert report["machine"]["packages"]["math-verify"]
    shown = capsys.readouterr().out
    assert "all verdicts equal" in shown and "time ratio" in shown


def sides(ours: list[bool], peer: list[bool]) -> dict[str, list[dict[str, object]]]:
    measured = {"cpu_seconds": 1.0, "memory_mib": 100.0}
    return {
        "ours": [{"verdicts": ours, "seconds": 2.0, **measured}, {"verdicts": ours, "seconds": 4.0, **measured}],
        "peer": [{"verdicts": peer, "seconds": 90.0, **measured}, {"verdicts": peer, "seconds": 110.0, **measured}],
    }


def test_medians_and_ratio():
    """Medians 3 and 100 seconds: a ratio of 0.03, 33.3 times as fast, and a goal of 0.05 that is met."""
    report = grading.summary([("a", "1", "aime24")] * 4, 2, sides([True] * 4, [True] * 4))
    assert (report["ours"]["seconds"], report["peer"]["seconds"]) == (3.0, 100.0)
    assert (report["time_ratio"], report["times_as_fast"], report["met"]) == (0.03, 33.3, True)
    assert (report["cpu_ratio"], report["memory_ratio"]) == (1.0, 1.0)


def test_a_difference_fails_the_measurement_and_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grading, "golds", lambda names, data_dir: [("aime24", "204"), ("aime24", "25")])
    monkeypatch.setattr(grading, "measure", lambda items, repeats: sides([True, False], [True, True]))
    assert main(["grading", "--samples", "1", "--out", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "grading.json").read_text())
    assert (report["differing_samples"], report["met"]) == (1, False)
    assert report["differing"][0]["gold"] == "25" and report["differing"][0]["peer"] is True
    assert "1 DIFFER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--samples", "0"], "option '--samples' must be at least 1, got 0"),
        (["--repeats", "-1"], "option '--repeats' must be at least 1, got -1"),
        (["--problems", "nosuch"], "unknown benchmark 'nosuch'"),
        (["--problems", "aime24", "--data-dir", "/nonexistent"], "does not exist"),
    ],
)
def test_bad_options_are_one_sentence(arguments, sentence, tmp_path, capsys):
    assert main(["grading", *arguments, "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
