"""`opd check`: each part on what is right, on what is broken, and on what is not at hand."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

import harness.answers
from harness import check
from harness.benchmarks import BENCHMARKS, load_benchmark
from harness.check import HOSTILE, Finding, data, environment, golds, made_up_scores, methods, toy
from harness.commands import check as command
from harness.errors import UserError
from harness.toy import CHECKPOINTS
from tests.conftest import shared
from trainer.losses import Divergence
from trainer.methods import METHODS
from trainer.objective import Objective, Term
from trainer.policy import fingerprint
from trainer.scores import ROW_FIELDS, TOKEN_FIELDS
from trainer.weights import Uniform


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("OPD_DATA", raising=False)


def states(findings) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"right": [], "wrong": [], "absent": []}
    for finding in findings:
        assert "\n" not in finding.what + finding.remedy
        mended = finding.remedy or "; " in finding.what  # a refusal says itself what to do
        assert mended or finding.state == "right", "what is wrong or absent has a remedy"
        found[finding.state].append(f"{finding.what}: {finding.remedy}")
    return found


# --- environment --------------------------------------------------------------------------------------------------


def test_this_environment_is_right(tmp_path):
    found = states(environment.environment(tmp_path))
    assert found["wrong"] == []
    assert any("packages: " in line and "torch" in line for line in found["right"])
    assert any("can be written to" in line for line in found["right"])


def installed(monkeypatch, **versions: str | None):
    """Another set of installed versions: None for what is not installed."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        key = name.replace("-", "_")
        if key in versions and versions[key] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions.get(key) or real(name)  # type: ignore[return-value]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_package_too_old_is_named_with_the_command_that_mends_it(monkeypatch, tmp_path):
    installed(monkeypatch, scipy="1.2.0", rich=None)
    found = states(environment.environment(tmp_path))
    wanted = {r.name: r.specifier for r in map(Requirement, importlib.metadata.requires("opd-harness") or ())}
    assert Version("1.2.0") not in wanted["scipy"]
    assert f"scipy is 1.2.0: pip install 'scipy{wanted['scipy']}'" in found["wrong"]
    assert f"rich is not installed: pip install 'rich{wanted['rich']}'" in found["wrong"]
    assert len(found["wrong"]) == 2


def test_optional_packages_are_never_failures_where_absent(monkeypatch, tmp_path):
    installed(monkeypatch, vllm=None, datasets=None, lm_eval="0.1")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = states(environment.environment(tmp_path))
    assert any("no vllm" in line and "pip install 'opd-harness[vllm]'" in line for line in found["absent"])
    assert any("no datasets" in line and "[hub]" in line for line in found["absent"])
    assert any(line.startswith("no chromium") for line in found["absent"])
    assert [line.split(":")[0] for line in found["wrong"]] == ["lm-eval is 0.1"]  # there, but of no use


def test_a_folder_without_space_or_permission(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "DISK", 10**30)

    def refuse(dir):
        raise PermissionError(13, "no", str(dir))

    monkeypatch.setattr(environment.tempfile, "TemporaryFile", refuse)
    found = states(environment.environment(tmp_path / "not" / "there"))
    assert any("GB free" in line and "OPD_RESULTS" in line for line in found["wrong"])
    assert any("cannot be written to (PermissionError)" in line for line in found["wrong"])
    assert not (tmp_path / "not").exists()  # looking makes nothing


# --- benchmarks ---------------------------------------------------------------------------------------------------


def test_released_files_are_right():
    found = states(data(shared("benchmarks")))
    assert found["wrong"] == [] and sum("as released" in line for line in found["right"]) == 8
    assert ["aime26, hmmt26_feb" in line for line in found["absent"]] == [True]


