from __future__ import annotations

import io
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from harness import stats, tables
from harness.errors import UserError
from harness.records import Records
from harness.tables import markup
from harness.tables.standings import MACRO
from tests.records_fixture import fake_records, records_from

HOSTILE = "a_b & 50 % <b>$x$</b> | `y` [z](http://q) \\input{/etc/passwd} α≥1 naïve 漢\n\x00\u202e ~^#{}"


@pytest.fixture(scope="module")
def records() -> Records:
    return fake_records(inert=True)


@pytest.fixture(scope="module")
def frame(records: Records) -> pd.DataFrame:
    return tables.comparison(records)


def cell(frame: pd.DataFrame, arm: str, bench: str) -> pd.Series:
    return frame[(frame["arm"] == arm) & (frame["bench"] == bench)].iloc[0]


def matrices(records: Records, arm: str, bench: str) -> np.ndarray:
    """[S, n, K] at the final step, by a loop that shares nothing with the code under test."""
    rows = records.samples.astype({"arm": str})
    step = 0 if arm in ("start", "teacher") else records.manifest["final_step"]
    rows = rows[(rows["arm"] == arm) & (rows["bench"] == bench) & (rows["step"] == step)]
    out = []
    for seed in sorted(rows["seed"].unique()):
        of_seed = rows[rows["seed"] == seed]
        problems = sorted(of_seed["problem"].unique())
        out.append([of_seed[of_seed["problem"] == p].sort_values("sample")["correct"].tolist() for p in problems])
    return np.array(out)


# -- the frame


def test_cells_are_the_estimates_of_the_raw_samples(records: Records, frame: pd.DataFrame) -> None:
    for arm, bench in (("fire", "toy-math"), ("teacher", "toy-code"), ("opd", "toy-code")):
        raw = matrices(records, arm, bench)
        estimate = stats.avg_at_k(raw)
        row = cell(frame, arm, bench)
        assert (row["value"], row["low"], row["high"]) == (estimate.value, estimate.low, estimate.high)
        assert row["per_seed"] == pytest.approx([run.mean() for run in raw])
        assert (row["n"], row["k"], row["seeds"]) == (raw.shape[1], raw.shape[2], raw.shape[0])
    fire, opd = matrices(records, "fire", "toy-math"), matrices(records, "opd", "toy-math")
    row = cell(frame, "fire", "toy-math")
    assert row["delta"] == pytest.approx(fire.mean() - opd.mean())
    assert row["delta_per_seed"] == pytest.approx(fire.mean(axis=(1, 2)) - opd.mean(axis=(1, 2)))


def test_macro_average_and_its_difference(frame: pd.DataFrame) -> None:
    parts = [cell(frame, "fire", bench) for bench in ("toy-math", "toy-code")]
    whole = cell(frame, "fire", MACRO)
    assert whole["value"] == pytest.approx(np.mean([part["value"] for part in parts]))
    assert whole["delta"] == pytest.approx(np.mean([part["delta"] for part in parts]))
    assert whole["tokens"] == pytest.approx(np.mean([part["tokens"] for part in parts]))


def test_holm_families_are_the_cells_and_the_averages(frame: pd.DataFrame) -> None:
    tested = frame[frame["p"].notna()]
    assert not tested["reference"].any()
    assert not tested["baseline"].any()
    for family in (tested[tested["bench"] != MACRO], tested[tested["bench"] == MACRO]):
        assert family["p_holm"].tolist() == stats.holm(family["p"].tolist())
    assert (len(tested[tested["bench"] != MACRO]), len(tested[tested["bench"] == MACRO])) == (12, 6)


def test_bold_needs_the_adjusted_test_and_the_right_direction(frame: pd.DataFrame) -> None:
    supported = (frame["p_holm"] < 0.05) & (frame["inert"] == "")
    assert frame["bold"].tolist() == (supported & (frame["delta"] > 0)).tolist()
    assert frame["worse"].tolist() == (supported & (frame["delta"] < 0)).tolist()
    assert frame["bold"].any()
    assert frame["worse"].any()
    assert not frame.loc[frame["reference"] | frame["baseline"], "bold"].any()


