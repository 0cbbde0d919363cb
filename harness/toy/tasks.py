"""Two verifiable reasoning domains, small enough to be learned in minutes on a CPU.

``math`` is left-to-right arithmetic modulo 10, ``code`` is a program over two registers modulo 10. A problem
comes with a worked trace that ends in ``\\boxed{answer}``. Each step of a trace opens with a connective that
carries no information: a teacher has real entropy there and almost none on the digits, which gives
entropy-based token weights something to act on.

A problem is a pure function of its prompt: identifier, split, connectives and answer all follow from the
text, so the splits are disjoint by construction, whatever the seed, the difficulty or the platform. This
module needs no torch.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from harness.errors import UserError

MODULUS: Final = 10
CONNECTIVES: Final = ("so", "then", "now", "next")
IN_DISTRIBUTION: Final = (2, 6)  # difficulties the toy models are trained on
OUT_OF_DISTRIBUTION: Final = (9, 12)  # longer than anything they have seen

# Tenths of the hash space. The larger part is for training, because on-policy prompts are drawn from it.
SPLITS: Final = {"train": range(0, 6), "held-out": range(6, 8), "eval": range(8, 10)}

_APPLY: Final[dict[str, Callable[[int, int], int]]] = {
    "+": lambda x, y: (x + y) % MODULUS,
    "-": lambda x, y: (x - y) % MODULUS,
    "*": lambda x, y: (x * y) % MODULUS,
}
_BOXED: Final = re.compile(r"\\boxed\{(\d)\}")


@dataclass(frozen=True)
class Problem:
    """One problem; ``difficulty`` counts its operations (math) or the statements after the assignments
    (code)."""

    id: str
    domain: str
    prompt: str
    answer: str
    trace: str
    difficulty: int


def generate(
    domain: str,
    split: str,
    n: int,
    difficulty: tuple[int, int] = IN_DISTRIBUTION,
    seed: int = 0,
    distinct: bool = True,
) -> list[Problem]:
    """``n`` problems of ``domain`` from ``split``, the difficulty uniform over the closed range
    ``difficulty``.

    The same arguments give the same list in every process, and a smaller ``n`` gives a prefix of it. With
    ``distinct=False`` a prompt may come back, which training streams want.

    Raises ``UserError`` for an unknown domain or split, an empty range, a negative ``n``, or more distinct
    problems than the range holds.
    """
    if domain not in DOMAINS:
        raise UserError(f"unknown toy domain {domain!r}: choose one of {', '.join(DOMAINS)}")
    if split not in SPLITS:
        raise UserError(f"unknown toy split {split!r}: choose one of {', '.join(SPLITS)}")
    low, high = difficulty
    if not 1 <= low <= high:
        raise UserError(f"empty difficulty range {low}..{high}: give (low, high) with 1 <= low <= high")
    if n < 0:
        raise UserError(f"cannot generate {n} problems: give a count of at least 0")
    draw = _DRAWS[domain]
    # A string seed goes through SHA-512 inside random.Random: no dependence on PYTHONHASHSEED.
    rng = random.Random(f"{domain}/{split}/{low}-{high}/{seed}")
    problems: list[Problem] = []
    seen: set[str] = set()
    rejected = 0
    while len(problems) < n:
        prompt, steps, answer, count = draw(rng, rng.randint(low, high))
        digest = hashlib.sha256(f"{domain}\n{prompt}".encode()).hexdigest()
        if int(digest, 16) % 10 not in SPLITS[split]:
            continue
        if distinct and prompt in seen:
            rejected += 1
            if rejected > 50 * n + 1000:
                raise UserError(
                    f"{domain}/{split} at difficulty {low}..{high} holds fewer than {n} distinct problems: "
                    "ask for fewer, widen the difficulty, or pass distinct=False"
                )
            continue
        seen.add(prompt)
        words = random.Random(digest)
        trace = ", ".join(f"{words.choice(CONNECTIVES)} {step}" for step in steps)
        problems.append(
            Problem(f"{domain}-{digest[:12]}", domain, prompt, str(answer), f"{trace}. \\boxed{{{answer}}}", count)
        )
    return problems


def is_correct(problem: Problem, response: str) -> bool:
    """Whether the last ``\\boxed{digit}`` of ``response`` is the answer; toy answers need no symbolic
    checker."""
    boxes = _BOXED.findall(response)
    return bool(boxes) and boxes[-1] == problem.answer


def _draw_math(rng: random.Random, k: int) -> tuple[str, list[str], int, int]:
    value = rng.randrange(MODULUS)
    expression, steps = str(value), []
    for _ in range(k):
        operator, operand = rng.choice("+-*"), rng.randrange(MODULUS)
        result = _APPLY[operator](value, operand)
        expression += f"{operator}{operand}"
        steps.append(f"{value}{operator}{operand}={result}")
        value = result
    return f"Compute {expression}", steps, value, k


def _draw_code(rng: random.Random, k: int) -> tuple[str, list[str], int, int]:
    state = {"a": rng.randrange(MODULUS), "b": rng.randrange(MODULUS)}
    program = [f"{name}={value}" for name, value in state.items()]
    steps = []
    for _ in range(k):
        target, other = rng.choice(("ab", "ba"))
        operator = rng.choice("+-*")
        # Products of the two registers would soon leave both at 0, so only sums and differences read the other one.
        operand = str(rng.randrange(2, MODULUS)) if operator == "*" else other
        right = int(operand) if operator == "*" else state[other]
        state[target] = _APPLY[operator](state[target], right)
        statement = f"{target}{operator}={operand}"
        program.append(statement)
        steps.append(f"{statement} ({state['a']},{state['b']})")
    printed = rng.choice("ab")
    return f"Run {' '.join(program)} print {printed}", steps, state[printed], k


_DRAWS: Final = {"math": _draw_math, "code": _draw_code}
DOMAINS: Final = tuple(_DRAWS)
