r"""Made-up model responses with the repetition of real ones: what the grading measurement grades.

Per problem an accuracy from a bimodal Beta mixture (most problems are mostly solved or mostly missed), a Zipf pool of
wrong answers, and a habit: a model writes an answer nearly always the same way, but not quite. Around it 1 to 3 kB of
reasoning. Some responses have no box, some are cut off. Everything follows from the golds and one seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final

Item = tuple[str, str, str]  # response, gold, bench

WRONG: Final = 16  # distinct wrong answers a problem can attract
ZIPF: Final = 1.3
HABIT: Final = 0.8  # how often an answer is written the way this problem's answer usually is
NO_BOX: Final = 0.04
TRUNCATED: Final = 0.04
SEVERAL_BOXES: Final = 0.03

_SENTENCES: Final = (
    "First, let us restate the problem in terms of $x$ and $y$, so that the condition becomes $x^{A} + {B}y = {C}$.",
    "Substituting ${A}$ for $n$ gives $\\frac{{B}}{{C}}$, which simplifies further.",
    "Wait, I should double-check this step: ${A} \\times {B} = {P}$, so the sum is ${C}$.",
    "By symmetry, it is enough to consider the case $k \\le {A}$; the other cases follow in the same way.",
    "\\[\n\\sum_{k=1}^{{A}} k^2 = \\frac{{A} \\cdot {B} \\cdot {C}}{6}\n\\]",
    "Next, we use the quadratic formula: $x = \\frac{-{A} \\pm \\sqrt{{B}^2 - 4 \\cdot {C}}}{2}$.",
    "Therefore, the remaining factor must be positive, and the discriminant is ${P}$.",
    "**Step {A}:** compute the derivative and set it to zero, which leaves $\\left( {B}, {C} \\right)$.",
    "Hmm, but that would contradict the assumption that $\\text{gcd}({A}, {B}) = 1$.",
    "Let me verify with a small example, say $m = {A}$: we get ${B} + {C}$, as expected.",
)
_LEADS: Final = (
    "### Final Answer\n\n$$\n{}\n$$",
    "Therefore, the final answer is ${}$.",
    "Thus, the answer is:\n\n\\[\n{}\n\\]",
    "So the answer is {}",
    "**Answer:** ${}$",
)
_UNITS: Final = ("\\text{ cm}", "\\, \\text{m/s}", " \\text{ units}", "\\ \\mathrm{kg}", "^\\circ")
_E_NOTATION: Final = re.compile(r"(-?[\d.]+)[eE]([+-]?\d+)")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")


def responses(problems: Sequence[tuple[str, str]], samples: int, seed: int = 20260602) -> list[Item]:
    """``samples`` responses to each (bench, gold), sample by sample within a problem.

    The first responses to a problem are the same for every ``samples``.
    """
    made: list[Item] = []
    for index, (bench, gold) in enumerate(problems):
        draw = random.Random(f"{seed} {index} {bench} {gold}")
        others = [other for place, other in problems if place == bench and other != gold] or [gold + "+1"]
        accuracy = draw.betavariate(0.7, 3.0) if draw.random() < 0.45 else draw.betavariate(5.0, 0.8)
        wrong = wrong_answers(gold, others, draw)
        weights = [1 / rank**ZIPF for rank in range(1, len(wrong) + 1)]
        habit = draw.randrange(2**32)
        for _ in range(samples):
            right = draw.random() < accuracy
            answer = gold if right else draw.choices(wrong, weights)[0]
            style = habit if draw.random() < HABIT else draw.randrange(2**32)
            made.append((respond(dressed(answer, bench, style), draw), gold, bench))
    return made


def respond(answer: str, draw: random.Random) -> str:
    """One response with ``answer`` in its box, or without a box, or cut off inside it."""
    text = reasoning(draw)
    chance = draw.random()
    if chance < NO_BOX:
        return text + f"\n\nThe answer is {answer}."
    box = f"\\boxed{{{answer}}}"
    if chance < NO_BOX + TRUNCATED:
        return text + "\n\nTherefore \\boxed{" + answer[: max(1, len(answer) // 2)]
    if chance < NO_BOX + TRUNCATED + SEVERAL_BOXES:
        text += "\n\nA first guess would be $\\boxed{0}$, but this is not it."
    return text + "\n\n" + draw.choice(_LEADS).replace("{}", box)


def reasoning(draw: random.Random) -> str:
    """1 to 3 kB of mathematical prose."""
    length = draw.randint(1000, 3000)
    sentences: list[str] = []
    while length > 0:
        a, b, c = (draw.randint(2, 99) for _ in range(3))
        sentence = draw.choice(_SENTENCES)
        for name, value in (("{A}", a), ("{B}", b), ("{C}", c), ("{P}", a * b)):
            sentence = sentence.replace(name, str(value))
        sentences.append(sentence)
        length -= len(sentence) + 1
    return " ".join(sentences)


def wrong_answers(gold: str, others: Sequence[str], draw: random.Random) -> list[str]:
    """Plausible mistakes, likeliest first: another number in the gold, another sign, another answer altogether."""
    found: list[str] = []
    while len(found) < WRONG:
        made = _mistake(gold, draw) if draw.random() < 0.8 else draw.choice(others)
        if draw.random() < 0.3:
            made = _mistake(made, draw)
        if made != gold and made not in found:
            found.append(made)
        elif draw.random() < 0.1:  # a gold without a number or a sign has few neighbours
            found.append(str(draw.randint(-99, 999)))
    return found


def _mistake(text: str, draw: random.Random) -> str:
    numbers = list(_NUMBER.finditer(text))
    kind = draw.random()
    if numbers and kind < 0.75:
        number = draw.choice(numbers)
        value = number[0]
        if "." in value:
            places = len(value.partition(".")[2])
            changed = f"{float(value) * draw.choice((0.5, 0.9, 1.1, 2.0, 10.0)):.{places}f}"
        else:
            changed = str(max(0, draw.choice((int(value) + 1, int(value) - 1, 2 * int(value), int(value) // 2))))
        return text[: number.start()] + changed + text[number.end() :]
    if kind < 0.9 and re.search(r"[+-]", text):
        signs = list(re.finditer(r"[+-]", text))
        sign = draw.choice(signs)
        return text[: sign.start()] + ("-" if sign[0] == "+" else "+") + text[sign.end() :]
    return text.strip("-") if text.startswith("-") else "-" + text.strip("$")


def dressed(answer: str, bench: str, style: int) -> str:
    """``answer`` as a model might write it; ``style`` decides, the same way each time."""
    draw = random.Random(style)
    answer = answer.replace("$", "")
    power = _E_NOTATION.fullmatch(answer)
    if power:
        times = draw.choice((" \\times 10^{{{}}}", "\\times10^{{{}}}", " \\cdot 10^{{{}}}"))
        answer = power[1] + times.format(power[2])
    if draw.random() < 0.5:
        answer = answer.replace("\\frac", "\\dfrac")
    if draw.random() < 0.4:
        answer = re.sub(r"\s*([+=])\s*", r" \1 ", answer)
    elif draw.random() < 0.3:
        answer = re.sub(r"(?<![a-zA-Z]) (?=[\d(+=-])", "", answer)
    if "\\left" not in answer and "\\right" not in answer and draw.random() < 0.4:
        answer = answer.replace("(", "\\left(").replace(")", "\\right)")
    if re.fullmatch(r"-?\d+(?:\.\d+)?", answer):
        if len(answer) > 4 and "." not in answer and draw.random() < 0.3:
            answer = f"{int(answer):,}"
        if bench == "minerva" and draw.random() < 0.5:
            answer += draw.choice(_UNITS)
    dress = draw.random()
    if dress < 0.04:
        return f" {answer} "
    if dress < 0.06:
        return answer + "."
    if dress < 0.09:
        return f"x = {answer}"
    return answer
