"""Two evaluations side by side: what is refused, hand-computed differences, who carries them, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness import cli
from harness.errors import UserError
from harness.evaluation.evaluations import COLUMNS, Evaluation
from harness.tables import pairing

ENTRY = {
    "label": "Toy",
    "n": 3,
    "k": 2,
    "limit": None,
    "content": "aa",
    "prompt_hash": "p1",
    "rendered_hash": "r1",
    "thinking": False,
    "checkers": {"strict": "s1", "paper": "p1"},
    "sampling": {"temperature": 1.0},
}


def evaluation(name: str, right: dict[str, list[int]], seeds: tuple[int, ...] = (0,), **entry) -> Evaluation:
    """`right`: problem → 0/1 of its samples, the same for every seed; the paper checker calls all of them wrong."""
    rows = [
        {"bench": "toy", "seed": seed, "problem": problem, "sample": j, "correct": bool(ok), "correct_paper": False}
        | {"answer": "1", "parsed": "1", "reason": "", "finish": "stop", "tokens": 3}
        for seed in seeds
        for problem, marks in right.items()
        for j, ok in enumerate(marks)
    ]
    return Evaluation(name, None, {"toy": ENTRY | entry}, pd.DataFrame(rows, columns=list(COLUMNS)))


A = evaluation("A", {"x": [0, 0], "y": [0, 1], "z": [1, 1]})
B = evaluation("B", {"x": [1, 1], "y": [0, 1], "z": [0, 1]})


def test_the_difference_by_hand():
    pairs, warnings = pairing.pair(A, B)
    assert warnings == []
    row = pairing.compare(pairs).set_index("checker").loc["strict"]
    # A: (0 + 1/2 + 1)/3 = 1/2; B: (1 + 1/2 + 1/2)/3 = 2/3; differences 1, 0, -1/2, their mean 1/6
    assert (row["a"], row["b"], row["delta"]) == pytest.approx((1 / 2, 2 / 3, 1 / 6))
    # of the four sign assignments to {1, -1/2}, all have |sum| >= 1/2: p = 1
    assert row["p"] == row["p_holm"] == 1.0
    # t interval with 2 degrees: s² = ((5/6)² + (1/6)² + (4/6)²)/2 = 42/72, half = 4.302653·sqrt(42/72/3)
    assert row["high"] - row["delta"] == pytest.approx(min(4.302653 * (42 / 72 / 3) ** 0.5, 1 - 1 / 6), rel=1e-5)


def test_problems_are_matched_by_id_not_by_order():
    turned = replace(B, samples=B.samples.iloc[::-1].reset_index(drop=True))
    assert pairing.compare(pairing.pair(A, turned)[0]).equals(pairing.compare(pairing.pair(A, B)[0]))


def test_by_problem_and_who_carries():
    rows = pairing.by_problem(pairing.pair(A, B)[0]).set_index("problem")
    assert rows["delta"].to_dict() == {"x": 1.0, "y": 0.0, "z": -0.5}
    says = pairing.carriers(rows["delta"])
    # net gain 1/2; x alone is more than half of it
    assert says == "1 problems better, 1 worse, 1 equal; the 1 that moved most carry half of the net gain"
    assert pairing.carriers(pd.Series([0.5, -0.5])).endswith("no net difference")
    # net loss 1.0, half of it 0.5: the largest loss of 0.5 is enough
    assert "the 1 that moved most carry half of the net loss" in pairing.carriers(pd.Series([-0.5, -0.3, -0.2]))


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"prompt_hash": "p2"}, "prompt"),
        ({"rendered_hash": "r2"}, "prompt"),
        ({"thinking": True}, "prompt"),
        ({"checkers": {"strict": "s2", "paper": "p1"}}, "checker"),
        ({"content": "bb"}, "problems"),
        ({"sampling": {"temperature": 0.6}}, "sampling"),
        ({"k": 4}, "k"),
    ],
)
def test_what_differs_is_refused_and_named(entry, name):
    other = replace(B, benches={"toy": ENTRY | entry})
    with pytest.raises(UserError, match=f"differ on 'toy' in {name}.*--allow {name}"):
        pairing.pair(A, other)
    _, warnings = pairing.pair(A, other, allow=[name])
    assert len(warnings) == 1 and f"differ in {name}" in warnings[0]


def test_a_hash_that_a_server_cannot_know_is_no_difference():
    other = replace(B, benches={"toy": ENTRY | {"rendered_hash": None}})
    assert pairing.pair(A, other)[1] == []


def test_other_problems_are_refused_or_cut_to_the_common_ones():
    other = evaluation("B", {"x": [1, 1], "y": [0, 1]}, n=2)
    with pytest.raises(UserError, match="differ on 'toy' in problems"):
        pairing.pair(A, other)
    same_entry = evaluation("B", {"x": [1, 1], "y": [0, 1], "w": [0, 0]})
    with pytest.raises(UserError, match="hold different problems of 'toy' \\(2 in common\\)"):
        pairing.pair(A, same_entry)
    pairs, _ = pairing.pair(A, same_entry, allow=["problems"])
    assert pairs[0].problems == ("x", "y")


def test_missing_samples_are_refused():
    with pytest.raises(UserError, match="'B' lacks samples"):
        pairing.pair(A, replace(B, samples=B.samples.iloc[:-1]))
    with pytest.raises(UserError, match="'B' lacks samples"):
        pairing.pair(A, replace(B, samples=pd.concat([B.samples, B.samples.iloc[:1]])))


def test_no_common_benchmark():
    other = Evaluation("B", None, {"other": ENTRY}, B.samples.assign(bench="other"))
    with pytest.raises(UserError, match="evaluate both on the same benchmark"):
        pairing.pair(A, other)


def test_slices_and_a_checker_that_is_missing():
    cut = {"slices": {"x": "numbers", "y": "symbols", "z": "symbols"}}
    a = replace(A, benches={"toy": ENTRY | cut})
    frame = pairing.compare(pairing.pair(a, replace(B, benches={"toy": ENTRY | cut}))[0])
    strict = frame[frame["checker"] == "strict"].set_index("part")
    assert strict["n"].to_dict() == {"all": 3, "numbers": 1, "symbols": 2}
    assert strict["delta"].to_dict() == pytest.approx({"all": 1 / 6, "numbers": 1.0, "symbols": -0.25})
    assert strict["p_holm"].notna().tolist() == [True, False, False]
    lone = replace(B, samples=B.samples.assign(correct_paper=None))
    assert set(pairing.compare(pairing.pair(A, lone)[0])["checker"]) == {"strict"}


def test_several_seeds_are_averaged_per_problem():
    two = evaluation("B2", {"x": [1, 1], "y": [0, 1], "z": [0, 1]}, seeds=(0, 1))
    frame = pairing.compare(pairing.pair(A, two)[0])
    assert frame["delta"].iloc[0] == pytest.approx(1 / 6)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two evaluations of the toy student that differ in their seed only, and one that differs in temperature."""
    monkeypatch.chdir(tmp_path)
    for name, more in (("a", []), ("b", ["--seed", "1"]), ("c", ["--temperature", "0.5"])):
        words = ["eval", "toy:student", "--bench", "toy-aime", "--k", "2", "--limit", "8", "--out", name]
        assert cli.main([*words, *more]) == 0
    return tmp_path


