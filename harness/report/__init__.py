"""The report of a grid: tables, figures and one self-contained page, from kept records alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from harness import tables
from harness.errors import UserError
from harness.plots.figures import GROUPS, drawings
from harness.plots.style import save, svg
from harness.samples import tokenpage
from harness.tables import filtering, markup
from harness.tables.markup import shorten
from harness.tables.standings import order

if TYPE_CHECKING:
    from harness.records import Records


def write_report(records: Records, rollouts: Sequence[Mapping[str, Any]], root: Path) -> Path:
    """Write `tables/<grid>/`, `figures/<grid>/` and `pages/<grid>.html` under `root`; returns the page.

    The same records give the same bytes, for one matplotlib version.

    Args:
        rollouts: token views, one object per rollout (`tokenpage.embedded` names the keys); may be empty.

    Raises:
        UserError: the records contradict themselves, or a token view is malformed.
    """
    grid = records.manifest["grid"]
    frame = tables.comparison(records)
    text = tables.caption(records, frame)
    title = shorten(records.manifest.get("title") or records.manifest["grid"])
    data = tokenpage.embedded(rollouts)
    groups = _write_figures(records, frame, root / "figures" / grid)
    cost, effects, scores = tables.cost(records), tables.effects(records), _scores(records)
    _write_tables(frame, {"effects": effects, "scores": scores}, text, title, root / "tables" / grid)
    page = tokenpage.environment().get_template("report.html.j2")
    html = page.render(
        title=title,
        lead=_lead(records),
        remarks=tables.remarks(frame),
        headlines=tables.headlines(frame) or ["There is no arm to compare with the baseline."],
        summary=_fragment(tables.summary(frame, text), "summary"),
        details=_fragment(tables.details(frame), "details"),
        cost=_fragment(cost, "cost") if cost.rows else "",
        effects=_fragment(effects, "effects") if effects.rows else "",
        scores=_fragment(scores, "scores") if scores.rows else "",
        groups=groups,
        arms=_arms(records.manifest),
        rollouts=len(rollouts),
        data=data,
        provenance=_provenance(records.manifest, str(frame["checker"].iloc[0])),
        style=tokenpage.style(),
        script=tokenpage.script(),
        script_hash=tokenpage.script_hash(),
    )
    return _write(root / "pages" / f"{grid}.html", html + "\n")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _write_tables(
    frame: pd.DataFrame, others: Mapping[str, markup.Table], caption: str, title: str, folder: Path
) -> None:
    details = tables.details(frame)
    _write(folder / "comparison.md", tables.to_markdown(frame, caption))
    _write(folder / "comparison.tex", tables.to_latex(frame, caption))
    _write(folder / "comparison.csv", tables.to_csv(frame))
    _write(folder / "details.md", markup.markdown(details))
    for name, table in others.items():
        _write(folder / f"{name}.md", markup.markdown(table))
    body = _fragment(tables.summary(frame, caption), "summary") + _fragment(details, "details")
    page = tokenpage.environment().get_template("tables.html.j2")
    _write(folder / "comparison.html", page.render(title=title, style=tokenpage.style(), body=body) + "\n")


def _scores(records: Records) -> markup.Table:
    """How well the trajectory score tells right from wrong; without rows where no rollouts were recorded."""
    try:
        return filtering.table(filtering.summary(records))
    except UserError as error:
        return markup.Table(("",), (), f"Not measured: {error}.")


def _write_figures(records: Records, frame: pd.DataFrame, folder: Path) -> list[dict[str, Any]]:
    """Draw what the records allow; the groups of figures to embed, and why others are missing, each reason once."""
    groups: dict[str, dict[str, Any]] = {
        name: {"name": name, "title": title, "figures": [], "undrawn": []} for name, title in GROUPS.items()
    }
    said: set[str] = set()
    for drawing in drawings(records, frame):
        group = groups[drawing.group]
        try:
            figure, numbers = drawing.draw()
        except UserError as error:
            group["undrawn"] += [str(error)] if str(error) not in said else []
            said.add(str(error))
            continue
        save(figure, numbers, folder / drawing.name)
        data = base64.b64encode(svg(figure).encode()).decode()
        alt = f"{drawing.name} figure; its numbers are in figures/{folder.name}/{drawing.name}.csv"
        entry = {"name": drawing.name, "title": drawing.title, "data": data, "alt": alt, "caption": drawing.caption}
        group["figures"].append(entry)
    return [group for group in groups.values() if group["figures"] or group["undrawn"]]


def _fragment(table: markup.Table, name: str) -> Markup:
    """A table's HTML without its remarks, which stand at the head of the page."""
    return Markup(markup.to_html(markup.Table(table.head, table.rows, table.caption, (), table.words), name))


def _lead(records: Records) -> str:
    manifest = records.manifest
    trained = [arm for arm, spec in manifest["arms"].items() if not spec.get("reference")]
    students = len(manifest.get("students", [""]))
    count = len(manifest["seeds"]) // students
    benches = ", ".join(shorten(bench.get("label") or name) for name, bench in manifest["benches"].items())
    parts = [
        f"{len(trained)} arms × {f'{students} students × ' if students > 1 else ''}{count} training "
        f"seed{'s' if count != 1 else ''}",
        f"{manifest['steps']} steps",
        benches,
    ]
    return " · ".join(parts)


def _arms(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "label": shorten(spec.get("label") or arm),
            "method": spec.get("method", ""),
            "objective": spec.get("objective", ""),
        }
        for arm in order(manifest)
        if not (spec := manifest["arms"][arm]).get("reference")
    ]


def _provenance(manifest: Mapping[str, Any], checker: str) -> list[tuple[str, str]]:
    """Name and value of everything a reader needs to know where the numbers came from."""
    known = dict(manifest.get("provenance") or {})
    packages = known.pop("packages", None) or {}
    dirty = " (with uncommitted changes)" if known.pop("dirty", False) else ""
    commit = known.pop("commit", None)
    rows = [("grid", str(manifest["grid"]))]
    rows += [("commit", f"{commit}{dirty}")] if commit else []
    rows += [(str(name), str(value)) for name, value in sorted(known.items())]
    rows += (
        [("packages", ", ".join(f"{name} {version}" for name, version in sorted(packages.items())))] if packages else []
    )
    rows.append(("checker", f"{checker}, version {manifest.get('checker_version', 'unknown')}"))
    for name, bench in manifest["benches"].items():
        rows.append(
            (f"bench {name}", f"n = {bench['n']}, k = {bench['k']}, prompt {bench.get('prompt_hash', 'unknown')}")
        )
    return rows
