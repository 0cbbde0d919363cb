"""Figures along declared axes: places, lines and levels by hand; which cells are as good as the best, independently."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from harness import tables
from harness.errors import UserError
from harness.plots import figures, heatmaps, sweeps
from harness.records import Records
from tests.grids_fixture import swept_records
from tests.records_fixture import records_from


@pytest.fixture(scope="module")
def swept() -> Records:
    return swept_records()


@pytest.fixture(scope="module")
def frame(swept: Records) -> pd.DataFrame:
    return tables.comparison(swept)


def at(records: Records, places: dict[str, dict[str, Any]], methods: dict[str, str] | None = None) -> Records:
    arms = {
        arm: {**spec, "at": places.get(arm, {}), "method": (methods or {}).get(arm, "m")}
        for arm, spec in records.manifest["arms"].items()
    }
    return replace(records, manifest={**records.manifest, "arms": arms})


# -- places on an axis


@pytest.mark.parametrize(
    ("values", "places", "how"),
    [
        ([0.0, 0.5, 1.0], [0, 0.5, 1], ""),
        ([0, 1, 4], [0, 0.25, 1], ""),
        ([1, 10, 100], [0, 0.5, 1], " (logarithmic)"),
        ([0.05, 0.1, 0.9], [0, 0.5, 1], " (not to scale)"),  # the first two would stand on each other
        (["batch", "trajectory"], [0, 1], ""),
        ([False, True], [0, 1], ""),
    ],
)
def test_places(values: list[Any], places: list[float], how: str) -> None:
    found, said = sweeps._places(values)
    assert found == pytest.approx(places)
    assert said == how


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12, unique=True))
def test_places_keep_their_order_and_their_room(values: list[float]) -> None:
    found, _ = sweeps._places(sorted(values))
    assert (found[0], found[-1]) == (0, 1)
    assert min(b - a for a, b in itertools.pairwise(found)) >= min(sweeps.CLOSEST, 1 / (len(values) - 1)) - 1e-9


# -- sweeps


def test_a_line_joins_arms_that_differ_on_the_axis_alone(swept: Records, frame: pd.DataFrame) -> None:
    figure, numbers = sweeps.sweep(swept, "keep.fraction", frame)
    keyed = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keyed == ["opd (baseline)", "tip", "fire-filter-only", "random-filter", "95 % interval of the baseline"]
    panel = next(axes for axes in figure.axes if axes.get_title() == "toy code")
    want = numbers[(numbers["bench"] == "toy-code") & numbers["arm"].str.startswith("filter")].sort_values("at")
    assert want["at"].tolist() == [0.05, 0.1, 0.2, 0.4, 0.6]
    line = next(line for line in panel.lines if np.allclose(line.get_ydata()[:1], 100 * want["value"].iloc[0]))
    np.testing.assert_allclose(line.get_ydata(), 100 * want["value"])
    baseline = frame[(frame["arm"] == "opd") & (frame["bench"] == "toy-code")]["value"].item()
    assert [100 * baseline] * 2 in [list(line.get_ydata()) for line in panel.lines]
    assert set(numbers["arm"]) == {"opd", "tip", *(a for a in frame["arm"] if a.startswith(("filter-", "random-")))}


def test_other_axes_part_the_lines(swept: Records, frame: pd.DataFrame) -> None:
    figure, _ = sweeps.sweep(swept, "alpha", frame, difference=True, label="gain α")
    keyed = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keyed == ["opd (baseline)", "tip", "beta = 0", "beta = 1", "beta = 2"]
    assert figure.get_supxlabel() == "gain α"
    panel = next(axes for axes in figure.axes if axes.get_title() == "average")
    row = frame[(frame["arm"] == "a2-b1") & (frame["bench"] == "macro")].iloc[0]
    bars = [segment for c in panel.collections for segment in getattr(c, "get_segments", list)()]
    ends = sorted((segment[0][1], segment[1][1]) for segment in bars)
    assert any(np.allclose(end, (100 * row["delta_low"], 100 * row["delta_high"])) for end in ends)
    assert [0.0, 0.0] in [list(line.get_ydata()) for line in panel.lines]  # the baseline


def test_an_arm_that_was_not_measured_leaves_a_gap(swept: Records) -> None:
    gone = swept.samples["arm"] == "filter-0.2"
    figure, numbers = sweeps.sweep(replace(swept, samples=swept.samples[~gone]), "keep.fraction")
    assert numbers.loc[numbers["arm"] == "filter-0.2", "value"].isna().all()
    lengths = {len(line.get_xdata()) for line in figure.axes[0].lines}
    assert {4, 5} <= lengths


def test_too_little_to_sweep(swept: Records, frame: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="no two arms that differ on axis 'gamma'"):
        sweeps.sweep(swept, "gamma", frame)


# -- heat maps

RIGHT, WRONG = [1, 1], [0, 0]
CELLS = {
    ("opd", 0, "b"): [WRONG] * 4 + [RIGHT] * 4,
    ("p", 0, "b"): [RIGHT] * 8,  # best: 4 problems more than opd
    ("q", 0, "b"): [RIGHT] * 7 + [WRONG],
    ("r", 0, "b"): [WRONG] * 8,
}


def test_who_is_as_good_as_the_best_by_hand() -> None:
    records = at(
        records_from(CELLS),
        {"p": {"x": 1, "y": 0}, "q": {"x": 2, "y": 0}, "r": {"x": 1, "y": 1}, "opd": {"x": 0, "y": 0}},
    )
    table = heatmaps.heat_frame(records, "x", "y").set_index("arm")
    assert table["best"].to_dict() == {"opd": False, "p": True, "q": False, "r": False}
    # against p: opd differs on 4 problems (p 2/2^4), q on 1 (p 1), r on 8 (p 2/2^8); Holm: 3·2/256, 2·2/16, 1
    assert table.loc[["opd", "q", "r"], "p_best"].tolist() == [0.125, 1.0, 2 / 256]
    assert table.loc[["opd", "q", "r"], "p_best_holm"].tolist() == [0.25, 1.0, 6 / 256]
    assert table["tied"].to_dict() == {"opd": True, "p": False, "q": True, "r": False}
    assert table["delta"].to_dict() == {"opd": 0.0, "p": 0.5, "q": 0.375, "r": -0.5}
    figure, _ = heatmaps.heatmap(records, "x", "y")
    outlined = [(p.get_x(), p.get_linewidth()) for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert sorted(outlined) == [(0.04, 1.0), (1.04, 1.8), (2.04, 1.0)]  # opd, p, q from the left
    texts = [text.get_text().split("\n")[0] for text in figure.axes[0].texts]
    assert texts == ["0.0", "+50.0", "+37.5", "−50.0"]


def test_the_map_agrees_with_the_comparison(swept: Records, frame: pd.DataFrame) -> None:
    table = heatmaps.heat_frame(swept, "alpha", "beta", frame).set_index("arm")
    whole = frame[frame["bench"] == "macro"].set_index("arm")
    assert len(table) == 12
    for arm, row in table.iterrows():
        assert (row["delta"], row["delta_low"], row["delta_high"]) == pytest.approx(
            tuple(whole.loc[arm, ["delta", "delta_low", "delta_high"]])
        )
    assert table["value"].idxmax() == table.index[table["best"]].item()
    best = table.index[table["best"]].item()
    manifest = {**swept.manifest, "baseline": best}
    against = tables.comparison(replace(swept, manifest=manifest))
    against = against[against["bench"] == "macro"].set_index("arm")
    for arm in table.index[~table["best"]]:
        # other draws of the same permutation test
        assert table.loc[arm, "p_best"] == pytest.approx(against.loc[arm, "p"], abs=0.015)


def test_maps_of_several_methods_stand_side_by_side() -> None:
    places = {"p": {"x": 0, "y": 0}, "q": {"x": 0, "y": 0}, "r": {"x": 1, "y": 0}}
    methods = {"p": "fire", "q": "tip", "r": "fire"}
    figure, table = heatmaps.heatmap(at(records_from(CELLS), places, methods), "x", "y")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["fire", "tip"]
    assert table["best"].sum() == 1  # one best over all
    with pytest.raises(UserError, match="arm 'q' stands where another does: x = 0, y = 0"):
        heatmaps.heatmap(at(records_from(CELLS), places), "x", "y")


def test_holes_of_a_map() -> None:
    cells = {key: matrix for key, matrix in CELLS.items() if key[0] != "r"} | {("r", 0, "b"): [RIGHT] * 3}
    records = at(records_from(cells), {"p": {"x": 1, "y": 0}, "q": {"x": 2, "y": 0}, "r": {"x": 1, "y": 1}})
    records.manifest["benches"]["b"]["n"] = 8
    figure, table = heatmaps.heatmap(records, "x", "y")
    assert math.isnan(table.set_index("arm").loc["r", "delta"])
    assert "—" in [text.get_text() for text in figure.axes[0].texts]
    with pytest.raises(UserError, match="no arm on both axes 'x' and 'z'"):
        heatmaps.heatmap(records, "x", "z")
    nothing = replace(records, samples=records.samples.iloc[:0])
    with pytest.raises(UserError, match="was measured on every bench"):
        heatmaps.heatmap(nothing, "x", "y")


# -- what a manifest declares


def test_declared_figures_are_drawn(swept: Records, frame: pd.DataFrame) -> None:
    names = [drawing.name for drawing in figures.drawings(swept, frame) if drawing.group in ("results", "problems")]
    declared = ["sweep-keep.fraction-difference", "sweep-keep.fraction", "heatmap-alpha-beta"]
    assert [name for name in names if name in declared] == declared
    assert "problems-tip-toy-math" in names


@pytest.mark.parametrize(
    "bad", [{"kind": "pie"}, {"kind": "sweep"}, {"kind": "heatmap", "x": "a"}, {"kind": "problems"}]
)
def test_what_is_declared_wrongly_is_refused(bad: dict[str, str], swept: Records, frame: pd.DataFrame) -> None:
    records = replace(swept, manifest={**swept.manifest, "figures": [bad]})
    with pytest.raises(UserError, match=r"manifest of grid 'swept', figures: .* is none of sweep"):
        figures.drawings(records, frame)
