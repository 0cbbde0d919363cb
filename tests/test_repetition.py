"""A run made again beside its record: the comparison on made-up records, the command on a real miniature grid."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.audit.repetition import agreement
from harness.cli import main
from harness.errors import UserError
from harness.records import Records, load, save
from tests.records_fixture import fake_records

GRID = str(Path(__file__).parent / "mini_grid.py")
FIRE = {"arm": "fire", "seed": 1}


def of(records: Records, arm: str, seed: int) -> Records:
    """Records of one run alone, as a repetition leaves them."""
    frames = {name: getattr(records, name) for name in ("samples", "steps")}
    return replace(records, **{name: f[(f["arm"] == arm) & (f["seed"] == seed)] for name, f in frames.items()})


def changed(records: Records, frame: str, row: int, **values: object) -> Records:
    found = getattr(records, frame).reset_index(drop=True).astype(object)
    for column, value in values.items():
        found.loc[row, column] = value
    return replace(records, **{frame: found})


def test_a_run_agrees_with_itself_whatever_the_order_of_its_rows() -> None:
    kept = fake_records()
    again = of(kept, **FIRE)
    again = replace(again, samples=again.samples.iloc[::-1], steps=again.steps.iloc[::-1])
    found = agreement(kept, again, **FIRE)
    assert found.whole and found.first is None
    assert found.steps == (60, 60) and found.answers == (len(again.samples), len(again.samples))
    assert all(math.isclose(a, b) and 0 < a < 100 for a, b in found.accuracies.values())


def test_what_differs_is_counted_and_the_first_difference_named() -> None:
    kept = fake_records()
    again = of(kept, **FIRE)
    loss = again.steps["loss"].to_numpy()
    for row in (41, 6):  # steps 42 and 7
        again = changed(again, "steps", row, loss=loss[row] * (1 + 1e-15) + 1e-300)
    last = again.samples["step"].max()
    final = again.samples.reset_index(drop=True)
    row = int(final.index[(final["step"] == last) & ~final["correct"].astype(bool)][0])
    again = changed(again, "samples", row, correct=True)
    found = agreement(kept, again, **FIRE)
    assert not found.whole and found.steps == (58, 60) and found.answers == (len(final) - 1, len(final))
    assert found.first == (7, "loss", loss[6], again.steps["loss"][6]) and found.first[2] != found.first[3]
    bench = final["bench"][row]
    of_bench = ((final["bench"] == bench) & (final["step"] == last)).sum()
    assert found.accuracies[bench][1] - found.accuracies[bench][0] == pytest.approx(100 / of_bench)


def test_missing_steps_and_answers_are_differences() -> None:
    kept = fake_records()
    again = of(kept, **FIRE)
    shorter = replace(again, steps=again.steps.iloc[:-2], samples=again.samples.iloc[5:])
    found = agreement(kept, shorter, **FIRE)
    assert found.steps == (58, 60) and found.first is not None and found.first[0] == 59
    assert found.answers == (len(again.samples) - 5, len(again.samples))


def test_holes_on_both_sides_are_the_same() -> None:
    kept = fake_records()
    kept = replace(kept, steps=kept.steps.assign(engine_gap=math.nan))
    assert agreement(kept, of(kept, **FIRE), **FIRE).whole
    other = of(kept, **FIRE)
    other = replace(other, steps=other.steps.assign(engine_gap=0.0))
    assert agreement(kept, other, **FIRE).steps == (0, 60)


def test_a_run_that_is_not_in_the_records_is_refused() -> None:
    kept = fake_records()
    with pytest.raises(UserError, match="the records of 'fake' have no run of arm 'fire' with seed 9"):
        agreement(kept, of(kept, **FIRE), "fire", 9)


def test_the_command_on_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A grid is run and its records kept; then its run is made again elsewhere, and set beside changed records."""
    runs, again = tmp_path / "runs", tmp_path / "again"
    assert main(["ablate", GRID, "--only", "fire", "--jobs", "1", "--runs", str(runs)]) == 0
    kept = runs / "report" / "records" / "mini"
    command = ["rerun", GRID, "fire", "--records", str(kept), "--runs", str(again)]
    capsys.readouterr()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "4 of 4 the same to the last bit" in said and "reproduced: the kept record, bit for bit" in said
    assert main(["rerun", GRID, "teacher", *command[3:]]) == 0, "a model that is only evaluated"
    assert "steps" not in capsys.readouterr().out.splitlines()[-3]

    records = load(kept)
    other = tmp_path / "other"
    shutil.copytree(kept, other)
    manifest = records.manifest | {"provenance": records.manifest["provenance"] | {"packages": {"torch": "1.0"}}}
    row = records.steps.index[records.steps["step"] == 3][0]
    save(replace(changed(records, "steps", row, loss=1.5), manifest=manifest), other)
    assert main(["rerun", GRID, "fire", "--records", str(other), "--runs", str(again)]) == 1
    said = capsys.readouterr().out
    assert "3 of 4 the same" in said and "training first differs at step 3: loss 1.5 kept" in said
    assert "made with torch 1.0 (here " in said and "remove that folder" in said

    manifest["arms"]["fire"]["run_ids"] = ["fire-00000000"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    for words, says in (
        (["fire"], "are not of run fire-"),
        (["fyre"], "grid 'mini' has no arm 'fyre': it has start, teacher, opd, fire, neutral"),
        (["fire", "--seed", "7"], "arm 'fire' of grid 'mini' has no run 7: it has 0"),
    ):
        assert main(["rerun", GRID, *words, "--records", str(other), "--runs", str(again)]) == 2
        assert says in capsys.readouterr().err
