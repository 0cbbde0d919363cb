"""The method table for people: listed, filtered, explained, and as JSON."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from textwrap import wrap
from typing import Any

from harness.errors import UserError
from trainer import quantities
from trainer.filters import KeepAll
from trainer.methods import TABLE, Method, method
from trainer.objective import Block, Objective, Term
from trainer.quantities import Complement, Negative, Product
from trainer.rewards import Plus, Scaled
from trainer.settings import describe, paths
from trainer.weights import Times, Uniform

SIGNS: dict[type, str] = {
    Complement: "1 − {of}",
    Negative: "−{of}",
    Plus: "{a} + {b}",
    Product: "{a} · {b}",
    Scaled: "{factor} · {of}",
    Times: "{a} · {b}",
}
"""Blocks that are written with a sign; every other is `Name(block, …, field value, …)`."""

PRODUCTS = (Product, Scaled, Times)
NEUTRAL = (Uniform(), KeepAll())  # written as a dash where a table has a column for them, elsewhere not at all
ROOM = 40  # columns that a sentence needs to be readable beside others
BESIDES = {"correct": "verifier", "domain": "domains", "group": "groups of samples", "ref_logprobs": "reference model"}

Keep = Callable[[Field[Any], Any], bool]


def show(name: str | None = None, contains: str | None = None, as_json: bool = False) -> int:
    """Prints the table, the lines of it that contain a text, or one method explained; returns the exit code.

    Raises:
        UserError: for an unknown name, a text that no line contains, or both a name and a text.
    """
    if name is not None and contains is not None:
        raise UserError(f"--filter lists methods and '{name}' explains one: give one of the two")
    if name is not None:
        method(name)
        lines = [line for line in TABLE if line.name == name]
    else:
        lines = matching(contains or "")
    if as_json:
        found = [as_data(line) for line in lines]
        print(json.dumps(found[0] if name is not None else found, indent=1, ensure_ascii=False))
    elif name is not None:
        print(explain(lines[0], shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    elif sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(listing(lines, console.width))
    else:
        print(plain(lines))
    return 0


def matching(text: str) -> list[Method]:
    """The lines whose name, change, paper or class names of loss, weight and filter contain `text` in any case.

    Raises:
        UserError: if there is none.
    """
    sought = text.casefold()

    def texts(line: Method) -> Iterator[str]:
        yield from (line.name, line.change, line.paper)
        yield from (type(block).__name__ for block in blocks(line.objective))

    if lines := [line for line in TABLE if any(sought in found.casefold() for found in texts(line))]:
        return lines
    raise UserError(f"no method has '{text}' in its name, change, paper or blocks: `opd methods` lists all of them")


def as_data(line: Method) -> dict[str, Any]:
    """A line of the table as plain JSON data. `loss` and `weight` have an entry a term; `scope` lists the populations
    over which its statistics run; `objective` is the whole expression with every hyper-parameter."""
    objective = line.objective
    return {
        "name": line.name,
        "paper": line.paper,
        "change": line.change,
        "loss": [expression(term.loss) for term in objective.terms],
        "weight": [expression(term.weight) for term in objective.terms],
        "filter": expression(objective.keep),
        "scope": sorted({setting(value) for path, value in paths(objective) if path.split(".")[-1] == "scope"}),
        "needs": sorted(objective.needs),
        "reads": sorted(objective.reads),
        "objective": describe(objective),
    }


# --- expressions ----------------------------------------------------------------------------------------------


def expression(value: Any, keep: Keep = lambda field, child: True) -> str:
    """A nested block in one readable line: `MeanOne(Boost(1 − UnitMax(TeacherEntropy, batch), gain 1), trajectory)`.

    Left out are seeds, numerical guards and switched-off options that have their default values.

    Args:
        keep: whether the child of a block in a field is shown; operands of a sign always are.
    """
    if isinstance(value, Block) or not is_dataclass(value):
        return setting(value) if isinstance(value, bool | str | Block) or value is None else f"{value:g}"
    if isinstance(value, Objective):
        return _objective(value, keep)
    if isinstance(value, Term):
        return _term(value, keep)
    if sign := SIGNS.get(type(value)):
        return sign.format(**{f.name: _operand(type(value), getattr(value, f.name), keep) for f in fields(value)})
    shown = [(f, child) for f in fields(value) if keep(f, child := getattr(value, f.name)) and not _silent(f, child)]
    parts = [_argument(field, child, keep) for field, child in shown]
    return f"{type(value).__name__}({', '.join(parts)})" if parts else type(value).__name__


def _argument(field: Field[Any], value: Any, keep: Keep) -> str:
    if value is None:
        return f"no {field.name}"
    named = isinstance(value, bool | int | float)
    return f"{field.name} {expression(value)}" if named else expression(value, keep)


def _operand(outer: type, value: Any, keep: Keep) -> str:
    text = expression(value, keep)
    bare = type(value) not in SIGNS or (outer in PRODUCTS and isinstance(value, PRODUCTS))
    return text if bare else f"({text})"


def _silent(field: Field[Any], value: Any) -> bool:
    """Whether a field has a default that says nothing about the method: off, all, a seed, a guard of a division."""
    return _default(field, value) and (value in (None, 1e-6, *NEUTRAL) or field.name == "seed")


def _default(field: Field[Any], value: Any) -> bool:
    return field.default is not MISSING and value == field.default


def _term(term: Term, keep: Keep) -> str:
    factors = [expression(term.coef)] if term.coef != 1 else []
    factors += [_operand(Times, part, keep) for part in (term.weight, term.loss) if part != Uniform()]
    return " · ".join(factors)


def _objective(value: Objective, keep: Keep) -> str:
    text = f"{expression(value.reduce, keep)} of {' + '.join(expression(term, keep) for term in value.terms)}"
    text += "" if value.keep == KeepAll() else f", over {expression(value.keep, keep)}"
    text += "" if value.importance_cap is None else f", importance weights up to {value.importance_cap:g}"
    return text + ("" if value.sampler == "student" else f", on rollouts of the {value.sampler}")


def blocks(value: Any) -> Iterator[Any]:
    """Every block inside a value, outermost first; an objective and its terms are no blocks."""
    if isinstance(value, tuple):
        for item in value:
            yield from blocks(item)
    elif is_dataclass(value) and not isinstance(value, type):
        if not isinstance(value, Objective | Term):
            yield value
        for field in fields(value):
            yield from blocks(getattr(value, field.name))


def setting(value: Any) -> str:
    """A leaf of `settings.paths` as `--set` reads it."""
    if isinstance(value, Block):
        return f"block:{value.rows}"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def first_sentence(block: Any) -> str:
    """Of the docstring, in one line."""
    text = " ".join((type(block).__doc__ or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`\"])", text)[0]


# --- pages ----------------------------------------------------------------------------------------------------

HEAD = ("method", "loss", "weight", "filter", "what it changes against opd", "needs", "paper")


def cells(line: Method) -> tuple[str, ...]:
    """A line of the table under `HEAD`. Loss, weight and filter show the blocks that make a difference in kind:
    no numbers, scopes, quantities, and nothing that is the default of its place."""

    def shape(block: Any) -> str:
        return "—" if block in NEUTRAL else expression(block, _matters)

    objective = line.objective
    return (
        line.name,
        " + ".join(shape(term.loss) for term in objective.terms),
        " + ".join(shape(term.weight) for term in objective.terms),
        shape(objective.keep),
        line.change,
        needs(objective),
        line.paper,
    )


def _matters(field: Field[Any], child: Any) -> bool:
    detail = isinstance(child, Block) or type(child).__module__ == quantities.__name__
    return is_dataclass(child) and not detail and not _default(field, child)


def needs(objective: Objective) -> str:
    """The most that is asked of the teacher, and what is asked of others."""
    of_teacher = next(need for need in ("logits", "entropy", "topk_logprobs", "logprobs") if need in objective.needs)
    return ", ".join([of_teacher, *(BESIDES[name] for name in sorted(objective.reads & set(BESIDES)))])


def plain(lines: Sequence[Method]) -> str:
    """One line a method under a line of headings, for a pipe, which has no width."""
    return columns([HEAD, *map(cells, lines)])


def listing(lines: Sequence[Method], width: int) -> Any:
    """A rich table for a terminal: one row of columns a method, or where they do not fit its parts below its change."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{len(lines)} objectives; `opd methods NAME` explains one", style="italic")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    heads, rows = HEAD[:-1], [cells(line)[:-1] for line in lines]
    words = [max(len(word) for cell in column for word in cell.split()) for column in zip(heads, *rows, strict=True)]
    if width - sum(words) + words[4] - 3 * len(heads) >= ROOM:
        for head, longest in zip(heads, words, strict=True):
            table.add_column(head, width=None if head == HEAD[4] else longest)
        for row in rows:
            table.add_row(*map(Text, row))
        return table
    table.add_column(HEAD[0], no_wrap=True)
    table.add_column(f"{HEAD[4]}\nloss | weight | filter | needs", overflow="fold")
    for name, loss, weight, keep, change, need in rows:
        table.add_row(Text(name, style="bold"), Text(change))
        table.add_row("", Text(" | ".join((loss, weight, keep, need)), style="dim"))
    return table


