"""`opd methods`: the table of objectives."""

from __future__ import annotations

import argparse

HELP = "list the objectives, or explain one"
EXAMPLES = "opd methods fire\nopd methods --filter TopFraction\nopd methods --filter 2606.02684 --json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a method to explain")
    parser.add_argument("--filter", metavar="TEXT", help="only lines whose name, change, paper or blocks contain this")
    parser.add_argument("--json", action="store_true", help="the table as JSON")


def run(args: argparse.Namespace) -> int:
    from harness.catalogue import show

    return show(args.name, args.filter, args.json)
