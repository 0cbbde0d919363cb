"""`opd claims`: published gains beside what was measured here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import console
from harness.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

HELP = "published gains beside what was measured here, with a verdict on each"
EXAMPLES = (
    "opd claims\nopd claims --paper 2606.02684\nopd claims --method tip --benchmark aime24\nopd claims --all --json"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--paper", metavar="ID", help="only claims of this paper: an arXiv id, or its file's name")
    parser.add_argument("--benchmark", metavar="B", help="only claims on this benchmark")
    parser.add_argument("--method", metavar="M", help="only claims about this method")
    parser.add_argument("--all", action="store_true", help="all claims, not only the headline ones")
    parser.add_argument("--json", action="store_true", help="print the claims as JSON instead of tables")
    parser.add_argument("--reported", type=Path, metavar="DIR", help="folder of published numbers (results/reported)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write tables and figure to (results)")


def run(args: argparse.Namespace) -> int:
    from rich.text import Text

    from harness.claims import claims, report
    from harness.claims.ledger import load_reported, published
    from harness.claims.printed import numbers
    from harness.claims.resolution import resolution
    from harness.records import RESULTS, load
    from harness.tables.markup import to_rich

    reported = args.reported or RESULTS / "reported"
    kept = sorted((RESULTS / "records").glob("*/manifest.json"))
    frame = claims(reported, (load(path.parent) for path in kept))
    rows = load_reported(reported)
    printed = numbers(rows)
    shown = _filtered(frame, args)
    # what is written is always whole: a filter must not leave a part of the table behind
    written = report.write(frame, printed, resolution(published(rows)), args.out or RESULTS)
    if args.json:
        print(json.dumps(report.as_data(shown), indent=1, ensure_ascii=False))
        return 0
    out = console()
    out.print(to_rich(report.table(shown), f"{len(shown)} of {len(frame)} published gains"))
    for reason in report.reasons(shown):
        out.print(Text(f"• {reason}"))
    printed = printed if args.paper is None else printed[printed["paper"] == args.paper]
    if len(report.impossible(printed)):
        out.print(to_rich(report.grim_table(printed, ks=False), "Numbers that their stated design cannot give"))
    out.print(f"tables and figure: {written[0].parent}, {written[-1].parent}", soft_wrap=True, highlight=False)
    return 0


def _filtered(frame: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """The claims that were asked for: the headline ones where nothing was."""
    from harness.claims.report import headline

    wanted = {"paper": args.paper, "benchmark": args.benchmark, "method": args.method}
    wanted = {column: value for column, value in wanted.items() if value is not None}
    for column, value in wanted.items():
        if value not in (known := list(dict.fromkeys(frame[column]))):
            raise UserError(f"no published gain has the {column} '{value}': there are {', '.join(known)}")
    found = frame
    for column, value in wanted.items():
        found = found[found[column] == value]
    if found.empty:
        raise UserError(f"no published gain has {' and '.join(f'{c} {v}' for c, v in wanted.items())} together")
    return found if wanted or args.all else headline(frame)
