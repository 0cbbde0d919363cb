from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.answers import CHECKER_VERSIONS, grade_many
from harness.benchmarks import load_benchmark, render_prompt
from harness.commands import eval as eval_command
from harness.commands import export_lm_eval
from harness.errors import UserError
from harness.evaluation import EvalPlan, enter, evaluate, toy_plan
from harness.evaluation.evaluations import COLUMNS, graded, load_evaluation, problems, responses
from harness.evaluation.responders import ReplayResponder
from harness.lmeval import hooks, is_lm_eval_samples, read_lm_eval_samples, rows, runs
from harness.lmeval.export import export_tasks
from harness.lmeval.rows import Choice, Facts, choose, tables
from harness.runs.assets import model_folder
from harness.stats import avg_at_k
from tests.conftest import ROOT

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

K = 4
RIGHT_FOR_ONE = "+0" * 200  # the released checker cuts a box after 300 characters, the strict one reads on


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("toy-aime")


def plan(k=K, bench="toy-aime", **more):
    return replace(toy_plan(bench, k), **more)


def run_command(*argv):
    parser = argparse.ArgumentParser()
    export_lm_eval.arguments(parser)
    return export_lm_eval.run(parser.parse_args([str(word) for word in argv]))


def answer(problem, sample):
    """A script in which problem i has i % 5 right answers of 4, some right for one checker only, some without a box."""
    index, gold = problem
    if sample < index % 5:
        return rf"so \boxed{{{gold}{RIGHT_FOR_ONE if index % 3 == 0 else ''}}}"
    return rf"\boxed{{{(int(gold) + 1 + sample) % 10}}}" if sample % 2 else "I do not know"


def scripted(texts):
    """A language model for lm-eval that answers the n-th request for a prompt with `texts(prompt, n)`."""
    from lm_eval.api.model import LM

    class Scripted(LM):
        tokenizer_name = "scripted"
        tokenizer = SimpleNamespace(
            encode=lambda text, add_special_tokens: text.split(), chat_template="{{ messages }}"
        )
        max_gen_toks = 256

        def __init__(self):
            super().__init__()
            self.asked = []

        def apply_chat_template(self, history, add_generation_prompt=True):
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in history)

        def generate_until(self, requests):
            given = []
            for request in requests:
                prompt = request.args[0]
                given.append(texts(prompt, sum(prompt == one for one, _ in self.asked)))
                self.asked.append(request.args)
            return given

        def loglikelihood(self, requests):
            # the log-likelihood of a continuation is minus its length, but for the one that the script names
            given = []
            for request in requests:
                prompt, option = request.args
                given.append((-1.0 if option == texts(prompt, 0) else -float(len(option)) - 1, False))
            return given

        def loglikelihood_rolling(self, requests):
            return [-float(len(request.args[0])) for request in requests]

    return Scripted()


