"""The audit's comparisons: by hand, on made-up records, and the real checkers on golds in other formats."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import (
    ARMS,
    GRIDS,
    REGIMES,
    answer_formats,
    finding,
    over_students,
    primary,
    regime,
    sentence,
    subset,
)
from harness.audit.answer_formats import FORMATS
from harness.audit.noise import merged, noise_scale
from harness.audit.parts import by_bench
from harness.audit.qualitative import qualitative, spread
from harness.audit.report import all_regimes, write
from harness.audit.study import MATCHED, matched, study
from harness.benchmarks import BenchProblem, LoadedBenchmark
from harness.benchmarks.registry import BENCHMARKS
from harness.records import Records
from harness.stats import holm
from harness.tables.standings import MACRO, comparison
from tests.conftest import ROOT
from tests.records_fixture import fake_records


def audited(seeds: int = 4, students: int = 2, key: int = 0) -> Records:
    """A made-up grid as of several students: the first half of its runs is of one, the second of the other."""
    records = fake_records(arms=6, seeds=seeds, key=key)
    steps = records.steps.assign(discarded_kl=1 - records.steps["kept"] + records.steps["step"] / 1000)
    manifest = records.manifest | {"students": [f"s{i}" for i in range(students)]}
    return replace(records, manifest=manifest, steps=steps)


# --- across grids ---------------------------------------------------------------------------------------------------


def test_a_subset_compares_as_the_whole_grid_does() -> None:
    records = audited()
    whole = comparison(records).set_index(["arm", "bench"])
    part = comparison(subset(records, ARMS)).set_index(["arm", "bench"])
    assert set(part.index.get_level_values("arm")) == {"opd", *ARMS}
    for name in ("value", "delta", "p", "delta_both_low"):
        assert part[name].fillna(9).equals(whole.loc[part.index, name].fillna(9))


def named(records: Records, grid: str) -> Records:
    return replace(records, manifest=records.manifest | {"grid": grid})


def regimes(**kept: Records) -> pd.DataFrame:
    return all_regimes({REGIMES[name]: study(named(records, REGIMES[name])) for name, records in kept.items()})


def test_every_grid_is_declared() -> None:
    declared = {path.stem for path in (ROOT / "ablations").glob("[a-z]*.py")}
    assert set(GRIDS) == declared - {"quickstart"} - {name for name in declared if name.startswith("paper_")}
    assert set(MATCHED) <= set(GRIDS)


def test_regimes_are_the_averages_of_their_grids() -> None:
    records = audited()
    frame = regimes(hot=audited(key=1), clean=records)
    assert list(dict.fromkeys(frame["regime"])) == ["clean", "hot"], "in the protocol's order"
    row = frame[(frame["regime"] == "clean") & (frame["arm"] == "fire")].iloc[0]
    of = comparison(named(records, "main_table"))
    of = of[(of["bench"] == MACRO) & (of["arm"] == "fire")].iloc[0]
    assert (row["delta"], row["low"], row["p"]) == (of["delta"], of["delta_both_low"], of["p"])
    assert row["runs"] == 4 and row["n"] == 48 + 40
    # two students of two runs each
    each = of["delta_per_seed"]
    assert row["by_student"] == pytest.approx(((each[0] + each[1]) / 2, (each[2] + each[3]) / 2))
    assert np.mean(row["by_student"]) == pytest.approx(row["delta"])


def test_the_primary_family_is_one_method_in_all_regimes() -> None:
    rows = [regime(name, records := audited(key=key), comparison(records)) for key, name in enumerate(REGIMES)]
    found = primary(pd.concat(rows))
    assert list(found["regime"]) == list(REGIMES) and set(found["arm"]) == {"fire"}
    assert found["p_holm"].tolist() == holm(found["p"].tolist())
    assert [finding(row) for row in found.to_dict("records")] == found["finding"].tolist()


@pytest.mark.parametrize(
    ("p", "low", "high", "says"),
    [
        (0.01, 0.01, 0.2, "better"),
        (0.01, -0.2, -0.01, "worse"),
        (0.01, -0.01, 0.2, "not resolved"),  # the interval over runs holds zero
        (0.05, 0.01, 0.2, "not resolved"),  # not below 0.05
        (math.nan, 0.01, 0.2, "not resolved"),
    ],
)
def test_a_finding_needs_both(p: float, low: float, high: float, says: str) -> None:
    assert finding({"p_holm": p, "low": low, "high": high}) == says


def test_a_finding_that_a_student_reverses_says_so() -> None:
    row = {"p_holm": 0.01, "low": 0.01, "high": 0.3, "delta": 0.1, "by_student": (0.2, 0.2, -0.1)}
    assert sentence(row) == "better, 1 student reversed"
    assert sentence(row | {"by_student": (0.9, -0.3, -0.3)}) == "better, 2 students reversed"
    assert sentence(row | {"by_student": ()}) == "better" == sentence(row | {"by_student": (0.1, 0.1, 0.1)})
    assert sentence(row | {"p_holm": 0.2}) == "not resolved"


def test_students_that_disagree_are_counted() -> None:
    frame = regimes(clean=audited())
    frame["by_student"] = [(0.1, -0.1) if row.delta > 0 else (-0.1, -0.2) for row in frame.itertuples()]
    (row,) = primary(frame).to_dict("records")
    assert row["reversed"] == (1 if row["delta"] > 0 else 0)


def test_students_are_draws_of_their_own() -> None:
    # mean -2, SD 1, standard error 1/sqrt(3) = 0.57735, t(0.975; 2) = 4.30265: half-width 2.48414
    assert over_students((-1.0, -2.0, -3.0)) == pytest.approx((-4.48414, 0.48414), abs=1e-5)
    assert all(math.isnan(end) for end in (*over_students((0.1,)), *over_students(())))


# --- level by level ---------------------------------------------------------------------------------------------------


def on_levels() -> Records:
    """OPD, FiRe and the random filter at two rates: three of the made-up arms are the other rate's."""
    records = named(audited(), "learning_rate")
    methods = {"tip": "opd", "full-rkl": "fire", "fire-filter-only": "random-filter"}
    arms = {
        arm: spec | {"method": methods.get(arm, arm), "at": {"optim.lr": 0.002 if arm in methods else 0.001}}
        for arm, spec in records.manifest["arms"].items()
        if not spec["reference"]
    }
    return replace(records, manifest=records.manifest | {"arms": records.manifest["arms"] | arms})


