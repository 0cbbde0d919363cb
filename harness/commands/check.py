"""`opd check`: what this installation and its data can be trusted with."""

from __future__ import annotations

import argparse
from collections import Counter

from harness.commands import console

HELP = "check the environment, benchmark files, golds against their grader, methods and toy models"
EXAMPLES = """opd check
opd check --data-dir BENCHMARKS
opd check --data --golds --data-dir BENCHMARKS
opd check --methods"""

PARTS = {
    "environment": "package versions, torch, disk, the results folder",
    "data": "row counts and hashes of the benchmark files",
    "golds": "every gold passes its own strict grader; hostile answers are survived",
    "methods": "every method plans, and what it needs is provided",
    "toy": "the toy models are those of their cards",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    for name, what in PARTS.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"only: {what}")


def run(args: argparse.Namespace) -> int:
    from rich.progress import Progress
    from rich.text import Text

    from harness import check

    signs = {"right": Text("✓ ", "green"), "wrong": Text("✗ ", "bold red"), "absent": Text("– ", "yellow")}
    out = console()
    chosen = [name for name in PARTS if getattr(args, name)] or list(PARTS)
    said: dict[check.Finding, None] = {}  # two parts may find the same
    for name in chosen:
        out.print(Text(name, "bold"))
        options = {"data_dir": args.data_dir} if name in ("data", "golds") else {}
        with Progress(console=out, transient=True, disable=not out.is_terminal) as bars:
            task = bars.add_task(name, total=None)
            findings = check.PARTS[name](
                **options,
                progress=lambda what, done, total, bars=bars, task=task: bars.update(
                    task, description=what, completed=done, total=total
                ),
            )
            for finding in findings:
                if finding not in said:
                    said[finding] = None
                    text = f"{finding.what}: {finding.remedy}" if finding.remedy else finding.what
                    out.print(signs[finding.state] + Text(text), soft_wrap=True)
    count = Counter(finding.state for finding in said)
    out.print(
        f"{count['right']} right, {count['wrong']} wrong, {count['absent']} not at hand",
        style="bold red" if count["wrong"] else "bold",
    )
    return 1 if count["wrong"] else 0
