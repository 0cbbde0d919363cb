"""One look for every figure: sizes, fonts, colours, and byte-identical files."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

WIDE = 6.75  # inches: the text width of a two-column venue
GREY = "#6f6f6f"

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is darkened, being faint on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#9A8C00")
# Tol's muted scheme, for grids of more arms than that; markers and dashes tell them apart, too
FURTHER = ("#332288", "#882255", "#44AA99", "#AA4499", "#117733", "#CC6677", "#6699CC", "#661100")
BLACK = "#000000"
BETTER, WORSE = "#0072B2", "#D55E00"  # up and down, right and wrong: read without colour by place or by sign
COUNTS = "viridis_r"  # few: pale, next to the white of none
DIVERGING: Colormap = LinearSegmentedColormap.from_list(
    "worse-better", [WORSE, "#f4d9c6", "#ffffff", "#c6dcea", BETTER]
)
# the methods that most reports share look the same in all of them
FIXED = {
    "full-rkl": "#009E73",
    "fire": "#D55E00",
    "fire-as-released": "#E69F00",
    "tip": "#0072B2",
    "eopd": "#56B4E9",
    "exopd": "#CC79A7",
}
MARKERS = "osD^vP<X>*"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))


# a hundredth of a point is enough for all but scales, and makes pages a quarter lighter
_DIGITS = re.compile(r"scale\([^)]*\)|(\d+\.\d\d)\d+")

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "mathtext.fontset": "stix",
    "text.parse_math": False,  # labels are people's text, and may hold a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "opd",
    "savefig.dpi": 300,
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and dash of an arm: any one of them is enough to tell it from its neighbours."""

    color: str
    marker: str
    dash: Any


@contextmanager
def drawing() -> Iterator[None]:
    """The style, whatever the user's own matplotlib settings."""
    settings: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
    with matplotlib.rc_context(settings | _RC):
        yield


def looks(manifest: Mapping[str, Any]) -> dict[str, Look]:
    """The look of every trained arm: black for the baseline, known methods their own colour, the rest in order."""
    trained = [arm for arm in manifest.get("order") or manifest["arms"] if not manifest["arms"][arm].get("reference")]
    trained.sort(key=lambda arm: arm != manifest["baseline"])
    color = {arm: BLACK if arm == manifest["baseline"] else FIXED.get(arm, "") for arm in trained}
    free = [c for c in (*PALETTE, *FURTHER) if c not in color.values()]
    for index, arm in enumerate([arm for arm in trained if not color[arm]]):
        color[arm] = free[index % len(free)]
    found: dict[str, Look] = {}
    turns: dict[str, list[int]] = {}  # of a colour: the places of the arms that have it
    for index, arm in enumerate(trained):
        turn = turns.setdefault(color[arm], [])
        at = turn[0] + len(turn) if turn else index
        turn.append(index)
        found[arm] = Look(color[arm], MARKERS[at % len(MARKERS)], DASHES[at % len(DASHES)])
    return found


def wrapped(label: str, width: int) -> str:
    """A label in at most two lines of `width` characters."""
    lines = textwrap.wrap(label, width, max_lines=2, placeholder=" …")
    return "\n".join(lines) or label


def settle(figure: Figure) -> None:
    """Lay the figure out once and for all, so that every file shows the same and none pays for it again."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def save(figure: Figure, frame: pd.DataFrame, stem: Path) -> list[Path]:
    """Write `stem`.pdf, .png and .csv (the plotted numbers); the same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".pdf", ".png", ".csv")]
    with drawing():
        settle(figure)
        figure.savefig(paths[0], metadata={"CreationDate": None})
        figure.savefig(paths[1], metadata={"Software": None})
    paths[2].write_text(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"), encoding="utf-8")
    return paths


def svg(figure: Figure) -> str:
    """The figure as one SVG element without outside references, for embedding."""
    stream = io.StringIO()
    with drawing():
        settle(figure)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return _DIGITS.sub(lambda found: found[1] or found[0], text[text.index("<svg") :])
