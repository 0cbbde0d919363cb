"""The command line as a person meets it: exit codes, one-sentence errors, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.commands import COMMANDS
from tests.conftest import shared

REPORTED = Path(__file__).parents[1] / "results" / "reported"
TRAIN = ["train", "--method", "opd", "--student", "toy:student", "--teacher", "toy:teacher-math", "--data", "toy:math"]


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def fails(capsys, *words: str) -> str:
    """Runs a command that must fail as bad input; returns what it printed on stderr."""
    assert cli.main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("opd: ")
    assert captured.err.count("\n") == 1, "one sentence, no traceback"
    return captured.err


def changed(words: list[str], **options: str) -> list[str]:
    words = list(words)
    for name, value in options.items():
        words[words.index(f"--{name}") + 1] = value
    return words


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--help"])
    assert exit.value.code == 0
    assert "opd quickstart" in capsys.readouterr().out


@pytest.mark.parametrize("command", [name.replace("_", "-") for name in COMMANDS])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([command, "--help"])
    assert exit.value.code == 0
    assert capsys.readouterr().out


def test_help_needs_no_torch():
    code = "import sys; from harness.cli import main\ntry: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_unknown_method_names_its_neighbour(capsys):
    assert "unknown method 'fyre': did you mean fire" in fails(capsys, *changed(TRAIN, method="fyre"))


def test_unknown_option_path_is_refused_with_a_hint(capsys):
    assert "unknown option 'keep.fractoin'" in fails(
        capsys, *changed(TRAIN, method="fire"), "--set", "keep.fractoin=0.3"
    )
    assert not Path("results").exists(), "nothing is written before the options are known to be right"


@pytest.mark.parametrize(
    ("item", "says"), [("keep.fraction", "PATH=VALUE"), ("keep.fraction=x", "a number"), ("keep.scope=page", "a scope")]
)
def test_bad_values_of_options(capsys, item, says):
    assert says in fails(capsys, *changed(TRAIN, method="fire"), "--set", item)


@pytest.mark.parametrize(
    "words",
    [
        [*TRAIN, "--steps", "1", "--out"],
        ["eval", "toy:student", "--bench", "toy-aime", "--k", "1", "--out"],
        ["claims", "--reported", str(REPORTED), "--out"],
        ["export-lm-eval", "--bench", "toy-aime", "--k", "1"],
    ],
    ids=lambda words: words[0],
)
def test_folders_that_cannot_be_made_are_named(capsys, results, words):
    in_the_way = results.parent / "file"
    in_the_way.write_text("not a folder")
    assert str(in_the_way) in fails(capsys, *words, str(in_the_way / "folder"))
    assert in_the_way.read_text() == "not a folder"


def test_a_full_disk_is_said_and_a_broken_connection_is_not_taken_for_one(capsys, monkeypatch):
    monkeypatch.setattr("harness.commands.methods.run", lambda args: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    assert "No space left on device" in fails(capsys, "methods")

    def broken(args):
        raise ConnectionResetError("by peer")

    monkeypatch.setattr("harness.commands.methods.run", broken)
    with pytest.raises(ConnectionResetError):
        cli.main(["methods"])


def test_unknown_flag_exits_2(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main([*TRAIN, "--sede", "1"])
    assert exit.value.code == 2
    assert "--sede" in capsys.readouterr().err


def test_missing_folder(capsys):
    assert "model folder nowhere does not exist" in fails(capsys, *changed(TRAIN, student="nowhere"))


def test_folder_that_is_no_model(capsys):
    Path("empty").mkdir()
    assert "empty has no config.json" in fails(capsys, *changed(TRAIN, teacher="empty"))


def test_broken_row_of_the_data_is_named(capsys):
    Path("data.jsonl").write_text('{"problem": "Compute 1+1", "answer": "2"}\n{"problem": \n')
    assert "data.jsonl, line 2: not valid JSON" in fails(capsys, *changed(TRAIN, data="data.jsonl"))


def test_data_without_problems(capsys):
    Path("data.jsonl").write_text('{"question": "Compute 1+1"}\n')
    assert "data.jsonl, line 1: no text in the column 'problem' or 'prompt'" in fails(
        capsys, *changed(TRAIN, data="data.jsonl")
    )


def test_unknown_toy_domain(capsys):
    assert "unknown toy domain 'maths'" in fails(capsys, *changed(TRAIN, data="toy:maths"))


def test_teacher_with_another_vocabulary(capsys, tmp_path):
    from transformers import AutoTokenizer

    from harness.toy import TEACHERS
    from trainer.policy import Policy

    other = Policy.load(TEACHERS["math"])
    other.tokenizer = AutoTokenizer.from_pretrained(TEACHERS["math"])
    other.save(tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    kept = json.loads(path.read_text())
    kept["model"]["vocab"] = {token: {3: 4, 4: 3}.get(i, i) for token, i in kept["model"]["vocab"].items()}
    path.write_text(json.dumps(kept))
    assert "different vocabularies: id 3 is" in fails(capsys, *changed(TRAIN, teacher=str(tmp_path / "other")))


def test_two_teachers_without_domains(capsys):
    assert "name each domain once" in fails(capsys, *TRAIN, "--teacher", "toy:teacher-code")


def test_domain_without_teacher_names_the_prompt(capsys):
    words = changed(TRAIN, teacher="code=toy:teacher-code")
    assert "toy:math: a prompt of the domain 'math', and there are teachers for code only" in fails(
        capsys, *words, "--steps", "1", "--prompts", "2"
    )


def test_folder_of_another_run(capsys):
    small = ["--steps", "1", "--prompts", "2", "--out", "run"]
    assert cli.main([*TRAIN, *small]) == 0
    capsys.readouterr()
    assert "run belongs to another run: it differs in seed" in fails(capsys, *TRAIN, *small, "--seed", "1")


def test_checkpoint_of_another_run(capsys):
    small = ["--steps", "2", "--prompts", "2", "--checkpoint-every", "1"]
    assert cli.main([*TRAIN, *small, "--out", "a"]) == 0
    assert cli.main([*TRAIN, *small, "--out", "b", "--seed", "1"]) == 0
    Path("a/result.json").unlink()
    Path("a/checkpoint/state.json").write_text(Path("b/checkpoint/state.json").read_text())
    capsys.readouterr()
    assert "checkpoint of another run: it differs in seed" in fails(capsys, *TRAIN, *small, "--out", "a")


def test_no_space_left_is_one_sentence_and_loses_nothing(capsys, monkeypatch):
    import errno

    from trainer.policy import Policy

    small = ["--steps", "3", "--prompts", "2", "--checkpoint-every", "1", "--out", "run"]
    save, calls = Policy.save, []

    def full(self, folder):
        calls.append(folder)
        if len(calls) == 2:
            (folder / "half").write_text("written")
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "model.safetensors"))
        save(self, folder)

    monkeypatch.setattr(Policy, "save", full)
    assert "no space left while writing" in fails(capsys, *TRAIN, *small)
    assert not list(Path("run").glob("*.partial"))
    monkeypatch.setattr(Policy, "save", save)
    assert cli.main([*TRAIN, *small]) == 0
    assert cli.main([*TRAIN, *small[:-1], "whole"]) == 0
    assert Path("run/steps.jsonl").read_bytes() == Path("whole/steps.jsonl").read_bytes()


def test_train_says_where_the_run_is(capsys):
    assert cli.main([*changed(TRAIN, method="fire"), "--steps", "1", "--prompts", "4", "--set", "optim.lr=1e-4"]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    folder = Path(last.removeprefix("run: "))
    assert json.loads((folder / "steps.jsonl").read_text())["lr"] == pytest.approx(1e-4 / 5)  # first of 5 warm-up steps


def test_an_inert_run_says_so(capsys):
    words = [*changed(TRAIN, method="fire-filter-only"), "--steps", "1", "--prompts", "4", "--set", "keep.fraction=0"]
    assert cli.main(words) == 0
    assert "inert:" in capsys.readouterr().out


def test_eval_of_unknown_benchmark(capsys):
    assert "aime42" in fails(capsys, "eval", "toy:student", "--bench", "aime42")


def test_eval_needs_the_benchmark_folder(capsys, monkeypatch):
    monkeypatch.delenv("OPD_DATA", raising=False)
    assert "--data-dir" in fails(capsys, "eval", "toy:student", "--bench", "aime24", "--data-dir", "nowhere")


def test_real_problems_through_the_whole_path(capsys):
    data = shared("benchmarks")
    words = [
        "eval",
        "toy:student",
        "--bench",
        "aime24",
        "--data-dir",
        str(data),
        "--k",
        "2",
        "--limit",
        "3",
        "--max-tokens",
        "24",
    ]
    assert cli.main([*words, "--out", "out"]) == 0
    rows = [json.loads(line) for line in Path("out/aime24.graded.jsonl").read_text().splitlines()[1:]]
    assert len(rows) == 6
    assert not any(row["correct"] for row in rows)
    assert "generations and verdicts: out" in capsys.readouterr().out


def test_replay_of_right_answers_scores_everything(capsys):
    data = shared("benchmarks")
    golds = [json.loads(line)["answer"] for line in (data / "aime24.jsonl").read_text().splitlines()]
    Path("r.jsonl").write_text(
        "".join(json.dumps({"problem": i, "response": rf"so \boxed{{{gold}}}"}) + "\n" for i, gold in enumerate(golds))
    )
    words = [
        "eval",
        "-",
        "--engine",
        "replay",
        "--responses",
        "r.jsonl",
        "--bench",
        "aime24",
        "--data-dir",
        str(data),
        "--k",
        "1",
    ]
    assert cli.main([*words, "--out", "out"]) == 0
    rows = [json.loads(line) for line in Path("out/aime24.graded.jsonl").read_text().splitlines()[1:]]
    assert sum(row["correct"] for row in rows) == sum(row["correct_paper"] for row in rows) == 30


def test_replay_without_file(capsys):
    assert "go together" in fails(capsys, "eval", "-", "--engine", "replay", "--bench", "toy-aime")


def test_report_of_unknown_records(capsys):
    assert "no records 'nothing'" in fails(capsys, "report", "nothing")


def test_methods_as_json(capsys):
    assert cli.main(["methods", "--json"]) == 0
    table = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert table["full-rkl"]["needs"] == ["logits", "logprobs"]
    assert table["fire"]["objective"]["keep"]["fraction"] == 0.2


def test_methods_explains_one(capsys):
    assert cli.main(["methods", "fire"]) == 0
    assert "keep.fraction" in capsys.readouterr().out


def test_grid_file_mistakes(capsys):
    assert "does not exist" in fails(capsys, "ablate", "nowhere.py")
    Path("empty.py").write_text("x = 1\n")
    assert "declares no GRID" in fails(capsys, "ablate", "empty.py")
    Path("broken.py").write_text("import nothing_of_that_name\n")
    assert "ModuleNotFoundError" in fails(capsys, "ablate", "broken.py")


def test_dry_run_says_what_is_there(capsys):
    grid = str(Path(__file__).parent / "mini_grid.py")
    assert cli.main(["ablate", grid, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.count(" run ") >= 5
    assert "has no arm 'fires'" in fails(capsys, "ablate", grid, "--only", "fires")
