"""Reasoning traces: what a model thinks is no answer, least of all a thought that was cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.answers import CHECKER_VERSIONS, grade, grade_many
from harness.answers.extract import answer_box, last_box, released_box

FIVE, SIX = r"\boxed{5}", r"\boxed{6}"


@pytest.mark.parametrize(
    ("response", "text", "note"),
    [
        (f"<think>so {FIVE}</think>The answer is {SIX}.", "6", "one"),
        (f"<think>so {FIVE}</think>The answer is six.", None, "none"),
        (f"<think>so {FIVE}", None, "thinking"),
        (f"<think>so {FIVE} and then", None, "thinking"),
        ("<think>", None, "thinking"),
        ("<think></think>", None, "none"),
        (f"<think></think>{FIVE}", "5", "one"),
        # a template that opens the thought in the prompt leaves only its end in the response
        (f"so {FIVE}</think>The answer is {SIX}.", "6", "one"),
        (f"so {FIVE}</think>", None, "none"),
        # several thoughts: the last end counts, and none may be left open
        (f"<think>a</think>{FIVE}<think>b</think>{SIX}", "6", "one"),
        (f"<think>a</think>{FIVE}<think>no, {SIX}", None, "thinking"),
        (f"<think>a</think>{FIVE}<think>no, {SIX}</think>", None, "none"),
        (f"<think>a <think> b</think>{FIVE}", "5", "one"),
        # after the thought everything is as without one
        (rf"<think>{FIVE}</think>\boxed{{6", None, "unclosed"),
        (rf"<think>{FIVE}</think>\boxed{{}}", None, "empty"),
        (f"<think>x</think>{FIVE} or rather {SIX}", "6", "multiple"),
        (f"<think>{FIVE}</think>{SIX}", "6", "one"),  # the box of the thought is not one of several
        # a box must not reach across the end of a thought
        (r"<think>\boxed{1</think>2}", None, "none"),
        # and without a thought nothing changes
        (FIVE, "5", "one"),
        ("five", None, "none"),
        (rf"a < b think> {FIVE}", "5", "one"),
        (f"<thinking>{FIVE}", "5", "one"),
    ],
)
def test_what_is_read_around_a_thought(response, text, note):
    found = answer_box(response)
    assert (found.text, found.note) == (text, note)


def test_an_unfinished_thought_is_a_reason_of_its_own():
    verdict = grade(f"<think>it must be {FIVE}", "5")
    assert (verdict.correct, verdict.extracted, verdict.reason, verdict.parsed) == (
        False,
        None,
        "unfinished thought",
        None,
    )


def test_the_released_checker_reads_thoughts_like_anything_else():
    """Last box anywhere, as in the released script; only the strict one draws the line."""
    responses = [f"<think>{FIVE}", f"<think>{FIVE}</think>The answer is five.", f"<think>{SIX}</think>{FIVE}"]
    graded = grade_many([(response, "5", "aime24") for response in responses])
    assert [g.paper.correct for g in graded] == [True, True, True]
    assert [g.strict.correct for g in graded] == [False, False, True]
    assert [g.strict.reason for g in graded] == ["unfinished thought", "no box", "same text"]


def test_the_version_says_that_verdicts_changed():
    assert CHECKER_VERSIONS["strict"].startswith("strict-2/")
    assert CHECKER_VERSIONS["paper"].startswith("paper-1/")


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", FIVE, SIX, r"\boxed{", "}", " text ", "<think", "/think>", "\n"]),
    max_size=12,
).map("".join)


@given(PIECES)
def test_the_rule_in_other_words(response):
    """Cut at every end of a thought; the last piece must not open one, and is all that is read."""
    last = response.split("</think>")[-1]
    found = answer_box(response)
    assert found == last_box(last) if "<think>" not in last else found.note == "thinking"


@given(PIECES)
def test_a_thought_before_the_answer_changes_no_verdict(answer):
    if "think>" not in answer:
        assert answer_box(f"<think>{FIVE} {SIX}</think>{answer}") == last_box(answer)
        assert released_box(f"<think>x</think>{answer}") == released_box(answer)


def test_a_long_thought_costs_nothing():
    """200,000 boxes of thinking: only what follows is looked at."""
    assert answer_box("<think>" + FIVE * 200_000 + "</think>" + SIX).text == "6"
    assert answer_box("<think>" + FIVE * 200_000).note == "thinking"
