"""N-gram overlap of a training file with benchmarks: by hand, against a naive version, and on the toy world."""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.benchmarks import INSTRUCTION, Benchmark, BenchProblem, LoadedBenchmark, load_benchmark
from harness.benchmarks.contamination import Match, counts, scan, tokens, training_text, with_and_without, write_csv
from harness.commands import contamination as command
from harness.errors import UserError
from harness.evaluation.evaluations import COLUMNS, Evaluation
from harness.runs.assets import open_source
from harness.stats import avg_at_k
from tests.conftest import ROOT, shared
from trainer.config import Data


def bench(*problems: str, name: str = "mine") -> LoadedBenchmark:
    made = tuple(BenchProblem(f"{name}-{i}", text, "1") for i, text in enumerate(problems))
    return LoadedBenchmark(Benchmark(name, name, n=len(made), k=1), made)


def training(folder: Path, *rows: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(r if isinstance(r, dict) else {"problem": r}) + "\n" for r in rows))
    return path


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Let $m+n$ be PRIME, (m, n) = 1.", "let m + n be prime m n = 1"),
        (r"$\frac{1}{2}$ and \dfrac12", r"\frac 1 2 and \frac 12"),
        (r"\left( x^2 \right) \text{ cm}", "x 2 cm"),
        ("x−y, 3–4, well-known, 2-3, a-=b", "x y 3 - 4 well known 2 - 3 a - = b"),
        ("ｆｕｌｌ ｗｉｄｔｈ ５", "full width 5"),
        ("a\x00b <script>alert(1)</script> \u202e", "a b < script > alert 1 < / script >"),
        ("", ""),
    ],
)
def test_tokens(text, found):
    assert tokens(text) == found.split()


@given(st.text(max_size=60))
def test_spacing_case_and_dress_do_not_count(text):
    ascii_text = "".join(c for c in text if c.isascii())
    assert tokens(f"  {ascii_text.upper()}\n\\left(".replace("\\LEFT", "\\left")) == tokens(ascii_text + "$ $") or (
        "\\" in ascii_text  # a lone backslash may take the next letters along
    )


# --- shares, by hand ----------------------------------------------------------------------------------------------


def test_share_by_hand(tmp_path):
    """a b c d e has the 3-grams abc, bcd, cde. Row 1 holds abc; row 2 bcd and cde; together all of them: share 3/3, the best row 2/3."""
    path = training(tmp_path, "a b c x", "zero b c d e", "nothing")
    (match,) = scan(path, [bench("a b c d e")], n=3)
    assert (match.grams, match.share, match.line, match.row_share) == (3, 1.0, 2, 2 / 3)
    assert match.excerpt == "zero b c d e" and match.any
    (match,) = scan(training(tmp_path, "a b c x"), [bench("a b c d e")], n=3)
    assert (match.share, match.line) == (1 / 3, 1)
    (match,) = scan(training(tmp_path, "a b x c d e", "e d c b a"), [bench("a b c d e")], n=3)
    assert (match.share, match.line, match.any) == (1 / 3, 1, True)  # cde alone
    (match,) = scan(training(tmp_path, "e d c b a"), [bench("a b c d e")], n=3)
    assert match == Match("mine", "mine-0", 3, 0.0)


def test_the_threshold_flags_from_the_share_on(tmp_path):
    """Eleven tokens have ten 2-grams; a row with the first nine tokens holds eight of them: 0.8."""
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]
    matches = scan(training(tmp_path, " ".join(words[:9])), [bench(" ".join(words))], n=2)
    assert matches[0].share == 0.8
    assert counts(matches, 0.8) == {"mine": {"n": 1, "flagged": 1, "any": 1}}
    assert counts(matches, 0.81) == {"mine": {"n": 1, "flagged": 0, "any": 1}}


def test_the_first_of_equally_good_rows_is_named(tmp_path):
    (match,) = scan(training(tmp_path, "x", "a b c d", "a b c d"), [bench("a b c d")], n=2)
    assert match.line == 2