def lm_eval_run(folder, lm, tasks, **more):
    """lm-eval on a task folder, in this process and without its 14,000 tasks."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return simple_evaluate(model=lm, tasks=tasks, task_manager=manager, apply_chat_template=True, **more)


def by_problem(bench):
    """A script for the exported benchmark: prompt → our answers."""
    known = {p.problem: (i, p.answer) for i, p in enumerate(bench.problems)}
    return lambda prompt, sample: answer(known[prompt.removeprefix("<user>")], sample)


# --- export ----------------------------------------------------------------------------------------------------


def test_a_task_file_says_what_lm_eval_needs(bench, tmp_path):
    from lm_eval.tasks._yaml_loader import load_yaml

    names = export_tasks(tmp_path / "t", [(bench, plan(32, max_tokens=512, temperature=0.6, top_p=0.95))])
    assert names == ["opd_toy-aime"]
    config = load_yaml(tmp_path / "t" / "opd_toy-aime.yaml")
    assert config["repeats"] == 32
    assert config["filter_list"] == [{"name": "all", "filter": [{"function": "take_first_k", "k": 32}]}]
    assert config["generation_kwargs"] == {
        "until": [],
        "max_gen_toks": 512,
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 1_000_000,
        "repetition_penalty": 1.0,
    }
    assert config["description"] == ""  # it would become a system prompt
    assert [one["metric"] for one in config["metric_list"]] == ["avg_at_k", "avg_at_k_paper", "no_answer", "distinct"]
    assert {one["aggregation"] for one in config["metric_list"]} == {"mean"}
    assert [one["higher_is_better"] for one in config["metric_list"]] == [True, True, False, True]
    assert config["metadata"]["version"] == CHECKER_VERSIONS["strict"]
    assert config["metadata"]["checkers"] == CHECKER_VERSIONS
    assert callable(config["process_results"]) and callable(config["custom_dataset"])
    group = load_yaml(tmp_path / "t" / "opd.yaml")
    assert group["group"] == "opd" and group["task"] == names


def test_greedy_decoding_names_no_sampling(bench, tmp_path):
    from lm_eval.tasks._yaml_loader import load_yaml

    export_tasks(tmp_path, [(bench, plan(1, temperature=0.0))])
    told = load_yaml(tmp_path / "opd_toy-aime.yaml")["generation_kwargs"]
    assert told["do_sample"] is False and told["temperature"] == 0.0
    assert not {"top_p", "top_k"} & told.keys()


@pytest.mark.parametrize("style", ["clean", "paper", "plain"])
def test_the_problems_are_the_user_turns_of_our_own_evaluation(bench, tmp_path, style):
    export_tasks(tmp_path, [(bench, plan(style=style, limit=7))])
    kept = [json.loads(line) for line in (tmp_path / "opd_toy-aime.jsonl").read_text().splitlines()]
    assert [row["text"] for row in kept] == [render_prompt(p, style) for p in bench.problems[:7]]
    assert [row["problem"] for row in kept] == [p.id for p in bench.problems[:7]]
    assert [row["gold"] for row in kept] == [p.answer for p in bench.problems[:7]]
    assert {row["bench"] for row in kept} == {"toy-aime"}


def test_latex_and_dates_reach_the_model_and_the_checker_unchanged(tmp_path):
    from lm_eval.tasks import TaskManager

    # {{ }} and {% %} are a template's, a date is what a guessing reader makes of such golds
    text = 'If {{x}} {% y %} \u2028 "é" \\boxed{1}:\nwhat\ttime?'
    file = tmp_path / "my bench, v1.yaml.jsonl"
    file.write_text(json.dumps({"problem": text, "answer": "2024-01-01"}) + "\n")
    loaded = load_benchmark(file)
    names = export_tasks(tmp_path / "t", [(loaded, EvalPlan(str(file), 2, 64, style="plain"))])
    assert names == ["opd_my_bench__v1_yaml"]
    task = TaskManager(include_path=str(tmp_path / "t"), include_defaults=False).load(names)["tasks"][names[0]]
    doc = task.eval_docs[0]
    assert task.doc_to_text(doc) == text and task.doc_to_target(doc) == "2024-01-01"


def test_the_folder_can_be_moved(bench, tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    export_tasks(tmp_path / "here", [(bench, plan())])
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir("/")
    task = TaskManager(include_path=str(tmp_path / "there"), include_defaults=False).load(["opd_toy-aime"])["tasks"]
    assert len(task["opd_toy-aime"].eval_docs) == 30


def test_a_new_export_replaces_an_old_one_and_nothing_else(bench, tmp_path):
    other = load_benchmark("toy-ood")
    folder = tmp_path / "t"
    export_tasks(folder, [(bench, plan()), (other, plan(bench="toy-ood"))])
    (folder / "__pycache__").mkdir()
    export_tasks(folder, [(bench, plan(2))])
    assert sorted(path.name for path in folder.iterdir()) == [
        ".gitignore",
        "README.md",
        "export.json",
        "opd.yaml",
        "opd_hooks.py",
        "opd_toy-aime.jsonl",
        "opd_toy-aime.yaml",
    ]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt was not written by the export"):
        export_tasks(folder, [(bench, plan())])
    (folder / "notes.txt").unlink()
    with (folder / "opd_toy-aime.yaml").open("a") as stream:
        stream.write("# edited\n")
    with pytest.raises(UserError, match=r"opd_toy-aime\.yaml was changed since the export"):
        export_tasks(folder, [(bench, plan())])
    assert "# edited" in (folder / "opd_toy-aime.yaml").read_text()


def test_a_folder_with_anything_else_is_refused(bench, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else than exported tasks"):
        export_tasks(tmp_path, [(bench, plan())])
    with pytest.raises(UserError, match="is a file"):
        export_tasks(tmp_path / "thesis.tex", [(bench, plan())])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_cannot_be_exported_is_refused_before_anything_is_written(bench, tmp_path):
    with pytest.raises(UserError, match="both become the task 'opd_toy-aime'"):
        export_tasks(tmp_path / "t", [(bench, plan()), (bench, plan(2))])
    half = replace(bench, problems=(replace(bench.problems[0], problem="half \ud835 a pair"),))
    with pytest.raises(UserError, match="half a surrogate pair"):
        export_tasks(tmp_path / "t", [(half, plan())])
    assert not (tmp_path / "t").exists()


def test_the_command_uses_the_defaults_of_opd_eval(tmp_path, capsys):
    from lm_eval.tasks._yaml_loader import load_yaml

    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "1+1?", "answer": "2"}\n')
    assert run_command(tmp_path / "t", "--bench", "toy-aime", file) == 0
    toy, own = (load_yaml(tmp_path / "t" / f"opd_{name}.yaml") for name in ("toy-aime", "mine"))
    assert (toy["repeats"], toy["generation_kwargs"]["max_gen_toks"], toy["metadata"]["prompt"]) == (32, 96, "plain")
    assert (own["repeats"], own["generation_kwargs"]["max_gen_toks"], own["metadata"]["prompt"]) == (8, 2048, "clean")
    shown = capsys.readouterr().out
    assert "--tasks opd_toy-aime,opd_mine" in shown and str(tmp_path / "t") in shown.splitlines()[-1]
    with pytest.raises(UserError, match="'k' must be at least 1"):
        run_command(tmp_path / "u", "--bench", "toy-aime", "--k", "0")


@pytest.mark.parametrize("thinking", [False, True])
def test_lm_eval_understands_the_command_lines_of_the_readme(bench, tmp_path, thinking):
    from lm_eval._cli.harness import HarnessCLI

    export_tasks(tmp_path / "t", [(bench, plan(thinking=thinking))])
    readme = (tmp_path / "t" / "README.md").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in readme.splitlines() if line.strip().startswith("lm_eval run")]
    hf, vllm, server = (HarnessCLI()._parser.parse_args(shlex.split(line)[1:]) for line in lines)
    for args in (hf, vllm, server):
        assert args.include_path == str(tmp_path / "t") and args.tasks == ["opd_toy-aime"]
        assert args.apply_chat_template is True and args.log_samples is True and args.seed == [0, 0, 0, 0]
    for args in (hf, vllm):
        assert args.model_args["enable_thinking"] is thinking
        assert ("think_end_token" in args.model_args) == thinking  # lm-eval refuses to think without
    assert server.model_args["base_url"].endswith("/v1/chat/completions")
    assert server.gen_kwargs == {"seed": None, "chat_template_kwargs": {"enable_thinking": thinking}}
    parser = argparse.ArgumentParser()
    eval_command.arguments(parser)
    replay = next(line.strip() for line in readme.splitlines() if line.strip().startswith("opd eval -"))
    args = parser.parse_args(shlex.split(replay)[2:])
    assert (args.engine, args.bench, args.k, args.prompt, args.max_tokens) == ("replay", ["toy-aime"], K, "plain", 96)


# --- the score of a document -----------------------------------------------------------------------------------


def doc(k, gold="7"):
    return {"problem": "p", "text": "?", "gold": gold, "bench": "toy-aime", "k": k}


def test_a_document_is_the_mean_over_its_samples():
    texts = [r"\boxed{7}", rf"\boxed{{7{RIGHT_FOR_ONE}}}", r"\boxed{8}", "seven", "seven"]
    # strict: right, right, wrong, no box, no box = 2/5; released: the second is cut to nonsense = 1/5; 4 texts of 5
    assert hooks.score(doc(5), [texts]) == {
        "avg_at_k": 2 / 5,
        "avg_at_k_paper": 1 / 5,
        "no_answer": 2 / 5,
        "distinct": 4 / 5,
    }


@given(
    st.lists(
        st.sampled_from([r"\boxed{7}", r"\boxed{07}", r"\boxed{8}", "7", "\\boxed{", "\0<b>\u202e"]),
        min_size=1,
        max_size=9,
    )
)
@settings(max_examples=40, deadline=None)
def test_a_document_against_a_plain_count(texts):
    scored = hooks.score(doc(len(texts)), [texts])
    assert scored["avg_at_k"] * len(texts) == pytest.approx(
        sum(text in (r"\boxed{7}", r"\boxed{07}") for text in texts)
    )
    assert scored["no_answer"] * len(texts) == pytest.approx(
        sum(text in ("7", "\\boxed{", "\0<b>\u202e") for text in texts)
    )
    assert all(0 <= value <= 1 for value in scored.values())
    assert scored == hooks.score(doc(len(texts)), [texts[::-1]])  # the order of the samples says nothing


@pytest.mark.parametrize("handed", [r"\boxed{7}", [r"\boxed{7}"], [r"\boxed{7}"] * 5])
def test_anything_but_all_samples_is_refused(handed):
    with pytest.raises(UserError, match="of 4 samples of 'p' reached the checkers"):
        hooks.score(doc(4), [handed])


def test_an_export_for_other_checkers_is_refused(bench, tmp_path):
    export_tasks(tmp_path, [(bench, plan())])
    path = tmp_path / "opd_toy-aime.jsonl"
    assert len(hooks.documents(path, K, CHECKER_VERSIONS)["test"]) == 30
    with pytest.raises(UserError, match=r"exported for the checkers strict-0.*export it again"):
        hooks.documents(path, K, {**CHECKER_VERSIONS, "strict": "strict-0"})


# --- lm-eval in this process, with a scripted model ------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    export_tasks(folder, [(bench, plan())])
    return folder


@pytest.fixture(scope="module")
def scored(bench, exported):
    return lm_eval_run(exported, scripted(by_problem(bench)), ["opd"])


def verdicts(bench, checker):
    """[n, K] verdicts of `grade_many` on the script, our own path."""
    script = [(answer((i, p.answer), j), p.answer, "toy-aime") for i, p in enumerate(bench.problems) for j in range(K)]
    flat = [getattr(both, checker).correct for both in grade_many(script)]
    return [flat[i : i + K] for i in range(0, len(flat), K)]


@pytest.mark.parametrize(("metric", "checker"), [("avg_at_k", "strict"), ("avg_at_k_paper", "paper")])
def test_lm_eval_reports_our_avg_at_k_and_our_standard_error(bench, scored, metric, checker):
    ours = avg_at_k(verdicts(bench, checker))
    theirs = scored["results"]["opd_toy-aime"]
    assert theirs[f"{metric},all"] == pytest.approx(ours.value, abs=1e-15)
    assert theirs[f"{metric}_stderr,all"] == pytest.approx(ours.se, rel=1e-12)
    assert [one[metric] for one in scored["samples"]["opd_toy-aime"]] == [
        sum(row) / K for row in verdicts(bench, checker)
    ]
    assert scored["results"]["opd"][f"{metric},all"] == pytest.approx(ours.value, abs=1e-15)


def test_the_script_tells_the_checkers_apart(bench):
    # 30 problems, i % 5 right ones each: 6 (0 + 1 + 2 + 3 + 4) = 60 of 120; the released checker loses those with
    # i % 3 = 0, where i % 5 runs through 0, 3, 1, 4, 2 twice: 2 · 10 = 20
    assert sum(map(sum, verdicts(bench, "strict"))) == 60 and sum(map(sum, verdicts(bench, "paper"))) == 40


def without_the_filter(folder, to):
    """A copy of an exported folder in which the filter that keeps all samples is missing."""
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
    lines = (to / "opd_toy-aime.yaml").read_text().splitlines(keepends=True)
    start, end = lines.index("filter_list:\n"), lines.index("generation_kwargs:\n")
    (to / "opd_toy-aime.yaml").write_text("".join(lines[:start] + lines[end:]))
    return to


def test_without_the_filter_the_task_stops(bench, exported, tmp_path):
    broken = without_the_filter(exported, tmp_path / "broken")
    with pytest.raises(UserError, match=r"1 of 4 samples of .* take_first_k"):
        lm_eval_run(broken, scripted(by_problem(bench)), ["opd_toy-aime"])


def test_the_trap_repeats_alone_score_the_first_sample_only(bench, exported, tmp_path):
    broken = without_the_filter(exported, tmp_path / "broken")
    (broken / "opd_hooks.py").write_text(
        "from pathlib import Path\n"
        "from harness.answers import grade_many\n"
        "from harness.lmeval import hooks\n"
        "def documents(problems_file, k, checkers, **_):\n"
        "    return hooks.documents(Path(__file__).parent / problems_file, k, checkers)\n"
        "def process_results(doc, results):\n"  # what comes naturally, and looks as if it worked
        "    texts = results[0] if isinstance(results[0], list) else results\n"
        "    graded = grade_many([(text, doc['gold'], doc['bench']) for text in texts])\n"
        "    value = sum(one.strict.correct for one in graded) / len(graded)\n"
        "    return dict.fromkeys(('avg_at_k', 'avg_at_k_paper', 'no_answer', 'distinct'), value)\n"
    )
    lm = scripted(by_problem(bench))
    found = lm_eval_run(broken, lm, ["opd_toy-aime"])["results"]["opd_toy-aime"]
    assert len(lm.asked) == 30 * K  # all are drawn
    first = [row[0] for row in verdicts(bench, "strict")]
    assert found["avg_at_k,none"] == pytest.approx(sum(first) / 30)  # one is scored: 24 of 30 problems begin right
    assert sum(first) / 30 != pytest.approx(avg_at_k(verdicts(bench, "strict")).value)


@pytest.fixture
def logged(scored, tmp_path):
    """The file that `--log_samples` writes, by lm-eval's own hand."""
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    tracker.general_config_tracker.model_name_sanitized, tracker.date_id = "m", "now"
    # the tracker rewrites what it is given
    tracker.save_results_samples("opd_toy-aime", [dict(one) for one in scored["samples"]["opd_toy-aime"]])
    return tmp_path / "out" / "m" / "samples_opd_toy-aime_now.jsonl"


