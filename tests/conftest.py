from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

import trainer  # noqa: F401  # first: it makes the arithmetic reproducible before torch multiplies anything

os.environ.pop("COLUMNS", None)  # pytest-xdist gives its workers one, which commands would print to

settings.register_profile("untimed", deadline=None)  # no test depends on time
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("OPD_SHARED", ROOT.parent / "shared"))


def shared(path: str) -> Path:
    """A file of the optional test data; the test is skipped, with the reason, where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"test data '{path}' is absent (set OPD_SHARED to the folder that holds it)")
    return found
