"""``python -m harness.bench NAME``: runs one measurement and says where its numbers are."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import harness.bench
from harness.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 1 where the two sides disagree about the work, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m harness.bench", description=harness.bench.__doc__)
    names = parser.add_subparsers(metavar="NAME", required=True)
    for found in sorted(pkgutil.iter_modules(harness.bench.__path__), key=lambda found: found.name):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"harness.bench.{found.name}")
        if hasattr(module, "HELP"):
            made = names.add_parser(found.name.replace("_", "-"), help=module.HELP, description=module.HELP)
            module.arguments(made)
            made.set_defaults(command=module.run)
    args = parser.parse_args(argv)
    try:
        return int(args.command(args))
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
