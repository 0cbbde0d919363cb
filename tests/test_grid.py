"""Grids as declarations: what is misspelt is refused, what is the same run is one cell, what is shipped loads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.quickstart import GRID as QUICKSTART
from harness.errors import UserError
from harness.evaluation import EvalPlan, toy_plan
from harness.grid import ABLATIONS, Arm, Grid, HeatMap, Sweep, load_grid, sweep
from harness.runs import assets
from harness.runs.cell import Cell, run_cell
from harness.runs.collection import changes
from tests.conftest import ROOT
from tests.mini_grid import GRID as MINI
from tests.test_config import OTHER, SPEC, change
from trainer.config import Lora, Machine, differences
from trainer.methods import METHODS
from trainer.settings import edit

SHIPPED = sorted(path.stem for path in ABLATIONS.glob("[a-z]*.py"))
PAPER = [name for name in SHIPPED if name.startswith("paper_")]
TOY = [name for name in SHIPPED if name not in PAPER]
ALPHA, BETA = "terms.0.weight.of.a.gain", "terms.0.weight.of.b.gain"


def grid_with(**more: Any) -> Grid:
    return replace(MINI, **({"axes": (), "figures": ()} | more))


def arms(*more: tuple[str, Arm]) -> tuple[tuple[str, Arm], ...]:
    return (("opd", Arm("opd")), *more)


# --- sweeps ---------------------------------------------------------------------------------------------------


def test_a_sweep_is_the_product_of_its_options() -> None:
    made = sweep(
        "fire",
        {"keep.fraction": (0.0, 0.25), "optim.lr": (1e-4, 3e-4, 1e-3)},
        "FiRe-OPD, drop {keep.fraction:.0%} at {optim.lr:g}",
        run=(("importance_cap", "5"),),
    )
    assert len(made) == 2 * 3
    name, arm = made[4]  # the last option varies fastest: (0.25, 3e-4) is number 1·3 + 1
    assert name == "fire-0.25-0.0003"
    assert arm.label == "FiRe-OPD, drop 25% at 0.0003"
    assert arm.at == (("keep.fraction", 0.25), ("optim.lr", 3e-4))
    # an option of the method edits the method, an option of the run the run
    assert arm.edits == (("keep.fraction", "0.25"),)
    assert arm.run == (("importance_cap", "5"), ("optim.lr", "0.0003"))
    spec = grid_with(arms=arms(*made), axes=("keep.fraction", "optim.lr")).spec(arm, 3)
    assert spec.optim.lr == 3e-4 and spec.objective().keep.fraction == 0.25 and spec.seed == 3  # type: ignore[attr-defined]


def test_an_option_may_set_several_paths_under_a_name_of_its_own() -> None:
    [(name, arm), _] = sweep("fire", {"gain": (0, 2)}, "both {gain}", "both-{gain}", paths={"gain": [ALPHA, BETA]})
    assert name == "both-0"
    assert arm.edits == ((ALPHA, "0"), (BETA, "0"))
    assert arm.at == (("gain", 0),)


def test_values_of_every_kind_reach_the_run() -> None:
    kinds = sweep("fire", {"keep.scope": ("batch", "block:4")}, "{keep.scope}")
    grid = grid_with(arms=arms(*kinds), axes=("keep.scope",))
    scopes = [grid.spec(arm, 0).objective().keep.scope for _, arm in kinds]  # type: ignore[attr-defined]
    assert scopes[0] == "batch" and scopes[1].rows == 4
    assert [name for name, _ in kinds] == ["fire-batch", "fire-block-4"]
    [(_, arm)] = sweep("fire", {"flag": (True,)}, "{flag}")
    assert arm.edits == (("flag", "true"),)


def test_a_label_that_asks_for_no_option_is_refused() -> None:
    with pytest.raises(UserError, match=r"'fractoin'.*options are keep\.fraction"):
        sweep("fire", {"keep.fraction": (0.1,)}, "drop {fractoin}")


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"arms": arms(("fire", Arm("fire", edits=(("keep.fractoin", "0.1"),))))}, "arm 'fire': .*'keep.fractoin'.*keep.fraction"),
        ({"arms": arms(("fire", Arm("fire", run=(("optim.lrr", "1"),))))}, "arm 'fire': .*'optim.lrr'.*optim.lr"),
        ({"arms": arms(("fire", Arm("fire", edits=(("keep.fraction", "much"),))))}, "arm 'fire': .*a number"),
        ({"arms": arms(("fire", Arm("fyre")))}, "arm 'fire': unknown method 'fyre'.*fire"),
        ({"arms": arms(("fire", Arm("fire", run=(("seed", "1"),))))}, "arm 'fire': 'seed' is the same for all arms"),
        ({"arms": arms(("fire", Arm("fire", run=(("steps", "9"),))))}, "arm 'fire': 'steps' is the same for all arms"),
        ({"arms": arms(*sweep("fire", {"keep.fractoin": (0.1, 0.2)}, "x"))}, "unknown option 'keep.fractoin'"),
        ({"arms": arms(("opd", Arm("fire")))}, "arm 'opd' is named twice"),
        ({"arms": arms(("a", Arm("fire")), ("b", Arm("fire", "other label")))}, "'a' and 'b' are the same run"),
        ({"arms": arms(("a", Arm("fire")), ("b", Arm("fire", edits=(("keep.fraction", "0.20"),))))}, "the same run"),
        ({"arms": arms(("teacher", Arm("fire")))}, "'teacher' has the name of a reference"),
        ({"arms": arms(("a/b", Arm("fire")))}, "'a/b' is no name for a file"),
        ({"baseline": "fyre"}, "baseline 'fyre' is none of its arms opd, fire, neutral"),
        ({"evals": (toy_plan("toy-aim", 2),)}, "unknown benchmark 'toy-aim'.*toy-aime"),
        ({"curve": toy_plan("toy-heldout", 1)}, "unknown benchmark 'toy-heldout'.*toy-held-out"),
        ({"evals": ()}, "nothing to evaluate"),
        ({"evals": (toy_plan("toy-aime", 2), toy_plan("toy-aime", 4))}, "'toy-aime' is evaluated twice"),
        ({"curve": toy_plan("toy-aime", 1)}, "'toy-aime' has another plan in 'curve'"),
        ({"seeds": ()}, "seeds must be different"),
        ({"seeds": (0, 0)}, "seeds must be different"),
        ({"seeds": (-1,)}, "seeds must be different"),
        ({"axes": ("dropped",)}, "no two arms differ on axis 'dropped'"),
        ({"axes": ("dropped",), "arms": MINI.arms[:2]}, "no two arms differ on axis 'dropped'"),
        ({"axes": ("dropped", "dropped"), "arms": MINI.arms}, "axis 'dropped' is named twice"),
        ({"axes": (), "arms": MINI.arms}, "arm 'fire' stands on axis 'dropped', which is not declared"),
        ({"axes": ("dropped",), "arms": MINI.arms, "figures": (Sweep("droped"),)}, "Sweep wants axis 'droped'.*dropped"),
        ({"figures": (HeatMap("alpha", "beta"),)}, "HeatMap wants axis 'alpha': none is declared"),
        ({"axes": ("dropped",), "arms": arms(("fire", Arm("fire", at=(("dropped", float("nan")),))))}, "stands nowhere"),
    ],
)  # fmt: skip
def test_what_is_misspelt_or_doubled_is_refused_in_one_sentence(more: dict[str, Any], says: str) -> None:
    plain = tuple((name, replace(arm, at=())) for name, arm in MINI.arms)
    with pytest.raises(UserError, match=says) as refused:
        grid_with(**({"arms": plain} | more))
    assert "\n" not in str(refused.value)
    assert "grid 'mini'" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist.*quickstart"),
        ("GRID = 3", r"declares no GRID"),
        ("import no_such_module", "fails: ModuleNotFoundError"),
        ("GRID = (", "fails: SyntaxError"),
    ],
)
def test_a_file_that_is_no_grid_is_refused(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "grid.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_grid(path)


# --- --set ----------------------------------------------------------------------------------------------------


def test_set_edits_the_base_run_and_makes_other_cells() -> None:
    other = MINI.edited((("optim.lr", "3e-4"), ("steps", "2")))
    assert other.base.optim.lr == 3e-4 and other.base.steps == 2
    assert not {cell.run_id for cell in other.cells() if cell.spec} & {cell.run_id for cell in MINI.cells()}
    # the references are the same cells, whatever the runs do
    assert {c.run_id for c in other.cells() if not c.spec} == {c.run_id for c in MINI.cells() if not c.spec}
    # its records must not replace those of the grid as declared
    assert other.name == "mini-optim.lr=3e-4-steps=2" and other.settings == (("optim.lr", "3e-4"), ("steps", "2"))
    assert MINI.edited(()) is MINI


def test_set_of_the_machine_makes_the_same_cells() -> None:
    other = MINI.edited((("machine.micro_batch", "2"),))
    assert other.base.machine.micro_batch == 2
    assert [cell.run_id for cell in other.cells()] == [cell.run_id for cell in MINI.cells()]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (("optim.lrr", "1"), "unknown option 'optim.lrr'.*optim.lr"),
        (("optim.lr", "fast"), "a number"),
        (("seed", "3"), "'seed' is set by the grid"),
        (("method", "fire"), "'method' is set by the grid"),
        (("reduce.scope", "domain"), "'reduce.scope' is of a method"),
        (("optim.lr", "2e-3"), "'optim.lr' would be ignored: every arm of 'mini' sets it itself"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(setting: tuple[str, str], says: str) -> None:
    own = (("optim.lr", "3e-4"),)
    grid = grid_with(arms=tuple((name, replace(arm, at=(), run=own)) for name, arm in MINI.arms))
    with pytest.raises(UserError, match=says):
        grid.edited((setting,))


# --- cells ----------------------------------------------------------------------------------------------------

PLAN = EvalPlan("toy-aime", 4, 96, style="plain")
CURVE = EvalPlan("toy-held-out", 1, 96, style="plain")
CELL = Cell("fire", 3, (PLAN,), SPEC, curve=CURVE, curve_every=10)
OTHER_PLAN: dict[str, Any] = {
    "bench": "toy-minerva",
    "k": 8,
    "max_tokens": 95,
    "temperature": 0.5,
    "top_p": 0.9,
    "style": "clean",
    "seed": 1,
    "limit": 3,
    "thinking": True,
}


def test_the_table_of_changes_is_whole() -> None:
    assert set(OTHER_PLAN) == {field.name for field in fields(EvalPlan)}


@pytest.mark.parametrize("path", OTHER)
def test_every_field_of_the_run_that_counts_changes_the_cell(path: str) -> None:
    given: dict[str, Any] = {"rollout.temperature": {"importance_cap": 2.0}, "lora.alpha": {"lora": Lora(4)}}
    spec = replace(SPEC, **given.get(path, {}))
    assert replace(CELL, spec=change(spec, path, OTHER[path])).run_id != replace(CELL, spec=spec).run_id


@pytest.mark.parametrize("name", OTHER_PLAN)
def test_every_field_of_an_evaluation_changes_the_cell(name: str) -> None:
    other = replace(PLAN, **{name: OTHER_PLAN[name]})
    for reference in (CELL, Cell("start", 0, (PLAN,), model="toy:student", curve=CURVE)):
        assert replace(reference, evals=(other,)).run_id != reference.run_id
        assert replace(reference, curve=replace(CURVE, **{name: OTHER_PLAN[name]})).run_id != reference.run_id
        assert replace(reference, evals=(PLAN, other)).run_id == replace(reference, evals=(other, PLAN)).run_id
    assert replace(CELL, curve_every=20).run_id != CELL.run_id


@given(
    fraction=st.floats(0, 1, allow_nan=False).map(lambda x: round(x, 6)),
    gain=st.floats(0, 8, allow_nan=False).map(lambda x: round(x, 6)),
    lr=st.floats(1e-8, 1, allow_nan=False),
    k=st.integers(1, 64),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_equal_cells_have_equal_ids_and_different_ones_do_not(
    fraction: float, gain: float, lr: float, k: int, seed: int
) -> None:
    def make(fraction: float, gain: float, lr: float, k: int, seed: int, order: int = 1) -> Cell:
        edits = (("keep.fraction", repr(fraction)), (ALPHA, repr(gain)))[::order]
        spec = edit(replace(SPEC, edits=edits, seed=seed), "optim.lr", repr(lr))
        return replace(CELL, spec=spec, evals=(replace(PLAN, k=k),))

    values = (fraction, gain, lr, k, seed)
    cell = make(*values)
    assert make(*values, order=-1).run_id == cell.run_id
    for index, other in enumerate((1.0 - fraction, gain + 1.0, lr / 2, k + 1, seed + 1)):
        changed = make(*(*values[:index], other, *values[index + 1 :]))
        assert (changed.run_id == cell.run_id) == (other == values[index])


def test_what_must_not_count_does_not() -> None:
    machine = Machine("cuda", 1, engine_batch=2, checkpoint_every=3, profile_every=4)
    for same in (
        replace(CELL, arm="another name"),
        replace(CELL, data_dir="elsewhere"),
        replace(CELL, spec=replace(SPEC, machine=machine)),
    ):
        assert same.run_id == CELL.run_id
    relabelled = replace(
        MINI, name="other", title="another", arms=tuple((n, replace(a, label="x")) for n, a in MINI.arms)
    )
    assert [c.run_id for c in relabelled.cells()] == [c.run_id for c in MINI.cells()]


def test_ids_are_the_same_in_another_process() -> None:
    code = (
        "from pathlib import Path\nfrom harness.grid import load_grid\nimport sys\n"
        "print(*[c.run_id for g in sys.argv[1:] for c in load_grid(Path(g)).cells()])"
    )
    expected = [cell.run_id for name in SHIPPED for cell in load_grid(Path(name)).cells()]
    env = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code, *SHIPPED], capture_output=True, text=True, env=env, cwd="/")
    assert found.stdout.split() == expected, found.stderr


def test_a_model_that_is_two_rows_is_one_cell() -> None:
    # the same teacher for both domains is one reference, and no domain's name is in it
    both = (("code", "toy:teacher-math"), ("math", "toy:teacher-math"))
    grid = grid_with(base=replace(MINI.base, teachers=both), arms=tuple((n, replace(a, at=())) for n, a in MINI.arms))
    assert [cell.arm for cell in grid.cells() if not cell.spec] == ["start", "teacher"]
    two = (("math", "toy:teacher-math"), ("code", "toy:teacher-code"))
    named = [(c.arm, c.model) for c in replace(grid, base=replace(MINI.base, teachers=two)).cells() if not c.spec]
    assert named == [
        ("start", "toy:student"),
        ("teacher code", "toy:teacher-code"),
        ("teacher math", "toy:teacher-math"),
    ]


def test_edits_are_kept_as_what_they_change() -> None:
    arm = Arm(
        "fire", edits=(("keep.fraction", "0.2"), (ALPHA, "2")), run=(("optim.lr", "0.001"), ("dtype", "bfloat16"))
    )
    # 0.2 is FiRe's own fraction and 0.001 the base's own rate
    assert changes(MINI.base, arm) == ([[ALPHA, "2"]], [["dtype", "bfloat16"]])
    hot = replace(MINI.base, rollout=replace(MINI.base.rollout, temperature=1.6), importance_cap=5.0)
    assert changes(hot, arm) == ([[ALPHA, "2"]], [["dtype", "bfloat16"]]), "the cap belongs to the run"


# --- what is shipped ------------------------------------------------------------------------------------------


def test_the_shipped_grids_are_all_there() -> None:
    assert set(TOY) == {
        "quickstart", "main_table", "granularity", "filter_fraction", "weight_form", "scope", "multi_teacher", "controls",
        "regime_beyond", "regime_hot", "regime_hot_uncorrected", "regime_flawed", "learning_rate", "batch_size",
    }  # fmt: skip
    assert set(PAPER) == {"paper_strong_to_weak", "paper_single_teacher", "paper_multi_teacher"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_grid_is_what_its_file_says(name: str) -> None:
    grid = load_grid(Path(name))
    assert grid.name == name and grid.title and grid.baseline == "opd"
    source = (ABLATIONS / f"{name}.py").read_text()
    assert source.startswith('"""') and len(source.splitlines()) <= 130
    cells = grid.cells()
    assert len({cell.run_id for cell in cells}) == len(cells), "two cells would be the same run"
    assert len({arm.label for _, arm in grid.arms}) == len(grid.arms) and all(arm.label for _, arm in grid.arms)
    listed = {str((arm.method, changes(grid.base, arm), arm.at)) for _, arm in grid.arms}
    assert len(listed) == len(grid.arms), "two arms would be listed as the same"
    for _, arm in grid.arms:
        needs_groups = "group" in METHODS[arm.method].reads or arm.method == "kdrl"
        assert not needs_groups or grid.spec(arm, 0).data.samples > 1, f"{arm.method} compares rollouts of one prompt"


