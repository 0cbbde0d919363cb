from __future__ import annotations

import argparse
import json
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from harness.commands import power as command
from harness.errors import UserError
from harness.stats import paired
from harness.stats.power import (
    QUESTIONS,
    Design,
    Size,
    limit,
    minimum_detectable,
    needed,
    reported_gain,
    table,
)

# A gain of 6.25 points on AIME24: accuracy 60 %, half of p(1 - p) = 0.24 within problems, so s² = 0.12.


def test_the_same_problems_and_checkpoints() -> None:
    # K = 32: sqrt(2 · 0.12/32/30) = sqrt(0.00025) = 1.58 points; 6.25/1.58 = 3.95; p = 0.00008
    reading = reported_gain(0.0625, 30, 32, accuracy=0.6).fixed
    assert reading.se == pytest.approx(0.0158114, abs=1e-7)
    assert reading.z == pytest.approx(3.95285, abs=1e-5)
    assert reading.p == pytest.approx(0.000077, abs=1e-6)
    # K = 8: four times the variance; 3.16 points; 1.98; p = 0.048
    reading = reported_gain(0.0625, 30, 8, accuracy=0.6).fixed
    assert (reading.se, reading.z, reading.p) == pytest.approx((0.0316228, 1.97642, 0.0481), abs=1e-4)


@pytest.mark.parametrize(
    ("k", "sd", "se", "t", "p"),
    [
        # sqrt((w² + 2 · 0.12/K)/30); p by t with 29 degrees
        (32, 0.10, 0.0241523, 2.588, 0.0149),  # (0.0100 + 0.0075)/30
        (32, 0.15, 0.0316228, 1.976, 0.0577),  # (0.0225 + 0.0075)/30
        (32, 0.20, 0.0397911, 1.571, 0.1271),  # (0.0400 + 0.0075)/30
        (8, 0.10, 0.0365148, 1.712, 0.0976),  # (0.0100 + 0.0300)/30
        (8, 0.15, 0.0418330, 1.494, 0.1460),  # (0.0225 + 0.0300)/30
        (8, 0.20, 0.0483046, 1.294, 0.2059),  # (0.0400 + 0.0300)/30
    ],
)
def test_problems_as_a_sample(k: int, sd: float, se: float, t: float, p: float) -> None:
    reported = reported_gain(0.0625, 30, k, accuracy=0.6, sd_difference=sd)
    assert reported.problems.se == pytest.approx(se, abs=1e-6)
    assert reported.problems.z == pytest.approx(t, abs=1e-3)
    assert reported.problems.p == pytest.approx(p, abs=1e-3)
    assert reported.problems.p == pytest.approx(2 * scipy.stats.t.sf(t, 29), rel=1e-2)
    # without a spread over training runs that is the whole answer
    assert (reported.se, reported.z, reported.p) == (reported.both.se, reported.problems.z, reported.problems.p)
    assert reported.fixed_se == reported.fixed.se


def test_two_table_cells_as_if_unrelated() -> None:
    # one model over problems: (0.24 - 0.12 + 0.12/32)/30 = 0.004125, 6.4 points; both: 9.08; 0.69; 58 degrees
    reading = reported_gain(0.0625, 30, 32, accuracy=0.6).independent
    assert (reading.se, reading.z, reading.p) == pytest.approx((0.0908295, 0.6881, 0.494), abs=1e-3)
    assert reading.df == 58


@pytest.mark.parametrize(
    ("sd", "se", "z", "p"), [(0.01, 2.12, 2.95, 0.003), (0.015, 2.65, 2.36, 0.018), (0.025, 3.87, 1.61, 0.107)]
)
def test_fixed_problems_and_training_runs(sd: float, se: float, z: float, p: float) -> None:
    # sqrt(0.00025 + 2 v²): 0.00025 + 0.0002, + 0.00045, + 0.00125
    reported = reported_gain(0.0625, 30, 32, accuracy=0.6, seed_sd=sd)
    assert 100 * reported.runs.se == pytest.approx(se, abs=0.01)
    assert reported.runs.z == pytest.approx(z, abs=0.01)
    assert reported.runs.p == pytest.approx(p, abs=0.001)
    assert reported.both.se == pytest.approx(math.sqrt(0.001 + 2 * sd**2))
    assert reported.se == reported.both.se