def test_arms_are_matched_with_the_method_at_their_own_level() -> None:
    records = on_levels()
    frame = matched(records, "optim.lr", "opd")
    assert list(zip(frame["level"], frame["arm"], strict=True)) == [
        (0.001, "fire"), (0.001, "random-filter"), (0.002, "full-rkl"), (0.002, "fire-filter-only"),
    ]  # fmt: skip
    assert frame["p_holm"].tolist() == holm(frame["p"].tolist())
    of = comparison(records)
    value = of[of["bench"] == MACRO].set_index("arm")["value"]
    for row in frame.to_dict("records"):
        base = "opd" if row["level"] == 0.001 else "tip"
        assert row["baseline_value"] == value[base]
        assert row["delta"] == pytest.approx(value[row["arm"]] - value[base])
        assert row["low"] < row["delta"] < row["high"] and row["runs"] == 4
    by_hand = comparison(replace(records, manifest=records.manifest | {"baseline": "tip"}))
    by_hand = by_hand[(by_hand["bench"] == MACRO) & (by_hand["arm"] == "full-rkl")].iloc[0]
    assert frame.iloc[2]["p"] == by_hand["p"]


def test_without_an_axis_arms_are_matched_by_what_they_change_in_the_run() -> None:
    records = named(audited(), "main_table")
    grouped = {"tip": "opd", "full-rkl": "uni-opd"}
    arms = {
        arm: spec | {"method": grouped.get(arm, arm), "run": [["data.samples", "4"]] if arm in grouped else []}
        for arm, spec in records.manifest["arms"].items()
    }
    frame = matched(replace(records, manifest=records.manifest | {"arms": arms}), "", "opd")
    (row,) = frame.to_dict("records")
    assert (row["arm"], row["level"], row["baseline_label"]) == ("full-rkl", "data.samples = 4", "TIP")


def test_a_level_without_the_method_is_left_out() -> None:
    records = on_levels()
    arms = records.manifest["arms"]
    arms["tip"]["at"]["optim.lr"] = 0.01
    assert set(matched(records, "optim.lr", "opd")["level"]) == {0.001}
    assert matched(records, "keep.fraction", "opd").empty