def test_logged_samples_replay_to_the_same_number(bench, scored, logged, tmp_path):
    assert is_lm_eval_samples(logged)
    evaluate(ReplayResponder(logged, bench), bench, plan(), tmp_path / "e")
    samples = load_evaluation(tmp_path / "e").samples
    table = samples.pivot(index="problem", columns="sample", values="correct").to_numpy()
    estimate, theirs = avg_at_k(table), scored["results"]["opd_toy-aime"]
    assert estimate.value == pytest.approx(theirs["avg_at_k,all"], abs=1e-15)
    assert estimate.se == pytest.approx(theirs["avg_at_k_stderr,all"], rel=1e-12)
    assert samples["correct_paper"].mean() == pytest.approx(theirs["avg_at_k_paper,all"], abs=1e-15)


HOSTILE = [
    "",
    "\0",
    "<script>alert(1)</script>",
    "\u202egnp",
    "a\u2028b\u2029c\x85d\re\x0bf",
    "'[]'",
    "x" * 100_000,
    "\ud7ff\U0001f600",
]


def test_hostile_texts_come_back_as_they_were(tmp_path):
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(tmp_path))
    tracker.general_config_tracker.model_name_sanitized, tracker.date_id = "m", "now"
    record = {
        "doc_id": 0,
        "doc": doc(len(HOSTILE)),
        "target": "7",
        "arguments": [("?", {})],
        "filter": "all",
        "metrics": [],
    }
    tracker.save_results_samples("t", [{**record, "resps": [HOSTILE], "filtered_resps": [HOSTILE]}])
    path = tmp_path / "m" / "samples_t_now.jsonl"
    assert is_lm_eval_samples(path)
    assert list(read_lm_eval_samples(path)) == [
        {"problem": "p", "sample": j, "response": text} for j, text in enumerate(HOSTILE)
    ]