def test_short_problems_are_compared_as_a_whole(tmp_path):
    """With a row, or a paragraph of one; never with a part of a sentence, which would find boilerplate."""
    short = bench("Find $x$.", "Compute 1+2")
    for row, shares in (
        ("find x", [1, 0]),
        (f"Find x.\n{INSTRUCTION}", [1, 0]),
        ("Solve the following problem.\n\nCompute 1 + 2\n\nThink first.", [0, 1]),
        ("Find x and y", [0, 0]),
        ("Compute 1-2", [0, 0]),
        ("Compute 1+23", [0, 0]),
    ):
        assert [m.share for m in scan(training(tmp_path, row), [short])] == shares, row


def test_a_problem_across_paragraphs_is_one_text(tmp_path):
    text = "a b c d e f g h\ni j k l m n"
    assert scan(training(tmp_path, "intro\n" + text), [bench(text)])[0].share == 1.0


@given(seed=st.integers(0, 10**6), n=st.integers(1, 4))
def test_against_a_naive_version(tmp_path_factory, seed, n):
    draw = random.Random(seed)
    problems = [" ".join(draw.choices("abcd", k=draw.randint(1, 9))) for _ in range(6)]
    rows = [" ".join(draw.choices("abcdz", k=draw.randint(0, 12))) or "z" for _ in range(8)]

    def grams(text):
        words = text.split()
        return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}

    matches = scan(training(tmp_path_factory.mktemp("naive"), *rows), [bench(*problems)], n)
    for problem, match in zip(problems, matches, strict=True):
        if len(problem.split()) < n:
            whole = [row == problem for row in rows]
            assert (match.share, match.row_share) == (float(any(whole)), float(any(whole)))
            continue
        wanted = grams(problem)
        each = [len(wanted & grams(row)) for row in rows]
        assert match.share == len({g for row in rows for g in wanted & grams(row)}) / len(wanted)
        assert match.row_share == max(each) / len(wanted)
        assert match.line == (each.index(max(each)) + 1 if max(each) else None)


# --- training files -----------------------------------------------------------------------------------------------


def test_where_the_prompt_of_a_row_is(tmp_path):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "no"},
    ]
    for row, text in (
        ({"problem": "p", "prompt": "q"}, "p"),
        ({"Question": "q"}, "q"),
        ({"problem": None, "prompt": "q"}, "q"),
        ({"prompt": chat}, "a b"),
        ({"messages": [*chat, {"role": "user", "content": "c"}], "answer": "1"}, "a b\nc"),
    ):
        assert training_text(row, "here") == text
    for row in ({"answer": "1"}, {"problem": 5}, {"messages": []}, {"messages": [{"role": "user", "content": None}]}):
        with pytest.raises(UserError, match="here: no text in a column problem, prompt, question, messages"):
            training_text(row, "here")


def test_a_parquet_file_of_chats(tmp_path):
    file = tmp_path / "train.parquet"
    chats = [[{"role": "user", "content": text}] for text in ("x y", "a b c d")]
    pyarrow.parquet.write_table(pyarrow.table({"prompt": chats, "data_source": ["s", "s"]}), file)
    (match,) = scan(file, [bench("a b c d")], n=2)
    assert (match.share, match.line) == (1.0, 1)  # rows of a parquet file count from 0


def test_broken_training_files(tmp_path):
    def refusal(path, **options):
        with pytest.raises(UserError) as caught:
            scan(path, [bench("a b c")], **options)
        return str(caught.value)

    assert "is missing" in refusal(tmp_path / "nowhere.jsonl")
    assert "is a folder" in refusal(tmp_path)
    assert f"{tmp_path / 'train.jsonl'}, line 2: no text" in refusal(training(tmp_path, "a", {"answer": 1}))
    assert "holds no rows" in refusal(training(tmp_path))
    assert "'n' must be at least 1" in refusal(training(tmp_path, "a"), n=0)
    path = training(tmp_path, "a")
    path.write_text(path.read_text() + "{")
    assert f"{path}, line 2: not valid JSON" in refusal(path)


