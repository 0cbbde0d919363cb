"""`opd power`: which differences a design can see, before anything is sampled."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from harness.commands import console
from harness.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from harness.benchmarks.registry import Benchmark
    from harness.stats.power import Design, Question, ReportedGain, Size

HELP = "what difference a design can resolve, and whether a gain would be seen"
EXAMPLES = (
    "opd power --n 30 --k 32\n"
    "opd power --bench aime24 --accuracy 60 --gain 6.25\n"
    "opd power --bench minerva --seeds 3 --seed-sd 1.5 --comparisons 8"
)
FACTORS = (1, 2, 4, 8)
# what each size of a design counts: noun, and of what
SIZES: dict[Size, tuple[str, str]] = {
    "n": ("problem", ""),
    "k": ("sample", " per problem"),
    "seeds": ("training run", " per arm"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    def number(option: str, metavar: str, default: float, text: str) -> None:
        parser.add_argument(option, type=type(default), metavar=metavar, default=default, help=text)

    parser.add_argument("--bench", metavar="NAME", help="a registered benchmark: its number of problems and samples")
    parser.add_argument("--n", type=int, metavar="N", help="problems")
    parser.add_argument("--k", type=int, metavar="K", help="samples per problem")
    number("--seeds", "S", 1, "training runs per arm (default: 1)")
    number("--accuracy", "PCT", 60.0, "expected accuracy, as 60 or 0.6 (default: 60)")
    number("--sd", "PTS", 15.0, "SD of the true gain over problems in points, as 15 or 0.15 (default: 15)")
    number("--seed-sd", "PTS", 0.0, "SD of an arm's score over training runs in points (default: 0)")
    parser.add_argument("--gain", type=float, metavar="PTS", help="a gain in points, true or reported, to be judged")
    number("--power", "SHARE", 0.8, "chance of seeing a true gain (default: 0.8)")
    number("--alpha", "LEVEL", 0.05, "two-sided level of the test (default: 0.05)")
    number("--comparisons", "M", 1, "tests that share the level, alpha/M each (default: 1)")
    parser.add_argument("--json", action="store_true", help="the numbers as JSON, in points")


def run(args: argparse.Namespace) -> int:
    design, bench = _design(args)
    if not 0 < args.power < 1 or not 0 < args.alpha < 1:
        wrong = "power" if not 0 < args.power < 1 else "alpha"
        raise UserError(f"option '--{wrong}' must lie between 0 and 1, got {getattr(args, wrong):g}")
    if args.gain is not None and not 0 < abs(args.gain) <= 100:
        raise UserError(f"option '--gain' is in points, up to 100 and not 0, got {args.gain:g}")
    gain = None if args.gain is None else args.gain / 100
    page = _Page(design, bench, gain, args.power, args.alpha, args.comparisons)
    if args.json:
        import json

        print(json.dumps(page.numbers(), indent=1))
        return 0

    out = console()
    for part in page.parts():
        out.print(part, highlight=False)
    return 0


def _design(args: argparse.Namespace) -> tuple[Design, Benchmark | None]:
    """What the options describe, and the benchmark they name."""
    from harness.benchmarks.registry import BENCHMARKS
    from harness.stats.power import Design

    bench = None if args.bench is None else BENCHMARKS.get(args.bench)
    if args.bench is not None and bench is None:
        raise UserError(f"option '--bench': no benchmark '{args.bench}'; choose from {', '.join(BENCHMARKS)}")
    sizes = {"n": args.n, "k": args.k, "seeds": args.seeds, "comparisons": args.comparisons}
    for name, size in sizes.items():
        if size is None and bench is None:
            raise UserError(f"option '--{name}' is missing: give --n and --k, or a benchmark with --bench")
        if size is not None and size < 1:
            raise UserError(f"option '--{name}' must be at least 1, got {size}")
    # below a point these two would be implausible, so that is a fraction; the page says how it was read
    accuracy = args.accuracy if 0 <= args.accuracy <= 1 else _fraction(args.accuracy, "accuracy")
    sd = args.sd if 0 <= args.sd < 1 else _fraction(args.sd, "sd")
    n = args.n if args.n is not None or bench is None else bench.n
    k = args.k if args.k is not None or bench is None else bench.k
    seed_sd = _fraction(args.seed_sd, "seed-sd")
    design = Design(n, k, accuracy=accuracy, sd_difference=sd, seeds=args.seeds, seed_sd=seed_sd)
    return design, bench


def _fraction(points: float, option: str) -> float:
    if not 0 <= points <= 100:
        raise UserError(f"option '--{option}' is in points, from 0 to 100, got {points:g}")
    return points / 100


class _Page:
    """What a design resolves, what more would buy, and what is assumed: for the terminal, or as numbers."""

    def __init__(
        self,
        design: Design,
        bench: Benchmark | None,
        gain: float | None,
        power: float,
        alpha: float,
        comparisons: int,
    ) -> None:
        from harness.stats.power import QUESTIONS, reported_gain

        self.design, self.gain = design, gain
        self.label = bench.label if bench else ""
        self.families = bench is not None and bench.families
        self.power, self.alpha, self.comparisons = power, alpha / comparisons, comparisons
        # without a spread over training runs, the questions about runs are those about checkpoints
        self.questions: dict[Question, str] = {
            question: text for question, text in QUESTIONS.items() if design.seed_sd or question not in ("runs", "both")
        }
        names = ("n", "k", "accuracy", "sd_difference", "seeds", "seed_sd", "within")
        self.reading: ReportedGain | None = None
        if gain is not None:
            self.reading = reported_gain(gain, **{name: getattr(design, name) for name in names})
        self.scope = "such problems and training runs" if design.seed_sd else "such problems"
        self.strength = f"{100 * power:.3g} % power"

    def parts(self) -> list[RenderableType]:
        from rich.text import Text

        sizes = [_many(getattr(self.design, size), noun) for size, (noun, _) in SIZES.items()]
        title = f"{self.label}: " if self.label else ""
        title += f"{sizes[0]} × {sizes[1]}, {sizes[2]} per arm, two arms on the same problems"
        parts: list[RenderableType] = ["", Text(title, "bold"), ""]
        parts += [Text("What a difference resolves, in points", "bold"), "", self._resolved(), ""]
        buy = f"What more would buy: least gain seen with {self.strength} on {self.scope}"
        parts += [Text(buy, "bold"), "", self._more(), ""]
        if self.gain is not None:
            parts += [self._needed(self.gain), ""]
        return [*parts, Text("What is assumed", "bold"), "", self._assumed(), ""]

    def _resolved(self) -> Table:
        """A line for each question that a difference may be asked."""
        table = _table("a gain on …")
        heads = ["standard\nerror", "95 %\ninterval", f"least gain\nseen with\n{self.strength}"]
        if self.gain is not None:
            heads += [f"chance to\nsee a true\n{100 * self.gain:+g}", f"p of a\nreported\n{100 * self.gain:+g}"]
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True, style="bold" if "least" in head else "")
        for question, text in self.questions.items():
            half = self.design.half_width(question)
            cells = [
                _points(self.design.se(question)),
                "—" if math.isnan(half) else f"± {_points(half)}",
                _least(self.design.detectable(question, self.power, self.alpha)),
            ]
            if self.gain is not None:
                chance = self.design.power(self.gain, question, self.alpha)
                cells.append("> 99 %" if chance >= 0.995 else f"{100 * chance:.0f} %")
                cells.append(_p(getattr(self.reading, question).p))
            table.add_row(text, *cells, style="dim" if question == "independent" else "")
        return table

    def _more(self) -> Table:
        table = _table("with … as many")
        for head in ("as\nplanned", *(f"{factor} ×" for factor in FACTORS[1:]), "no end\nof them"):
            table.add_column(head, justify="right", no_wrap=True, min_width=7)
        for size, gains in self._gains().items():
            name = f"{_many(None, *SIZES[size])} ({getattr(self.design, size):,})"
            table.add_row(name, *map(_least, gains))
        return table

    def _gains(self) -> dict[Size, list[float]]:
        """The least gain seen with each factor more of each size, and with no end of it."""
        from dataclasses import replace

        from harness.stats.power import limit, quantiles

        found: dict[Size, list[float]] = {}
        for size in SIZES:
            grown = [replace(self.design, **{size: factor * getattr(self.design, size)}) for factor in FACTORS]
            found[size] = [design.detectable("both", self.power, self.alpha) for design in grown]
            found[size].append(quantiles(self.power, self.alpha) * limit(self.design, size))
        return found

    def _enough(self, gain: float) -> dict[Size, int | None]:
        from harness.stats.power import needed

        return {size: needed(self.design, gain, size, self.power, self.alpha) for size in SIZES}

    def _needed(self, gain: float) -> RenderableType:
        """How many of each would see the gain."""
        from rich.text import Text

        enough = [
            f"{_many(count, *SIZES[size])} ({getattr(self.design, size):,} planned)"
            for size, count in self._enough(gain).items()
            if count is not None
        ]
        never = [_many(None, *SIZES[size]) for size, count in self._enough(gain).items() if count is None]
        text = Text.assemble((f"A true {100 * gain:+g}", "bold"), f" is seen with {self.strength} on {self.scope}")
        text.append(f" given {', or '.join(enough)}." if enough else " by more of none of these alone.")
        if enough and never:
            text.append(f" No number of {' or of '.join(never)} alone would do.")
        return text

    def _assumed(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        design = self.design
        level = f"{self.alpha * self.comparisons:g}"
        if self.comparisons > 1:
            level += f" / {self.comparisons}, as so many comparisons share it (Bonferroni)"
        runs = "Training runs do not differ (--seed-sd 0): this is about checkpoints, not yet about their methods."
        if design.seed_sd:
            spread = f"{100 * design.seed_sd:g} points"
            runs = f"An arm's score varies over training runs by SD {spread}, independently in the two arms."
        lines = [
            f"Accuracy is about {100 * design.accuracy:g} %. Most problems are either easy or hard, so that half of "
            "the variance of an answer is chance within its problem.",
            f"The true gain differs between problems by SD {100 * design.sd_difference:g} points (--sd). That decides "
            "much, and only per-problem scores tell: perhaps 10 for close relatives, 20 for very different models.",
            runs,
            f"Seen means: in the right direction, by a two-sided test at {level}. Planned as normal; the intervals "
            "and p over such problems are of the t distribution, as in a report.",
        ]
        if self.families:
            lines.append("Problems of this benchmark come in families; taken one by one here, they promise too much.")
        grid = Table.grid(padding=(0, 1))
        for line in lines:
            grid.add_row(Text("·", "dim"), Text(line, "dim"))
        return grid

    def numbers(self) -> dict[str, Any]:
        """The page as plain numbers, in points; null where a number is not finite."""
        from dataclasses import asdict

        in_points = ("accuracy", "sd_difference", "seed_sd")
        resolved = {}
        for question in self.questions:
            entry = {
                "se": 100 * self.design.se(question),
                "half_width": 100 * self.design.half_width(question),
                "detectable": 100 * self.design.detectable(question, self.power, self.alpha),
            }
            if self.gain is not None:
                one = getattr(self.reading, question)
                entry |= {"power": self.design.power(self.gain, question, self.alpha), "z": one.z, "p": one.p}
            resolved[question] = {name: value if math.isfinite(value) else None for name, value in entry.items()}
        page: dict[str, Any] = {
            "unit": "points",
            "bench": self.label or None,
            "design": {k: 100 * v if k in in_points else v for k, v in asdict(self.design).items()},
            "power": self.power,
            "alpha": self.alpha,
            "comparisons": self.comparisons,
            "resolved": resolved,
            "factors": [*FACTORS, None],
            "more": {size: [100 * gain for gain in gains] for size, gains in self._gains().items()},
        }
        return page if self.gain is None else page | {"gain": 100 * self.gain, "needed": self._enough(self.gain)}


def _table(first: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    table.add_column(first)
    return table


def _many(count: int | None, noun: str, of: str = "") -> str:
    """A count and what is counted; the plural alone where there is no count."""
    return ("" if count is None else f"{count:,} ") + noun + ("" if count == 1 else "s") + of


def _points(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _least(fraction: float) -> str:
    return "> 100" if fraction > 1 else _points(fraction)


def _p(p: float) -> str:
    return "—" if math.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.2g}"
