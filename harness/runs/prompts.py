"""Training prompts of the toy world, made on demand."""

from __future__ import annotations

from harness.errors import UserError
from harness.toy import tasks
from trainer.data import Prompt, derive_seed


class ToyPrompts:
    """Problems of the training split; several domains share a step equally.

    Args:
        spans: ranges of difficulty with the share of each among a domain's problems; the first takes what rounding
            leaves.
    """

    def __init__(self, domains: tuple[str, ...], spans: tuple[tuple[tuple[int, int], float], ...], seed: int) -> None:
        self.domains, self.spans, self.seed = domains, spans, seed

    def batch(self, step: int, size: int) -> list[Prompt]:
        problems = []
        for index, domain in enumerate(self.domains):
            count = len(range(index, size, len(self.domains)))
            others = [round(share * count) for _, share in self.spans[1:]]
            seed = derive_seed(self.seed, "prompts", step, domain)
            for (span, _), part in zip(self.spans, (count - sum(others), *others), strict=True):
                problems += tasks.generate(domain, "train", part, span, seed, distinct=False)
        return [Prompt(p.id, p.prompt, p.domain, p.answer) for p in problems]


def toy(source: str, seed: int) -> ToyPrompts:
    """The source that `toy:math`, `toy:math+code`, `toy:math:9-12` or `toy:math:2-6,9-12@0.3` names.

    Raises:
        UserError: for an unknown domain, a bad difficulty range or a bad share.
    """
    names, _, text = source.removeprefix("toy:").partition(":")
    domains = tuple(names.split("+"))
    if unknown := [d for d in domains if d not in tasks.DOMAINS]:
        raise UserError(f"unknown toy domain '{unknown[0]}' in '{source}': there are {', '.join(tasks.DOMAINS)}")
    return ToyPrompts(domains, _spans(text, source), seed)


def _spans(text: str, source: str) -> tuple[tuple[tuple[int, int], float], ...]:
    """Ranges and shares: the first range has what the others leave."""
    if not text:
        return ((tasks.IN_DISTRIBUTION, 1.0),)
    spans = []
    for index, item in enumerate(text.split(",")):
        span, at, share = item.partition("@")
        try:
            low, high = (int(part) for part in span.split("-"))
            if bool(at) != bool(index) or (at and not 0.0 < float(share) < 1.0):
                raise ValueError
        except ValueError:
            raise UserError(
                f"bad difficulty '{item}' in '{source}': write it as LOW-HIGH, and further ranges as LOW-HIGH@SHARE, "
                "for example toy:math:2-6,9-12@0.3"
            ) from None
        spans.append(((low, high), float(share or 1.0)))
    left = 1.0 - sum(share for _, share in spans[1:])
    if left <= 0.0:
        raise UserError(f"the shares in '{source}' leave nothing for its first range")
    return ((spans[0][0], left), *spans[1:])
