"""pass@k curves and problems one by one: against counting over all choices, and against the samples."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness import tables
from harness.errors import UserError
from harness.plots import per_problem
from harness.records import Records
from tests.records_fixture import fake_records, records_from

MIXED = [[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0], [0] * 8, [1] * 8]


@pytest.fixture(scope="module")
def records() -> Records:
    return fake_records()


def test_pass_at_k_against_all_choices() -> None:
    records = records_from({("opd", 0, "b"): MIXED, ("x", 0, "b"): [[1] * 8] * 4})
    frame = per_problem.pass_frame(records)
    mine = frame[frame["arm"] == "opd"].set_index("k")["value"]
    assert mine.index.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    for k in mine.index:
        chosen = [np.mean([any(row[i] for i in pick) for pick in itertools.combinations(range(8), k)]) for row in MIXED]
        assert mine[k] == pytest.approx(100 * np.mean(chosen))
    assert (frame[frame["arm"] == "x"]["value"] == 100).all()


def test_few_samples_are_no_curve() -> None:
    few = records_from({("opd", 0, "b"): [[1, 0, 1, 1]]})
    with pytest.raises(UserError, match="sampled 8 times a problem \\(at most 4\\)"):
        per_problem.pass_at_k(few)
    cells = {("opd", 0, "few"): [[1, 0]], ("opd", 0, "many"): MIXED}
    figure, frame = per_problem.pass_at_k(records_from(cells))
    assert frame["bench"].unique().tolist() == ["many"]
    assert [axes.get_title() for axes in figure.axes if axes.axison] == ["many"]


def test_values_of_k() -> None:
    assert per_problem._counts(32) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 23, 27, 32]
    assert per_problem._counts(9)[-2:] == [8, 9]


def test_one_band_and_at_most_six_arms(records: Records) -> None:
    many = fake_records(inert=True)
    figure, frame = per_problem.pass_at_k(many)
    keyed = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "TIP, gain 0" not in keyed  # inert: its difference is none
    assert set(frame["arm"]) == set(many.manifest["arms"])  # all are in the numbers
    panel = figure.axes[0]
    assert len(panel.collections) == 1
    assert len(panel.lines) == 2 + 6  # start and teacher, six arms


def test_the_band_is_the_interval_of_the_baseline(records: Records) -> None:
    figure, frame = per_problem.pass_at_k(records)
    line = frame[(frame["arm"] == "opd") & (frame["bench"] == "toy-math")]
    heights = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((line["low"].min(), line["high"].max()))


# -- problem by problem


def test_problems_against_the_samples(records: Records) -> None:
    figure, frame = per_problem.problems(records, "fire", "toy-code")
    rows = records.samples[(records.samples["bench"] == "toy-code") & (records.samples["step"] == 60)]
    for side, arm in (("a", "opd"), ("b", "fire")):
        want = rows[rows["arm"] == arm].groupby("problem")["correct"].mean()
        assert dict(zip(frame["problem"], frame[side], strict=True)) == pytest.approx(want.to_dict())
    assert len(figure.axes[0].get_yticks()) == 40


def test_slices_and_hostile_names_of_problems(records: Records) -> None:
    bench = {**records.manifest["benches"]["toy-code"], "slices": {"toy-code-003": "e-notation"}}
    manifest = {**records.manifest, "benches": {**records.manifest["benches"], "toy-code": bench}}
    names = {"toy-code-004": "<b>\x00\u202e" + "x" * 500}
    samples = records.samples.assign(problem=records.samples["problem"].astype(str).replace(names))
    figure, frame = per_problem.problems(replace(records, manifest=manifest, samples=samples), "tip", "toy-code")
    assert frame.set_index("problem")["slice"]["toy-code-003"] == "e-notation"
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert max(map(len, shown)) == 28
    assert not any(char in "".join(shown) for char in "\x00\u202e")


def test_the_arm_furthest_from_the_baseline_and_those_named(records: Records) -> None:
    frame = tables.comparison(records)
    whole = frame[(frame["bench"] == "macro") & ~frame["reference"] & ~frame["baseline"]].set_index("arm")
    furthest = whole["delta"].abs().idxmax()
    assert per_problem.chosen(records, frame) == [furthest]
    named = [{"kind": "problems", "arm": arm} for arm in ("tip", furthest)]
    manifest = {**records.manifest, "figures": named}
    assert per_problem.chosen(replace(records, manifest=manifest), frame) == [furthest, "tip"]
    alone = fake_records(arms=1)
    assert per_problem.chosen(alone, tables.comparison(alone)) == []


def test_problems_that_cannot_be_drawn(records: Records) -> None:
    with pytest.raises(UserError, match="no arm 'ghost' beside its baseline: it has full-rkl"):
        per_problem.problems(records, "ghost", "toy-code")
    with pytest.raises(UserError, match="no arm 'opd' beside its baseline"):
        per_problem.problems(records, "opd", "toy-code")
    gone = (records.samples["arm"] == "tip") & (records.samples["bench"] == "toy-code")
    with pytest.raises(UserError, match="not both measured on bench 'toy-code'"):
        per_problem.problems(replace(records, samples=records.samples[~gone]), "tip", "toy-code")
    assert isinstance(per_problem.problem_frame(records, "teacher", "toy-code"), pd.DataFrame)  # a reference may be
