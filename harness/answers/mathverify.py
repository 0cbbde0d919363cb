r"""math-verify with less repeated work and the same verdicts. For worker processes: it changes the library in memory.

What is spared, and why nothing changes:

- Texts that are equal after math-verify's own normalisation are accepted unparsed: ``verify`` accepts as soon as the
  expressions or the texts are equal, whichever comes first.
- Texts with the same tokens have the same tree and are parsed once.
- The grammar is parsed in ANTLR's fast SLL mode first and again in LL mode if that fails; ANTLR guarantees that an SLL
  parse without error is the LL parse. Of the alternatives of its first rule, the first that leads to the end is taken,
  as LL would; an element is a relation where no plus-minus and no bracket allow anything else; what comes behind a name
  in braces is plain to see.
- ``simplify(a - b)`` decides the rest. Where a - b is clearly not 0 at one point, no sound simplification makes it 0.
- Two equations are solved and their solutions compared. Where a solution of one clearly does not fulfil the other, the
  other cannot have it among its own, and is not solved.
- A parse, a number and ``solve`` of the same equation are remembered, and so is a ``solve`` that ran out of time.

What no cache can repeat is a verdict that hangs on the clock: math-verify gives up after 5 s of its own.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import mpmath
import sympy
from antlr4 import Token  # type: ignore[import-untyped]
from antlr4.atn.PredictionMode import PredictionMode  # type: ignore[import-untyped]
from latex2sympy2_extended import latex2sympy2
from latex2sympy2_extended.antlr_parser import PSParser
from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify import grader, parser
from math_verify.errors import TimeoutException
from sympy import ordered, solve_linear
from sympy.core.function import AppliedUndef

_PATIENCE: Final = 2.5  # seconds, half of what math-verify allows: a ``solve`` cut off after them never ends
_DIGITS: Final = 30
_CLEAR: Final = mpmath.mpf(10) ** -8
_Values = dict[Any, Any]
_simplify, _solve, _solve_and_compare = grader.simplify, grader.solve, grader.sympy_solve_and_compare


def accepts(gold: str, prediction: str) -> tuple[bool, bool]:
    """(the released verdict, whether anything could be read in ``prediction``); may raise what math-verify raises."""
    mine, theirs = _text(gold), _text(prediction)
    if mine and mine == theirs:
        return True, True
    wanted, target = _parsed(gold), _parsed(prediction)
    if [len(wanted), len(target)] != [2, 2]:
        return bool(grader.verify(wanted, target)), bool(target)
    # an expression and its text, on either side; the same tokens gave the same expression
    return _compared(_Same(wanted[0]), _Same(target[0]), wanted[1] == target[1]), True


class _Same:
    """A key that is an object, not what the object equals: SymPy's 1 and 1.0 may be equal."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __hash__(self) -> int:
        return id(self.held)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.held is other.held


@functools.lru_cache(maxsize=1000)
def _compared(wanted: _Same, target: _Same, same_text: bool) -> bool:
    return bool(grader.verify([wanted.held, "a" if same_text else "b"], [target.held, "a"]))


def _text(content: str) -> str | None:
    """The text that ``parse`` keeps beside the expression, stripped; None where other patterns might come first."""
    if not content or "answer" in content.lower():
        return None
    return str(normalize_latex("\\boxed{" + content + "}", config=_NORMALIZATION)).strip()


_NORMALIZATION: Final = replace(parser.LatexExtractionConfig().normalization_config, boxed="last")


class _Readings:
    """``parse`` of a box, remembered; an empty result may come from a slow moment and is not."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[str, list[Any]] = {}

    def __call__(self, content: str) -> list[Any]:
        if content not in self.found:
            parsed = parser.parse("\\boxed{" + content + "}")
            if not parsed:
                return []
            if len(self.found) >= self.size:
                self.found.clear()
            self.found[content] = parsed
        return self.found[content]


_parsed = _Readings(1000)


# --- parsing -------------------------------------------------------------------------------------------------------


# Decisions of the generated parser: the alternatives of its rules math, element_no_relation and element, atom_expr.
_START: Final = 0
_ELEMENTS: Final = (92, 93)
_SCRIPTS: Final = 43
_NAMED: Final = (latex2sympy2.PSLexer.IN, latex2sympy2.PSLexer.ASSIGNMENT)


class _Converter(latex2sympy2._Latex2Sympy):
    """latex2sympy's converter with a parser that guesses well."""

    def create_parser(self, latex_str: str) -> Any:
        made = super().create_parser(latex_str)
        tokens = made.getTokenStream()
        tokens.fill()
        kinds = {token.type for token in tokens.tokens}
        predict, rule = made._interp.adaptivePredict, made.math
        alternative = 0

        def guess(stream: Any, decision: int, context: Any) -> int:
            if decision == _START:
                return alternative
            if decision in _ELEMENTS and PSParser.PLUS_MINUS not in kinds and stream.LA(1) not in _set_openers():
                return 3
            if decision == _SCRIPTS and (scripts := _scripts(stream)):
                return scripts
            return int(predict(stream, decision, context))

        def math() -> Any:
            nonlocal alternative
            problem: Exception | None = None
            for candidate in (1, 2, 3) if kinds.intersection(_NAMED) else (2, 3):
                alternative = candidate
                for mode in (PredictionMode.SLL, PredictionMode.LL):
                    made.reset()
                    made._interp.predictionMode = mode
                    try:
                        return rule()
                    except Exception as found:
                        problem = problem or found
            assert problem is not None
            raise problem

        made._interp.adaptivePredict, made.math = guess, math
        return made

    def parse_number(self, text: str) -> Any:
        return _parse_number(text)


