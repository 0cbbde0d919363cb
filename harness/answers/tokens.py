r"""Plain LaTeX cut into tokens; brackets are matched here once, so that readers can split at the top level.

Letters stand alone (``ab`` is a product) unless they spell a function, a listed name, or a word that joins answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAX_TOKENS: Final = 1500
MAX_DEPTH: Final = 40


class Unreadable(ValueError):
    """The text is not mathematics this package reads; the message says what stood in the way."""


@dataclass(frozen=True)
class Token:
    """``kind`` is num, sym, fn, op, open, close, rel, sep, text or cmd; ``text`` is canonical: ``<=`` for ``\\leq``."""

    kind: str
    text: str


_FUNCTION_NAMES: Final = (
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arcsinh arccosh "
    "arctanh exp ln log lg sqrt"
)
FUNCTIONS: Final = frozenset(_FUNCTION_NAMES.split())
_FUNCTION_SYNONYMS: Final = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "arsinh": "arcsinh",
    "arcosh": "arccosh",
    "artanh": "arctanh",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
}
RELATIONS: Final = {
    **dict.fromkeys(("=", "\\equiv", "=="), "="),
    **dict.fromkeys(("\\approx", "\\simeq", "\\sim", "\\cong", "\\doteq"), "~"),
    **dict.fromkeys(("<", "\\lt"), "<"),
    **dict.fromkeys((">", "\\gt"), ">"),
    **dict.fromkeys(("\\le", "\\leq", "\\leqslant", "\\leqq", "<="), "<="),
    **dict.fromkeys(("\\ge", "\\geq", "\\geqslant", "\\geqq", ">="), ">="),
    **dict.fromkeys(("\\ne", "\\neq", "!="), "!="),
    "\\in": "in",
}
_OPERATORS: Final = {
    **dict.fromkeys(("\\cdot", "\\times", "*", "\\ast"), "*"),
    **dict.fromkeys(("\\div", "/"), "/"),
    **dict.fromkeys(("\\cup",), "union"),
    **dict.fromkeys(("\\setminus", "\\backslash"), "minus"),
    **dict.fromkeys(("%", "\\%"), "%"),
    **dict.fromkeys(("\\ldots", "\\dots", "\\cdots", "\\dotsc", "\\dotsb"), "..."),
    "**": "^",
    "\\pm": "pm",
    "\\mp": "mp",
    "\\prime": "'",
    "\\mid": "|",
    "\\vert": "|",
    "\\lvert": "|",
    "\\rvert": "|",
}
_OPENERS: Final = {
    "(": ")",
    "[": "]",
    "{": "}",
    "\\{": "\\}",
    "\\lfloor": "\\rfloor",
    "\\lceil": "\\rceil",
    "\\langle": "\\rangle",
}
_CLOSERS: Final = frozenset(_OPENERS.values())
_TEXT_COMMAND_NAMES: Final = (
    "\\text \\mathrm \\mbox \\hbox \\textrm \\textbf \\textit \\operatorname \\textsf \\texttt \\unit"
)
_TEXT_COMMANDS: Final = frozenset(_TEXT_COMMAND_NAMES.split())
_STYLE_COMMAND_NAMES: Final = (
    "\\mathbf \\mathit \\mathsf \\boldsymbol \\bm \\mathcal \\mathscr \\ensuremath \\underline \\boxed \\fbox"
)
_STYLE_COMMANDS: Final = frozenset(_STYLE_COMMAND_NAMES.split())
_GREEK_SYNONYMS: Final = {
    "\\varepsilon": "\\epsilon",
    "\\varphi": "\\phi",
    "\\vartheta": "\\theta",
    "\\varrho": "\\rho",
    "\\varsigma": "\\sigma",
    "\\varnothing": "\\emptyset",
}
_SYMBOL_NAMES: Final = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell infty emptyset odot oplus circ dagger "
    "star bullet"
)
SYMBOLS: Final = frozenset("\\" + name for name in _SYMBOL_NAMES.split())
_WORDS_AS_SYMBOLS: Final = {"pi": "\\pi", "infty": "\\infty", "infinity": "\\infty", "inf": "\\infty"}
JOINERS: Final = frozenset(("and", "or"))

_LEXER: Final = re.compile(
    r"(?P<num>(?:\d+(?:\.\d+)?|\.\d+)[eE][+-]?\d+(?![\d.])|\d+\.(?=\s*\\overline)|\d+\.\d+|\.\d+|\d+)"
    r"|(?P<cmd>\\[A-Za-z]+|\\.)"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<pair>\*\*|<=|>=|!=|==)"
    r"|(?P<sign>\S)",
    re.DOTALL,
)
_THOUSANDS: Final = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d|,\d)")
_COUNTED_TEXT: Final = re.compile(r"([+-]?\d[\d,]*(?:\.\d+)?)\s+([A-Za-z][A-Za-z .]*)")
_NUMERIC_TEXT: Final = re.compile(r"[\d\s.,+\-/=()]*\d[\d\s.,+\-/=()]*")


def tokenize(text: str, names: Iterable[str] = ()) -> list[Token]:
    """The tokens of ``text`` (as ``notation.clean`` leaves it); ``names`` are words to read as one symbol.

    Raises ``Unreadable`` for unmatched brackets, more than 1,500 tokens or brackets 40 deep.
    """
    tokens: list[Token] = []
    stack: list[str] = []
    named = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None
    if named:
        text = re.sub(rf"\\(?:text|mathrm|mbox|textbf|operatorname)\s*\{{\s*({named.pattern})\s*\}}", r"\1", text)
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("too long")
        if named and (name := named.match(text, position)):
            tokens.append(Token("sym", name[0]))
            position = name.end()
            continue
        # Inside ( [ \{ a comma separates; elsewhere three digits behind it make it a thousands separator.
        if (not stack or stack[-1] == "}") and (grouped := _THOUSANDS.match(text, position)):
            tokens.append(Token("num", grouped[0].replace(",", "")))
            position = grouped.end()
            continue
        match = _LEXER.match(text, position)
        assert match is not None  # the last alternative takes any character
        position = match.end()
        if match["num"]:
            tokens.append(Token("num", match["num"]))
        elif match["word"]:
            tokens.extend(_word(match["word"]))
        else:
            position = _sign(match[0], text, position, tokens, stack)
    if stack:
        raise Unreadable(f"no closing {stack[-1]}")
    return tokens


def _word(word: str) -> list[Token]:
    if word in FUNCTIONS or word in _FUNCTION_SYNONYMS:
        return [Token("fn", _FUNCTION_SYNONYMS.get(word, word))]
    if word in _WORDS_AS_SYMBOLS:
        return [Token("sym", _WORDS_AS_SYMBOLS[word])]
    if word.lower() in JOINERS:
        return [Token("sep", "and")]
    if word.lower() in ("degrees", "degree"):
        return [Token("text", "degrees")]
    return [Token("sym", letter) for letter in word]


def _sign(sign: str, text: str, position: int, tokens: list[Token], stack: list[str]) -> int:
    """One command or sign; returns where reading goes on (text commands take their group with them)."""
    sign = _GREEK_SYNONYMS.get(sign, sign)
    if sign in _TEXT_COMMANDS:
        inner, position = group_text(text, position)
        tokens.extend(_text_tokens(inner, after=tokens[-1:]))
    elif sign in _STYLE_COMMANDS:
        inner, position = group_text(text, position)
        tokens.extend(tokenize("{" + inner + "}") if inner else [])
    elif sign == "\\mathbb":
        inner, position = group_text(text, position)
        tokens.append(Token("sym", "\\mathbb " + inner))
    elif sign in RELATIONS:
        tokens.append(Token("rel", RELATIONS[sign]))
    elif sign in _OPERATORS:
        tokens.append(Token("op", _OPERATORS[sign]))
    elif sign in _OPENERS or sign == "\\begin":
        if len(stack) >= MAX_DEPTH:
            raise Unreadable("nested too deep")
        if sign == "\\begin":  # an environment is a pair of brackets, so that nothing in it is at the top level
            kind, position = group_text(text, position)
            stack.append("\\end")
            sign = "\\begin " + kind.strip()
        else:
            stack.append(_OPENERS[sign])
        tokens.append(Token("open", sign))
    elif sign in _CLOSERS or sign == "\\end":
        if sign == "\\end":
            _, position = group_text(text, position)
        # an interval may close with the other bracket: (3,4]
        if not stack or (stack[-1] != sign and not {stack[-1], sign} <= {")", "]"}):
            raise Unreadable(f"stray {sign}")
        stack.pop()
        tokens.append(Token("close", sign))
    elif sign in (",", ";"):
        tokens.append(Token("sep", sign))
    elif sign in SYMBOLS:
        tokens.append(Token("sym", sign))
    elif sign[1:] in FUNCTIONS or sign[1:] in _FUNCTION_SYNONYMS:
        tokens.append(Token("fn", _FUNCTION_SYNONYMS.get(sign[1:], sign[1:])))
    elif sign in ("\\max", "\\min"):
        tokens.append(Token("sym", sign))
    elif sign == "\\imath":
        tokens.append(Token("sym", "i"))
    elif sign == "\\degree":
        tokens.extend((Token("op", "^"), Token("sym", "\\circ")))
    elif sign in "+-^_!'|.&:":
        tokens.append(Token("op", sign))
    elif sign.startswith("\\"):
        tokens.append(Token("cmd", sign))
    else:
        raise Unreadable(f"sign {sign!r}")
    return position


def _text_tokens(inner: str, after: list[Token]) -> list[Token]:
    """A text group: a number, a function or one letter is upright mathematics, but a letter after a number a unit."""
    inner = inner.strip()
    word = inner.lower()
    if not inner:
        return []
    if _NUMERIC_TEXT.fullmatch(inner):
        return tokenize(inner)
    counted = _COUNTED_TEXT.fullmatch(inner)
    if counted:
        return [*tokenize(counted[1]), Token("text", counted[2])]
    if word.strip(", ") in JOINERS:
        return [Token("sep", "and")]
    if inner in FUNCTIONS or inner in _FUNCTION_SYNONYMS:
        return [Token("fn", _FUNCTION_SYNONYMS.get(inner, inner))]
    if inner in ("e", "i"):  # Euler's number and the imaginary unit, which no number has for a unit
        return [Token("sym", inner)]
    if len(inner) == 1 and inner.isalpha() and not (after and after[0].kind in ("num", "close")):
        return [Token("sym", inner)]
    if word in ("°", "^\\circ", "degree", "degrees", "deg"):
        return [Token("text", "degrees")]
    return [Token("text", inner)]


def group_text(text: str, position: int) -> tuple[str, int]:
    """The raw content of the group (or the single character) at ``position``, and where it ends."""
    while position < len(text) and text[position].isspace():
        position += 1
    if position >= len(text):
        return "", position
    if text[position] != "{":
        return text[position], position + 1
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, position):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[position + 1 : match.start()], match.end()
    raise Unreadable("no closing }")


def matching(tokens: list[Token], start: int) -> int:
    """Index of the token that closes the bracket opened at ``start``."""
    depth = 0
    for index in range(start, len(tokens)):
        if tokens[index].kind == "open":
            depth += 1
        elif tokens[index].kind == "close":
            depth -= 1
            if depth == 0:
                return index
    raise Unreadable("no closing bracket")


def split(tokens: list[Token], wanted: set[tuple[str, str]]) -> list[list[Token]]:
    """``tokens`` cut at every top-level token whose (kind, text) is in ``wanted``."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind == "open":
            depth += 1
        elif token.kind == "close":
            depth -= 1
        if depth == 0 and (token.kind, token.text) in wanted:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
