r"""Units behind a number: which texts are units, and which units can be compared with each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

_FACTORS: Final[dict[str, tuple[str, Fraction]]] = {}


def _measure(quantity: str, *rows: tuple[str, str | int]) -> None:
    for names, factor in rows:
        for name in names.split():
            _FACTORS[name] = (quantity, Fraction(factor))


_measure(
    "length",
    ("m meter meters metre metres", 1),
    ("km kilometer kilometers kilometre kilometres", 1000),
    ("cm centimeter centimeters centimetre centimetres", "1/100"),
    ("mm millimeter millimeters millimetre millimetres", "1/1000"),
    ("in inch inches", "127/5000"),
    ("ft foot feet", "381/1250"),
    ("yd yard yards", "1143/1250"),
    ("mi mile miles", "201168/125"),
)
_measure("money", ("dollar dollars usd", 1), ("cent cents", "1/100"))
_measure(
    "time",
    ("s sec second seconds", 1),
    ("min minute minutes", 60),
    ("h hr hour hours", 3600),
    ("day days", 86400),
)
_measure("mass", ("kg kilogram kilograms", 1), ("g gram grams", "1/1000"))
_measure("angle", ("degree degrees deg", 1))

# One-letter and compound symbols: after a physical quantity these are units, elsewhere they are unknowns.
_PREFIXES: Final = "(?:[kMGTmcnpf]|da)?"
_SYMBOL: Final = re.compile(
    rf"{_PREFIXES}(?:eV|Hz|Pa|mol|erg|bar|K|J|N|W|V|A|C|T|L|m|g|s)|pc|Mpc|kpc|ly|AU|yr|h|hr|min|amu|u|rad|sr|ergs|Jy|dyn"
)
_SPELT: Final = re.compile(
    r"(?:kilo|centi|milli|micro|nano|mega|giga)?(?:met(?:er|re)s?|grams?|joules?|watts?|volts?|newtons?|pascals?|hertz|seconds?|"
    r"moles?|lit(?:er|re)s?|electronvolts?)|kelvins?|years?|parsecs?|people|units?|square|sq|cubic|per|radians?|points?|[Åå]ngstroms?"
)
_MULTIPLIERS: Final = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# Words right behind a number that make another number of it, which no unit may swallow.
_OPERATIONS: Final = frozenset((*_MULTIPLIERS, "dozen", "score", "squared", "cubed", "plus", "minus", "less", "more"))
# Words in a text group that change the meaning of the number before it: not units.
_JOINING: Final = "and or to if not times over by through between either neither where when mod dozen for"
_NOT_UNITS: Final = frozenset(_JOINING.split())
_PERCENT: Final = re.compile(r"\\?%|percent(?:age)?(?: points?)?|pct|per cent", re.IGNORECASE)
_DEGREES: Final = re.compile(
    r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)(?:\s*[CF](?![A-Za-z]))?|\\degree(?![A-Za-z])|degrees?(?![A-Za-z])|deg(?![A-Za-z])"
)
_ARC: Final = re.compile(r"''?(?!')|\^\s*\{\s*(?:\\prime\s*){1,2}\}|\^\s*\\prime(?![A-Za-z])")
_GROUP: Final = re.compile(
    r"\\(?:text|mathrm|mbox|hbox|textrm|textit|textbf|operatorname|unit|rm)\s*\{((?:[^{}]|\\%)*)\}"
)
_EXPONENT: Final = re.compile(r"\^\s*(?:\{\s*([+-]?\d)\s*\}|([+-]?\d))")
_JOIN: Final = re.compile(r"\s+|/|\\cdot(?![A-Za-z])|\*|\\(?:mu|Omega|AA|frac)(?![A-Za-z])|[(){}]|\.")
_WORD: Final = re.compile(r"[A-Za-zÅå]+")


@dataclass(frozen=True)
class Suffix:
    """What stands behind a number. ``factor`` is the value of a word such as "million"."""

    percent: bool = False
    degrees: bool = False
    unit: str | None = None
    factor: int = 1


def unit_suffix(rest: str, bare_units: bool) -> Suffix | None:
    """``rest`` read as percent sign, degree sign, unit or nothing; None where it is part of the mathematics."""
    rest = rest.strip()
    percent = degrees = False
    factor = 1
    names: list[str] = []
    position = 0
    while position < len(rest):
        if degree := _DEGREES.match(rest, position):
            degrees, position = True, degree.end()
        elif arc := _ARC.match(rest, position):
            names.append("arc" + arc[0])
            position = arc.end()
        elif group := _GROUP.match(rest, position):
            inner = group[1].replace("\\", "").strip()
            if _PERCENT.fullmatch(inner):
                percent = True
            elif _DEGREES.fullmatch(inner):
                degrees = True
            elif inner.lower() in _MULTIPLIERS:
                factor *= _MULTIPLIERS[inner.lower()]
            elif not _is_unit_text(inner):
                return None
            elif inner:
                names.append(inner)
            position = group.end()
        elif sign := _PERCENT.match(rest, position):
            percent, position = True, sign.end()
        elif names and (power := _EXPONENT.match(rest, position)):
            names.append("^" + (power[1] or power[2]))
            position = power.end()
        elif join := _JOIN.match(rest, position):
            if join[0] in ("\\mu", "\\Omega", "\\AA") and not bare_units:
                return None
            position = join.end()
        elif word := _WORD.match(rest, position):
            if word[0].lower() in _MULTIPLIERS:
                factor *= _MULTIPLIERS[word[0].lower()]
            elif _is_bare_unit(word[0], bare_units):
                names.append(word[0])
            else:
                return None
            position = word.end()
        else:
            return None
    if (percent and (degrees or names)) or (not names and re.search(r"frac|[/*]|cdot", rest)):
        return None
    return Suffix(percent, degrees, " ".join(names) or None, factor)


def changes_number(text: str) -> bool:
    """Whether ``text`` behind a number is no unit but the start of another number: "million", "squared", "plus"."""
    words = re.findall(r"[a-z]+", text.lower())
    return bool(words) and words[0] in _OPERATIONS


def _is_unit_text(text: str) -> bool:
    words = re.findall(r"[a-z]+", text.lower())
    if changes_number(text) or _NOT_UNITS.intersection(words):
        return False
    return not re.search(r"[\d=+<>]", re.sub(r"\^\s*-?\d", "", text))


def _is_bare_unit(word: str, bare_units: bool) -> bool:
    if bare_units and _SYMBOL.fullmatch(word):
        return True
    spelt = word.lower() in _FACTORS and len(word) > 1 and word.lower() != "in"
    return spelt or bool(_SPELT.fullmatch(word))


def conversion(unit: str, gold_unit: str) -> Fraction | None:
    """What a value in ``unit`` must be multiplied with to be in ``gold_unit``; 0 where they measure different things.

    None where one of the two is not in the table: such units are not compared.
    """
    mine, theirs = _resolve(unit), _resolve(gold_unit)
    if mine is None or theirs is None:
        return None
    return mine[1] / theirs[1] if mine[0] == theirs[0] else Fraction(0)


def _resolve(unit: str) -> tuple[tuple[str, int], Fraction] | None:
    words = unit.lower().replace("^", " ^").split()
    power = 1
    names: list[str] = []
    for word in words:
        if word in ("square", "sq"):
            power = 2
        elif word == "cubic":
            power = 3
        elif re.fullmatch(r"\^-?\d", word):
            power = int(word[1:])
        else:
            names.append(word.rstrip("."))
    if len(names) != 1 or names[0] not in _FACTORS:
        return None
    quantity, factor = _FACTORS[names[0]]
    return (quantity, power), factor**power