@pytest.mark.parametrize(("sd", "once"), [(0.01, 1.78), (0.015, 2.0), (0.025, 2.58)])
def test_three_runs_average_the_sampling_noise_too(sd: float, once: float) -> None:
    # each of the three runs answers 32 times: (0.00025 + 2 v²)/3. An often quoted 1.8 / 2.0 / 2.6 points counts one
    # run's sampling noise in full, 0.00025 + 2 v²/3, as if all three runs together answered 32 times.
    reading = reported_gain(0.0625, 30, 32, accuracy=0.6, seeds=3, seed_sd=sd).runs
    assert reading.se == pytest.approx(math.sqrt((0.00025 + 2 * sd**2) / 3))
    assert 100 * math.sqrt(0.00025 + 2 * sd**2 / 3) == pytest.approx(once, abs=0.005)
    assert 100 * reading.se < once


def test_other_benchmarks() -> None:
    # Minerva, 272 problems, 45 %: s² = 0.12375; K = 8: sqrt((0.0225 + 0.0309375)/272) = 1.40 points
    assert Design(272, 8, accuracy=0.45).se("problems") == pytest.approx(0.014016, abs=1e-6)
    # AMC23, 40 problems, 80 %, K = 32: s² = 0.08; unpaired sqrt(2 (0.08 + 0.0025)/40) = 6.4 points
    assert Design(40, 32, accuracy=0.8).se("independent") == pytest.approx(0.0642, abs=1e-4)


def test_smallest_gain_is_seen_with_the_stated_power() -> None:
    design = Design(30, 32, accuracy=0.6, seeds=2, seed_sd=0.01)
    for question in QUESTIONS:
        least = design.detectable(question, power=0.9, alpha=0.01)
        # z(0.995) = 2.5758, z(0.9) = 1.2816
        assert least == pytest.approx((2.575829 + 1.281552) * design.se(question), rel=1e-6)
        assert design.power(least, question, alpha=0.01) == pytest.approx(0.9)
        assert design.power(-least, question, alpha=0.01) == pytest.approx(0.9)
    assert minimum_detectable(30, 32, 0.6, seeds=2, seed_sd=0.01) == design.detectable("both")


def test_power_of_a_comparison_in_simulation() -> None:
    # no spread over problems but chance, so that every assumption holds: n = 100, k = 16, accuracy 1/2 ± gain/2
    design = Design(100, 16, accuracy=0.5, sd_difference=0.04, within=1.0)
    gain = 0.045
    draw = np.random.default_rng(1)
    found = 0
    for _ in range(400):
        gains = draw.normal(gain, 0.04, (100, 1))
        a, b = draw.random((100, 16)) < 0.5 - gains / 2, draw.random((100, 16)) < 0.5 + gains / 2
        found += paired(a, b).low > 0
    # 400 repetitions: error of the count 0.02, three of them
    assert found / 400 == pytest.approx(design.power(gain), abs=0.06)
    assert 0.6 < design.power(gain) < 0.85  # where a wrong formula would show


@given(
    st.integers(1, 200),
    st.integers(1, 64),
    st.integers(1, 5),
    st.floats(0, 0.03),
    st.floats(0.01, 0.5),
    st.sampled_from(["n", "k", "seeds"]),
)
def test_needed_is_the_smallest_number(n: int, k: int, seeds: int, seed_sd: float, gain: float, size: Size) -> None:
    design = Design(n, k, accuracy=0.6, seeds=seeds, seed_sd=seed_sd)
    count = needed(design, gain, size)

    def sees(number: int) -> bool:
        sizes = {"n": n, "k": k, "seeds": seeds} | {size: number}
        return minimum_detectable(**sizes, accuracy=0.6, seed_sd=seed_sd) <= gain * (1 + 1e-9)

    if count is None:
        assert not sees(10**12)
        assert 2.8016 * limit(design, size) > gain * 0.999
    else:
        assert sees(count)
        assert count == 1 or not sees(count - 1) or minimum_detectable(n, k) == 0


