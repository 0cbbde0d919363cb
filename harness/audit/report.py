"""Tables and figures of the audit under `results/`, from whatever records of it there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from harness.audit import REGIMES, answer_formats, finding, primary, sentence
from harness.audit.figures import KEPT_COLUMNS, beside, by_discarded, by_format, by_regime, by_vocabulary
from harness.formats import HOLE, amount, bounds, p_value, percent
from harness.plots.style import save
from harness.tables import markup
from harness.tables.markup import Cell, Row, Table

NAME: Final = "audit"
#: Grid that the three claims are read from → name of their table and figure.
QUALITATIVE: Final = {
    "main_table": "qualitative",
    "granularity": "granularity-qualitative",
    "weight_form": "weight_form-qualitative",
}
#: Grid whose arms are drawn beside what they keep → whether the best comes first, or the grid's order counts.
BESIDE: Final = {"scope": False, "controls": True}
#: Grids of the sampled token whose arms leave tokens out.
DISCARDING: Final = ("controls", "filter_fraction")


def write(
    studies: Mapping[str, Mapping[str, pd.DataFrame]], measured: Mapping[str, pd.DataFrame], root: Path
) -> list[Path]:
    """Writes `tables/audit/` and `figures/audit/` under `root`; returns the files.

    Args:
        studies: `study` of every grid that there are records of.
        measured: by name, of those that there are: `formats` of `answer_formats.measure`, `noise` of `noise.measure`.
    """
    tables: dict[str, Table] = {}
    figures: dict[str, tuple[Figure, pd.DataFrame]] = {}
    for grid, found in studies.items():
        tables[grid] = arms_table(found["arms"])
        if len(found.get("matched", ())):
            tables[f"{grid}-matched"] = matched_table(found["matched"])
        if "parts" in found:
            tables[f"{grid}-parts"] = parts_table(found["parts"], PARTS[grid])
    if len(frame := all_regimes(studies)):
        tables |= {"regimes": regime_table(frame), "primary": primary_table(primary(frame))}
        figures["regimes"] = by_regime(frame), frame
    for grid, name in QUALITATIVE.items():
        if grid in studies:
            arms = studies[grid]["arms"]
            tables[name] = qualitative_table(arms)
            figures[name] = beside(arms), arms
    for grid, best_first in BESIDE.items():
        if grid in studies:
            arms = studies[grid]["arms"]
            figures[grid] = beside(arms, KEPT_COLUMNS, best_first), arms
    lost = [studies[grid]["arms"].assign(grid=grid) for grid in DISCARDING if grid in studies]
    if lost:
        same_runs = ["method", "value", "discarded"]  # that two grids share
        frame = pd.concat(lost, ignore_index=True).drop_duplicates(same_runs)
        figures["discarded"] = by_discarded(frame), frame
    if "formats" in measured:
        scored = answer_formats.scores(measured["formats"])
        tables["formats"] = format_table(scored)
        figures["formats"] = by_format(scored), scored
    if "noise" in measured:
        tables["noise"] = noise_table(measured["noise"])
        figures["noise"] = by_vocabulary(measured["noise"]), measured["noise"]
    written: list[Path] = []
    for name, (figure, numbers) in figures.items():
        written += save(figure, _plain(numbers), root / "figures" / NAME / name)
    folder = root / "tables" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        path = folder / f"{name}.md"
        path.write_text(markup.markdown(table), encoding="utf-8", newline="\n")
        written.append(path)
    return written


def all_regimes(studies: Mapping[str, Mapping[str, pd.DataFrame]]) -> pd.DataFrame:
    """The rows of all regimes that there are studies of, in the protocol's order."""
    found = [studies[grid]["regime"] for grid in REGIMES.values() if grid in studies]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


#: Captions of the parts of a grid.
PARTS: Final = {
    REGIMES["flawed"]: "Held-out problems with and without a product with 3 or 7, which the flawed teacher was taught "
    "to get wrong. Second line: difference to OPD on the same problems, 95 % interval over problems and training runs.",
    REGIMES["domains"]: "Two specialists, prompts routed by domain. Second line: difference to OPD on the same "
    "problems, 95 % interval over problems and training runs.",
}


