"""The numbers of the ledger under GRIM: which of them their stated design can have given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from harness.claims.ledger import BENCHES, POINTS, Claim, Reported
from harness.stats.grim import DESIGNS, average, grim, grim_gain

COMMON_KS: Final = (1, 4, 8, 16, 32, 64)


def numbers(rows: Sequence[Reported]) -> pd.DataFrame:
    """Every graded number of the ledger under GRIM: for its stated k, and the k of 1 … 64 that can have given it.

    An average is compared with its printed cells where all are printed; `verdict` is then "possible" or "impossible".
    """
    return pd.DataFrame([_number(row, rows) for row in rows if row.graded])


def _number(row: Reported, rows: Sequence[Reported]) -> dict[str, Any]:
    verdict, ks, n = "untestable", "", row.problems
    nearest = ""
    if members := _members(row, rows):
        mean = average(members, row.value)
        verdict = "possible" if mean.possible else "impossible"
        nearest = f"mean of its cells {mean.mean}"
    elif n:
        test = grim_gain if row.unit == POINTS else grim
        ks = runs([k for k in DESIGNS if test(row.value, n, k).verdict in ("possible", "untestable")])
        if row.draws:
            stated = test(row.value, n, row.draws)
            verdict = stated.verdict
            nearest = " or ".join(f"{count}/{n * row.draws} = {text}" for count, text in stated.nearest)
        else:
            verdict = "k unknown" if ks else "impossible"
    words = ("paper", "title_short", "setting", "student", "method", "benchmark", "metric", "value", "unit")
    given = {name: getattr(row, name) for name in words}
    given["baseline"] = "; ".join(row.baselines) if row.unit == POINTS else ""
    design = {"n": n or math.nan, "k": row.k or math.nan}
    return given | design | {"verdict": verdict, "nearest": nearest, "ks": ks, "source": row.source}


def _members(row: Reported, rows: Sequence[Reported]) -> list[str]:
    """The printed cells of an average, if each of them is printed."""
    names = BENCHES[row.benchmark].members
    if row.unit == POINTS or not names:
        return []
    cells = {
        other.benchmark: other.value
        for other in rows
        if other.method == row.method and replace(other, benchmark=row.benchmark).table == row.table
    }
    return [cells[name] for name in names] if all(name in cells for name in names) else []


def runs(ks: Sequence[int]) -> str:
    """[1, 2, 3, 8] → "1–3, 8"."""
    parts: list[list[int]] = []
    for k in ks:
        if parts and k == parts[-1][1] + 1:
            parts[-1][1] = k
        else:
            parts.append([k, k])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)


def design_of(claim: Claim, rows: Sequence[Reported]) -> dict[str, Any]:
    """The worst verdict on the printed numbers of a claim, and the usual k for which all of them are possible."""
    row = claim.row
    printed = [(grim_gain, claim.gain)] if row.unit == POINTS else []
    printed += [(grim, text) for text in (claim.value, "" if claim.implied else claim.baseline_value) if text]
    if (n := row.problems) is None:
        checks = [_number(row, rows)["verdict"]]
        return {"grim": checks[0], "grim_ks": ""}
    fine = ("possible", "untestable")
    ks = [k for k in COMMON_KS if all(test(text, n, k).verdict in fine for test, text in printed)]
    at = {test(text, n, row.draws).verdict for test, text in printed} if row.draws else {"k unknown"}
    worst = next(v for v in ("impossible", "truncated", "k unknown", "possible", "untestable") if v in at)
    return {"grim": worst, "grim_ks": " ".join(map(str, ks)) or "none"}
