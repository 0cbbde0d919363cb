"""The registry and its loaders: what is accepted, what is refused and in which words, and what a model is shown."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from harness.benchmarks import (
    BENCHMARKS,
    INSTRUCTION,
    Benchmark,
    BenchProblem,
    content_hash,
    load_benchmark,
    prompt_hash,
    render_prompt,
    strip_instruction,
)
from harness.commands import benchmarks as command
from harness.errors import UserError
from tests.conftest import shared

LOCAL = [row.name for row in BENCHMARKS.values() if row.sha256]
TOY = [row.name for row in BENCHMARKS.values() if row.toy]


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("OPD_DATA", raising=False)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def aime_rows(n=30):
    return [{"problem": f"What is {i}+0?\n{INSTRUCTION}", "answer": str(i)} for i in range(n)]


def refusal(*args, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_benchmark(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- released files -----------------------------------------------------------------------------------------------


def test_the_names_promised():
    assert {"aime24", "aime25", "hmmt25_feb", "hmmt25_nov", "amc23", "math500", "minerva", "olympiadbench"} == set(
        LOCAL
    )
    assert {"aime26", "hmmt26_feb", "toy-aime", "toy-minerva", "toy-code", "toy-ood"} <= set(BENCHMARKS)
    assert all(re.fullmatch("[0-9a-f]{64}", BENCHMARKS[name].sha256 or "") for name in LOCAL)


@pytest.mark.parametrize("name", LOCAL)
def test_released_files(name):
    loaded = load_benchmark(name, shared("benchmarks"))
    assert len(loaded.problems) == loaded.spec.n == BENCHMARKS[name].n
    assert loaded.sha256 == loaded.spec.sha256
    assert loaded.content == loaded.spec.content == content_hash(loaded.problems)
    assert loaded.released is True and loaded.revision == ""
    assert len({p.id for p in loaded.problems}) == loaded.spec.n
    assert not any("step by step, and put" in p.problem or p.problem != p.problem.strip() for p in loaded.problems)
    assert all(p.answer and p.domain == "math" for p in loaded.problems)


@pytest.mark.parametrize("name", LOCAL)
def test_prompts_of_released_files(name):
    """clean: the instruction once. paper: byte for byte what the released script makes of the file's text."""
    appended = (
        "\nPlease reason step by step, and put your final answer within \\boxed{}."  # eval_math.py @2e23cd6, line 135
    )
    loaded = load_benchmark(name, shared("benchmarks"))
    with open(loaded.source, encoding="utf-8") as lines:
        stored = [json.loads(line)["problem"] for line in lines]
    assert [render_prompt(p, "paper") for p in loaded.problems] == [text + appended for text in stored]
    for p in loaded.problems:
        assert [render_prompt(p, style).count(INSTRUCTION) for style in ("plain", "clean", "paper")] == [0, 1, 2]
        assert render_prompt(p, "clean") == f"{render_prompt(p, 'plain')}\n{INSTRUCTION}"


def test_all_1606_problems_carried_the_instruction():
    problems = [p for name in LOCAL for p in load_benchmark(name, shared("benchmarks")).problems]
    assert len(problems) == 1606
    assert all(p.stored is not None and p.stored.rstrip().endswith(INSTRUCTION) for p in problems)


def test_minerva_families():
    """225 clusters by a prefix of 100 characters, the largest of 5."""
    families = pd.Series([p.family for p in load_benchmark("minerva", shared("benchmarks")).problems])
    assert families.nunique() == 225
    assert families.value_counts().max() == 5
    assert max(map(len, families)) == 100


# --- finding files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["minervamath.jsonl", "minerva.jsonl", "Minerva-Math.jsonl", "minerva/test.jsonl", "MinervaMath/test.jsonl"]
)
def test_names_of_a_file(file, tmp_path):
    write_rows(tmp_path / file, aime_rows(272))
    assert load_benchmark("minerva", tmp_path, allow_changed=True).source == str(tmp_path / file)


def test_amc_goes_by_its_long_year(tmp_path):
    write_rows(tmp_path / "amc2023.jsonl", aime_rows(40))
    assert len(load_benchmark("amc23", tmp_path, allow_changed=True).problems) == 40


def test_folder_from_the_environment(tmp_path, monkeypatch):
    write_rows(tmp_path / "aime26.jsonl", aime_rows())
    monkeypatch.setenv("OPD_DATA", str(tmp_path))
    assert load_benchmark("aime26").problems[3] == BenchProblem(
        "aime26-003", "What is 3+0?", "3", "math", "aime26-003", f"What is 3+0?\n{INSTRUCTION}"
    )


