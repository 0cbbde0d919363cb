"""The area under the ROC curve and its interval: by hand, against SciPy, against loops, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from harness.errors import UserError
from harness.records import Records
from harness.stats.separation import auroc
from harness.tables import filtering, markup
from tests.records_fixture import fake_records

SCORES = st.lists(
    st.tuples(st.integers(-8, 8), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40
)  # small whole numbers: many ties


def test_by_hand() -> None:
    # right 3, 1; wrong 2, 1: of the pairs (3,2), (3,1), (1,2), (1,1) two are won and one is a tie: 2.5 / 4
    found = auroc([3, 1, 2, 1], [True, True, False, False])
    assert found.value == pytest.approx(0.625)
    assert (found.right, found.wrong, found.batches, found.interval) == (2, 2, 1, "DeLong")
    # DeLong: right ones win 1 and 0.25 (variance 0.28125), wrong ones lose to 0.5 and 0.75 (variance 0.03125)
    half = float(norm.ppf(0.975)) * math.sqrt(0.28125 / 2 + 0.03125 / 2)
    assert (found.low, found.high) == pytest.approx((max(0, 0.625 - half), min(1, 0.625 + half)))


def test_batches_by_hand() -> None:
    # batch a: right 2 against wrong 1, 3: 1 of 2 pairs; batch b: right 1, 2 against wrong 0: 2 of 2; batch c: no pair
    found = auroc([2, 1, 3, 1, 2, 0, 9], [True, False, False, True, True, False, True], list("aaabbbc"))
    assert (found.value, found.batches) == (0.75, 2)
    # residuals 1 - 0.75·2 and 2 - 0.75·2: ±0.5; error sqrt(2/1 · 0.5) / 4 = 0.25; t(1) = 12.7062
    assert (found.low, found.high) == (0.0, 1.0)  # 0.75 ± 3.18
    assert found.interval == "t over batches"
    # a score that only tells the batches apart is no merit: pooled 1, within 0.5
    drift = [1, 1, 0, 0]
    assert auroc(drift, [True, False, True, False], [1, 1, 0, 0]).value == 0.5


@settings(max_examples=150, deadline=None)
@given(SCORES)
def test_against_scipy_and_pairs_within_batches(rows: list[tuple[int, bool, int]]) -> None:
    scores, correct, batches = (list(column) for column in zip(*rows, strict=True))
    good = [s for s, c in zip(scores, correct, strict=True) if c]
    bad = [s for s, c in zip(scores, correct, strict=True) if not c]
    whole = auroc(scores, correct)
    if good and bad:
        assert whole.value == pytest.approx(mannwhitneyu(good, bad).statistic / len(good) / len(bad))
        assert whole.low <= whole.value <= whole.high
    else:
        assert math.isnan(whole.value)
    pairs = [
        (a > b) + (a == b) / 2 for a, right, one in rows for b, other, two in rows if right and not other and one == two
    ]
    within = auroc(scores, correct, batches)
    assert within.value == pytest.approx(np.mean(pairs)) if pairs else math.isnan(within.value)


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_turned_round_and_stretched(rows: list[tuple[int, bool, int]]) -> None:
    scores, correct, batches = (list(column) for column in zip(*rows, strict=True))
    found = auroc(scores, correct, batches)
    turned = auroc([-s for s in scores], correct, batches)
    bent = auroc([math.exp(s / 3) for s in scores], correct, batches)
    if found.batches:
        assert turned.value == pytest.approx(1 - found.value)
        assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low))
        assert (bent.value, bent.low, bent.high) == pytest.approx((found.value, found.low, found.high))


def test_certainty_is_not_claimed() -> None:
    perfect = auroc([5, 6, 7, 1, 2], [True, True, True, False, False])
    assert perfect.value == perfect.high == 1
    assert perfect.low == pytest.approx(0.025**0.5)  # two of two: low^2 = 0.025
    assert "binomial" in perfect.interval


@pytest.mark.parametrize("batches", [1, 12])
def test_the_interval_covers(batches: int) -> None:
    # right N(1, 1), wrong N(0, 1): the chance that right > wrong is Phi(1/sqrt 2) = 0.7602
    truth, hits, trials = float(norm.cdf(1 / math.sqrt(2))), 0, 600
    draw = np.random.default_rng(5)
    for _ in range(trials):
        correct = draw.random(24 * max(batches, 5)) < 0.5
        scores = draw.normal(correct.astype(float), 1)
        groups = (np.arange(len(correct)) % batches).tolist()
        found = auroc(scores, correct, groups)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / trials <= 0.98


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(UserError, match="one length"):
        auroc([1, 2], [True])
    with pytest.raises(UserError, match="not a finite number"):
        auroc([1, math.nan], [True, False])


# -- the table


def rollouts(rows: list[tuple[str, int, int, float, bool | None, bool]]) -> Records:
    columns = ["arm", "seed", "step", "score", "correct", "kept"]
    frame = pd.DataFrame(rows, columns=columns).assign(domain="math", length=10, student_score=-1.0)
    made = fake_records(arms=2, seeds=1)
    return Records(made.manifest, made.samples, made.steps, made.timings, frame, made.profiles)


def test_summary_by_hand() -> None:
    records = rollouts(
        [
            ("opd", 0, 1, -1.0, True, True),
            ("opd", 0, 1, -2.0, False, True),
            ("opd", 0, 2, -4.0, None, True),  # no gold answer: not counted
            ("full-rkl", 0, 1, -1.0, True, True),
            ("full-rkl", 0, 1, -3.0, False, False),
            ("full-rkl", 0, 1, -5.0, True, False),
            ("full-rkl", 0, 2, -2.0, False, True),
            ("full-rkl", 0, 2, -7.0, False, False),
        ]
    )
    frame = filtering.summary(records).set_index("arm")
    assert frame["rollouts"].to_dict() == {"opd": 2, "full-rkl": 5}
    row = frame.loc["full-rkl"]
    assert (row["right"], row["kept"], row["right_kept"]) == pytest.approx((2 / 5, 2 / 5, 1 / 2))
    assert row["right_dropped"] == pytest.approx(1 / 3)
    # between -3 and -1 in the first batch, -7 and -2 in the second
    assert (row["threshold_low"], row["threshold"], row["threshold_high"]) == (-4.5, -3.25, -2.0)
    assert (row["auroc"], row["batches"], row["batches_of_both"]) == (0.5, 2, 1)
    assert math.isnan(frame.loc["opd", "threshold"])
    text = markup.markdown(filtering.table(filtering.summary(records)))
    assert "| OPD | 2 | 50.0 | 100.0 | 50.0 | — | 1.000 [" in text


def test_a_filter_by_something_else_has_no_threshold() -> None:
    frame = filtering.summary(fake_records()).set_index("arm")
    assert math.isnan(frame.loc["random-filter", "threshold"])
    assert frame.loc["fire", "threshold_low"] <= frame.loc["fire", "threshold"] < 0
    assert frame.loc["fire", "right_dropped"] < frame.loc["fire", "right_kept"]


def test_no_rollouts_is_said_in_a_sentence() -> None:
    records = fake_records(arms=2, seeds=1)
    empty = Records(records.manifest, records.samples, records.steps, records.timings)
    with pytest.raises(UserError, match="no recorded rollouts"):
        filtering.summary(empty)
    ungraded = records.rollouts.assign(correct=None)
    with pytest.raises(UserError, match="has a gold answer"):
        filtering.summary(
            Records(records.manifest, records.samples, records.steps, records.timings, ungraded, records.profiles)
        )
