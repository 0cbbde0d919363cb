"""`opd toy`: the toy world's models."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the toy world's models"
EXAMPLES = "opd toy build --out /tmp/toy"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["build"], help="train them from nothing and print their accuracies")
    parser.add_argument("--out", type=Path, help="folder (default: over the ones in the package)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models to build (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from harness.toy.build import build

    build(args.out, args.only, args.seed)
    return 0
