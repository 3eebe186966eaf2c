"""What a table is made of: columns, rows, and the score of a row in a column."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.protocols import AS_TRAINED
from leaderboards import names
from leaderboards.readers import Entry

FEW = 10  # test clips: the resamples of fewer are too much alike


@dataclass(frozen=True, order=True)
class Column:
    """What makes two scores comparable. Measured and published ones never share a column."""

    kind: str  # measured or published
    task: str
    protocol: str
    task_version: str
    metric: str
    data: str  # fingerprint of the test data; "" if not known
    settings: str  # what else decides the value of the metric; "" for nothing
    folds: str  # "2 of 5" where only some were scored, else ""
    task_title: str = field(compare=False)

    @property
    def title(self) -> str:
        """Task, metric and protocol in words; columns of one title differ by `notes`."""
        title = f"{self.task_title}, {METRICS[self.metric].title}"
        return f"{title} ({self.how})" if self.how else title

    @property
    def how(self) -> str:
        """The protocol, where there is a choice."""
        return "" if self.protocol == AS_TRAINED else self.protocol

    @property
    def measure(self) -> tuple[str, ...]:
        """What two scores must have in common to be subtracted: all but the protocol."""
        same = (self.task_version, self.data, self.metric, self.settings, self.folds)
        return self.kind, self.task, *same

    @property
    def lower_is_better(self) -> bool:
        return METRICS[self.metric].lower_is_better


@dataclass(frozen=True, order=True)
class Row:
    """What is compared: a model of a name, a module with one checkpoint, or a published model."""

    kind: str
    model: str  # what its user calls it, else the model of its records
    stage: str
    module: str  # "" for a name
    variant: str  # start of the checkpoint's hash, options, published setting, or ""
    hyperparameters: str  # their digest, only where one column has several of them; else ""
    untrained: bool

    @property
    def show(self) -> str:
        """What it is, as filters call it."""
        return "untrained" if self.untrained else self.kind

    @property
    def title(self) -> str:
        """Model and stage in words; rows of one title differ by `labels`."""
        title = f"{names.model_title(self.model)} {self.stage}".strip()
        return f"{title} (untrained)" if self.untrained else title


@dataclass(frozen=True, eq=False)
class Cell:
    """The score of a row in a column, over its seeds."""

    row: Row
    column: Column
    mean: float  # over the seeds in which it is defined; NaN if in none
    std: float  # sample standard deviation over seeds; NaN for fewer than two
    low: float  # 95 % interval over test clips; NaN if there is none or there are few
    high: float
    seeds: int  # runs behind the mean
    undefined: int  # of these, runs whose score is NaN
    rank: int | None  # see `ranks.ranked`; None: not ranked
    tied: bool  # with another there is no telling which is better
    paired: bool  # with all others of the column; else by intervals, where they cannot be paired
    best: bool  # of two or more ranked means of a column, compared as they are shown
    near_best: bool  # ranked, and the best is not better by the paired test; of two or more
    small_data: bool
    entries: tuple[Entry, ...]  # by seed
    replicates: np.ndarray | None = field(repr=False)  # (R,) mean over seeds; None if not paired
    draws: tuple  # cells with equal ones are paired; () for none

    @property
    def sampled(self) -> "Cell":
        """What ranks are made of."""
        return self

    @property
    def untrained(self) -> bool:
        return self.row.untrained

    @property
    def convention(self) -> str:
        """What was computed, in words: of the first run."""
        return self.entries[0].conventions[self.column.metric]

    @property
    def clips(self) -> int | None:
        """Tested; None if it is not known."""
        return min((e.clips for e in self.entries if e.clips is not None), default=None)

    @property
    def few(self) -> bool:
        """Whether there are too few clips for an interval, a rank or a verdict."""
        return self.clips is not None and self.clips < FEW

    @property
    def place(self) -> str:
        """The rank as it is shown, with = for a tie and * where not all could be paired."""
        if self.rank is None:
            return ""
        unpaired = self.row.kind == "measured" and not self.paired
        return f"{self.rank}{'=' * self.tied}{'*' * unpaired}"

    @property
    def text(self) -> str:
        """The mean as it is shown, in %; of a published one with the digits of its source."""
        metric, first = METRICS[self.column.metric], self.entries[0]
        if first.kind == "measured" or len(self.entries) > 1:
            return metric.printed(self.mean)
        percent, scale = 2 if metric.unit else 0, Decimal(first.record["scale"])
        # The scale is a power of ten; a division would drop zeros at the end.
        return f"{Decimal(first.record['printed']).scaleb(percent - scale.adjusted()):f}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Words to show beside the number, such as untrained, small data, published."""
        seeds = [(e.seed, e.checkpoint) for e in self.entries if e.seed is not None]
        words = {
            "published": self.row.kind == "published",
            "untrained": self.untrained,
            "small data": self.small_data,
            f"{self.undefined} of {self.seeds} undefined": self.undefined > 0,
            "a seed twice": len(seeds) > len(set(seeds)),
        }
        return tuple(word for word, holds in words.items() if holds)


def best_first(cell: Cell) -> tuple:
    """To sort by: untrained ones and those without a score last."""
    sign = 1 if cell.column.lower_is_better else -1
    none = math.isnan(cell.mean)
    return (none, cell.untrained, 0 if none else sign * cell.mean, cell.row)


def mean_cost(cell: Cell, cost: str) -> float:
    """Of its seeds; 0 if it is not known."""
    known = [entry.cost[cost] for entry in cell.entries if entry.cost.get(cost, 0) > 0]
    return sum(known) / len(known) if known else 0.0


def class_means(cell: Cell, metric: str) -> dict[str, float]:
    """Class -> mean over the seeds in which it is defined."""
    values: dict[str, list[float]] = {}
    for entry in cell.entries:
        for name, scores in entry.per_class.items():
            if not math.isnan(scores.get(metric, math.nan)):
                values.setdefault(name, []).append(scores[metric])
    return {name: math.fsum(of_class) / len(of_class) for name, of_class in values.items()}


def class_events(cells: Iterable[Cell]) -> dict[str, float]:
    """Class -> number of events in the test data, NaN if a run does not say; of all classes."""
    events: dict[str, float] = {}
    for cell in cells:
        for entry in cell.entries:
            for name, scores in entry.per_class.items():
                events.setdefault(name, scores.get("events", math.nan))
    return events


def by_difference(
    names: Iterable[str], a: Mapping[str, float], b: Mapping[str, float]
) -> list[str]:
    """Classes by a less b, the greatest first; last, by name, those that one lacks."""

    def falling(name: str) -> tuple[bool, float, str]:
        both = name in a and name in b
        return not both, b[name] - a[name] if both else 0.0, name

    return sorted(names, key=falling)
