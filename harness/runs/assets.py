"""Names on the command line and in specs → the things they mean: model folders, data files, prompt sources.

`toy:…` is in the package, a path is on this machine, `hub:…` is fetched from the Hugging Face hub, and only when
something is to be computed with it: declaring, planning and pinning need no network.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness.benchmarks.datafiles import file_hash
from harness.errors import UserError
from harness.runs import prompts
from harness.toy import FLAWED_TEACHER, STUDENTS, TEACHERS, tasks
from trainer.config import Data, RunSpec, served
from trainer.data import FilePrompts, PromptSource

TOY_MODELS = {f"toy:{path.name}": path for path in (*STUDENTS.values(), *TEACHERS.values(), FLAWED_TEACHER)}

#: SHA-256 of files on the hub that published runs were made with: any revision must give these very bytes.
KNOWN_FILES: Final = {
    "Keven16/G-OPD-Training-Data:DeepMath-103K/train_filtered_level6.parquet": (
        "de3350fdd00bc0410550098ea65179e2be873da99e4075f80de575fc17670597"
    ),
    "Keven16/G-OPD-Training-Data:Eurus/code_train.parquet": (
        "ea31611a8f32e2fcf3f24a484b7433868bc47facca1cf950867460b0300f7b7e"
    ),
}
_HUB: Final = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<path>[^:]+))?")
_MODEL_FILES: Final = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


class HubName(NamedTuple):
    """`hub:OWNER/NAME[@revision]`, a model, or `hub:OWNER/NAME[@revision]:path`, a file of a data set."""

    repo: str
    revision: str | None
    path: str | None


def hub_name(name: str) -> HubName:
    """The parts of a `hub:` name.

    Raises:
        UserError: if it is none.
    """
    if not (found := _HUB.fullmatch(name)):
        raise UserError(f"'{name}' is no name on the hub: write hub:OWNER/MODEL[@revision], or …:path of a data file")
    return HubName(found["repo"], found["revision"], found["path"])


# --- models ---------------------------------------------------------------------------------------------------


def model_folder(name: str) -> Path:
    """The folder of a model: `toy:student`, `toy:teacher-math`, a transformers folder, a run's folder, `hub:…`.

    Raises:
        UserError: if there is no such model, or the hub does not give it.
    """
    if name.startswith("toy:"):
        if name not in TOY_MODELS:
            raise UserError(f"unknown toy model '{name}': there are {', '.join(TOY_MODELS)}")
        if not TOY_MODELS[name].is_dir():
            raise UserError(f"the toy models are not built: run `opd toy build` ({TOY_MODELS[name]} is missing)")
        return TOY_MODELS[name]
    if name.startswith("hub:"):
        return _snapshot(name)
    if name.startswith("server:"):
        raise UserError(f"'{name}' can only be a teacher: what is trained or evaluated here needs a model folder")
    folder = Path(name)
    if (folder / "checkpoint").is_dir():
        folder = folder / "checkpoint"
    if not folder.is_dir():
        raise UserError(
            f"model folder {name} does not exist: name a transformers folder, a run, toy:student or hub:OWNER/MODEL"
        )
    if not (folder / "config.json").exists():
        raise UserError(f"{name} has no config.json: it is not a transformers model folder")
    return folder


def model_digest(name: str) -> str:
    """What a model is, for a run's identity: the content of a folder, the revision of a model on the hub."""
    if name.startswith("hub:"):
        return _revision(name)
    if served(name):
        return "served"  # what stands behind the name is the server's affair
    folder = model_folder(name)
    return _fingerprint(folder, _stamp(folder))


def short_name(name: str) -> str:
    """A model in names of folders: without owner, revision and path."""
    bare = hub_name(name).repo if name.startswith("hub:") else served(name) or name
    return re.sub(r"[^\w.]+", "-", bare if bare.startswith("toy:") else Path(bare).name).strip("-.") or "model"


def _revision(name: str) -> str:
    repo, revision, path = hub_name(name)
    return f"hub:{repo}@{revision or 'main'}" + (f":{path}" if path else "")


