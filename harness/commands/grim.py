"""`opd grim`: could this percentage have been printed?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.commands import console
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.stats.grim import Grim

HELP = "whether a reported percentage can come from n problems and k samples of each"
EXAMPLES = (
    "opd grim 81.46 --n 30 --k 32\nopd grim 94.69 --n 500\nopd grim +18.81 --n 272 --k 8 --gain\n"
    "opd grim 61.74 --mean-of 61.25 55.00 33.75 37.50 94.69 95.15 48.07 68.49"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("value", help="the percentage as printed, with all of its decimals")
    parser.add_argument("--n", type=int, help="number of problems")
    parser.add_argument("--k", type=int, help="samples per problem (default: look at 1 to 64)")
    parser.add_argument("--gain", action="store_true", help="the value is a difference of two such percentages")
    parser.add_argument("--mean-of", nargs="+", metavar="VALUE", help="the value is the average of these, as printed")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from harness.stats.grim import average, designs

    if args.mean_of:
        if args.n is not None or args.k is not None or args.gain:
            raise UserError("option '--mean-of' asks about an average: leave --n, --k and --gain out")
        mean = average(args.mean_of, args.value)
        if args.json:
            print(json.dumps({**vars(mean), "cells": list(mean.cells)}, indent=1))
        else:
            can = "can be" if mean.possible else "cannot be"
            print(
                f"{mean.printed} {can} the average of these {len(mean.cells)}: their mean is {mean.mean}, and as "
                f"rounded numbers they allow {mean.low} to {mean.high}."
            )
        return 0
    if args.n is None:
        raise UserError("option '--n' is missing: how many problems is the percentage over?")
    tested = designs(args.value, args.n, [args.k] if args.k is not None else range(1, 65), args.gain)
    if args.json:
        data = [_data(one) for one in tested]
        print(json.dumps(data[0] if args.k is not None else data, indent=1))
    else:
        _show(tested, args.k is not None, args.gain)
    return 0


def _show(tested: Sequence[Grim], single: bool, gain: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from harness.claims.printed import COMMON_KS

    out = console()
    out.print(_sentence(tested[0], gain) if single else _summary(tested), soft_wrap=True, highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("k", "n·k", "verdict", "printed by", "nearest"):
        table.add_column(head, justify="left" if head in ("verdict", "printed by") else "right")
    for one in tested:
        if single or one.k in COMMON_KS:
            nearest = " or ".join(f"{count}/{one.n * one.k} = {text}" for count, text in one.nearest)
            rules = ", ".join(one.rules) if one.informative else "any rule"
            table.add_row(str(one.k), str(one.n * one.k), one.verdict, rules or "—", nearest)
    out.print(table, highlight=False)


def _sentence(one: Grim, gain: bool) -> str:
    """The verdict on one design in words."""
    design = f"{one.n} problems × {one.k} sample{'s' if one.k > 1 else ''} = {one.n * one.k} answers"
    what = f"A gain of {one.value}" if gain else one.value
    difference = "a difference of " if gain else ""
    if one.verdict == "untestable":
        return f"{design} can print every number with as many decimals: {what} says nothing about the design."
    if one.verdict == "impossible":
        beside = " and ".join(f"{count} ({text} %)" for count, text in one.nearest)
        return f"{what} is impossible with {design}: the nearest are {difference}{beside} right."
    if one.verdict == "truncated":
        return f"{what} is impossible with {design} by rounding, and possible if digits were cut off."
    counts = str(one.counts[0]) if len(one.counts) == 1 else f"{one.counts[0]} to {one.counts[-1]}"
    return f"{what} is possible with {design}: {difference}{counts} right."


def _summary(tested: Sequence[Grim]) -> str:
    """Which numbers of samples can have given the value."""
    from harness.claims.printed import runs

    fine = [one.k for one in tested if one.verdict in ("possible", "untestable")]
    first = next((one.k for one in tested if not one.informative), None)
    value, n = tested[0].value, tested[0].n
    if not fine:
        return f"{value} is impossible with {n} problems and any k from 1 to {tested[-1].k}."
    note = f" From k = {first} on every number with as many decimals is possible." if first is not None else ""
    return f"{value} is possible with {n} problems and k = {runs(fine)}.{note}"


def _data(one: Grim) -> dict[str, Any]:
    counts = [one.counts[0], one.counts[-1]] if one.counts else None
    nearest = [{"count": count, "percent": text} for count, text in one.nearest]
    return {**vars(one), "verdict": one.verdict, "possible": one.possible, "counts": counts, "nearest": nearest}
