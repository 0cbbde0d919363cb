"""The command line's commands, a module each: `HELP`, `EXAMPLES`, `arguments(parser)` and `run(args)`.

A module imports what is light at its top and what is heavy inside `run`, so that `opd --help` is quick.
"""

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