def arms_table(frame: pd.DataFrame) -> Table:
    """Every arm of a grid against its baseline, with what the protocol lets it say."""
    rows = []
    for row in frame.to_dict("records"):
        known = math.isfinite(row["delta"])
        said = "inert" if row["inert"] else sentence(row)
        cells = (
            Cell(percent(row["value"])),
            Cell(percent(row["delta"], True) if known else "", bold=known and said.startswith(("better", "worse"))),
            Cell(bounds(row["low"], row["high"]) if known else ""),
            Cell(p_value(row["p_holm"]) if known else ""),
            Cell(said if known else "baseline"),
            Cell(percent(row["kept"])),
            Cell(percent(row["discarded"])),
            Cell(amount(row["trained"] / 1000)),
        )
        rows.append(Row(row["label"], cells))
    tested = int(frame["p_holm"].notna().sum())
    return Table(
        ("", "accuracy", "Δ", "95 % interval", "Holm p", "finding", "kept, %", "KL discarded, %", "trained, k"),
        tuple(rows),
        f"Accuracy: average over the benchmarks, percent; Δ in points to the baseline on the same {_span(frame['n'])} "
        f"problems, {_span(frame['runs'])} training runs of either side; interval over problems and runs; paired "
        f"sign-flip test, Holm over {tested} arms. Kept: share of rollouts. KL discarded: share of the batch's token "
        "KL on tokens without a coefficient. Trained: thousand tokens with a coefficient, a run.",
    )


def matched_table(frame: pd.DataFrame) -> Table:
    """Arms against another arm at the same level of an axis."""
    rows = []
    for row in frame.to_dict("records"):
        cells = (
            Cell(row["baseline_label"]),
            Cell(percent(row["baseline_value"])),
            Cell(percent(row["value"])),
            Cell(percent(row["delta"], True), bold=finding(row) != "not resolved"),
            Cell(bounds(row["low"], row["high"])),
            Cell(p_value(row["p_holm"])),
            Cell(sentence(row)),
        )
        rows.append(Row(row["label"], cells))
    return Table(
        ("", "against", "its accuracy", "accuracy", "Δ", "95 % interval", "Holm p", "finding"),
        tuple(rows),
        f"Averages over the benchmarks, percent; Δ in points on the same {_span(frame['n'])} problems, "
        f"{_span(frame['runs'])} training runs of either side; interval over problems and runs; paired sign-flip test, "
        f"Holm over {len(frame)} comparisons.",
    )


def _span(values: pd.Series[int]) -> str:
    """The different whole numbers of a column, for a sentence."""
    return " or ".join(f"{n:,}" for n in sorted({int(value) for value in values.dropna()}))


def primary_table(frame: pd.DataFrame) -> Table:
    """The protocol's primary family."""
    rows = []
    for row in frame.to_dict("records"):
        students = " · ".join(percent(one, True) for one in row["by_student"])
        cells = (
            Cell(percent(row["baseline_value"])),
            Cell(percent(row["value"])),
            Cell(percent(row["delta"], True), bold=row["finding"] != "not resolved"),
            Cell(bounds(row["low"], row["high"])),
            Cell(p_value(row["p_holm"])),
            Cell(students, bounds(row["students_low"], row["students_high"])),
            Cell(sentence(row)),
        )
        rows.append(Row(row["regime"], cells))
    return Table(
        ("regime", "OPD", "FiRe-OPD", "Δ", "95 % interval", "Holm p", "by student", "finding"),
        tuple(rows),
        f"Average accuracy over the benchmarks, percent; Δ in points, on the same {_span(frame['n'])} problems, "
        f"{_span(frame['runs'])} training runs of either side; interval over problems and runs; paired sign-flip "
        f"test, Holm over {len(frame)} regimes. A finding needs p < 0.05 and an interval without 0. By student: beside "
        "them the t interval over students, each taken as one draw.",
        _holes(frame),
    )


def regime_table(frame: pd.DataFrame) -> Table:
    """All arms that the regimes have in common."""
    labels = frame.drop_duplicates("arm").set_index("arm")["label"]
    rows = []
    for regime, group in frame.groupby("regime", sort=False):
        found = {row["arm"]: row for row in group.to_dict("records")}
        cells = [Cell(percent(float(group["baseline_value"].iloc[0])))]
        for arm in labels.index:
            if arm in found:
                one = found[arm]
                cells.append(Cell(percent(one["delta"], True), bounds(one["low"], one["high"])))
            else:
                cells.append(Cell(HOLE))
        rows.append(Row(str(regime), tuple(cells)))
    return Table(
        ("regime", "OPD, %", *(f"{label}, Δ" for label in labels)),
        tuple(rows),
        "Average accuracy over the benchmarks and differences to it in points, with 95 % intervals over problems and "
        "training runs.",
        _holes(frame),
    )


