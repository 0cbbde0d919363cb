r"""Finding the answer in a response: the content of its last box.

``answer_box`` serves the strict checker and says what it found; ``released_box`` repeats the released FiRe-OPD
script, defects included: it reads a thought like anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

RELEASED_CUT: Final = 300  # characters the released script keeps of a box
_LOOK_BACK: Final = 16  # boxes looked at from the end; deeper nesting is not an answer
_OPENER: Final = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_TOKEN: Final = re.compile(r"\\(?P<box>boxed|fbox)(?![A-Za-z])\s*(?P<brace>\{)?|\\.|[{}]", re.DOTALL)
_PLAIN_BOX: Final = re.compile(
    r"\\boxed\{\s*([^{}\\\s](?:[^{}\\]{0,300}[^{}\\\s])?)\s*\}"
)  # the usual one, read faster
_BARE: Final = re.compile(  # what follows "\boxed" without a brace: a LaTeX command with its groups, or one word
    r"(-?\s*\\[A-Za-z]+(?:\s*\{[^{}]*\})*|[^\s$\\{}]+)"
)

_THOUGHT: Final = ("<think>", "</think>")

Note = Literal["one", "multiple", "none", "unclosed", "empty", "thinking"]


@dataclass(frozen=True)
class Extraction:
    """``text`` is the answer or None; ``note`` says how the boxes of the response stood."""

    text: str | None
    note: Note


def answer_box(response: str) -> Extraction:
    """The last box of the answer proper, for the strict checker.

    What a model thinks is no answer: only the text after the last ``</think>`` is read, so a box that stands in the
    thought alone counts as none. A ``<think>`` that is never closed is a thought cut off, whatever boxes it holds.
    """
    opener, closer = _THOUGHT
    end = response.rfind(closer)
    if response.rfind(opener) > end:
        return Extraction(None, "thinking")
    return last_box(response if end < 0 else response[end + len(closer) :])


def last_box(response: str) -> Extraction:
    r"""The last outermost balanced box: ``\boxed{..}``, ``\boxed {..}``, ``\boxed 5`` or ``\fbox{..}``.

    Boxes nested in it are taken off. A box that is opened after the last closed one and never closed is a truncated
    answer: none is taken then. Linear in the length of the response, whatever it holds.
    """
    start = response.rfind("\\boxed")
    plain = _PLAIN_BOX.match(response, start) if start >= 0 else None
    if plain and response.find("\\boxed") == start and "\\fbox" not in response:
        return Extraction(plain[1], "one")
    start = len(response)
    for _ in range(_LOOK_BACK):
        earlier = max(response.rfind("\\boxed", 0, start), response.rfind("\\fbox", 0, start))
        if earlier < 0:
            break
        start = earlier
    found: list[tuple[int, str]] = []  # (where the box opens, its content) in order of closing
    stack: list[tuple[int, int] | None] = []  # open braces; a box remembers where it and its content begin
    for token in _TOKEN.finditer(response, start):
        if token["box"] and token["brace"]:
            stack.append((token.start(), token.end()))
        elif token["box"]:
            bare = _BARE.match(response, token.end())
            if bare:
                found.append((token.start(), bare[1].rstrip(".,;:")))
        elif token[0] == "{":
            stack.append(None)
        elif token[0] == "}" and stack:
            opened = stack.pop()
            if opened:
                found.append((opened[0], response[opened[1] : token.start()]))
    still_open = [opened[0] for opened in stack if opened]
    if not found:
        return Extraction(None, "unclosed" if still_open else "none")
    opens, content = found[-1]
    if still_open and still_open[-1] > opens:
        return Extraction(None, "unclosed")
    text = _without_boxes(content).strip()
    if not text:
        return Extraction(None, "empty")
    outermost = sum(1 for other, _ in found if other < opens)
    return Extraction(text, "multiple" if outermost else "one")


def _without_boxes(content: str) -> str:
    """``content`` with the wrappers of nested boxes removed and their contents kept."""
    if not _OPENER.search(content):
        return content
    pieces: list[str] = []
    stack: list[bool] = []
    position = 0
    for token in _TOKEN.finditer(content):
        pieces.append(content[position : token.start()])
        position = token.end()
        if token["box"]:
            if token["brace"]:
                stack.append(True)
            else:
                pieces.append(" ")
        elif token[0] == "{":
            stack.append(False)
            pieces.append("{")
        elif token[0] == "}":
            if not (stack and stack.pop()):
                pieces.append("}")
        else:
            pieces.append(token[0])
    pieces.append(content[position:])
    return "".join(pieces)


def released_box(response: str) -> str | None:
    r"""What the released script takes for the answer (``math_eval/eval_math.py``).

    The last ``\boxed`` (only where there is none, the last ``\fbox``) up to the brace that balances it, escaped
    braces counted; then a literal ``\boxed{`` is required, so ``\fbox{5}``, ``\boxed {5}`` and ``\boxed 5`` give
    None; then the first 300 characters.
    """
    response = response.strip()
    start = response.rfind("\\boxed")
    if start < 0:
        start = response.rfind("\\fbox")
        if start < 0:
            return None
    depth = 0
    for brace in re.finditer(r"[{}]", response[start:]):
        depth += 1 if brace[0] == "{" else -1
        if brace[0] == "}" and depth == 0:
            box = response[start : start + brace.end()]
            return box[len("\\boxed{") : -1][:RELEASED_CUT] if box.startswith("\\boxed{") else None
    return None
