"""What kept grids say about a difference between two methods: arms are matched, and compared pairwise."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from harness.claims.ledger import BENCHES, split_method
from harness.tables.standings import ALPHA, MACRO, comparison

if TYPE_CHECKING:
    from harness.records import Records

TOY, FULL = "toy", "full"
FEWEST_SEEDS: Final = 3  # two agree by chance every other time
# a toy grid has no AIME: the direction of a claim is looked for on the toy problems of its domain
STAND_INS: Final = {"math": ("toy-aime", "toy-minerva"), "code": ("toy-code",)}


@dataclass(frozen=True)
class Measured:
    """The paired difference between two arms of a kept grid; fractions, as in the comparison frame.

    `low`, `high` bound it at 95 % over problems and training runs together; NaN with a single run.
    """

    grid: str
    scale: str
    arm: str
    against: str
    benches: tuple[str, ...]
    delta: float
    low: float
    high: float
    p: float
    per_seed: tuple[float, ...]
    samples: int
    runs: frozenset[str] = frozenset()  # of both arms, where the records name them
    p_holm: float = math.nan

    @property
    def direction(self) -> int:
        """±1 where this difference counts as evidence, else 0; the rule is in `claims`."""
        enough = len(self.per_seed) >= FEWEST_SEEDS and self.p_holm < ALPHA
        return (1 if self.delta > 0 else -1) if enough and self.low * self.high > 0 else 0


#: (scale, arm, against, benches) → the comparison, or nothing.
Measure: TypeAlias = Callable[[str, str, str, tuple[str, ...]], tuple[Measured, ...]]


def distinct(measured: Iterable[Measured]) -> list[Measured]:
    """Without those whose runs are among another's: grids share runs, and one run is no second evidence."""
    found = list(dict.fromkeys(measured))
    whole = [m for m in found if not any(m.runs and m.runs < other.runs for other in found)]
    return list({m.runs or m: m for m in reversed(whole)}.values())[::-1]


def measurements(
    method: str, baseline: str, benchmark: str, several: bool, kept: Records, measure: Measure
) -> Iterator[Measured]:
    """The comparisons of a grid that speak to a gain over a baseline on a benchmark; the rule is in `claims`.

    Args:
        method, baseline: as in the ledger: a name of the method table, and edits (`fire keep.fraction=0.1`).
        several: whether grids with several teachers are wanted, or those with one.
        measure: `measuring(kept)`.
    """
    bench, manifest = BENCHES[benchmark], kept.manifest
    if several != (len((manifest.get("base") or {}).get("teachers") or [()]) > 1):
        return
    scale = scale_of(manifest)
    needed = bench.members or (benchmark,)
    if scale == TOY:
        taught = bench.domain in _domains(manifest)
        needed = tuple(b for b in STAND_INS.get(bench.domain, ()) if taught and b in manifest["benches"])
    if needed and all(name in manifest["benches"] for name in needed):
        for arm in _arms(manifest, method):
            for against in _arms(manifest, baseline):
                if _setting(manifest, arm) == _setting(manifest, against):
                    yield from measure(scale, arm, against, needed)


def scale_of(manifest: Mapping[str, Any]) -> str:
    """ "toy" for a toy student, or where all problems are toy problems; else "full"."""
    student = str((manifest.get("base") or {}).get("student", ""))
    return TOY if student.startswith("toy:") or all(name.startswith("toy-") for name in manifest["benches"]) else FULL


def _domains(manifest: Mapping[str, Any]) -> list[str]:
    """The toy domains that a grid trains on: grading another one measures what is forgotten, not what is learned."""
    source = str(((manifest.get("base") or {}).get("data") or {}).get("source", ""))
    return re.findall(r"[a-z]+", source.removeprefix("toy:")) or list(STAND_INS)


def _arms(manifest: Mapping[str, Any], method: str) -> list[str]:
    """The live, trained arms whose method and edits are those of a ledger's method, `fire keep.fraction=0.1`."""
    name, listed = split_method(method)
    edits = frozenset(map(_edit, listed))
    trained = {arm: spec for arm, spec in manifest["arms"].items() if not spec.get("reference")}
    found = [arm for arm, spec in trained.items() if spec.get("method") == name]
    if any("edits" not in trained[arm] for arm in found) and len(found) > 1:
        return []  # records that do not tell which of the arms is the method as published
    same = [arm for arm in found if frozenset(map(_edit, trained[arm].get("edits") or ())) == edits]
    return [arm for arm in same if arm not in (manifest.get("inert") or {})]


def _edit(edit: Sequence[Any]) -> tuple[str, str]:
    """A path and its value; 0.10 and 0.1 are one value."""
    path, value = map(str, edit)
    try:
        return path, repr(float(value))
    except ValueError:
        return path, value


def _setting(manifest: Mapping[str, Any], arm: str) -> frozenset[tuple[str, str]]:
    """What an arm changes in the run besides its method."""
    return frozenset(map(_edit, manifest["arms"][arm].get("run") or ()))


def measuring(kept: Records) -> Measure:
    """The comparison of two arms of a grid, made once however many claims ask for it."""
    return functools.cache(functools.partial(_measure, kept))


def _measure(kept: Records, scale: str, arm: str, against: str, benches: Sequence[str]) -> tuple[Measured, ...]:
    """The comparison of two arms of a grid, whatever the grid's own baseline; nothing where samples are missing."""
    manifest, samples = kept.manifest, kept.samples
    only = manifest | {
        "arms": {name: manifest["arms"][name] for name in (against, arm)},
        "order": [against, arm],
        "baseline": against,
        "benches": {name: manifest["benches"][name] for name in benches},
    }
    mine = samples[samples["arm"].astype(str).isin((arm, against)) & samples["bench"].astype(str).isin(benches)]
    frame = comparison(replace(kept, manifest=only, samples=mine))
    if (frame["missing"] != "").any():
        return ()
    name = MACRO if len(benches) > 1 else benches[0]
    row = frame[(frame["arm"] == arm) & (frame["bench"] == name)].to_dict("records")[0]
    bounds = (row["delta"], row["delta_both_low"], row["delta_both_high"], row["p"])
    size = sum(int(manifest["benches"][b]["n"]) * int(manifest["benches"][b]["k"]) for b in benches) * row["seeds"]
    runs = frozenset(run for name in (arm, against) for run in manifest["arms"][name].get("run_ids") or ())
    per_seed = tuple(row["delta_per_seed"])
    return (Measured(str(manifest["grid"]), scale, arm, against, tuple(benches), *bounds, per_seed, size, runs),)
