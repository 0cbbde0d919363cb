"""The shortcuts of the released checker are claims about math-verify, and math-verify is asked about each of them."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import sympy

from harness.answers import arithmetic, parts
from harness.answers.extract import RELEASED_CUT
from harness.answers.workers import shared_pool
from harness.bench.responses import dressed, wrong_answers
from harness.benchmarks import BENCHMARKS, load_benchmark
from tests.conftest import ROOT, shared

Pair = tuple[str, str]  # gold, prediction


def released(pairs: Sequence[Pair], folder: Path) -> list[bool]:
    """What the released script says, from the library as it is installed, in a process of its own."""
    source, target = folder / "pairs.json", folder / "verdicts.json"
    source.write_text(json.dumps([(f"\\boxed{{{said}}}", gold, "") for gold, said in pairs]))
    command = [sys.executable, "-m", "harness.bench.grading_side", "peer", str(source), str(target)]
    subprocess.run(command, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    found: list[bool] = json.loads(target.read_text())["verdicts"]
    return found


def accelerated(pairs: Sequence[Pair]) -> list[bool]:
    """What our judging process says, shortcuts in front of it left out."""
    tasks = [
        ({"checker": "paper", "gold": gold, "prediction": said[:RELEASED_CUT], "bench": ""}, 30.0)
        for gold, said in pairs
    ]
    return [reply.outcome == "equal" for reply in shared_pool().run_all(tasks)]


def wrong(pairs: Sequence[Pair], verdicts: Sequence[bool]) -> list[tuple[str, str, bool, bool | None]]:
    """Pairs on which the shortcut speaks and is mistaken."""
    rows = [
        (gold, said, truth, arithmetic.verdict(gold, said[:RELEASED_CUT]))
        for (gold, said), truth in zip(pairs, verdicts, strict=True)
    ]
    return [row for row in rows if row[3] is not None and row[3] != row[2]]


# --- random texts -------------------------------------------------------------------------------------------------

NAMES = ("x", "y", "n", "a", "X", "\\theta", "\\omega", "x_1", "x_{0}", "\\omega_{n}", "v", "t", "m", "i")


def number(draw: random.Random) -> str:
    return draw.choice(
        (
            str(draw.randint(0, 12)),
            str(draw.randint(0, 5000)),
            f"{draw.uniform(0, 30):.{draw.randint(1, 4)}f}",
            f".{draw.randint(1, 99)}",
            f"0{draw.randint(0, 9)}",
        )
    )


def atom(draw: random.Random, depth: int) -> str:
    kind = draw.random()
    if kind < 0.3 or depth == 0:
        return number(draw) if draw.random() < 0.6 else draw.choice(NAMES)
    if kind < 0.45:
        return draw.choice(NAMES)
    inner = [sum_of(draw, depth - 1) for _ in range(2)]
    return draw.choice(
        (
            f"\\frac{{{inner[0]}}}{{{inner[1]}}}",
            f"\\dfrac{{{draw.randint(1, 9)}}}{{{draw.randint(1, 9)}}}",
            f"\\frac{draw.randint(11, 99)}",
            f"\\frac {draw.randint(1, 9)}{{{draw.randint(1, 20)}}}",
            f"\\sqrt{{{inner[0]}}}",
            f"\\sqrt{draw.randint(2, 9)}",
            f"\\sqrt[3]{{{draw.randint(2, 30)}}}",
            f"({inner[0]})",
            f"\\left({inner[0]}\\right)",
            f"({inner[0]})^{draw.randint(2, 3)}",
            f"({inner[0]})^{{{inner[1]}}}",
            f"{draw.choice(NAMES)}^{draw.randint(2, 12)}",
            f"{draw.choice(NAMES)}^{{{inner[0]}}}",
            f"{draw.choice(('f', 'x', 'n', 'u'))}({inner[0]})",
            f"{draw.choice(('f', 'x', 'I', 'u'))}({draw.choice(('t', 'n', '0', '2'))})",
            f"\\{draw.choice(('sin', 'cos', 'ln', 'tan', 'cot', 'arctan'))}({inner[0]})",
            f"\\{draw.choice(('sin', 'cos', 'exp'))}{{{inner[0]}}}",
            f"\\{draw.choice(('sin', 'cos'))} {draw.choice(('x', '2 x', 't y', 'x t', '3'))}",
            "\\sin^{2} \\theta",
            f"e^{{{inner[0]}}}",
            "e",
            "\\pi",
            f"\\log_{{{draw.randint(2, 11)}}} ({inner[0]})",
            f"\\lfloor {inner[0]} \\rfloor",
            f"{draw.randint(0, 9)}!",
            f"{draw.randint(0, 9)}\\frac{{{draw.randint(1, 9)}}}{{{draw.randint(1, 9)}}}",
            f"{draw.randint(0, 9)}({draw.randint(1, 9)})",
            f"{draw.randint(10, 99)}_{draw.randint(2, 9)}",
            f"10^{{{draw.randint(-3, 5)}}}",
            f"{draw.randint(1, 9)}e{draw.randint(1, 20)}",
        )
    )


def sum_of(draw: random.Random, depth: int) -> str:
    pieces: list[str] = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        if pieces:
            pieces.append(draw.choice((" + ", "+", "-", " - ", " \\cdot ", "*", "/", "", " ", "\\times ", "\\,")))
        elif draw.random() < 0.15:
            pieces.append(draw.choice(("-", "+", "- ")))
        pieces.append(atom(draw, depth))
    return "".join(pieces)


def text(draw: random.Random) -> str:
    kind = draw.random()
    one = sum_of(draw, draw.choice((0, 1, 1, 2)))
    if kind < 0.55:
        return one
    two = sum_of(draw, 1)
    return draw.choice(
        (
            f"{one}, {two}",
            f"{one},{two}",
            f"({one}, {two})",
            f"[{one},{two})",
            f"({number(draw)},\\infty)",
            f"(-\\infty, {number(draw)}]",
            f"\\{{{one}, {two}\\}}",
            f"(1,{one}),({two},3)",
            f"x = {one}",
            f"f(x) = {one}",
            f"{one} = {two}",
            f"{one} \\pm {two}",
            f"\\pm {one}",
            f"${one}$",
            f"{number(draw)} \\text{{ cm}}",
            f"{one}\\text{{ units}}",
            f"{number(draw)}\\, \\mathrm{{kg}}",
            f"{number(draw)}^\\circ",
            f"{draw.randint(1, 999)},{draw.randint(0, 999):03d}",
            f"{one}.",
            f"{number(draw)} {draw.choice(('m', 's', 'x', 'cm', 'kg', 'th', 'ab', 'or'))}",
            f"\\begin{{pmatrix}} {one} \\\\ {two} \\end{{pmatrix}}",
            f"\\text{{{draw.choice(('even', 'odd', 'East', 'and', 'no'))}}}",
            "".join(draw.choice("xyztrdieEmodn") for _ in range(draw.randint(1, 4))),
        )
    )


def respelt(draw: random.Random, one: str) -> str:
    """The same tokens, or nearly: other spaces, sizes and capitals."""
    one = one.replace("\\frac", draw.choice(("\\frac", "\\dfrac", "\\tfrac")))
    one = "".join(sign + draw.choice(("", "", " ")) if sign in "+-=,()" else sign for sign in one)
    if draw.random() < 0.3:
        one = (
            one.replace("(", "\\left(")
            .replace(")", "\\right)")
            .replace("\\left\\left", "\\left")
            .replace("\\right\\right", "\\right")
        )
    return draw.choice((one, one, one, "+" + one, f" {one} ", f"x = {one}", one.upper() if one.islower() else one))


def changed(draw: random.Random, one: str) -> str:
    places = [index for index, sign in enumerate(one) if sign.isdigit() or sign in "+-xyn"]
    if not places:
        return one + "+1"
    place = draw.choice(places)
    sign = one[place]
    other = draw.choice("0123456789") if sign.isdigit() else {"+": "-", "-": "+", "x": "y", "y": "x", "n": "x"}[sign]
    return one[:place] + other + one[place + 1 :]


def random_pairs(count: int, seed: int) -> list[Pair]:
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        gold = text(draw)
        said = draw.choice(
            (respelt, changed, changed, lambda draw, _: text(draw), lambda draw, one: changed(draw, respelt(draw, one)))
        )
        found.append((gold, said(draw, gold)))
    return found


def equivalent_pairs(count: int, seed: int) -> list[Pair]:
    """Two forms of one expression as SymPy writes them, and sometimes of another one."""
    draw = random.Random(seed)
    x, y, n = sympy.symbols("x y n")
    found = []
    for _ in range(count):
        pieces = [
            draw.choice((x, y, n, sympy.sqrt(draw.randint(2, 12)), sympy.pi, sympy.Integer(draw.randint(1, 9))))
            for _ in range(4)
        ]
        one = (pieces[0] + draw.randint(-4, 4)) * (pieces[1] - draw.randint(1, 5)) + pieces[2] / draw.randint(1, 6)
        one = draw.choice((one, one / (pieces[3] + draw.randint(1, 3)), one**2, one * pieces[3]))
        other = one if draw.random() < 0.7 else one + draw.choice((1, x, sympy.Rational(1, 7)))
        forms = (sympy.expand, sympy.factor, sympy.together, sympy.simplify, lambda expression: expression)
        found.append((sympy.latex(draw.choice(forms)(one)), sympy.latex(draw.choice(forms)(other))))
    return found


# --- the small language is read as latex2sympy reads it -------------------------------------------------------------


def values_of(expression: object, point: int) -> list[float]:
    """The numbers in what latex2sympy made, with the values that the small language gives to names."""
    if isinstance(expression, (sympy.Tuple, sympy.FiniteSet)):
        return [value for part in expression.args for value in values_of(part, point)]
    if isinstance(expression, sympy.Interval):
        return [value for part in (expression.start, expression.end) for value in values_of(part, point)]
    if isinstance(expression, sympy.MatrixBase):
        return [value for part in expression.flat() for value in values_of(part, point)]
    if isinstance(expression, sympy.Equality):
        return values_of(expression.rhs, point)
    assert isinstance(expression, sympy.Basic), expression
    expression = expression.subs(
        {
            symbol: parts.symbol(
                ("\\" if len(symbol.name.partition("_")[0]) > 1 else "") + symbol.name.replace("{", "").replace("}", "")
            ).values[point]
            for symbol in expression.free_symbols
        }
    )
    for applied in expression.atoms(sympy.core.function.AppliedUndef):
        argument = float(applied.args[0].evalf())
        name = str(applied.func).lower().replace("{", "").replace("}", "")
        expression = expression.subs(applied, parts.fraction_of(f"{name}({argument:.9g})") + 0.3)
    value = sympy.N(expression.doit())
    return [math.inf if value == sympy.oo else -math.inf if value == -sympy.oo else float(value)]


def misread(texts: Sequence[str]) -> tuple[list[str], int]:
    """Texts of which some part has another value in latex2sympy's eyes, and how many of all texts could be read."""
    from math_verify import parse

    found, readable = [], 0
    for one in texts:
        reading = arithmetic.read(one)
        if reading is None or reading.tokens[0] == "\\text":
            continue
        readable += 1
        parsed = parse("\\boxed{" + one + "}", parsing_timeout=None)
        for point in range(3):
            mine = sorted(part.values[point] for part in reading.parts)
            try:
                theirs = sorted(values_of(parsed[0], point))
            except (TypeError, AssertionError, AttributeError) as problem:
                found.append(f"{one}: {problem!r}")
                break
            same = len(set(theirs)) <= len(mine) and all(
                any(one == other or math.isclose(one, other, rel_tol=1e-7, abs_tol=1e-9) for other in theirs)
                for one in mine
            )
            if not same:
                found.append(f"{one}: {mine} is {theirs}")
                break
    return found, readable


