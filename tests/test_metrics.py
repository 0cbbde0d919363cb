from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from harness.errors import UserError
from harness.evaluation.evaluations import load_evaluation
from harness.evaluation.metrics import COLUMNS, metrics
from harness.records import load
from harness.tables.standings import comparison
from tests.conftest import ROOT


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Sample rows; what is not given is a right answer that stopped."""
    whole = {
        "bench": "toy",
        "seed": 0,
        "sample": 0,
        "correct": True,
        "correct_paper": True,
        "answer": "7",
        "parsed": "7",
        "reason": "equal",
        "finish": "stop",
        "tokens": 10,
    }
    return pd.DataFrame([whole | row for row in rows])


def by_hand() -> pd.DataFrame:
    """Two problems × four samples.

    a: right, right, wrong 8, wrong "8.0" of the class 8. b: right, wrong 9, no answer (cut), wrong without a class.
    """
    wrong: dict[str, Any] = {"correct": False, "correct_paper": False}
    return frame(
        [
            {"problem": "a", "sample": 0, "tokens": 1},
            {"problem": "a", "sample": 1, "tokens": 2, "correct_paper": False},
            {"problem": "a", "sample": 2, "tokens": 3, "answer": "8", "parsed": "8", **wrong},
            {"problem": "a", "sample": 3, "tokens": 4, "answer": "8.0", "parsed": "8", **wrong},
            {"problem": "b", "sample": 0, "tokens": 5},
            {"problem": "b", "sample": 1, "tokens": 6, "answer": "9", "parsed": "9", **wrong},
            {"problem": "b", "sample": 2, "tokens": 7, "answer": None, "parsed": None, "finish": "length", **wrong},
            {"problem": "b", "sample": 3, "tokens": 8, "answer": "nine?", "parsed": None, **wrong},
        ]
    )


def values(found: pd.DataFrame) -> dict[str, float]:
    return dict(zip(found["metric"], found["value"], strict=True))


def test_values_by_hand() -> None:
    found = metrics(by_hand())
    assert tuple(found.columns) == COLUMNS
    assert values(found) == pytest.approx(
        {
            "avg@4": 3 / 8,
            "pass@1": 3 / 8,
            # both wrong: a C(2,2)/C(4,2) = 1/6, b C(3,2)/6 = 1/2
            "pass@2": (5 / 6 + 1 / 2) / 2,
            "pass@4": 1,
            "maj@1": 3 / 8,
            # a: two right 1/6 → 1; one of each 4/6 → 1/2: 1/2. b: the right one with a wrong one, 2/6 → 1/2; with the
            # blank, 1/6 → 1: 1/3
            "maj@2": (1 / 2 + 1 / 3) / 2,
            # a: 2 against 2 of the class 8: 1/2. b: one vote each for right, 9 and nine?: 1/3
            "maj@4": (1 / 2 + 1 / 3) / 2,
            "pass^1": 3 / 8,
            "pass^2": 1 / 6 / 2,
            "pass^4": 0,
            "no answer": 1 / 8,
            "truncated": 1 / 8,
            "disagreement": 1 / 8,
            "length mean": 4.5,
            "length p50": 4.5,
            # position 0.95 · 7 = 6.65 from the first of 1 … 8
            "length p95": 7.65,
        }
    )
    assert found["k"].tolist() == [4, 1, 2, 4, 1, 2, 4, 1, 2, 4, 4, 4, 4, 4, 4, 4]
    assert set(found["n"]) == {2}
    assert found["unit"].tolist() == ["fraction"] * 13 + ["tokens"] * 3


def test_intervals_are_over_problems() -> None:
    found = metrics(by_hand()).set_index("metric")
    # problem means 2.5 and 6.5: s = 4/sqrt(2), SE = 2, t(1, 0.975) = 12.7062; a length is never negative
    assert found.loc["length mean", "high"] == pytest.approx(4.5 + 12.7062 * 2, abs=1e-3)
    assert found.loc["length mean", "low"] == 0
    low, high = scipy.stats.binomtest(0, 2).proportion_ci(0.95, "exact")
    assert (found.loc["pass^4", "low"], found.loc["pass^4", "high"]) == pytest.approx((low, high))
    assert found.loc["pass^4", "interval"] == "exact binomial over problems (no spread)"
    for name in ("pass@2", "maj@2", "no answer", "truncated", "disagreement", "length mean"):
        assert found.loc[name, "interval"] == "t over problems"
    assert found.loc[["length p50", "length p95"], ["low", "high"]].isna().all(axis=None)
    assert found.loc[["length p50", "length p95"], "interval"].tolist() == ["", ""]


def random_frame(seeds: int = 2, n: int = 6, k: int = 6) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    rows = []
    for seed, problem, sample in itertools.product(range(seeds), range(n), range(k)):
        chances = [0.1 + problem / 12, 0.2, 0.1, 0.05, 0.55 - problem / 12]
        answer = str(draw.choice(["7", "8", "9", "\0<script>", "none"], p=chances))
        row = {"problem": f"p{problem}", "seed": seed, "sample": sample, "answer": None if answer == "none" else answer}
        right = bool(answer == "7")
        row |= {"parsed": row["answer"], "correct": right, "correct_paper": right and bool(draw.random() < 0.8)}
        rows.append(row | {"finish": str(draw.choice(["stop", "length"])), "tokens": int(draw.integers(1, 99))})
    return frame(rows)


@pytest.mark.parametrize("checker", ["strict", "paper"])
def test_against_plain_loops(checker: str) -> None:
    samples = random_frame()
    column = {"strict": "correct", "paper": "correct_paper"}[checker]

    def per_problem(score: Callable[[list[dict[Any, Any]]], float]) -> list[float]:
        """Mean over the seeds of a score of the samples of a problem, counted one by one."""
        groups = {}
        for row in samples.to_dict("records"):
            groups.setdefault((row["problem"], row["seed"]), []).append(row)
        names = sorted({problem for problem, _ in groups})
        return [float(np.mean([score(groups[name, seed]) for seed in (0, 1)])) for name in names]

    def over_subsets(
        k: int, score: Callable[[tuple[dict[Any, Any], ...]], float]
    ) -> Callable[[list[dict[Any, Any]]], float]:
        return lambda rows: float(np.mean([score(subset) for subset in itertools.combinations(rows, k)]))

    def majority(rows: tuple[dict[Any, Any], ...]) -> float:
        votes = Counter(("right",) if r[column] else r["parsed"] for r in rows if r[column] or pd.notna(r["parsed"]))
        top = [vote for vote, count in votes.items() if count == max(votes.values())]
        return (("right",) in top) / len(top) if top else 0.0

    expected = {"avg@6": per_problem(lambda rows: float(np.mean([r[column] for r in rows])))}
    for k in (1, 2, 4, 6):
        expected[f"pass@{k}"] = per_problem(over_subsets(k, lambda rows: any(r[column] for r in rows)))
        expected[f"maj@{k}"] = per_problem(over_subsets(k, majority))
        expected[f"pass^{k}"] = per_problem(over_subsets(k, lambda rows: all(r[column] for r in rows)))
    expected["no answer"] = per_problem(lambda rows: float(np.mean([pd.isna(r["answer"]) for r in rows])))
    expected["truncated"] = per_problem(lambda rows: float(np.mean([r["finish"] == "length" for r in rows])))
    expected["disagreement"] = per_problem(
        lambda rows: float(np.mean([r["correct"] != r["correct_paper"] for r in rows]))
    )
    found = metrics(samples.sample(frac=1, random_state=0), checker=checker).set_index("metric")
    assert set(found.index) == {*expected, "length mean", "length p50", "length p95"}
    for name, numbers in expected.items():
        assert found.loc[name, "value"] == pytest.approx(np.mean(numbers)), name
        if np.std(numbers) > 1e-9:
            half = scipy.stats.t.ppf(0.975, 5) * scipy.stats.sem(numbers)
            assert found.loc[name, "high"] == pytest.approx(min(1, np.mean(numbers) + half)), name
            assert found.loc[name, "low"] == pytest.approx(max(0, np.mean(numbers) - half)), name
    assert found.loc["length p95", "value"] == np.percentile(samples["tokens"], 95)


def test_hostile_answers_are_votes_like_others() -> None:
    # a lone surrogate cannot be a pandas string, only an object
    wrong = ["\udc80", "\0", "<script>", "\u202e7"]
    texts = pd.Series(["7", "7", wrong[0], wrong[0], "7", *wrong[1:]], dtype=object)
    found = values(metrics(by_hand().assign(answer=texts, parsed=texts)))
    assert found["maj@4"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found["no answer"] == 0


def test_families_are_clusters() -> None:
    samples = random_frame(n=7)
    clusters = {"p0": "x", "p1": "x", "p2": "x", "p3": "y", "p4": "y"}  # the rest are their own
    found = metrics(samples, clusters=clusters).set_index("metric")
    p = samples.groupby("problem")["correct"].mean()
    sums = (p - p.mean()).groupby(lambda name: clusters.get(name, name)).sum()
    se = math.sqrt(4 / 3 * (sums**2).sum()) / 7
    assert found.loc["avg@6", "high"] == pytest.approx(min(1, p.mean() + scipy.stats.t.ppf(0.975, 3) * se))
    assert found.loc["avg@6", "interval"] == "t over problems, clustered"
    assert found.loc["length mean", "interval"] == "t over problems, clustered"


def test_chosen_ks() -> None:
    assert metrics(by_hand(), ks=[3])["metric"].tolist()[:4] == ["avg@4", "pass@3", "maj@3", "pass^3"]
    assert metrics(frame([{"problem": "a"}, {"problem": "b"}]))["k"].unique().tolist() == [1]
    with pytest.raises(UserError, match="pass@5 cannot be had from 4 samples"):
        metrics(by_hand(), ks=[5])


def test_samples_without_the_papers_verdict() -> None:
    samples = by_hand().assign(correct_paper=None, parsed=None, finish=None, tokens=None)
    found = metrics(samples).set_index("metric")
    assert found.loc["avg@4", "value"] == 3 / 8
    # no classes: the strings 8 and 8.0 of the first problem are two votes, so 2 right ones win
    assert found.loc["maj@4", "value"] == pytest.approx((1 + 1 / 3) / 2)
    for name in ("disagreement", "truncated", "length mean", "length p50", "length p95"):
        assert math.isnan(found.loc[name, "value"])
        assert math.isnan(found.loc[name, "low"])
        assert found.loc[name, "interval"] == ""
    with pytest.raises(UserError, match=r"'toy' has samples without a verdict of the checker 'paper'; .*lm-eval"):
        metrics(samples, checker="paper")
    with pytest.raises(UserError, match="without a verdict of the checker 'strict'; grade it again"):
        metrics(by_hand().assign(correct=[None] + [True] * 7))
    some = by_hand()
    some["correct_paper"] = some["correct_paper"].astype(object).where(some["problem"] == "a", None)
    assert math.isnan(values(metrics(some))["disagreement"])  # a rate over some rows would not be comparable


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.iloc[:-1], "seed 0: problem 'b' has 3 of 4 samples; evaluate again"),
        (lambda f: f.drop(index=[5]), "problem 'b' has 3 of 4 samples"),
        (lambda f: pd.concat([f, f.iloc[[2]]]), "sample 2 of problem 'a' is there twice"),
        (lambda f: pd.concat([f, f.assign(seed=1).iloc[:4]]), "seed 1: problem 'b' has 0 of 4 samples"),
        (lambda f: pd.concat([f, f.assign(bench="other")]), r"several benchmarks \(toy, other\)"),
        (lambda f: f.assign(sample=[0, 1, 2, None] * 2), "without seed, problem or sample number"),
        (lambda f: f.iloc[:0], "no samples"),
        (lambda f: f.drop(columns="tokens"), "no column 'tokens'"),
    ],
)
def test_what_is_not_whole_is_refused(change: Callable[[pd.DataFrame], pd.DataFrame], words: str) -> None:
    # never padded and never divided by the planned K
    with pytest.raises(UserError, match=words) as refusal:
        metrics(change(by_hand()))
    assert "\n" not in str(refusal.value)


def test_unknown_checker_is_refused() -> None:
    with pytest.raises(UserError, match="checker 'loose' is unknown: choose from strict, paper"):
        metrics(by_hand(), checker="loose")


@pytest.mark.parametrize("bench", ["toy-aime", "toy-minerva"])
def test_kept_records_have_the_numbers_of_the_report(bench: str) -> None:
    folder = ROOT / "results" / "records" / "quickstart"
    if not (folder / "manifest.json").exists():
        pytest.skip("the quick start's records are absent")
    records = load(folder)
    rows = comparison(records)
    for arm in list(records.manifest["arms"])[:3]:
        evaluation = load_evaluation(f"{folder}/{arm}")
        found = metrics(evaluation.rows(bench), clusters=evaluation.benches[bench].get("clusters"))
        row = rows[(rows["arm"] == arm) & (rows["bench"] == bench)].iloc[0]
        for name in ("value", "low", "high", "n", "k", "interval"):
            assert found.iloc[0][name] == row[name], (arm, name)
        rates = values(found)
        assert rates["no answer"] == pytest.approx(row["no_answer"])
        assert rates["truncated"] == pytest.approx(row["truncated"])
        assert rates["length mean"] == pytest.approx(row["tokens"])
