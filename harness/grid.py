"""Grids: one question as a value. A base run, named arms, seeds, benchmarks and figures → cells. Declarations only.

A file in `ablations/` declares one as `GRID`. Whatever could be misspelt is checked when it is made: a grid that loads
has no arm that is silently another's double.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

from harness.benchmarks.registry import BENCHMARKS
from harness.errors import UserError
from harness.evaluation import EvalPlan
from harness.runs import assets
from harness.runs.cell import Cell
from trainer.config import RunSpec
from trainer.settings import edit, paths

__all__ = ["Arm", "Grid", "HeatMap", "Sweep", "load_grid", "sweep"]

Value: TypeAlias = bool | int | float | str
Settings: TypeAlias = tuple[tuple[str, str], ...]  # (path, value as text)

ABLATIONS: Final = Path(__file__).parent.parent / "ablations"

#: Fields of a run that the grid fills in itself; an arm that set one would be compared with the wrong rows.
STUDENTS_APART: Final = 100  # between the numbers of two students' runs
_OF_THE_GRID: Final = ("method", "edits", "seed", "baseline", "digests")
_OF_ALL_ARMS: Final = (*_OF_THE_GRID, "steps", "student", "teachers")
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.=-]*")


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method, edits of it (`keep.fraction`) and of the base run (`optim.lr`).

    `at` says where the arm stands on the grid's axes.
    """

    method: str
    label: str = ""
    edits: Settings = ()
    run: Settings = ()
    at: tuple[tuple[str, Value], ...] = ()


@dataclass(frozen=True)
class Sweep:
    """A figure: every benchmark against one axis, a line per method; arms that are not on the axis as levels."""

    axis: str
    label: str = ""
    kind: ClassVar[str] = "sweep"

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)


@dataclass(frozen=True)
class HeatMap:
    """A figure: the difference to the baseline over two axes."""

    x: str
    y: str
    x_label: str = ""
    y_label: str = ""
    kind: ClassVar[str] = "heatmap"

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.x, self.y)


