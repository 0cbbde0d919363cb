"""What a step leaves behind: its phases, by a clock that is set by hand."""

from __future__ import annotations

from dataclasses import fields, replace

import pandas as pd
import pytest

from harness.commands.train import _costs
from harness.tables import cost
from tests.records_fixture import records_from
from trainer import record
from trainer.record import PHASES, Clock, Timing


def test_phases_add_up_to_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 11.5, 11.75, 12.75, 13.0])
    monkeypatch.setattr(record.time, "perf_counter", lambda: next(moments))
    clock = Clock()
    for phase in ("rollout", "teacher", "backward", "rollout"):
        clock.lap(phase)
    timing = clock.timing(7)
    assert (timing.step, timing.seconds_rollout, timing.seconds_teacher, timing.seconds_backward) == (
        7,
        1.75,
        0.25,
        1.0,
    )
    assert sum(getattr(timing, f"seconds_{phase}") for phase in PHASES) == 3.0  # 13 − 10


def test_every_phase_is_kept() -> None:
    assert [f.name for f in fields(Timing)] == ["step", *(f"seconds_{phase}" for phase in PHASES), "peak_memory_mib"]


def test_a_phase_of_no_name_is_refused() -> None:
    with pytest.raises(KeyError):
        Clock().lap("update")


def row(step: int, **seconds: float) -> dict[str, float]:
    return {"step": step, **{f"seconds_{phase}": seconds.get(phase, 0.0) for phase in PHASES}, "peak_memory_mib": 100.0}


def test_the_teachers_share_of_a_run() -> None:
    # means: rollout 2, teacher 1, backward 1; 4 s a step
    timings = [row(1, rollout=3, teacher=1, backward=1), row(2, rollout=1, teacher=1, backward=1)]
    assert _costs(timings) == "4.00 s a step: the teacher's share 25%, rollout 50%, backward 25%"


def test_records_without_phases_say_nothing() -> None:
    assert _costs([]) == ""
    assert _costs([{"step": 1, "seconds_rollout": 1.0, "seconds_score": 1.0, "peak_memory_mib": 1.0}]) == ""


def test_the_table_of_costs_has_the_phases_and_the_teachers_share() -> None:
    records = records_from({("opd", 0, "b"): [[1, 0]], ("fire", 0, "b"): [[1, 0]]})
    timings = pd.DataFrame(
        [
            {"arm": "opd", "seed": 0} | row(1, rollout=3, teacher=1),
            {"arm": "opd", "seed": 0} | row(2, rollout=1, teacher=1),
        ]
    )
    steps = pd.DataFrame({"arm": ["opd"] * 2, "seed": 0, "step": [1, 2], "generated_tokens": [10, 30]})
    made = cost(replace(records, timings=timings, steps=steps))
    head = ["", *PHASES, "step", "teacher's share", "peak memory, MiB", "tokens per run"]
    assert list(made.head) == head
    (only,) = made.rows  # the other arm has no timings
    cells = dict(zip(head[1:], [cell.text for cell in only.cells], strict=True))
    # mean rollout 2 s, teacher 1 s of 3 s
    assert (cells["rollout"], cells["teacher"], cells["plan"], cells["step"]) == ("2.00", "1.00", "0.00", "3.00")
    assert (cells["teacher's share"], cells["peak memory, MiB"], cells["tokens per run"]) == ("33%", "100", "30")


def test_the_table_of_costs_of_older_records_stays_as_it_was() -> None:
    records = records_from({("opd", 0, "b"): [[1, 0]]})
    old = {"seconds_rollout": 1.0, "seconds_score": 0.5, "seconds_plan": 0.25, "seconds_update": 0.25}
    timings = pd.DataFrame([{"arm": "opd", "seed": 0, "step": 1, **old, "peak_memory_mib": 9.0}])
    steps = pd.DataFrame({"arm": ["opd"], "seed": 0, "step": [1], "generated_tokens": [10]})
    made = cost(replace(records, timings=timings, steps=steps))
    assert list(made.head) == ["", "rollout", "score", "plan", "update", "step", "peak memory, MiB", "tokens per run"]
    assert [cell.text for cell in made.rows[0].cells][:5] == ["1.00", "0.50", "0.25", "0.25", "2.00"]
