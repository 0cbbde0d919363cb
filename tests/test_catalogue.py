"""The method table as people and programs read it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from harness import catalogue, cli
from harness.catalogue import as_data, blocks, cells, columns, explain, expression, listing, matching, plain, setting
from harness.errors import UserError
from trainer.filters import DropBottom
from trainer.losses import Divergence, PolicyGradient, TopK
from trainer.methods import METHODS, TABLE, Method, fire_weight
from trainer.objective import Block, Objective, SumOver, Term
from trainer.quantities import Complement, LogRatio, Negative, Position, Product, ReverseKL, StudentEntropy, TeacherMass
from trainer.rewards import Plus, Scaled, VerifierAdvantage
from trainer.settings import edit, paths
from trainer.weights import Boost, MeanOne, RandomMask, Segment, Times, TopFraction

LINES = {line.name: line for line in TABLE}


# --- expressions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, text",
    [
        (LogRatio(), "LogRatio"),
        (MeanOne(fire_weight()), "MeanOne(Boost(1 − UnitMax(TeacherEntropy, batch), gain 1) · Boost(UnitMax(StudentEntropy, batch), gain 1), trajectory)"),
        (DropBottom(0.3, scope=Block(2)), "DropBottom(fraction 0.3, TrajectoryMean(TeacherLogprob), block:2)"),
        (Divergence(0.0, TopK(16)), "Divergence(beta 0, TopK(k 16, teacher, bucket))"),
        (Divergence(1.0), "Divergence(beta 1)"),
        (PolicyGradient(clip=None), "PolicyGradient(LogRatio, no clip)"),
        (PolicyGradient(clip_high=0.28), "PolicyGradient(LogRatio, clip 0.2, clip_high 0.28)"),
        (RandomMask(0.5, seed=3), "RandomMask(fraction 0.5, seed 3, batch)"),
        (Segment(0.5, None), "Segment(fraction 0.5, no start)"),
        # signs: products need no brackets among themselves, sums and differences inside of them do
        (Plus(LogRatio(), VerifierAdvantage()), "LogRatio + VerifierAdvantage(group)"),
        (Negative(Position()), "−Position"),
        (Product(Complement(Position()), Product(TeacherMass(), ReverseKL())), "(1 − Position) · TeacherMass · ReverseKL"),
        (Negative(Plus(Scaled(LogRatio(), 0.5), Position())), "−((0.5 · LogRatio) + Position)"),
        (Complement(Complement(Position())), "1 − (1 − Position)"),
        (Times(Boost(Negative(Position()), 2.0), MeanOne(RandomMask())), "Boost(−Position, gain 2) · MeanOne(RandomMask(fraction 0.5, batch), trajectory)"),
        # objectives: uniform weights, unit coefficients and the filter that keeps all are left out
        (METHODS["opd"], "TokenMean(batch) of PolicyGradient(LogRatio, clip 0.2)"),
        (METHODS["sft-on-teacher"], "TokenMean(batch) of PolicyGradient(Constant(value 1), no clip), on rollouts of the teacher"),
        (
            Objective((Term(Divergence(), TopFraction(StudentEntropy()), 0.5), Term(PolicyGradient())), DropBottom(), SumOver(64.0), 2.0),
            "SumOver(constant 64) of 0.5 · TopFraction(StudentEntropy, fraction 0.5, batch) · Divergence(beta 1)"
            " + PolicyGradient(LogRatio, clip 0.2), over DropBottom(fraction 0.2, TrajectoryMean(TeacherLogprob), batch),"
            " importance weights up to 2",
        ),
    ],
)  # fmt: skip
def test_expressions_by_hand(value: object, text: str) -> None:
    assert expression(value) == text


def test_different_methods_have_different_expressions() -> None:
    seen: dict[str, str] = {}
    for line in TABLE:
        text = expression(line.objective)
        assert text not in seen, f"{line.name} reads like {seen[text]}"
        seen[text] = line.name
        assert "object at" not in text and "\n" not in text
        assert text.count("(") == text.count(")")


@pytest.mark.parametrize("name", METHODS)
def test_every_value_shown_is_one_that_set_takes_back(name: str) -> None:
    objective = METHODS[name]
    for path, value in paths(objective):
        assert edit(objective, path, setting(value)) == objective, path


# --- the list -------------------------------------------------------------------------------------------------


def test_a_line_shows_what_makes_a_difference_in_kind() -> None:
    assert cells(LINES["opd"])[1:4] == ("PolicyGradient", "—", "—")
    assert cells(LINES["fire"])[1:4] == ("PolicyGradient", "MeanOne(Boost · Boost)", "DropBottom")
    assert cells(LINES["drop-longest"])[3] == "DropBottom(TrajectoryLength)"
    assert cells(LINES["eopd"])[1:3] == ("PolicyGradient + Divergence(TopK)", "— + Threshold")
    assert cells(LINES["kdrl"])[1] == "PolicyGradient(LogRatio + VerifierAdvantage)"
    needs = {name: cells(LINES[name])[5] for name in ("opd", "fire", "tip", "exopd", "kdrl", "fire-per-domain")}
    assert needs == {
        "opd": "logprobs",
        "fire": "entropy",
        "tip": "logits",
        "exopd": "logprobs, reference model",
        "kdrl": "logprobs, verifier, groups of samples",
        "fire-per-domain": "entropy, domains",
    }


def test_a_pipe_gets_one_line_a_method(capsys) -> None:
    assert cli.main(["methods"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    change, paper = head.index("what it changes"), head.index("paper")
    for text, line in zip(lines, TABLE, strict=True):
        assert text[change:].startswith(line.change) and text[paper:] == line.paper
    assert plain(list(TABLE)).splitlines() == [head, *lines]


@pytest.mark.parametrize("width", [60, 80, 120, 200, 260])
def test_a_terminal_gets_all_of_it_within_its_width(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(listing(list(TABLE), width))
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    for line in TABLE:
        assert any(line.name in text.split() for text in shown.splitlines()), line.name
    assert "[1," in shown and "4]" in shown, "what looks like markup is text"
    if width == 80:
        narrow = " ".join(shown.split())
        assert all(line.change in narrow for line in TABLE), "words stay whole"
        assert "PolicyGradient | MeanOne(Boost · Boost) | DropBottom | entropy" in narrow
    if width >= 200:
        row = next(text for text in shown.splitlines() if text.split()[:1] == ["fire"])
        assert row.split("drops")[0].split() == ["fire", "PolicyGradient", "MeanOne(Boost", "·", "Boost)", "DropBottom"]


def test_columns() -> None:
    rows = [("a", "bb", "one two three"), ("long", "c", "")]
    assert columns(rows) == "a     bb  one two three\nlong  c   "
    # 6 + 4 columns before the last, which has at least 20
    assert columns([("a", "bb", "word " * 6), ("long", "c", "x")], 20).splitlines() == [
        "a     bb  word word word word",
        "          word word",
        "long  c   x",
    ]


# --- filtering ------------------------------------------------------------------------------------------------


def test_filter_looks_at_names_changes_papers_and_blocks() -> None:
    def names(text: str) -> set[str]:
        return {line.name for line in matching(text)}

    assert names("reopold") == {"reopold", "reopold-scaled-floor", "reopold-10", "reopold-20"}
    assert names("SEGMENT") == {"first-segment", "last-segment", "random-segment"}
    assert names("2605.03677") == {"uni-opd", "uni-opd-default"}
    assert names("Jensen") == {"full-jsd"}
    assert names("sequencemean") == {"opd-sequence-mean"}
    assert names("SkewKL") == {"skew-kl", "skew-fkl"}
    assert names("DropRandom") == {"random-filter"}
    assert names("TeacherRank") == {"selectkd"}
    assert names("") == set(METHODS)
    assert "opd" not in names("DropBottom")


def fails(capsys, *words: str) -> str:
    assert cli.main(["methods", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("opd: ") and captured.err.count("\n") == 1 and not captured.out
    return captured.err


def test_a_filter_without_a_match_is_an_error(capsys) -> None:
    assert "no method has 'nothing like it'" in fails(capsys, "--filter", "nothing like it")
    assert "no method has 'x.*y'" in fails(capsys, "--filter", "x.*y", "--json")
    with pytest.raises(UserError, match="lists all"):
        matching("zzz")


def test_name_and_filter_exclude_each_other(capsys) -> None:
    assert "give one of the two" in fails(capsys, "fire", "--filter", "fire")
    assert "unknown method 'fier'" in fails(capsys, "fier")


# --- JSON -----------------------------------------------------------------------------------------------------

KEYS = {"name", "paper", "change", "loss", "weight", "filter", "scope", "needs", "reads", "objective"}


def test_json_of_the_table(capsys) -> None:
    assert cli.main(["methods", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in table] == list(METHODS)
    assert all(set(row) == KEYS for row in table)
    rows = {row["name"]: row for row in table}
    assert rows["eopd"]["loss"] == [
        "PolicyGradient(LogRatio, clip 0.2)",
        "Divergence(beta 0, TopK(k 16, teacher, drop))",
    ]
    assert rows["eopd"]["weight"] == ["Uniform", "Threshold(TeacherEntropy, at 0.8)"]
    assert rows["opd"]["filter"] == "KeepAll"
    assert rows["fire"]["scope"] == ["batch", "trajectory"]
    assert rows["fire-as-released-2"]["scope"] == ["block:2"]
    assert rows["kdrl"]["reads"] == ["correct", "group"]
    assert rows["tip"]["needs"] == ["logits", "logprobs"]


def test_json_of_a_filter_is_a_list_and_of_a_name_an_object(capsys) -> None:
    assert cli.main(["methods", "--filter", "teachability", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["teachability"]
    assert cli.main(["methods", "teachability", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == as_data(LINES["teachability"])


# --- one method -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line.name)
def test_every_method_is_explained(line: Method) -> None:
    page = explain(line)
    assert page.startswith(f"{line.name}: {line.change}\n")
    assert line.paper in page and expression(line.objective) in page
    told = {text.split()[0]: text for text in page.splitlines() if text}
    for block in blocks(line.objective):
        if block not in catalogue.NEUTRAL:
            assert len(told[type(block).__name__].split()) > 1, "a block without a docstring"
    for path, value in paths(line.objective):
        assert told[path].split() == [path, setting(value)]
    assert max(len(text) for text in explain(line, 80).splitlines()) <= 80


def test_explaining_fire(capsys) -> None:
    assert cli.main(["methods", "fire"]) == 0
    out = capsys.readouterr().out
    assert "Boost           1 + gain·q for a quantity q in [0,1].\n" in out
    assert "needs  entropy, logprobs of its teacher\n" in out
    assert "keep.fraction                    0.2\n" in out


def test_first_sentences_stop_where_they_should() -> None:
    assert catalogue.first_sentence(PolicyGradient()).endswith("clip(r, 1−ε, 1+ε')).")
    assert catalogue.first_sentence(MeanOne(RandomMask())).endswith("(FiRe-OPD eq. 8: per trajectory).")
    # two sentences on the first line of the docstring
    assert catalogue.first_sentence(METHODS["skew-kl"].terms[0].loss).endswith("so that it is bounded.")


def test_an_edited_objective_is_still_readable() -> None:
    hotter = edit(METHODS["fire"], "terms.0.weight.of.b.gain", "2.5")
    assert "gain 2.5" in explain(replace(LINES["fire"], objective=hotter))
