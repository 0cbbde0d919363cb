from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from harness.benchmarks import load_benchmark
from harness.errors import UserError
from harness.evaluate import EvalPlan, ReplayResponder, Response, evaluate, generate, toy_plan


class Scripted:
    """Right on even samples, wrong on odd ones; counts what it is asked."""

    block, name = 7, "scripted"

    def __init__(self, golds):
        self.golds, self.asked = golds, []

    def answer(self, wanted):
        self.asked += [(problem, sample) for problem, _, sample, _ in wanted]
        return [
            Response(p, j, rf"\boxed{{{self.golds[p] if j % 2 == 0 else 'no'}}} seed {seed}", 5, "stop")
            for p, _, j, seed in wanted
        ]


@pytest.fixture
def bench():
    return load_benchmark("toy-aime")


def golds(bench):
    return {p.id: p.answer for p in bench.problems}


def test_every_sample_once_with_its_own_seed(bench, tmp_path):
    responses = generate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 3), tmp_path / "g.jsonl")
    assert len(responses) == 90
    assert len({(r.problem, r.sample) for r in responses}) == 90
    assert len({r.text.split("seed ")[1] for r in responses}) == 90


def test_a_larger_k_keeps_the_first_samples(bench, tmp_path):
    path = tmp_path / "g.jsonl"
    first = generate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), path)
    again = Scripted(golds(bench))
    more = generate(again, bench, toy_plan("toy-aime", 4), path)
    assert more[:60] == first
    # 60 is no multiple of the block of 7: one block is drawn again whole, its known samples are not written twice.
    assert len(path.read_text().splitlines()) == 1 + 120


def test_a_truncated_file_is_completed_to_the_same_bytes(bench, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    generate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), whole)
    data = whole.read_bytes()
    for size in (0, 10, len(data) // 3, len(data) // 2, len(data) - 5):
        cut.write_bytes(data[:size])
        generate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), cut)
        assert cut.read_bytes() == data


def test_generations_of_another_setting_are_refused(bench, tmp_path):
    path = tmp_path / "g.jsonl"
    generate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 1), path)
    with pytest.raises(UserError, match="differs in sampling"):
        generate(Scripted(golds(bench)), bench, replace(toy_plan("toy-aime", 1), temperature=0.5), path)
    with pytest.raises(UserError, match="differs in prompt_hash"):
        generate(Scripted(golds(bench)), bench, replace(toy_plan("toy-aime", 1), style="paper"), path)


def test_rows_and_verdicts(bench, tmp_path):
    rows = evaluate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 2), tmp_path)
    assert [row["correct"] for row in rows] == [True] * 30 + [False] * 30
    assert {row["bench"] for row in rows} == {"toy-aime"}
    kept = [json.loads(line) for line in (tmp_path / "toy-aime.graded.jsonl").read_text().splitlines()]
    assert [row["correct"] for row in kept] == [row["correct"] for row in rows]


def test_replay_grades_responses_made_elsewhere(bench, tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [{"problem": i, "response": rf"\boxed{{{p.answer}}}"} for i, p in enumerate(bench.problems[:10])]
    lines += [{"problem": p.id, "response": "I give up </script>\x00"} for p in bench.problems[10:]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = evaluate(ReplayResponder(path, bench), bench, toy_plan("toy-aime", 1), tmp_path / "out")
    assert sum(row["correct"] for row in rows) == 10
    assert all(row["answer"] is None for row in rows[10:])


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
        generate(ReplayResponder(path, bench), bench, toy_plan("toy-aime", 1), tmp_path / "g.jsonl")


@pytest.mark.parametrize("setting", [{"k": 0}, {"k": 1, "limit": 0}])
def test_impossible_plans_are_refused(setting):
    with pytest.raises(UserError):
        EvalPlan("toy-aime", max_tokens=8, **setting)


KILLED = """
import sys, time
from pathlib import Path
from harness.benchmarks import load_benchmark
from harness.evaluate import generate, toy_plan
from tests.test_evaluate import Scripted, golds
class Slow(Scripted):
    def answer(self, wanted):
        time.sleep(0.02)
        return super().answer(wanted)
bench = load_benchmark("toy-aime")
print("ready", flush=True)
generate(Slow(golds(bench)), bench, toy_plan("toy-aime", 8), Path(sys.argv[1]))
"""


def test_killed_while_generating_each_sample_ends_up_exactly_once(bench, tmp_path):
    path = tmp_path / "g.jsonl"
    for delay in (0.05, 0.11, 0.17, 0.23):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, start_new_session=True
        )
        child.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(delay)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    generate(Scripted(golds(bench)), bench, toy_plan("toy-aime", 8), path)
    rows = [json.loads(line) for line in path.read_text().splitlines()][1:]
    assert len(rows) == 240
    assert len({(row["problem"], row["sample"]) for row in rows}) == 240