def test_random_texts_are_read_as_latex2sympy_reads_them():
    draw = random.Random(5)
    found, readable = misread([text(draw) for _ in range(300)])
    assert found == []
    assert readable > 200  # most of what is written here is of the language


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_many_random_texts_are_read_as_latex2sympy_reads_them():
    draw = random.Random(6)
    found, readable = misread([text(draw) for _ in range(20_000)])
    assert found == [] and readable > 8000


PECULIAR = {
    "2\\frac{1}{2}": Fraction(5, 2),  # a mixed number
    "2(3)": Fraction(5),  # so is this
    "-2\\frac{1}{2}": Fraction(-5, 2),
    "0.5": Fraction(1, 2),  # the one decimal that becomes a fraction
    "\\frac43": Fraction(4, 3),
    "1/2": Fraction(1, 2),
    "52_8": Fraction(52),  # the base is dropped
    "1,234": Fraction(1234),
    "5 \\text{ cm}": Fraction(5),
    "90^\\circ": Fraction(90),
}


@pytest.mark.parametrize(("written", "value"), PECULIAR.items())
def test_peculiar_numbers(written, value):
    reading = arithmetic.read(written)
    assert reading is not None and [part.rational for part in reading.parts] == [value]


@pytest.mark.parametrize(
    "written",
    [
        "5 m",
        "2t",
        "x d",
        "dx",
        "5.",
        "1,234\\, \\text{m}",
        "\\frac{1}{3}E_{1}",
        "x and y",
        "\\text{5}",
        "f^2(x)",
        "",
        "é",
    ],
)
def test_what_is_not_sure_is_not_read(written):
    """Units that may be dropped, differentials, full stops, words: only math-verify knows what it makes of them."""
    assert arithmetic.read(written) is None