def commits(spec: RunSpec | None) -> dict[str, str]:
    """The commits that a run's `hub:` models were fetched at. To be asked after they were."""
    named = (spec.student, spec.reference, *(model for _, model in spec.teachers)) if spec else ()
    return {name: model_folder(name).name for name in sorted(set(named)) if name.startswith("hub:")}


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever a file of the folder does, so that content is read once and again only after a change."""
    files = ((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files))


@functools.cache
def _fingerprint(folder: Path, stamp: tuple[Any, ...]) -> str:
    from trainer.policy import fingerprint

    return fingerprint(folder)


@functools.cache
def _snapshot(name: str) -> Path:
    repo, revision, path = hub_name(name)
    if path is not None:
        raise UserError(f"'{name}' names a file, where a model is wanted: leave ':{path}' out")
    return Path(_fetch(name, lambda hub: hub.snapshot_download(repo, revision=revision, allow_patterns=_MODEL_FILES)))


def _fetch(name: str, get: Callable[[Any], str]) -> str:
    try:
        import huggingface_hub

        return get(huggingface_hub)
    except Exception as problem:  # the client raises its own, the network's and the file system's kinds
        raise UserError(
            f"{name} cannot be fetched from the hub ({type(problem).__name__}): check the name, the network and your "
            "access, or fetch it beforehand and name the local copy"
        ) from None


# --- data -----------------------------------------------------------------------------------------------------


def open_source(
    data: Data,
    seed: int,
    count: Callable[[str], int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PromptSource:
    """The prompt source that a spec names: `toy:math`, `toy:math+code`, `toy:math:9-12`, or a JSONL or parquet file.

    Args:
        count: tokens of a problem's text as the student is shown it; without it no prompt is too long.
        progress: called with the number of rows read, now and then.

    Raises:
        UserError: for an unknown domain, a bad difficulty range, a missing or broken file, a file the hub has not.
    """
    if data.source.startswith("toy:"):
        if data.column or data.max_prompt is not None:
            raise UserError(
                "options 'data.column' and 'data.max_prompt' are for files: the toy world makes its prompts"
            )
        return prompts.toy(data.source, seed)
    path = _hub_file(data.source) if data.source.startswith("hub:") else Path(data.source)
    return FilePrompts(
        path,
        seed,
        duplicates=data.duplicates,
        column=data.column,
        max_prompt=data.max_prompt,
        count=count,
        progress=progress,
    )


def _known(source: str) -> str | None:
    repo, _, path = hub_name(source)
    return KNOWN_FILES.get(f"{repo}:{path}")


def _hub_file(source: str) -> Path:
    repo, revision, file = hub_name(source)
    if file is None:
        raise UserError(f"'{source}' names no file of the data set: write {source}:path/in/it.parquet")
    path = Path(_fetch(source, lambda hub: hub.hf_hub_download(repo, file, repo_type="dataset", revision=revision)))
    if (known := _known(source)) and (found := file_hash(path)) != known:
        raise UserError(
            f"{source} is not the file that the published runs used (SHA-256 {found[:16]}…, not {known[:16]}…): name a "
            "revision that has it, or a local copy"
        )
    return path


# --- identity -------------------------------------------------------------------------------------------------


def pin(spec: RunSpec) -> RunSpec:
    """The spec with fingerprints of every file it depends on, so that its identity follows their content.

    What is on the hub counts by its revision: the same before it is fetched, and after.
    """
    named = (spec.student, spec.reference, *(model for _, model in spec.teachers))
    digests = {served(name) or name: model_digest(name) for name in named if name}
    source = spec.data.source
    if source.startswith("toy:"):
        digests["toy tasks"] = hashlib.sha256(Path(tasks.__file__).read_bytes()).hexdigest()[:16]
    elif source.startswith("hub:"):
        digests[source] = _known(source) or _revision(source)
    elif Path(source).is_file():
        digests[source] = _file_digest(Path(source), Path(source).stat().st_mtime_ns)
    return replace(spec, digests=tuple(sorted(digests.items())))


@functools.cache
def _file_digest(path: Path, changed: int) -> str:
    return file_hash(path)[:16]


def check_pins(spec: RunSpec) -> None:
    """Refuses a run whose files have changed since it was planned: its identity would be a lie.

    Raises:
        UserError: naming what changed.
    """
    now = dict(pin(spec).digests)
    if changed := sorted(name for name, was in spec.digests if now.get(name) != was):
        raise UserError(f"{', '.join(changed)} changed while the run was waiting: start the command again")
