"""The vLLM engine against transformers, run in an environment of its own (`make test-vllm`)."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from scipy.stats import chisquare

from harness.toy import STUDENT, TEACHERS
from tests.conftest import ROOT
from trainer.data import derive_seed
from trainer.engines import HFEngine, sampling_logprobs
from trainer.errors import UserError
from trainer.policy import Policy
from trainer.rollout import Sample, Sampling
from trainer.vllm_engine import StaleWeights, VLLMEngine

GREEDY = Sampling(40, 0.0)
DRAWN = Sampling(40)
CLOSE = 3e-5  # nats, float32: what rounding makes of 40 tokens' log-probs (1.2e-5 was the most seen)
PROBLEMS = [
    f"Compute {a}*{b}-{c}+{a}" for a, b, c in zip(range(2, 10), (5, 3, 8, 6, 4, 7, 2, 9), range(1, 9), strict=True)
]
FULL_STOP = 16  # the toy's token "."; it comes before the end of every answer


def edited(folder: Path, policy: Policy, **generation: object) -> Path:
    policy.save(folder)
    if generation:
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The toy student; with an untied head of its own, other ends and a temperature; with 11 rows without a token."""
    from transformers import AutoConfig, Qwen3ForCausalLM

    base = tmp_path_factory.mktemp("models")
    student = Policy.load(STUDENT)
    config = AutoConfig.from_pretrained(STUDENT, tie_word_embeddings=False)
    untied = Qwen3ForCausalLM(config).float()
    untied.load_state_dict(student.model.state_dict())
    torch.manual_seed(1)
    with torch.no_grad():
        untied.lm_head.weight += 0.01 * torch.randn_like(untied.lm_head.weight)
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    folders = {"tied": STUDENT}
    # The tokenizer's own end (2) is none of this model's; its ends are "." and one that it never draws.
    folders["untied"] = edited(
        base / "untied", Policy(untied, student.tokenizer), eos_token_id=[FULL_STOP, 3], temperature=0.01, top_k=1
    )
    padded = Policy.load(STUDENT).model
    padded.resize_token_embeddings(320, mean_resizing=False)
    with torch.no_grad():
        padded.model.embed_tokens.weight[309:] = padded.model.embed_tokens.weight[274]  # as likely as a common word
    folders["padded"] = edited(base / "padded", Policy(padded, student.tokenizer))
    return folders