def test_the_command_end_to_end(folders, capsys):
    capsys.readouterr()
    assert cli.main(["compare", "a", "b", "--out", "out"]) == 0
    text = capsys.readouterr().out
    assert "toy AIME" in text and "problems better" in text
    assert text.strip().splitlines()[-1] == "tables and pictures: out"
    made = {path.name for path in Path("out").iterdir()}
    assert made == {
        "comparison.md",
        "comparison.csv",
        "problems.csv",
        "toy-aime.pdf",
        "toy-aime.png",
        "toy-aime.csv",
    }
    frame = pd.read_csv("out/problems.csv")
    for side in ("a", "b"):
        rows = [json.loads(line) for line in Path(side, "toy-aime.graded.jsonl").read_text().splitlines()[1:]]
        mean = pd.DataFrame(rows).groupby("problem")["correct"].mean()
        assert frame.set_index("problem")[side].to_dict() == pytest.approx(mean.to_dict())
    assert cli.main(["compare", "a", "c"]) == 2
    assert "--allow sampling" in capsys.readouterr().err
    assert cli.main(["compare", "a", "nowhere"]) == 2
    assert "no evaluation 'nowhere'" in capsys.readouterr().err
    assert cli.main(["compare", "a", "c", "--allow", "sampling", "--out", "out2"]) == 0
    assert "the two differ in sampling" in capsys.readouterr().out.replace("\n", " ")
