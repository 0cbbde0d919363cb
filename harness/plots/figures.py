"""The figures of a report: what each is called, where it stands, what its caption says, how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from matplotlib.figure import Figure

from harness import plots
from harness.errors import UserError
from harness.plots import entropies, heatmaps, per_problem, rollout_scores, sweeps, token_weights
from harness.plots.entropies import FEWEST
from harness.plots.per_problem import MOST_LINES
from harness.tables.markup import shorten
from harness.tables.standings import ALPHA
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records

#: Group of figures → its heading on the page.
GROUPS: Final = {"results": "Results", "training": "Training", "tokens": "Tokens and rollouts", "problems": "Problems"}

_CAPTIONS: Final = {
    "forest": "Paired difference of every arm to the baseline. Thin line: 95 % t interval, problems as a sample "
    "of all such problems. Thick line: 95 % interval for these very problems, sampling noise alone. A filled "
    "marker: the sign-flip test supports the difference after Holm.",
    "curve": "The baseline stands in every panel. The band is about one arm alone; arms share their problems, so a "
    "difference may be clear where bands overlap: see the paired differences.",
    "curve-tokens": "As during training, but against the number of tokens generated until then.",
    "curve-time": "As during training, but against the time spent in training steps until then (rollout, scoring, "
    "planning and update, without evaluations), as measured: whatever else ran on the machine counts, too.",
    "pass-at-k": "Unbiased: the share of problems with a right answer among k samples. The band is about "
    "one arm alone, problems as a sample of all such problems. Training that only sharpens what the student could "
    "do already lifts the left end and not the right one; a curve that starts higher and ends lower has paid with "
    f"diversity. Drawn are the baseline and the arms furthest from it on average, {MOST_LINES} at most; the CSV "
    "holds all.",
    "training": "Means over seeds. Kept: rollouts that passed the filter. Effective sample "
    "size: of the token coefficients, as a share of the response tokens.",
    "routing": "What each domain, and with it each teacher, contributed: its share of the tokens, the KL on the "
    "sampled tokens (log S − log Q), the mean trajectory score, and the share of rollouts that the filter kept; "
    "mean over seeds.",
    "scores": "Trajectory score of the recorded training rollouts that have a gold answer: right ones upward, "
    "wrong ones downward, pale where the filter dropped them. AUROC: the chance that a right rollout has a higher "
    "score than a wrong one of the same batch, with its 95 % interval over batches; 0.5 is chance. Dashed: the "
    "score that parts dropped from kept, median over batches, its range shaded; none where a filter does not go "
    "by this score.",
    "entropies": "Tokens of the recorded steps by the student's and the teacher's entropy, logarithmic counts, "
    "with both margins. Axes widen the region near zero. Lines: FiRe's token weight (1 + cT)·(1 + cS) before it "
    "is normalised, α = β = 1, in every panel whether the arm uses it or not. Its cT = 1 − H_Q/max H_Q and cS = "
    "H_S/max H_S take a batch's maxima; here these are read off the recorded bins (mean entropy in the highest "
    "bin that holds tokens, averaged over the recorded steps).",
    "entropies-advantage": "The same tokens, coloured by their mean advantage: blue where the teacher likes the "
    f"sampled token more than the student does. Grey: fewer than {FEWEST} tokens. The scale ends where 98 % of the "
    "tokens are.",
    "entropies-kl": "The same tokens, coloured by their mean KL(S‖Q): student entropy and divergence are the two "
    f"axes by which TIP picks tokens. Grey: fewer than {FEWEST} tokens.",
    "weights": "Tokens of the recorded steps by weight, relative to the mean weight of the trained tokens; "
    "hatched: weight zero, by a mask or because the rollout was dropped. Bins are a quarter of a doubling wide; "
    "the outermost take what lies beyond. Arms that train on all tokens alike are left out.",
    "positions": "Means over the tokens of the recorded steps at each part of their rollout. Weight: 1 is the "
    "mean over the batch's tokens.",
}


@dataclass(frozen=True)
class Drawing:
    """One figure: `draw` raises `UserError` where the records hold nothing to draw."""

    name: str
    group: str
    title: str
    caption: str
    draw: Callable[[], tuple[Figure, pd.DataFrame]]


def drawings(records: Records, frame: pd.DataFrame) -> list[Drawing]:
    """All figures of a report in their order.

    Args:
        frame: the comparison frame of these records.
    """
    cells = per_problem.measured(records, str(frame["checker"].iloc[0]))
    made = [_plain("forest", "results", "Paired differences", lambda: plots.forest(records, frame))]
    made += _declared(records, frame)
    made += [
        _plain("curve", "results", "Accuracy during training", lambda: plots.curve(records)),
        _plain("pass-at-k", "results", "pass@k", lambda: per_problem.pass_at_k(records, frame, cells)),
        _plain("training", "training", "How the runs went", lambda: plots.training(records)),
        _plain("curve-tokens", "training", "Accuracy by tokens", lambda: plots.curve(records, "tokens")),
        _plain("curve-time", "training", "Accuracy by time", lambda: plots.curve(records, "time")),
        _plain("routing", "training", "Domains", lambda: rollout_scores.routing(records)),
        _plain("weights", "tokens", "Token weights", lambda: token_weights.weights(records)),
        _plain("scores", "tokens", "Trajectory scores", lambda: rollout_scores.scores(records)),
        _plain("positions", "tokens", "Position in the rollout", lambda: token_weights.positions(records)),
        _plain("entropies", "tokens", "Entropies", lambda: entropies.entropies(records)),
        _entropies(records, "advantage"),
        _entropies(records, "kl", "KL"),
    ]
    return [*made, *_problems(records, frame, cells)]


def _plain(name: str, group: str, title: str, draw: Callable[[], tuple[Figure, pd.DataFrame]]) -> Drawing:
    return Drawing(name, group, title, _CAPTIONS[name], draw)


def _entropies(records: Records, color: str, word: str = "") -> Drawing:
    title = f"Entropies and {word or color}"
    return _plain(f"entropies-{color}", "tokens", title, lambda: entropies.entropies(records, color))


def _declared(records: Records, frame: pd.DataFrame) -> list[Drawing]:
    """The sweeps and heat maps that the grid asks for.

    Raises:
        UserError: it asks for another kind, or leaves out an axis.
    """
    made = []
    for spec in records.manifest.get("figures") or ():
        wanted = {"sweep": ("axis",), "heatmap": ("x", "y"), "problems": ("arm",)}.get(str(spec.get("kind")))
        if wanted is None or not all(spec.get(name) for name in wanted):
            known = "sweep (axis), heatmap (x, y) and problems (arm)"
            raise UserError(f"manifest of grid '{records.manifest['grid']}', figures: {spec} is none of {known}")
        if spec["kind"] == "sweep":
            made += [_sweep(records, frame, spec, difference) for difference in (True, False)]
        elif spec["kind"] == "heatmap":
            made.append(_heatmap(records, frame, spec))
    return made


def _sweep(records: Records, frame: pd.DataFrame, spec: Mapping[str, Any], difference: bool) -> Drawing:
    axis, label = str(spec["axis"]), str(spec.get("label") or "")
    what = "Paired differences to the baseline" if difference else "Scores"
    caption = (
        f"{what} against {shorten(label or axis)}, with 95 % t intervals, problems as a sample of all such problems. "
        "A line joins arms that differ in this alone; arms that are on no axis are levels. "
    )
    caption += (
        "Zero is the baseline."
        if difference
        else "The band is the interval of the baseline alone; arms share their problems, so a difference may be clear "
        "where intervals overlap."
    )
    return Drawing(
        f"sweep-{_slug(axis)}{'-difference' if difference else ''}",
        "results",
        f"{'Differences' if difference else 'Scores'} by {shorten(label or axis)}",
        caption,
        lambda: sweeps.sweep(records, axis, frame, difference, label),
    )


def _heatmap(records: Records, frame: pd.DataFrame, spec: Mapping[str, Any]) -> Drawing:
    x, y = str(spec["x"]), str(spec["y"])
    labels = [str(spec.get(name) or "") for name in ("x_label", "y_label")]
    caption = (
        "Difference to the baseline in points, averaged over the benchmarks, ± half-width of its 95 % t interval, "
        "problems as a sample of all such problems. Outlined: the arm with the highest score, and dashed those that "
        f"the paired sign-flip test does not tell from it at {ALPHA} after Holm over all the others. The highest of "
        "many is high by luck, too: the dashed ones are candidates as good."
    )
    title = f"Differences by {shorten(labels[0] or x)} and {shorten(labels[1] or y)}"
    name = f"heatmap-{_slug(x)}-{_slug(y)}"
    return Drawing(name, "results", title, caption, lambda: heatmaps.heatmap(records, x, y, frame, *labels))


def _problems(records: Records, frame: pd.DataFrame, cells: per_problem.Cells) -> list[Drawing]:
    manifest = records.manifest
    made = []
    for arm in per_problem.chosen(records, frame):
        for bench, spec in manifest["benches"].items():
            made.append(_problem(records, arm, bench, shorten(spec.get("label") or bench), cells))
    return made


def _problem(records: Records, arm: str, bench: str, label: str, cells: per_problem.Cells) -> Drawing:
    arms = records.manifest["arms"]
    name = label_of(records.manifest, arm) if arm in arms else shorten(arm)
    caption = (
        f"{name} against the baseline on every problem of {label}: share of right answers, samples and seeds together. "
        "Blue: more of them, orange: fewer. Single problems move by chance: the tests are about all of them."
    )
    return Drawing(
        f"problems-{_slug(arm)}-{_slug(bench)}",
        "problems",
        f"{name}: {label}",
        caption,
        lambda: per_problem.problems(records, arm, bench, cells),
    )


def _slug(text: str) -> str:
    """Part of a file name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "._") else "-" for c in text).strip("-.") or "unnamed"