def test_hostile_training_rows(tmp_path):
    rows = [
        "a\x00b",
        "\ud800",
        "\u202e",
        "<script>" * 100,
        "x" * 100_000,
        " " * 100_000 + "y",
        "\n" * 10_000,
        "a b c\x1b[2J",
    ]
    path = training(tmp_path, *rows)
    (match,) = scan(path, [bench("a b c")], n=3)
    assert (match.share, match.line) == (1.0, 8) and "\x1b" not in match.excerpt
    (match,) = scan(training(tmp_path, "a b c \ud800\u202e"), [bench("a b c")], n=3)
    write_csv([match], 0.8, tmp_path / "out" / "contamination.csv")
    assert next(csv.DictReader((tmp_path / "out" / "contamination.csv").open()))["share"] == "1.0000"


def test_memory_does_not_grow_with_the_training_file(tmp_path):
    """Peak memory over ten times as many rows is the same: nothing is kept of a row that matches nothing."""
    code = """
import sys, tracemalloc
from pathlib import Path
from harness.benchmarks import load_benchmark
from harness.benchmarks.contamination import scan
loaded = [load_benchmark("toy-aime")]
tracemalloc.start()
scan(Path(sys.argv[1]), loaded)
print(tracemalloc.get_traced_memory()[1])
"""
    peaks = []
    for count in (1_000, 10_000):
        path = training(tmp_path, *(f"Compute the sum of {i} and {i * 7} and {i * 13}." for i in range(count)))
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, cwd=ROOT, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 500_000  # 9,000 rows of 50 characters kept would be more


# --- the toy world and the released files -------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["toy:math+code", "toy:math:9-12"])
def test_toy_training_data_hold_no_benchmark_problem(tmp_path, source):
    """Clean by construction: the splits are disjoint by the hash of the prompt."""
    prompts = open_source(Data(source), 0)
    path = training(tmp_path, *(p.text for step in range(60) for p in prompts.batch(step, 64)))
    names = ("toy-aime", "toy-minerva", "toy-code", "toy-ood", "toy-held-out", "toy-2048")
    matches = scan(path, [load_benchmark(name) for name in names])
    assert len(matches) == 30 + 272 + 128 + 128 + 256 + 2048
    assert not any(match.any for match in matches)


def test_a_toy_problem_in_the_training_data_is_found(tmp_path):
    code = load_benchmark("toy-code")
    text = code.problems[17].problem
    near = text[:-1] + ("a" if text[-1] == "b" else "b")  # prints the other register: another problem
    matches = scan(training(tmp_path, near, text), [code])
    assert [(m.problem, m.line) for m in matches if m.any] == [(code.problems[17].id, 2)]


def test_released_files_against_themselves_and_each_other(tmp_path):
    """Every problem is found in its own file, however respaced; AIME24 shares none with the others."""
    aime, other = (load_benchmark(name, shared("benchmarks")) for name in ("aime24", "hmmt25_feb"))
    path = training(tmp_path, *(re.sub(r"([$=+])", r" \1 ", p.problem).upper() for p in aime.problems))
    matches = scan(path, [aime, other])
    assert counts(matches) == {
        "aime24": {"n": 30, "flagged": 30, "any": 30},
        "hmmt25_feb": {"n": 30, "flagged": 0, "any": 0},
    }
    assert [m.line for m in matches[:30]] == list(range(1, 31))


# --- with and without ---------------------------------------------------------------------------------------------


def evaluation(correct: dict[str, list[list[int]]], name: str = "mine", **bench_facts: object) -> Evaluation:
    """`correct`: problem → [seed][sample]."""
    rows = [
        {"bench": name, "seed": seed, "problem": problem, "sample": sample, "correct": bool(value)}
        for problem, seeds in correct.items()
        for seed, samples in enumerate(seeds)
        for sample, value in enumerate(samples)
    ]
    return Evaluation("some/run", None, {name: dict(bench_facts)}, pd.DataFrame(rows, columns=list(COLUMNS)))


