"""Published numbers: `results/reported/*.csv`, read and checked. Its README says what each column holds."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.benchmarks.registry import BENCHMARKS
from harness.errors import UserError
from harness.stats.grim import is_number, subtract

COLUMNS: Final = (
    *("paper", "title_short", "setting", "student", "teacher", "method", "baseline", "benchmark", "metric"),
    *("k", "n", "value", "unit", "headline", "source", "doubt"),
)
REQUIRED: Final = ("paper", "title_short", "method", "metric", "value", "unit", "source")
GRADED: Final = ("avg@k", "pass@k", "pass@1", "mean")  # shares of right answers on a benchmark
PERCENT, POINTS = "percent", "points"
UNITS: Final = (PERCENT, POINTS, "fraction", "tokens", "nats", "hours")


@dataclass(frozen=True)
class Bench:
    """A benchmark that numbers are published for: of the registry, beyond it, or an average over several."""

    label: str
    domain: str  # "math", "code", or another that nothing here measures
    n: int | None = None
    members: tuple[str, ...] = ()


_AIME_HMMT = ("aime24", "aime25", "hmmt25_feb", "hmmt25_nov")
BENCHES: Final[dict[str, Bench]] = {
    **{name: Bench(row.label, row.toy.domain if row.toy else "math", row.n) for name, row in BENCHMARKS.items()},
    "hmmt25": Bench("HMMT25", "math", 30),  # February or November, the source does not say
    "humaneval+": Bench("HumanEval+", "code", 164),
    "mbpp+": Bench("MBPP+", "code", 378),
    "livecodebench": Bench("LiveCodeBench", "code"),
    "livecodebench-v5": Bench("LiveCodeBench v5", "code"),
    "livecodebench-v6": Bench("LiveCodeBench v6", "code"),
    "math-average": Bench("math average", "math"),  # over sets that the source does not name
    "math-average-4": Bench("average of 4 math sets", "math", None, _AIME_HMMT),
    "math-average-6": Bench("average of 6 math sets", "math", None, (*_AIME_HMMT, "minerva", "olympiadbench")),
    "math-average-8": Bench(
        "average of 8 math sets", "math", None, (*_AIME_HMMT, "minerva", "olympiadbench", "math500", "amc23")
    ),
    "code-average": Bench("average of 3 code sets", "code", None, ("humaneval+", "mbpp+", "livecodebench")),
    "long-context-average": Bench("average of 5 long-context sets", "long context"),
}


@dataclass(frozen=True)
class Reported:
    """One published number. `value` is text, as printed; `where` is its file and line."""

    paper: str
    title_short: str
    setting: str
    student: str
    teacher: str
    method: str
    baselines: tuple[str, ...]
    benchmark: str
    metric: str
    k: int | None
    n: int | None
    value: str
    unit: str
    headline: bool
    source: str
    doubt: str
    where: str

    @property
    def table(self) -> tuple[object, ...]:
        """What two numbers must share to be compared."""
        return self.paper, self.setting, self.student, self.benchmark, self.metric, self.k

    @property
    def graded(self) -> bool:
        return self.metric in GRADED

    @property
    def problems(self) -> int | None:
        """n as stated, else the benchmark's."""
        return self.n or (BENCHES[self.benchmark].n if self.benchmark else None)

    @property
    def draws(self) -> int | None:
        """Samples per problem that are averaged: a pass@k is one yes or no for each problem."""
        return 1 if self.metric == "pass@k" else self.k


@dataclass(frozen=True)
class Claim:
    """A published gain: `value` − `baseline_value` where both are printed, else the gain as printed.

    `implied`: the baseline's number is not printed but follows from the other two. `headline`: marked in the ledger,
    and the gain over the first baseline of its row.
    """

    row: Reported
    baseline: str
    gain: str
    value: str
    baseline_value: str
    implied: bool

    @property
    def headline(self) -> bool:
        return self.row.headline and self.baseline == self.row.baselines[0]


def load_reported(folder: Path) -> list[Reported]:
    """Every row of every `<paper>.csv` of a folder, files by name.

    Raises:
        UserError: naming file and line: no such folder, no rows, an unknown column, benchmark, metric or unit, a number
            that is none, a row that is there twice, or a baseline without a number of its own.
    """
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder} holds no published numbers: put a <paper>.csv there, its README.md says how")
    rows = [row for file in files for row in _read(file)]
    seen: dict[tuple[object, ...], Reported] = {}
    for row in rows:
        for baseline in row.baselines if row.unit == POINTS else ("",):
            if other := seen.get(key := (*row.table, row.method, row.unit, baseline)):
                raise UserError(f"{row.where}: the number of {other.where} again; remove one of the two rows")
            seen[key] = row
    for row in rows:
        if row.unit == PERCENT:
            for baseline in row.baselines:
                if (*row.table, baseline, PERCENT, "") not in seen:
                    raise UserError(
                        f"{row.where}: the baseline '{baseline}' has no row of its own for this setting, benchmark, "
                        "metric and k; add it, or write the gain with unit points"
                    )
    return rows


