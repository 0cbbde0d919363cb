"""What names mean: models on the hub without the hub, prompts in the layouts of others, pins that follow content."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pandas as pd
import pytest

from harness.errors import UserError
from harness.runs import assets
from tests.mini_grid import GRID as MINI
from trainer.config import Data

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub client with a cache of its own, laid out as the client lays it out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assets._snapshot.cache_clear()
    return tmp_path


def cached(hub: Path, kind: str, repo: str, files: dict[str, bytes | Path]) -> Path:
    root = hub / f"{kind}--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return snapshot


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hub:Qwen/Qwen3-4B", ("Qwen/Qwen3-4B", None, None)),
        (f"hub:Qwen/Qwen3-4B@{COMMIT}", ("Qwen/Qwen3-4B", COMMIT, None)),
        ("hub:o/d:a/b.parquet", ("o/d", None, "a/b.parquet")),
        ("hub:o/d@refs/convert:b.parquet", ("o/d", "refs/convert", "b.parquet")),
    ],
)
def test_hub_names_are_taken_apart(name: str, parts: tuple[Any, ...]) -> None:
    assert assets.hub_name(name) == parts


@pytest.mark.parametrize("name", ["hub:", "hub:Qwen3-4B", "hub:a/b/c", "hub:a/b@", "hub:a b/c", "hub:a/b:c:d"])
def test_what_is_no_hub_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"no name on the hub.*hub:OWNER/MODEL"):
        assets.model_folder(name)


# --- models ---------------------------------------------------------------------------------------------------


def test_a_fetched_model_is_a_folder_and_its_commit_is_known(hub: Path) -> None:
    snapshot = cached(hub, "models", "me/student", {"config.json": b"{}"})
    assert assets.model_folder("hub:me/student") == snapshot
    spec = replace(MINI.base, student="hub:me/student")
    assert assets.commits(spec) == {"hub:me/student": COMMIT}
    assert assets.commits(MINI.base) == assets.commits(None) == {}


def test_a_model_that_the_hub_does_not_give_is_one_sentence(hub: Path) -> None:
    with pytest.raises(UserError, match=r"hub:me/absent cannot be fetched.*name the local copy") as refused:
        assets.model_folder("hub:me/absent")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="names a file, where a model is wanted"):
        assets.model_folder("hub:me/data:x.parquet")


def test_a_pin_is_the_same_before_and_after_the_download(hub: Path) -> None:
    spec = replace(MINI.base, student="hub:me/student", data=Data("hub:me/data:x.parquet"))
    before = assets.pin(spec)
    assert dict(before.digests) | {"toy:teacher-math": ""} == {
        "hub:me/student": "hub:me/student@main",
        "hub:me/data:x.parquet": "hub:me/data@main:x.parquet",
        "toy:teacher-math": "",
    }
    cached(hub, "models", "me/student", {"config.json": b"{}"})
    cached(hub, "datasets", "me/data", {"x.parquet": b""})
    assert assets.pin(spec) == before
    assets.check_pins(before)
    # two models of one owner and one revision are two models; a revision is another run
    assert len({assets.model_digest(f"hub:me/{name}") for name in ("a", "b", "a@v1")}) == 3


def test_a_pin_follows_the_content_of_local_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(assets.TOY_MODELS["toy:student"], model)
    data = tmp_path / "train.jsonl"
    data.write_text('{"problem": "1+1", "answer": "2"}\n')
    spec = assets.pin(replace(MINI.base, student=str(model), data=Data(str(data))))
    assert dict(spec.digests)[str(data)] == hashlib.sha256(data.read_bytes()).hexdigest()[:16]
    assert dict(spec.digests)[str(model)] == assets.model_digest("toy:student"), "the same content elsewhere"
    assets.check_pins(spec)
    config = model / "generation_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(UserError, match=rf"{model} changed while the run was waiting"):
        assets.check_pins(spec)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("toy:teacher-math", "toy-teacher-math"),
        (f"hub:Qwen/Qwen3-4B@{COMMIT}", "Qwen3-4B"),
        ("/models/my model/", "my-model"),
        ("..", "model"),
    ],
)
def test_names_of_folders_are_short(name: str, short: str) -> None:
    assert assets.short_name(name) == short


# --- prompts --------------------------------------------------------------------------------------------------


def rows(count: int = 5) -> list[dict[str, Any]]:
    """As verl writes them."""
    return [
        {
            "data_source": "DeepMath-103K",
            "prompt": [{"role": "user", "content": f"What is {i} + 1?"}],
            "reward_model": {"ground_truth": str(i + 1), "style": "rule"},
            "extra_info": {"index": i, "opd_teacher": "code" if i % 2 else "math"},
        }
        for i in range(count)
    ]


def table(path: Path, content: list[dict[str, Any]]) -> Path:
    pd.DataFrame(content).to_parquet(path)
    return path


def test_a_parquet_table_in_verls_layout_gives_prompts(tmp_path: Path) -> None:
    source = assets.open_source(Data(str(table(tmp_path / "x.parquet", rows()))), seed=0)
    batch = source.batch(0, 5)
    assert sorted(p.text for p in batch) == [f"What is {i} + 1?" for i in range(5)]
    assert {(p.text, p.answer, p.domain) for p in batch} >= {
        ("What is 1 + 1?", "2", "code"),
        ("What is 2 + 1?", "3", "math"),
    }
    # an epoch holds every prompt once, the next one in another order; the same step gives the same prompts
    assert [p.id for p in source.batch(1, 5)] != [p.id for p in batch] and source.batch(0, 5) == batch
    assert {p.id for p in source.batch(1, 5)} == {p.id for p in batch}


def test_a_plain_parquet_table_gives_prompts(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", [{"problem": "1+1", "answer": 2}, {"problem": "2+2", "answer": 4}])
    found = {(p.text, p.answer, p.domain) for p in assets.open_source(Data(str(path)), 0).batch(0, 2)}
    assert found == {("1+1", "2", ""), ("2+2", "4", "")}


def test_prompts_from_the_hub(hub: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "local.parquet", rows())
    cached(hub, "datasets", "me/data", {"a/x.parquet": path})
    assert len({p.id for p in assets.open_source(Data("hub:me/data:a/x.parquet"), 0).batch(0, 5)}) == 5
    with pytest.raises(UserError, match="names no file of the data set"):
        assets.open_source(Data("hub:me/data"), 0)
    with pytest.raises(UserError, match="cannot be fetched"):
        assets.open_source(Data("hub:me/data:b.parquet"), 0)


def test_a_file_of_published_runs_must_be_that_file(hub: Path, tmp_path: Path) -> None:
    known = "hub:Keven16/G-OPD-Training-Data:Eurus/code_train.parquet"
    path = table(tmp_path / "local.parquet", rows())
    cached(hub, "datasets", "Keven16/G-OPD-Training-Data", {"Eurus/code_train.parquet": path})
    with pytest.raises(UserError, match=r"not the file that the published runs used \(SHA-256 .*not ea31611a8f32e2fc"):
        assets.open_source(Data(known), 0)
    spec = replace(MINI.base, data=Data(known))
    assert dict(assets.pin(spec).digests)[known].startswith("ea31611a8f32e2fcf3f24a48")
