"""`opd benchmarks`: the registry, one benchmark explained, and the golds that are not taken at their word."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from harness.commands import console
from harness.errors import UserError

HELP = "list the benchmarks, explain one, or list the repaired golds"
EXAMPLES = """opd benchmarks
opd benchmarks minerva --data-dir BENCHMARKS
opd benchmarks problems.jsonl
opd benchmarks --golds
opd benchmarks olympiadbench --golds --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a benchmark to explain: its name, or a JSONL or parquet file")
    parser.add_argument("--golds", action="store_true", help="the repaired golds beside their originals")
    parser.add_argument("--data-dir", help="folder of the benchmark files (or OPD_DATA)")
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(args: argparse.Namespace) -> int:
    out = console(width=240)
    data: Any
    view: Callable[[Any, Any], None]
    if args.golds:
        data, view = golds(args.name, args.data_dir), _gold_table
    elif args.name is None:
        data, view = registry(), _registry_table
    else:
        data, view = explained(args.name, args.data_dir), _explanation
    if args.json:
        print(json.dumps(data, indent=1))
    else:
        view(out, data)
    return 0


def registry() -> list[dict[str, Any]]:
    """A row per registered benchmark, as plain data."""
    from harness.benchmarks import BENCHMARKS

    return [_row(spec) for spec in BENCHMARKS.values()]


def _row(spec: Any) -> dict[str, Any]:
    return {
        "name": spec.name,
        "label": spec.label,
        "n": spec.n,
        "k": spec.k,
        "answers": spec.answer_type,
        "licence": spec.licence,
        "source": "generated" if spec.toy else spec.hub_id or "a file",
        "revision": spec.revision,
        "config": spec.config,
        "split": spec.split if spec.hub_id else None,
        "files": [] if spec.toy else [f"{name}.jsonl" for name in dict.fromkeys((spec.name, *spec.files))],
        "sha256": spec.sha256,
        "content": spec.content,
        "prompt": spec.style,
        "families": spec.families,
    }


def explained(name: str, data_dir: str | None) -> dict[str, Any]:
    """One benchmark as plain data; with its problems at hand also what they hold and a prompt as a model sees it."""
    import os
    from collections import Counter
    from pathlib import Path

    from harness.benchmarks import BENCHMARKS, load_benchmark, prompt_hash, render_prompt
    from harness.benchmarks.slices import slices

    spec = BENCHMARKS.get(name)
    if spec and not spec.toy and data_dir is None and not os.environ.get("OPD_DATA"):
        return _row(spec) | {"loaded": None}
    bench = load_benchmark(name, data_dir)
    styles = dict.fromkeys((bench.spec.style, *(() if bench.spec.toy else ("clean", "paper"))))
    first = bench.problems[0]
    parts = Counter(slices(bench.spec.name, bench.problems).values())
    return _row(bench.spec) | {
        "loaded": {
            "from": bench.source,
            "file": Path(bench.source).is_file(),
            "sha256": bench.sha256,
            "revision": bench.revision,
            "content": bench.content,
            "released": bench.released,
            "families": len({p.family for p in bench.problems}),
            "slices": dict(sorted(parts.items())),
            "prompt_hash": {s: prompt_hash(render_prompt(p, s) for p in bench.problems) for s in styles},
        },
        "example": {"problem": first.id, "gold": first.answer}
        | {"prompt": {style: render_prompt(first, style) for style in styles}},
    }


def golds(name: str | None, data_dir: str | None) -> list[dict[str, Any]]:
    """The golds of the table in `harness.answers.golds`, with the problems that have them where the data are at hand.

    Raises:
        UserError: for a name that is not in the registry.
    """
    import os
    import re

    from harness.answers.golds import repaired_golds
    from harness.benchmarks import BENCHMARKS, load_benchmark

    if name is not None and name not in BENCHMARKS:
        raise UserError(f"unknown benchmark '{name}': `opd benchmarks` lists them")
    homes: dict[str, dict[str, list[str]]] = {}  # gold → benchmark → problems
    if data_dir is not None or os.environ.get("OPD_DATA"):
        for spec in (one for one in BENCHMARKS.values() if not one.toy):
            try:
                problems = load_benchmark(spec.name, data_dir, allow_changed=True).problems
            except UserError:  # one of several files may be absent; its golds are listed all the same
                continue
            for p in problems:
                homes.setdefault(" ".join(p.answer.split()), {}).setdefault(spec.name, []).append(p.id)
    out = []
    for pattern, gold in repaired_golds():
        benches = [spec.name for spec in BENCHMARKS.values() if re.search(pattern, spec.name) and not spec.toy]
        found = {b: ids for b, ids in homes.get(" ".join(gold.original.split()), {}).items() if b in benches}
        benches = list(found) or benches
        if name is None or name in benches:
            out.append(
                {
                    "benches": benches,
                    "problems": [problem for ids in found.values() for problem in ids],
                    "original": gold.original,
                    "accepted": list(gold.accepted),
                    "reading": _reading(gold),
                    "reason": gold.reason,
                }
            )
    return out