def published(rows: Sequence[Reported]) -> Iterator[Claim]:
    """The gains that a ledger states or implies; each difference of two numbers is made here, never typed."""
    values = {(*row.table, row.method): row.value for row in rows if row.graded and row.unit == PERCENT}
    for row in rows:
        for baseline in row.baselines if row.graded else ():
            value, other = values.get((*row.table, row.method), ""), values.get((*row.table, baseline), "")
            if row.unit == PERCENT:
                yield Claim(row, baseline, subtract(row.value, other), row.value, other, False)
                continue
            gain = row.value if row.value[0] in "+-" else f"+{row.value}"
            implied = not other and bool(value)
            yield Claim(row, baseline, gain, value, subtract(value, gain).lstrip("+") if implied else other, implied)


def split_method(method: str) -> tuple[str, list[tuple[str, str]]]:
    """`fire keep.fraction=0.1` → `fire` and its edits, (path, value) each, as `--set` takes them."""
    words = method.split()
    edits = [word.partition("=") for word in words if "=" in word]
    return " ".join(word for word in words if "=" not in word), [(path, value) for path, _, value in edits]


def _read(file: Path) -> Iterator[Reported]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            head = next(reader, [])
            if tuple(head) != COLUMNS:
                wrong = (
                    [c for c in COLUMNS if c not in head] or [c for c in head if c not in COLUMNS] or ["their order"]
                )
                raise UserError(f"{file}, line 1: the columns are {','.join(COLUMNS)}; look at {wrong[0]!r}")
            for cells in reader:
                yield _row(file, reader.line_num, cells)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as UTF-8 comma-separated values: {error}") from None


def _row(file: Path, line: int, cells: list[str]) -> Reported:
    where = f"{file}, line {line}"
    if len(cells) != len(COLUMNS):
        raise UserError(f"{where}: {len(cells)} cells under {len(COLUMNS)} columns; quote cells that hold a comma")
    cell = dict(zip(COLUMNS, (text.strip() for text in cells), strict=True))
    if empty := [name for name in REQUIRED if not cell[name]]:
        raise UserError(f"{where}: '{empty[0]}' is empty")
    if cell["paper"] != file.stem:
        raise UserError(f"{where}: paper '{cell['paper'][:40]}' belongs into {cell['paper'][:40]}.csv")
    if cell["unit"] not in UNITS:
        raise UserError(f"{where}: unknown unit '{cell['unit'][:40]}': it is {', '.join(UNITS)}")
    graded, unit = cell["metric"] in GRADED, cell["unit"]
    if cell["benchmark"] not in BENCHES and (graded or cell["benchmark"]):
        raise UserError(f"{where}: unknown benchmark '{cell['benchmark'][:40]}': it is one of {', '.join(BENCHES)}")
    if graded and unit not in (PERCENT, POINTS):
        raise UserError(f"{where}: {cell['metric']} is in {PERCENT}, a gain in it in {POINTS}, not in {unit}")
    if not (_plain(cell["value"]) if not graded else is_number(cell["value"])):
        raise UserError(f"{where}: value '{cell['value'][:40]}' is no number as printed, such as 60.83")
    if graded and unit == PERCENT and not 0 <= float(cell["value"]) <= 100:
        raise UserError(f"{where}: {cell['value']} is no percentage; a gain has the unit {POINTS}")
    baselines = tuple(name for part in cell["baseline"].split(";") if (name := part.strip()))
    if unit == POINTS and not baselines:
        raise UserError(f"{where}: a gain needs the baseline that it is over")
    for name in ("k", "n"):
        if cell[name] and not (re.fullmatch("[0-9]{1,7}", cell[name]) and int(cell[name])):
            raise UserError(f"{where}: {name} '{cell[name][:40]}' is no number of {name}; leave it empty if unknown")
    if cell["headline"] not in ("", "yes"):
        raise UserError(f"{where}: headline is yes or empty, not '{cell['headline'][:40]}'")
    words = ("title_short", "setting", "student", "teacher", "method", "benchmark", "metric", "value", "unit")
    return Reported(
        paper=cell["paper"],
        **{name: cell[name] for name in words},
        baselines=baselines,
        k=int(cell["k"]) if cell["k"] else None,
        n=int(cell["n"]) if cell["n"] else None,
        headline=cell["headline"] == "yes",
        source=cell["source"],
        doubt=cell["doubt"],
        where=where,
    )


def _plain(text: str) -> bool:
    """Whether a text is a plain decimal number of any size."""
    whole, _, decimals = text.lstrip("+-").partition(".")
    return text.isascii() and whole.isdigit() and (decimals.isdigit() or not decimals) and not text.endswith(".")
