from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import JsonlPrompts, Prompt, derive_seed, read_jsonl
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
    assert JsonlPrompts(path, 0).prompts == [
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
        JsonlPrompts(written(tmp_path, *lines), 0)
    assert "prompts.jsonl" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl does not exist"):
        JsonlPrompts(tmp_path / "none.jsonl", 0)
    with pytest.raises(UserError, match="is a folder"):
        JsonlPrompts(tmp_path, 0)
    binary = tmp_path / "x.jsonl"
    binary.write_bytes(b'{"problem": "\xff\xfe"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        JsonlPrompts(binary, 0)


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": 1}, "", "   ", {"a": 2})
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": 2})]


@given(count=st.integers(1, 13), size=st.integers(1, 9), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_every_epoch_is_a_permutation_and_a_batch_a_function_of_its_step(
    tmp_path_factory: pytest.TempPathFactory, count: int, size: int, seed: int
) -> None:
    path = written(tmp_path_factory.mktemp("data"), *({"problem": f"p{i}", "id": str(i)} for i in range(count)))
    source = JsonlPrompts(path, seed)
    steps = range(3 * count // size + 2)
    batches = {step: source.batch(step, size) for step in steps}
    stream = [prompt.id for step in steps for prompt in batches[step]]
    for start in range(0, len(stream) - count + 1, count):
        assert sorted(map(int, stream[start : start + count])) == list(range(count))
    fresh = JsonlPrompts(path, seed)
    for step in reversed(steps):  # out of order, as after a resume
        assert fresh.batch(step, size) == batches[step]


def test_seeds_give_other_orders(tmp_path: Path) -> None:
    path = written(tmp_path, *({"problem": f"p{i}"} for i in range(30)))
    orders = {tuple(p.id for p in JsonlPrompts(path, seed).batch(epoch, 30)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_derived_seeds() -> None:
    assert derive_seed(0, "a") == derive_seed(0, "a")
    assert 0 <= derive_seed("x") < 2**63
    parts = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), (0, "a1"), ("0a", 1), (0, "a", 1, "")]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    near = [derive_seed(run, step, 0) for run in range(3) for step in range(100)]
    assert min(abs(a - b) for i, a in enumerate(near) for b in near[:i]) > 1000  # no run of seeds overlaps another's
