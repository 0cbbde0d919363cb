from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from tests.worlds import EOS, PAD, WORDS, tiny_policy
from trainer import engines
from trainer.data import derive_seed
from trainer.engines import FrozenEngine, HFEngine, ScriptedEngine, draw, sampling_logprobs
from trainer.filters import DropRandom
from trainer.policy import Policy
from trainer.rollout import Sample, Sampling
from trainer.scores import Scores
from trainer.weights import RandomMask

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 5], [20, 21, 22], [33, 34, 35, 36], [40], [41, 42]]
SEEDS = [derive_seed(0, "engine test", i) for i in range(len(PROMPTS))]
GREEDY = Sampling(12, temperature=0.0)


@pytest.fixture(scope="module")
def policy() -> Policy:
    """A policy that ends its answers now and then."""
    found = tiny_policy(3)
    with torch.no_grad():
        found.model.lm_head.weight[EOS] *= 3
    return found


def teacher_forced(policy: Policy, prompt: list[int], sample: Sample) -> list[float]:
    """Log-probs of a sample by one plain forward over the whole sequence, no padding, no cache."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([[*prompt, *sample.ids]])).logits[0, :, : policy.vocab]
    logp = logits.float().log_softmax(-1)[len(prompt) - 1 : -1]
    return logp.gather(1, torch.tensor(sample.ids)[:, None])[:, 0].tolist()


# --- against transformers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie", [False, True])
def test_greedy_equals_generate_token_for_token(tie: bool) -> None:
    policy = tiny_policy(5, head_rows=WORDS, tie=tie)
    samples = HFEngine(policy).generate(PROMPTS, SEEDS, GREEDY)
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        expected = policy.model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, pad_token_id=PAD, eos_token_id=EOS
        )[0, len(prompt) :].tolist()
        assert list(sample.ids) == expected
        assert sample.finish == ("stop" if expected[-1] == EOS else "length")
    assert len({s.ids for s in samples}) > 1


def test_log_probs_equal_a_teacher_forced_forward(policy: Policy) -> None:
    samples = HFEngine(policy).generate(PROMPTS, SEEDS, Sampling(12))
    for prompt, sample in zip(PROMPTS, samples, strict=True):
        assert sample.logprobs == pytest.approx(teacher_forced(policy, prompt, sample), abs=1e-5)


def test_ids_beyond_the_vocabulary_are_never_drawn() -> None:
    # Head rows 60..71 belong to no token; make them irresistible.
    policy = tiny_policy(6, head_rows=72)
    assert policy.vocab == WORDS
    with torch.no_grad():
        policy.model.lm_head.weight[WORDS:] *= 50
    for sampling in (GREEDY, Sampling(12)):
        for sample in HFEngine(policy).generate(PROMPTS, SEEDS, sampling):
            assert max(sample.ids) < WORDS


# --- a sample depends on its own seed only --------------------------------------------------------------------


def same(a: Sample, b: Sample) -> bool:
    return a.ids == b.ids and a.finish == b.finish and np.allclose(a.logprobs, b.logprobs, atol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(20), Sampling(20, temperature=0.7, top_p=0.8)], ids=str)
def test_a_sample_is_the_same_alone_in_a_batch_and_in_another_order(policy: Policy, sampling: Sampling) -> None:
    together = HFEngine(policy).generate(PROMPTS, SEEDS, sampling)
    assert {s.finish for s in together} == {"stop", "length"}, "the rows must end at different times"
    for index, sample in enumerate(together):
        alone = HFEngine(policy).generate([PROMPTS[index]], [SEEDS[index]], sampling)
        assert same(alone[0], sample)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    moved = HFEngine(policy).generate([PROMPTS[i] for i in order], [SEEDS[i] for i in order], sampling)
    assert all(same(moved[place], together[i]) for place, i in enumerate(order))
    for batch in (1, 3):
        split = HFEngine(policy, batch).generate(PROMPTS, SEEDS, sampling)
        assert all(same(a, b) for a, b in zip(split, together, strict=True))
    streamed = [s for _, s in HFEngine(policy, 3).stream(PROMPTS, SEEDS, sampling)]
    assert all(same(a, b) for a, b in zip(streamed, together, strict=True))


def test_seeds_matter_and_nothing_else_is_random(policy: Policy) -> None:
    engine = HFEngine(policy)
    prompts = [PROMPTS[0]] * 20
    first = engine.generate(prompts, list(range(20)), Sampling(8))
    torch.manual_seed(999)
    assert first == engine.generate(prompts, list(range(20)), Sampling(8))
    assert len({s.ids for s in first}) > 8
    assert engine.generate(prompts[:2], [7, 7], Sampling(8))[0] == engine.generate(prompts[:2], [7, 7], Sampling(8))[1]


def test_compaction_of_finished_rows_is_harmless(policy: Policy) -> None:
    # Many rows that end early one after the other: the cache is cut several times along the way.
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(24)]
    seeds = [derive_seed(1, i) for i in range(24)]
    samples = HFEngine(policy).generate(prompts, seeds, Sampling(40))
    lengths = {len(s.ids) for s in samples}
    assert len(lengths) > 6
    for prompt, sample in zip(prompts, samples, strict=True):
        assert sample.logprobs == pytest.approx(teacher_forced(policy, prompt, sample), abs=1e-5)
        assert EOS not in sample.ids[:-1]


# --- how a sample ends ----------------------------------------------------------------------------------------


def test_stop_and_length(policy: Policy) -> None:
    for sample in HFEngine(policy).generate(PROMPTS * 3, list(range(24)), Sampling(9)):
        assert len(sample.ids) == len(sample.logprobs) <= 9
        if sample.finish == "stop":
            assert sample.ids[-1] == EOS
        else:
            assert len(sample.ids) == 9
            assert EOS not in sample.ids


def test_ending_with_the_last_token_allowed_is_a_stop(policy: Policy) -> None:
    prompts, seeds = PROMPTS * 5, list(range(40))
    samples = HFEngine(policy).generate(prompts, seeds, Sampling(20))
    index = next(i for i, s in enumerate(samples) if s.finish == "stop" and len(s.ids) > 1)
    sample = samples[index]
    exact = HFEngine(policy).generate([prompts[index]], [index], Sampling(len(sample.ids)))[0]
    assert exact.finish == "stop" and exact.ids == sample.ids
    short = HFEngine(policy).generate([prompts[index]], [index], Sampling(len(sample.ids) - 1))[0]
    assert short.finish == "length" and short.ids == sample.ids[:-1]


def test_any_of_several_ends_counts(policy: Policy) -> None:
    several = tiny_policy(3)
    several.model.load_state_dict(policy.model.state_dict())
    several.eos_ids = frozenset(range(1, 30))
    for sample in HFEngine(several).generate(PROMPTS, SEEDS, Sampling(30)):
        assert all(i not in several.eos_ids for i in sample.ids[:-1])
        assert (sample.ids[-1] in several.eos_ids) == (sample.finish == "stop")


def test_no_prompts_no_samples(policy: Policy) -> None:
    assert HFEngine(policy).generate([], [], Sampling(4)) == []


# --- the distribution -----------------------------------------------------------------------------------------


def naive_distribution(logits: list[float], sampling: Sampling) -> list[float]:
    scaled = [x / sampling.temperature for x in logits]
    top = max(scaled)
    weights = [math.exp(x - top) for x in scaled]
    p = [w / sum(weights) for w in weights]
    kept, mass = set(), 0.0
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        if mass >= sampling.top_p:
            break
        kept.add(i)
        mass += p[i]
    return [x / mass if i in kept else 0.0 for i, x in enumerate(p)]


@given(
    st.lists(st.integers(-500, 500).map(lambda n: n / 100), min_size=1, max_size=12, unique=True),
    st.floats(0.2, 3.0),
    st.sampled_from([0.05, 0.3, 0.61, 0.9, 1.0]),
)
@settings(deadline=None, max_examples=100)
def test_sampling_log_probs_against_a_naive_loop(logits: list[float], temperature: float, top_p: float) -> None:
    sampling = Sampling(1, temperature, top_p)
    expected = naive_distribution(logits, sampling)
    border = np.cumsum(sorted(naive_distribution(logits, replace(sampling, top_p=1.0)), reverse=True))
    if np.abs(border - top_p)[:-1].min(initial=1.0) < 1e-4:
        return  # rounding decides
    found = sampling_logprobs(torch.tensor([logits]), sampling).exp()[0].tolist()
    assert found == pytest.approx(expected, abs=1e-4)


def test_top_p_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.4]]).log()
    # 0.5 alone does not reach 0.6; with 0.4 it does
    assert sampling_logprobs(logits, Sampling(1, top_p=0.6)).exp()[0].tolist() == pytest.approx([0, 5 / 9, 4 / 9])
    # 0.5 reaches 0.45 by itself
    assert sampling_logprobs(logits, Sampling(1, top_p=0.45)).exp()[0].tolist() == pytest.approx([0, 1, 0])
    # and just about: a nucleus is the smallest set that reaches top-p
    assert sampling_logprobs(logits, Sampling(1, top_p=0.4999)).exp()[0].tolist() == pytest.approx([0, 1, 0])
    assert sampling_logprobs(logits, Sampling(1, top_p=0.5001)).exp()[0].tolist() == pytest.approx([0, 5 / 9, 4 / 9])
    assert sampling_logprobs(logits, Sampling(1, top_p=1e-9)).exp()[0].tolist() == pytest.approx([0, 1, 0])
    assert sampling_logprobs(logits, Sampling(1, 0.0)).tolist() == [[-math.inf, 0.0, -math.inf]]
    # squared odds at temperature ½: 1 : 25 : 16
    assert sampling_logprobs(logits, Sampling(1, 0.5)).exp()[0].tolist() == pytest.approx([1 / 42, 25 / 42, 16 / 42])


@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(1, 0.5), Sampling(1, 1.5, 0.7)], ids=str)
def test_draws_follow_the_distribution(policy: Policy, sampling: Sampling) -> None:
    n = 6000
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1, : policy.vocab].float()
    expected = np.array(naive_distribution(logits.tolist(), sampling))
    samples = HFEngine(policy, 2000).generate([PROMPTS[0]] * n, list(range(n)), sampling)
    counts = Counter(s.ids[0] for s in samples)
    observed = np.array([counts.get(i, 0) for i in range(policy.vocab)])
    assert not observed[expected == 0].any()
    often = expected * n >= 5
    pooled = np.append(observed[often], observed[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * n
    used = wanted > 0
    assert chisquare(pooled[used], wanted[used] * pooled.sum() / wanted[used].sum()).pvalue > 1e-3
    # the log-probs are those of the distribution that was drawn from
    for sample in samples[:50]:
        assert math.exp(sample.logprobs[0]) == pytest.approx(expected[sample.ids[0]], rel=1e-3)


def test_inversion_by_hand() -> None:
    logp = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()

    def at(u: float) -> int:
        return int(draw(logp, torch.tensor([u], dtype=torch.float64)))

    assert [at(u) for u in (0.0, 0.1999, 0.2001, 0.6999, 0.7001, 0.999999)] == [0, 0, 2, 2, 3, 3]
    # an id of probability zero is never drawn, not even by u = 0
    first = torch.tensor([[0.0, 1.0]]).log()
    assert int(draw(first, torch.zeros(1, dtype=torch.float64))) == 1


def test_rows_are_drawn_independently() -> None:
    logp = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]).log()
    assert draw(logp, torch.tensor([0.9, 0.9, 0.1], dtype=torch.float64)).tolist() == [1, 0, 1]


def test_the_random_controls_know_nothing_of_the_draws(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rollouts are identified by the seed they were drawn with. Were a control to use the same numbers as the engine,
    # its random half of the tokens would be those with the larger ids.
    n, tokens = 300, 10
    seeds = [derive_seed(5, i) for i in range(n)]
    columns: list[Tensor] = []

    def spy(logp: Tensor, u: Tensor) -> Tensor:
        columns.append(u)
        return torch.full((len(u),), 7)  # never the end

    monkeypatch.setattr(engines, "draw", spy)
    HFEngine(policy, n).generate([[5]] * n, seeds, Sampling(tokens))
    drawn = torch.stack(columns, 1)
    assert drawn.shape == (n, tokens)
    uid = torch.tensor(seeds)
    scores = Scores(torch.ones(n, tokens), torch.zeros(n, tokens), torch.zeros(n, tokens), uid=uid)
    limit = 4 / math.sqrt(n * tokens)

    def correlation(a: Tensor, b: Tensor) -> float:
        return abs(float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]))

    for seed in range(4):
        assert correlation(RandomMask(0.5, seed)(scores), drawn) < limit
        kept = DropRandom(0.5, seed)(scores).float()
        assert correlation(kept[:, None].expand(n, tokens), drawn) < limit
        assert correlation(kept, drawn[:, 0]) < 4 / math.sqrt(n)


# --- the other engines ----------------------------------------------------------------------------------------


def test_versions_count_syncs(policy: Policy) -> None:
    other = tiny_policy(8)
    engine = HFEngine(policy)
    before = engine.generate(PROMPTS, SEEDS, GREEDY)
    engine.sync(other)
    assert engine.version == 1
    assert engine.generate(PROMPTS, SEEDS, GREEDY) == HFEngine(other).generate(PROMPTS, SEEDS, GREEDY) != before


def test_a_frozen_engine_ignores_the_weights_it_is_given(policy: Policy) -> None:
    engine = FrozenEngine(HFEngine(policy))
    before = engine.generate(PROMPTS, SEEDS, GREEDY)
    engine.sync(tiny_policy(8))
    assert engine.version == 1
    assert engine.generate(PROMPTS, SEEDS, GREEDY) == before


def test_a_scripted_engine_answers_by_script() -> None:
    engine = ScriptedEngine(lambda prompt, seed: Sample((len(prompt), seed), (0.0, -1.0), "stop"))
    assert [s.ids for s in engine.generate([[1, 2], [3]], [7, 8], Sampling(4))] == [(2, 7), (1, 8)]