def test_needed_by_hand() -> None:
    # AIME, K = 32: variance of a problem 0.03; (2.8016/0.0625)² · 0.03 = 60.28
    design = Design(30, 32, accuracy=0.6)
    assert needed(design, 0.0625, "n") == 61
    assert needed(design, 0.0625, "k") is None  # 2.8016 · 0.15/sqrt(30) = 7.7 points are left
    assert limit(design, "k") == pytest.approx(0.15 / math.sqrt(30))
    assert limit(design, "n") == 0
    # 8 points: allowed (0.08/2.8016)² · 30 = 0.024462; 0.24/0.001962 = 122.3 samples
    assert needed(design, 0.08, "k") == 123
    assert needed(Design(30, 32, accuracy=0.6, seed_sd=0.02), 0.05, "n") is None


def test_table_of_designs() -> None:
    found = table(Design(30, 32, accuracy=0.6), ns=(30, 60), ks=(8, 32), seeds=(1, 3))
    assert found.columns.tolist() == ["n", "k", "seeds", *QUESTIONS]
    assert found[["n", "k", "seeds"]].to_numpy().tolist() == [
        [n, k, s] for n in (30, 60) for k in (8, 32) for s in (1, 3)
    ]
    row = found[(found["n"] == 60) & (found["k"] == 8) & (found["seeds"] == 3)].iloc[0]
    # (0.0225 + 0.24/24)/60 = 0.00054167
    assert row["both"] == pytest.approx(2.801585 * math.sqrt(0.00054167), rel=1e-5)
    assert len(table(Design(30, 32))) == 1


def test_degenerate_designs() -> None:
    sure = reported_gain(0.1, 30, 32, accuracy=1.0, sd_difference=0)
    assert (sure.fixed.se, sure.fixed.z, sure.fixed.p) == (0, math.inf, 0)
    none = reported_gain(0.0, 30, 32, accuracy=1.0, sd_difference=0)
    assert (none.fixed.z, none.fixed.p) == (0, 1)
    assert Design(30, 32, accuracy=1.0, sd_difference=0).power(0.1) == 1
    assert needed(Design(30, 32, accuracy=1.0, sd_difference=0), 0.1, "k") == 1
    assert math.isnan(reported_gain(0.1, 1, 32).problems.p)  # no spread can be seen over one problem
    for bad in ({"n": 0}, {"k": 0}, {"seeds": 0}, {"accuracy": 1.1}, {"sd_difference": -1}, {"seed_sd": math.nan}):
        with pytest.raises(UserError):
            Design(**({"n": 30, "k": 32} | bad))
    with pytest.raises(UserError, match=r"not 6\.25"):
        reported_gain(6.25, 30, 32)


# -- the command