def test_a_folder_with_a_changed_file_and_a_copy_of_ones_own(tmp_path):
    row = {"problem": "What?", "answer": "1"}
    (tmp_path / "aime24.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(30)))
    (tmp_path / "aime26.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(30)))
    pd.DataFrame([row] * 40).to_parquet(tmp_path / "amc23.parquet")
    found = states(data(tmp_path))
    assert len(found["wrong"]) == 1 and "aime24.jsonl is not the released file" in found["wrong"][0]
    assert any("aime26: 30 problems" in line and "no released file is known" in line for line in found["right"])
    assert any("amc23: 40 problems" in line and "not those released" in line for line in found["absent"])
    assert any("minerva" in line and "opd benchmarks NAME" in line for line in found["absent"])


def test_without_a_folder_only_the_toy_world_is_checked():
    found = states(data())
    assert len(found["right"]) == 1 and "6 toy benchmarks" in found["right"][0]
    assert len(found["absent"]) == 1 and "--data-dir or OPD_DATA" in found["absent"][0]
    with pytest.raises(UserError, match="nowhere does not exist"):
        list(data("/nowhere"))


# --- golds --------------------------------------------------------------------------------------------------------


@pytest.fixture
def only(monkeypatch):
    """A registry of the named benchmarks alone."""

    def keep(*names: str) -> None:
        for name in set(BENCHMARKS) - set(names):
            monkeypatch.delitem(BENCHMARKS, name)
        monkeypatch.setattr(harness.answers, "TIME_LIMITS", {"strict": 5.0, "paper": 1.0})

    return keep


def test_golds_of_the_toy_world_and_hostile_answers(only):
    only("toy-aime")
    progress = []
    found = states(golds(progress=lambda *said: progress.append(said)))
    assert found["wrong"] == []
    assert any(line.startswith("toy-aime: 30 golds pass") for line in found["right"])
    assert any(
        line.startswith(f"{len(HOSTILE)} hostile answers: all got a verdict, none is right") for line in found["right"]
    )


def test_golds_of_the_released_files(only):
    """The small ones; all 1,606 are graded in tests/test_answers.py."""
    only("aime24", "hmmt25_nov")
    found = states(golds(shared("benchmarks")))
    assert found["wrong"] == []
    assert {line.split(":")[0] for line in found["right"]} >= {"aime24", "hmmt25_nov"}


def test_a_gold_that_fails_its_own_grader_is_named(only, monkeypatch):
    only("toy-aime")
    real = harness.answers.grade_many
    bad = load_benchmark("toy-aime").problems[4].id

    def grade_many(items, **options):
        graded = real(items, **options)
        if len(graded) == 30:
            graded[4] = replace(graded[4], strict=replace(graded[4].strict, correct=False))
        else:
            graded[0] = replace(graded[0], strict=replace(graded[0].strict, correct=True))
        return graded

    monkeypatch.setattr(harness.answers, "grade_many", grade_many)
    found = states(golds())
    assert any(f"1 golds fail their own strict grader: {bad}" in line for line in found["wrong"])
    assert any("hostile answers: 0 taken for right" in line for line in found["wrong"])


# --- methods ------------------------------------------------------------------------------------------------------


def test_every_method_of_the_table_plans():
    found = states(methods())
    assert found["wrong"] == found["absent"] == []
    assert any(line.startswith(f"{len(METHODS)} methods plan") for line in found["right"])
    assert any(line.startswith("a third model") and "exopd" in line for line in found["right"])
    assert any(line.startswith("several samples per prompt") and "uni-opd" in line for line in found["right"])
    verified = next(line for line in found["right"] if line.startswith("a verifier"))
    assert {n for n in METHODS if "correct" in METHODS[n].reads} == set(
        verified.split("): ")[1].rstrip(": ").split(", ")
    )


def test_made_up_scores_fill_every_field():
    scores = made_up_scores()
    assert all(getattr(scores, name) is not None for name in (*TOKEN_FIELDS, *ROW_FIELDS))
    assert torch.equal(scores.logprobs, made_up_scores().logprobs)


class Nothing(Uniform):
    """A weight that kills every token."""

    def __call__(self, scores):
        return torch.zeros_like(scores.logprobs)


class Oracle(Divergence):
    """A loss that needs what no teacher has."""

    needs = frozenset({"logits", "truth"})


def test_methods_that_cannot_plan_or_be_served_are_named():
    table = {
        "sound": METHODS["opd"],
        "dead": Objective((Term(METHODS["opd"].terms[0].loss, Nothing()),)),
        "raises": Objective((Term(METHODS["opd"].terms[0].loss, None),)),  # type: ignore[arg-type]
        "greedy": Objective((Term(Oracle(1.0)),)),
    }
    found = states(methods(table))
    assert any("2 methods cannot plan: dead (" in line and "raises (TypeError)" in line for line in found["wrong"])
    assert any("greedy (truth)" in line for line in found["wrong"])
    assert not any("methods plan, and" in line for line in found["right"])


# --- toy models ---------------------------------------------------------------------------------------------------


@pytest.fixture
def student(tmp_path) -> Path:
    """A copy of the toy student whose card holds its fingerprint."""
    shutil.copytree(CHECKPOINTS / "student", tmp_path / "student")
    card = json.loads((tmp_path / "student" / "build.json").read_text())
    card["fingerprint"] = fingerprint(tmp_path / "student")
    (tmp_path / "student" / "build.json").write_text(json.dumps(card))
    return tmp_path / "student"


def test_the_toy_models_are_there():
    found = states(toy())
    assert found["wrong"] == [] and len(found["right"] + found["absent"]) == 6


def test_a_toy_model_is_the_one_of_its_card(student):
    (finding,) = toy({"toy:student": student})
    assert finding == Finding("right", f"toy:student: 245,312 parameters, fingerprint {fingerprint(student)}")
    weights = bytearray((student / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # one bit of one number
    (student / "model.safetensors").write_bytes(weights)
    (finding,) = toy({"toy:student": student})
    assert finding.state == "wrong" and "is not the model of its card" in finding.what


def test_a_card_without_a_fingerprint_is_still_compared_by_size(student):
    card = json.loads((student / "build.json").read_text())
    del card["fingerprint"]
    (student / "build.json").write_text(json.dumps(card))
    assert [finding.state for finding in toy({"toy:student": student})] == ["absent"]
    card["parameters"] += 1
    (student / "build.json").write_text(json.dumps(card))
    assert [finding.state for finding in toy({"toy:student": student})] == ["wrong"]


@pytest.mark.parametrize("missing", ["build.json", "model.safetensors", ""])
def test_half_a_toy_model_is_wrong(student, missing):
    if missing:
        (student / missing).unlink()
    else:
        (student / "model.safetensors").write_bytes(b"\xff" * 100)
    (finding,) = toy({"toy:student": student})
    assert finding.state == "wrong" and "opd toy build" in finding.remedy


# --- the command --------------------------------------------------------------------------------------------------


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.run(parser.parse_args(list(words)))


def test_the_parts_of_command_and_module_are_the_same():
    assert list(command.PARTS) == list(check.PARTS)


def test_the_exit_code_says_whether_anything_is_wrong(monkeypatch, capsys):
    twice = [Finding("right", "fine"), Finding("absent", "no [b]x[/b]", "get x")]
    monkeypatch.setitem(check.PARTS, "data", lambda data_dir, progress: iter(twice))
    monkeypatch.setitem(check.PARTS, "golds", lambda data_dir, progress: iter(twice))
    assert run("--data", "--golds") == 0
    shown = capsys.readouterr().out
    assert shown.splitlines() == ["data", "✓ fine", "– no [b]x[/b]: get x", "golds", "1 right, 0 wrong, 1 not at hand"]
    monkeypatch.setitem(check.PARTS, "toy", lambda progress: iter([Finding("wrong", "broken", "mend it")]))
    assert run("--data", "--toy") == 1
    assert "✗ broken: mend it" in capsys.readouterr().out


def test_methods_and_toy_from_the_command_line(capsys):
    assert run("--methods", "--toy") == 0
    shown = capsys.readouterr().out
    assert "methods plan" in shown and "toy:student" in shown and "environment" not in shown