def test_the_main_table_has_the_field() -> None:
    methods = {arm.method for _, arm in load_grid(Path("main_table")).arms}
    assert len(methods) >= 16
    assert methods >= {"opd", "full-rkl", "eopd", "tip", "reopold", "exopd", "uni-opd", "fire", "fire-as-released"}


def test_grids_of_one_world_share_their_cells() -> None:
    ids = {name: {cell.run_id for cell in load_grid(Path(name)).cells()} for name in TOY}
    shared = {cell.arm for cell in load_grid(Path("weight_form")).cells() if cell.run_id in ids["main_table"]}
    assert shared == {"start", "teacher", "opd", "fire-1.0-1.0"}  # α = β = 1 is FiRe
    for name in ("learning_rate", "batch_size"):
        known = {cell.arm for cell in load_grid(Path(name)).cells() if cell.run_id in ids["main_table"]}
        assert {"opd", "full-rkl"} <= known, "the arms at the shared rate and batch are the main table's"


def test_the_audit_has_three_students_and_as_many_runs_as_its_protocol_says() -> None:
    for name in set(TOY) - {"quickstart"}:
        grid = load_grid(Path(name))
        whole = name in {"main_table", "multi_teacher", "granularity"} or name.startswith("regime_")
        assert len(grid.runs()) == (15 if whole else 6), name
        assert {"toy-2048", "toy-aime", "toy-minerva"} <= {plan.name for plan in grid.evals}