@pytest.fixture(scope="module", params=["tied", "untied", "padded"])
def pair(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[tuple[VLLMEngine, Path]]:
    engine = VLLMEngine(folders[request.param], dtype="float32", max_model_len=192, width=64)
    yield engine, folders[request.param]
    engine.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[VLLMEngine]:
    made = VLLMEngine(STUDENT, dtype="float32", max_model_len=192, width=64)
    yield made
    made.close()


@pytest.fixture(scope="module")
def student() -> Policy:
    return Policy.load(STUDENT)


def rendered(policy: Policy, times: int = 1) -> list[list[int]]:
    return [policy.render(text) for text in PROBLEMS] * times


def seeds(n: int, name: str = "") -> list[int]:
    return [derive_seed("vllm test", name, i) for i in range(n)]


# --- against transformers ---------------------------------------------------------------------------------------------


def test_log_probs_greedy_text_and_ends_are_those_of_transformers(pair: tuple[VLLMEngine, Path]) -> None:
    engine, folder = pair
    policy = Policy.load(folder)
    assert engine.eos_ids == policy.eos_ids
    assert engine.vocab == policy.vocab == 309
    assert [engine.render(text) for text in PROBLEMS] == rendered(policy)
    prompts = rendered(policy, 4)
    for sampling in (DRAWN, Sampling(40, 0.7, 0.8), Sampling(40, 1.6)):
        samples = engine.generate(prompts, seeds(32), sampling)
        assert engine.probe(policy, prompts, samples, sampling) < CLOSE
        assert len({sample.ids for sample in samples}) > 8  # temperature and top-k of the folder are left alone
        for sample in samples:
            assert len(sample.ids) == len(sample.logprobs) <= 40
            assert (sample.ids[-1] in policy.eos_ids) == (sample.finish == "stop")
            assert not policy.eos_ids & set(sample.ids[:-1])
            assert max(sample.ids) < policy.vocab
    greedy = engine.generate(prompts[:8], seeds(8), GREEDY)
    assert greedy == HFEngine(policy).generate(prompts[:8], seeds(8), GREEDY)
    assert engine.decode(greedy[0].ids) == policy.decode(greedy[0].ids)
    assert {sample.finish for sample in greedy} == {"stop"}


def test_rows_without_a_token_are_never_drawn(folders: dict[str, Path]) -> None:
    # Eleven rows equal to that of "next", which the student likes to begin with: half the mass, were they not barred.
    policy = Policy.load(folders["padded"])
    with torch.no_grad():
        ids = torch.tensor([rendered(policy)[0]])
        full = policy.model(input_ids=ids).logits[0, -1].float().softmax(-1)
    assert float(full[309:].sum()) > 0.5


def test_ending_with_the_last_token_allowed_is_a_stop(engine: VLLMEngine, student: Policy) -> None:
    prompt = rendered(student)[:1]
    whole = engine.generate(prompt, [0], GREEDY)[0]
    n = len(whole.ids)
    assert whole.finish == "stop" and n < 40
    exact = engine.generate(prompt, [0], Sampling(n, 0.0))[0]
    short = engine.generate(prompt, [0], Sampling(n - 1, 0.0))[0]
    assert exact == whole
    assert short == Sample(whole.ids[:-1], (0.0,) * (n - 1), "length")


def test_bfloat16_is_near(student: Policy) -> None:
    policy = Policy.load(STUDENT, dtype=torch.bfloat16)
    engine = VLLMEngine(STUDENT, max_model_len=192)  # the default
    prompts = rendered(policy, 4)
    samples = engine.generate(prompts, seeds(32), DRAWN)
    gap = engine.probe(policy, prompts, samples)
    assert 1e-4 < gap < engine.tolerance  # it is bfloat16, and rounding is no alarm
    moved(policy, 1)
    engine.sync(policy)
    assert engine.gap < engine.tolerance
    engine.close()


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_seed_alone(engine: VLLMEngine, student: Policy) -> None:
    prompts, keys = [rendered(student)[0]] * 32, seeds(32)
    first = engine.generate(prompts, keys, DRAWN)
    assert len({sample.ids for sample in first}) > 10
    torch.manual_seed(99)
    assert [s.ids for s in engine.generate(prompts, keys, DRAWN)] == [s.ids for s in first]
    turned = engine.generate(prompts, keys[::-1], DRAWN)
    assert [s.ids for s in turned[::-1]] == [s.ids for s in first]
    alone = [engine.generate(prompts[:1], [key], DRAWN)[0].ids for key in keys[:6]]
    assert alone == [s.ids for s in first[:6]]
    twice = engine.generate(prompts[:2], [7, 7], DRAWN)
    assert twice[0].ids == twice[1].ids


def test_seeds_have_63_bits_and_the_cpu_uses_the_lower_32(engine: VLLMEngine, student: Policy) -> None:
    prompt = rendered(student)[0]
    largest = 2**63 - 1
    drawn = engine.generate([prompt] * 4, [5, 5 + 2**32, 5 + 2**31, largest], DRAWN)
    assert drawn[0].ids == drawn[1].ids  # what the docstring says; should it change, so should the docstring
    assert len({s.ids for s in drawn}) > 1
    for bad in (-1, 2**63):
        with pytest.raises(ValueError, match="63 bits"):
            engine.generate([prompt], [bad], DRAWN)


def test_draws_follow_the_distribution(engine: VLLMEngine, student: Policy) -> None:
    sampling, n = Sampling(1, 1.3, 0.98), 2000
    prompt = rendered(student)[0]
    with torch.no_grad():
        logits = student.model(input_ids=torch.tensor([prompt])).logits[0, -1, : student.vocab].float()
    expected = sampling_logprobs(logits[None], sampling)[0].exp().double().numpy()
    samples = engine.generate([prompt] * n, seeds(n, "chi"), sampling)
    counts = Counter(sample.ids[0] for sample in samples)
    observed = np.array([counts.get(i, 0) for i in range(student.vocab)])
    assert not observed[expected == 0].any()
    used = expected * n >= 5
    assert used.sum() >= 3
    pooled, wanted = (
        np.append(observed[used], observed[~used].sum()),
        np.append(expected[used], expected[~used].sum()) * n,
    )
    keep = wanted > 0
    assert chisquare(pooled[keep], wanted[keep] * pooled.sum() / wanted[keep].sum()).pvalue > 1e-3


# --- the stream -------------------------------------------------------------------------------------------------------


def test_samples_come_as_they_end(engine: VLLMEngine, student: Policy) -> None:
    # One long problem first: all others, begun at the same time, end before it.
    prompts = [student.render("Compute 9*8-7+6*5-4"), *rendered(student, 2)]
    came = list(engine.stream(prompts, seeds(17), GREEDY))
    lengths = [len(sample.ids) for _, sample in came]
    assert sorted(index for index, _ in came) == list(range(17))
    assert came[-1][0] == 0 and lengths == sorted(lengths)
    assert [sample for _, sample in sorted(came)] == engine.generate(prompts, seeds(17), GREEDY)


def test_a_stream_left_early_leaves_nothing_behind(engine: VLLMEngine, student: Policy) -> None:
    prompts = [student.render("Compute 9*8-7+6*5-4"), *rendered(student, 4)][:32]
    whole = engine.generate(prompts, seeds(32), GREEDY)
    stream = engine.stream(prompts, seeds(32), GREEDY)
    next(stream)
    assert engine.llm.llm_engine.has_unfinished_requests()
    stream.close()
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert engine.generate(prompts, seeds(32), GREEDY) == whole


def test_more_requests_than_run_side_by_side(engine: VLLMEngine, student: Policy) -> None:
    prompts = rendered(student, 20)  # 160, of which 64 at a time
    assert engine.generate(prompts, seeds(160), GREEDY) == engine.generate(prompts[:8], seeds(8), GREEDY) * 20
    assert engine.generate([], [], GREEDY) == []


# --- weights ----------------------------------------------------------------------------------------------------------


def moved(policy: Policy, seed: int) -> None:
    """Training, as far as an engine can tell: every parameter changes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.08 * parameter.float().std().nan_to_num(0.1)
            parameter += noise.to(parameter.dtype)


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_five_syncs(name: str, folders: dict[str, Path]) -> None:
    engine = VLLMEngine(folders[name], dtype="float32", max_model_len=192)
    policy = Policy.load(folders[name])
    prompts = rendered(policy, 2)
    prompts[-1] = (prompts[-1] * 9)[:150]  # long enough for the prefix cache, whose blocks have 128 tokens
    for step in range(1, 6):
        moved(policy, step)
        before = engine.generate(prompts, seeds(16), DRAWN)
        assert engine.probe(policy, prompts, before) > 0.02  # the engine really is behind
        engine.sync(policy)
        assert engine.version == step
        assert engine.gap < CLOSE
        after = engine.generate(prompts, seeds(16), DRAWN)
        assert engine.probe(policy, prompts, after) < CLOSE
        assert engine.generate(prompts, seeds(16), GREEDY) == HFEngine(policy).generate(prompts, seeds(16), GREEDY)
    engine.close()


def test_a_stale_head_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VLLMEngine(STUDENT, dtype="float32", max_model_len=192)
    policy = Policy.load(STUDENT)
    moved(policy, 1)
    whole = policy.model.state_dict()
    with monkeypatch.context() as patch:
        # as a saved folder of a tied model has it
        patch.setattr(policy.model, "state_dict", lambda: {k: v for k, v in whole.items() if k != "lm_head.weight"})
        with pytest.raises(
            StaleWeights, match=r"weight sync 1 .* differ from the trainer's by .* stale weights"
        ) as told:
            engine.sync(policy)
    assert told.value.gap > 0.01
    engine.sync(policy)
    assert engine.gap < CLOSE
    engine.close()


def test_weights_that_are_not_numbers_are_noticed() -> None:
    engine = VLLMEngine(STUDENT, dtype="float32", max_model_len=192)
    policy = Policy.load(STUDENT)
    engine.sync(policy)
    with torch.no_grad():
        policy.model.model.norm.weight.fill_(math.nan)
    with pytest.raises((StaleWeights, RuntimeError)):
        engine.sync(policy)
    engine.close()


def test_no_sync_in_the_middle_of_rollouts(student: Policy) -> None:
    engine = VLLMEngine(STUDENT, dtype="float32", max_model_len=192)
    stream = engine.stream([student.render("Compute 9*8-7+6*5-4"), *rendered(student)], seeds(9), GREEDY)
    next(stream)
    with pytest.raises(RuntimeError, match="in the middle of rollouts"):
        engine.sync(student)
    stream.close()
    engine.sync(student)
    engine.close()


PARALLEL = """
from pathlib import Path
from trainer.policy import Policy
from trainer.rollout import Sampling
from trainer.vllm_engine import VLLMEngine
from tests.vllm.test_vllm_engine import moved, rendered, seeds
if __name__ == "__main__":
    folder = Path({folder!r})
    engine, policy = VLLMEngine(folder, dtype="float32", max_model_len=192, tensor_parallel=2), Policy.load(folder)
    prompts, gaps = rendered(policy), []
    for step in range(3):
        gaps.append(engine.probe(policy, prompts, engine.generate(prompts, seeds(8), Sampling(40))))
        moved(policy, step)
        gaps.append(engine.probe(policy, prompts, engine.generate(prompts, seeds(8), Sampling(40))))
        engine.sync(policy)
    engine.close()
    print("gaps", *gaps)
"""


@pytest.mark.slow
def test_two_tensor_parallel_workers_get_their_weights_by_file(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL.format(folder=str(TEACHERS["math"])))
    bind = {"VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[1]}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=os.environ | bind, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("gaps")]
    gaps = [float(word) for word in line.split()[1:]]
    assert max(gaps[::2]) < CLOSE and min(gaps[1::2]) > 0.02


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(engine: VLLMEngine, student: Policy) -> None:
    prompt = rendered(student)[0]
    with pytest.raises(UserError, match=r"prompt of \d+ tokens and 190 of response .* 192: raise max_model_len"):
        engine.generate([prompt], [0], Sampling(190))
    exactly = engine.generate([prompt], [0], Sampling(192 - len(prompt)))
    assert exactly[0].finish == "stop"
    with pytest.raises(UserError, match=r"temperature 0\.01, not 0\.005"):
        engine.generate([prompt], [0], Sampling(4, 0.005))


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere has no config\.json"):
        VLLMEngine(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    Policy.load(STUDENT).save(broken)
    (broken / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not safetensors")
    with pytest.raises(UserError, match=r"vLLM cannot serve .*broken: "):
        VLLMEngine(broken, dtype="float32", max_model_len=64)
    with pytest.raises(UserError, match="'sleep' needs a GPU"):
        VLLMEngine(STUDENT, sleep=True)
    with pytest.raises(UserError, match="vLLM cannot serve"):
        VLLMEngine(STUDENT, max_model_len=10**6)