def run(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    assert command.run(parser.parse_args(list(options))) == 0
    return capsys.readouterr().out


@pytest.fixture
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.usefixtures("_wide")
def test_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = run(capsys, "--bench", "aime24", "--gain", "6.25", "--seed-sd", "1.5")
    assert max(map(len, page.splitlines())) <= 100
    assert "AIME24: 30 problems × 32 samples, 1 training run per arm" in page
    cells = {line[:40].strip(): line[40:].split() for line in page.splitlines()}
    assert cells["these very problems, these checkpoints"] == ["1.6", "±", "3.1", "4.4", "98", "%", "<", "0.0001"]
    assert cells["such problems, these checkpoints"] == ["3.2", "±", "6.5", "8.9", "51", "%", "0.058"]
    # sqrt(0.001 + 2 · 0.015²) = 3.81; t(29, 0.975) = 2.0452
    assert cells["such problems, such training runs"] == ["3.8", "±", "7.8", "10.7", "38", "%", "0.11"]
    assert "given 630 problems (30 planned)" in " ".join(page.split())
    assert "SD 15 points" in page
    assert "SD 1.5 points" in page
    assert "0.05" in page


@pytest.mark.usefixtures("_wide")
def test_page_without_a_gain_or_a_spread_over_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = run(capsys, "--n", "30", "--k", "32")
    assert "such training runs" not in page
    assert "about checkpoints, not yet about their methods" in page
    assert "true" not in page.split("What is assumed")[0]


@pytest.mark.usefixtures("_wide")
def test_page_says_that_families_are_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert "families" in run(capsys, "--bench", "minerva")
    assert "families" not in run(capsys, "--bench", "aime24")


def test_json_is_in_points(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "--n", "30", "--k", "32", "--gain", "6.25", "--comparisons", "8", "--json"))
    assert found["unit"] == "points"
    assert found["design"] == {
        "n": 30, "k": 32, "accuracy": 60, "sd_difference": 15, "within": 0.5, "seeds": 1, "seed_sd": 0
    }  # fmt: skip
    assert found["alpha"] == 0.05 / 8
    # z(1 - 0.003125) = 2.7344, z(0.8) = 0.8416
    assert found["resolved"]["problems"]["detectable"] == pytest.approx(3.5760 * 3.16228, abs=1e-3)
    assert found["resolved"]["fixed"]["z"] == pytest.approx(3.95285, abs=1e-5)
    assert found["more"]["n"][:2] == pytest.approx([3.5760 * 3.16228, 3.5760 * 2.23607], abs=1e-3)
    assert found["needed"] == {"n": 99, "k": None, "seeds": None}  # 60.28 · (3.5760/2.8016)² = 98.2
    alone = json.loads(run(capsys, "--n", "1", "--k", "32", "--json"))
    assert alone["resolved"]["problems"]["half_width"] is None
    assert "gain" not in alone


def test_fractions_and_points_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--n", "30", "--k", "32", "--json")
    assert run(capsys, *size, "--accuracy", "0.45", "--sd", "0.1") == run(
        capsys, *size, "--accuracy", "45", "--sd", "10"
    )


def test_options_override_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "--bench", "aime24", "--k", "8", "--json"))
    assert (found["design"]["n"], found["design"]["k"], found["bench"]) == (30, 8, "AIME24")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--n' is missing: give --n and --k"),
        (("--n", "30"), "--k' is missing"),
        (("--bench", "aime99"), "no benchmark 'aime99'; choose from aime24"),
        (("--n", "0", "--k", "1"), "--n' must be at least 1, got 0"),
        (("--n", "1", "--k", "-1"), "--k' must be at least 1, got -1"),
        (("--bench", "aime24", "--seeds", "0"), "--seeds' must be at least 1"),
        (("--bench", "aime24", "--comparisons", "0"), "--comparisons' must be at least 1"),
        (("--bench", "aime24", "--accuracy", "101"), "--accuracy' is in points, from 0 to 100, got 101"),
        (("--bench", "aime24", "--sd", "-1"), "--sd' is in points"),
        (("--bench", "aime24", "--sd", "nan"), "--sd' is in points"),
        (("--bench", "aime24", "--seed-sd", "-1"), "--seed-sd' is in points"),
        (("--bench", "aime24", "--gain", "0"), "--gain' is in points, up to 100 and not 0"),
        (("--bench", "aime24", "--gain", "nan"), "--gain' is in points"),
        (("--bench", "aime24", "--power", "1"), "--power' must lie between 0 and 1"),
        (("--bench", "aime24", "--alpha", "5"), "--alpha' must lie between 0 and 1, got 5"),
    ],
)
def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(capsys, *options)
