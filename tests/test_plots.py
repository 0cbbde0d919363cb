from __future__ import annotations

import math
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from harness import plots, tables
from harness.errors import UserError
from harness.plots import entropies, heatmaps, per_problem, rollout_scores, style, sweeps, token_weights
from harness.records import Records
from tests.grids_fixture import swept_records
from tests.records_fixture import fake_records

ROOT = Path(__file__).resolve().parent.parent
Draw = Callable[[Records], tuple[Figure, pd.DataFrame]]
PLAIN: dict[str, Draw] = {
    "curve": plots.curve,
    "curve-tokens": lambda records: plots.curve(records, "tokens"),
    "curve-time": lambda records: plots.curve(records, "time"),
    "forest": plots.forest,
    "training": plots.training,
    "entropies": entropies.entropies,
    "entropies-advantage": lambda records: entropies.entropies(records, "advantage"),
    "entropies-kl": lambda records: entropies.entropies(records, "kl"),
    "weights": token_weights.weights,
    "positions": token_weights.positions,
    "scores": rollout_scores.scores,
    "routing": rollout_scores.routing,
    "pass-at-k": per_problem.pass_at_k,
    "problems": lambda records: per_problem.problems(records, "fire", "toy-code"),
    "problems-many": lambda records: per_problem.problems(records, "fire", "toy-math"),
}
SWEPT: dict[str, Draw] = {
    "sweep": lambda records: sweeps.sweep(records, "keep.fraction"),
    "sweep-difference": lambda records: sweeps.sweep(records, "alpha", difference=True),
    "heatmap": lambda records: heatmaps.heatmap(records, "alpha", "beta"),
}
FIGURES = PLAIN | SWEPT


@pytest.fixture(scope="module")
def records() -> Records:
    return fake_records(inert=True)


@pytest.fixture(scope="module")
def swept() -> Records:
    return swept_records()


@pytest.fixture(scope="module")
def drawn(records: Records, swept: Records) -> Callable[[str], tuple[Figure, pd.DataFrame]]:
    def draw(name: str) -> tuple[Figure, pd.DataFrame]:
        return FIGURES[name](swept if name in SWEPT else records)

    return draw


@pytest.mark.parametrize("name", ["curve", "problems-many", *SWEPT])  # the report's test looks at the rest
def test_the_same_records_give_the_same_bytes(
    name: str, drawn: Callable[[str], tuple[Figure, pd.DataFrame]], tmp_path: Path
) -> None:
    first = plots.save(*drawn(name), tmp_path / "one" / name)
    again = plots.save(*drawn(name), tmp_path / "two" / name)
    assert [path.suffix for path in first] == [".pdf", ".png", ".csv"]
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    check_files(*first)


