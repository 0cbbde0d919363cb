"""What is committed under results/ and shown in README is what the committed records say."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from harness.cli import main
from harness.grid import load_grid
from harness.records import load
from harness.report import write_report
from harness.runs import estimates
from tests.conftest import ROOT

RESULTS = ROOT / "results"
DIFFERENCES = ("forest", "sweep-", "heatmap-")
GRIDS = sorted(path.parent.name for path in (RESULTS / "records").glob("*/manifest.json"))


def regenerated(grid: str, folder: Path) -> list[Path]:
    import json

    kept = RESULTS / "records" / grid
    rollouts = json.loads((kept / "rollouts.json").read_text())
    write_report(load(kept), rollouts, folder)
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]


def draws_alike(grid: str) -> bool:
    """Whether this matplotlib is the one that drew the kept figures: others give other bytes."""
    packages = load(RESULTS / "records" / grid).manifest["provenance"]["packages"]
    return importlib.metadata.version("matplotlib") == packages["matplotlib"]


@pytest.mark.parametrize(
    "grid", [grid if grid == "quickstart" else pytest.param(grid, marks=pytest.mark.slow) for grid in GRIDS]
)
def test_tables_figures_and_page_regenerate_byte_for_byte(grid, tmp_path):
    same_drawing = draws_alike(grid)
    files = regenerated(grid, tmp_path)
    assert len(files) >= 18
    made = {file for file in files if file.parts[0] in ("tables", "figures")}
    kept = {p.relative_to(RESULTS) for kind in ("tables", "figures") for p in (RESULTS / kind / grid).rglob("*")}
    # of a large grid only the figures of differences are kept, see .gitignore
    needed = {file for file in made if file.parts[0] == "tables" or file.stem.startswith(DIFFERENCES)}
    assert (made if grid == "quickstart" else needed) <= kept <= made
    for file in kept | ({Path("pages", f"{grid}.html")} if grid == "quickstart" else set()):
        if same_drawing or file.parts[0] == "tables" or file.suffix == ".csv":
            assert (tmp_path / file).read_bytes() == (RESULTS / file).read_bytes(), file


@pytest.mark.slow
def test_the_audit_regenerates_byte_for_byte(tmp_path, capsys):
    kept = sorted(path for kind in ("tables", "figures") for path in (RESULTS / kind / "audit").glob("*"))
    if not kept:
        pytest.skip("no part of the audit is kept yet")
    assert main(["audit", "--out", str(tmp_path)]) == 0
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path) for path in made] == [path.relative_to(RESULTS) for path in kept]
    same_drawing = draws_alike("quickstart")
    for path, one in zip(kept, made, strict=True):
        if same_drawing or path.suffix in (".md", ".csv"):
            assert one.read_bytes() == path.read_bytes(), path.name


def test_readme_shows_the_committed_tables():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- table: (\S+) -->\n(.*?)<!-- end -->", readme, re.DOTALL)
    assert blocks
    for path, text in blocks:
        assert text.strip() == (ROOT / path).read_text().strip()


def test_intervals_in_the_reports_are_those_of_the_tables():
    tables = "\n".join(path.read_text() for path in (RESULTS / "tables").rglob("*.md"))
    for page in (ROOT / "README.md", RESULTS / "README.md"):
        said = re.findall(r"([−+]?\d+\.\d+) (\[[−+]?\d+\.\d+, [−+]?\d+\.\d+\])", page.read_text().replace("\n", " "))
        assert len(said) > 20 or page.parent == ROOT
        for value, interval in said:
            beside = re.escape(value) + r"[^\d\n]{1,20}" + re.escape(interval)  # markup, or a cell's border
            assert re.search(beside, tables), f"{page.relative_to(ROOT)}: {value} {interval}"


def test_full_scale_costs_are_those_of_the_dry_runs():
    page = (RESULTS / "FULL_SCALE.md").read_text()
    rows = {
        row[0].strip("`"): row[1:]
        for row in re.findall(r"^\| (`paper_\w+`)" + r" \| ([\d,]+)" * 5 + r" \|$", page, re.M)
    }
    assert len(rows) == 3
    for name, printed in rows.items():
        grid = load_grid(Path(name))
        cells = grid.cells()
        arms = {row.arm: row for row in estimates.of_grid(grid, cells)}
        assert f"in all {printed[1]} GPU-hours" in estimates.lines(list(arms.values()))[0]
        opd, fire = (arms[arm].estimate.gpu_hours for arm in ("opd", "fire"))
        said = [int(number.replace(",", "")) for number in printed]
        assert said[0] == len(cells) and [round(opd), round(fire)] == said[2:4]
        assert abs(3 * (opd + fire) - said[4]) <= 3


def test_links_of_the_readmes_lead_somewhere():
    for page in (ROOT / "README.md", RESULTS / "README.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        assert links
        for link in links:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_records_hold_no_model_text():
    for grid in GRIDS:
        longest = load(RESULTS / "records" / grid).samples["answer"].dropna().str.len().max()
        assert longest <= 64