# --- qualitative ----------------------------------------------------------------------------------------------------


def test_the_spread_is_that_of_one_students_runs() -> None:
    # Students at 0.5 and 0.9; within each, deviations ±0.01: SS = 4 · 1e-4 over 4 − 2 degrees of freedom.
    final = np.array([0.49, 0.51, 0.89, 0.91])
    value, low, high = spread(final, 2)
    assert value == pytest.approx(math.sqrt(4e-4 / 2))
    # chi² quantiles of 2 degrees of freedom: 7.3778 and 0.050636
    assert (low, high) == pytest.approx((math.sqrt(4e-4 / 7.3778), math.sqrt(4e-4 / 0.050636)), rel=1e-4)
    assert all(map(math.isnan, spread(final, 4)))


def test_every_trained_arm_has_its_quantities() -> None:
    records = audited()
    frame = qualitative(records, comparison(records)).set_index("arm")
    assert "start" not in frame.index and len(frame) == 6
    steps = records.steps[records.steps["arm"].astype(str) == "fire"]
    late = steps[steps["step"] > 30]
    assert frame.loc["fire", "discarded"] == pytest.approx(steps.groupby("seed")["discarded_kl"].mean().mean())
    by_run = late.groupby("seed")["grad_norm"].agg(lambda norm: norm.std(ddof=0) / norm.mean())
    assert frame.loc["fire", "norm_cv"] == pytest.approx(by_run.mean())
    assert frame.loc["fire", "generated"] == steps.groupby("seed")["generated_tokens"].max().mean()


# --- answer formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "written"),
    [
        ("4.5e33", [r"4.5 \times 10^{33}", r"4.5 \cdot 10^{33}", "4.5E33", "4.5e33", "4.5e33", "4.5e33"]),
        ("1e-8", [r"1 \times 10^{-8}", r"1 \cdot 10^{-8}", "1E-8", "0.00000001", "1e-8", "1e-8"]),
        ("9.35e5", [r"9.35 \times 10^{5}", r"9.35 \cdot 10^{5}", "9.35E5", "935000", "935,000", "935{,}000"]),
        ("-10", ["-10"] * 6),
        ("12000.5", ["12000.5"] * 4 + ["12,000.5", "12{,}000.5"]),
        (r"\frac{a}{s+1}", [r"\frac{a}{s+1}"] * 6),
    ],
)
def test_a_gold_is_written_as_models_write(gold: str, written: list[str]) -> None:
    names = [r"4.5 \times 10^{33}", r"4.5 \cdot 10^{33}", "4.5E33", "0.0045", "12,000", r"12{,}000"]
    assert [FORMATS[name](gold) for name in names] == written


def test_symbols_are_set_larger_and_numbers_left_alone() -> None:
    rule = FORMATS[r"\dfrac, \left("]
    assert rule(r"\frac{1}{2}(x+1)") == r"\dfrac{1}{2}\left(x+1\right)"
    assert rule("3.5") == "3.5"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 99_999), st.integers(-12, 12))
def test_rewriting_a_number_does_not_change_it(mantissa: int, exponent: int) -> None:
    from harness.answers.notation import clean
    from harness.answers.numbers import parse_number

    gold = f"{mantissa / 1e4:g}e{exponent}"
    value = parse_number(clean(gold)).value  # type: ignore[union-attr]
    for name, rule in FORMATS.items():
        if "text" in name or "dfrac" in name or "x =" in name or "$" in name:
            continue
        read = parse_number(clean(rule(gold)))
        assert read is not None and read.value == value, name


def golds(*answers: str) -> LoadedBenchmark:
    problems = tuple(BenchProblem(f"p{index}", "How much?", answer) for index, answer in enumerate(answers))
    return LoadedBenchmark(BENCHMARKS["minerva"], problems, "made up", "", "", "")


def test_the_released_checker_misreads_what_the_strict_one_reads() -> None:
    frame = answer_formats.measure(golds("4.5e33", "3", r"\frac{1}{2}"))
    scored = answer_formats.scores(frame).set_index(["format", "checker", "part"])["score"]
    assert scored["as the gold", "paper", "all"] == scored["as the gold", "strict", "all"] == 1.0
    times = r"4.5 \times 10^{33}"
    assert scored[times, "strict", "all"] == 1.0
    assert scored[times, "paper", "all"] == pytest.approx(2 / 3)
    assert scored[times, "paper", "e-notation"] == 0.0
    changed = frame[frame["format"] == times].set_index("problem")["changed"]
    assert changed.to_dict() == {"p0": True, "p1": False, "p2": False}