def test_an_inert_arm_is_never_bold_even_if_its_numbers_differ() -> None:
    low, high = [[0, 0]] * 12, [[1, 1]] * 12
    live = records_from({("opd", 0, "b"): low, ("x", 0, "b"): high})
    assert cell(tables.comparison(live), "x", "b")["bold"]
    inert = records_from({("opd", 0, "b"): low, ("x", 0, "b"): high}, inert={"x": "equals opd"})
    frame = tables.comparison(inert)
    assert not cell(frame, "x", "b")["bold"]
    assert tables.remarks(frame)[0].startswith("INERT: x equals opd")
    assert "INERT" in tables.to_markdown(frame)
    assert tables.headlines(frame) == []


def test_rates_of_the_answers() -> None:
    records = records_from({("opd", 0, "b"): [[1, 0], [0, 0]]})
    samples = records.samples.assign(
        answer=["1", None, None, "2"], finish=["stop", "length", "stop", "stop"], tokens=[1, 2, 3, 6]
    )
    samples["correct_paper"] = [True, True, False, False]
    frame = tables.comparison(replace(records, samples=samples))
    row = cell(frame, "opd", "b")
    assert (row["no_answer"], row["truncated"], row["tokens"], row["value_paper"]) == (0.5, 0.25, 3.0, 0.5)
    assert cell(tables.comparison(replace(records, samples=samples), "paper"), "opd", "b")["value"] == 0.5


def test_row_order_and_dtype_of_the_records_do_not_matter(records: Records, frame: pd.DataFrame) -> None:
    shuffled = records.samples.sample(frac=1, random_state=0).astype({"arm": str, "bench": "category"})
    pd.testing.assert_frame_equal(tables.comparison(replace(records, samples=shuffled)), frame)


def test_curve_rows_of_earlier_steps_do_not_enter(records: Records, frame: pd.DataFrame) -> None:
    earlier = records.samples["step"].between(1, records.manifest["final_step"] - 1)
    assert earlier.any()
    pd.testing.assert_frame_equal(tables.comparison(replace(records, samples=records.samples[~earlier])), frame)


def test_families_of_problems_widen_the_interval() -> None:
    rows = [[1, 1], [1, 1], [0, 0], [0, 0], [1, 0], [1, 0]]
    clusters = {f"p{i}": f"family {i // 2}" for i in range(6)}
    benches = {"b": {"k": 2, "n": 6, "clusters": clusters}}
    plain = tables.comparison(records_from({("opd", 0, "b"): rows})).iloc[0]
    clustered = tables.comparison(records_from({("opd", 0, "b"): rows}, benches=benches)).iloc[0]
    assert clustered["se"] == pytest.approx(stats.avg_at_k(rows, list(clusters.values())).se)
    assert clustered["se"] > plain["se"]


# -- what is missing or contradictory


def test_a_missing_cell_is_a_hole_everywhere(records: Records) -> None:
    samples = records.samples
    gone = (samples["arm"] == "fire") & (samples["bench"] == "toy-code")
    frame = tables.comparison(replace(records, samples=samples[~gone]))
    assert math.isnan(cell(frame, "fire", "toy-code")["value"])
    assert math.isnan(cell(frame, "fire", MACRO)["value"])  # an average over other benches would not compare
    assert not math.isnan(cell(frame, "fire", "toy-math")["p_holm"])
    assert tables.holes(frame) == ["FiRe, toy code: no samples"]
    assert "| FiRe | 62" in tables.to_markdown(frame)
    line = next(line for line in tables.to_markdown(frame).splitlines() if line.startswith("| FiRe |"))
    assert line.endswith("| — | — |")
    assert "INCOMPLETE: FiRe, toy code: no samples" in tables.to_markdown(frame)
    assert "— not measured" in tables.caption(records, frame)
    assert ",,," in next(row for row in tables.to_csv(frame).splitlines() if row.startswith("fire,FiRe,toy-code"))


def test_an_incomplete_seed_is_left_out_and_named_never_padded(records: Records) -> None:
    samples = records.samples
    lost = samples[(samples["arm"] == "fire") & (samples["seed"] == 1) & (samples["step"] == 60)].index[0]
    frame = tables.comparison(replace(records, samples=samples.drop(lost)))
    row = cell(frame, "fire", "toy-math")
    assert row["value"] == matrices(records, "fire", "toy-math")[0].mean()
    assert row["seeds"] == 1
    assert row["missing"] == "seed 1 has 383 of 384 samples"
    assert row["delta_per_seed"] == ()  # one seed of this arm against two of the baseline pairs nothing


