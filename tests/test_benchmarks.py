"""The registry and its loaders: what is accepted, what is refused and in which words, and what a model is shown."""

from __future__ import annotations

import hashlib
import json
import re
import sys

import pandas as pd
import pytest

from harness.benchmarks import (
    BENCHMARKS,
    INSTRUCTION,
    BenchProblem,
    load_benchmark,
    prompt_hash,
    render_prompt,
    strip_instruction,
)
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
    assert len({p.id for p in loaded.problems}) == loaded.spec.n
    assert not any("step by step, and put" in p.problem or p.problem != p.problem.strip() for p in loaded.problems)
    assert all(p.answer and p.domain == "math" for p in loaded.problems)


@pytest.mark.parametrize("name", LOCAL)
def test_prompts_of_released_files(name):
    """clean: the instruction once. paper: byte for byte the file's text with the instruction appended once more."""
    loaded = load_benchmark(name, shared("benchmarks"))
    with open(loaded.source, encoding="utf-8") as lines:
        stored = [json.loads(line)["problem"] for line in lines]
    assert [render_prompt(p, "paper") for p in loaded.problems] == [f"{text}\n{INSTRUCTION}" for text in stored]
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


def test_hub_rows(monkeypatch):
    """The hub's own columns, ids and list answers; a fake client, because tests have no network."""

    class Client:
        @staticmethod
        def load_dataset(hub_id, config, split, revision):
            assert (hub_id, config, split) == ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train")
            return [{"id": 1600 + i, "question": f"q{i}", "final_answer": ["1", "-2"]} for i in range(674)]

    monkeypatch.setitem(sys.modules, "datasets", Client)
    loaded = load_benchmark("olympiadbench")
    assert loaded.problems[0] == BenchProblem("olympiadbench-000", "q0", "1, -2", "math", "olympiadbench-000", "q0")
    assert loaded.source == "Hothan/OlympiadBench"


def test_hub_failure_is_one_sentence(monkeypatch):
    class Client:
        @staticmethod
        def load_dataset(*args, **options):
            raise ConnectionError("a long story")

    monkeypatch.setitem(sys.modules, "datasets", Client)
    said = refusal("aime25")
    assert "math-ai/aime25 (ConnectionError)" in said and "--data-dir" in said


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
        ('{"id": "mine-000", "problem": "a", "answer": "5"}', "line 2: the id 'mine-000' appears twice"),
    ],
)
def test_broken_rows_are_named(tmp_path, line, says):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(
        b'{"problem": "1+1?", "answer": "2"}\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    )
    assert f"{file}, {says}" in refusal(file)


def test_empty_and_missing_files(tmp_path):
    assert "does not exist" in refusal(tmp_path / "mine.jsonl")
    (tmp_path / "mine.jsonl").write_text("\n\n")
    assert "holds no problems" in refusal(tmp_path / "mine.jsonl")
    (tmp_path / "mine.parquet").write_bytes(b"no parquet")
    assert "cannot be read as parquet" in refusal(tmp_path / "mine.parquet")


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