# --- and its verdicts are math-verify's -----------------------------------------------------------------------------


def check(pairs: list[Pair], folder: Path, least: float) -> None:
    verdicts = released(pairs, folder)
    settled = sum(arithmetic.verdict(*pair) is not None for pair in pairs)
    assert wrong(pairs, verdicts) == []
    assert settled >= least * len(pairs)  # a shortcut that never speaks would be no shortcut
    assert 0 < sum(verdicts) < len(pairs)
    slower = [pair for pair, ours, theirs in zip(pairs, accelerated(pairs), verdicts, strict=True) if ours != theirs]
    assert slower == []


def test_random_pairs(tmp_path):
    check(random_pairs(100, seed=1), tmp_path, 0.3)


def test_equivalent_pairs(tmp_path):
    """Most of these are equal without looking it: the values must not say otherwise."""
    check(equivalent_pairs(40, seed=2), tmp_path, 0.15)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
def test_many_random_and_equivalent_pairs(tmp_path):
    check(random_pairs(12_000, seed=3), tmp_path, 0.3)
    check(equivalent_pairs(4000, seed=4), tmp_path, 0.15)


def equation_pairs(count: int, seed: int) -> list[Pair]:
    """Equations of several unknowns: the same one rearranged, scaled, or with a term, sign or number changed."""
    draw, found = random.Random(seed), []
    parts = ("x", "y", "z", "x y", "x^2", "y^{2}", "\\sin x", "e^{y}", "f(t)", "\\frac{x}{y}", "t", "\\sqrt{y}", "m v")
    for _ in range(count):
        terms = [(draw.choice((1, 2, 3, -1, -2)), part) for part in draw.sample(parts, draw.randint(2, 4))]
        right = draw.choice((0, 1, 5, -3))
        factor = draw.choice((1, 1, -1, 2))
        changed = [(factor * n, part) for n, part in draw.sample(terms, len(terms))]
        value = factor * right
        match draw.randrange(5):
            case 0:
                changed[0] = (-changed[0][0], changed[0][1])
            case 1:
                value += 1
            case 2:
                changed[0] = (changed[0][0], draw.choice(parts))
        found.append((f"{_sum(terms)}={right}", f"{_sum(changed)} = {value}"))
    return found