def test_without_the_baseline_there_are_values_and_no_differences(records: Records) -> None:
    frame = tables.comparison(replace(records, samples=records.samples[records.samples["arm"] != "opd"]))
    assert frame["delta"].isna().all()
    assert frame["p_holm"].isna().all()
    assert not math.isnan(cell(frame, "fire", "toy-math")["value"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: replace(r, samples=pd.concat([r.samples, r.samples.tail(1)])), "a sample is kept twice"),
        (
            lambda r: replace(
                r,
                samples=r.samples.assign(
                    problem=r.samples["problem"].where(r.samples["arm"] != "x", "q" + r.samples["problem"])
                ),
            ),
            "different problems of bench 'b'",
        ),
        (
            lambda r: replace(
                r,
                samples=r.samples.assign(
                    problem=r.samples["problem"].where(r.samples["seed"] != 1, "q" + r.samples["problem"])
                ),
            ),
            "seeds were graded on different problems",
        ),
        (lambda r: replace(r, manifest={**r.manifest, "checker": "lenient"}), "checker 'lenient' is unknown"),
        (lambda r: replace(r, manifest={**r.manifest, "baseline": "nobody"}), "baseline 'nobody'"),
    ],
)
def test_contradictions_are_refused(spoil: object, words: str) -> None:
    records = records_from({(arm, seed, "b"): [[1, 0], [0, 0]] for arm in ("opd", "x") for seed in (0, 1)})
    with pytest.raises(UserError, match=words):
        tables.comparison(spoil(records))  # type: ignore[operator]


# -- renderings


def test_markdown_of_a_small_table() -> None:
    records = records_from(
        {
            ("opd", 0, "b"): [[0, 0], [1, 0], [1, 1], [0, 0]],
            ("x", 0, "b"): [[1, 0], [1, 1], [1, 1], [1, 1]],
            ("teacher", 0, "b"): [[1, 1], [1, 1], [1, 1], [1, 1]],
        }
    )
    # opd: p = 0 1/2 1 0, mean 37.5, s²/n = 0.229167/4, t(3) = 3.182446: half-width 76.2, cut at 0
    # x: d = 1/2 1/2 0 1: 50.0 ± 65.0 cut at 100; sign-flip p = 2/8
    # teacher: no spread, so the exact binomial 0.025^(1/4) = 39.8
    assert tables.to_markdown(tables.comparison(records)) == (
        "|  | b |\n"
        "|:--|--:|\n"
        "| *teacher* | 100.0 [39.8, 100.0]<br><sub>+62.5 [−13.7, +100.0]</sub> |\n"
        "| opd (baseline) | 37.5 [0.0, 100.0] |\n"
        "| x | 87.5 [47.7, 100.0]<br><sub>+50.0 [−15.0, +100.0]</sub> |\n"
    )


def test_half_width_is_printed_where_the_interval_is_symmetric(frame: pd.DataFrame) -> None:
    row = cell(frame, "fire", MACRO)
    half, reach = row["high"] - row["value"], row["delta_high"] - row["delta"]
    expected = (
        f"**{100 * row['value']:.1f} ± {100 * half:.1f}**<br><sub>+{100 * row['delta']:.1f} ± {100 * reach:.1f}</sub>"
    )
    assert expected in tables.to_markdown(frame)


def test_caption_states_what_the_numbers_are(records: Records, frame: pd.DataFrame) -> None:
    text = tables.caption(records, frame)
    for part in (
        "avg@8",
        "95 % t interval over problems",
        "toy math n = 48, toy code n = 40",
        "training seeds 0, 1",
        "checker strict, version 1",
        "difference to OPD",
        "sign-flip test",
        "Holm over 12 comparisons, averages over 6",
        "0.05",
        "not ranked",
    ):
        assert part in text


def test_headlines_name_every_supported_difference_and_the_silent_arms(frame: pd.DataFrame) -> None:
    lines = tables.headlines(frame)
    assert lines[0].startswith("FiRe is better than OPD: toy code +8.3 [+2.7, +13.9], p = 0.049; average +5.8 ")
    assert any(line.startswith("random filter (control) is worse than OPD: toy math −12.0") for line in lines)
    assert lines[-1] == "Not distinguishable from OPD here: OPD, full vocabulary; FiRe, filter only; TIP."


