"""Tables as a pure function of kept records: `comparison(records)` is the frame, the rest formats it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from rich.table import Table as RichTable

from harness.formats import HOLE, amount, bounds, interval, p_value, percent
from harness.tables import markup
from harness.tables.markup import Cell, Row, Table, shorten
from harness.tables.standings import ALPHA, MACRO, comparison, findings, holes, order

if TYPE_CHECKING:
    from harness.records import Records

__all__ = [
    "caption",
    "comparison",
    "cost",
    "details",
    "effects",
    "headlines",
    "holes",
    "remarks",
    "stacked",
    "summary",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_rich",
]


def caption(records: Records, frame: pd.DataFrame) -> str:
    """What the numbers are: k, n, interval, checker, seeds, baseline, test and Holm family."""
    manifest = records.manifest
    benches = manifest["benches"]
    baseline = _baseline(frame)
    sizes = ", ".join(f"{shorten(b.get('label') or name)} n = {b['n']}" for name, b in benches.items())
    ks = "/".join(str(k) for k in sorted({int(b["k"]) for b in benches.values()}))
    seeds, students = ", ".join(map(str, manifest["seeds"])), len(manifest.get("students", [""]))
    runs = f"mean of training seeds {seeds}" if len(manifest["seeds"]) > 1 else f"one training seed ({seeds})"
    if students > 1:
        runs = f"mean of {students} students × {len(manifest['seeds']) // students} training seeds"
    version = f", version {manifest['checker_version']}" if manifest.get("checker_version") else ""
    parts = [
        f"avg@{ks} in percent ± half-width of the 95 % t interval over problems ({sizes}; {runs}; "
        f"checker {frame['checker'].iloc[0]}{version}); [low, high] where an interval is not symmetric.",
        f"Second line: paired difference to {baseline} on the same problems, likewise.",
    ]
    tested = frame[frame["p"].notna()]
    if len(tested):
        single, macro = (int(part.sum()) for part in (tested["bench"] != MACRO, tested["bench"] == MACRO))
        family = f"{single} comparison{'s' if single > 1 else ''}" + (f", averages over {macro}" if macro else "")
        how = " or ".join(sorted({test.removeprefix("sign-flip, ") for test in tested["test"]}))
        parts.append(
            f"Bold: better than {baseline} by the two-sided paired sign-flip test ({how}) at {ALPHA} after Holm "
            f"over {family}; ↓: worse by the same test."
        )
    if frame["reference"].any():
        parts.append("Reference models in italics are not ranked.")
    if frame["value"].isna().any():
        parts.append(f"{HOLE} not measured.")
    return " ".join([*parts, str(manifest.get("note") or "")]).strip()


def remarks(frame: pd.DataFrame) -> tuple[str, ...]:
    """What a reader must not miss: inert arms first, then what is missing."""
    inert = frame[frame["inert"] != ""].drop_duplicates("arm").to_dict("records")
    loud = [f"INERT: {row['label']} {row['inert']}. Its row says nothing about a method." for row in inert]
    lacking = holes(frame)
    if len(lacking) > 4:
        lacking = [*lacking[:3], f"{len(lacking) - 3} more"]
    return (*loud, *([f"INCOMPLETE: {' · '.join(lacking)}."] if lacking else []))


def headlines(frame: pd.DataFrame) -> list[str]:
    """A sentence for each arm with differences the adjusted test supports, and one naming the arms without any."""
    baseline = _baseline(frame)
    supported: dict[tuple[str, str], list[str]] = {}
    for row in findings(frame):
        where = f"{row['bench_label']} {percent(row['delta'], True)} {bounds(row['delta_low'], row['delta_high'])}"
        p = p_value(row["p_holm"])
        key = (row["label"], "better" if row["bold"] else "worse")
        supported.setdefault(key, []).append(f"{where}, p {p.replace('<', '< ') if p.startswith('<') else '= ' + p}")
    lines = [
        f"{label} is {direction} than {baseline}: {'; '.join(where)} (points, 95 % interval, Holm-adjusted p)."
        for (label, direction), where in supported.items()
    ]
    heard = {label for label, _ in supported}
    live = frame[frame["p"].notna() & (frame["inert"] == "") & ~frame["label"].isin(heard)]
    if len(live):
        lines.append(f"Not distinguishable from {baseline} here: {'; '.join(live['label'].unique())}.")
    return lines


def summary(frame: pd.DataFrame, caption: str = "") -> Table:
    """Arms × benches: mean ± half-width over the difference to the baseline."""
    benches = frame.drop_duplicates("bench")["bench_label"]
    rows = []
    for _, group in frame.groupby("arm", sort=False):
        cells = group.to_dict("records")
        label = cells[0]["label"] + (" (baseline)" if cells[0]["baseline"] else "")
        flag = "INERT" if cells[0]["inert"] else ""
        numbers = tuple(Cell(_mean(cell), _delta(cell), cell["bold"]) for cell in cells)
        rows.append(Row(label, numbers, cells[0]["reference"], flag))
    return Table(("", *benches), tuple(rows), caption, remarks(frame))


def stacked(frame: pd.DataFrame, caption: str = "") -> Table:
    """The summary with a line per arm × bench, for more benches than fit side by side."""
    rows = [
        _row(cell, first, (Cell(cell["bench_label"]), Cell(_mean(cell), bold=cell["bold"]), Cell(_delta(cell))))
        for cell, first in _lines(frame)
    ]
    return Table(("", "", "avg@k", "Δ"), tuple(rows), caption, remarks(frame), words=2)


def details(frame: pd.DataFrame) -> Table:
    """One row per arm × bench: both intervals, both p values, seeds, and what the answers looked like."""
    head = ("", "bench", "avg@k", "by seed", "Δ", "these problems", "new runs", "p", "Holm p", "paper checker")
    rows = []
    for row, first in _lines(frame):
        fixed, both = ((row[f"delta_{over}_high"] - row[f"delta_{over}_low"]) / 2 for over in ("fixed", "both"))
        cells = (
            Cell(row["bench_label"]),
            Cell(_mean(row), bold=row["bold"]),
            Cell(" · ".join(percent(v) for v in row["per_seed"]) if len(row["per_seed"]) > 1 else ""),
            Cell(_delta(row)),
            Cell(f"± {percent(fixed)}" if math.isfinite(fixed) else ""),
            Cell(f"± {percent(both)}" if math.isfinite(both) else ""),
            Cell(p_value(row["p"])),
            Cell(p_value(row["p_holm"])),
            Cell(percent(row["value_paper"])),
            Cell(percent(row["no_answer"])),
            Cell(percent(row["truncated"])),
            Cell(f"{row['tokens']:.0f}" if math.isfinite(row["tokens"]) else HOLE),
        )
        rows.append(_row(row, first, cells))
    text = (
        "In percent, but for p and tokens (mean generated tokens per sample). Δ: paired difference to the baseline "
        "± half-width of its 95 % t interval over problems; these problems: half-width of the 95 % interval for these "
        "very problems, where only sampling noise counts; new runs: half-width where problems and training seeds are "
        "both a sample (two-way random effects; few seeds make it wide). Paper checker: avg@k under the released "
        "checker. No answer: none could be extracted. Truncated: ended by the length limit."
    )
    return Table((*head, "no answer", "truncated", "tokens"), tuple(rows), text, words=2)


def _lines(frame: pd.DataFrame) -> list[tuple[Mapping[Any, Any], bool]]:
    """The rows of the frame, and whether each is the first of its arm."""
    first = ~frame["arm"].duplicated()
    return list(zip(frame.to_dict("records"), first, strict=True))


def _row(row: Mapping[Any, Any], first: bool, cells: tuple[Cell, ...]) -> Row:
    """A line of several that belong to one arm: its label stands on the first."""
    label = row["label"] + (" (baseline)" if row["baseline"] else "")
    return Row(label if first else "", cells, row["reference"], "INERT" if row["inert"] and first else "")


_EFFECTS = {
    "kept": "rollouts kept",
    "kept_tokens": "tokens trained on",
    "ess": "effective sample",
    "top_decile": "signal in top tenth",
    "dropped_kl": "KL on dropped rollouts",
    "discarded_kl": "KL on discarded tokens",
}


def effects(records: Records) -> Table:
    """What each trained arm did to its batches: means over steps and seeds, in percent, and the cosine."""
    steps, rows = records.steps, []
    names = [name for name in _EFFECTS if name in steps]
    for arm in order(records.manifest):
        spec = records.manifest["arms"][arm]
        mine = steps[steps["arm"].astype(str) == arm] if len(steps) else steps
        if spec.get("reference") or mine.empty or not names:
            continue
        cells = [Cell(percent(float(mine[name].mean()))) for name in names]
        cosine = float(mine["cosine"].mean())
        cells.append(Cell(f"{cosine:.3f}" if math.isfinite(cosine) else HOLE))
        flag = "INERT" if arm in records.manifest.get("inert", {}) else ""
        rows.append(Row(shorten(spec.get("label") or arm), tuple(cells), flag=flag))
    head = ("", *(_EFFECTS[name] for name in names), "cosine to baseline")
    caption = (
        "Percent, means over steps and seeds. Effective sample: of the token coefficients, as a share of the response "
        "tokens. Signal: coefficient times reward, or times KL(S‖Q) for a divergence. KL: share of the batch's token "
        "KL(S‖Q) that the arm does not train on. Cosine: of the coefficients to the baseline's on the same batch."
    )
    return Table(head, tuple(rows), caption)


COST: Final = (
    "Mean seconds per optimiser step, by stage, as measured on the hardware below. A local teacher's share is that of "
    "its layers: its head is computed where its distribution is used, in score and backward."
)


def cost(records: Records) -> Table:
    """Mean seconds per step by phase, the teacher's share, peak memory and generated tokens of every trained arm.

    The phases are those that the records have: the first ones kept had four.
    """
    timings, steps = records.timings, records.steps
    phases = [str(column) for column in timings if str(column).startswith("seconds_")]
    shared = "seconds_teacher" in phases
    rows = []
    for arm in order(records.manifest):
        spec = records.manifest["arms"][arm]
        mine = timings[timings["arm"].astype(str) == arm] if len(timings) else timings
        if spec.get("reference") or mine.empty:
            continue
        seconds = [float(mine[phase].mean()) for phase in phases]
        tokens = steps[steps["arm"].astype(str) == arm].groupby("seed")["generated_tokens"].max().mean()
        whole = float(mine[phases].sum(axis=1, min_count=1).mean())
        cells = [Cell(f"{value:.2f}" if math.isfinite(value) else HOLE) for value in (*seconds, whole)]
        if shared:
            share = mine["seconds_teacher"].mean() / whole
            cells.append(Cell(f"{share:.0%}" if math.isfinite(share) else HOLE))
        cells += [Cell(amount(float(mine["peak_memory_mib"].max()))), Cell(amount(float(tokens)))]
        rows.append(Row(shorten(spec.get("label") or arm), tuple(cells)))
    names = [phase.removeprefix("seconds_") for phase in phases]
    head = ("", *names, "step", *(["teacher's share"] if shared else []), "peak memory, MiB", "tokens per run")
    return Table(head, tuple(rows), COST)


def to_markdown(frame: pd.DataFrame, caption: str = "") -> str:
    """The summary table as GitHub-flavoured Markdown."""
    return markup.markdown(summary(frame, caption))


def to_latex(frame: pd.DataFrame, caption: str = "", label: str = "tab:comparison") -> str:
    """The summary table as a LaTeX `table` that needs only `booktabs`."""
    return markup.latex(summary(frame, caption), label)


def to_html(frame: pd.DataFrame, caption: str = "") -> str:
    """The summary table as an HTML fragment."""
    return markup.to_html(summary(frame, caption))


def to_rich(frame: pd.DataFrame, caption: str = "", title: str = "") -> RichTable:
    """The summary table for a terminal; with more than three benches, one line per arm × bench."""
    layout = summary if frame["bench"].nunique() <= 4 else stacked
    return markup.to_rich(layout(frame, caption), title)


def to_csv(frame: pd.DataFrame) -> str:
    """The whole frame: fractions to six decimals, holes empty, values by seed separated by semicolons."""
    flat = frame.copy()
    for column in ("per_seed", "delta_per_seed"):
        flat[column] = [";".join(f"{v:.6f}" for v in values) for values in flat[column]]
    return flat.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def _baseline(frame: pd.DataFrame) -> str:
    return str(frame.loc[frame["baseline"], "label"].iloc[0])


def _mean(row: Mapping[Any, Any]) -> str:
    return interval(row["value"], row["low"], row["high"])


def _delta(row: Mapping[Any, Any]) -> str:
    if not math.isfinite(row["delta"]):
        return ""
    return interval(row["delta"], row["delta_low"], row["delta_high"], True) + (" ↓" if row["worse"] else "")
