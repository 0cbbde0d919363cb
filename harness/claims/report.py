"""The claims frame as tables; nothing is computed here that the frame does not hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from harness.claims.figure import claims_figure, headline, name_of, what, where
from harness.claims.ledger import BENCHES
from harness.claims.resolution import count_table, headline_table, resolution_figure
from harness.plots.style import save
from harness.tables import markup
from harness.tables.markup import Cell, Row, Table, shorten

__all__ = [
    "as_data",
    "claims_figure",
    "grim_table",
    "headline",
    "impossible",
    "readme_table",
    "reasons",
    "table",
    "to_csv",
    "write",
]

MOST_IN_README: Final = 12
HOLE: Final = "—"
CAPTION: Final = (
    "Points. Published: the gain, and its standard error under mild and harsh assumptions (spread of the true "
    "per-problem differences 10 and 20 points; seed SD 1.0 and 2.5, one training run per arm; k as stated, else 32 "
    "and 8); p: two-sided, of that gain by itself. GRIM: whether the printed numbers are possible for the stated n "
    "and k, and the k for which they are. Here: paired difference between the same two methods in kept records with "
    "its 95 % interval over problems and training runs, p after Holm over all differences that claims ask for. "
    "Verdict: needs Holm p < 0.05, an interval without 0 and at least three training runs; (toy) is about the "
    "direction in the toy world only, and says nothing about large models."
)


def table(frame: pd.DataFrame) -> Table:
    """One row per claim."""
    rows = []
    for row in frame.to_dict("records"):
        verdict, _, scale = row["verdict"].partition(" (")
        cells = (
            Cell(_signed_text(row["gain"]), _range(row["se_low"], row["se_high"])),
            Cell(_p_range(row["p_low"], row["p_high"])),
            Cell(_unbroken(row["grim"]), f"k: {row['grim_ks']}" if row["grim_ks"] else ""),
            _measured(row),
            Cell(_unbroken(verdict), scale.rstrip(")")),
        )
        student = f", {row['student']}" if row["student"] else ""
        rows.append(Row(shorten(f"{what(row)}, {where(row)}{student}"), cells))
    return Table(("claim", "published", "p by itself", "GRIM", "here", "verdict"), tuple(rows), CAPTION)


def reasons(frame: pd.DataFrame) -> list[str]:
    """Why each claim that was measured has its verdict, every sentence once."""
    measured = frame[frame["delta"].notna()].to_dict("records")
    return list(dict.fromkeys(f"{what(row)}, {row['verdict']}: {row['reason']}" for row in measured))


def readme_table(frame: pd.DataFrame) -> str:
    """The headline claims as a short Markdown table: at most 12 rows, the same text for the same frame."""
    rows = []
    for row in headline(frame).head(MOST_IN_README).to_dict("records"):
        found = HOLE if math.isnan(row["delta"]) else _interval(row)
        cells = (_signed_text(row["gain"]), _p_range(row["p_low"], row["p_high"]), found, row["verdict"])
        rows.append(Row(f"{what(row)}, {where(row)}", tuple(map(Cell, cells))))
    return markup.markdown(Table(("published claim", "gain", "p by itself", "here", "verdict"), tuple(rows)))


def grim_table(numbers: pd.DataFrame, ks: bool = True) -> Table:
    """The published numbers that their stated design cannot have given, or only by cutting digits off.

    Args:
        ks: whether to list the k of 1 … 64 that can have given each.
    """
    odd = impossible(numbers)
    rows = []
    for row in odd.to_dict("records"):
        cells = [row["value"], _times(row["n"], row["k"]), row["verdict"], row["nearest"]]
        cells += [row["ks"] or HOLE] if ks else []
        over = f" − {name_of(row['baseline'])}" if row["baseline"] else ""
        label = f"{row['title_short']}: {name_of(row['method'])}{over}, {BENCHES[row['benchmark']].label}"
        rows.append(Row(shorten(label), tuple(map(Cell, cells))))
    tested = int((~numbers["verdict"].isin(("untestable", "k unknown"))).sum())
    caption = (
        f"{len(odd)} of the {tested} published numbers that can be tested. n and k as stated, else n of the benchmark; "
        "nearest: in right answers and in percent. A number can be impossible because k, n or the rounding is not what "
        "is stated, because it was averaged again, or because it was copied wrongly on its way here."
    )
    head = ("number", "printed", "n × k", "GRIM", "nearest", *(["possible k of 1 … 64"] if ks else []))
    return Table(head, tuple(rows), caption)


def impossible(numbers: pd.DataFrame) -> pd.DataFrame:
    """The numbers that no rounding makes possible for their stated design."""
    return numbers[numbers["verdict"].isin(("impossible", "truncated"))]


def as_data(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain JSON data; what is not known is null."""

    def plain(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return None if math.isnan(value) else int(value) if value.is_integer() else value

    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def to_csv(frame: pd.DataFrame) -> str:
    """The whole frame, differences by seed separated by semicolons."""
    flat = frame.copy()
    if "delta_per_seed" in flat:
        flat["delta_per_seed"] = [";".join(f"{v:.6g}" for v in values) for values in flat["delta_per_seed"]]
    return flat.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def write(frame: pd.DataFrame, numbers: pd.DataFrame, seen: pd.DataFrame, root: Path) -> list[Path]:
    """Tables (Markdown, CSV, LaTeX of the headline claims) and the figures, under `root`; their paths.

    Args:
        frame: of `claims`; `numbers` of `printed.numbers`; `seen` of `resolution.resolution`, empty for none.
    """
    tables = root / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    sections = (
        ("Headline claims", table(headline(frame))),
        ("All claims", table(frame)),
        ("Numbers that their stated design cannot have given", grim_table(numbers)),
    )
    texts = {
        "claims.md": "\n".join(f"## {title}\n\n{markup.markdown(laid)}" for title, laid in sections),
        "claims.readme.md": readme_table(frame),
        "claims.csv": to_csv(frame),
        "claims.grim.csv": to_csv(numbers),
        "claims.tex": markup.latex(table(headline(frame)), "tab:claims"),
    }
    if len(seen):
        texts["claims.power.md"] = "\n".join(map(markup.markdown, (count_table(seen), headline_table(seen))))
    for file, text in texts.items():
        (tables / file).write_text(text, encoding="utf-8")
    written = [tables / file for file in texts]
    if len(headline(frame)):
        written += save(*claims_figure(frame), root / "figures" / "claims")
    if len(seen):
        written += save(resolution_figure(seen), seen, root / "figures" / "claims-power")
    return written


# --- cells ----------------------------------------------------------------------------------------------------


def _unbroken(words: str) -> str:
    """Words that a table keeps together: LaTeX sets what follows a space small."""
    return words.replace(" ", "\u00a0")


def _signed_text(text: str) -> str:
    return text.replace("-", "−")


def _signed(value: float) -> str:
    tenths = round(10 * value)
    return f"{'−' if tenths < 0 else '+' if tenths else ''}{abs(tenths) / 10:.1f}"


def _interval(row: Mapping[Any, Any]) -> str:
    return f"{_signed(row['delta'])} [{_signed(row['delta_low'])}, {_signed(row['delta_high'])}]"


def _measured(row: Mapping[Any, Any]) -> Cell:
    if math.isnan(row["delta"]):
        return Cell(HOLE)
    return Cell(_interval(row), f"{shorten(row['grid'])}, p {_p(row['p_holm'])}")


def _range(low: float, high: float) -> str:
    return f"SE {low:.1f}–{high:.1f}" if math.isfinite(low + high) else "SE unknown"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _p_range(low: float, high: float) -> str:
    if not math.isfinite(low + high):
        return HOLE
    return _p(low) if _p(low) == _p(high) else f"{_p(low)}–{_p(high)}"


def _times(n: float, k: float) -> str:
    return f"{n:.0f} × {k:.0f}" if math.isfinite(n) and math.isfinite(k) else HOLE