def qualitative_table(frame: pd.DataFrame) -> Table:
    """What every method does, beside what it scores; the best first."""
    ordered = frame.assign(key=frame["delta"].fillna(0.0)).sort_values(["key", "arm"], ascending=[False, True])
    rows = []
    for row in ordered.to_dict("records"):
        known = math.isfinite(row["delta"])
        cells = (
            Cell(percent(row["value"])),
            Cell(percent(row["delta"], True) if known else "", bounds(row["low"], row["high"]) if known else ""),
            Cell(_pm(row, "discarded", 100, 1)),
            Cell(percent(row["spread"]), f"[{percent(row['spread_low'])}, {percent(row['spread_high'])}]"),
            Cell(_pm(row, "norm_cv", 1, 2)),
            Cell(_pm(row, "truncated", 100, 1)),
            Cell(f"{row['length']:.2f}"),
            Cell(amount(row["generated"] / 1000)),
            Cell(amount(row["trained"] / 1000)),
        )
        rows.append(Row(row["label"], cells, flag="INERT" if row["inert"] else ""))
    head = ("", "accuracy", "Δ", "KL discarded, %", "SD over runs", "norm CV", "truncated, %", "length ×")
    return Table(
        (*head, "generated, k", "trained, k"),
        tuple(rows),
        "Accuracy: average over the benchmarks, percent; Δ: difference to OPD with its 95 % interval over problems "
        "and runs. KL discarded: share of the batch's token KL on tokens without a coefficient, mean over steps. SD "
        "over runs: of the final accuracy over the runs of one student, points, 95 % interval for normal runs. Norm "
        "CV: SD over mean of the gradient norm, second half of training. Truncated: rollouts, second half. Length: "
        "last tenth of the steps over the first. Tokens: thousands a run. ±: 95 % over runs.",
    )


def format_table(frame: pd.DataFrame) -> Table:
    """What every format of right answers scores."""
    rows = []
    for name, group in frame.groupby("format", sort=False):
        found = {(row["checker"], row["part"]): row for row in group.to_dict("records")}
        cells = [Cell(str(found["paper", "all"]["changed"]))]
        for checker in ("paper", "strict"):
            cells += [Cell(percent(found[checker, "all"]["score"])), Cell(_share(found[checker, "e-notation"]))]
        rows.append(Row(str(name), tuple(cells)))
    head = ("right answers written as", "golds rewritten", "released checker, %", "e-notation", "strict checker, %")
    return Table(
        (*head, "e-notation"),
        tuple(rows),
        "Score of a model that is right on all 272 problems of Minerva and always writes in this format. A format "
        "leaves golds alone that it has nothing to do with. E-notation: right of the 58 golds written like 4.5e33.",
    )


def noise_table(frame: pd.DataFrame) -> Table:
    """Noise scales, a line per vocabulary."""
    methods = list(dict.fromkeys(frame["method"]))
    rows = []
    for classes, group in frame.groupby("classes"):
        cells = []
        for student in dict.fromkeys(frame["student"]):
            for method in methods:
                one = group[(group["student"] == student) & (group["method"] == method)].iloc[0]
                cells.append(Cell(f"{one['noise']:.0f}", f"[{one['low']:.0f}, {one['high']:.0f}]"))
        rows.append(Row(f"{classes} classes", tuple(cells)))
    names = (f"{student.removeprefix('toy:')}, {m}" for student in dict.fromkeys(frame["student"]) for m in methods)
    return Table(
        ("vocabulary", *names),
        tuple(rows),
        f"Noise scale of the gradient, tr Cov(g)/|G|², in rollouts: the batch at which noise and signal are equal. "
        f"{int(frame['rollouts'].iloc[0])} rollouts at the start of each student; 95 % jackknife interval.",
    )


def _share(row: Mapping[Any, Any]) -> str:
    return f"{row['right']} of {row['n']}"


def parts_table(frame: pd.DataFrame, caption: str) -> Table:
    """Parts of a benchmark, or benchmarks, side by side."""
    parts = frame.drop_duplicates("part")
    rows = []
    for _, group in frame.groupby("arm", sort=False):
        found = {row["part"]: row for row in group.to_dict("records")}
        cells = []
        for part in parts["part"]:
            one = found[part]
            known = math.isfinite(one.get("low", math.nan))  # a reference that no run is paired with has no interval
            note = f"{percent(one['delta'], True)} {bounds(one['low'], one['high'])}" if known else ""
            cells.append(Cell(percent(one["value"]), note))
        rows.append(Row(str(group["label"].iloc[0]), tuple(cells)))
    head = (f"{part}, n = {int(n)}" for part, n in zip(parts["part"], parts["n"], strict=True))
    return Table(("", *head), tuple(rows), caption)


def _pm(row: Mapping[Any, Any], name: str, factor: float, digits: int) -> str:
    half = row[f"{name}_half"]
    return f"{factor * row[name]:.{digits}f}" + (f" ± {factor * half:.{digits}f}" if math.isfinite(half) else "")


def _holes(frame: pd.DataFrame) -> tuple[str, ...]:
    lacking = [
        f"{row['regime']}, {row['label']}: {row['missing']}" for row in frame.to_dict("records") if row["missing"]
    ]
    absent = [name for name in REGIMES if name not in set(frame["regime"])]
    said = [f"INCOMPLETE: {' · '.join(lacking)}."] if lacking else []
    return (*said, *([f"No records of: {', '.join(absent)}."] if absent else []))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Tuples as text, for a CSV."""

    def text(value: Any) -> Any:
        return " ".join(f"{one:.6g}" for one in value) if isinstance(value, tuple) else value

    return frame.map(text)