def test_samples_under_several_filters_are_read_once(tmp_path):
    path = tmp_path / "s.jsonl"
    row = {"doc_id": 0, "doc": doc(2), "resps": [["a", "b"]]}
    path.write_text("".join(json.dumps({**row, "filter": name}) + "\n" for name in ("all", "other")))
    assert [one["response"] for one in read_lm_eval_samples(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"doc_id": 0, "doc": {"question": "?"}, "resps": [["a"]]},
            "line 2: not of a task that `opd export-lm-eval` wrote",
        ),
        ({"doc_id": 0, "doc": doc(1), "resps": ["a"]}, "line 2: no list of responses"),
        ({"doc_id": 0, "doc": doc(1), "resps": [["a"], ["b"]]}, "line 2: no list of responses"),
        ("nonsense", "line 2: expected a JSON object"),
    ],
)
def test_a_row_that_is_no_exported_sample_is_named(tmp_path, row, said):
    path = tmp_path / "s.jsonl"
    good = {"doc_id": 1, "doc": doc(1), "resps": [["a"]], "filter": "all"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=said):
        list(read_lm_eval_samples(path))


@pytest.mark.parametrize(
    "text", ['{"problem": "p", "response": "r"}\n', "", "[1]\n", "not json\n", "[" * 10_000 + "\n", "\xff\n"]
)
def test_other_files_are_no_logs_of_lm_eval(tmp_path, text):
    path = tmp_path / "s.jsonl"
    path.write_bytes(text.encode("latin-1"))
    assert not is_lm_eval_samples(path)
    assert not is_lm_eval_samples(tmp_path / "missing.jsonl")


# --- lm-eval's verdicts as rows --------------------------------------------------------------------------------


def sample(doc_id, filter="none", resps=(("yes",),), filtered=("yes",), target="yes", **metrics):
    return {
        "doc_id": doc_id,
        "doc": {"options": ["no", "certainly"]},
        "filter": filter,
        "metrics": list(metrics),
        "resps": [list(one) for one in resps],
        "filtered_resps": list(filtered),
        "arguments": [("Q?", {"until": []})],
        "target": target,
        **metrics,
    }


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        ([{"acc_norm": 1.0, "acc": 0.0}], "acc"),  # by the list, not by the order in the record
        ([{"acc": 1, "exact_match": 0.0}], "exact_match"),
        ([{"acc": 0.37, "acc_norm": 1.0}], "acc_norm"),  # a share of probability is no verdict
        ([{"acc": 1.0}, {"acc": 0.5}], None),  # one document that is no verdict is enough
        ([{"word_perplexity": (-3.0, 4)}], None),
        ([{"bleu": ("a", "b")}], None),
        ([{"rougeL": 0.0}], None),  # it happens to be 0, and is no verdict
        ([{"inst_level_strict_acc": [True, False], "prompt_level_strict_acc": False}], "prompt_level_strict_acc"),
        ([{"pass@1": 1.0}], "pass@1"),
        ([{"acc": math.nan}], None),
    ],
)
def test_the_metric_that_is_a_verdict_is_chosen(metrics, chosen):
    found = choose("t", [sample(i, **one) for i, one in enumerate(metrics)])
    assert found == (None if chosen is None else Choice(chosen, "none"))


def test_the_first_filter_gives_the_verdict_unless_another_is_named():
    both = [sample(0, "strict-match", exact_match=0.0), sample(0, "flexible-extract", exact_match=1.0)]
    assert choose("t", both) == ("exact_match", "strict-match")
    assert choose("t", both, "exact_match") == ("exact_match", "strict-match")
    assert choose("t", both, "exact_match,flexible-extract") == ("exact_match", "flexible-extract")
    with pytest.raises(UserError, match=r"no metric 'acc': it has exact_match,strict-match, exact_match,flexible"):
        choose("t", both, "acc")
    assert choose("t", [sample(0, rougeL=1.0)], "rougeL") == ("rougeL", "none")  # who asks for it, knows
    with pytest.raises(UserError, match="'rougeL' of lm-eval task 't' is not 0 or 1 on every document"):
        choose("t", [sample(0, rougeL=0.4)], "rougeL")


