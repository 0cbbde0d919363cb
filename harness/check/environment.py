"""The environment against what the project needs: packages, torch, disk, permissions, optional tools."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.check.findings import Finding, Progress, right

DISTRIBUTION: Final = "opd-harness"
EXTRAS: Final = {
    "hub": "loads benchmarks from the hub",
    "vllm": "samples on GPUs",
    "lm-eval": "runs lm-eval's own tasks",
    "ray": "runs grids on several machines",
}
DISK: Final = 2 * 10**9  # bytes free: runs keep checkpoints
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


def environment(results: Path | None = None, progress: Progress | None = None) -> Iterator[Finding]:
    """Versions against what the project requires, threads, disk, the results folder, tools that are optional."""
    from harness.records import RESULTS

    yield from _packages()
    yield _torch()
    folder = RESULTS if results is None else results
    yield _disk(folder)
    yield _writable(folder)
    for names, use in ((("git",), "commits are not recorded"), (_BROWSERS, "pages are not tested in a browser")):
        if not any(map(shutil.which, names)):
            yield Finding("absent", f"no {names[0]}: {use}, all else works", f"install {names[0]}")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or ()]
        python = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("absent", f"{DISTRIBUTION} is not installed, so its requirements are unknown", "pip install -e .")
        return
    wrong, fitting = [], []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            fitting.append(f"{requirement.name} {found}")
        else:
            wrong.append((requirement, found))
    for requirement, found in wrong:
        have = "is not installed" if found is None else f"is {found}"
        yield Finding("wrong", f"{requirement.name} {have}", f"pip install '{requirement.name}{requirement.specifier}'")
    if not wrong:
        yield right(f"Python {platform.python_version()} ({python}) and {len(fitting)} packages: {', '.join(fitting)}")
    for extra, use in EXTRAS.items():
        for requirement in wanted:
            if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
                continue
            found = _version(requirement.name)
            if found is None:
                how = f"pip install '{DISTRIBUTION}[{extra}]'"
                yield Finding("absent", f"no {requirement.name}, which {use}", how)
            elif not requirement.specifier.contains(found, prereleases=True):
                how = f"pip install '{requirement.name}{requirement.specifier}'"
                yield Finding("wrong", f"{requirement.name} is {found}", how)
            else:
                yield right(f"{requirement.name} {found}, which {use}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> Finding:
    import trainer  # noqa: F401  # first: it makes the arithmetic reproducible before torch multiplies anything

    try:
        import torch
    except (ImportError, OSError) as problem:
        return Finding("wrong", f"torch cannot be imported ({type(problem).__name__})", "install torch again")
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores' threads"
    where = f"{cards} GPU{'s' if cards > 1 else ''} ({torch.cuda.get_device_name(0)})" if cards else "no GPU"
    return right(f"torch {torch.__version__}: {where}, {threads} (OMP_NUM_THREADS sets them)")


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    what = f"{free / 1e9:.1f} GB free for {folder}"
    return right(what) if free >= DISK else Finding("wrong", what, "free some, or name another folder in OPD_RESULTS")


def _writable(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        remedy = "change its permissions, or name another folder in OPD_RESULTS"
        return Finding("wrong", f"{folder} cannot be written to ({type(problem).__name__})", remedy)
    return right(f"{folder} can be written to")