def _scripts(stream: Any) -> int:
    """1: ^ and _, 2: _ and ^, 3: _, 4: ^, 5: nothing behind a name; 0 where a script has no braces."""
    first = stream.LA(1)
    if first not in (PSParser.CARET, PSParser.UNDERSCORE):
        return 5
    if stream.LA(2) != PSParser.L_BRACE:
        return 0
    at, depth = 2, 1
    while depth:
        at += 1
        kind = stream.LA(at)
        if kind == Token.EOF:
            return 0
        depth += {PSParser.L_BRACE: 1, PSParser.R_BRACE: -1}.get(kind, 0)
    behind = stream.LA(at + 1)
    if first == PSParser.CARET:
        return 1 if behind == PSParser.UNDERSCORE else 4
    return 2 if behind == PSParser.CARET else 3


@functools.lru_cache(maxsize=1)
def _set_openers() -> frozenset[int]:
    """The token types that a set, an interval or a tuple can begin with."""
    first = PSParser.atn.nextTokens(PSParser.atn.ruleToStartState[PSParser.RULE_set_atom])
    return frozenset(kind for part in first.intervals for kind in part)


@functools.lru_cache(maxsize=10_000)
def _parse_number(text: str) -> Any:
    return latex2sympy2._Latex2Sympy.parse_number(None, text)


