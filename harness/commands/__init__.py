"""The command line's commands, a module each: `HELP`, `EXAMPLES`, `arguments(parser)` and `run(args)`.

A module imports what is light at its top and what is heavy inside `run`, so that `opd --help` is quick.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Modules in the order of `opd --help`; the command's name has `-` for `_`.
COMMANDS = (
    "quickstart",
    "methods",
    "train",
    "eval",
    "grade",
    "browse",
    "compare",
    "ablate",
    "status",
    "report",
    "rerun",
    "audit",
    "claims",
    "power",
    "grim",
    "benchmarks",
    "contamination",
    "export_lm_eval",
    "check",
    "toy",
)


def console(width: int = 160) -> Console:
    """The terminal. A file or a pipe has no width: tables take what they need there, up to `width` or COLUMNS."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=width)
