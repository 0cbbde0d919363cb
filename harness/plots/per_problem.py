"""Which problems carry a difference, and what more samples of each would find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness import stats
from harness.errors import UserError
from harness.plots import dumbbells
from harness.plots.panels import REFERENCE_DASHES, arm_lines, key_above, panels
from harness.plots.style import GREY, Look, drawing, looks, wrapped
from harness.tables import standings
from harness.tables.markup import shorten
from harness.tables.standings import CHECKERS, MACRO, Measured, comparison, order
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records

FEWEST_SAMPLES: Final = 8
MOST_LINES: Final = 6  # trained arms in one panel; all are in the numbers

Cells = Mapping[tuple[str, str], Measured]  # by arm and bench


def measured(records: Records, checker: str | None = None) -> Cells:
    """The complete seeds of every arm on every bench."""
    return standings.measure(records, CHECKERS[checker or records.manifest.get("checker", "strict")])


def by_difference(records: Records, frame: pd.DataFrame) -> list[str]:
    """The live trained arms but the baseline, those with the largest average difference to it first."""
    benches = list(records.manifest["benches"])
    whole = frame[frame["bench"] == (MACRO if len(benches) > 1 else benches[0])]
    whole = whole[~whole["reference"] & ~whole["baseline"] & (whole["inert"] == "") & whole["delta"].notna()]
    return list(whole.assign(size=whole["delta"].abs()).sort_values("size", ascending=False, kind="stable")["arm"])


def pass_frame(records: Records, cells: Cells | None = None) -> pd.DataFrame:
    """Unbiased pass@k with its 95 % t interval over problems, by arm and bench, for k up to the number of samples.

    Raises:
        UserError: no bench was sampled often enough.
    """
    manifest = records.manifest
    cells = measured(records) if cells is None else cells
    rows: list[dict[str, Any]] = []
    for bench, spec in manifest["benches"].items():
        if int(spec["k"]) < FEWEST_SAMPLES:
            continue
        families = spec.get("clusters") or {}
        for arm in order(manifest):
            cell = cells.get((arm, bench))
            if cell is None or not cell.seeds:
                continue
            clusters = [families.get(problem, problem) for problem in cell.problems] if families else None
            for k in _counts(int(spec["k"])):
                estimate = stats.pass_at_k(cell.correct, k, clusters)
                place = {"arm": arm, "label": label_of(manifest, arm), "bench": bench, "k": k}
                place |= {"value": 100 * estimate.value, "low": 100 * estimate.low, "high": 100 * estimate.high}
                rows.append(place | {"n": estimate.n, "samples": cell.correct.shape[2], "seeds": estimate.seeds})
    if not rows:
        most = max((int(spec["k"]) for spec in manifest["benches"].values()), default=0)
        raise UserError(
            f"no benchmark of grid '{manifest['grid']}' was sampled {FEWEST_SAMPLES} times a problem (at most {most}): "
            "pass@k would be no curve"
        )
    return pd.DataFrame(rows)


def _counts(most: int) -> list[int]:
    """Roughly four values of k to an octave, the first ones all."""
    found = {1, most, *(round(2 ** (i / 4)) for i in range(4 * most.bit_length()))}
    return sorted(k for k in found if k <= most)


def pass_at_k(
    records: Records, frame: pd.DataFrame | None = None, cells: Cells | None = None
) -> tuple[Figure, pd.DataFrame]:
    """pass@k against k, a panel per bench: start, teachers, the baseline and the arms furthest from it.

    Args:
        frame: the comparison frame, where it has been computed already.
        cells: likewise what was measured.

    Raises:
        UserError: as `pass_frame`.
    """
    numbers = pass_frame(records, cells)
    manifest = records.manifest
    frame = comparison(records) if frame is None else frame
    baseline = manifest["baseline"]
    first = [baseline, *by_difference(records, frame)][:MOST_LINES]
    style = {arm: look for arm, look in looks(manifest).items() if arm in first and arm in numbers["arm"].unique()}
    references = [arm for arm in order(manifest) if manifest["arms"][arm].get("reference")]
    references = [arm for arm in references if arm in numbers["arm"].unique()]
    dashes = {arm: REFERENCE_DASHES[i % len(REFERENCE_DASHES)] for i, arm in enumerate(references)}
    benches = list(dict.fromkeys(numbers["bench"]))
    with drawing():
        figure, grid = panels(len(benches), 1.75, 0.7)
        for axes, bench in zip(grid.flat, benches, strict=False):
            here = numbers[numbers["bench"] == bench]
            for arm, dash in dashes.items():
                line = here[here["arm"] == arm]
                axes.plot(line["k"], line["value"], color=GREY, ls=dash, lw=1.0, zorder=2)
            for arm, look in style.items():
                line = here[here["arm"] == arm]
                _draw(axes, line, look, band=arm == baseline)
            most = int(here["k"].max())
            ticks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256) if k <= most]
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_xticks(ticks, [str(k) for k in ticks])
            axes.set_title(shorten(manifest["benches"][bench].get("label") or bench))
        figure.supxlabel("k, samples of a problem (logarithmic)", fontsize=7.5)
        figure.supylabel("pass@k, %", fontsize=7.5)
        key: list[Any] = [
            Line2D([], [], color=GREY, ls=dash, lw=1.0, label=wrapped(label_of(manifest, arm), 24))
            for arm, dash in dashes.items()
        ]
        key += arm_lines(manifest, style)
        if baseline in style:
            key.append(Patch(color=GREY, alpha=0.25, lw=0, label="95 % interval, baseline"))
        key_above(figure, key)
    return figure, numbers


def _draw(axes: Any, line: pd.DataFrame, look: Look, band: bool) -> None:
    if band:
        axes.fill_between(line["k"], line["low"], line["high"], color=look.color, alpha=0.12, lw=0)
    marked = [i for i, k in enumerate(line["k"]) if k & (k - 1) == 0]  # powers of two
    axes.plot(
        line["k"], line["value"], color=look.color, ls=look.dash, marker=look.marker, markevery=marked, ms=3, lw=1.1,
        zorder=3,
    )  # fmt: skip


def problem_frame(records: Records, arm: str, bench: str, cells: Cells | None = None) -> pd.DataFrame:
    """The baseline (a) and an arm (b) on each problem of a bench, means over samples and seeds.

    Raises:
        UserError: unknown arm or bench, or one of the two was not measured on it.
    """
    manifest = records.manifest
    cells = measured(records) if cells is None else cells
    baseline = manifest["baseline"]
    if arm not in manifest["arms"] or arm == baseline:
        others = ", ".join(name for name in manifest["arms"] if name != baseline)
        raise UserError(f"grid '{manifest['grid']}' has no arm '{arm}' beside its baseline: it has {others or 'none'}")
    sides = [cells.get((name, bench)) for name in (baseline, arm)]
    if any(side is None or not side.seeds for side in sides):
        raise UserError(f"arm '{arm}' and the baseline '{baseline}' were not both measured on bench '{bench}'")
    a, b = (side for side in sides if side is not None)
    if a.problems != b.problems:
        raise UserError(f"arm '{arm}' and the baseline '{baseline}' were graded on different problems of '{bench}'")
    means = [side.correct.mean(axis=(0, 2)) for side in (a, b)]
    slices = manifest["benches"][bench].get("slices") or {}
    return pd.DataFrame(
        {
            "bench": bench,
            "problem": list(a.problems),
            "slice": [str(slices.get(problem) or "") for problem in a.problems],
            "a": means[0],
            "b": means[1],
            "delta": means[1] - means[0],
        }
    )


def problems(records: Records, arm: str, bench: str, cells: Cells | None = None) -> tuple[Figure, pd.DataFrame]:
    """The baseline and an arm problem by problem: dumbbells, or, for many problems, all differences in order.

    Args:
        cells: what was measured, where it has been computed already.

    Raises:
        UserError: as `problem_frame`.
    """
    frame = problem_frame(records, arm, bench, cells)
    manifest = records.manifest
    a, b = (wrapped(label_of(manifest, name), 34).replace("\n", " ") for name in (manifest["baseline"], arm))
    label = shorten(manifest["benches"][bench].get("label") or bench)
    return dumbbells.figure(frame, a, b, label), frame


def chosen(records: Records, frame: pd.DataFrame) -> list[str]:
    """The arms shown problem by problem: those that the grid names, and the one furthest from the baseline."""
    named = [one["arm"] for one in records.manifest.get("figures") or () if one.get("kind") == "problems"]
    return list(dict.fromkeys([*by_difference(records, frame)[:1], *named]))