class _Trees:
    """Expressions by the tokens they were parsed from, and None for tokens that could not be parsed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[tuple[Any, ...], Any] = {}

    def __call__(self, latex: str, is_real: bool, convert_degrees: bool, normalization_config: None) -> Any:
        assert normalization_config is None
        converter = _Converter(None, is_real, convert_degrees)
        tokens = converter.create_parser(latex).getTokenStream().tokens
        grouped = bool(latex2sympy2.comma_number_regex.match(latex))
        key = (is_real, convert_degrees, grouped, *((token.type, token.text) for token in tokens))
        if key not in self.found:
            if len(self.found) >= self.size:
                self.found.clear()
            try:
                self.found[key] = converter.parse(latex)
            except Exception:
                self.found[key] = None
        if self.found[key] is None:
            raise ValueError("no LaTeX that latex2sympy reads")
        return self.found[key]


# --- comparing -----------------------------------------------------------------------------------------------------


def _guarded_simplify(expression: Any, *args: Any, **kwargs: Any) -> Any:
    if not args and not kwargs and clearly_not_zero(expression):
        return sympy.S.One
    return _simplify(expression, *args, **kwargs)


def clearly_not_zero(expression: Any, instead: _Values | None = None) -> bool:
    """Whether a sum is clearly not 0 at one point, values of unknown functions being any numbers.

    ``instead`` holds what to take for some of its symbols.
    """
    if not isinstance(expression, sympy.Expr):
        return False
    with mpmath.workdps(_DIGITS):
        try:
            given = {symbol: _value(other, {}) for symbol, other in (instead or {}).items()}
            values = [_value(part, given) for part in sympy.Add.make_args(expression)]
            largest, total = max(map(abs, values)), abs(sum(values))
            return bool(mpmath.isfinite(largest) and total > _CLEAR * largest)
        except (_Unknown, ArithmeticError, ValueError, TypeError, RecursionError):
            return False


class _Unknown(Exception):
    """An expression that is not evaluated here."""


_FUNCTIONS: Final[dict[Any, Callable[[Any], Any]]] = {
    sympy.exp: mpmath.exp,
    sympy.sin: mpmath.sin,
    sympy.cos: mpmath.cos,
    sympy.tan: mpmath.tan,
    sympy.cot: mpmath.cot,
    sympy.sec: mpmath.sec,
    sympy.csc: mpmath.csc,
    sympy.asin: mpmath.asin,
    sympy.acos: mpmath.acos,
    sympy.atan: mpmath.atan,
    sympy.sinh: mpmath.sinh,
    sympy.cosh: mpmath.cosh,
    sympy.tanh: mpmath.tanh,
    sympy.Abs: abs,
    sympy.floor: mpmath.floor,
    sympy.ceiling: mpmath.ceil,
    sympy.UnevaluatedExpr: lambda value: value,
}


def _value(node: Any, given: _Values) -> Any:
    if node in given:
        return given[node]
    if isinstance(node, sympy.Derivative):
        done = node.doit()  # of a mere symbol it is 0
        return _value(done, given) if done != node else _generic(sympy.srepr(node))
    if isinstance(node, (sympy.Symbol, AppliedUndef)):
        return _generic(sympy.srepr(node))
    if isinstance(node, sympy.Rational):
        return mpmath.mpf(node.p) / node.q
    if isinstance(node, sympy.Float) or node in (sympy.S.Pi, sympy.S.Exp1, sympy.S.EulerGamma):
        return mpmath.mpf(node._to_mpmath(mpmath.mp.prec))
    if node == sympy.S.ImaginaryUnit:
        return mpmath.mpc(0, 1)
    parts = [_value(part, given) for part in node.args]
    if isinstance(node, sympy.Add):
        return mpmath.fsum(parts)
    if isinstance(node, sympy.Mul):
        return mpmath.fprod(parts)
    if isinstance(node, sympy.log) and node.args[1:] in ((), (sympy.E,)):  # SymPy is of two minds about other bases
        return mpmath.log(parts[0])
    if not parts or abs(parts[-1]) > 10**6:
        raise _Unknown
    if isinstance(node, sympy.Pow):
        return parts[0] ** parts[1]
    function = _FUNCTIONS.get(node.func)
    if function is None or len(parts) != 1:
        raise _Unknown
    return function(parts[0])


@functools.lru_cache(maxsize=4096)
def _generic(name: str) -> Any:
    """A number between 0.3 and 2.7 that follows from the name."""
    drawn = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:8], "big")
    return mpmath.mpf("0.3") + mpmath.mpf("2.4") * drawn / 2**64


class _Solutions:
    """``solve``, remembered by equation and unknowns."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[tuple[Any, frozenset[Any]], Any] = {}

    def __call__(self, equation: Any, unknowns: Any) -> Any:
        key = (equation, frozenset(unknowns))
        if key in self.found:
            if isinstance(self.found[key], BaseException):
                raise self.found[key].with_traceback(None)
            return self.found[key]
        started = time.monotonic()
        try:
            return self._keep(key, _solve(equation, unknowns))
        except TimeoutException as problem:
            if time.monotonic() - started >= _PATIENCE:
                self._keep(key, problem)
            raise
        except Exception as problem:
            self._keep(key, problem)
            raise

    def _keep(self, key: tuple[Any, frozenset[Any]], value: Any) -> Any:
        if len(self.found) >= self.size:
            self.found.clear()
        self.found[key] = value
        return value


def _parted(equation: Any, other: Any) -> bool:
    """Whether ``other`` clearly excludes a solution that ``solve`` lists for ``equation``, if it ends at all.

    Of several unknowns ``solve`` first takes those that stand linearly, the first of them whatever comes after; equal
    lists of solutions are then out of the question, and what makes ``solve`` slow need not be waited for.
    """
    unknowns = list(ordered(equation.free_symbols))
    if len(unknowns) < 2:
        return False
    try:
        for unknown in unknowns:
            found, value = solve_linear(equation.lhs - equation.rhs, symbols=[unknown])
            if found == unknown:
                with mpmath.workdps(_DIGITS):
                    at = _value(value, {})
                # A solution that is not real may be dropped for the sake of an unknown that is.
                real = mpmath.isfinite(at) and not mpmath.im(at)
                return bool(real) and clearly_not_zero(other.lhs - other.rhs, {unknown: value})
    except (_Unknown, ArithmeticError, ValueError, TypeError, RecursionError, NotImplementedError):
        pass
    return False


def _guarded_solve_and_compare(gold: Any, prediction: Any, *tolerances: int) -> bool:
    if isinstance(gold, sympy.Eq) and isinstance(prediction, sympy.Eq):
        if _parted(gold, prediction) or _parted(prediction, gold):
            return False
        difference = prediction.lhs - prediction.rhs
        for solution in grader.solve(gold, gold.free_symbols):
            if isinstance(solution, dict) and clearly_not_zero(difference, solution):
                return False
    return bool(_solve_and_compare(gold, prediction, *tolerances))


def install() -> None:
    """Puts the faster parts in place, for this process."""
    parser.latex2sympy = _Trees(1000)
    parser.parse_latex_cached = functools.lru_cache(maxsize=1000)(parser.parse_latex_cached.__wrapped__)
    grader.simplify = _guarded_simplify
    grader.solve = _Solutions(200)
    grader.sympy_solve_and_compare = _guarded_solve_and_compare


install()
