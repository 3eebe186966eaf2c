"""Which of two scores is better: by the same resampled clips of both, where they have these."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from hear_ptsed.metrics.bootstrap import CI, interval, interval_of_difference
from leaderboards.cell import Cell


class Sampled(Protocol):
    """What is compared: a cell, or a mean over tasks."""

    mean: float
    low: float  # 95 % interval; NaN for none
    high: float
    replicates: np.ndarray | None
    draws: tuple  # equal ones are paired; () for none


Placed = TypeVar("Placed")  # a dataclass with `sampled`, and the fields that `placed` sets


@dataclass(frozen=True, eq=False)
class Difference:
    """Score of `after` less that of `before`, paired over the same resampled clips."""

    before: Cell
    after: Cell
    value: float
    low: float  # NaN where the two cannot be paired, or of few clips
    high: float
    improves: bool | None  # True, False: the interval leaves 0 out; None: it does not, or none

    @property
    def few(self) -> bool:
        """Whether there are too few clips for an interval and a verdict."""
        return self.before.few or self.after.few

    @property
    def flags(self) -> tuple[str, ...]:
        """Words to show beside it."""
        return tuple(dict.fromkeys(self.before.flags + self.after.flags))

    @property
    def verdict(self) -> str:
        """What the later one is, in a word or two."""
        if self.few or math.isnan(self.low):
            return "few clips" if self.few else "no interval"
        return {True: "better", False: "worse", None: "not clear"}[self.improves]


def difference(before: Cell, after: Cell) -> Difference:
    """Of two cells of one measure."""
    if before.column.measure != after.column.measure:
        raise ValueError(f"{before.column.title} and {after.column.title} measure different things")
    low = high = math.nan
    if can_be_paired(before, after) and not (before.few or after.few):
        low, high = interval_of_difference(after.replicates, before.replicates)
    improves = (low > 0) != before.column.lower_is_better if low > 0 or high < 0 else None
    return Difference(before, after, after.mean - before.mean, low, high, improves)


def can_be_paired(a: Sampled, b: Sampled) -> bool:
    """Whether they have replicates of the same resamples."""
    if a.replicates is None or b.replicates is None or len(a.replicates) != len(b.replicates):
        return False
    return bool(a.draws) and a.draws == b.draws


def ranked(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of one column with their ranks.

    Rank: 1 + the number of those that are better; tied with those that are neither better nor
    worse, see `better`. Untrained ones, those without a score, and those of few clips are not
    ranked.
    """
    able = [c for c in cells if not (c.untrained or c.few or math.isnan(c.mean))]
    if not able:
        return [*cells]
    marked = placed(able, [float(cell.text) for cell in able], able[0].column.lower_is_better)
    of_rows = {cell.row: cell for cell in marked}
    return [of_rows.get(cell.row, cell) for cell in cells]


def placed(
    scores: Sequence[Placed], as_shown: Sequence[float], lower_is_better: bool = False
) -> list[Placed]:
    """The same with rank, tied, paired, best (as they are shown) and near_best set."""
    wins, paired = better([score.sampled for score in scores], lower_is_better)
    pick = min if lower_is_better else max
    means = [score.sampled.mean for score in scores]
    first, several = means.index(pick(means)), len(scores) > 1
    return [
        replace(
            score,
            rank=1 + int(wins[:, i].sum()),
            tied=int(wins[:, i].sum() + wins[i].sum()) < len(scores) - 1,
            paired=bool(paired[i].all()),
            best=as_shown[i] == pick(as_shown) and several,
            near_best=not wins[first, i] and several,
        )
        for i, score in enumerate(scores)
    ]


def better(scores: Sequence[Sampled], lower_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of n scores (n, n) bool: is the first better than the second? By pairs?

    A is better than B where the interval of their paired difference leaves 0 out. Two that cannot
    be paired are told apart by their intervals, which must not overlap; none counts as an interval
    of no width.
    """
    sign = -1.0 if lower_is_better else 1.0
    ends = [(s.mean, s.mean) if math.isnan(s.low) else (s.low, s.high) for s in scores]
    low, high = np.sort(sign * np.array(ends), 1).T
    wins = low[:, None] > high[None, :]
    paired = np.eye(len(scores), dtype=bool)
    groups: dict[tuple[tuple, int], list[int]] = {}
    for i, score in enumerate(scores):
        if score.replicates is not None and score.draws:
            groups.setdefault((score.draws, len(score.replicates)), []).append(i)
    for group in groups.values():
        replicates = sign * np.array([scores[i].replicates for i in group])
        for row, i in enumerate(group):
            # Whether a percentile is above 0 mostly follows from how many of the differences are.
            less = replicates[row] - replicates
            place = CI[0] / 100 * (less.shape[1] - 1)
            above, defined = (less > 0).sum(1), ~np.isnan(less).any(1)
            sure = defined & (less.shape[1] - above <= math.floor(place))
            open_ = defined & (less.shape[1] - above > math.floor(place) + 1)
            for k, j in enumerate(group):
                doubtful = not sure[k] and not open_[k]
                wins[i, j] = interval(less[k])[0] > 0 if doubtful else sure[k]
                paired[i, j] = True
    return wins, paired
