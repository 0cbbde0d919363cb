"""Names on the command line and in specs → the things they mean: model folders and prompt sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.errors import UserError
from harness.toy import STUDENT, TEACHERS, tasks
from trainer.config import RunSpec
from trainer.data import JsonlPrompts, Prompt, PromptSource, derive_seed

TOY_MODELS = {"toy:student": STUDENT} | {f"toy:teacher-{domain}": path for domain, path in TEACHERS.items()}


def model_folder(name: str) -> Path:
    """The folder of a model: `toy:student`, `toy:teacher-math`, a transformers folder, or a run's folder.

    Raises:
        UserError: if there is no such model.
    """
    if name.startswith("toy:"):
        if name not in TOY_MODELS:
            raise UserError(f"unknown toy model '{name}': there are {', '.join(TOY_MODELS)}")
        if not TOY_MODELS[name].is_dir():
            raise UserError(f"the toy models are not built: run `opd toy build` ({TOY_MODELS[name]} is missing)")
        return TOY_MODELS[name]
    folder = Path(name)
    if (folder / "checkpoint").is_dir():
        folder = folder / "checkpoint"
    if not folder.is_dir():
        raise UserError(f"model folder {name} does not exist: name a transformers folder, a run, or toy:student")
    if not (folder / "config.json").exists():
        raise UserError(f"{name} has no config.json: it is not a transformers model folder")
    return folder


class ToyPrompts:
    """Training problems of the toy world, made on demand; several domains share a step equally."""

    def __init__(self, domains: tuple[str, ...], difficulty: tuple[int, int], seed: int) -> None:
        self.domains, self.difficulty, self.seed = domains, difficulty, seed

    def batch(self, step: int, size: int) -> list[Prompt]:
        problems = []
        for index, domain in enumerate(self.domains):
            count = len(range(index, size, len(self.domains)))
            seed = derive_seed(self.seed, "prompts", step, domain)
            problems += tasks.generate(domain, "train", count, self.difficulty, seed, distinct=False)
        return [Prompt(p.id, p.prompt, p.domain, p.answer) for p in problems]


def open_source(source: str, seed: int) -> PromptSource:
    """The prompt source that a spec names: `toy:math`, `toy:math+code`, `toy:math:9-12`, or a JSONL file.

    Raises:
        UserError: for an unknown domain, a bad difficulty range, a missing or broken file.
    """
    if not source.startswith("toy:"):
        return JsonlPrompts(Path(source), seed)
    names, _, span = source.removeprefix("toy:").partition(":")
    domains = tuple(names.split("+"))
    if unknown := [d for d in domains if d not in tasks.DOMAINS]:
        raise UserError(f"unknown toy domain '{unknown[0]}' in '{source}': there are {', '.join(tasks.DOMAINS)}")
    try:
        low, high = (int(part) for part in span.split("-")) if span else tasks.IN_DISTRIBUTION
    except ValueError:
        raise UserError(
            f"bad difficulty '{span}' in '{source}': write it as LOW-HIGH, for example toy:math:2-6"
        ) from None
    return ToyPrompts(domains, (low, high), seed)


def check_pins(spec: RunSpec) -> None:
    """Refuses a run whose files have changed since it was planned: its identity would be a lie.

    Raises:
        UserError: naming what changed.
    """
    now = dict(pin(spec).digests)
    if changed := sorted(name for name, was in spec.digests if now.get(name) != was):
        raise UserError(f"{', '.join(changed)} changed while the run was waiting: start the command again")


def pin(spec: RunSpec) -> RunSpec:
    """The spec with fingerprints of every file it depends on, so that its identity follows their content."""
    import hashlib

    from trainer.policy import fingerprint

    digests = {
        name: fingerprint(model_folder(name))
        for name in (spec.student, spec.reference, *(model for _, model in spec.teachers))
        if name
    }
    source = spec.data.source
    if source.startswith("toy:"):
        digests["toy tasks"] = hashlib.sha256(Path(tasks.__file__).read_bytes()).hexdigest()[:16]
    elif Path(source).is_file():
        digests[source] = hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]
    return replace(spec, digests=tuple(sorted(digests.items())))
