from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from harness.answers import CHECKER_VERSIONS
from harness.benchmarks import load_benchmark, render_prompt
from harness.errors import UserError
from harness.evaluation import EvalPlan, evaluate, generate, regrade, toy_plan
from harness.evaluation.evaluations import COLUMNS, graded, load_evaluation, problems
from harness.evaluation.responders import ReplayResponder, Response
from harness.records import iter_jsonl


class Scripted:
    """Right on even samples, wrong on odd ones; counts what it is asked."""

    block, name, engine, redraw = 7, "scripted", "scripted", True

    def __init__(self, golds, redraw=True):
        self.golds, self.asked, self.redraw = golds, [], redraw

    def rendered(self, texts):
        return None

    def answer(self, wanted):
        self.asked += [(one.problem, one.sample) for one in wanted]
        for one in wanted if self.redraw else reversed(wanted):  # a server answers in any order
            right = self.golds[one.problem] if one.sample % 2 == 0 else "no"
            yield Response(one.problem, one.sample, rf"\boxed{{{right}}} seed {one.seed}", 5, "stop")


@pytest.fixture
def bench():
    return load_benchmark("toy-aime")


def golds(bench):
    return {p.id: p.answer for p in bench.problems}


def draw(responder, bench, plan, path, header=None):
    """Generates into a file; returns the rows behind the header."""
    texts = {p.id: render_prompt(p, plan.style) for p in bench.problems}
    generate(responder, texts, plan, header or {"responder": responder.name}, path)
    return list(iter_jsonl(path))[1:]


def test_every_sample_once_with_its_own_seed(bench, tmp_path):
    rows = draw(Scripted(golds(bench)), bench, toy_plan("toy-aime", 3), tmp_path / "g.jsonl")
    assert len(rows) == 90
    assert len({(row["problem"], row["sample"]) for row in rows}) == 90
    assert len({row["response"].split("seed ")[1] for row in rows}) == 90


@pytest.mark.parametrize("redraw", [True, False])
def test_a_larger_k_keeps_the_first_samples(bench, tmp_path, redraw):
    path = tmp_path / "g.jsonl"
    first = draw(Scripted(golds(bench), redraw), bench, toy_plan("toy-aime", 2), path)
    again = Scripted(golds(bench), redraw)
    more = draw(again, bench, toy_plan("toy-aime", 4), path)
    assert more[:60] == first
    # 60 is no multiple of the block of 7: a redrawing engine draws one block again whole, its 4 known samples are not
    # written twice; another is asked for what is missing only.
    assert len(more) == 120
    assert len(again.asked) == (64 if redraw else 60)


def test_a_truncated_file_is_completed_to_the_same_bytes(bench, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    draw(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), whole)
    data = whole.read_bytes()
    for size in (0, 10, len(data) // 3, len(data) // 2, len(data) - 5):
        cut.write_bytes(data[:size])
        draw(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), cut)
        assert cut.read_bytes() == data


def test_generations_of_another_setting_are_refused(bench, tmp_path):
    evaluate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 1), tmp_path)
    with pytest.raises(UserError, match="differs in sampling"):
        evaluate(Scripted(golds(bench)), bench, replace(toy_plan("toy-aime", 1), temperature=0.5), tmp_path)
    with pytest.raises(UserError, match="differs in prompt_hash"):
        evaluate(Scripted(golds(bench)), bench, replace(toy_plan("toy-aime", 1), style="paper"), tmp_path)
    with pytest.raises(UserError, match="differs in thinking"):
        evaluate(Scripted(golds(bench)), bench, replace(toy_plan("toy-aime", 1), thinking=True), tmp_path)
    other = Scripted(golds(bench))
    other.name = "another"
    with pytest.raises(UserError, match="an evaluation of scripted, not of another"):
        evaluate(other, bench, toy_plan("toy-aime", 1), tmp_path)


def test_rows_verdicts_and_manifest(bench, tmp_path):
    evaluate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), tmp_path)
    found = load_evaluation(tmp_path)
    assert found.samples["correct"].tolist() == [True] * 30 + [False] * 30
    assert found.samples["problem"].tolist() == [p.id for p in bench.problems] * 2
    assert tuple(found.samples.columns) == COLUMNS
    entry = found.benches["toy-aime"]
    assert (entry["n"], entry["k"], entry["style"], entry["limit"]) == (30, 2, "plain", None)
    assert entry["checkers"] == CHECKER_VERSIONS
    assert problems(tmp_path, "toy-aime")[bench.problems[3].id]["gold"] == bench.problems[3].answer
    row = graded(tmp_path, "toy-aime")[0]
    assert row["answer"] == row["answer_paper"] == row["parsed"] == golds(bench)[row["problem"]]
    assert row["reason"] and row["reason_paper"]


