from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.commands import grim as command
from harness.errors import UserError
from harness.stats.grim import average, designs, grim, grim_gain, subtract

MODES = {"half up": ROUND_HALF_UP, "half to even": ROUND_HALF_EVEN, "truncated": ROUND_DOWN}


def printed(count: int, total: int, decimals: int, rule: str) -> Decimal:
    """100·count/total as the decimal module prints it: long division, not the code's integer bounds."""
    with localcontext() as context:
        context.prec = 60
        value = Decimal(100 * count) / Decimal(total)
        if value * total != 100 * count:  # a repeating fraction: no tie, so 60 digits decide
            assert len(str(value)) > 40
        return value.quantize(Decimal(1).scaleb(-decimals), rounding=MODES[rule])


def decimals_of(text: str) -> int:
    return len(text.partition(".")[2])


# -- single numbers


@pytest.mark.parametrize(
    ("value", "n", "k", "verdict", "counts"),
    [
        # 782/960 = 81.4583…
        ("81.46", 30, 32, "possible", [782]),
        # 147/240 = 61.25 exactly
        ("61.25", 30, 8, "possible", [147]),
        # 61.25 % of 30 answers is 18.375: 18/30 = 60.00, 19/30 = 63.33
        ("61.25", 30, 1, "impossible", []),
        # 3787/4000 = 94.675, 3788/4000 = 94.700
        ("94.69", 500, 8, "impossible", []),
        # 7575/8000 = 94.6875
        ("94.69", 500, 16, "possible", [7575]),
        # 1218/1280 = 95.15625: 95.16 by rounding, 95.15 with the rest cut off
        ("95.15", 40, 32, "truncated", []),
        # 1192/1280 = 93.125, a tie: half up gives 93.13, half to even 93.12
        ("93.13", 40, 32, "possible", [1192]),
        ("93.12", 40, 32, "possible", [1192]),
        # 16,000 answers are steps of 0.00625: finer than two decimals
        ("94.69", 500, 32, "untestable", [15150, 15151]),
        ("100", 7, 1, "possible", [7]),
        ("0.0", 7, 1, "possible", [0]),
    ],
)
def test_hand_computed(value: str, n: int, k: int, verdict: str, counts: list[int]) -> None:
    found = grim(value, n, k)
    assert (found.verdict, list(found.counts)) == (verdict, counts)
    assert found.possible == (verdict in ("possible", "untestable"))


def test_a_tie_names_the_rule_that_made_it() -> None:
    assert grim("93.13", 40, 32).rules == ("half up",)
    assert grim("93.12", 40, 32).rules == ("half to even", "truncated")


def test_decimals_matter() -> None:
    # 2/3 = 66.67 %, but 66.70 is not a rounding of it; 66.7 is
    assert grim("66.7", 3).possible
    assert not grim("66.70", 3).possible


def test_the_nearest_counts_are_named() -> None:
    assert grim("94.69", 500, 8).nearest == ((3787, "94.6750"), (3788, "94.7000"))
    assert grim("50.0", 30, 8).nearest == ((120, "50.000"),)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3), st.data())
def test_agrees_with_printing_every_count(n: int, k: int, decimals: int, data: st.DataObject) -> None:
    units = data.draw(st.integers(0, 100 * 10**decimals))
    value = f"{Decimal(units).scaleb(-decimals):f}"
    total = n * k
    table = {
        rule: [c for c in range(total + 1) if printed(c, total, decimals, rule) == Decimal(value)] for rule in MODES
    }
    found = grim(value, n, k)
    assert found.rules == tuple(rule for rule in MODES if table[rule])
    assert list(found.counts) == sorted({*table["half up"], *table["half to even"]})
    every = {printed(c, total, decimals, "half up") for c in range(total + 1)}
    if not found.informative:  # then no number at all is impossible
        assert len(every) == 100 * 10**decimals + 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 700), st.integers(1, 64), st.integers(0, 4), st.sampled_from(sorted(MODES)), st.data())
def test_what_a_design_prints_is_possible_for_it(n: int, k: int, decimals: int, rule: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n * k))
    assert rule in grim(f"{printed(count, n * k, decimals, rule):f}", n, k).rules


# -- gains


@pytest.mark.parametrize(
    ("value", "n", "k", "verdict"),
    [
        ("6.25", 30, 8, "possible"),  # 15/240
        ("+4.17", 30, 8, "possible"),  # 10/240 = 4.1667
        ("6.25", 30, 4, "impossible"),  # 7.5/120; both numbers have two decimals in steps of 0.8333
        ("18.81", 272, 8, "impossible"),  # 409/2176 = 18.796, 410/2176 = 18.842: both over a unit away
        ("18.81", 272, 32, "possible"),  # 1637/8704 = 18.807
        ("-1.67", 30, 2, "possible"),  # -1/60 = -1.6667
        ("-1.66", 30, 2, "possible"),  # 1/60 = 1.6667 → 1.67 and 2/60 = 3.3333 → 3.33: their difference is 1.66
    ],
)
def test_gains_by_hand(value: str, n: int, k: int, verdict: str) -> None:
    assert grim_gain(value, n, k).verdict == verdict


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2), st.data())
def test_gains_agree_with_subtracting_every_pair(total: int, decimals: int, data: st.DataObject) -> None:
    units = data.draw(st.integers(-100 * 10**decimals, 100 * 10**decimals))
    value = f"{Decimal(units).scaleb(-decimals):f}"
    found = grim_gain(value, total)
    if not found.informative:
        return
    expected = set()
    for rule in MODES:
        cells = [printed(c, total, decimals, rule) for c in range(total + 1)]
        pairs = product(range(total + 1), repeat=2)
        if any(cells[a] - cells[b] == Decimal(value) for a, b in pairs):
            expected.add(rule)
        if any(printed(c, total, decimals, rule) == abs(Decimal(value)) for c in range(total + 1)):
            expected.add(rule)
    assert set(found.rules) == expected


