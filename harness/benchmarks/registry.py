"""The table of benchmarks: where each comes from, what it must look like, how many samples it gets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

Style = Literal["clean", "paper", "plain"]


class ToyRecipe(NamedTuple):
    """The arguments of ``harness.toy.tasks.generate``."""

    domain: str
    split: str
    difficulty: tuple[int, int]
    seed: int


@dataclass(frozen=True)
class Benchmark:
    """One row of the registry.

    ``files`` are the names it goes by in a data folder (``<name>.jsonl``, ``<name>.parquet``, ``<name>/test.jsonl``,
    case and punctuation aside); ``sha256`` is that of the file released with FiRe-OPD and ``content`` the hash of the
    problems and answers in it, in order, whatever file or hub they come from. ``revision`` is the commit of ``hub_id``
    that is loaded. ``problem_columns`` and ``answer_columns`` are tried in order.
    """

    name: str
    label: str
    n: int
    k: int
    answer_type: str = "mixed"
    licence: str = "unknown"
    hub_id: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str = "test"
    files: tuple[str, ...] = ()
    sha256: str | None = None
    content: str | None = None
    problem_columns: tuple[str, ...] = ("problem", "question", "prompt", "Problem", "Question")
    answer_columns: tuple[str, ...] = ("answer", "final_answer", "Answer", "expected_answer")
    families: bool = False  # problems that share their opening are one cluster
    style: Style = "clean"
    toy: ToyRecipe | None = None


# The files released with FiRe-OPD (commit 2e23cd6, data/).
_RELEASED: Final = {
    "aime24": "a3c49569f3d7125aaf4eea5764bd1b868af534ae3aff6aad0843a7da58fe46b8",
    "aime25": "6012af2a112f5e26d91f1b0cc644b5dde6399173b8b648aec2e6b9899877a2db",
    "hmmt25_feb": "58d889b807a87fd189562d9aeaf2bddf342b2e956843ebbbd8259fc93195cc3f",
    "hmmt25_nov": "37be20ee4d01044638f1d790d938138c2ce6f26fc9e60f6987db5c220783f226",
    "math500": "5b126695a919f8fb40edffaf2e748ae08f7fb6ce0721211671c760b4f0b7c5de",
    "amc23": "b443425b035d98fec3da4de7e347ac43cebcf7b721e96ba8bf9e0120d24dd61d",
    "minerva": "ff6e07ac93af4e43885fe7710ded51c8db04543d627326b855d903075d59e872",
    "olympiadbench": "6c3c658145c21dd76f70eef1456dc5de9bbb38342f2ffdc4a803d8e6e3005ecc",
}
# The problems of those files without their instruction, and the answers: `harness.benchmarks.content_hash`.
_CONTENT: Final = {
    "aime24": "a951e5e7125f5f9b",
    "aime25": "726de9f152f77240",
    "hmmt25_feb": "0e66cd63b365b6ea",
    "hmmt25_nov": "8ab8c49f2956b244",
    "math500": "df3219c277b8fb7a",
    "amc23": "fc665ade46ec3d8f",
    "minerva": "d7dd943b4f77f6ac",
    "olympiadbench": "9d7d0d74e9793650",
}
# Commits of the hub's data sets. Each is the one that several independent public projects pin; among them, for
# math-ai/aime25, inspect-evals 0.26.0, and for the MathArena sets, scitix/sieval. None was fetched by us: what is
# loaded from them is compared with `_CONTENT`, and `opd benchmarks NAME@REVISION` says whether it is the same.
_PINNED: Final = {
    "aime24": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    "aime25": "563bb8404243c5f09de6ec262f2db674fe5bce9b",
    "aime26": "d2de22f3c656b4f56cf8981212186377d1e23bc3",
    "hmmt25_feb": "6fdc4277120810ff75aa22d2d5489b91f7a262a1",
    "hmmt25_nov": "118dbfb45c4c9467c672268ed55166642897aa46",
    "hmmt26_feb": "02fba4f74d8e68e73e66a02d540fd979c05c274c",
    "amc23": "80815d37005feb82cd7f8fbc6901d5d3eff43057",
    "math500": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    "minerva": "ee46ddc498933b1977577953250ca5c66be64f96",
    "olympiadbench": "91184b52131e7fc9455fef848035173aea8cc01a",
}
_ARENA: Final = "CC BY-NC-SA 4.0"
_MAA: Final = "unknown; problems: MAA"


def _row(
    name: str, label: str, n: int, k: int, kind: str, licence: str, hub: str, split: str, *files: str, **more: Any
) -> Benchmark:
    return Benchmark(
        name,
        label,
        n,
        k,
        kind,
        licence,
        hub,
        _PINNED.get(name),
        split=split,
        files=(bare_name(name), *files),
        sha256=_RELEASED.get(name),
        content=_CONTENT.get(name),
        **more,
    )


def _toy(name: str, label: str, n: int, k: int, recipe: ToyRecipe) -> Benchmark:
    return Benchmark(name, label, n, k, "integer", "Apache-2.0 (generated)", style="plain", toy=recipe)


def bare_name(name: str) -> str:
    """``HMMT25-Feb`` and ``hmmt25_feb`` are one name."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