def test_numpy_numbers_are_verdicts_too():
    numpy = pytest.importorskip("numpy")
    assert [rows.verdict(x) for x in (numpy.float64(1), numpy.bool_(False), numpy.int64(1), True, 0)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert [rows.verdict(x) for x in (0.5, "1", None, (1, 2), numpy.array([1, 0]), math.nan)] == [None] * 6


def test_rows_of_generated_answers():
    facts = Facts("generate_until", tokens=lambda text: len(text.split()), longest=3)
    found = tables(
        "gsm",
        [
            sample(1, "f", [["so 4 it is"]], ["[invalid]"], "3", exact_match=0.0),  # 4 words ≥ 3: cut
            sample(0, "f", [["it 3"]], ["3"], "3", exact_match=1.0),
            sample(0, "g", [["it 3"]], ["9"], "3", exact_match=0.0),
        ],
        Choice("exact_match", "f"),
        facts,
    )
    assert [row["problem"] for row in found.problems] == ["gsm-0", "gsm-1"]
    assert found.problems[0] == {"problem": "gsm-0", "text": "Q?", "gold": "3", "family": "gsm-0", "slice": None}
    assert found.generations[1] == {
        "problem": "gsm-1",
        "sample": 0,
        "response": "so 4 it is",
        "tokens": 4,
        "finish": "length",
    }
    assert found.graded[0] == {
        "problem": "gsm-0",
        "sample": 0,
        "correct": True,
        "answer": "3",
        "parsed": "3",
        "reason": "lm-eval: exact_match, filter f",
        "correct_paper": None,
        "answer_paper": None,
        "reason_paper": None,
        "finish": "stop",
        "tokens": 2,
    }
    assert (found.graded[1]["answer"], found.graded[1]["correct"]) == (None, False)


@pytest.mark.parametrize(("metric", "option"), [("acc", "no"), ("acc_norm", "certainly"), ("exact_match", None)])
def test_rows_of_multiple_choices_name_the_option_that_was_taken(metric, option):
    # "no" has −2.0, "certainly" −4.5: the first wins; per character −2/2 = −1 against −4.5/9 = −0.5: the second
    one = sample(
        0, resps=[[(-2.0, False)], [(-4.5, False)]], filtered=[(-2.0, False), (-4.5, False)], target=1, **{metric: 1.0}
    )
    facts = Facts("multiple_choice", choices=lambda doc: doc["options"])
    found = tables("t", [one], Choice(metric, "none"), facts)
    assert found.problems[0]["gold"] == "certainly"
    assert found.generations[0]["response"] == "-2.0000\tno\n-4.5000\tcertainly"
    assert found.graded[0]["answer"] == option
    assert (found.graded[0]["tokens"], found.graded[0]["finish"]) == (0, "stop")


def test_rows_of_repeated_answers():
    voted = sample(0, "maj", [["4", "5", "4"]], [["4"]], "4", exact_match=1.0)
    found = tables("t", [voted], Choice("exact_match", "maj"), Facts("generate_until"))
    assert len(found.generations) == 3 and len(found.graded) == 1  # one verdict on three answers
    assert found.graded[0]["answer"] == "4"
    one_by_one = Facts("generate_until", regrade=lambda one: [(text == "4", text) for text in one["resps"][0]])
    twice = [voted, {**voted, "doc_id": 1}]
    found = tables("t", twice, Choice("exact_match", "maj"), one_by_one)
    assert [(row["sample"], row["problem"], row["correct"]) for row in found.graded] == [
        (0, "t-0", True),
        (0, "t-1", True),
        (1, "t-0", False),
        (1, "t-1", False),
        (2, "t-0", True),
        (2, "t-1", True),
    ]


# --- lm-eval's own tasks: the worker, with a scripted model ----------------------------------------------------

LOCAL_HOOKS = """
from pathlib import Path
from datasets import Dataset, DatasetDict
SUMS = [{"question": f"{a}+3?", "answer": str(a + 3), "options": ["1", "5", "77"], "label": 1} for a in range(6)]
def sums(**_):
    return DatasetDict({"test": Dataset.from_list(SUMS)})
"""
GENERATE = """
task: NAME
custom_dataset: !function local_hooks.sums
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 5, do_sample: false}
filter_list:
  - name: boxed
    filter: [{function: regex, regex_pattern: 'boxed\\{(\\d)\\}'}, {function: take_first}]
  - name: last
    filter: [{function: regex, regex_pattern: '(\\d)', group_select: -1}, {function: take_first}]
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 3.0}
"""
CHOOSE = """
task: local_choose
custom_dataset: !function local_hooks.sums
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: options
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 2.0}
"""
PERPLEXITY = """
task: local_perplexity
custom_dataset: !function local_hooks.sums
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
metadata: {version: 1.0}
"""
GROUPS = {
    "local_both": "group: local_both\ntask: [local_generate, local_choose]\n"
    "aggregate_metric_list: [{metric: acc, aggregation: mean}]\nmetadata: {version: 1.0}\n",
    "local_risky": "group: local_risky\ntask:\n  - local_choose\n  - {group: inner, task: [local_code]}\n",
}


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A folder of tasks as a user might have one."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "local_hooks.py").write_text(LOCAL_HOOKS)
    (folder / "local_evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n" + LOCAL_HOOKS)
    sampled = GENERATE.replace("do_sample: false", "do_sample: true, temperature: 1.0")
    files = {
        "local_generate": GENERATE.replace("NAME", "local_generate"),
        "local_repeat": sampled.replace("NAME", "local_repeat") + "repeats: 3\n",
        "local_vote": sampled.replace("NAME", "local_vote").replace("{function: take_first}", "{function: majority_vote}, {function: take_first}")
        + "repeats: 3\n",
        "local_code": GENERATE.replace("NAME", "local_code").replace("local_hooks", "local_evil") + "unsafe_code: true\ntag: local_tag\n",
        "local_absent": GENERATE.replace("NAME", "local_absent").replace("custom_dataset: !function local_hooks.sums", "dataset_path: json\ndataset_kwargs: {data_files: {test: /nowhere/x.jsonl}}"),
        "local_choose": CHOOSE,
        "local_perplexity": PERPLEXITY,
        **GROUPS,
    }  # fmt: skip
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def manager(local):
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(local), include_defaults=False)


def local_script(prompt, n):
    """Right for a ≤ 3 at the first try, for even a at the second, never at the third; picks "77" for a ≥ 5."""
    a = int(prompt.removeprefix("<user>")[0])
    right = [a <= 3, a % 2 == 0, False][n % 3]
    if prompt.endswith("?") and n == 0 and a >= 5:
        return "77"
    return rf"\boxed{{{a + 3 if right else 0}}}"


def work(local, tmp_path, *tasks, **more):
    from harness.lmeval import worker

    tmp_path.mkdir(exist_ok=True)
    job = runs.Job("m", tasks, str(tmp_path), include_path=str(local), **more)
    return worker.work(job, scripted(local_script), manager(local))


@pytest.fixture(scope="module")
def worked(local, tmp_path_factory):
    folder = tmp_path_factory.mktemp("worked")
    asked = (["local_both", "local_perplexity"], ["local_repeat"], ["local_vote"])  # the script counts requests
    outcomes = [work(local, folder, *tasks, seed=7) for tasks in asked]
    benches = {name: entry for outcome in outcomes for name, entry in outcome["benches"].items()}
    return folder, {"benches": benches, "numbers": [number for outcome in outcomes for number in outcome["numbers"]]}