def test_designs_lists_every_k() -> None:
    ks = [one.k for one in designs("94.69", 500) if one.verdict == "possible"]
    # k = 7: 3314/3500 = 94.6857; from k = 20 on 100/(nk) ≤ 0.01 and nothing can be told
    assert ks == [7, 9, 11, 13, 14, 15, 16, 17, 18, 19]
    assert [one.k for one in designs("94.69", 500) if not one.informative] == list(range(20, 65))


# -- averages and differences


def test_the_average_of_table_3() -> None:
    cells = ["61.25", "55.00", "33.75", "37.50", "94.69", "95.15", "48.07", "68.49"]
    mean = average(cells, "61.74")  # they sum to 493.90; /8 = 61.7375
    assert (mean.mean, mean.possible, mean.exact) == ("61.7375", True, True)
    assert not average(cells, "61.75").possible  # above 61.7375 + 0.005 + 0.005 = 61.7475
    assert not average(cells[:6], "61.74").possible


def test_an_average_that_only_the_unrounded_cells_allow() -> None:
    # (0.33 + 0.34)/2 = 0.335; 0.33 could be 0.334 and 0.34 be 0.344, of which the mean is 0.339
    mean = average(["0.33", "0.34"], "0.345")
    assert (mean.possible, mean.exact, mean.low, mean.high) == (False, False, "0.33000", "0.34000")
    loose = average(["0.3", "0.4"], "0.38")  # 0.35 ± 0.05
    assert (loose.possible, loose.exact) == (True, False)


@settings(max_examples=200)
@given(st.lists(st.fractions(0, 100), min_size=1, max_size=8), st.integers(0, 2))
def test_the_average_of_rounded_cells_is_never_refused(values: list[Fraction], decimals: int) -> None:
    def text(value: Fraction) -> str:
        return f"{Decimal(round(value * 10**decimals)).scaleb(-decimals):f}"

    assert average([text(v) for v in values], text(sum(values) / len(values))).possible


@pytest.mark.parametrize(
    ("value", "baseline", "gain"),
    [
        ("60.83", "58.70", "+2.13"),
        ("16.4", "17.5", "-1.1"),
        ("5.83", "6.25", "-0.42"),
        ("13.3", "13.3", "+0.0"),
        ("48.0", "46", "+2"),
    ],
)
def test_differences_keep_the_coarser_decimals(value: str, baseline: str, gain: str) -> None:
    assert subtract(value, baseline) == gain


# -- bad input and the command


@pytest.mark.parametrize(
    "call",
    [
        lambda: grim("1e3", 3),
        lambda: grim("٣", 3),
        lambda: grim("12.34567", 3),
        lambda: grim("", 3),
        lambda: grim("\x00<script>" * 9, 3),
        lambda: grim("101", 3),
        lambda: grim("-1", 3),
        lambda: grim("50", 0),
        lambda: grim("50", 30, -1),
        lambda: grim("50", 10**9, 10**9),
        lambda: grim_gain("101", 3),
        lambda: average([], "3"),
        lambda: average(["x"], "3"),
    ],
)
def test_bad_input_is_one_sentence(call: Callable[[], object]) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    assert command.run(parser.parse_args(words)) == 0
    return capsys.readouterr().out


def test_command_says_it_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert "81.46 is possible with 30 problems × 32 samples = 960 answers: 782 right" in run(
        capsys, "81.46", "--n", "30", "--k", "32"
    )
    assert "94.69 is possible with 500 problems and k = 7, 9, 11, 13–64" in run(capsys, "94.69", "--n", "500")
    assert "cannot be the average" in run(capsys, "61.75", "--mean-of", "61.25", "55.00")
    assert "A gain of +18.81 is impossible" in run(capsys, "+18.81", "--n", "272", "--k", "8", "--gain")
    assert "-1.84 is possible" in run(capsys, "-1.84", "--n", "30", "--gain")
    assert "possible if digits were cut off" in run(capsys, "95.15", "--n", "40", "--k", "32")
    assert "says nothing" in run(capsys, "94.69", "--n", "500", "--k", "32")
    assert "impossible with 1 problems and any k from 1 to 64" in run(capsys, "0.01", "--n", "1")


def test_command_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(run(capsys, "93.13", "--n", "40", "--k", "32", "--json"))
    assert (data["possible"], data["counts"], data["rules"]) == (True, [1192, 1192], ["half up"])
    many = json.loads(run(capsys, "94.69", "--n", "500", "--json"))
    assert [one["k"] for one in many] == list(range(1, 65))
    assert json.loads(run(capsys, "61.74", "--mean-of", "61.74", "--json"))["exact"] is True


@pytest.mark.parametrize("words", [["50"], ["50", "--n", "3", "--mean-of", "50"], ["50", "--n", "0"]])
def test_command_refuses(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    with pytest.raises(UserError):
        command.run(parser.parse_args(words))
