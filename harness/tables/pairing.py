"""Two evaluations side by side on the same problems: what may be compared, the differences, who carries them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness import stats
from harness.errors import UserError
from harness.evaluation.evaluations import Evaluation
from harness.formats import HOLE, interval, p_value, percent
from harness.tables.markup import Cell, Row, Table
from harness.tables.standings import ALPHA, CHECKERS

WHOLE: Final = "all"
MACRO: Final = "average"

#: What must be alike, and the fields of a benchmark's entry that say so.
ALIKE: Final[dict[str, tuple[str, ...]]] = {
    "prompt": ("prompt_hash", "rendered_hash", "thinking"),
    "checker": ("checkers",),
    "problems": ("n", "limit", "content"),
    "k": ("k",),
    "sampling": ("sampling",),
}


@dataclass(frozen=True, eq=False)
class Pair:
    """Both sides on one benchmark, problems in one order: [S, n, K] of 0/1 by checker; seeds and K may differ."""

    bench: str
    label: str
    problems: tuple[str, ...]
    a: dict[str, NDArray[np.float64]]
    b: dict[str, NDArray[np.float64]]
    clusters: dict[str, str]
    slices: dict[str, str]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    """What two entries of one benchmark differ in that forbids a comparison: name → the two values.

    A hash that one side cannot know (the rendered prompt behind a server) is no difference.
    """
    found: dict[str, str] = {}
    for name, fields in ALIKE.items():
        for field in fields:
            ours, theirs = a.get(field), b.get(field)
            if ours != theirs and not (field in ("rendered_hash", "content", "limit") and None in (ours, theirs)):
                found.setdefault(name, f"{field} {ours} and {theirs}")
    return found


def pair(a: Evaluation, b: Evaluation, allow: Collection[str] = ()) -> tuple[list[Pair], list[str]]:
    """The benchmarks that both sides have, and a warning for every difference that `allow` lets pass.

    Raises:
        UserError: for a difference that is not allowed, no common benchmark, or missing samples.
    """
    common = [bench for bench in a.benches if bench in b.benches]
    if not common:
        raise UserError(
            f"'{a.name}' has {', '.join(a.benches)} and '{b.name}' has {', '.join(b.benches)}: "
            "evaluate both on the same benchmark"
        )
    pairs, warnings = [], []
    for bench in common:
        changed = differences(a.benches[bench], b.benches[bench])
        if refused := [name for name in changed if name not in allow]:
            what = "; ".join(f"{name} ({changed[name]})" for name in refused)
            raise UserError(
                f"'{a.name}' and '{b.name}' differ on '{bench}' in {what}: "
                f"evaluate both alike, or compare all the same with --allow {' '.join(refused)}"
            )
        warnings += [f"{bench}: the two differ in {name} ({what})" for name, what in changed.items()]
        left, right = a.rows(bench), b.rows(bench)
        ids = [p for p in dict.fromkeys(left["problem"]) if p in set(right["problem"])]
        most = max(left["problem"].nunique(), right["problem"].nunique())
        if not ids or (len(ids) < most and "problems" not in allow):
            raise UserError(
                f"'{a.name}' and '{b.name}' hold different problems of '{bench}' ({len(ids)} in common): "
                "evaluate both on the same, or compare those in common with --allow problems"
            )
        entry = a.benches[bench]
        of = {name: {p: (entry.get(name) or {}).get(p) for p in ids} for name in ("clusters", "slices")}
        pairs.append(
            Pair(
                bench,
                str(entry.get("label") or bench),
                tuple(ids),
                _arrays(left, ids, a.name),
                _arrays(right, ids, b.name),
                {p: str(family) for p, family in of["clusters"].items() if family},
                {p: str(part) for p, part in of["slices"].items() if part},
            )
        )
    return pairs, warnings


def _arrays(rows: pd.DataFrame, ids: list[str], name: str) -> dict[str, NDArray[np.float64]]:
    """[S, n, K] by checker; one that did not grade everything is left out."""
    place = {problem: index for index, problem in enumerate(ids)}
    rows = rows[rows["problem"].isin(place)]
    rows = rows.assign(at=rows["problem"].map(place).astype(int)).sort_values(["seed", "at", "sample"])
    seeds, shape = rows["seed"].nunique(), rows.groupby(["seed", "at"]).size()
    if len(shape) != seeds * len(ids) or shape.nunique() != 1 or rows.duplicated(["seed", "at", "sample"]).any():
        raise UserError(f"'{name}' lacks samples of some problems or holds one twice: finish its evaluation first")
    size = (seeds, len(ids), int(shape.iloc[0]))
    return {
        checker: rows[column].to_numpy(dtype=np.float64).reshape(size)
        for checker, column in CHECKERS.items()
        if rows[column].notna().all()
    }


def compare(pairs: list[Pair]) -> pd.DataFrame:
    """b − a by benchmark, slice and checker, in fractions; several benchmarks get an average row, too.

    `p_holm` adjusts the sign-flip p over the whole benchmarks, per checker; slices and the average are left out of
    that family.
    """
    rows = [row for one in pairs for row in _rows(one)]
    if len(pairs) > 1:
        for checker in CHECKERS:
            if all(checker in one.a and checker in one.b for one in pairs):
                families = [_families(one, one.problems) for one in pairs]
                sides = [(one.a[checker], one.b[checker]) for one in pairs]
                clusters = families if any(families) else None
                result = stats.paired_macro(sides, clusters, seed="+".join(one.bench for one in pairs))
                means = [float(np.mean([side[i].mean() for side in sides])) for i in (0, 1)]
                rows.append(_row(MACRO, MACRO, WHOLE, checker, result, means[0], means[1]))
    frame = pd.DataFrame(rows)
    frame["p_holm"] = math.nan
    for checker in CHECKERS:
        family = (frame["checker"] == checker) & (frame["part"] == WHOLE) & (frame["bench"] != MACRO)
        frame.loc[family, "p_holm"] = stats.holm(frame.loc[family, "p"].tolist())
    return frame


def _rows(one: Pair) -> Iterator[dict[str, Any]]:
    parts = {WHOLE: list(one.problems)}
    for name in dict.fromkeys(one.slices.values()):
        parts[name] = [p for p in one.problems if one.slices.get(p) == name]
    index = {problem: at for at, problem in enumerate(one.problems)}
    for part, ids in parts.items():
        at = [index[problem] for problem in ids]
        for checker in CHECKERS:
            if checker in one.a and checker in one.b:
                a, b = one.a[checker][:, at], one.b[checker][:, at]
                result = stats.paired(a, b, _families(one, ids), seed=f"{one.bench}/{part}")
                yield _row(one.bench, one.label, part, checker, result, float(a.mean()), float(b.mean()))


def _families(one: Pair, ids: Collection[str]) -> list[str] | None:
    return [one.clusters.get(problem, problem) for problem in ids] if one.clusters else None


def _row(bench: str, label: str, part: str, checker: str, result: Any, a: float, b: float) -> dict[str, Any]:
    numbers = ("n", "k", "delta", "low", "high", "fixed_low", "fixed_high", "p", "seeds", "interval", "test")
    row = {"bench": bench, "label": label, "part": part, "checker": checker, "a": a, "b": b}
    return row | {name: getattr(result, name) for name in numbers}


def by_problem(pairs: list[Pair], checker: str = "strict") -> pd.DataFrame:
    """A row per problem: both means over samples and seeds and their difference, in the order of the benchmark."""
    rows = [
        {"bench": one.bench, "problem": problem, "slice": one.slices.get(problem, ""), "a": a, "b": b, "delta": b - a}
        for one in pairs
        if checker in one.a and checker in one.b
        for problem, a, b in zip(
            one.problems, one.a[checker].mean(axis=(0, 2)), one.b[checker].mean(axis=(0, 2)), strict=True
        )
    ]
    return pd.DataFrame(rows, columns=["bench", "problem", "slice", "a", "b", "delta"])


def carriers(delta: pd.Series[float]) -> str:
    """In words: how many problems moved, and how few of them carry half of the net difference."""
    up, down = int((delta > 0).sum()), int((delta < 0).sum())
    text = f"{up} problems better, {down} worse, {len(delta) - up - down} equal"
    net = float(delta.sum())
    if abs(net) < 1e-9:
        return text + "; no net difference"
    moved = delta[delta * net > 0].abs().sort_values(ascending=False).cumsum()
    few = int((moved < abs(net) / 2 - 1e-12).sum()) + 1
    return text + f"; the {few} that moved most carry half of the net {'gain' if net > 0 else 'loss'}"


def table(frame: pd.DataFrame, a: str, b: str, warnings: Collection[str] = ()) -> Table:
    """The comparison laid out: both values, the difference with its intervals, both p values."""
    rows = []
    for line in frame.to_dict("records"):
        part = "" if line["part"] == WHOLE else f"· {line['part']}"
        if line["checker"] == "paper":
            part = f"{part}, paper checker" if part else "· paper checker"
        fixed = (line["fixed_high"] - line["fixed_low"]) / 2
        p = line["p_holm"] if math.isfinite(line["p_holm"]) else line["p"]
        cells = (
            Cell(str(line["n"])),
            Cell(percent(line["a"])),
            Cell(percent(line["b"])),
            Cell(interval(line["delta"], line["low"], line["high"], True), bold=line["p_holm"] < ALPHA),
            Cell(f"± {percent(fixed)}" if math.isfinite(fixed) else HOLE),
            Cell(p_value(p)),
        )
        rows.append(Row(part or str(line["label"]), cells))
    how = str(frame["test"].iloc[0]).removeprefix("sign-flip, ")
    caption = (
        f"A: {a}. B: {b}. In percent. B − A on the same problems ± half-width of its 95 % t interval, the problems as "
        "a sample of all such problems; these: half-width for these very problems, sampling noise alone. "
        f"p: two-sided sign-flip test ({how}), for whole benchmarks after Holm over the benchmarks, each checker for "
        f"itself; for parts and the average as it is. Bold: below {ALPHA} after Holm."
    )
    return Table(("", "n", "A", "B", "B − A", "these", "p"), tuple(rows), caption, tuple(warnings))