def test_a_task_of_lm_eval_becomes_a_benchmark(worked):
    folder, outcome = worked
    entry = outcome["benches"]["lm-eval:local_generate"]
    assert (entry["n"], entry["k"], entry["seed"], entry["revision"]) == (6, 1, 7, "3.0")
    assert entry["sampling"] == {"max_tokens": 5, "temperature": 0.0, "top_p": 1.0}
    assert entry["checkers"]["strict"].endswith("/local_generate-3.0/exact_match/boxed")
    kept = graded(folder, "lm-eval:local_generate")
    # right for a = 0 … 3 of 0 … 5
    assert [row["correct"] for row in kept] == [True] * 4 + [False] * 2
    assert [row["problem"] for row in kept] == [f"local_generate-{i}" for i in range(6)]
    assert [row["answer"] for row in kept] == ["3", "4", "5", "6", "0", None]  # "77" has no box
    assert {row["correct_paper"] for row in kept} == {None}
    asked = problems(folder, "lm-eval:local_generate")
    assert asked["local_generate-2"]["text"] == "<user>2+3?" and asked["local_generate-2"]["gold"] == "5"
    assert [row["response"] for row in responses(folder, "lm-eval:local_generate")][:2] == [r"\boxed{3}", r"\boxed{4}"]


def test_multiple_choice_under_lm_eval(worked):
    folder, outcome = worked
    kept = graded(folder, "lm-eval:local_choose")
    # for a ≥ 5 the script picks "77"; else all options but it tie at −(1 + 1), and the first, "1", is taken: none right
    assert [row["answer"] for row in kept] == ["1"] * 5 + ["77"]
    assert [row["correct"] for row in kept] == [False] * 6
    assert outcome["benches"]["lm-eval:local_choose"]["answer_type"] == "multiple_choice"


def test_repeated_samples_are_graded_one_by_one_where_the_filter_takes_the_first(worked):
    folder, outcome = worked
    kept = graded(folder, "lm-eval:local_repeat")
    assert outcome["benches"]["lm-eval:local_repeat"]["k"] == 3 and len(kept) == 18
    right = {(row["problem"], row["sample"]): row["correct"] for row in kept}
    # first sample: a ≤ 3; second: even a; third: never
    for a in range(6):
        assert [right[f"local_repeat-{a}", j] for j in range(3)] == [a <= 3, a % 2 == 0, False]
    number = next(n for n in outcome["numbers"] if n["task"] == "local_repeat" and n["filter"] == "boxed")
    assert number["value"] == pytest.approx(4 / 6)  # lm-eval looks at the first only


def test_a_vote_over_samples_is_one_verdict(worked):
    folder, outcome = worked
    assert outcome["benches"]["lm-eval:local_vote"]["k"] == 1
    assert len(graded(folder, "lm-eval:local_vote")) == 6
    assert len(list(responses(folder, "lm-eval:local_vote"))) == 18


def test_what_is_no_verdict_has_numbers_and_no_rows(worked):
    folder, outcome = worked
    assert "lm-eval:local_perplexity" not in outcome["benches"]
    assert sorted(path.name for path in folder.glob("lm-eval.local_perplexity*")) == [
        "lm-eval.local_perplexity.results.json"
    ]
    number = next(n for n in outcome["numbers"] if n["task"] == "local_perplexity")
    # each question "a+3?" has 4 characters and one word, log-likelihood −4: exp(4) a word
    assert number["value"] == pytest.approx(math.exp(4)) and not number["rows"] and number["higher_is_better"] is False
    kept = json.loads((folder / "lm-eval.local_perplexity.results.json").read_text())
    assert kept["results"]["word_perplexity,none"] == pytest.approx(math.exp(4)) and kept["versions"] == 1.0


def test_a_group_has_its_tasks_and_lm_evals_own_aggregate(worked):
    folder, outcome = worked
    assert {"lm-eval:local_generate", "lm-eval:local_choose"} <= outcome["benches"].keys()
    assert "lm-eval:local_both" not in outcome["benches"]
    numbers = {(n["task"], n["metric"], n["filter"]): n for n in outcome["numbers"]}
    assert numbers["local_both", "acc", "none"]["value"] == numbers["local_choose", "acc", "none"]["value"] == 0.0
    assert (folder / "lm-eval.local_both.results.json").exists()
    exact = numbers["local_generate", "exact_match", "boxed"]
    # 4 of 6: mean 2/3, sample variance (4 · 1/9 + 2 · 4/9) / 5 = 12/45, standard error √(12/45/6)
    assert exact["value"] == pytest.approx(2 / 3) and exact["stderr"] == pytest.approx(math.sqrt(12 / 45 / 6))
    assert exact["rows"] and not numbers["local_generate", "exact_match", "last"]["rows"]


def test_the_folder_is_an_evaluation(worked):
    folder, outcome = worked
    enter(folder, "m", "hf", outcome["benches"])
    evaluation = load_evaluation(folder)
    assert list(evaluation.samples.columns) == list(COLUMNS)
    assert evaluation.rows("lm-eval:local_repeat")["correct"].mean() == pytest.approx((4 + 3 + 0) / 18)


def test_another_metric_gives_other_verdicts(local, tmp_path):
    outcome = work(local, tmp_path, "local_generate", metric="exact_match,last")
    # the last digit: 3, 4, 5, 6 for a ≤ 3; "0" for a = 4, gold 7; "77" for a = 5, gold 8
    assert [row["answer"] for row in graded(tmp_path, "lm-eval:local_generate")] == ["3", "4", "5", "6", "0", "7"]
    assert outcome["benches"]["lm-eval:local_generate"]["task"]["filter"] == "last"
    with pytest.raises(
        UserError, match="'local_generate' has no metric 'acc': it has exact_match and the filters boxed, last"
    ):
        work(local, tmp_path, "local_generate", metric="acc")
    with pytest.raises(UserError, match="has no metric 'exact_match,first'"):
        work(local, tmp_path, "local_generate", metric="exact_match,first")


def test_prompts_have_a_hash_that_follows_template_and_examples(local, tmp_path):
    hashes = set()
    for number, more in enumerate(({}, {"apply_chat_template": False}, {"limit": 3})):
        entry = work(local, tmp_path / str(number), "local_generate", **more)["benches"]["lm-eval:local_generate"]
        hashes.add(entry["prompt_hash"])
        assert entry["n"] == more.get("limit", 6) and entry["limit"] == more.get("limit")
    assert len(hashes) == 3
    again = work(local, tmp_path / "again", "local_generate")["benches"]["lm-eval:local_generate"]
    assert again["prompt_hash"] in hashes


