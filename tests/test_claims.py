from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness import records, stats
from harness.claims import HARSH, MILD, Assumption, claims, judge, report, standard_error
from harness.claims.evidence import FEWEST_SEEDS, Measured
from harness.claims.ledger import BENCHES, COLUMNS, GRADED, Claim, Reported, load_reported, published, split_method
from harness.claims.printed import numbers
from harness.claims.resolution import RUNS, count_table, resolution
from harness.commands import claims as command
from harness.errors import UserError
from harness.records import Records
from tests.conftest import ROOT

REPORTED = ROOT / "results" / "reported"
FREE = {"student", "teacher", "raw", "SFT", "ExPO", "PowerOPD", "GC-OPD"}  # of no method table

BASE = {
    "paper": "x",
    "title_short": "X",
    "setting": "strong-to-weak",
    "student": "S",
    "method": "opd",
    "benchmark": "aime24",
    "metric": "avg@k",
    "k": "8",
    "n": "30",
    "value": "50.00",
    "unit": "percent",
    "source": "table 1",
}
FIRE = {**BASE, "method": "fire", "baseline": "opd", "value": "56.25"}


def ledger(folder: Path, *rows: dict[str, str], paper: str = "x") -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / f"{paper}.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


# -- the ledger that is kept


@pytest.fixture(scope="module")
def kept() -> list[Reported]:
    return load_reported(REPORTED)


def one(rows: Iterable[Reported], **wanted: Any) -> Reported:
    found = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    assert len(found) == 1, wanted
    return found[0]


def test_published_cells_are_as_printed(kept: list[Reported]) -> None:
    fire = [
        row for row in kept if row.paper == "2606.02684" and row.setting == "single-teacher" and row.method == "fire"
    ]
    assert [row.value for row in fire] == [
        "61.25",
        "55.00",
        "33.75",
        "37.50",
        "94.69",
        "95.15",
        "48.07",
        "68.49",
        "61.74",
    ]
    assert one(kept, paper="2606.02684", benchmark="minerva", unit="points").value == "18.81"
    tip = [row.value for row in kept if row.paper == "2604.14084" and row.benchmark == "aime24"]
    assert tip == ["21.9", "23.8", "22.5", "25.7", "24.5"]
    eopd = one(kept, paper="2603.07079", benchmark="math-average", student="Qwen3-4B-Base")
    assert (eopd.value, eopd.unit, eopd.metric, eopd.k) == ("5.05", "points", "pass@k", 8)
    assert one(kept, paper="2602.12125", method="exopd", benchmark="livecodebench").value == "29.0"


def test_methods_of_the_ledger_are_in_the_table_or_known_not_to_be(kept: list[Reported]) -> None:
    from trainer.methods import METHODS
    from trainer.settings import edit

    for row in kept:
        for name in (row.method, *row.baselines):
            method, edits = split_method(name)
            assert method in METHODS or method in FREE, f"{row.where}: {name}"
            for path, value in edits:
                edit(METHODS[method], path, value)  # refuses a path that does not exist


def test_every_number_says_where_it_comes_from_and_what_is_doubtful(kept: list[Reported]) -> None:
    assert not [row.where for row in kept if row.graded and not row.doubt]
    assert {row.metric for row in kept if row.graded} <= set(GRADED)


def test_no_gain_is_typed_twice(kept: list[Reported]) -> None:
    """Where both numbers are printed the gain must not be a row of its own."""
    cells = {(*row.table, row.method) for row in kept if row.unit == "percent"}
    for row in kept:
        for baseline in row.baselines if row.unit == "points" else ():
            assert not {(*row.table, row.method), (*row.table, baseline)} <= cells, row.where


def test_headlines_fit_the_readme(kept: list[Reported]) -> None:
    assert 1 <= sum(claim.headline for claim in published(kept)) <= 12


# -- gains that follow


def test_gains_are_subtracted_and_implied(tmp_path: Path) -> None:
    average = {**BASE, "benchmark": "math-average-8", "n": ""}
    rows = load_reported(
        ledger(
            tmp_path,
            BASE,
            FIRE,
            {**average, "method": "fire", "value": "51.88"},
            {**average, "method": "fire", "baseline": "opd", "value": "4.84", "unit": "points"},
            {**average, "method": "fire-no-confusion", "baseline": "fire", "value": "-2.24", "unit": "points"},
        )
    )
    first, second, third = published(rows)
    assert (first.gain, first.value, first.baseline_value, first.implied) == ("+6.25", "56.25", "50.00", False)
    assert (second.gain, second.value, second.baseline_value, second.implied) == ("+4.84", "51.88", "47.04", True)
    assert (third.gain, third.value, third.baseline_value, third.implied) == ("-2.24", "", "51.88", False)