class _Dotted(string.Formatter):
    """Takes `{keep.fraction:.0%}` for the option of that name, not for an attribute."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        return kwargs[field_name], field_name


def sweep(
    method: str,
    options: Mapping[str, Sequence[Value]],
    label: str,
    name: str = "",
    run: Settings = (),
    edits: Settings = (),
    paths: Mapping[str, Sequence[str]] | None = None,
) -> tuple[tuple[str, Arm], ...]:
    """The product of options as arms. Each option is an axis, and by default the path of what it sets.

    Args:
        label, name: texts in which `{option}` stands for a value, with a format if wanted: `{keep.fraction:.0%}`. The
            name of an arm is by default that of the method and the values.
        run, edits: what all of the arms have in common.
        paths: what an option sets that is not called like a path, or sets several.
    """
    of_run = {field.name for field in fields(RunSpec)}
    name = name or "-".join([method, *(f"{{{option}}}" for option in options)])
    arms = []
    for values in itertools.product(*options.values()):
        at = dict(zip(options, values, strict=True))
        settings = [(path, _text(at[o])) for o in options for path in (paths or {}).get(o, (o,))]
        try:
            named, labelled = (_Dotted().vformat(text, (), at) for text in (name, label))
        except (KeyError, ValueError) as error:
            raise UserError(
                f"sweep of '{method}': label or name asks for {error}; options are {', '.join(at)}"
            ) from None
        arm = Arm(
            method,
            labelled,
            (*edits, *(s for s in settings if s[0].partition(".")[0] not in of_run)),
            (*run, *(s for s in settings if s[0].partition(".")[0] in of_run)),
            tuple(at.items()),
        )
        arms.append((_for_a_file(named), arm))
    return tuple(arms)


def _for_a_file(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name)


def _text(value: Value) -> str:
    """A value as `trainer.settings.edit` reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Grid:
    """One question.

    Attributes:
        base: what all arms share; its method is that of the baseline.
        curve: evaluated every `curve_every` steps, too.
        axes: names of the coordinates that arms have in `at`.
        settings: edits of the base run that the command line made.
        students: further students, each trained with every arm and seed; their numbers lie `STUDENTS_APART` apart.

    Raises:
        UserError: in one sentence, for anything that is misspelt, doubled, or would be ignored.
    """

    name: str
    title: str
    base: RunSpec
    arms: tuple[tuple[str, Arm], ...]
    baseline: str
    evals: tuple[EvalPlan, ...]
    curve: EvalPlan
    curve_every: int = 10
    seeds: tuple[int, ...] = (0, 1)
    note: str = ""
    axes: tuple[str, ...] = ()
    figures: tuple[Sweep | HeatMap, ...] = ()
    settings: Settings = ()
    students: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [name for name, _ in self.arms]
        for name in (self.name, *names):
            if not _NAME.fullmatch(name):
                raise self._error(f"'{name}' is no name for a file: use letters, digits and . _ = -")
        if doubled := _doubled(names):
            raise self._error(f"arm '{doubled}' is named twice")
        if self.baseline not in names:
            raise self._error(f"baseline '{self.baseline}' is none of its arms {', '.join(names)}")
        if taken := [name for name in names if name in self._references()]:
            raise self._error(f"arm '{taken[0]}' has the name of a reference row: choose another")
        if not self.seeds or min(self.seeds) < 0 or _doubled(self.seeds) is not None:
            raise self._error(f"seeds must be different whole numbers from 0, got {', '.join(map(str, self.seeds))}")
        if self.students and max(self.seeds) >= STUDENTS_APART:
            raise self._error(f"with several students, seeds must be below {STUDENTS_APART}")
        if (twice := _doubled([self.base.student, *self.students])) is not None:
            raise self._error(f"student '{twice}' is named twice")
        first: dict[Any, str] = {}
        for name, arm in self.arms:
            same = first.setdefault(frozenset(self.spec(arm, 0).identity().items()), name)
            if same != name:
                raise self._error(f"arms '{same}' and '{name}' are the same run")
        self._check_benchmarks()
        self._check_axes()

    def _error(self, what: str) -> UserError:
        return UserError(f"grid '{self.name}': {what}")

    def _check_benchmarks(self) -> None:
        for plan in (*self.evals, self.curve):
            bare = plan.bench.partition("@")[0]
            if bare not in BENCHMARKS and Path(plan.bench).suffix not in (".jsonl", ".parquet"):
                near = get_close_matches(bare, BENCHMARKS, n=2) or BENCHMARKS
                raise self._error(f"unknown benchmark '{plan.bench}': did you mean {' or '.join(near)}?")
        if not self.evals:
            raise self._error("nothing to evaluate: give it at least one plan in 'evals'")
        if doubled := _doubled([plan.name for plan in self.evals]):
            raise self._error(f"benchmark '{doubled}' is evaluated twice: keep one plan")
        if clash := [p for p in self.evals if p.name == self.curve.name and p != self.curve]:
            raise self._error(f"'{clash[0].name}' has another plan in 'curve' than in 'evals': make them the same")

    def _check_axes(self) -> None:
        if doubled := _doubled(self.axes):
            raise self._error(f"axis '{doubled}' is named twice")
        for name, arm in self.arms:
            for axis, value in arm.at:
                if axis not in self.axes:
                    raise self._error(f"arm '{name}' stands on axis '{axis}', which is not declared in 'axes'")
                if value != value:
                    raise self._error(f"arm '{name}' stands nowhere on axis '{axis}': give it a number or a word")
        for axis in self.axes:
            if len({value for _, arm in self.arms for at, value in arm.at if at == axis}) < 2:
                raise self._error(f"no two arms differ on axis '{axis}': vary it or leave it out")
        for figure in self.figures:
            for axis in figure.axes:
                if axis not in self.axes:
                    hint = f"declared are {', '.join(self.axes)}" if self.axes else "none is declared"
                    raise self._error(f"figure {type(figure).__name__} wants axis '{axis}': {hint}")

    def runs(self) -> tuple[tuple[int, str, int], ...]:
        """(number, student, seed) of every arm's training runs; the number of the first student's is the seed."""
        starts = (self.base.student, *self.students)
        return tuple(
            (STUDENTS_APART * at + seed, start, seed) for at, start in enumerate(starts) for seed in self.seeds
        )

    def spec(self, arm: Arm, seed: int, student: str | None = None) -> RunSpec:
        """The run of an arm, by default of the base's student.

        Raises:
            UserError: naming the arm, for a path that does not exist or that belongs to the grid as a whole.
        """
        name = next((name for name, one in self.arms if one == arm), arm.method)
        baseline = dict(self.arms)[self.baseline].method
        try:
            for path, _ in arm.run:
                if (field := path.partition(".")[0]) in _OF_ALL_ARMS:
                    raise UserError(f"'{field}' is the same for all arms, or its rows would not be comparable")
            start = self.base.student if student is None else student
            spec = replace(self.base, method=arm.method, edits=arm.edits, seed=seed, baseline=baseline, student=start)
            for path, text in arm.run:
                spec = edit(spec, path, text)
        except UserError as error:
            raise self._error(f"arm '{name}': {error}") from None
        return spec

    def edited(self, settings: Settings) -> Grid:
        """The grid with another base run, under a name that says so: its records are not those of the grid as declared.

        What only concerns the machine changes no record, and no name.

        Raises:
            UserError: for a path that is not the base run's, or that the arms override one and all.
        """
        made, counted = self, []
        for path, text in settings:
            field = path.partition(".")[0]
            if field in _OF_THE_GRID:
                raise UserError(f"option '{path}' is set by the grid, arm by arm: --set edits the run they share")
            if path not in dict(paths(self.base)) and path in dict(paths(self.base.objective())):
                raise UserError(
                    f"option '{path}' is of a method, not of the run that all arms share: give it to an arm"
                )
            base = edit(made.base, path, text)
            changed = replace(made, base=base)
            if base.identity() != made.base.identity():
                if all(changed.spec(arm, 0).identity() == made.spec(arm, 0).identity() for _, arm in self.arms):
                    raise UserError(f"option '{path}' would be ignored: every arm of '{self.name}' sets it itself")
                counted.append((path, text))
            made = changed
        if not counted:  # what only the machine has to do with makes the same records
            return made
        said = "-".join(f"{path}={text}" for path, text in counted)
        title = f"{self.title} ({', '.join(f'{path} = {text}' for path, text in counted)})"
        return replace(made, name=_for_a_file(f"{self.name}-{said}"), title=title, settings=(*self.settings, *counted))

    def _references(self) -> dict[str, str]:
        """Name of the row → model, for the start of training and every teacher."""
        models = list(dict.fromkeys(model for _, model in sorted(self.base.teachers)))
        domains = {model: domain for domain, model in sorted(self.base.teachers, reverse=True)}
        named = {"teacher" if len(models) == 1 else f"teacher {domains[model]}": model for model in models}
        return {"start": self.base.student} | named

    def cells(self) -> list[Cell]:
        """References first, then arm by arm within each training run, so that early cells already compare."""
        base = self.base
        common = Cell("", 0, self.evals, curve=self.curve, dtype=base.dtype, engine=base.engine, machine=base.machine)
        cells = [replace(common, arm=name, model=model) for name, model in self._references().items()]
        for at, student in enumerate(self.students, 1):
            cells.append(replace(common, arm="start", seed=STUDENTS_APART * at, model=student))
        for number, student, seed in self.runs():
            for name, arm in self.arms:
                spec = assets.pin(self.spec(arm, seed, student))
                cells.append(Cell(name, number, self.evals, spec, curve=self.curve, curve_every=self.curve_every))
        return cells


def _doubled(items: Sequence[Any]) -> Any:
    """The first item that occurs twice, None where all differ."""
    return next((item for index, item in enumerate(items) if item in items[:index]), None)


def load_grid(path: Path) -> Grid:
    """The `GRID` of a Python file, or of a shipped grid by its name.

    Raises:
        UserError: if the file is missing, fails, or declares no grid.
    """
    if not path.exists() and (named := ABLATIONS / f"{path}.py").exists():
        path = named
    if not path.is_file():
        shipped = sorted(file.stem for file in ABLATIONS.glob("[a-z]*.py"))
        raise UserError(
            f"grid file {path} does not exist: name a Python file that declares GRID, or one of {', '.join(shipped)}"
        )
    spec = importlib.util.spec_from_file_location(f"grid_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"grid file {path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"grid file {path} fails: {type(error).__name__}: {error}") from error
    grid = getattr(module, "GRID", None)
    if not isinstance(grid, Grid):
        raise UserError(f"grid file {path} declares no GRID = Grid(...)")
    return grid