def test_csv_holds_every_number(frame: pd.DataFrame) -> None:
    read = pd.read_csv(io.StringIO(tables.to_csv(frame)))
    for column in ("value", "low", "high", "delta", "delta_low", "delta_high", "p", "p_holm", "tokens"):
        np.testing.assert_allclose(read[column], frame[column], atol=1e-6)
    assert read["per_seed"].iloc[-1].count(";") == 1
    assert tables.to_csv(frame) == tables.to_csv(frame.copy())


def printed(table: object, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_terminal_table_fits_eighty_columns(records: Records, frame: pd.DataFrame) -> None:
    text = printed(tables.to_rich(frame, tables.caption(records, frame), "A title"), 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "64.8 ± 7.0" in text
    assert "+5.8 ± 3.7" in text
    assert "…" not in text
    assert "⚠ INERT" in text


def test_many_benches_are_stacked_in_the_terminal() -> None:
    benches = [f"bench-{i}" for i in range(8)]
    rows = {(arm, 0, bench): [[1, 0], [0, 0], [1, 1]] for arm in ("opd", "x") for bench in benches}
    text = printed(tables.to_rich(tables.comparison(records_from(rows))), 80)
    assert "…" not in text
    assert all(text.count(bench) == 2 for bench in benches)


def test_hostile_labels_are_escaped_everywhere(records: Records) -> None:
    arms = {**records.manifest["arms"]}
    arms["tip"] = {**arms["tip"], "label": HOSTILE}
    arms["fire"] = {**arms["fire"], "label": "x" * 10_000}
    frame = tables.comparison(replace(records, manifest={**records.manifest, "arms": arms}))
    assert frame["label"].str.len().max() == 80
    html, text = tables.to_html(frame), tables.to_markdown(frame)
    assert "<b>$x" not in html
    assert "&lt;b&gt;$x$&lt;/b&gt;" in html
    assert "&lt;b&gt;" in text
    assert "](http" not in text
    assert "\\| \\`y\\`" in text
    for rendered in (html, text, tables.to_latex(frame), printed(tables.to_rich(frame), 80)):
        assert "\x00" not in rendered
        assert "\u202e" not in rendered


def test_latex_says_everything_in_ascii(frame: pd.DataFrame) -> None:
    text = tables.to_latex(frame, "95 % & é λ 漢")
    assert text.isascii()
    assert "95 \\% \\& \\'{e} $\\lambda$ [U+6F22]" in text
    assert "\\textbf{64.8}{\\scriptsize\\,$\\pm$ 7.0}" in text
    assert "\\textbf{(INERT)}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX engine (pdflatex) on this machine")
def test_latex_compiles_and_fits_the_page(records: Records, frame: pd.DataFrame, tmp_path: Path) -> None:
    every = " ".join(chr(c) for c in (*range(1, 0x180), *range(0x370, 0x400), *range(0x2190, 0x2200), 0x1F600))
    hostile = frame.assign(label=[HOSTILE + str(i) for i in range(len(frame))])
    wide = markup.Table(
        ("", *(f"bench_{i}" for i in range(9))),
        tuple(markup.Row("an arm", (markup.Cell("−12.3 ± 10.1", "−12.0 ± 5.9 ↓", True),) * 9) for _ in range(3)),
        every,  # cut, as LaTeX cannot measure a caption of any length
        (every,),
    )
    body = (
        tables.to_latex(frame, tables.caption(records, frame)) + tables.to_latex(hostile, HOSTILE) + markup.latex(wide)
    )
    source = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(source)
    run = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 10_000
    assert "Overfull \\hbox" not in run.stdout  # article's column is 345 pt, narrower than any venue's page


def test_effects_are_means_over_steps_and_seeds() -> None:
    records = fake_records()
    steps = records.steps.assign(dropped_kl=0.25)
    table = tables.effects(replace(records, steps=steps))
    assert table.head[-2:] == ("KL on dropped rollouts", "cosine to baseline")
    arm = next(name for name, spec in records.manifest["arms"].items() if not spec.get("reference"))
    mine = steps[steps["arm"].astype(str) == arm]
    assert table.rows[0].cells[0].text == f"{100 * mine['kept'].mean():.1f}"
    assert table.rows[0].cells[-2].text == "25.0"
    assert table.rows[0].cells[-1].text == f"{mine['cosine'].mean():.3f}"
    assert len(table.rows) == sum(not spec.get("reference") for spec in records.manifest["arms"].values())
