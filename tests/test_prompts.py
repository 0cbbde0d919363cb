"""Training prompts of the toy world: domains, difficulties, and mixtures of them."""

from __future__ import annotations

import pytest

from harness.errors import UserError
from harness.runs.prompts import toy


def operations(text: str) -> int:
    return sum(sign in "+-*" for sign in text)


def test_a_mixture_holds_its_shares_in_every_step() -> None:
    source = toy("toy:math:2-6,9-12@0.3", seed=0)
    for step in range(3):
        long = [p for p in source.batch(step, 64) if operations(p.text) >= 9]
        assert len(long) == 19  # 0.3 × 64 = 19.2
        assert all(operations(p.text) <= 12 for p in long)
    assert source.batch(1, 64) == toy("toy:math:2-6,9-12@0.3", seed=0).batch(1, 64)
    assert source.batch(1, 64) != source.batch(2, 64)


def test_a_mixture_of_domains_has_the_shares_in_each() -> None:
    prompts = toy("toy:math+code:2-3,5-6@0.25", seed=1).batch(0, 40)
    assert [p.domain for p in prompts].count("math") == 20
    assert sum(operations(p.text) >= 5 for p in prompts if p.domain == "math") == 5


def test_one_range_is_what_it_was() -> None:
    assert toy("toy:math", 3).batch(0, 8) == toy("toy:math:2-6", 3).batch(0, 8)


@pytest.mark.parametrize(
    "text", ["2", "6-2-1", "a-b", "2-6@0.5", "2-6,9-12", "2-6,9-12@", "2-6,9-12@30", "2-6,9-12@0", "2-6,,9-12@0.5"]
)
def test_mixtures_that_make_no_sense(text: str) -> None:
    with pytest.raises(UserError, match=r"write it as LOW-HIGH, and further ranges as LOW-HIGH@SHARE"):
        toy(f"toy:math:{text}", 0)


def test_shares_that_leave_nothing() -> None:
    with pytest.raises(UserError, match="leave nothing for its first range"):
        toy("toy:math:2-3,4-5@0.6,6-7@0.4", 0)
