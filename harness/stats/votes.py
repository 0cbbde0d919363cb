"""Majority votes: who wins among k of K samples, as an exact expectation over every choice of the k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlog1py, xlogy

from harness.stats.spread import Array, SampleError

Answers: TypeAlias = Sequence[Sequence[str | None]] | Sequence[Sequence[Sequence[str | None]]] | NDArray[Any]
Counts: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Tally:
    """Votes of every problem (of every seed): P rows.

    Attributes:
        right: for the right class, [P].
        blank: for nothing, [P]; such a vote never wins.
        others: for each wrong class, the most first, filled up with 0, [P, C].
    """

    right: Counts
    blank: Counts
    others: Counts

    def share(self, k: int) -> Array:
        """Mean share of the right class in the win among k votes, over all choices of k of the K: [P].

        The numbers of votes that fall on the classes are independent binomials, given their sum k. For v right votes,
        the polynomial in the number of further votes and of ties is multiplied up class by class; a class with fewer
        than v votes can neither win nor tie, so all of those are one factor.
        """
        rows, back = np.unique(np.column_stack([self.right, self.blank, self.others]), axis=0, return_inverse=True)
        right, blank, others = rows[:, 0], rows[:, 1], rows[:, 2:]
        total = int(rows[0].sum())
        if k == total:  # one choice only
            most = others.max(axis=1)
            ties = np.where(right == most, (others == most[:, None]).sum(axis=1), 0)
            return np.asarray(np.where((right >= most) & (right > 0), 1 / (1 + ties), 0.0)[back.ravel()])
        chance = _binomials(total, k, k / total)
        shares = np.zeros(len(rows))
        for v in range(1, min(k, int(right.max())) + 1):
            able = right >= v
            rest = k - v
            small = (blank + np.where(others < v, others, 0).sum(axis=1))[able]
            ways = np.zeros((len(small), rest + 1, rest // v + 1))  # [P, further votes, ties]
            ways[:, :, 0] = chance[small, : rest + 1]
            for column in others[able].T:
                rivals = column >= v
                if not rivals.any():
                    break
                ways[rivals] = _with_rival(ways[rivals], chance[column[rivals]], v)
            shares[able] += chance[right[able], v] * (ways[:, rest] / np.arange(1, rest // v + 2)).sum(axis=1)
        # rounded, so that a problem that always wins counts exactly 1 and a bench of those has no spread
        return np.asarray(np.round(shares / chance[total, k], 12)[back.ravel()])


def count(answers: Answers, x: Array) -> Tally:
    """The votes of `answers` for samples with verdicts `x` [S, n, K].

    Raises:
        SampleError: `answers` has not the shape of `x`.
    """
    seeds, n, total = x.shape
    try:
        texts = np.asarray(answers, dtype=object)
    except ValueError:
        texts = np.empty(0, dtype=object)
    if texts.shape != x.shape and (seeds, *texts.shape) != (1, n, total):
        of_seeds = f"{seeds} seeds × " if seeds > 1 else ""
        raise SampleError(f"answers must have the shape of correct, {of_seeds}{n} problems × {total} samples")
    number: dict[Any, int] = {}
    codes = np.array([-1 if t is None or t != t else number.setdefault(t, len(number)) for t in texts.flat])
    codes, right = codes.reshape(-1, total), x.reshape(-1, total) == 1
    wrong = ~right & (codes >= 0)
    base = max(len(number), 1)
    classes, votes = np.unique(np.nonzero(wrong)[0] * base + codes[wrong], return_counts=True)
    rows = classes // base
    order = np.lexsort((-votes, rows))
    rows, votes = rows[order], votes[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    others = np.zeros((len(right), int(place.max(initial=0)) + 1), dtype=np.intp)
    others[rows, place] = votes
    return Tally(right.sum(axis=1), (~right & (codes < 0)).sum(axis=1), others)


def _binomials(total: int, k: int, rate: float) -> Array:
    """Chance that u of a class's m votes are drawn, each with this rate: [m, u] for m ≤ total, u ≤ k."""
    m, u = np.arange(total + 1)[:, None], np.arange(k + 1)[None]
    few = np.minimum(u, m)
    log = gammaln(m + 1) - gammaln(few + 1) - gammaln(m - few + 1) + xlogy(few, rate) + xlog1py(m - few, -rate)
    return np.where(u <= m, np.exp(log), 0.0)


def _with_rival(ways: Array, chance: Array, v: int) -> Array:
    """`ways` [P, further votes, ties] times one class, which may have fewer than v votes, or tie with v."""
    grown = ways * chance[:, :1, None]
    for u in range(1, min(v, ways.shape[1])):
        grown[:, u:] += ways[:, :-u] * chance[:, u, None, None]
    if v < ways.shape[1]:
        grown[:, v:, 1:] += ways[:, :-v, :-1] * chance[:, v, None, None]
    return grown