def test_parquet_of_a_registered_set(tmp_path):
    pd.DataFrame({"Problem": [f"p{i}" for i in range(30)], "Answer": range(30)}).to_parquet(tmp_path / "aime24.parquet")
    loaded = load_benchmark("aime24", tmp_path)
    assert [p.answer for p in loaded.problems[:3]] == ["0", "1", "2"]
    assert loaded.problems[0].id == "aime24-000"


# --- refusals -----------------------------------------------------------------------------------------------------


def test_changed_file_is_refused_with_both_hashes(tmp_path):
    file = write_rows(tmp_path / "aime24.jsonl", aime_rows())
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    said = refusal("aime24", tmp_path)
    assert all(part in said for part in (str(file), found, BENCHMARKS["aime24"].sha256))
    assert len(load_benchmark("aime24", tmp_path, allow_changed=True).problems) == 30


def test_the_released_problems_in_another_file_are_accepted(tmp_path):
    """Written anew, without the instruction and with other columns: other bytes, the same problems and answers."""
    released = load_benchmark("aime24", shared("benchmarks"))
    rows = [{"id": 7, "question": p.problem, "final_answer": int(p.answer)} for p in released.problems]
    write_rows(tmp_path / "aime24.jsonl", rows)
    loaded = load_benchmark("aime24", tmp_path)
    assert loaded.content == released.content and loaded.released and loaded.sha256 != released.sha256
    rows[3]["final_answer"] += 1
    write_rows(tmp_path / "aime24.jsonl", rows)
    assert "and its problems differ" in refusal("aime24", tmp_path)
    assert load_benchmark("aime24", tmp_path, allow_changed=True).released is False


def test_a_damaged_released_file_is_not_taken_for_a_broken_row(tmp_path):
    file = write_rows(tmp_path / "aime24.jsonl", aime_rows(12))
    file.write_text(file.read_text() + '{"problem": "cut o')
    assert "is not the released file" in refusal("aime24", tmp_path)


def test_wrong_count_is_refused_even_if_changes_are_allowed(tmp_path):
    file = write_rows(tmp_path / "aime24.jsonl", aime_rows(29))
    said = refusal("aime24", tmp_path, allow_changed=True)
    assert f"{file} holds 29 problems" in said and "has 30" in said


def test_missing_folder_and_file(tmp_path):
    said = refusal("minerva", tmp_path / "nowhere")
    assert "nowhere does not exist" in said and "--data-dir" in said and "OPD_DATA" in said
    said = refusal("minerva", tmp_path)
    assert "minerva.jsonl, minervamath.jsonl or minerva/test.jsonl" in said and "--data-dir" in said


def test_without_folder_and_without_hub_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # import fails as if it were not installed
    said = refusal("minerva")
    assert "--data-dir" in said and "pip install 'opd-harness[hub]'" in said


class Hub:
    """The two hub clients as far as they are used, without a network; notes what it was asked."""

    COMMIT = "c0ffee" * 6 + "beef"

    def __init__(self, monkeypatch, rows, failure=None):
        self.rows, self.failure, self.asked = rows, failure, []
        monkeypatch.setitem(sys.modules, "datasets", self)
        monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: self))

    def load_dataset(self, hub_id, config, split, revision):
        self.asked.append(("load", hub_id, config, split, revision))
        if self.failure:
            raise self.failure
        return self.rows

    def dataset_info(self, hub_id, revision=None):
        self.asked.append(("resolve", hub_id, revision))
        return SimpleNamespace(sha=self.COMMIT)


def test_every_hub_row_is_pinned():
    pins = {row.name: row.revision for row in BENCHMARKS.values() if not row.toy}
    assert all(re.fullmatch("[0-9a-f]{40}", pin or "") for pin in pins.values())
    assert len(set(pins.values())) == len(pins) == 10


def test_hub_rows_of_the_pinned_commit(monkeypatch):
    """The hub's own columns, ids and list answers; the pin is asked for as it is, and recorded."""
    rows = [{"id": 1600 + i, "question": f"q{i}", "context": None, "final_answer": ["1", "-2"]} for i in range(674)]
    hub = Hub(monkeypatch, rows)
    loaded = load_benchmark("olympiadbench")
    pin = BENCHMARKS["olympiadbench"].revision
    assert hub.asked == [("load", "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", pin)]
    assert loaded.problems[0] == BenchProblem("olympiadbench-000", "q0", "1, -2", "math", "olympiadbench-000", "q0")
    assert (loaded.source, loaded.revision) == ("Hothan/OlympiadBench", pin)
    assert loaded.sha256 == loaded.content and loaded.released is False