def test_accuracy_with_and_without_the_flagged():
    """Problems at 1, 1/2, 0 and 0 of two samples: 3/8; without the first (1/2 + 0 + 0)/3 = 1/6."""
    made = evaluation({"a": [[1, 1]], "b": [[1, 0]], "c": [[0, 0]], "d": [[0, 0]]})
    everything, rest = with_and_without(made, "mine", {"a"})
    assert rest is not None
    assert (everything.value, everything.n, everything.k) == (3 / 8, 4, 2)
    assert (rest.value, rest.n) == (pytest.approx(1 / 6), 3)
    assert rest.low == pytest.approx(avg_at_k(np.array([[1, 0], [0, 0], [0, 0]])).low)
    assert with_and_without(made, "mine", set("abcd"))[1] is None


def test_seeds_and_families_count_as_they_do_in_tables():
    correct = {"a": [[1, 1], [0, 1]], "b": [[1, 0], [0, 0]], "c": [[0, 0], [1, 1]]}
    families = {"a": "x", "b": "x", "c": "y"}
    made = evaluation(correct, clusters=families)
    everything, rest = with_and_without(made, "mine", {"c"})
    stacked = np.array([[correct[p][seed] for p in "abc"] for seed in (0, 1)])
    wanted = avg_at_k(stacked, list("xxy"))
    assert (everything.value, everything.se, everything.seeds) == (wanted.value, wanted.se, 2)
    assert rest is not None and rest.value == avg_at_k(stacked[:, :2]).value


def test_incomplete_evaluations_are_refused():
    made = evaluation({"a": [[1, 1]], "b": [[1]]})
    with pytest.raises(UserError, match="some/run is not complete on 'mine'"):
        with_and_without(made, "mine", set())
    with pytest.raises(UserError, match="some/run has no benchmark 'aime24': it has mine"):
        with_and_without(made, "aime24", set())


# --- the command --------------------------------------------------------------------------------------------------


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def test_the_command_writes_a_row_for_every_problem(tmp_path, capsys, monkeypatch):
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    file = tmp_path / "mine.jsonl"
    rows = [{"id": "x", "problem": text, "answer": 1}, {"id": "y", "problem": "another", "answer": 2}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = training(tmp_path, "nothing", text + " and more")
    assert run(path, "--bench", file, "toy-aime", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert (
        re.search(r"mine\s+│\s+2\s+│\s+1\s+│\s+1\s+│", shown) and str(tmp_path / "out" / "contamination.csv") in shown
    )
    with (tmp_path / "out" / "contamination.csv").open(newline="") as lines:
        found = list(csv.DictReader(lines))
    assert len(found) == 32
    assert found[0] == {
        "bench": "mine",
        "problem": "x",
        "grams": "2",
        "share": "1.0000",
        "flagged": "1",
        "any": "1",
        "line": "2",
        "row_share": "1.0000",
        "excerpt": text + " and more",
    }
    assert {row["line"] for row in found[1:]} == {""}
    made = evaluation({"x": [[1, 1]], "y": [[0, 1]]})
    monkeypatch.setattr("harness.evaluation.evaluations.load_evaluation", lambda ref: made)
    assert run(path, "--bench", file, "--out", tmp_path / "out", "--evaluation", "some/run") == 0
    assert "75.0 [" in (shown := capsys.readouterr().out) and "50.0 [" in shown  # (1 + 1/2)/2, and 1/2 without x


def test_mistakes_on_the_command_line(tmp_path):
    path = training(tmp_path, "a")
    for words, says in (
        (("toy:math", "--bench", "toy-aime"), "is generated, from another split"),
        ((path, "--bench", "toy-aime", "toy-aime"), "'toy-aime' is named twice"),
        ((path, "--bench", "toy-aime", "--threshold", "0"), "--threshold lies in"),
        ((path, "--bench", "nope"), "unknown benchmark 'nope'"),
        ((path, "--bench", "toy-aime", "--evaluation", "nothing-there"), "no evaluation 'nothing-there'"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            run(*words, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_torch_is_needed():
    code = "import sys, harness.benchmarks.contamination, harness.benchmarks.slices; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
