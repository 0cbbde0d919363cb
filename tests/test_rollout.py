from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import tiny_policy
from trainer.data import Prompt
from trainer.rollout import Rollouts, Sample, pack

PROMPTS = [[5, 6, 7], [8], [9, 10]]
SAMPLES = [
    Sample((11, 1), (-0.5, -0.25), "stop"),
    Sample((12, 13, 14), (-1.0, -2.0, -3.0), "length"),
    Sample((), (), "length"),
]


def packed(version: int = 0) -> Rollouts:
    return pack([Prompt(f"p{i}", f"text {i}") for i in range(3)], PROMPTS, SAMPLES, [100, 2**62, 300], 0, version)


def test_packing_by_hand() -> None:
    found = packed(version=4)
    assert found.input_ids.tolist() == [[5, 6, 7, 11, 1, 0], [0, 0, 8, 12, 13, 14], [0, 9, 10, 0, 0, 0]]
    assert found.attention.tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]
    assert found.mask.tolist() == [[True, True, False], [True] * 3, [False] * 3]
    assert found.logprobs.tolist() == [[-0.5, -0.25, 0.0], [-1.0, -2.0, -3.0], [0.0, 0.0, 0.0]]
    assert found.completed.tolist() == [True, False, False]
    assert found.uid.tolist() == [100, 2**62, 300]
    assert found.version == 4
    assert found.responses.tolist() == [[11, 1, 0], [12, 13, 14], [0, 0, 0]]
    assert found.targets.tolist() == [11, 1, 12, 13, 14]


def test_a_padding_id_inside_of_an_answer_is_a_token_like_any_other() -> None:
    found = pack([], [[5]], [Sample((0, 7, 0), (-1.0, -1.0, -1.0), "length")], [1], pad=0)
    assert found.mask.tolist() == [[True, True, True]]
    assert found.attention.tolist() == [[1, 1, 1, 1]]


def test_rows_are_picked_and_trimmed() -> None:
    found = packed().rows(torch.tensor([2, 0]))
    assert [p.id for p in found.prompts] == ["p2", "p0"]
    assert found.input_ids.tolist() == [[0, 9, 10, 0, 0], [5, 6, 7, 11, 1]]
    assert found.attention.tolist() == [[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert found.mask.tolist() == [[False, False], [True, True]]
    assert found.uid.tolist() == [300, 100]
    lonely = packed().rows(torch.tensor([2]))
    assert lonely.input_ids.tolist() == [[9, 10]]
    assert lonely.mask.shape == (1, 0)
    assert lonely.targets.tolist() == []


def test_a_batch_of_nothing_but_empty_answers() -> None:
    found = pack([], [[5], [6, 7]], [Sample((), (), "stop")] * 2, [1, 2], 0)
    assert found.mask.shape == (2, 0)
    assert found.targets.tolist() == []
    assert tiny_policy(0).hidden(found).shape == (0, 32)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(3, 59), min_size=1, max_size=5), st.lists(st.integers(0, 59), max_size=5)),
        min_size=1,
        max_size=5,
    ),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=25)
def test_hidden_states_do_not_depend_on_company(rows: list[tuple[list[int], list[int]]], random: object) -> None:
    policy = tiny_policy(0)
    samples = [Sample(tuple(a), (0.0,) * len(a), "stop") for _, a in rows]
    prompts = [Prompt(str(i), "") for i in range(len(rows))]
    rollouts = pack(prompts, [p for p, _ in rows], samples, list(range(len(rows))), 0)
    with torch.no_grad():
        together = policy.hidden(rollouts)
        assert rollouts.targets.tolist() == [i for _, a in rows for i in a]
        expected = []
        for prompt, answer in rows:
            states = policy.model.model(input_ids=torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
            expected.append(states[len(prompt) - 1 : len(prompt) - 1 + len(answer)])
        torch.testing.assert_close(together, torch.cat(expected), rtol=1e-4, atol=1e-5)
        order = list(range(len(rows)))
        random.shuffle(order)  # type: ignore[attr-defined]
        moved = policy.hidden(rollouts.rows(torch.tensor(order)))
        torch.testing.assert_close(moved, torch.cat([expected[i] for i in order]), rtol=1e-4, atol=1e-5)