@pytest.mark.parametrize("name", ["local_code", "local_risky", "local_tag"])
def test_a_task_that_runs_code_is_refused_before_it_is_loaded(local, tmp_path, name):
    with pytest.raises(UserError, match=r"'local_code' runs code that the model wrote.*--allow-code"):
        work(local, tmp_path, name)
    assert not (local / "ran").exists() and not list(tmp_path.iterdir())


def test_a_task_that_runs_code_runs_where_that_is_allowed(local, tmp_path):
    assert "lm-eval:local_code" in work(local, tmp_path, "local_code", allow_code=True)["benches"]
    (local / "ran").unlink()


def test_unknown_names_and_absent_data_end_in_one_sentence(local, tmp_path):
    with pytest.raises(UserError, match="lm-eval has no task 'local_generat'; close to it: local_generate"):
        work(local, tmp_path, "local_generat")
    with pytest.raises(UserError, match="lm-eval has no task 'zzz'; `lm_eval ls tasks` lists them all"):
        work(local, tmp_path, "zzz")
    with pytest.raises(
        UserError, match=r"cannot load the task 'local_absent' \(FileNotFoundError: .*its data must be on this machine"
    ):
        work(local, tmp_path, "local_absent")
    with pytest.raises(UserError, match="'local_choose' is asked for twice"):
        work(local, tmp_path, "local_choose", "local_both")


# --- a server --------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A chat server that honours seeds: the same seed, the same answer."""
    pytest.importorskip("tenacity", reason="lm-eval's client for servers needs lm-eval[api]")
    payloads = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self):
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            payloads.append((self.path, payload))
            mark = len(payloads) if payload["seed"] is None else payload["seed"]
            text = rf"\boxed{{3}} {mark}"
            body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", payloads
    httpd.shutdown()
    httpd.server_close()


def test_a_server_is_told_all_it_must_know(local, tmp_path, server):
    from harness.lmeval import worker

    url, payloads = server
    job = runs.Job(
        "name", ("local_repeat",), str(tmp_path), engine="server", base_url=url, limit=2, include_path=str(local)
    )
    outcome = worker.work(job, manager=manager(local))
    assert {path for path, _ in payloads} == {"/v1/chat/completions"}
    told = payloads[0][1]
    assert told["model"] == "name" and told["messages"][-1]["role"] == "user"
    assert told["chat_template_kwargs"] == {"enable_thinking": False}
    assert {payload["seed"] for _, payload in payloads} == {None}  # else three times the same answer
    texts = [row["response"] for row in responses(tmp_path, "lm-eval:local_repeat")]
    assert len(texts) == len(set(texts)) == 6
    assert json.loads(problems(tmp_path, "lm-eval:local_repeat")["local_repeat-0"]["text"])[-1]["content"] == "0+3?"
    assert outcome["benches"]["lm-eval:local_repeat"]["task"]["chat_template"] is True
    with pytest.raises(UserError, match="'local_choose' asks for log-likelihoods"):
        worker.work(replace(job, tasks=("local_choose",)), manager=manager(local))


def test_one_seed_for_all_requests_shows_in_the_metric_distinct(bench, exported, server):
    url, payloads = server
    for seeds, distinct in (({}, 1 / K), ({"seed": None}, 1.0)):
        found = lm_eval_run(
            exported,
            "local-chat-completions",
            ["opd_toy-aime"],
            model_args=f"model=m,base_url={url}/chat/completions",
            gen_kwargs=seeds,
            limit=2,
        )
        assert found["results"]["opd_toy-aime"]["distinct,all"] == distinct
    told = payloads[-1][1]
    assert (told["top_p"], told["top_k"], told["repetition_penalty"], told["temperature"]) == (1.0, 1_000_000, 1.0, 1.0)
    assert (told["max_tokens"], told["stop"]) == (96, [])
    assert told["messages"] == [{"role": "user", "content": render_prompt(bench.problems[1], "plain")}]


# --- the process around it -------------------------------------------------------------------------------------


def refused(tmp_path, match, **more):
    with pytest.raises(UserError, match=match):
        runs.passthrough(**{"model": "toy:student", "tasks": ["gsm8k"], "folder": tmp_path / "e", **more})


def test_what_can_be_refused_at_once_is(tmp_path, monkeypatch):
    refused(tmp_path, "not 'replay'", engine="replay")
    refused(tmp_path, "--engine server and --base-url URL go together", engine="server")
    refused(tmp_path, "--engine server and --base-url URL go together", base_url="http://127.0.0.1")
    refused(tmp_path, "the task folder .* does not exist", include_path=tmp_path / "nowhere")
    refused(tmp_path, "'batch_size' must be at least 1, got 0", batch_size=0)
    refused(tmp_path, "'limit' must be at least 1, got -1", limit=-1)
    refused(tmp_path, "unknown toy model", model="toy:nobody")
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda name: None)
    refused(tmp_path, r"pip install 'opd-harness\[lm-eval\]'")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"its process ended with code -9"),
        ("import sys; print('why'); sys.exit(3)", r"its process ended with code 3"),
        (
            "import sys; sys.path[0] = sys.argv.pop(1); from harness.lmeval import worker\n"
            "def work(job): raise RuntimeError('out of memory\\nsecond line')\n"
            "worker.work = work; sys.exit(worker.main())",
            r"\(RuntimeError: out of memory\)",
        ),
    ],
)
def test_a_failed_run_is_one_sentence_that_names_its_log(tmp_path, monkeypatch, start, said):
    monkeypatch.setattr(runs, "_START", start)
    refused(tmp_path, rf"lm-eval failed on gsm8k \({said.strip('()')}.*lm-eval\.log" if "(" not in said else said)
    assert (tmp_path / "e" / "lm-eval.log").exists()


def test_only_the_worker_may_run_code(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    told = 'import json, os, sys; json.dump({"refused": str(os.environ.get("HF_ALLOW_CODE_EVAL"))}, open(sys.argv[3], "w"))'
    monkeypatch.setattr(runs, "_START", told)
    refused(tmp_path, "^None$")
    refused(tmp_path, "^1$", allow_code=True)
    assert "HF_ALLOW_CODE_EVAL" not in os.environ


def test_an_interrupted_run_leaves_no_process_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(
        runs,
        "_START",
        "import os, time; print(os.getpid(), 'Requesting API: 25%|█  | 3/12 [', flush=True); time.sleep(600)",
    )

    def interrupt(what, done, total):
        assert (what, done, total) == ("requests", 3, 12)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.passthrough("toy:student", ["gsm8k"], folder=tmp_path, progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "lm-eval.log").read_text().split()[0]), 0)


