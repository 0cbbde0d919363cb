from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from trainer.data import FilePrompts, Prompt, Shelf, derive_seed, read_jsonl
from trainer.errors import UserError


def written(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


def test_columns_and_their_defaults(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"problem": "1+1", "answer": 2, "domain": "math", "id": "a"},
        "",
        {"prompt": "print('ü')"},
        {"problem": "x", "answer": None, "domain": None, "id": None},
    )
    for source in (FilePrompts(path, 0, duplicates="keep"), FilePrompts(path, 0)):
        assert list(source.prompts) == [
            Prompt("a", "1+1", "math", "2"),
            Prompt("3", "print('ü')"),
            Prompt("4", "x"),
        ]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"problem": "x"}', "{nonsense"], "line 2: not valid JSON"),
        (["[1, 2]"], "line 1: expected a JSON object, found list"),
        (['{"answer": "2"}'], "line 1: no text in the column 'problem' or 'prompt'"),
        (['{"problem": ""}'], "line 1: no text"),
        (['{"problem": 7}'], "line 1: no text"),
        ([""], "holds no prompts"),
        (["[" * 100_000], "line 1"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, lines: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        FilePrompts(written(tmp_path, *lines), 0)
    assert "prompts.jsonl" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        FilePrompts(tmp_path / "none.jsonl", 0)
    with pytest.raises(UserError, match="is a folder"):
        FilePrompts(tmp_path, 0)
    binary = tmp_path / "x.jsonl"
    binary.write_bytes(b'{"problem": "\xff\xfe"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        FilePrompts(binary, 0)


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": 1}, "", "   ", {"a": 2})
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": 2})]


@given(count=st.integers(1, 13), size=st.integers(1, 9), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_every_epoch_is_a_permutation_and_a_batch_a_function_of_its_step(
    tmp_path_factory: pytest.TempPathFactory, count: int, size: int, seed: int
) -> None:
    path = written(tmp_path_factory.mktemp("data"), *({"problem": f"p{i}", "id": str(i)} for i in range(count)))
    source = FilePrompts(path, seed)
    steps = range(3 * count // size + 2)
    batches = {step: source.batch(step, size) for step in steps}
    stream = [prompt.id for step in steps for prompt in batches[step]]
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(map(int, stream[start : start + count])) == list(range(count))
    fresh = FilePrompts(path, seed)
    for step in reversed(steps):  # out of order, as after a resume
        assert fresh.batch(step, size) == batches[step]


def test_the_order_is_the_one_it_has_always_been(tmp_path: Path) -> None:
    path = written(tmp_path, *({"problem": f"p{i}"} for i in range(100)))
    for epoch in (0, 3):
        order = list(range(100))
        random.Random(derive_seed(5, "epoch", epoch)).shuffle(order)
        for source in (FilePrompts(path, 5, duplicates="keep"), FilePrompts(path, 5)):
            assert [p.text for p in source.batch(epoch, 100)] == [f"p{i}" for i in order]
    assert [p.text for p in FilePrompts(path, 5).batch(0, 6)] == ["p96", "p99", "p61", "p95", "p36", "p48"]


def test_seeds_give_other_orders(tmp_path: Path) -> None:
    path = written(tmp_path, *({"problem": f"p{i}"} for i in range(30)))
    orders = {tuple(p.id for p in FilePrompts(path, seed).batch(epoch, 30)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_derived_seeds() -> None:
    assert derive_seed(0, "a") == derive_seed(0, "a")
    assert 0 <= derive_seed("x") < 2**63
    parts = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a1"), ("0a", 1), (0, "a", 1, "")]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    near = [derive_seed(run, step, 0) for run in range(3) for step in range(100)]
    assert min(abs(a - b) for i, a in enumerate(near) for b in near[:i]) > 1000  # no run of seeds overlaps another's


# --- formats --------------------------------------------------------------------------------------------------


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def verl(i: int, **more: Any) -> dict[str, Any]:
    return {
        "data_source": "DeepMath-103K",
        "prompt": user(f"What is {i} + 1?"),
        "ability": "math",
        "reward_model": {"ground_truth": str(i + 1), "style": "rule"},
        "extra_info": {"index": i, "opd_teacher": "code" if i % 2 else "math"},
    } | more


def opened(tmp_path: Path, kind: str, rows: list[dict[str, Any]], **options: Any) -> FilePrompts:
    if kind == "jsonl":
        return FilePrompts(written(tmp_path, *rows), 0, **options)
    pd.DataFrame(rows).to_parquet(path := tmp_path / "prompts.parquet")
    return FilePrompts(path, 0, **options)


KINDS = pytest.mark.parametrize("kind", ["jsonl", "parquet"])


@KINDS
def test_verls_format(tmp_path: Path, kind: str) -> None:
    source = opened(tmp_path, kind, [verl(i) for i in range(3)])
    first = 1 if kind == "jsonl" else 0  # lines are counted from 1, rows from 0
    assert list(source.prompts) == [
        Prompt(str(first), "What is 0 + 1?", "math", "1"),
        Prompt(str(first + 1), "What is 1 + 1?", "code", "2"),
        Prompt(str(first + 2), "What is 2 + 1?", "math", "3"),
    ]
    assert source.domains == {"math": 2, "code": 1}
    assert source.report == (
        f"{tmp_path}/prompts.{kind}: 3 prompts of 3 rows; read as verl's format: text from prompt, answer from "
        "reward_model.ground_truth, domain from extra_info.opd_teacher; domains code 1, math 2"
    )


@KINDS
def test_the_data_source_is_the_domain_where_nothing_else_is(tmp_path: Path, kind: str) -> None:
    rows = [verl(i, extra_info={"index": i, "opd_teacher": "code" if i == 1 else None}) for i in range(3)]
    source = opened(tmp_path, kind, rows)
    assert [p.domain for p in source.prompts] == ["DeepMath-103K", "code", "DeepMath-103K"]
    assert "domain from data_source (2), domain from extra_info.opd_teacher (1)" in source.report


@KINDS
def test_messages(tmp_path: Path, kind: str) -> None:
    rows = [{"messages": user("a"), "answer": "1"}, {"messages": [*user("b"), {"role": "assistant", "content": "no"}]}]
    source = opened(tmp_path, kind, rows)
    assert [(p.text, p.answer, p.domain) for p in source.prompts] == [("a", "1", ""), ("b", None, "")]
    assert "read as messages: text from messages, answer from answer (1)" in source.report


@KINDS
def test_a_chat_without_verls_columns(tmp_path: Path, kind: str) -> None:
    source = opened(tmp_path, kind, [{"prompt": user("a"), "domain": "math"}])
    assert list(source.prompts) == [Prompt("1" if kind == "jsonl" else "0", "a", "math")]
    assert "read as chat: text from prompt, domain from domain" in source.report


def test_numbers_of_tables_and_of_json(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"problem": f"p{i}", "answer": a} for i, a in enumerate((27, None, 2.5, 1e300))]
    table = opened(tmp_path, "parquet", rows)  # the column is of floats, and the hole NaN or null
    assert [p.answer for p in table.prompts] == ["27", None, "2.5", "1e+300"]
    lines = opened(tmp_path, "jsonl", [*rows, {"problem": "p4", "answer": 27.0}, {"problem": "p5", "answer": True}])
    assert [p.answer for p in lines.prompts] == ["27", None, "2.5", "1e+300", "27.0", "True"]


@KINDS
def test_an_answer_that_is_no_text_is_counted(tmp_path: Path, kind: str) -> None:
    rows = [verl(i, reward_model={"ground_truth": ["1", "2"]}) for i in range(3)]
    source = opened(tmp_path, kind, rows)
    assert [p.answer for p in source.prompts] == [None] * 3
    assert "no text in reward_model.ground_truth" in source.report


def test_hostile_texts_come_back_as_they_are(tmp_path: Path) -> None:
    texts = ["\0", "<script>", "\u202eltr", "half a pair \ud83d", "long " * 20_000, "line\nfeed", "\u2028", '{"a": 1}']
    source = opened(tmp_path, "jsonl", [{"problem": text} for text in texts])
    assert [p.text for p in source.prompts] == texts
    assert sorted(p.text for p in source.batch(0, len(texts))) == sorted(texts)


SYSTEM = [{"role": "system", "content": "Be brief."}, *user("1+1")]
AMBIGUOUS = [
    (
        {"problem": "1+1", "prompt": "2+2"},
        "both 'problem' and 'prompt' could be the problem: say which with data.column",
    ),
    ({"prompt": user("1+1"), "messages": user("2+2")}, "both 'prompt' and 'messages' could be the problem"),
    (
        {"problem": "x", "answer": "1", "reward_model": {"ground_truth": "2"}},
        "'answer' is '1' and 'reward_model.gr.*' '2'",
    ),
    (
        {"problem": "x", "domain": "a", "extra_info": {"opd_teacher": "b"}},
        "'domain' is 'a' and 'extra_info.opd_t.*' 'b'",
    ),
    ({"prompt": SYSTEM}, "its prompt is a chat of system, user messages, and a rollout starts from one user message"),
    ({"messages": SYSTEM}, "its messages is a chat of system, user messages"),
    ({"prompt": [*user("a"), {"role": "assistant", "content": "b"}]}, "a chat of user, assistant messages"),
    ({"messages": [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]}, "a chat of user, assistant, user"),
    ({"prompt": user("")}, "no text in the column 'prompt'"),
    ({"messages": [{"role": "user"}]}, "no text in the column 'messages'"),
    ({"question": "1+1", "answer": "2"}, "no text in the column 'problem' or 'prompt', and no chat"),
]


@KINDS
@pytest.mark.parametrize(("row", "says"), AMBIGUOUS, ids=[str(i) for i in range(len(AMBIGUOUS))])
def test_what_can_be_read_in_two_ways_or_none_is_refused(
    tmp_path: Path, kind: str, row: dict[str, Any], says: str
) -> None:
    where = "line 1" if kind == "jsonl" else "row 0"
    with pytest.raises(UserError, match=rf"prompts\.{kind}, {where}: .*{says}"):
        opened(tmp_path, kind, [row])


@KINDS
def test_the_same_thing_said_twice_is_no_contradiction(tmp_path: Path, kind: str) -> None:
    row = {"problem": "x", "answer": "2", "reward_model": {"ground_truth": "2"}, "domain": "a"}
    assert [p.answer for p in opened(tmp_path, kind, [row]).prompts] == ["2"]


def test_two_formats_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 2: reads as verl's format, the rows before it as plain"):
        opened(tmp_path, "jsonl", [{"prompt": "text"}, verl(1)])


@KINDS
def test_a_column_named_by_hand(tmp_path: Path, kind: str) -> None:
    rows = [{"problem": "a", "prompt": "b", "question": "c", "messages": user("d")}]
    for column, text in (("problem", "a"), ("prompt", "b"), ("question", "c"), ("messages", "d")):
        assert [p.text for p in opened(tmp_path, kind, rows, column=column).prompts] == [text]
    with pytest.raises(UserError, match="no text in the column 'task', and no chat"):
        opened(tmp_path, kind, rows, column="task")


def test_tables_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet does not exist: name a parquet file"):
        FilePrompts(tmp_path / "none.parquet", 0)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"x\.parquet cannot be read as parquet"):
        FilePrompts(tmp_path / "x.parquet", 0)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match=r"folder\.parquet is a folder"):
        FilePrompts(tmp_path / "folder.parquet", 0)


# --- what is left out -----------------------------------------------------------------------------------------


@KINDS
def test_copies_are_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    rows = [{"problem": f"p{i % 3}", "answer": str(i % 3), "domain": "math"} for i in range(300)]
    rows[100] = {"problem": "p1", "answer": "another", "domain": "math"}
    rows.append({"problem": "p1", "answer": "1", "domain": "code"})  # for another teacher: no copy
    source = opened(tmp_path, kind, rows)
    assert [(p.text, p.answer, p.domain) for p in source.prompts] == [
        ("p0", "0", "math"),
        ("p1", "1", "math"),
        ("p2", "2", "math"),
        ("p1", "1", "code"),
    ]
    assert "4 prompts of 301 rows; left out 297 copies (1 with another answer than the first); read as" in source.report
    kept = opened(tmp_path, kind, rows, duplicates="keep")
    assert len(kept.prompts) == 301 and "left out" not in kept.report


def test_prompts_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"problem": "w " * n} for n in (1, 2, 3, 4, 5)]
    source = opened(tmp_path, "jsonl", rows, max_prompt=3, count=lambda text: len(text.split()))
    assert [len(p.text.split()) for p in source.prompts] == [1, 2, 3]
    assert "3 prompts of 5 rows; left out 2 of more than 3 tokens; read as plain" in source.report
    with pytest.raises(UserError, match=r"holds no prompt of up to 0 tokens: raise data\.max_prompt"):
        opened(tmp_path, "jsonl", rows, max_prompt=0, count=lambda text: len(text.split()))


def test_reading_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[int] = []
    opened(tmp_path, "jsonl", [{"problem": f"p{i}"} for i in range(3000)], progress=told.append)
    assert told == [1024, 2048]


# --- memory ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(), st.text(), st.text(), st.none() | st.text()), max_size=8))
@settings(deadline=None, max_examples=50)
def test_a_shelf_is_a_list(rows: list[tuple[str, str, str, str | None]]) -> None:
    shelf, expected = Shelf(), [Prompt(*row) for row in rows]
    for i, prompt in enumerate(expected):
        shelf.append(prompt)
        assert shelf[i] == shelf[-1] == prompt
    assert list(shelf) == expected and len(shelf) == len(expected)
    assert shelf[1:] == expected[1:] and shelf[::-1] == expected[::-1]
    for beyond in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            shelf[beyond]


PEAK = """
import sys
from pathlib import Path
import pyarrow.parquet
from trainer.data import FilePrompts

def peak():  # of this program: getrusage remembers the one that started it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

before = peak()
source = FilePrompts(Path(sys.argv[1]), 0)
assert len(source.batch(3, 64)) == 64
print(peak() - before)
"""


@KINDS
def test_memory_does_not_grow_with_the_texts(tmp_path: Path, kind: str) -> None:
    rows = [{"problem": f"{i:06} " + "word " * 2000, "answer": "1"} for i in range(6_000)]  # 60 MB of prompts
    path = tmp_path / f"x.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert path.stat().st_size > 60_000_000
    else:
        pd.DataFrame(rows).to_parquet(path, row_group_size=500)
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, cwd=ROOT, check=True)
    assert int(done.stdout) < 40_000_000
