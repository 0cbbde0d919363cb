"""A laid-out table, and its text in Markdown, LaTeX, HTML and the terminal.

A `Table` holds finished strings. Every renderer escapes them for its own language: labels and notes come from
people's files and models' outputs, and are never trusted.
"""

from __future__ import annotations

import html
import math
import unicodedata
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

LONGEST_LABEL = 80
WIDEST_LATEX = 5
LONGEST_CAPTION = 1_500  # LaTeX sets a caption in one line to measure it, and fails beyond 16,383 pt


@dataclass(frozen=True)
class Cell:
    """A number as text, with a smaller second line."""

    text: str
    note: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Row:
    """One arm: `reference` rows are set apart and greyed, `flag` is a loud remark such as INERT."""

    label: str
    cells: tuple[Cell, ...]
    reference: bool = False
    flag: str = ""


@dataclass(frozen=True)
class Table:
    """Column heads (the first is the label column's), rows, a caption, and remarks that must not be missed."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    remarks: tuple[str, ...] = ()
    words: int = 1  # leading columns that hold words and stand left; numbers stand right


def markdown(table: Table) -> str:
    """GitHub-flavoured Markdown; second lines by `<br>`, reference rows in italics."""
    lines = ["| " + " | ".join(_markdown(h) for h in table.head) + " |"]
    lines.append("|" + "|".join([":--"] * table.words + ["--:"] * (len(table.head) - table.words)) + "|")
    for row in table.rows:
        label = f"*{_markdown(row.label)}*" if row.reference else _markdown(row.label)
        cells = [label + (f"<br>**⚠ {_markdown(row.flag)}**" if row.flag else "")]
        for cell in row.cells:
            text = f"**{_markdown(cell.text)}**" if cell.bold else _markdown(cell.text)
            cells.append(text + (f"<br><sub>{_markdown(cell.note)}</sub>" if cell.note else ""))
        lines.append("| " + " | ".join(cells) + " |")
    for remark in table.remarks:
        lines += ["", f"**⚠ {_markdown(remark)}**"]
    if table.caption:
        lines += ["", _markdown(table.caption)]
    return "\n".join(lines) + "\n"


def latex(table: Table, label: str = "tab:comparison") -> str:
    """A `table` that needs `booktabs` alone; Unicode becomes plain LaTeX.

    Beyond three columns of numbers it is a `table*`, beyond five the columns stand in blocks below each other.
    """
    columns = len(table.head) - 1
    wide = columns > 3
    size, small, gap = ("\\scriptsize", "\\tiny", "3pt") if wide else ("\\small", "\\scriptsize", "6pt")
    environment = "table*" if wide else "table"
    blocks = -(-columns // WIDEST_LATEX)
    per_block = -(-columns // blocks)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{{environment}}}[t]",
        f"\\centering{size}\\setlength{{\\tabcolsep}}{{{gap}}}",
        "\\providecommand{\\stacked}[2]{\\begin{tabular}[t]{@{}r@{}}#1\\\\[-1pt]#2\\end{tabular}}",
        f"\\caption{{{_latex(table.caption, LONGEST_CAPTION)}}}",
        f"\\label{{{label}}}",
    ]
    for start in range(0, columns, per_block):
        lines += ["\\par\\vspace{4pt}", *_tabular(table, slice(start, start + per_block), wide, small)]
    lines += [f"\\par\\vspace{{4pt}}\\raggedright\\textbf{{{_latex(remark)}}}" for remark in table.remarks]
    return "\n".join([*lines, f"\\end{{{environment}}}", ""])


def _tabular(table: Table, columns: slice, wide: bool, small: str) -> list[str]:
    """The label column and a run of the others."""
    # a long label wraps rather than push the numbers off the page
    wraps = max((len(row.label) for row in table.rows), default=0) > 32
    stub = f"p{{{0.2 if wide else 0.32}\\linewidth}}" if wraps else "l"
    heads = [table.head[0], *table.head[1:][columns]]
    lines = [
        f"\\begin{{tabular}}{{@{{}}{stub}{'r' * (len(heads) - 1)}@{{}}}}",
        "\\toprule",
        " & ".join(_latex(head) for head in heads) + " \\\\",
        "\\midrule",
    ]
    for index, row in enumerate(table.rows):
        if index and table.rows[index - 1].reference and not row.reference:
            lines.append("\\midrule")
        name = f"\\textit{{{_latex(row.label)}}}" if row.reference else _latex(row.label)
        name += f" \\textbf{{({_latex(row.flag)})}}" if row.flag else ""
        cells = [_latex_cell(cell, small) for cell in row.cells[columns]]
        lines.append(" & ".join([("\\raggedright " if wraps else "") + name, *cells]) + " \\\\[2pt]")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def to_html(table: Table, name: str = "summary") -> str:
    """A `<table class=name>` fragment, its remarks below; the page brings the style."""
    out = [f'<table class="{html.escape(name)}">']
    if table.caption:
        out.append(f"<caption>{_html(table.caption)}</caption>")
    kinds = [' class="words"'] * table.words + [""] * (len(table.head) - table.words)
    heads = "".join(f'<th scope="col"{kind}>{_html(h)}</th>' for h, kind in zip(table.head, kinds, strict=True))
    out.append(f"<thead><tr>{heads}</tr></thead>\n<tbody>")
    for row in table.rows:
        kinds_of = (("reference", row.reference), ("inert", bool(row.flag)), ("more", not row.label))
        marks = [mark for mark, on in kinds_of if on]
        flag = f' <strong class="flag">⚠ {_html(row.flag)}</strong>' if row.flag else ""
        out.append(f'<tr class="{" ".join(marks)}">' if marks else "<tr>")
        out.append(f'<th scope="row">{_html(row.label)}{flag}</th>')
        for index, cell in enumerate(row.cells, 1):
            text = f"<b>{_html(cell.text)}</b>" if cell.bold else _html(cell.text)
            note = f"<small>{_html(cell.note)}</small>" if cell.note else ""
            out.append(f'<td class="words">{text}</td>' if index < table.words else f"<td>{text}{note}</td>")
        out.append("</tr>")
    out.append("</tbody></table>")
    out += [f'<p class="warning">⚠ {_html(remark)}</p>' for remark in table.remarks]
    return "\n".join(out) + "\n"


def to_rich(table: Table, title: str = "") -> RichTable:
    """The table for a terminal; remarks and caption stand below it."""
    below = [Text(f"⚠ {_plain(remark)}", style="bold red") for remark in table.remarks]
    below += [Text(_plain(table.caption))] if table.caption else []
    out = RichTable(
        title=Text(_plain(title)) if title else None,
        caption=Text("\n").join(below) if below else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    out.add_column(Text(_plain(table.head[0])), overflow="fold", min_width=14)
    for index, head in enumerate(table.head[1:], 1):
        # a narrow terminal breaks lines between words, not within numbers
        said = [head, *(part for row in table.rows for part in (row.cells[index - 1].text, row.cells[index - 1].note))]
        longest = max((len(word) for text in said for word in _plain(text).split()), default=1)
        out.add_column(Text(_plain(head)), justify="left" if index < table.words else "right", min_width=longest)
    for row, following in zip(table.rows, (*table.rows[1:], None), strict=True):
        label = Text(_plain(row.label), style="dim italic" if row.reference else "")
        if row.flag:
            label.append(f"\n⚠ {_plain(row.flag)}", style="bold red")
        cells = []
        for cell in row.cells:
            text = Text(_plain(cell.text), style="bold green" if cell.bold else "dim" if row.reference else "")
            if cell.note:
                text.append("\n" + _plain(cell.note), style="not bold dim")
            cells.append(text)
        out.add_row(label, *cells, end_section=row.reference and following is not None and not following.reference)
    return out


def _plain(text: str) -> str:
    """Text without control, format and bidirectional-override characters."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def shorten(label: str) -> str:
    """A label that cannot blow up a table."""
    label = " ".join(_plain(label).split())
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _html(text: str) -> str:
    return html.escape(_plain(text))


