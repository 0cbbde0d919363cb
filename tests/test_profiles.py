"""Where an arm puts its weight, by hand and against plain loops."""

from __future__ import annotations

import pytest
import torch

from tests.worlds import random_scores
from trainer.data import Prompt
from trainer.methods import METHODS
from trainer.profiles import ENTROPY_EDGES, POSITIONS, WEIGHT_EDGES, profile_rows, rollout_rows
from trainer.rollout import Sample, pack


@pytest.mark.parametrize("name", ["opd", "fire", "tip", "full-rkl", "random-filter"])
def test_every_kind_counts_every_token_once_and_sums_agree(name):
    scores = random_scores(3, 6, 9)
    plan = METHODS[name].plan(scores)
    rows = profile_rows(4, scores, plan)
    count = int(scores.mask.sum())
    coef = torch.stack([t.coef.abs() for t in plan.terms]).sum(0)
    for kind in ("entropies", "weights", "positions"):
        mine = [row for row in rows if row.kind == kind]
        assert {row.step for row in mine} == {4}
        assert sum(row.tokens for row in mine) == count
        # weights are relative to the mean over all tokens, so they add up to the number of tokens
        assert sum(row.weight for row in mine) == pytest.approx(count, rel=1e-4)
        advantage = (scores.teacher_logprobs - scores.logprobs)[scores.mask].sum()
        assert sum(row.advantage for row in mine) == pytest.approx(float(advantage), abs=1e-3)
    zero = [row for row in rows if row.kind == "weights" and row.i == 0]
    assert sum(row.tokens for row in zero) == int((coef[scores.mask] == 0).sum())


def test_entropy_and_position_bins_against_a_plain_loop():
    scores = random_scores(1, 4, 11)
    plan = METHODS["opd"].plan(scores)
    want: dict[tuple[str, int, int], int] = {}
    for row in range(4):
        n = int(scores.mask[row].sum())
        for t in range(n):
            spot = []
            for value in (float(scores.student_entropy[row, t]), float(scores.teacher_entropy[row, t])):
                spot.append(next((i for i, edge in enumerate(ENTROPY_EDGES) if value <= edge), len(ENTROPY_EDGES) - 1))
            for key in (("entropies", *spot), ("positions", t * POSITIONS // n, 0)):
                want[key] = want.get(key, 0) + 1
    rows = profile_rows(1, scores, plan)
    assert {(r.kind, r.i, r.j): r.tokens for r in rows if r.kind != "weights"} == want


def test_rollouts_by_hand():
    scores = random_scores(2, 3, 5, lengths=[5, 3, 4])
    plan = METHODS["fire-filter-only"].plan(scores)
    prompts = [Prompt("a", "p", "math", "1"), Prompt("b", "q", "code"), Prompt("c", "r", "math", "2")]
    lengths = scores.lengths.tolist()
    samples = [Sample(tuple([7] * n), tuple([-1.0] * n), "stop") for n in lengths]
    rollouts = pack(prompts, [[1]] * 3, samples, [1, 2, 3], pad=0)
    rows = rollout_rows(2, rollouts, scores, plan, [True, None, False])
    assert [(r.index, r.domain, r.length, r.correct) for r in rows] == [
        (0, "math", lengths[0], True),
        (1, "code", lengths[1], None),
        (2, "math", lengths[2], False),
    ]
    for row in rows:
        mean = float(scores.teacher_logprobs[row.index].sum()) / lengths[row.index]
        assert row.score == pytest.approx(mean, abs=1e-4)
        assert row.kept == bool(plan.keep[row.index])
        assert (row.weight == 0) == (not row.kept)


def test_an_empty_batch_has_no_rows():
    scores = random_scores(0, 2, 3)
    empty = type(scores)(torch.zeros_like(scores.mask), scores.logprobs, scores.teacher_logprobs)
    assert profile_rows(1, empty, METHODS["opd"].plan(empty)) == []


def test_bins_are_ordered_and_cover_what_they_must():
    assert list(ENTROPY_EDGES) == sorted(set(ENTROPY_EDGES)) and ENTROPY_EDGES[-1] == 6.0
    assert list(WEIGHT_EDGES) == sorted(set(WEIGHT_EDGES)) and WEIGHT_EDGES[0] == 0.0
    assert all(abs(edge - 1.0) > 0.05 for edge in WEIGHT_EDGES)  # equal weights fall into one bin
