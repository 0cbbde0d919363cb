"""What the recorded rollouts say about filters: how well a rollout's score tells right from wrong, what was dropped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.errors import UserError
from harness.formats import HOLE, amount, percent
from harness.stats.separation import auroc
from harness.tables.markup import Cell, Row, Table
from harness.tables.standings import order
from harness.tables.trajectories import label_of

if TYPE_CHECKING:
    from harness.records import Records


def rollout_rows(records: Records) -> pd.DataFrame:
    """The recorded rollouts of the trained arms.

    Raises:
        UserError: the records hold none.
    """
    rows, arms = records.rollouts, records.manifest["arms"]
    if not rows.empty:
        rows = rows.assign(arm=rows["arm"].astype(str))
        rows = rows[rows["arm"].isin([arm for arm, spec in arms.items() if not spec.get("reference")])]
    if rows.empty:
        raise UserError(f"grid '{records.manifest['grid']}' has no recorded rollouts: its records were made without")
    return rows.reset_index(drop=True)


def graded_rows(records: Records) -> pd.DataFrame:
    """The recorded rollouts that have a verdict and a score.

    Raises:
        UserError: there are none.
    """
    rows = rollout_rows(records)
    rows = rows[rows["correct"].notna() & rows["score"].notna()]
    if rows.empty:
        raise UserError(f"no recorded rollout of grid '{records.manifest['grid']}' has a gold answer to be right by")
    return rows.assign(correct=rows["correct"].astype(bool), kept=rows["kept"].astype(bool)).reset_index(drop=True)


def summary(records: Records) -> pd.DataFrame:
    """A row for each trained arm: what its filter kept, and the AUROC of the score against being right.

    `right_kept`, `right_dropped`: share of right rollouts among those. `threshold`, `threshold_low` and
    `threshold_high`: median and range over batches of the score that parts dropped from kept, NaN where the filter
    does not go by it. `auroc` compares rollouts of one batch; `auroc_pooled` all of them.

    Raises:
        UserError: as `graded_rows`.
    """
    rows = graded_rows(records)
    lines: list[dict[str, Any]] = []
    parts = dict(list(rows.groupby("arm")))
    for arm in [arm for arm in order(records.manifest) if arm in parts]:
        mine = parts[arm]
        within = auroc(mine["score"], mine["correct"], mine.groupby(["seed", "step"]).ngroup().tolist())
        low, middle, high = _threshold(mine)
        line: dict[str, Any] = {"arm": arm, "label": label_of(records.manifest, arm), "rollouts": len(mine)}
        line |= {"batches": mine.groupby(["seed", "step"]).ngroups, "batches_of_both": within.batches}
        line |= {"right": mine["correct"].mean(), "kept": mine["kept"].mean()}
        line |= {"right_kept": mine.loc[mine["kept"], "correct"].mean()}
        line |= {"right_dropped": mine.loc[~mine["kept"], "correct"].mean()}
        line |= {"threshold": middle, "threshold_low": low, "threshold_high": high}
        line |= {"auroc": within.value, "auroc_low": within.low, "auroc_high": within.high}
        line |= {"auroc_interval": within.interval, "auroc_pooled": auroc(mine["score"], mine["correct"]).value}
        lines.append(line)
    return pd.DataFrame(lines)


def _threshold(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Lowest, median and highest over batches of the score between dropped and kept; NaN where none parts them."""
    cuts = []
    for _, batch in rows.groupby(["seed", "step"]):
        dropped, kept = batch.loc[~batch["kept"], "score"], batch.loc[batch["kept"], "score"]
        if len(dropped) and len(kept):
            if dropped.max() > kept.min():
                return math.nan, math.nan, math.nan
            cuts.append((dropped.max() + kept.min()) / 2)
    series = pd.Series(cuts, dtype=float)
    return float(series.min()), float(series.median()), float(series.max())


def table(frame: pd.DataFrame) -> Table:
    """The summary laid out, in percent but for the AUROC."""
    rows = []
    for line in frame.to_dict("records"):
        low, high = (f"{line[name]:.3f}" for name in ("auroc_low", "auroc_high"))
        area = f"{line['auroc']:.3f} [{low}, {high}]" if math.isfinite(line["auroc"]) else HOLE
        pooled = f"{line['auroc_pooled']:.3f}" if math.isfinite(line["auroc_pooled"]) else HOLE
        cells = [Cell(amount(line["rollouts"]))]
        cells += [Cell(percent(line[name])) for name in ("right", "kept", "right_kept", "right_dropped")]
        rows.append(Row(str(line["label"]), (*cells, Cell(area), Cell(pooled))))
    head = ("", "rollouts", "right", "kept", "right of kept", "right of dropped", "AUROC", "pooled")
    caption = (
        "Recorded training rollouts that have a gold answer; percent, but for the AUROC: the chance that a right "
        "rollout has a higher score (mean log-probability under the teacher) than a wrong one of the same batch, ties "
        "half, with its 95 % interval over batches; 0.5 is chance. Pooled: over all pairs, of other batches, too."
    )
    return Table(head, tuple(rows), caption)
