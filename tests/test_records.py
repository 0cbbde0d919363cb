from __future__ import annotations

import json

import pandas as pd
import pytest

from harness import records
from harness.errors import UserError


def test_append_and_read_round_trip_hostile_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "\u2028 </script> \x00 é \ud800".encode("utf-8", "replace").decode()}, {"text": "x\ny"}]
    records.append_jsonl(path, rows[:1])
    records.append_jsonl(path, rows[1:])
    assert records.read_jsonl(path) == rows


def test_an_unfinished_last_line_is_cut_off_once_and_for_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert records.read_jsonl(path, repair=True) == [{"a": 1}, {"a": 2}]
    records.append_jsonl(path, [{"a": 3}])
    assert records.read_jsonl(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_broken_row_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\nnonsense\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2"):
        records.read_jsonl(path)


def test_cut_keeps_the_rows_up_to_a_step_byte_for_byte(tmp_path):
    path = tmp_path / "rows.jsonl"
    records.append_jsonl(path, [{"step": i, "loss": 0.1 * i, "kl": float("nan")} for i in (1, 3, 3, 5)])
    before = path.read_bytes().split(b"\n")
    path.write_bytes(path.read_bytes() + b'{"step": 6, "lo')  # torn by a kill
    records.cut_jsonl(path, 3)
    assert path.read_bytes() == b"\n".join(before[:3]) + b"\n"
    records.cut_jsonl(tmp_path / "absent.jsonl", 3)
    assert not (tmp_path / "absent.jsonl").exists()


def test_a_torn_last_line_is_no_row_even_unrepaired(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert list(records.iter_jsonl(path)) == [{"a": 1}]
    assert path.read_text().endswith('{"a": 2')


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    records.write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        records.write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_save_and_load(tmp_path):
    frame = pd.DataFrame({"arm": ["opd"], "seed": [0], "answer": [None]})
    kept = records.Records({"grid": "g"}, frame, frame, frame)
    records.save(kept, tmp_path / "g")
    again = records.load(tmp_path / "g")
    assert again.manifest == {"grid": "g"}
    assert again.samples["arm"].tolist() == ["opd"]
    (tmp_path / "g" / "steps.parquet").write_text("broken")
    with pytest.raises(UserError, match="cannot be read"):
        records.load(tmp_path / "g")


def test_unknown_name_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    (tmp_path / "records" / "main").mkdir(parents=True)
    (tmp_path / "records" / "main" / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="kept are main"):
        records.load("mian")