def test_several_baselines_make_several_claims_and_one_headline(tmp_path: Path) -> None:
    rows = load_reported(
        ledger(
            tmp_path,
            BASE,
            {**BASE, "method": "exopd", "baseline": "opd", "value": "52.00"},
            {**BASE, "method": "uni-opd", "baseline": "opd; exopd", "value": "51.00", "headline": "yes"},
        )
    )
    found = [(claim.row.method, claim.baseline, claim.gain, claim.headline) for claim in published(rows)]
    assert found[1:] == [("uni-opd", "opd", "+1.00", True), ("uni-opd", "exopd", "-1.00", False)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"benchmark": "aime99"}, "unknown benchmark 'aime99'"),
        ({"benchmark": ""}, "unknown benchmark ''"),
        ({"value": "56,25"}, "is no number"),
        ({"value": "٥٦"}, "is no number"),
        ({"value": "nan"}, "is no number"),
        ({"value": "156.25"}, "is no percentage"),
        ({"value": "-1.0"}, "is no percentage"),
        ({"value": ""}, "'value' is empty"),
        ({"unit": "per cent"}, "unknown unit"),
        ({"unit": "tokens"}, "not in tokens"),
        ({"unit": "points", "baseline": ""}, "needs the baseline"),
        ({"baseline": "full-rkl"}, "baseline 'full-rkl' has no row of its own"),
        ({"baseline": "opd", "k": "32"}, "baseline 'opd' has no row of its own"),
        ({"k": "eight"}, "k 'eight' is no number of k"),
        ({"k": "0"}, "k '0' is no number of k"),
        ({"n": "9" * 5000}, "is no number of n"),
        ({"paper": "y"}, "belongs into y.csv"),
        ({"headline": "no"}, "headline is yes or empty"),
        ({"method": "opd", "baseline": ""}, "line 2 again"),
        ({"metric": "mean length", "benchmark": "", "unit": "tokens", "value": "12k"}, "is no number"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, change: dict[str, str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_reported(ledger(tmp_path, BASE, {**FIRE, **change}))
    assert says in str(caught.value)
    assert f"{tmp_path / 'x.csv'}, line 3" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_broken_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no published numbers"):
        load_reported(tmp_path)
    header = ",".join(COLUMNS)
    row = ",".join(BASE.get(name, "") for name in COLUMNS)
    for text, says in {
        "paper,value\n": "line 1: the columns are",
        f"{header},more\n": "line 1: the columns are",
        "": "line 1: the columns are",
        f"{header}\n{row},more\n": "line 2: 17 cells under 16 columns",
        f'{header}\n"{row}\n': "cannot be read as UTF-8 comma-separated values",
        f"{header}\n{row[:-1]}{'x' * 200_000}\n": "cannot be read as UTF-8 comma-separated values",
    }.items():
        (tmp_path / "x.csv").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            load_reported(tmp_path)
    (tmp_path / "x.csv").write_bytes(header.encode() + b"\n\xff\xfe\n")
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        load_reported(tmp_path)


def test_a_gain_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    gain = {**FIRE, "value": "6.25", "unit": "points"}
    with pytest.raises(UserError, match=r"line 3: the number of .*line 2 again"):
        load_reported(ledger(tmp_path, gain, {**gain, "value": "6.2"}))


# -- how far from noise


def claim_of(tmp_path: Path, **change: str) -> Claim:
    return next(published(load_reported(ledger(tmp_path, {**FIRE, "unit": "points", "value": "6.25", **change}))))


def test_standard_errors_by_hand(tmp_path: Path) -> None:
    assert [(a.spread, a.seed_sd) for a in (MILD, HARSH)] == [(10.0, 1.0), (20.0, 2.5)]
    claim = claim_of(tmp_path)
    # n = 30, K = 8, p unknown, so s² = half of a quarter: 1250 in points²
    # mild: (100 + 2·1250/8)/30 + 2·1 = 15.75, harsh: (400 + 312.5)/30 + 2·6.25 = 36.25
    for assumed, expected in ((MILD, math.sqrt(15.75)), (HARSH, math.sqrt(36.25))):
        assert standard_error(claim, assumed) == (pytest.approx(expected), 29)
    # two cells of 60 and 80 % mean p = 0.7, s² = 0.105: (100 + 2·1050/32)/30 + 2
    known = replace(claim, value="80.0", baseline_value="60.0", row=replace(claim.row, k=32))
    assert standard_error(known, MILD)[0] == pytest.approx(math.sqrt((100 + 65.625) / 30 + 2))
    # pass@k is one yes or no a problem: K = 1
    once = replace(claim, row=replace(claim.row, metric="pass@k"))
    assert standard_error(once, MILD)[0] == pytest.approx(math.sqrt((100 + 2500) / 30 + 2))


def test_the_table_of_what_can_be_resolved(tmp_path: Path) -> None:
    """AIME24 at mean 60, one significant digit beyond the point, without a seed term."""
    claim = replace(claim_of(tmp_path), value="60.0", baseline_value="60.0")
    for k, expected in {8: (3.7, 4.2, 4.8), 32: (2.4, 3.2, 4.0)}.items():
        at = replace(claim, row=replace(claim.row, k=k))
        found = [standard_error(at, Assumption(spread, 0.0, False, 8))[0] for spread in (10, 15, 20)]
        assert found == pytest.approx(expected, abs=0.06)


def test_an_average_pools_its_benches(tmp_path: Path) -> None:
    claim = claim_of(tmp_path, benchmark="math-average-4", n="")
    # four benches of 30: sqrt(4 · (100 + 312.5)/30)/4 = half of one; the seeds' variance is a quarter of one, or shared
    one_bench = (100 + 312.5) / 30
    assert standard_error(claim, MILD)[0] == pytest.approx(math.sqrt(one_bench / 4 + 2 / 4))
    assert standard_error(claim, replace(MILD, shared=True))[0] == pytest.approx(math.sqrt(one_bench / 4 + 2))
    for unknown in ("math-average", "livecodebench", "code-average"):
        assert math.isnan(standard_error(claim_of(tmp_path, benchmark=unknown, n=""), MILD)[0])
    assert standard_error(claim_of(tmp_path, k=""), HARSH) == standard_error(claim_of(tmp_path, k="8"), HARSH)
    assert standard_error(claim_of(tmp_path, k=""), MILD) == standard_error(claim_of(tmp_path, k="32"), MILD)


def test_the_p_values_follow(tmp_path: Path) -> None:
    from scipy.stats import t

    row = claims(ledger(tmp_path, {**FIRE, "unit": "points", "value": "6.25"}), []).iloc[0]
    assert (row["z_low"], row["z_high"]) == (
        pytest.approx(6.25 / math.sqrt(36.25)),
        pytest.approx(6.25 / math.sqrt(15.75)),
    )
    assert row["p_low"] == pytest.approx(2 * t.sf(6.25 / math.sqrt(15.75), 29))
    assert row["p_high"] == pytest.approx(2 * t.sf(6.25 / math.sqrt(36.25), 29))


# -- GRIM of the ledger


def test_numbers_that_their_design_cannot_give(kept: list[Reported]) -> None:
    frame = numbers(kept)
    assert len(frame) == sum(row.graded for row in kept)
    fire = frame[
        (frame["paper"] == "2606.02684") & (frame["setting"] == "single-teacher") & (frame["method"] == "fire")
    ]
    verdicts = dict(zip(fire["benchmark"], fire["verdict"], strict=True))
    assert {b for b, v in verdicts.items() if v == "impossible"} == {"math500", "amc23", "minerva"}
    assert verdicts["math-average-8"] == "possible"  # the mean of its eight printed cells
    assert fire.set_index("benchmark").loc["amc23", "ks"] == "17, 33–34, 49–51"


def test_the_swap_of_two_columns_is_seen_by_grim() -> None:
    """68.49 is no average of 272 problems and 8 samples, but is one of 674; 48.07 is both."""
    from harness.stats.grim import grim

    assert [grim("68.49", n, 8).possible for n in (272, 674)] == [False, True]
    assert [grim("48.07", n, 8).possible for n in (272, 674)] == [True, True]


def test_what_the_doubts_say_about_n_holds(kept: list[Reported]) -> None:
    from harness.stats.grim import grim

    column = [row for row in kept if row.paper == "gamma-opd" and row.benchmark == "livecodebench"]
    assert len(column) == 5
    assert all("175 problems with k = 4" in row.doubt and grim(row.value, 175, 4).possible for row in column)
    olympiad = [row for row in kept if row.paper == "2603.07079" and row.benchmark == "olympiadbench"]
    assert [grim(row.value, n, 8).possible for n in (674, 675) for row in olympiad] == [False, False, True, True]


def test_grim_of_a_claim_is_the_worst_of_its_numbers(tmp_path: Path) -> None:
    rows = ({**BASE, "value": "61.25"}, {**FIRE, "value": "61.46"})  # 147/240; 61.46 needs 16: 295/480 = 61.458
    row = claims(ledger(tmp_path, *rows), []).iloc[0]
    assert (row["grim"], row["grim_ks"]) == ("impossible", "16 32 64")
    unknown = ({**BASE, "value": "61.25", "k": ""}, {**FIRE, "value": "61.46", "k": ""})
    assert claims(ledger(tmp_path, *unknown), []).iloc[0]["grim"] == "k unknown"
    # an implied baseline is no printed number: 61.30 is impossible, and only said of the method
    gain = ({**FIRE, "baseline": "", "value": "61.25"}, {**FIRE, "value": "6.25", "unit": "points"})
    assert claims(ledger(tmp_path, *gain), []).iloc[0]["grim"] == "possible"


# -- what was measured here

SEEDS = 4


def grid(
    rates: dict[str, float],
    seeds: int = SEEDS,
    benches: dict[str, tuple[int, int]] | None = None,
    student: str = "toy:student",
    teachers: int = 1,
    data: str = "toy:math",
    name: str = "made-up",
    **arms: dict[str, Any],
) -> Records:
    """Records of arms that are right at these rates, the same problems for all; `arms` changes manifest entries."""
    sizes = benches or {"toy-aime": (30, 8), "toy-minerva": (60, 4)}
    draw = np.random.default_rng(7)
    frames = []
    for bench, (n, k) in sizes.items():
        easy = draw.normal(0, 0.1, n)
        for arm, rate in rates.items():
            for seed in range(seeds):
                correct = draw.random((n, k)) < np.clip(rate + easy, 0, 1)[:, None]
                problem, sample = np.divmod(np.arange(n * k), k)
                frame = pd.DataFrame({"problem": [f"p{i:03d}" for i in problem], "sample": sample})
                frame["arm"], frame["seed"], frame["bench"], frame["step"] = arm, seed, bench, 9
                frame["correct"], frame["correct_paper"] = correct.ravel(), correct.ravel()
                frame["answer"], frame["finish"], frame["tokens"] = "7", "stop", 9
                frames.append(frame)
    manifest = {
        "grid": name,
        "title": name,
        "baseline": "opd",
        "arms": {
            arm: {"method": arm, "label": arm, "objective": {}, "reference": False, "edits": [], "run": []}
            | arms.get(arm, {})
            for arm in rates
        },
        "order": list(rates),
        "seeds": list(range(seeds)),
        "benches": {bench: {"n": n, "k": k, "label": bench} for bench, (n, k) in sizes.items()},
        "checker": "strict",
        "final_step": 9,
        "inert": {},
        "base": {"student": student, "teachers": [["", "t"]] * teachers, "data": {"source": data}},
    }
    return Records(manifest, pd.concat(frames, ignore_index=True), pd.DataFrame(), pd.DataFrame())


def matrices(kept: Records, arm: str, bench: str) -> np.ndarray:
    rows = kept.samples[(kept.samples["arm"] == arm) & (kept.samples["bench"] == bench)]
    return np.array([[g["correct"].tolist() for _, g in s.groupby("problem")] for _, s in rows.groupby("seed")])


@pytest.fixture
def gain(tmp_path: Path) -> Path:
    return ledger(tmp_path, BASE, FIRE)


WORSE, BETTER = {"opd": 0.6, "fire": 0.3}, {"opd": 0.3, "fire": 0.6}


def test_a_toy_grid_speaks_about_the_direction(gain: Path) -> None:
    kept = grid(WORSE)
    row = claims(gain, [kept]).iloc[0]
    pairs = [(matrices(kept, "opd", bench), matrices(kept, "fire", bench)) for bench in ("toy-aime", "toy-minerva")]
    expected = stats.paired_macro(pairs)
    shown = [row["delta"], row["delta_low"], row["delta_high"]]
    assert shown == pytest.approx([100 * expected.delta, 100 * expected.both_low, 100 * expected.both_high])
    assert row["delta_per_seed"] == pytest.approx([100 * one for one in expected.per_seed])
    assert (row["verdict"], row["grid"], row["scale"]) == ("contradicted (toy)", "made-up", "toy")
    assert claims(gain, [grid(BETTER)]).iloc[0]["verdict"] == "supported (toy)"
    assert "opposite sign" in row["reason"]
    assert "0 of 4 seeds above zero" in row["reason"]


def test_a_claim_of_a_loss_is_supported_by_a_loss(tmp_path: Path) -> None:
    loss = ledger(tmp_path, BASE, {**FIRE, "value": "45.00"})
    assert claims(loss, [grid(WORSE)]).iloc[0]["verdict"] == "supported (toy)"


def test_too_few_seeds_resolve_nothing(gain: Path) -> None:
    for seeds in (1, FEWEST_SEEDS - 1):
        row = claims(gain, [grid(WORSE, seeds=seeds)]).iloc[0]
        assert (row["verdict"], row["p_holm"] < 0.001) == ("not resolved (toy)", True)
        assert f"evidence takes {FEWEST_SEEDS}" in row["reason"]
    assert claims(gain, [grid(WORSE, seeds=FEWEST_SEEDS)]).iloc[0]["verdict"] == "contradicted (toy)"


def test_equal_arms_resolve_nothing(gain: Path) -> None:
    row = claims(gain, [grid({"opd": 0.5, "fire": 0.5})]).iloc[0]
    assert row["verdict"] == "not resolved (toy)"
    assert "No evidence of either sign" in row["reason"]


def untested(folder: Path, kept: Records) -> bool:
    row = claims(folder, [kept]).iloc[0]
    return row["verdict"] == "not tested" and math.isnan(row["delta"]) and row["grid"] == ""


def test_only_the_same_comparison_counts(gain: Path, tmp_path: Path) -> None:
    assert untested(gain, grid({"opd": 0.6, "full-rkl": 0.3}))  # no such method
    assert untested(
        gain, grid({"opd": 0.6, "fire": 0.3}, fire={"edits": [["keep.fraction", "0.4"]]})
    )  # another setting
    assert untested(gain, grid({"opd": 0.6, "fire": 0.3}, fire={"run": [["optim.lr", "0.01"]]}))  # and another rate
    assert untested(gain, grid({"opd": 0.6, "fire": 0.3}, fire={"reference": True}))
    assert untested(gain, grid(WORSE, teachers=2))  # several teachers
    assert untested(gain, grid(WORSE, benches={"toy-code": (30, 8)}))  # another domain
    assert untested(gain, grid(WORSE, data="toy:code"))  # graded on math, trained on code
    assert untested(gain, grid(WORSE, benches={"toy-ood": (30, 8)}))
    inert = grid(WORSE)
    inert.manifest["inert"] = {"fire": "the update is that of opd"}
    assert untested(gain, inert)
    hole = grid(WORSE)
    assert untested(gain, replace(hole, samples=hole.samples.iloc[1:]))
    both = {"run": [["optim.lr", "0.01"]]}
    assert not untested(gain, grid(WORSE, fire=both, opd={"run": [["optim.lr", "0.010"]]}))
    code = ledger(tmp_path, {**BASE, "benchmark": "humaneval+", "metric": "pass@1", "k": "", "n": ""},
                  {**FIRE, "benchmark": "humaneval+", "metric": "pass@1", "k": "", "n": ""})  # fmt: skip
    assert untested(code, grid(WORSE))
    assert not untested(code, grid(WORSE, benches={"toy-code": (30, 8)}, data="toy:math+code"))


def test_edits_in_the_ledger_find_the_edited_arm(tmp_path: Path) -> None:
    folder = ledger(tmp_path, BASE, {**FIRE, "method": "fire keep.fraction=0.10"})
    arms = {"opd": 0.6, "fire": 0.9, "fire-10": 0.3}
    edited = {"method": "fire", "edits": [["keep.fraction", "0.1"]]}
    row = claims(folder, [grid(arms, **{"fire-10": edited})]).iloc[0]
    assert row["verdict"] == "contradicted (toy)"  # not the 0.9 of the plain one
    assert untested(folder, grid({"opd": 0.6, "fire": 0.9}))


def test_records_without_edits_are_read_where_they_are_plain(gain: Path) -> None:
    plain = grid(WORSE)
    for arm in plain.manifest["arms"].values():
        del arm["edits"], arm["run"]
    assert not untested(gain, plain)
    twice = grid({"opd": 0.6, "fire": 0.3, "other": 0.3}, other={"method": "fire"})
    for arm in twice.manifest["arms"].values():
        del arm["edits"]
    assert untested(gain, twice)  # which of the two is FiRe as published?


def test_several_teachers_for_claims_of_several(tmp_path: Path) -> None:
    folder = ledger(tmp_path, *({**row, "setting": "multi-teacher"} for row in (BASE, FIRE)))
    assert untested(folder, grid(WORSE))
    assert claims(folder, [grid(WORSE, teachers=2, data="toy:math+code")]).iloc[0]["verdict"] == "contradicted (toy)"


def test_pass_at_k_and_no_difference_are_never_tested(tmp_path: Path) -> None:
    folder = ledger(tmp_path, *({**row, "metric": "pass@k"} for row in (BASE, FIRE)))
    assert untested(folder, grid(WORSE))
    assert "pass@k" in claims(folder, []).iloc[0]["reason"]
    same = ledger(tmp_path, BASE, {**FIRE, "value": "50.00"})
    assert untested(same, grid(WORSE))
    assert "no direction" in claims(same, []).iloc[0]["reason"]


FULL = {"student": "Qwen/Qwen3-4B", "data": "deepmath.jsonl", "name": "large"}


def test_full_scale_is_the_very_benchmark_and_silences_the_toy_world(gain: Path, tmp_path: Path) -> None:
    toy = grid(WORSE)
    assert untested(gain, grid(WORSE, benches={"aime25": (30, 8)}, **FULL))
    # a toy student on real problems is the toy world, without a toy problem
    assert untested(gain, grid(WORSE, benches={"aime24": (30, 8)}, student="toy:student"))
    worse = grid(WORSE, benches={"aime24": (30, 8), "amc23": (40, 8)}, **FULL)
    row = claims(gain, [toy, worse]).iloc[0]
    assert (row["verdict"], row["grid"], row["measured_on"]) == ("contradicted (full)", "large", "aime24")
    close = grid({"opd": 0.50, "fire": 0.62}, benches={"aime24": (30, 32)}, **FULL)
    assert claims(gain, [toy, close]).iloc[0]["verdict"] == "supported (full)"
    # +6.25 ± 1.96·6.0 ends at +18: an effect of some 50 points has the sign, not the size
    huge = claims(gain, [grid({"opd": 0.2, "fire": 0.75}, benches={"aime24": (30, 32)}, **FULL)]).iloc[0]
    assert (huge["verdict"], "not its size" in huge["reason"]) == ("not resolved (full)", True)
    average = [{**row, "benchmark": "math-average-4", "n": ""} for row in (BASE, FIRE)]
    folder = ledger(tmp_path, *average)
    four = {b: (30, 8) for b in BENCHES["math-average-4"].members}
    assert untested(folder, worse)
    assert claims(folder, [grid(WORSE, benches=four, **FULL)]).iloc[0]["verdict"] == "contradicted (full)"


def test_grids_that_disagree_resolve_nothing(gain: Path) -> None:
    row = claims(gain, [grid(WORSE), grid(BETTER, name="other")]).iloc[0]
    assert (row["verdict"], row["reason"].startswith("Kept grids disagree")) == ("not resolved (toy)", True)
    more = claims(gain, [grid(WORSE), grid({"opd": 0.5, "fire": 0.5}, seeds=SEEDS + 1, name="other")]).iloc[0]
    assert more["grid"] == "other"  # the one with most seeds is shown
    assert more["verdict"] == "contradicted (toy)"  # but it does not undo the evidence of the first


def test_runs_that_grids_share_are_counted_once(gain: Path) -> None:
    ids = {arm: {"run_ids": [f"{arm}-{i}" for i in range(SEEDS)]} for arm in WORSE}
    few = {arm: {"run_ids": spec["run_ids"][:3]} for arm, spec in ids.items()}
    other = {arm: {"run_ids": [f"other-{arm}"]} for arm in WORSE}
    kept = [
        grid(WORSE, seeds=3, name="part", **few),
        grid(WORSE, name="whole", **ids),
        grid(WORSE, name="again", **ids),
    ]
    row = claims(gain, kept).iloc[0]
    assert row["grid"] == "whole" and row["p_holm"] == row["p_measured"], "a family of one"
    more = claims(gain, [*kept, grid(WORSE, seeds=3, name="apart", **other)]).iloc[0]
    assert more["grid"] == "whole" and more["p_holm"] > more["p_measured"], "a family of two"


def test_records_are_read_one_after_another(gain: Path) -> None:
    alive = 0

    class Kept(Records):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def read() -> Iterator[Records]:
        nonlocal alive
        for name in ("a", "b", "c"):
            alive += 1
            assert alive <= 2, "the last one may still be in the loop's hand"
            made = grid(WORSE, name=name)
            yield Kept(made.manifest, made.samples, made.steps, made.timings)
            del made

    assert claims(gain, read()).iloc[0]["verdict"] == "contradicted (toy)"


def test_holm_runs_over_what_the_whole_ledger_asks_for(tmp_path: Path) -> None:
    arms = {"opd": 0.5, "fire": 0.47, "tip": 0.45, "full-rkl": 0.5}
    rows = [BASE, FIRE, {**FIRE, "method": "tip", "baseline": "opd"}]
    rows += [{**row, "benchmark": "aime25"} for row in rows]  # the same comparisons again: no larger family
    frame = claims(ledger(tmp_path, *rows), [grid(arms)])
    raw = dict(zip(frame["method"], frame["p_measured"], strict=True))
    adjusted = dict(zip(raw, stats.holm(list(raw.values())), strict=True))
    assert len(frame) == 4
    assert len(raw) == 2
    assert frame["p_holm"].tolist() == pytest.approx([adjusted[m] for m in frame["method"]])
    assert (frame["p_holm"] > frame["p_measured"]).any()


def test_the_rule_by_hand(tmp_path: Path) -> None:
    claim = claim_of(tmp_path)
    up = Measured("g", "toy", "fire", "opd", ("toy-aime",), 0.1, 0.05, 0.15, 0.001, (0.1, 0.08, 0.12), 99, p_holm=0.01)
    for change, verdict in [
        ({}, "supported (toy)"),
        ({"p_holm": 0.05}, "not resolved (toy)"),
        ({"low": -0.01}, "not resolved (toy)"),
        ({"low": math.nan, "high": math.nan}, "not resolved (toy)"),  # a single run has no interval over runs
        ({"per_seed": (0.2, 0.2, -0.1)}, "supported (toy)"),  # what one run does is in the interval
        ({"per_seed": ()}, "not resolved (toy)"),
        ({"per_seed": (0.1, 0.1)}, "not resolved (toy)"),
        ({"delta": -0.1, "low": -0.15, "high": -0.05, "per_seed": (-0.1,) * 3}, "contradicted (toy)"),
    ]:
        assert judge(claim, [replace(up, **change)])[0] == verdict, change
    down = replace(up, delta=-0.1, low=-0.15, high=-0.05, per_seed=(-0.1,) * 3)
    assert judge(claim, [up, down])[0] == "not resolved (toy)"
    assert judge(claim, [replace(up, scale="full"), down])[0] == "supported (full)"
    assert judge(claim, [])[0] == "not tested"
    unknown = claim_of(tmp_path, benchmark="livecodebench", n="")
    assert judge(unknown, [up])[0] == "supported (toy)"
    assert judge(unknown, [replace(up, scale="full")])[0] == "not resolved (full)"


# -- the power study


def test_the_least_gain_by_hand(tmp_path: Path) -> None:
    row = resolution([claim_of(tmp_path)]).iloc[0]
    # AIME24, n = 30, k = 8, p = 0.53125 in both arms' mean: s² = p(1 − p)/2 per answer, as above
    claim = claim_of(tmp_path)
    z = 1.959964 + 0.841621  # z(0.975) + z(0.8)
    one = standard_error(claim, MILD)[0]
    assert row["least_mild_1"] == pytest.approx(z * one, rel=1e-6)
    # three runs: samples 2s²/(K·3), runs 2·1²/3; what the problems' differences add, 10²/30, no run takes away
    samples = one**2 - 100 / 30 - 2
    assert row["least_mild_3"] == pytest.approx(z * math.sqrt(100 / 30 + samples / 3 + 2 / 3), rel=1e-6)
    assert all(row[f"least_mild_{runs}"] < row[f"least_harsh_{runs}"] for runs in RUNS)


@pytest.mark.parametrize(("value", "place"), [("95.00", "seen"), ("64.00", "depends"), ("44.00", "not seen")])
def test_a_gain_or_a_loss_is_placed_by_its_size(tmp_path: Path, value: str, place: str) -> None:
    (claim,) = published(load_reported(ledger(tmp_path, BASE, {**FIRE, "value": value})))
    row = resolution([claim]).iloc[0]
    assert row["gain"] == pytest.approx(abs(float(claim.gain))) and row["place_1"] == place
    more = replace(claim, gain=claim.gain.replace("+", "-"))
    assert resolution([more]).iloc[0]["place_1"] == place


def test_gains_without_a_design_or_a_size_are_left_out(tmp_path: Path) -> None:
    assert resolution([claim_of(tmp_path, benchmark="livecodebench", n="")]).empty
    assert resolution([replace(claim_of(tmp_path), gain="+0.00")]).empty


def test_every_gain_is_counted_once(kept: list[Reported]) -> None:
    frame = resolution(published(kept))
    for row in count_table(frame).rows:
        assert sum(int(cell.text.partition(" ")[0]) for cell in row.cells) == len(frame) > 60


# -- tables, figure, command


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return claims(REPORTED, [grid({"opd": 0.5, "fire": 0.3, "tip": 0.7, "full-rkl": 0.55})])


def test_tables_show_what_the_frame_holds(frame: pd.DataFrame, tmp_path: Path) -> None:
    short = report.readme_table(frame)
    assert short == report.readme_table(frame.copy())
    assert len(short.strip().splitlines()) == 2 + int(frame["headline"].sum()) <= 14
    assert "| FiRe − OPD, AIME24, strong-to-weak | +6.25 | 0.13–0.31 |" in short
    assert "contradicted (toy)" in short
    first = report.headline(frame).iloc[0]
    assert first["paper"] == "2606.02684"  # the paper with most headlines leads
    assert len(report.table(frame).rows) == len(frame)
    (tmp_path / "x").write_text(report.to_csv(frame))
    back = pd.read_csv(tmp_path / "x", dtype={"gain": str})
    assert back["gain"].tolist() == frame["gain"].tolist()  # as printed, with sign and decimals
    assert back["verdict"].tolist() == frame["verdict"].tolist()


def test_files_are_the_same_bytes_each_time(frame: pd.DataFrame, kept: list[Reported], tmp_path: Path) -> None:
    found, seen = numbers(kept), resolution(published(kept))
    one, two = (report.write(frame, found, seen, tmp_path / name) for name in ("one", "two"))
    assert [path.relative_to(tmp_path / "one") for path in one] == [path.relative_to(tmp_path / "two") for path in two]
    assert {path.suffix for path in one} == {".md", ".csv", ".tex", ".pdf", ".png"}
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_figure_draws_the_headlines(frame: pd.DataFrame) -> None:
    figure, shown = report.claims_figure(frame)
    left, right = figure.axes[:2]
    assert len(shown) == len(left.get_yticks()) == int(frame["headline"].sum())
    points = [line.get_xdata()[0] for line in left.lines if line.get_color() == "black"]
    assert points == [float(text) for text in shown["gain"]]
    measured = shown["delta"].dropna()
    dots = [
        line.get_xdata()[0]
        for line in right.lines
        if line.get_markeredgecolor() == "white" and len(line.get_xdata()) == 1
    ]
    assert dots == pytest.approx(measured.tolist())
    assert sum(text.get_text().strip() == "not tested here" for text in right.texts) == len(shown) - len(measured)
    with pytest.raises(UserError, match="no claim to draw"):
        report.claims_figure(frame.assign(headline=False))


def test_hostile_ledger_text_stays_text(tmp_path: Path) -> None:
    evil = "<script>|`$x$\\input{/etc/passwd} \u202e" + "x" * 100_000
    rows = ({**row, "title_short": evil[:1000], "setting": evil[:5000], "headline": "yes"} for row in (BASE, FIRE))
    frame = claims(ledger(tmp_path / "in", *rows), [])
    written = report.write(frame, numbers(load_reported(tmp_path / "in")), pd.DataFrame(), tmp_path)
    for path in written:
        if path.suffix == ".md":
            assert "<script>" not in path.read_text()
            assert "\u202e" not in path.read_text()
        if path.suffix == ".tex":
            assert "\\input{" not in path.read_text()


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder with the kept ledger and one made-up grid."""
    records.save(grid({"opd": 0.5, "fire": 0.3}), tmp_path / "records" / "made-up")
    (tmp_path / "reported").symlink_to(REPORTED)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_command_writes_everything_whatever_is_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parsed()) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 120
    assert "…" not in text.split("Points. Published")[0]  # nothing is cut at 120 columns
    assert "+6.25" in text
    assert "contradicted" in text
    assert text.splitlines()[-1] == f"tables and figure: {here / 'tables'}, {here / 'figures'}"
    whole = (here / "tables" / "claims.md").read_bytes()
    assert command.run(parsed("--paper", "2604.14084", "--benchmark", "aime24")) == 0
    assert "FiRe" not in capsys.readouterr().out
    assert (here / "tables" / "claims.md").read_bytes() == whole


def test_command_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parsed("--method", "fire", "--benchmark", "aime24", "--json", "--out", str(here / "else"))) == 0
    data = json.loads(capsys.readouterr().out)
    assert {row["paper"] for row in data} == {"2606.02684", "lwd"}
    assert data[0]["gain"] == "+6.25"
    assert data[0]["k"] == 8
    assert (here / "else" / "figures" / "claims.png").exists()
    assert command.run(parsed("--all", "--json")) == 0
    assert len(json.loads(capsys.readouterr().out)) > 90


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--paper", "1234"], "no published gain has the paper '1234'"),
        (["--method", "fier"], "no published gain has the method 'fier'"),
        (
            ["--benchmark", "minerva", "--method", "tip"],
            "no published gain has benchmark minerva and method tip together",
        ),
        (["--reported", "nowhere"], "holds no published numbers"),
    ],
)
def test_command_refuses(here: Path, words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        command.run(parsed(*words))


def test_claims_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import argparse, sys\n"
        "from harness.commands import claims, grim\n"
        "import harness.claims.report\n"
        "parser = argparse.ArgumentParser(); claims.arguments(parser)\n"
        f"claims.run(parser.parse_args(['--json', '--out', {str(tmp_path)!r}]))\n"
        "parser = argparse.ArgumentParser(); grim.arguments(parser)\n"
        "grim.run(parser.parse_args(['50', '--n', '30']))\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'transformers'}), file=sys.stderr)\n"
    )
    environment = {**os.environ, "OPD_RESULTS": str(ROOT / "results")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_committed_tables_are_what_ledger_and_records_say(tmp_path: Path) -> None:
    """Fails after a change of ledger or records until `opd claims` has been run again."""
    kept = sorted((ROOT / "results" / "records").glob("*/manifest.json"))
    frame, rows = claims(REPORTED, (records.load(path.parent) for path in kept)), load_reported(REPORTED)
    for path in report.write(frame, numbers(rows), resolution(published(rows)), tmp_path):
        if path.suffix in (".md", ".csv", ".tex"):  # drawings differ between versions of matplotlib
            assert path.read_bytes() == (ROOT / "results" / path.relative_to(tmp_path)).read_bytes(), path.name
