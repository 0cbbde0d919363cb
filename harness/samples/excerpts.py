"""Texts cut to what a page can bear, in pieces that say what is what."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from harness.samples.needles import Span
from harness.samples.suspicions import Reading


def parts_of(text: str, limit: int, reading: Reading | None = None, answer: str | None = None) -> list[Any]:
    """A text in the pieces that the page draws, at most `limit` characters of it.

    A piece is ["", text], ["answer" | "box" | "gold", text], ["cut", characters left out] or
    ["think", pieces, characters, whether closed].

    Args:
        answer: what was extracted; marked where it last stands if no box is the answer (other graders read no boxes).
    """
    marks = _marks(text, reading, answer)
    around = next((span for span, kind in marks if kind == "answer"), None)
    windows = _windows(len(text), limit, around)
    top: list[Any] = []
    at = 0
    for trace in reading.thinking if reading else ():
        top += _pieces(text, at, trace.start, marks, windows)
        inner = _pieces(text, trace.start, trace.end, marks, windows)
        top.append(["think", inner, trace.end - trace.start, trace.closed])
        at = trace.end
    return top + _pieces(text, at, len(text), marks, windows)


def _marks(text: str, reading: Reading | None, answer: str | None) -> list[tuple[Span, str]]:
    """Spans to highlight, in order; where two overlap, the box wins."""
    if reading is None:
        return []
    marks = {box: "box" for box in reading.boxes if not reading.answer or not _meet(box, reading.answer)}
    if reading.answer:
        marks[reading.answer] = "answer"
    elif answer and (at := text.rfind(answer)) >= 0 and not reading.boxes:
        marks[Span(at, at + len(answer))] = "answer"
    for span in reading.gold:
        if not any(_meet(span, other) for other in marks):
            marks[span] = "gold"
    return sorted(marks.items())


def _meet(a: Span, b: Span) -> bool:
    return a.start < b.end and b.start < a.end


def _windows(length: int, limit: int, around: Span | None) -> list[Span]:
    """What is kept of a text: all of it, or head and tail, and what is around the answer if that lies between."""
    if length <= limit:
        return [Span(0, length)]
    half = limit // 2
    if around is None or around.start >= length - half or around.end <= half:
        return [Span(0, half), Span(length - half, length)]
    third = limit // 3
    # before the answer stands how it came about; a long answer moves the window on, and never out of it
    start = max(0, min(around.start, max(around.start - third // 2, around.end + third // 4 - third)))
    kept: list[Span] = []
    for span in sorted((Span(0, third), Span(start, min(length, start + third)), Span(length - third, length))):
        if kept and span.start <= kept[-1].end:
            kept[-1] = Span(kept[-1].start, max(kept[-1].end, span.end))
        else:
            kept.append(span)
    return kept


def _pieces(
    text: str, start: int, end: int, marks: Sequence[tuple[Span, str]], windows: Sequence[Span]
) -> list[list[Any]]:
    pieces: list[list[Any]] = []
    at = start
    for window in windows:
        low, high = max(start, window.start), min(end, window.end)
        if low >= high:
            continue
        if low > at:
            pieces.append(["cut", low - at])
        at = low
        for span, kind in marks[bisect_right(marks, low, key=lambda mark: mark[0].end) :]:
            if span.start >= high:
                break
            first, last = max(span.start, low), min(span.end, high)
            if first > at:
                pieces.append(["", text[at:first]])
            pieces.append([kind, text[first:last]])
            at = last
        if high > at:
            pieces.append(["", text[at:high]])
        at = high
    if at < end:
        pieces.append(["cut", end - at])
    return pieces