def test_a_context_stands_before_its_question(monkeypatch):
    rows = [{"question": "q", "context": "Given c." if i == 1 else math.nan, "final_answer": "1"} for i in range(674)]
    Hub(monkeypatch, rows)
    assert [p.problem for p in load_benchmark("olympiadbench").problems[:2]] == ["q", "Given c.\nq"]


def test_without_a_pin_the_commit_is_resolved_loaded_and_recorded(monkeypatch):
    hub = Hub(monkeypatch, aime_rows())
    monkeypatch.setitem(BENCHMARKS, "aime24", replace(BENCHMARKS["aime24"], revision=None))
    loaded = load_benchmark("aime24")
    name = "HuggingFaceH4/aime_2024"
    assert hub.asked == [("resolve", name, None), ("load", name, None, "train", Hub.COMMIT)]
    assert loaded.revision == Hub.COMMIT


def test_a_named_revision_wins_over_pin_and_folder(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, aime_rows())
    full = "0123456789" * 4
    assert load_benchmark(f"aime24@{full}", tmp_path).revision == full
    assert hub.asked == [("load", "HuggingFaceH4/aime_2024", None, "train", full)]
    assert load_benchmark("aime24@main").revision == Hub.COMMIT
    assert hub.asked[1] == ("resolve", "HuggingFaceH4/aime_2024", "main")
    assert "is generated and has no revisions: leave out '@main'" in refusal("toy-aime@main")
    assert "unknown benchmark 'aime24@'" in refusal("aime24@")
    file = write_rows(tmp_path / "aime24@v2.jsonl", aime_rows(3))
    assert load_benchmark(file).spec.name == "aime24@v2"  # a file is a file


