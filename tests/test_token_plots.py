"""Figures of tokens and rollouts: the numbers they show, by hand and against plain loops over the records."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from harness.errors import UserError
from harness.plots import entropies, rollout_scores, token_weights
from harness.records import Records
from tests.profiles_fixture import ENTROPY_EDGES, PROFILE
from tests.records_fixture import fake_records


@pytest.fixture(scope="module")
def records() -> Records:
    return fake_records()


def profiled(rows: list[dict[str, object]], profile: dict[str, object] | None = None) -> Records:
    made = fake_records(arms=3, seeds=1)
    zero = {"seed": 0, "step": 1, "j": 0, "weight": 0.0, "advantage": 0.0, "kl": 0.0}
    zero |= {"student_entropy": 0.0, "teacher_entropy": 0.0}
    manifest = {**made.manifest, "profile": {**PROFILE, **(profile or {})}}
    return replace(made, manifest=manifest, profiles=pd.DataFrame([{**zero, **row} for row in rows]))


# -- entropies


def test_fires_weight_by_hand() -> None:
    # a sure teacher and the most confused student: (1 + 1)(1 + 1); an unsure teacher and a sure student: 1
    assert entropies.fire_weight(2.0, 0.0, (2.0, 1.0)) == 4
    assert entropies.fire_weight(0.0, 1.0, (2.0, 1.0)) == 1
    # cT = 1 - 0.25/1, cS = 0.5/2: 1.75 · 1.25
    assert entropies.fire_weight(0.5, 0.25, (2.0, 1.0)) == pytest.approx(2.1875)
    assert entropies.fire_weight(9.0, 9.0, (2.0, 1.0)) == 2  # beyond the maxima the terms are cut at 0 and 1


def test_the_weight_is_that_of_the_method() -> None:
    torch = pytest.importorskip("torch")
    from trainer.methods import METHODS
    from trainer.objective import Scores

    student, teacher = torch.tensor([[0.1, 0.9, 2.0, 0.0]]), torch.tensor([[0.3, 0.0, 0.05, 1.5]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    logprobs = torch.zeros(1, 4)
    scores = Scores(mask, logprobs, logprobs - 1, student_entropy=student, teacher_entropy=teacher)
    weight = METHODS["fire"].terms[0].weight(scores)[0]
    ours = entropies.fire_weight(student[0].numpy(), teacher[0].numpy(), (2.0, 1.5))
    np.testing.assert_allclose(ours / ours.mean(), weight.numpy() / weight.numpy().mean(), rtol=1e-5)


def test_entropy_cells_against_the_records(records: Records) -> None:
    figure, frame = entropies.entropies(records)
    assert list(dict.fromkeys(frame["arm"])) == ["opd", "fire", "full-rkl"]  # the baseline, FiRe, the next
    rows = records.profiles[(records.profiles["kind"] == "entropies") & (records.profiles["arm"] == "fire")]
    mine = frame[frame["arm"] == "fire"]
    assert mine["tokens"].sum() == rows["tokens"].sum()
    cell = mine[(mine["student_low"] == ENTROPY_EDGES[1]) & (mine["teacher_low"] == 0.0)].iloc[0]
    assert cell["tokens"] == rows.loc[(rows["i"] == 2) & (rows["j"] == 0), "tokens"].sum()
    mesh = next(c for c in figure.axes[4].collections + figure.axes[8].collections if isinstance(c, QuadMesh))
    assert mesh.get_rasterized()  # or a page of many cells would be heavy
    advantage = entropies.entropies(records, "advantage")[1]
    cell = advantage[(advantage["arm"] == "fire") & (advantage["student_low"] == 0) & (advantage["teacher_low"] == 0)]
    here = rows[(rows["i"] == 0) & (rows["j"] == 0)]
    assert cell["advantage"].item() == pytest.approx(here["advantage"].sum() / here["tokens"].sum())


def test_the_maxima_are_those_of_the_bins_of_each_step() -> None:
    # step 1: highest student bin 3 with a mean of 0.2; step 2: bin 5 with 0.3; so 0.25. Teacher: 0.4 in both.
    base = {"arm": "opd", "kind": "entropies", "tokens": 2}
    rows = [
        {**base, "step": 1, "i": 3, "j": 6, "student_entropy": 0.4, "teacher_entropy": 0.8},
        {**base, "step": 1, "i": 0, "j": 0},
        {**base, "step": 2, "i": 5, "j": 6, "student_entropy": 0.6, "teacher_entropy": 0.8},
    ]
    frame = entropies.entropies(profiled(rows))[1].set_index(["student_low", "teacher_low"])
    edges = [0.0, *ENTROPY_EDGES]
    student, teacher = (edges[3] + edges[4]) / 2, (edges[6] + edges[7]) / 2
    want = entropies.fire_weight(student, teacher, (0.25, 0.4))
    assert frame.loc[(edges[3], edges[6]), "fire_weight"] == pytest.approx(float(want))


def test_the_mean_of_few_tokens_has_no_colour() -> None:
    base = {"arm": "opd", "kind": "entropies", "j": 0}
    rows = [{**base, "i": 0, "tokens": 9, "advantage": 9.0}, {**base, "i": 1, "tokens": 10, "advantage": -5.0}]
    frame = entropies.entropies(profiled(rows), "advantage")[1].set_index("student_low")
    assert math.isnan(frame.loc[0.0, "advantage"])
    assert frame.loc[ENTROPY_EDGES[0], "advantage"] == -0.5


# -- weights


def test_weight_shares_by_hand() -> None:
    # edges 0, 1/2, 1, 2: weight zero, then up to 1/2, up to 1, and all beyond 1
    base = {"kind": "weights"}
    rows = [
        {**base, "arm": "opd", "i": 2, "tokens": 7},
        {**base, "arm": "full-rkl", "i": 0, "tokens": 1},
        {**base, "arm": "full-rkl", "i": 2, "tokens": 3},
        {**base, "arm": "fire", "i": 1, "tokens": 2},
        {**base, "arm": "fire", "i": 2, "tokens": 1, "step": 2},
        {**base, "arm": "fire", "i": 3, "tokens": 1, "step": 2},
    ]
    figure, frame = token_weights.weights(profiled(rows, {"weight_edges": [0.0, 0.5, 1.0, 2.0]}))
    assert [axes.get_title() for axes in figure.axes if axes.axison] == ["OPD, full vocabulary", "FiRe"]
    shares = frame.set_index(["arm", "low"])["share"].to_dict()
    assert shares[("full-rkl", 0.0)] == 25
    assert [shares[("fire", low)] for low in (0.0, 0.5, 1.0)] == [50, 25, 25]
    assert frame.loc[frame["low"] == 1.0, "high"].item() == math.inf
    zero = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert zero == ["25 %", "0 %"]


def test_no_arm_that_weighs_is_no_figure() -> None:
    rows = [{"arm": "opd", "kind": "weights", "i": 2, "tokens": 7}]
    with pytest.raises(UserError, match="no arm of grid 'fake' weighs tokens"):
        token_weights.weights(profiled(rows, {"weight_edges": [0.0, 0.5, 1.0, 2.0]}))


# -- positions


def test_position_means_by_hand() -> None:
    base = {"arm": "opd", "kind": "positions"}
    rows = [
        {**base, "seed": 0, "i": 0, "tokens": 2, "weight": 3.0, "advantage": -1.0, "kl": math.nan},
        {**base, "seed": 0, "i": 1, "tokens": 1, "weight": 0.0, "advantage": 1.0, "kl": math.nan},
        {**base, "seed": 1, "i": 0, "tokens": 2, "weight": 1.0, "advantage": -2.0, "kl": math.nan},
        {**base, "seed": 1, "i": 0, "step": 2, "tokens": 4, "weight": 5.0, "advantage": 0.0, "kl": math.nan},
        {**base, "seed": 1, "i": 1, "tokens": 1, "weight": 1.0, "advantage": 2.0, "kl": math.nan},
    ]
    figure, frame = token_weights.positions(profiled(rows, {"positions": 2}))
    point = frame.set_index(["metric", "position"])
    # all: (3 + 1 + 5) / 8 tokens; seed 0: 3/2; seed 1: 6/6
    first = point.loc[("weight", 25.0)]
    assert (first["value"], first["low"], first["high"]) == (9 / 8, 1.0, 1.5)
    # of the whole weight 10, nine parts are in the first half
    assert point.loc[("weight_share", 25.0), "value"] == 90
    assert point.loc[("advantage", 75.0), "value"] == 1.5
    assert point.loc["kl"]["value"].isna().all()
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["not recorded"]


def test_positions_against_a_loop(records: Records) -> None:
    frame = token_weights.positions(records)[1]
    rows = records.profiles
    rows = rows[(rows["kind"] == "positions") & (rows["arm"] == "tip") & (rows["i"] == 7)]
    point = frame[(frame["arm"] == "tip") & (frame["metric"] == "kl") & (frame["position"] == 37.5)].iloc[0]
    by_seed = [part["kl"].sum() / part["tokens"].sum() for _, part in rows.groupby("seed")]
    assert point["value"] == pytest.approx(rows["kl"].sum() / rows["tokens"].sum())
    assert (point["low"], point["high"]) == pytest.approx((min(by_seed), max(by_seed)))


# -- rollouts


def test_score_bars_hold_every_graded_rollout(records: Records) -> None:
    figure, frame = rollout_scores.scores(records)
    graded = records.rollouts[records.rollouts["correct"].notna()]
    for arm, part in graded.groupby("arm"):
        mine = frame[frame["arm"] == arm]
        assert mine["rollouts"].sum() == len(part)
        assert mine["share"].sum() == pytest.approx(100)
        wrong_dropped = part[~part["correct"].astype(bool) & ~part["kept"]]
        assert mine.loc[~mine["correct"] & ~mine["kept"], "rollouts"].sum() == len(wrong_dropped)
    bar = frame[(frame["arm"] == "fire") & frame["correct"] & frame["kept"]].sort_values("rollouts").iloc[-1]
    inside = graded[(graded["arm"] == "fire") & graded["kept"] & graded["correct"].astype(bool)]["score"]
    assert bar["rollouts"] == ((inside > bar["low"]) & (inside <= bar["high"])).sum()
    panel = next(axes for axes in figure.axes if axes.get_title().startswith("FiRe\n"))
    assert panel.get_title() == f"FiRe\nAUROC {bar['auroc']:.2f} [{bar['auroc_low']:.2f}, {bar['auroc_high']:.2f}]"
    lines = [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"]
    assert lines == [pytest.approx(-math.log10(-bar["threshold"]))]
    control = next(axes for axes in figure.axes if axes.get_title().startswith("random filter"))
    assert [line for line in control.lines if line.get_linestyle() == "--"] == []  # it does not go by the score


def test_scores_of_zero_and_of_one_value_can_be_drawn(records: Records) -> None:
    flat = replace(records, rollouts=records.rollouts.assign(score=0.0))
    frame = rollout_scores.scores(flat)[1]
    assert frame["rollouts"].sum() == records.rollouts["correct"].notna().sum()


def test_routing_by_hand() -> None:
    columns = ["arm", "seed", "step", "domain", "length", "score", "student_score", "kept"]
    rows = [
        ("opd", 0, 1, "math", 30, -1.0, -0.5, True),
        ("opd", 0, 1, "math", 10, -3.0, -0.5, False),
        ("opd", 0, 1, "code", 60, -2.0, -2.0, True),
        ("opd", 1, 1, "math", 50, -1.0, -1.0, True),
        ("opd", 1, 1, "code", 50, -1.0, -1.0, True),
    ]
    made = replace(fake_records(arms=2, seeds=1), rollouts=pd.DataFrame(rows, columns=columns))
    figure, frame = rollout_scores.routing(made)
    point = frame.set_index("domain").loc["math"]
    # share: 40 of 100 and 50 of 100 tokens; KL: (30·0.5 + 10·2.5)/40 = 1 and 0; score: -2 and -1; kept: 1/2 and 1
    assert (point["share"], point["share_low"], point["share_high"]) == pytest.approx((45, 40, 50))
    assert (point["kl"], point["kl_high"]) == pytest.approx((0.5, 1.0))
    assert (point["score"], point["kept"], point["seeds"]) == pytest.approx((-1.5, 75, 2))
    assert [axes.get_title() for axes in figure.axes[:4]] == [title for _, title in rollout_scores.ROUTED]
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == ["code", "math"]


# -- what cannot be drawn

Draw = Callable[[Records], tuple[Figure, pd.DataFrame]]


@pytest.mark.parametrize("draw", [entropies.entropies, token_weights.weights, token_weights.positions])
def test_records_without_profiles_say_so(draw: Draw, records: Records) -> None:
    with pytest.raises(UserError, match="grid 'fake' has no recorded token"):
        draw(replace(records, profiles=pd.DataFrame()))
    manifest = {name: value for name, value in records.manifest.items() if name != "profile"}
    with pytest.raises(UserError, match="does not say what the bins of its token profiles are"):
        draw(replace(records, manifest=manifest))


@pytest.mark.parametrize("draw", [rollout_scores.scores, rollout_scores.routing])
def test_records_without_rollouts_say_so(draw: Draw, records: Records) -> None:
    with pytest.raises(UserError, match="grid 'fake' has no recorded rollouts"):
        draw(replace(records, rollouts=pd.DataFrame()))


def test_other_refusals(records: Records) -> None:
    with pytest.raises(UserError, match="is of domain 'math': nothing is routed"):
        rollout_scores.routing(replace(records, rollouts=records.rollouts.assign(domain="math")))
    with pytest.raises(UserError, match="color='sign' is unknown"):
        entropies.entropies(records, "sign")
    with pytest.raises(UserError, match="arm 'teacher' has no recorded entropies"):
        entropies.entropies(records, arms=["opd", "teacher"])
    blind = replace(records, profiles=records.profiles.assign(kl=math.nan))
    with pytest.raises(UserError, match="no kl of its tokens: its teachers gave no logits"):
        entropies.entropies(blind, "kl")