def test_regimes_differ_from_the_clean_one_in_one_thing() -> None:
    clean = load_grid(Path("main_table"))
    for name, changed in {
        "regime_beyond": {"data"},
        "regime_hot": {"rollout", "importance_cap", "objective"},
        "regime_hot_uncorrected": {"rollout", "uncorrected"},
        "regime_flawed": {"teachers"},
    }.items():
        grid = load_grid(Path(name))
        for arm, one in grid.arms:
            same = clean.spec(dict(clean.arms)[arm], 0)
            assert set(differences(grid.spec(one, 0).identity(), same.identity())) == changed, (name, arm)


def test_the_filter_fractions_and_scopes_are_those_asked_for() -> None:
    grid = load_grid(Path("filter_fraction"))
    fire = [dict(arm.at)["keep.fraction"] for _, arm in grid.arms if arm.method == "fire"]
    assert fire == [0.0, 0.1, 0.2, 0.4, 0.6]
    scope = load_grid(Path("scope"))
    for name, arm in scope.arms:
        if arm.at:
            objective = scope.spec(arm, 0).objective()
            rows = getattr(objective.keep.scope, "rows", 64)  # type: ignore[attr-defined]
            assert dict(arm.at)["rollouts"] == rows == int(name.removeprefix("block-"))
            # every statistic has the scope: no other word for one is left in the objective
            same = f"scope={objective.keep.scope!r}"  # type: ignore[attr-defined]
            assert repr(objective).count("scope=") == repr(objective).count(same) == 5


