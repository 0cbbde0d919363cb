"""The command line. Each command is a module of `harness.commands`, a few lines over what does the work."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from harness.commands import COMMANDS
from harness.errors import UserError

EXAMPLES = """examples:
  opd quickstart                                   train, evaluate and compare on the toy world (minutes, no GPU)
  opd methods                                      the table of objectives
  opd methods fire                                 one of them, with every hyper-parameter and its path for --set
  opd train --method fire --student toy:student --teacher toy:teacher-math --data toy:math --set keep.fraction=0.3
  opd train --method full-rkl --student toy:student --teacher math=toy:teacher-math --teacher code=toy:teacher-code \\
            --data toy:math+code --bench toy-aime toy-code
  opd eval toy:student --bench toy-aime --k 32
  opd eval DIR --bench aime24 minerva --data-dir BENCHMARKS --k 8
  opd eval - --engine replay --responses answers.jsonl --bench aime24 --data-dir BENCHMARKS --k 1
  opd compare quickstart/opd quickstart/fire       which problems carry a difference
  opd power --bench aime24                         what difference 30 problems can show
  opd ablate ablations/quickstart.py --dry-run     what would run, what is there
  opd report quickstart                            tables, figures and page again, from the kept records
  opd rerun quickstart fire                        one kept run again: does it end as recorded?
"""

#: A full disk is reported for an open file, without its name.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for a failed run, 2 for bad input, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        return args.command(args)
    except UserError as error:
        print(f"opd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `opd … | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:
            raise  # of a network or a process: not of a path that the user named
        where = error.filename or "the disk"
        print(f"opd: {where}: {error.strerror}; name another path, or make this one fit to write to", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("opd: stopped; the same command continues where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opd",
        description="A laboratory for on-policy distillation: train, evaluate, ablate, report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"harness.commands.{name}")
        made = commands.add_parser(
            name.replace("_", "-"),
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
            epilog="examples:\n  " + module.EXAMPLES.replace("\n", "\n  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.arguments(made)
        made.set_defaults(command=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
