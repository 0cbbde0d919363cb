"""`opd report`: tables, figures and page of kept records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.commands import console

HELP = "write tables, figures and page from kept records"
EXAMPLES = "opd report quickstart\nopd report results/runs/report/records/quickstart --out /tmp/report"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a grid in results/records, or a folder of records")
    parser.add_argument("--out", type=Path, help="folder to write to (default: results)")


def run(args: argparse.Namespace) -> int:
    from harness.records import RESULTS

    named = RESULTS / "records" / args.name
    write(named if named.is_dir() else args.name, args.out or RESULTS, console())
    return 0


def write(kept: Path | str, root: Path, out: Any) -> None:
    """Tables, figures and page of records, and the table in the terminal."""
    from harness.records import load
    from harness.report import write_report
    from harness.tables import caption, comparison, to_rich

    records = load(kept)
    frame = comparison(records)
    out.print(to_rich(frame, caption(records, frame), records.manifest["title"]))
    page = write_report(records, rollouts(Path(kept)), root)
    out.print(f"tables, figures and page: {page}", soft_wrap=True)


def rollouts(folder: Path) -> list[dict[str, Any]]:
    """The token views kept in a folder of records or of a run."""
    path = folder / "rollouts.json"
    return json.loads(path.read_text()) if path.exists() else []