@pytest.mark.parametrize("name", PAPER)
def test_full_scale_grids_are_the_papers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a declaration asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    grid = load_grid(Path(name))
    base = grid.base
    assert (base.optim.lr, base.optim.warmup, base.importance_cap) == (1e-6, 0, 5.0)
    assert (base.data.prompts, base.data.samples, base.rollout.max_tokens) == (1024, 1, 16384)
    assert base.student.startswith("hub:Qwen/Qwen3-4B@")
    assert [plan.k for plan in grid.evals] == [8] * 8 and {plan.temperature for plan in grid.evals} == {1.0}
    # three epochs: 57,046 rows / 1024 = 55.7 batches an epoch; of the mix about 50,500 / 1024 = 49.3
    assert base.steps == {"paper_multi_teacher": 148}.get(name, 165)
    for cell in grid.cells():  # pinned without a download
        assert cell.run_id
        if cell.spec:
            # whatever an arm changes in the run, it sees as many rollouts
            assert cell.spec.data.prompts * cell.spec.data.samples == 1024
            assert assets.pin(cell.spec).digests == cell.spec.digests
    arms = dict(grid.arms)
    released, plain = (grid.spec(arms[name], 0) for name in ("fire-released", "opd-uncorrected"))
    assert released.importance_cap is plain.importance_cap is None
    assert replace(released, method="opd") == plain, "only the method differs"


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY)
def test_every_shipped_arm_runs(name: str, tmp_path: Path) -> None:
    grid = load_grid(Path(name)).edited((("steps", "2"), ("machine.profile_every", "1")))
    evals = tuple(replace(plan, k=1, limit=2) for plan in grid.evals)
    grid = replace(grid, seeds=(0,), students=(), evals=evals, curve=replace(grid.curve, limit=2))
    for cell in grid.cells():
        assert (run_cell(cell, tmp_path) / "result.json").exists(), cell.arm
        if cell.spec:
            steps = [json.loads(line) for line in (tmp_path / cell.run_id / "steps.jsonl").read_text().splitlines()]
            assert [step["step"] for step in steps] == [1, 2] and not any(step["skipped"] for step in steps), cell.arm


