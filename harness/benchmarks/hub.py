"""Benchmarks from the hub, by commit: what is loaded can be loaded again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from harness.benchmarks.registry import Benchmark
from harness.errors import UserError


def fetch(spec: Benchmark, revision: str | None) -> tuple[Iterable[Any], str]:
    """(rows, commit) of the hub's data set at a revision; a tag, a branch or no name is resolved to its commit first.

    Raises:
        UserError: if the benchmark is not on the hub, the client is not installed, or the hub does not answer.
    """
    remedy = f"name the folder that holds {spec.name}.jsonl with --data-dir or OPD_DATA"
    if spec.hub_id is None:
        raise UserError(f"'{spec.name}' is not on the hub: {remedy}")
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"'{spec.name}' is not at hand: {remedy}, or install the hub client: pip install 'opd-harness[hub]'"
        ) from None
    asked = spec.hub_id if revision is None else f"{spec.hub_id}@{revision}"
    try:
        if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
            revision = str(huggingface_hub.HfApi().dataset_info(spec.hub_id, revision=revision).sha)
        return datasets.load_dataset(spec.hub_id, spec.config, split=spec.split, revision=revision), revision
    except Exception as problem:  # the client raises its own, the network's and the file system's kinds
        raise UserError(
            f"'{spec.name}' cannot be fetched from the hub as {asked} ({type(problem).__name__}): {remedy}"
        ) from None