def _markdown(text: str) -> str:
    text = _plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in "\\`*_|~$" else c for c in text).replace("](", "]\\(")


def _latex_cell(cell: Cell, small: str) -> str:
    """The value in full size, its half-width or interval small beside it, the second line small below."""
    value, _, rest = cell.text.partition(" ")
    text = f"\\textbf{{{_latex(value)}}}" if cell.bold else _latex(value)
    text += f"{{{small}\\,{_latex(rest)}}}" if rest else ""
    return f"\\stacked{{{text}}}{{{small} {_latex(cell.note)}}}" if cell.note else text


_LATEX = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "$": "\\$",
    "&": "\\&",
    "#": "\\#",
    "%": "\\%",
    "_": "\\_",
    "^": "\\textasciicircum{}",
    "~": "\\textasciitilde{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "''",
    "−": "$-$",
    "±": "$\\pm$",
    "×": "$\\times$",
    "·": "$\\cdot$",
    "≤": "$\\le$",
    "≥": "$\\ge$",
    "→": "$\\to$",
    "↓": "$\\downarrow$",
    "∞": "$\\infty$",
    "—": "---",
    "–": "--",
    "…": "\\dots{}",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "⚠": "\\textbf{!}",
    "\u00a0": "~",
    "\u202f": "\\,",
}
_GREEK = {
    chr(code): f"$\\{unicodedata.name(chr(code)).split()[-1].lower()}$"
    for code in (*range(0x3B1, 0x3BF), 0x3C0, 0x3C1, *range(0x3C3, 0x3CA))
} | {"λ": "$\\lambda$"}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u0327": "c",
}


def _latex(text: str, longest: float = math.inf) -> str:
    """Text as LaTeX that compiles in any engine; a character without a rendering prints as its code point."""
    out: list[str] = []
    length = 0
    for char in unicodedata.normalize("NFC", _plain(text)):
        out.append(_latex_character(char))
        length += len(out[-1])
        if length > longest:
            return "".join([*out[:-1], "\\dots{}"])
    return "".join(out)


def _latex_character(char: str) -> str:
    base, *marks = list(unicodedata.normalize("NFD", char))
    if char in _LATEX:
        return _LATEX[char]
    if char.isascii():
        return char
    if char in _GREEK:
        return _GREEK[char]
    if base.isascii() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return f"[U+{ord(char):04X}]"