def test_the_quick_start_is_as_it_was() -> None:
    assert [name for name, _ in QUICKSTART.arms] == ["opd", "full-rkl", "tip", "fire", "random-filter"]
    assert QUICKSTART.seeds == (0, 1) and QUICKSTART.base.steps == 60


# --- several students -----------------------------------------------------------------------------------------


def test_several_students_are_training_runs_of_every_arm() -> None:
    grid = replace(MINI, students=("toy:teacher-code",), seeds=(0, 3))
    assert grid.runs() == (
        (0, "toy:student", 0),
        (3, "toy:student", 3),
        (100, "toy:teacher-code", 0),
        (103, "toy:teacher-code", 3),
    )
    cells = grid.cells()
    starts = [(cell.seed, cell.model) for cell in cells if cell.arm == "start"]
    assert starts == [(0, "toy:student"), (100, "toy:teacher-code")]
    trained = [cell for cell in cells if cell.spec is not None]
    assert len(trained) == 4 * len(grid.arms) == len({cell.run_id for cell in trained})
    for cell in trained:
        assert cell.spec is not None
        assert (cell.spec.student == "toy:teacher-code") == (cell.seed >= 100)
        assert cell.spec.seed == cell.seed % 100
    # the first student's cells are those of the grid without the others
    alone = {cell.run_id for cell in replace(grid, students=()).cells()}
    assert alone == {cell.run_id for cell in cells if cell.seed < 100}


def test_students_that_make_no_sense() -> None:
    with pytest.raises(UserError, match="student 'toy:student' is named twice"):
        replace(MINI, students=("toy:student",))
    with pytest.raises(UserError, match="seeds must be below 100"):
        replace(MINI, students=("toy:teacher-code",), seeds=(0, 100))