# --- noise ----------------------------------------------------------------------------------------------------------


def test_the_noise_scale_by_hand() -> None:
    # Gradients (1 ± e) in one dimension: mean 1, variance e²; 32 of each. With n = 64 the unbiased |G|² is
    # (Σ_ij g_i g_j − Σ g_i²) / (n (n − 1)) = (64² − 64 (1 + e²)) / (64 · 63), and tr Cov = 1 + e² − |G|².
    e = 0.5
    g = np.array([1 + e, 1 - e] * 32)
    signal = (64**2 - 64 * (1 + e**2)) / (64 * 63)
    scale, low, high = noise_scale(np.outer(g, g))
    assert scale == pytest.approx((1 + e**2 - signal) / signal)
    assert low <= scale <= high


def test_the_noise_scale_finds_that_of_a_normal_population() -> None:
    draw = np.random.default_rng(3)
    found = []
    for _ in range(20):
        g = draw.normal(size=(256, 50)) * 0.7 + 0.3  # tr Cov 50 · 0.49, |G|² 50 · 0.09: scale 5.44
        found.append(noise_scale(g @ g.T))
    assert np.mean([scale for scale, _, _ in found]) == pytest.approx(49 / 9, rel=0.05)
    assert sum(low <= 49 / 9 <= high for _, low, high in found) >= 16


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_merged_classes_have_the_probabilities_of_their_ids(vocab: int, classes: int, key: int) -> None:
    classes = min(classes, vocab)
    logp = torch.randn(3, vocab, generator=torch.Generator().manual_seed(key), dtype=torch.float64).log_softmax(-1)
    by_hand = torch.stack([logp[:, c::classes].exp().sum(1) for c in range(classes)], 1)
    torch.testing.assert_close(merged(logp, classes).exp(), by_hand)


# --- files ----------------------------------------------------------------------------------------------------------


def test_tables_and_figures_are_written_twice_alike(tmp_path: Any) -> None:
    grids = ("main_table", "multi_teacher", "granularity", "scope", "controls")
    studies = {grid: study(named(audited(key=key), grid)) for key, grid in enumerate(grids)}
    studies["learning_rate"] = study(on_levels())
    noise = pd.DataFrame(
        [
            {"student": s, "method": m, "classes": c, "rollouts": 256, "noise": 9.0, "low": 8.0, "high": 10.0}
            for s in ("toy:student", "toy:student-1")
            for m in ("opd", "full-rkl")
            for c in (2, 309)
        ]
    )
    measured = {"formats": answer_formats.measure(golds("4.5e33", "3")), "noise": noise}
    first, second = (write(studies, measured, tmp_path / name) for name in ("a", "b"))
    assert len(first) == len(second) and first
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    tables = {path.stem: path.read_text() for path in first if path.suffix == ".md"}
    assert set(tables) == {
        *studies, "regimes", "primary", "qualitative", "granularity-qualitative", "multi_teacher-parts",
        "learning_rate-matched", "formats", "noise",
    }  # fmt: skip
    assert "No records of: beyond, hot, hot, uncorrected, flawed" in tables["primary"]
    assert tables["formats"].count("\n|") == 1 + len(FORMATS)
    names = {path.stem for path in first if path.suffix == ".png"}
    assert names == {
        "regimes",
        "qualitative",
        "granularity-qualitative",
        "scope",
        "controls",
        "discarded",
        "formats",
        "noise",
    }


def test_domains_show_every_benchmark() -> None:
    frame = by_bench(comparison(audited()))
    assert frame.columns.is_unique
    fire = frame[(frame["label"] == "FiRe") & (frame["part"] == "toy math")].iloc[0]
    of = comparison(audited())
    of = of[(of["arm"] == "fire") & (of["bench"] == "toy-math")].iloc[0]
    assert (fire["delta"], fire["low"], fire["high"]) == (of["delta"], of["delta_both_low"], of["delta_both_high"])
    assert set(frame["part"]) == {"toy math", "toy code"} and {"OPD", "FiRe"} <= set(frame["label"])