def _sum(terms: Sequence[tuple[int, str]]) -> str:
    text = " ".join(f"{'+' if n > 0 else '-'} {abs(n) if abs(n) != 1 else ''}{part}" for n, part in terms)
    return text.removeprefix("+ ")


def test_equations(tmp_path):
    """Where one equation's first solution rules the other out, ``solve`` is not waited for: the verdicts stay."""
    pairs = equation_pairs(10, seed=5)
    verdicts = released(pairs, tmp_path)
    assert 0 < sum(verdicts) < len(pairs)
    assert [p for p, ours, theirs in zip(pairs, accelerated(pairs), verdicts, strict=True) if ours != theirs] == []


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
def test_many_equations(tmp_path):
    pairs = equation_pairs(300, seed=6)
    verdicts = released(pairs, tmp_path)
    assert [p for p, ours, theirs in zip(pairs, accelerated(pairs), verdicts, strict=True) if ours != theirs] == []


def benchmark_pairs(per_gold: int, seed: int, names: Sequence[str]) -> list[Pair]:
    """Golds, each with dressed right and wrong answers."""
    found = []
    for name in names:
        golds = sorted({problem.answer for problem in load_benchmark(name, shared("benchmarks")).problems})
        draw = random.Random(seed)
        for gold in golds:
            said = [gold, *wrong_answers(gold, golds, draw)[: per_gold - 1]]
            found += [(gold, dressed(one, name, draw.randrange(2**32))) for one in said]
    return found


def test_golds_of_the_short_benchmarks(tmp_path):
    check(benchmark_pairs(2, 7, ("hmmt25_feb", "hmmt25_nov", "aime24", "amc23")), tmp_path, 0.8)


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
def test_golds_of_all_benchmarks(tmp_path):
    names = [row.name for row in BENCHMARKS.values() if row.sha256]
    check(benchmark_pairs(8, 8, names), tmp_path, 0.7)