def test_grading_again_needs_the_folder_only(bench, tmp_path):
    evaluate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), tmp_path)
    path = tmp_path / "toy-aime.graded.jsonl"
    kept = path.read_bytes()
    path.unlink()
    assert regrade(tmp_path) == []  # the manifest says that this version graded it
    assert regrade(tmp_path, force=True) == ["toy-aime"]
    assert path.read_bytes() == kept
    manifest = json.loads((tmp_path / "evaluation.json").read_text())
    manifest["benches"]["toy-aime"]["checkers"]["strict"] = "strict-0"
    (tmp_path / "evaluation.json").write_text(json.dumps(manifest))
    assert regrade(tmp_path) == ["toy-aime"]
    assert load_evaluation(tmp_path).benches["toy-aime"]["checkers"] == CHECKER_VERSIONS


def test_fewer_samples_than_there_are_grades_the_first(bench, tmp_path):
    evaluate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 4), tmp_path)
    evaluate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 1), tmp_path)
    found = load_evaluation(tmp_path)
    assert found.benches["toy-aime"]["k"] == 1
    assert len(found.samples) == 30 and found.samples["correct"].all()


def test_replay_grades_responses_made_elsewhere(bench, tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [{"problem": i, "response": rf"\boxed{{{p.answer}}}"} for i, p in enumerate(bench.problems[:10])]
    lines += [{"problem": p.id, "response": "I give up </script>\x00"} for p in bench.problems[10:]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate(ReplayResponder(path, bench), bench, toy_plan("toy-aime", 1), tmp_path / "out")
    samples = load_evaluation(tmp_path / "out").samples
    assert samples["correct"].sum() == 10
    assert samples["answer"][10:].isna().all()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"problem": 0}', "line 1: no text in the column 'response'"),
        ('{"problem": 77, "response": "x"}', "line 1: no problem 77"),
        ('{"problem": 0, "response": "x", "sample": "a"}', "line 1: sample 'a'"),
        ("{", "line 1: not valid JSON"),
        ("[1]", "line 1: expected a JSON object"),
    ],
)
def test_replay_names_the_bad_line(bench, tmp_path, line, says):
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=says.replace("(", r"\(")):
        ReplayResponder(path, bench)


def test_replay_says_which_sample_is_missing(bench, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"problem": 0, "response": "x"}\n')
    with pytest.raises(UserError, match="has no sample 0 of problem"):
        draw(ReplayResponder(path, bench), bench, toy_plan("toy-aime", 1), tmp_path / "g.jsonl")


@pytest.mark.parametrize("setting", [{"k": 0}, {"k": 1, "limit": 0}])
def test_impossible_plans_are_refused(setting):
    with pytest.raises(UserError):
        EvalPlan("toy-aime", max_tokens=8, **setting)


KILLED = """
import sys, time
from pathlib import Path
from harness.benchmarks import load_benchmark
from harness.evaluation import toy_plan
from tests.test_evaluate import Scripted, draw, golds
class Slow(Scripted):
    def answer(self, wanted):
        for response in super().answer(wanted):
            time.sleep(0.003)
            yield response
bench = load_benchmark("toy-aime")
print("ready", flush=True)
draw(Slow(golds(bench), redraw=sys.argv[2] == "redraw"), bench, toy_plan("toy-aime", 8), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("redraw", [True, False])
def test_killed_ten_times_while_generating_each_sample_ends_up_exactly_once(bench, tmp_path, redraw):
    path = tmp_path / "g.jsonl"
    for kill in range(10):
        words = [sys.executable, "-c", KILLED, str(path), "redraw" if redraw else ""]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
        child.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.02 + 0.007 * kill)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    rows = draw(Scripted(golds(bench), redraw), bench, toy_plan("toy-aime", 8), path)
    assert len(rows) == 240
    assert len({(row["problem"], row["sample"]) for row in rows}) == 240