_OCW: Final = "unknown; problems: MIT OpenCourseWare, CC BY-NC-SA"
_TABLE: Final = (
    _row("aime24", "AIME24", 30, 32, "integer", _MAA, "HuggingFaceH4/aime_2024", "train", "aime2024"),
    _row("aime25", "AIME25", 30, 32, "integer", _MAA, "math-ai/aime25", "test", "aime2025"),
    _row("aime26", "AIME26", 30, 32, "integer", _ARENA, "MathArena/aime_2026", "train", "aime2026"),
    _row("hmmt25_feb", "HMMT Feb 25", 30, 32, "mixed", _ARENA, "MathArena/hmmt_feb_2025", "train", "hmmtfeb2025"),
    _row("hmmt25_nov", "HMMT Nov 25", 30, 32, "mixed", _ARENA, "MathArena/hmmt_nov_2025", "train", "hmmtnov2025"),
    _row("hmmt26_feb", "HMMT Feb 26", 33, 32, "mixed", _ARENA, "MathArena/hmmt_feb_2026", "train", "hmmtfeb2026"),
    _row("amc23", "AMC23", 40, 32, "integer", _MAA, "math-ai/amc23", "test", "amc2023"),
    _row("math500", "MATH500", 500, 4, "mixed", "MIT (upstream)", "HuggingFaceH4/MATH-500", "test"),
    _row("minerva", "Minerva", 272, 8, "mixed", _OCW, "math-ai/minervamath", "test", "minervamath", families=True),
    _row(
        "olympiadbench",
        "OlympiadBench",
        674,
        4,
        "mixed",
        "Apache-2.0",
        "Hothan/OlympiadBench",
        "train",
        "olympiad",
        config="OE_TO_maths_en_COMP",
    ),
    _toy("toy-aime", "toy AIME", 30, 32, ToyRecipe("math", "eval", (5, 6), 1)),
    _toy("toy-minerva", "toy Minerva", 272, 8, ToyRecipe("math", "eval", (2, 6), 1)),
    _toy("toy-code", "toy code", 128, 8, ToyRecipe("code", "eval", (2, 6), 1)),
    _toy("toy-ood", "toy out of distribution", 128, 8, ToyRecipe("math", "eval", (9, 12), 1)),
    _toy("toy-held-out", "toy held out", 256, 1, ToyRecipe("math", "held-out", (2, 6), 1)),
    _toy("toy-2048", "toy 2,048", 2048, 1, ToyRecipe("math", "held-out", (2, 6), 2)),
)
BENCHMARKS: Final[dict[str, Benchmark]] = {row.name: row for row in _TABLE}