def test_the_numbers_are_shown_with_what_lm_eval_says_of_them(capsys):
    from rich.console import Console

    numbers = [
        runs.Number("[red]t", "acc", "none", 0.625, 0.1, 8, True, True),
        runs.Number("t", "word_perplexity", "none", 12.5, None, 8, False, False),
    ]
    Console(width=200).print(runs.numbers_table(numbers))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["[red]t", "acc", "none", "higher", "8", "0.6250", "±", "0.1000", "yes"] in lines
    assert ["t", "word_perplexity", "none", "lower", "8", "12.5000", "no"] in lines


def test_lm_eval_is_imported_only_when_it_is_needed():
    code = (
        "import sys, harness.lmeval.export, harness.lmeval.hooks, harness.lmeval.runs, harness.lmeval.worker, harness.lmeval.rows\n"
        "print('lm_eval' in sys.modules, 'datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("text", "bar"),
    [
        ("Running generate_until requests:   0%|          | 0/90 [00:00<?]\rRunning generate_until requests:  68%|██▊ | 61/90 [00:00<]", (61, 90)),
        ("Requesting API:  25%|██▌       | 3/12 [00:01<00:03]", (3, 12)),
        ("Loading weights: 100%|██████████| 24/24 [00:00<00:00]", None),
        ("", None),
    ],
)  # fmt: skip
def test_progress_is_read_from_the_log(tmp_path, text, bar):
    log = tmp_path / "log"
    log.write_text("noise\n" * 2000 + text)
    assert runs.bar_at(log) == bar


# --- the real thing --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lm_evals_own_command_on_exported_tasks_with_a_real_model(bench, tmp_path):
    """k = 2 sampled answers, and greedy ones, by one run of the command."""
    from trainer.engines import HFEngine
    from trainer.policy import Policy
    from trainer.rollout import Sampling

    greedy_bench = load_benchmark("toy-minerva")
    export_tasks(tmp_path / "tasks" / "sampled", [(bench, plan(2))])
    export_tasks(tmp_path / "tasks" / "greedy", [(greedy_bench, plan(1, "toy-minerva", temperature=0.0))])
    student = model_folder("toy:student")
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={student},dtype=float32,enable_thinking=False", "--device", "cpu"]
    command += ["--include_path", str(tmp_path / "tasks"), "--tasks", "opd_toy-aime,opd_toy-minerva", "--limit", "30"]
    command += ["--apply_chat_template", "--batch_size", "64", "--seed", "0", "--log_samples", "--output_path", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    out = next((tmp_path / "out").iterdir())
    results = json.loads(next(out.glob("results_*.json")).read_text())["results"]

    log = next(out.glob("samples_opd_toy-aime_*.jsonl"))
    golds = {p.id: p.answer for p in bench.problems}
    given = list(read_lm_eval_samples(log))
    assert len(given) == 60 and len({row["response"] for row in given}) > 40
    both = grade_many([(row["response"], golds[row["problem"]], "toy-aime") for row in given])
    for metric, checker in (("avg_at_k", "strict"), ("avg_at_k_paper", "paper")):
        flat = [getattr(one, checker).correct for one in both]
        ours = avg_at_k([flat[i : i + 2] for i in range(0, 60, 2)])
        assert results["opd_toy-aime"][f"{metric},all"] == pytest.approx(ours.value, abs=1e-15)
        assert results["opd_toy-aime"][f"{metric}_stderr,all"] == pytest.approx(ours.se, rel=1e-12)

    # Special tokens are left out and the end-of-sequence text cut on both sides, so greedy texts are the same ones;
    # a tie in the last bit of a logit may still fall the other way, as the batches differ.
    policy = Policy.load(student)
    asked = greedy_bench.problems[:30]
    drawn = HFEngine(policy).generate(
        [policy.render(render_prompt(p, "plain")) for p in asked], [0] * 30, Sampling(96, 0.0)
    )
    log = next(out.glob("samples_opd_toy-minerva_*.jsonl"))
    theirs = {row["problem"]: row["response"] for row in read_lm_eval_samples(log)}
    same = [theirs[p.id] == policy.decode(one.ids) for p, one in zip(asked, drawn, strict=True)]
    assert sum(same) >= 29


@pytest.mark.slow
def test_the_passthrough_with_a_real_model(local, tmp_path):
    seen = []
    passed = runs.passthrough(
        "toy:student",
        ["local_both"],
        folder=tmp_path / "e",
        include_path=local,
        limit=4,
        batch_size=8,
        progress=lambda *bar: seen.append(bar),
    )
    assert set(passed.benches) == {"lm-eval:local_generate", "lm-eval:local_choose"}
    assert all(bar[0] == "requests" for bar in seen)
    for name, entry in passed.benches.items():
        kept = graded(tmp_path / "e", name)
        number = next(n for n in passed.numbers if n.rows and n.task == name.removeprefix("lm-eval:"))
        assert entry["n"] == len(kept) == 4
        assert sum(row["correct"] for row in kept) / 4 == pytest.approx(number.value)
    # the model's own template, its own tokens: the prompt of a document as the model saw it
    from trainer.policy import Policy

    policy = Policy.load(model_folder("toy:student"))
    text = problems(tmp_path / "e", "lm-eval:local_generate")["local_generate-0"]["text"]
    assert policy.tokenizer(text, add_special_tokens=False)["input_ids"] == policy.render("0+3?")
    assert "Running generate_until requests" in (tmp_path / "e" / "lm-eval.log").read_text()


@pytest.mark.slow
def test_lm_evals_own_names(tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    from harness.lmeval.worker import check_name, refuse_code

    whole = TaskManager()
    with pytest.raises(UserError, match="no task 'gms8k'; close to it: gsm8k"):
        check_name(whole, "gms8k")
    for name in ("humaneval", "humaneval_plus", "mbpp_plus"):
        with pytest.raises(UserError, match=f"'{name}' runs code"):
            refuse_code(whole.task_index, ["gsm8k", name])
    refuse_code(whole.task_index, ["gsm8k", "mmlu", "arc_easy", "ifeval"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    refused(tmp_path, r"cannot load the task 'gsm8k' \(.*its data must be on this machine or within reach")