def explain(line: Method, width: int | None = None) -> str:
    """All about one method, wrapped to `width` columns if there is a width."""
    objective = line.objective
    used = {type(block).__name__: first_sentence(block) for block in blocks(objective) if block not in NEUTRAL}
    also = "".join(f"; {BESIDES[name]}" for name in sorted(objective.reads & set(BESIDES)))
    parts = [
        f"{line.name}: {line.change}",
        columns(
            [("paper", line.paper), ("needs", f"{', '.join(sorted(objective.needs))} of its teacher{also}")], width
        ),
        expression(objective),
        columns(list(used.items()), width),
        columns([("path for --set", "value"), *((path, setting(value)) for path, value in paths(objective))], width),
    ]
    if width:
        for at in (0, 2):
            parts[at] = "\n".join(wrap(parts[at], width, break_on_hyphens=False, subsequent_indent="  "))
    return "\n\n".join(parts)


def columns(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Left-aligned columns, two spaces apart; the last one is wrapped to `width` if there is a width."""
    sizes = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)][:-1]
    left = sum(sizes)
    text = []
    for *cells, last in rows:
        start = "".join(cell.ljust(size) for cell, size in zip(cells, sizes, strict=True))
        folded = wrap(last, max(20, width - left), break_on_hyphens=False) if width else [last]
        text += [start + folded[0], *(" " * left + more for more in folded[1:])]
    return "\n".join(text)
