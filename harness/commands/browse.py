"""`opd browse`: one page with every problem of an evaluation, all its answers and both verdicts."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import console

HELP = "write a page to read the answers of an evaluation, with what looks odd about their verdicts"
EXAMPLES = (
    "opd browse results/runs/eval-student-1f00aa\n"
    "opd browse results/runs/fire-8c1b2d4e --bench aime24 --out aime24.html --limit-chars 50000"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="of an evaluation, or of a run (its last evaluation)")
    parser.add_argument("--bench", nargs="+", default=[], metavar="NAME", help="only these benchmarks (default: all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: samples.html in the evaluation's folder)")
    parser.add_argument(
        "--limit-chars",
        type=int,
        default=20_000,
        metavar="N",
        help="keep of a longer response its head, its tail and what is around the answer (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from harness.samples import LARGE, write_page
    from harness.samples.suspicions import KINDS
    from harness.tables.markup import shorten

    out = console()
    with Progress(console=out, transient=True, disable=not out.is_terminal) as bars:
        bar = bars.add_task("problems")

        def progress(name: str, done: int, total: int) -> None:
            bars.update(bar, description=escape(shorten(name)), completed=done, total=total)

        page = write_page(args.folder, args.bench, args.out, args.limit_chars, progress)
    table = Table(title="what to look at first, in samples", title_justify="left")
    table.add_column("")
    for name in page.benches:
        table.add_column(Text(shorten(name)), justify="right")
    counts = page.benches.values()
    table.add_row("samples", *(f"{count.samples:,}" for count in counts))
    table.add_row("suspicious", *(f"{count.suspicious:,}" for count in counts), end_section=True)
    for kind, (label, _) in KINDS.items():
        if any(count.kinds[kind] for count in counts):
            table.add_row(label, *(f"{count.kinds[kind]:,}" for count in counts))
    out.print(table)
    for name, count in page.benches.items():
        for remark in count.remarks:
            out.print(Text(f"{shorten(name)}: {remark}", style="yellow"), soft_wrap=True)
    if page.size > LARGE:
        out.print("The page is large: --bench or a smaller --limit-chars makes it quicker to open.", style="yellow")
    out.print(Text(f"page: {page.path} ({page.size / 1e6:,.1f} MB)"), soft_wrap=True)
    return 0
