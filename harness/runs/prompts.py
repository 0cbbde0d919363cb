"""Training prompts of the toy world, made on demand."""

from __future__ import annotations

from harness.errors import UserError
from harness.toy import tasks
from trainer.data import Prompt, derive_seed


class ToyPrompts:
    """Problems of the training split; several domains share a step equally."""

    def __init__(self, domains: tuple[str, ...], difficulty: tuple[int, int], seed: int) -> None:
        self.domains, self.difficulty, self.seed = domains, difficulty, seed

    def batch(self, step: int, size: int) -> list[Prompt]:
        problems = []
        for index, domain in enumerate(self.domains):
            count = len(range(index, size, len(self.domains)))
            seed = derive_seed(self.seed, "prompts", step, domain)
            problems += tasks.generate(domain, "train", count, self.difficulty, seed, distinct=False)
        return [Prompt(p.id, p.prompt, p.domain, p.answer) for p in problems]


def toy(source: str, seed: int) -> ToyPrompts:
    """The source that `toy:math`, `toy:math+code` or `toy:math:9-12` names.

    Raises:
        UserError: for an unknown domain or a bad difficulty range.
    """
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
