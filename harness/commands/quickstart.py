"""`opd quickstart`: the shipped grid, run and reported."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import ablate

HELP = "train several objectives on the toy world, evaluate and compare them"
EXAMPLES = "opd quickstart\nopd quickstart --jobs 1"


def arguments(parser: argparse.ArgumentParser) -> None:
    ablate.grid_options(parser)


def run(args: argparse.Namespace) -> int:
    from harness.grid import load_grid

    return ablate.run_grid(load_grid(Path(__file__).parents[2] / "ablations" / "quickstart.py"), args)