def _reading(gold: Any) -> str:
    """How the gold is read beyond its accepted texts, in words."""
    parts = [f"any name for {', '.join(gold.constants)}"] if gold.constants else []
    parts += [f"one symbol each: {', '.join(gold.names)}"] if gold.names else []
    parts += ["a bare number is in percent"] if gold.percent_asked else []
    parts += ["right to its figures"] if gold.rounded else []
    parts += [f"within ± {gold.tolerance}"] if gold.tolerance else []
    return "; ".join(parts)


# --- views -------------------------------------------------------------------------------------------------------


def _registry_table(out: Any, data: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="benchmarks; none is part of this repository", title_justify="left")
    for column in ("name", "label", "n", "k", "answers", "licence", "source", "revision", "SHA-256", "prompt"):
        table.add_column(column, justify="right" if column in ("n", "k") else "left", overflow="fold")
    for row in data:
        known = "known" if row["sha256"] else "–"
        cells = [row["answers"], row["licence"], row["source"], (row["revision"] or "–")[:8], known, row["prompt"]]
        table.add_row(*(Text(str(cell)) for cell in (row["name"], row["label"], row["n"], row["k"], *cells)))
    out.print(table)
    out.print(
        "`opd benchmarks NAME` explains one; a .jsonl or .parquet file with problem and answer is one too", markup=False
    )


def _explanation(out: Any, data: dict[str, Any]) -> None:
    def line(name: str, value: Any) -> None:
        if value not in (None, "", [], {}):
            out.print(f"{name:<14}{_printable(str(value))}", soft_wrap=True, markup=False, highlight=False)

    loaded, prompts = data["loaded"], data.get("example", {}).get("prompt", {})
    line(
        "benchmark",
        f"{data['name']} ({data['label']}): {data['n']} problems, k = {data['k']}, {data['answers']} answers",
    )
    line("licence", data["licence"])
    line("source", " ".join(filter(None, (data["source"], data["config"], data["split"]))))
    line("revision", data["revision"])
    line("files", ", ".join(data["files"]))
    line("SHA-256", data["sha256"] and f"{data['sha256']} (the file released with FiRe-OPD)")
    line("prompt", f"{data['prompt']} by default (clean: instruction once; paper: twice, as released; plain: without)")
    if loaded is None:
        line("problems", "not at hand: name their folder with --data-dir or OPD_DATA to see a prompt")
        return
    line("loaded from", loaded["from"] + (f" @{loaded['revision']}" if loaded["revision"] else ""))
    same = {True: " (the problems and answers released with FiRe-OPD)", False: " (not the released ones)", None: ""}
    line("content", loaded["content"] + same[loaded["released"]])
    line("families", f"{loaded['families']} clusters of the interval" if data["families"] else None)
    line("slices", ", ".join(f"{name} {count}" for name, count in loaded["slices"].items()))
    line("prompt hashes", ", ".join(f"{style} {found}" for style, found in loaded["prompt_hash"].items()))
    line("gold", f"{data['example']['gold']} of {data['example']['problem']}, which is asked so:")
    for style, text in prompts.items():
        out.print(f"--- {style}", style="bold", highlight=False)
        out.print(_printable(text), markup=False, highlight=False, soft_wrap=True)


def _gold_table(out: Any, data: list[dict[str, Any]]) -> None:
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text

    title = "golds that are not taken at their word"
    table = Table(title=title, title_justify="left", show_lines=True, box=HORIZONTALS)
    for column in ("problem", "original", "accepted", "reason"):
        table.add_column(column, overflow="fold")
    for row in data:
        where = "\n".join(row["problems"] or row["benches"])
        accepted = "\n".join((*row["accepted"], *([f"({row['reading']})"] if row["reading"] else [])))
        table.add_row(*map(Text, (where, row["original"], accepted, row["reason"])))
    out.print(table)
    out.print(f"{len(data)} golds, each with its original; the table is harness/answers/golds.py", markup=False)


def _printable(text: str) -> str:
    """A file's text without what a terminal would act on or cannot show."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
