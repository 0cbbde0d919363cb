r"""One notation out of many: Unicode signs and LaTeX dress become plain LaTeX before anything is read.

Only dress is removed. Nothing here changes a value: units, letters and signs stay for the readers to judge.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Final

_GREEK_LETTERS: Final = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩϕϵϑ"
_GREEK_NAMES: Final = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega phi epsilon theta"
)
_GREEK: Final = dict(zip(_GREEK_LETTERS, _GREEK_NAMES.split(), strict=True))
_SIGNS: Final = {
    **{sign: "-" for sign in "−–—‐‑‒―﹣"},
    **{sign: "\\cdot " for sign in "⋅·∙•"},
    **{sign: "/" for sign in "÷⁄∕"},
    **{sign: "'" for sign in "′’‘"},
    **{sign: "\\le " for sign in "≤⩽"},
    **{sign: "\\ge " for sign in "≥⩾"},
    **{sign: f"\\{name} " for sign, name in _GREEK.items()},
    "µ": "\\mu ",
    "×": "\\times ",
    "″": "''",
    "°": "^\\circ ",
    "º": "^\\circ ",
    "√": "\\sqrt ",
    "∞": "\\infty ",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "±": "\\pm ",
    "∓": "\\mp ",
    "∪": "\\cup ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "∖": "\\setminus ",
    "⌊": "\\lfloor ",
    "⌋": "\\rfloor ",
    "⌈": "\\lceil ",
    "⌉": "\\rceil ",
    "…": "\\ldots ",
    "⋯": "\\ldots ",
    "∠": "\\angle ",
    "ℏ": "\\hbar ",
    "ℝ": "\\mathbb{R}",
    "，": ",",
    "、": ",",
    "。": ".",
    "Ω": "\\Omega ",  # the ohm sign
    "Å": "\\AA ",
}


def ascii_math(text: str) -> str:
    r"""``text`` with Unicode mathematics written as ASCII and LaTeX.

    Full-width and styled characters become plain ones, superscripts become ``^{..}``, vulgar fractions ``\frac``.
    Controls, direction marks and lone surrogates are dropped: they carry no mathematics.
    """
    if text.isascii() and text.isprintable():
        return text
    pieces: list[str] = []
    raised = ""  # "^" or "_" while inside a run of super- or subscripts
    for char in text:
        mark, shown = _plain(char)
        if mark != raised:
            if raised:
                pieces.append("}")
            if mark:
                pieces.append(mark + "{")
            raised = mark
        pieces.append(shown)
    if raised:
        pieces.append("}")
    return "".join(pieces)


def _plain(char: str) -> tuple[str, str]:
    """(mark, text): mark is ^ or _ for a raised or lowered character, else empty."""
    if " " <= char <= "~":
        return "", char
    if char in _SIGNS:
        return "", _SIGNS[char]
    category = unicodedata.category(char)
    if char.isspace() or category == "Zs":
        return "", " "
    if category in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return "", ""
    kind, _, rest = unicodedata.decomposition(char).partition("> ")
    if rest:
        plain = "".join(chr(int(code, 16)) for code in rest.split())
        plain = "".join(_SIGNS.get(part, part) for part in plain)
        if kind == "<super":
            return "^", plain
        if kind == "<sub":
            return "_", plain
        if kind == "<fraction":
            over, _, under = plain.partition("/")
            return "", rf"\frac{{{over}}}{{{under}}}"
        if kind in ("<wide", "<narrow", "<font", "<noBreak"):
            return "", plain
    return "", char


_THOUSANDS: Final = re.compile(r"(?<=\d)(?:,\s*\\!\s*|\{,\}\s*|\\,(?=\d{3}(?!\d)))(?=\d)")
_SPACED_THOUSANDS: Final = re.compile(r"(?<![\d.,^_] )(?<![\d.,^_])[1-9]\d{0,2}(?: \d{3})+(?![\d.,])")
_ANGSTROM: Final = re.compile(
    r"\\mathring\s*\{\s*(?:\\(?:mathrm|text)\s*\{\s*)?A\s*\}(?:\s*\})?|\\mathring\s+A(?![A-Za-z])"
)
_SPACES: Final = re.compile(
    r"(?<!\\)\\(?:[,;:! ]|(?:quad|qquad|thinspace|displaystyle|textstyle|limits|nolimits|break|noindent)(?![A-Za-z]))"
    r"|\\hspace\*?\{[^{}]*\}|\\phantom\{[^{}]*\}|~|(?<!\\)\\[\[\]()]|(?<!\\)\$"
)
_FLAT_E: Final = re.compile(r"(?<=[\d.])\s*\\(?:text|mathrm|rm)\s*\{\s*[eE]\s*\}\s*(?=[+-]?\d)")
_DECORATION: Final = re.compile(
    r"\\(?:text)?color\s*\{[A-Za-z!\d]*\}"
    r"|\\(?:large|Large|LARGE|huge|Huge|small|normalsize|scriptstyle|checkmark|blacksquare|therefore)(?![A-Za-z])"
)
_BOLD: Final = re.compile(r"\s*\*\*((?:(?!\*\*).)+)\*\*\s*", re.DOTALL)
_SIZES: Final = re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\s*\.?")
_SAME: Final = re.compile(r"\\(?:dfrac|tfrac|cfrac|lbrace|rbrace|colon|dbinom|tbinom|bf|rm|it)(?![A-Za-z])")
_SAME_AS: Final = {
    **dict.fromkeys(("\\dfrac", "\\tfrac", "\\cfrac"), "\\frac"),
    **dict.fromkeys(("\\dbinom", "\\tbinom"), "\\binom"),
    **dict.fromkeys(("\\bf", "\\rm", "\\it"), " "),
    "\\lbrace": "\\{",
    "\\rbrace": "\\}",
    "\\colon": ":",
}


@functools.lru_cache(maxsize=8192)
def clean(text: str) -> str:
    r"""``text`` as plain LaTeX: no dollar delimiters, ``\left``/``\right``, spacing or synonyms of ``\frac``.

    Thousands groups marked as such (``10,\!080``, ``10{,}080``, ``10\,080``, ``10 080``) are closed up; a bare comma is
    left, because it may separate two answers.
    """
    text = ascii_math(text)
    text = _THOUSANDS.sub("", text)
    text = _FLAT_E.sub("e", _DECORATION.sub(" ", text))
    bold = _BOLD.fullmatch(text)
    text = bold[1] if bold else text
    text = _ANGSTROM.sub(r"\\AA ", text)
    text = _SIZES.sub(" ", text)
    text = _SPACES.sub(" ", text)
    text = _SAME.sub(lambda match: _SAME_AS[match[0]], text)
    return _SPACED_THOUSANDS.sub(lambda match: match[0].replace(" ", ""), " ".join(text.split()))