def test_another_process_with_other_settings_draws_the_same_bytes(records: Records, tmp_path: Path) -> None:
    here = plots.save(*plots.forest(records), tmp_path / "here")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.facecolor: red\nsvg.hashsalt: other\n")
    code = (
        "from pathlib import Path; from harness import plots; from tests.records_fixture import fake_records; "
        f"plots.save(*plots.forest(fake_records(inert=True)), Path({str(tmp_path / 'there')!r}))"
    )
    environment = {"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT, timeout=120)
    for path in here:
        assert path.read_bytes() == path.with_name(path.name.replace("here", "there")).read_bytes()


def check_files(pdf: Path, png: Path, csv: Path) -> None:
    """No dates, no Type 3 fonts, whole files."""
    assert csv.read_text("utf-8").count("\n") > 1
    data = pdf.read_bytes()
    assert b"CreationDate" not in data
    assert b"/Type3" not in data
    assert b"/Type0" in data  # TrueType, which publishers accept
    chunks, body = [], png.read_bytes()[8:]
    while body:
        length, kind = struct.unpack(">I4s", body[:8])
        chunks.append(kind)
        assert zlib.crc32(body[4 : 8 + length]) == struct.unpack(">I", body[8 + length : 12 + length])[0]
        body = body[12 + length :]
    assert b"tEXt" not in chunks
    assert b"tIME" not in chunks


def test_svg_keeps_its_scales_and_loses_its_small_digits(records: Records) -> None:
    text = plots.svg(plots.curve(records)[0])
    assert "scale(0.015625)" in text  # of the letters: cut to two digits it would shrink them
    paths = re.findall(r' d="([^"]*)"', text)
    assert max(len(number.partition(".")[2]) for path in paths for number in path.split()) == 2


def test_svg_stands_alone_and_is_stable(records: Records) -> None:
    text = plots.svg(plots.forest(records)[0])
    assert text == plots.svg(plots.forest(records)[0])
    assert text.startswith("<svg")
    assert 'href="http' not in text
    assert "url(http" not in text
    assert "<script" not in text


# -- the numbers


def test_csv_holds_the_plotted_numbers(records: Records, tmp_path: Path) -> None:
    figure, frame = plots.curve(records)
    read = pd.read_csv(plots.save(figure, frame, tmp_path / "curve")[2], dtype={"seed": str})
    np.testing.assert_allclose(read["value"], frame["value"], rtol=1e-5)
    panel = next(axes for axes in figure.axes if axes.get_title() == "FiRe")
    drawn = {tuple(np.round(line.get_ydata(), 4)) for line in panel.lines if len(line.get_xdata()) > 2}
    for seed in ("all", "0", "1"):
        values = read[(read["arm"] == "fire") & (read["seed"] == seed)].sort_values("step")["value"]
        assert any(np.allclose(values, line, atol=1e-3) for line in drawn if len(line) == len(values))


def test_curve_against_raw_samples(records: Records) -> None:
    frame = plots.curve(records)[1]
    rows = records.samples.astype({"arm": str})
    rows = rows[(rows["bench"] == "toy-math") & (rows["arm"] == "fire") & (rows["step"] == 30)]
    point = frame[(frame["arm"] == "fire") & (frame["step"] == 30)].set_index("seed")
    assert point.loc["all", "value"] == pytest.approx(100 * rows["correct"].mean())
    assert point.loc["1", "value"] == pytest.approx(100 * rows.loc[rows["seed"] == 1, "correct"].mean())
    assert point.loc["all", "low"] < point.loc["all", "value"] < point.loc["all", "high"]
    generated = records.steps[(records.steps["arm"] == "fire") & (records.steps["step"] == 30)]["generated_tokens"]
    assert point.loc["all", "tokens"] == pytest.approx(generated.mean())


def test_wall_time_by_hand(records: Records) -> None:
    figure, frame = plots.curve(records, "time")
    rows = records.timings[(records.timings["arm"] == "fire") & (records.timings["step"] <= 30)]
    stages = ["seconds_rollout", "seconds_score", "seconds_plan", "seconds_update"]
    point = frame[(frame["arm"] == "fire") & (frame["step"] == 30) & (frame["seed"] == "all")].iloc[0]
    assert point["seconds"] == pytest.approx(rows[stages].to_numpy().sum() / 2)  # two seeds
    assert figure.get_supxlabel() == "time spent in training steps, seconds"  # 60 steps of two seconds each
    slow = replace(records, timings=records.timings.assign(seconds_update=400.0))  # 60 · 401.3 s: 6.7 hours
    assert plots.curve(slow, "time")[0].get_supxlabel() == "time spent in training steps, hours"
    lost = records.timings.copy()
    lost.loc[(lost["arm"] == "fire") & (lost["step"] == 5) & (lost["seed"] == 0), "seconds_plan"] = math.nan
    frame = plots.curve(replace(records, timings=lost), "time")[1]
    other = records.timings[(records.timings["seed"] == 1) & (records.timings["arm"] == "fire")]
    point = frame[(frame["arm"] == "fire") & (frame["step"] == 30) & (frame["seed"] == "all")].iloc[0]
    # what one run did not measure is not counted as nothing: the other run stands alone
    assert point["seconds"] == pytest.approx(other.loc[other["step"] <= 30, stages].to_numpy().sum())


def test_every_run_begins_at_the_start_model(records: Records) -> None:
    frame = plots.curve(records)[1]
    start = frame[(frame["arm"] == "start") & (frame["seed"] == "all")]["value"].item()
    origins = frame[(frame["step"] == 0) & ~frame["arm"].isin(["start", "teacher"])]
    assert set(origins["arm"]) == {arm for arm, spec in records.manifest["arms"].items() if not spec["reference"]}
    assert (origins["value"] == start).all()
    assert (origins["tokens"] == 0).all()


def test_an_unfinished_evaluation_is_no_point_of_the_curve(records: Records) -> None:
    samples = records.samples
    one_step = (samples["arm"] == "fire") & (samples["step"] == 30) & (samples["bench"] == "toy-math")
    lost_problem = one_step & (samples["problem"] == "toy-math-003")
    frame = plots.curve(replace(records, samples=samples[~lost_problem]))[1]
    steps = frame[(frame["arm"] == "fire") & (frame["seed"] == "all")]["step"].tolist()
    assert steps == [0, 10, 20, 40, 50, 60]
    one_sample = samples[one_step & (samples["seed"] == 0)].index[0]
    frame = plots.curve(replace(records, samples=samples.drop(one_sample)))[1]
    assert frame[(frame["arm"] == "fire") & (frame["step"] == 30)]["seed"].tolist() == ["1", "all"]


def test_forest_draws_the_comparison(records: Records) -> None:
    figure, frame = plots.forest(records)
    table = tables.comparison(records)
    row = table[(table["arm"] == "fire") & (table["bench"] == "toy-code")].iloc[0]
    drawn = frame[(frame["arm"] == "fire") & (frame["bench"] == "toy-code")].iloc[0]
    assert (drawn["delta"], drawn["delta_low"], drawn["p_holm"]) == (row["delta"], row["delta_low"], row["p_holm"])
    panel = next(axes for axes in figure.axes if axes.get_title() == "toy code")
    lines = [np.array(line.get_xdata()) for line in panel.lines]
    for expected in ([row["delta_low"], row["delta_high"]], [row["delta"]], row["delta_per_seed"]):
        assert any(len(line) == len(expected) and np.allclose(line, 100 * np.array(expected)) for line in lines)
    assert set(frame["arm"]) == set(table.loc[~table["reference"] & ~table["baseline"], "arm"])
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "TIP, gain 0 (INERT)"


def test_a_hole_is_written_out_in_the_forest(records: Records) -> None:
    gone = (records.samples["arm"] == "tip") & (records.samples["bench"] == "toy-code")
    figure, frame = plots.forest(replace(records, samples=records.samples[~gone]))
    texts = [text.get_text().strip() for axes in figure.axes for text in axes.texts]
    assert texts == ["not measured", "not measured"]  # the bench and the average
    assert frame[(frame["arm"] == "tip")]["delta"].isna().sum() == 2


def test_training_means_and_ranges_by_hand(records: Records) -> None:
    frame = plots.training(records)[1]
    # 60 steps, at most 50 points: means of two steps; the fifth point is steps 9 and 10
    rows = records.steps[(records.steps["arm"] == "fire") & records.steps["step"].isin([9, 10])]
    runs = rows.groupby("seed")["truncated"].mean() * 100
    point = frame[(frame["arm"] == "fire") & (frame["metric"] == "truncated") & (frame["step"] == 9.5)].iloc[0]
    assert (point["value"], point["low"], point["high"]) == pytest.approx((runs.mean(), runs.min(), runs.max()))
    assert (point["seeds"], point["steps"]) == (2, 2)


def test_a_metric_that_was_not_recorded_is_said_to_be_so(records: Records) -> None:
    figure, frame = plots.training(replace(records, steps=records.steps.drop(columns="ess")))
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["not recorded"]
    assert frame[frame["metric"] == "ess"]["value"].isna().all()


# -- looks


def test_an_arm_looks_the_same_in_every_report() -> None:
    few, many = style.looks(fake_records(arms=4).manifest), style.looks(fake_records().manifest)
    for arm, color in (("opd", "#000000"), ("fire", "#D55E00"), ("full-rkl", "#009E73")):
        assert few[arm].color == many[arm].color == color
    assert len({look.color for look in many.values()}) == len(many)
    assert len({(look.marker, look.dash) for look in many.values()}) == len(many)


@pytest.mark.parametrize("known", range(len(style.FIXED) + 1))
def test_more_arms_than_colours_are_still_told_apart(known: int) -> None:
    names = [*list(style.FIXED)[:known], *(f"arm{i}" for i in range(33 - known)), "opd"]
    arms = {name: {"reference": False} for name in names} | {"t": {"reference": True}}
    looks = style.looks({"baseline": "opd", "arms": arms, "order": list(arms)})
    assert "t" not in looks
    assert len({(look.color, look.marker, str(look.dash)) for look in looks.values()}) == 34


LONG = "FiRe with $x^2$, keep fraction 0.8, alpha 1.0, beta 1.0, a very long name indeed"


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_overlaps_or_leaves_the_page(name: str) -> None:
    records = swept_records() if name in SWEPT else fake_records()
    arms = {arm: {**spec} for arm, spec in records.manifest["arms"].items()}
    arms["tip" if name in SWEPT else "fire"]["label"] = LONG
    figure, _ = FIGURES[name](replace(records, manifest={**records.manifest, "arms": arms}))
    with style.drawing():
        figure.draw_without_rendering()
        page = figure.bbox
        boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        boxes += [text.get_window_extent() for legend in legends for text in legend.get_texts()]
        titles = [axes.title.get_window_extent() for axes in figure.axes if axes.axison]
    assert boxes
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= page.x1 + 1
        assert box.y1 <= page.y1 + 1
    for index, box in enumerate(titles):
        assert not any(box.overlaps(other) for other in titles[index + 1 :])


# -- what cannot be drawn


def test_what_cannot_be_drawn_is_refused_in_one_sentence(records: Records) -> None:
    with pytest.raises(UserError, match="'step', 'tokens' or 'time'"):
        plots.curve(records, "hours")
    with pytest.raises(UserError, match="no timings to draw accuracy against"):
        plots.curve(replace(records, timings=records.timings.iloc[:0]), "time")
    with pytest.raises(UserError, match="no generated tokens to draw"):
        plots.curve(replace(records, steps=records.steps.iloc[:0]), "tokens")
    with pytest.raises(UserError, match="no complete evaluation of its curve bench 'toy-math'"):
        plots.curve(replace(records, samples=records.samples.iloc[:0]))
    with pytest.raises(UserError, match="no training steps"):
        plots.training(replace(records, steps=records.steps.iloc[:0]))
    with pytest.raises(UserError, match="no arm but its baseline"):
        plots.forest(fake_records(arms=1))


def test_a_grid_of_one_arm_has_a_curve() -> None:
    figure, frame = plots.curve(fake_records(arms=1, seeds=1))
    assert [axes.get_title() for axes in figure.axes] == ["OPD"]
    assert math.isfinite(frame["value"].sum())


def test_no_torch_is_imported() -> None:
    code = "import sys, harness.stats, harness.tables, harness.plots, harness.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