def test_rows_as_the_real_client_gives_them(monkeypatch, tmp_path):
    """The installed client on a folder in place of a hub id: its table's rows, lists and floats are what we read."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    answers = pyarrow.array([["1", "-2"], ["3"]])
    (tmp_path / "set").mkdir()
    table = pyarrow.table({"question": ["q0", "q1"], "context": ["Given c.", None], "final_answer": answers})
    pyarrow.parquet.write_table(table, tmp_path / "set" / "train.parquet")
    row = Benchmark("mine", "Mine", 2, 4, hub_id=str(tmp_path / "set"), revision="a" * 40, split="train")
    monkeypatch.setitem(BENCHMARKS, "mine", row)
    loaded = load_benchmark("mine")
    assert [(p.problem, p.answer) for p in loaded.problems] == [("Given c.\nq0", "1, -2"), ("q1", "3")]
    assert loaded.revision == "a" * 40


def test_two_copies_of_the_same_problems_have_one_content(monkeypatch, tmp_path):
    """A folder's copy with the instruction in the text, and the hub's without it, with capitalised columns and numbers."""
    write_rows(tmp_path / "aime26.jsonl", aime_rows())
    here = load_benchmark("aime26", tmp_path)
    Hub(monkeypatch, [{"ID": f"2026-I-{i}", "Problem": f"What is {i}+0?", "Answer": float(i)} for i in range(30)])
    there = load_benchmark("aime26")
    assert here.content == there.content and here.sha256 != there.sha256
    assert [p.id for p in here.problems] == [p.id for p in there.problems]
    texts = [
        [render_prompt(p, style) for p in bench.problems] for bench in (here, there) for style in ("clean", "paper")
    ]
    assert texts[:2] == texts[2:]
    Hub(monkeypatch, aime_rows()[::-1])
    assert load_benchmark("aime26").content != here.content  # ids are numbered by the order


def test_hub_failure_is_one_sentence(monkeypatch):
    Hub(monkeypatch, [], ConnectionError("a long story"))
    said = refusal("aime25")
    pin = BENCHMARKS["aime25"].revision
    assert f"math-ai/aime25@{pin} (ConnectionError)" in said and "--data-dir" in said
    monkeypatch.setitem(BENCHMARKS, "mine", Benchmark("mine", "Mine", 2, 4, files=("mine",)))
    assert "'mine' is not on the hub" in refusal("mine")


def test_the_wrong_number_of_hub_rows_is_refused(monkeypatch):
    Hub(monkeypatch, aime_rows(31))
    assert "holds 31 problems, but 'aime24' has 30" in refusal("aime24")


def test_unknown_name():
    said = refusal("aime23")
    assert "unknown benchmark 'aime23'" in said and "minerva" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"problem": "a", "answer"', "line 2: not valid JSON"),
        (b"\xff\xfe", "line 2: not valid JSON"),
        ("[1, 2]", "line 2: not a JSON object"),
        ('{"answer": "5"}', "line 2: no problem; name the column problem or question"),
        ('{"problem": "a"}', "line 2: no answer; name the column answer or final_answer"),
        ('{"problem": "a", "answer": {"x": 1}}', "line 2: the answer in column 'answer' is no text or number"),
        ('{"problem": "a", "answer": true}', "line 2: the answer in column 'answer' is no text or number"),
        ('{"problem": " ", "answer": "5"}', "line 2: the problem is empty"),
        ('{"problem": "a", "answer": " "}', "line 2: the answer is empty"),
        ('{"problem": "a", "answer": []}', "line 2: the answer is empty"),
        ('{"problem": "a", "answer": null}', "line 2: the answer in column 'answer' is empty"),
        ('{"problem": "a", "answer": NaN}', "line 2: the answer in column 'answer' is empty"),
        ('{"problem": "a", "answer": Infinity}', "line 2: the answer in column 'answer' is no text or number"),
        ('{"problem": "a", "answer": ["1", ["2"]]}', "line 2: the answer in column 'answer' is no text or number"),
        ('{"problem": ["a", {"b": 1}], "answer": 1}', "line 2: the problem in column 'problem' is no text or number"),
        ('{"problem": "a", "answer": 1, "family": ["x"]}', "line 2: the column 'family' holds no text or number"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ('{"text": "a", "solution": "b"}', "(the row has text, solution)"),
        ('{"id": "mine-000", "problem": "a", "answer": "5"}', "line 2: the id 'mine-000' appears twice"),
    ],
)
def test_broken_rows_are_named(tmp_path, line, says):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(
        b'{"problem": "1+1?", "answer": "2"}\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    )
    said = refusal(file)
    assert said.startswith(f"{file}, line 2: ") and says in said


def test_empty_and_missing_files(tmp_path):
    assert "does not exist" in refusal(tmp_path / "mine.jsonl")
    (tmp_path / "mine.jsonl").write_text("\n\n")
    assert "holds no problems" in refusal(tmp_path / "mine.jsonl")
    (tmp_path / "mine.parquet").write_bytes(b"no parquet")
    assert "cannot be read as parquet" in refusal(tmp_path / "mine.parquet")


def test_broken_parquet_rows_are_named(tmp_path):
    file = tmp_path / "mine.parquet"

    def write(**columns):
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        return refusal(file)

    assert f"{file}, row 1: the answer in column 'answer' is empty" in write(problem=["a", "b"], answer=[1.0, math.nan])
    assert f"{file}, row 1: the problem in column 'problem' is empty" in write(problem=["a", None], answer=["1", "2"])
    assert f"{file}, row 0: the answer in column 'answer' is no text" in write(problem=["a"], answer=[[["1"], ["2"]]])
    assert f"{file}, row 1: the id '7' appears twice" in write(problem=["a", "b"], answer=[1, 2], id=[7, 7])
    assert f"{file}, row 0: no answer; name the column answer" in write(problem=["a"], gold=["1"])
    assert f"{file} holds no problems" in write(problem=[], answer=[])
    file.write_bytes(file.read_bytes()[:-9])
    assert f"{file} cannot be read as parquet" in refusal(file)


# --- a user's file ------------------------------------------------------------------------------------------------


def test_a_users_file_is_a_benchmark(tmp_path):
    rows = [
        {"id": "a", "question": "One\u2028line?", "answer": 5, "domain": "physics", "family": "f"},
        {"question": "Two?\n\n" + INSTRUCTION, "answer": "4.5e33"},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\ufeff" + "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    loaded = load_benchmark(str(file))
    assert (loaded.spec.name, loaded.spec.n) == ("mine", 2)
    assert loaded.problems == (
        BenchProblem("a", "One\u2028line?", "5", "physics", "f", "One\u2028line?"),
        BenchProblem("mine-001", "Two?", "4.5e33", "math", "mine-001", "Two?\n\n" + INSTRUCTION),
    )
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_users_parquet_keeps_numbers_as_they_are_meant(tmp_path):
    """A column of floats holds whole numbers, because a table has one type a column; 0.5 stays 0.5."""
    file = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"question": ["a", "b", "c"], "answer": [27.0, 0.5, -3.0]}), file)
    assert [p.answer for p in load_benchmark(file).problems] == ["27", "0.5", "-3"]
    decimals = pyarrow.array([Decimal("1.50"), Decimal("2.25")], pyarrow.decimal128(5, 2))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "answer": decimals}), file)
    assert [p.answer for p in load_benchmark(file).problems] == ["1.50", "2.25"]


def test_families_and_slices_of_a_users_file(tmp_path):
    rows = [
        {"problem": f"p{i}", "answer": "1", "family": f"f{i // 2}", "slice": "easy" if i else None} for i in range(4)
    ]
    loaded = load_benchmark(write_rows(tmp_path / "mine.jsonl", rows))
    assert loaded.spec.families and [p.family for p in loaded.problems] == ["f0", "f0", "f1", "f1"]
    assert [p.slice for p in loaded.problems] == ["", "easy", "easy", "easy"]
    plain = load_benchmark(write_rows(tmp_path / "plain.jsonl", [{"problem": "p", "answer": 1}]))
    assert not plain.spec.families


def test_one_line_of_the_registry_is_a_benchmark(monkeypatch, tmp_path):
    monkeypatch.setitem(BENCHMARKS, "mine", Benchmark("mine", "Mine", n=2, k=4, files=("mine", "mysecondname")))
    for file in ("mine.jsonl", "sub/../MY-second_name.jsonl"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        path = write_rows(tmp_path / file, aime_rows(2))
        loaded = load_benchmark("mine", tmp_path)
        assert [p.id for p in loaded.problems] == ["mine-000", "mine-001"] and loaded.released is None
        path.unlink()
    write_rows(tmp_path / "mine.jsonl", aime_rows(3))
    assert "holds 3 problems, but 'mine' has 2" in refusal("mine", tmp_path)


def test_hostile_text_is_a_problem_like_any_other(tmp_path):
    texts = [" " * 100_000 + "x" + " " * 100_000, "a\x00b", "<script>", "\u202eabc", "\ud800", f"x {INSTRUCTION}" * 500]
    rows = [{"problem": text, "answer": text} for text in texts]
    loaded = load_benchmark(write_rows(tmp_path / "mine.jsonl", rows))
    assert [p.problem for p in loaded.problems[:5]] == ["x", "a\x00b", "<script>", "\u202eabc", "\ud800"]
    assert loaded.problems[5].problem.startswith("x Please")
    assert strip_instruction("x" + f"\n{INSTRUCTION}" * 1000) == "x"
    assert re.fullmatch("[0-9a-f]{16}", loaded.content)


# --- toy world ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOY)
def test_toy_benchmarks(name):
    loaded = load_benchmark(name)
    assert len(loaded.problems) == loaded.spec.n
    assert len({p.id for p in loaded.problems}) == loaded.spec.n
    assert loaded == load_benchmark(name, data_dir="nowhere")  # needs no data
    assert all(render_prompt(p, loaded.spec.style) == p.problem for p in loaded.problems)


def test_toy_defaults():
    wanted = {"toy-aime": (30, 32), "toy-minerva": (272, 8), "toy-code": (128, 8)}
    assert {name: (BENCHMARKS[name].n, BENCHMARKS[name].k) for name in wanted} == wanted


# --- prompts ------------------------------------------------------------------------------------------------------


def test_instruction_is_stripped_in_its_variants():
    for tail in (f"\n{INSTRUCTION}", f"\n\n{INSTRUCTION}", f" {INSTRUCTION}\n", f"\n{INSTRUCTION}\n{INSTRUCTION}"):
        assert strip_instruction("What is 1+1?" + tail) == "What is 1+1?"
    dapo = "\nLet's think step by step and output the final answer within \\boxed{}."
    assert strip_instruction("What is 1+1?" + dapo) == "What is 1+1?"
    inside = f"Explain the sentence '{INSTRUCTION}' to a child."
    assert strip_instruction(inside) == inside


def test_styles():
    p = BenchProblem("x", "1+1?", "2")
    assert render_prompt(p, "plain") == "1+1?"
    assert render_prompt(p, "clean") == f"1+1?\n{INSTRUCTION}"
    assert render_prompt(p, "paper") == f"1+1?\n{INSTRUCTION}\n{INSTRUCTION}"
    assert render_prompt(f"1+1?\n\n{INSTRUCTION}", "paper") == f"1+1?\n\n{INSTRUCTION}\n{INSTRUCTION}"
    with pytest.raises(UserError, match="unknown prompt style 'twice'"):
        render_prompt(p, "twice")


def test_prompt_hash_sees_text_order_and_cuts():
    hashes = [prompt_hash(texts) for texts in ([], ["ab"], ["a", "b"], ["b", "a"], ["a", "b", ""], ["\ud800"])]
    assert len(set(hashes)) == len(hashes)
    assert prompt_hash(iter(["a", "b"])) == prompt_hash(["a", "b"])
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in hashes)


def test_paper_keeps_what_the_file_has():
    """Blank lines stay; a text without the instruction, as the hub has it, gets it twice, raw end included."""
    p = BenchProblem("x", "1+1?", "2", stored="1+1?\n")
    assert render_prompt(p, "paper") == f"1+1?\n\n{INSTRUCTION}\n{INSTRUCTION}"
    dapo = "1+1?\nLet's think step by step and output the final answer within \\boxed{}."
    assert render_prompt(dapo, "paper") == f"{dapo}\n{INSTRUCTION}"


# --- the command --------------------------------------------------------------------------------------------------


def said(capsys, *words: str) -> str:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    assert command.run(parser.parse_args(words)) == 0
    return capsys.readouterr().out


def test_the_list_of_benchmarks(capsys):
    listed = json.loads(said(capsys, "--json"))
    assert [row["name"] for row in listed] == list(BENCHMARKS)
    assert all(row["licence"] and row["n"] and row["k"] for row in listed)
    shown = said(capsys)
    for row in BENCHMARKS.values():
        assert row.name in shown and (row.revision or "")[:8] in shown


def test_a_benchmark_explained(capsys, tmp_path):
    assert "not at hand: name their folder with --data-dir or OPD_DATA" in said(capsys, "aime24")
    toy = said(capsys, "toy-aime")
    assert load_benchmark("toy-aime").problems[0].problem in toy and "integer answers" in toy
    file = write_rows(tmp_path / "mine.jsonl", [{"problem": "[b]1+1?[/b]\x1b[2J\ud800", "answer": 2}])
    shown = said(capsys, str(file))
    assert "[b]1+1?[/b]" in shown and "\x1b" not in shown and shown.count(INSTRUCTION) == 3  # clean once, paper twice
    facts = json.loads(said(capsys, str(file), "--json"))
    assert facts["loaded"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts["example"]["prompt"]["clean"].endswith(INSTRUCTION)


def test_a_revision_of_the_hub_explained(capsys, monkeypatch):
    Hub(monkeypatch, aime_rows())
    shown = said(capsys, "aime24@main")
    assert f"HuggingFaceH4/aime_2024 @{Hub.COMMIT}" in shown and "(not the released ones)" in shown


def test_minerva_explained_with_its_slices(capsys):
    shown = said(capsys, "minerva", "--data-dir", str(shared("benchmarks")))
    assert "e-notation 58, other numeric 130, symbolic 84" in shown and "225 clusters" in shown
    assert "(the problems and answers released with FiRe-OPD)" in shown


def test_repaired_golds_are_listed_beside_their_originals(capsys):
    everything = json.loads(said(capsys, "--golds", "--json"))
    assert len(everything) > 30 and all(row["reason"] and row["accepted"] and row["benches"] for row in everything)
    arcsin = next(row for row in everything if row["original"] == "np.arcsin(10/13)")
    assert (arcsin["benches"], arcsin["accepted"]) == (["minerva"], [r"\arcsin(\frac{10}{13})"])
    only = json.loads(said(capsys, "math500", "--golds", "--json"))
    assert [row["benches"] for row in only] == [["math500"]] and only[0]["reading"] == "right to its figures"
    with pytest.raises(UserError, match="unknown benchmark 'nope'"):
        command.golds("nope", None)
    assert "backslash lost" in said(capsys, "--golds", "hmmt25_nov")


def test_repaired_golds_name_their_problems(capsys):
    rows = command.golds(None, str(shared("benchmarks")))
    lost = next(row for row in rows if row["reason"] == "backslash lost")
    assert (lost["benches"], lost["problems"]) == (["hmmt25_nov"], ["hmmt25_nov-019"])  # the file's twentieth
    assert all(row["problems"] for row in rows)
