"""Entries -> cells with means, intervals and ranks; normalised means; gains of stages."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from leaderboards import names
from leaderboards.collect import Entry

CI = (2.5, 97.5)  # percentiles
OWN_FILES = "hear_ptsed.plugins.checkpoint"
FEW = 10  # test clips: the resamples of fewer are too much alike
DECIMALS = 3  # of measured scores, as shown


@dataclass(frozen=True, order=True)
class Column:
    """What makes two scores comparable. Measured and published ones never share a column."""

    kind: str  # measured or published
    task: str
    mode: str
    protocol: str
    task_version: str
    metric: str
    data: str  # fingerprint of the test data; "" if not known
    convention: str  # of the metric, without the bootstrap

    @property
    def title(self) -> str:
        """Task, metric, mode and protocol in words; columns of one title differ by `notes`."""
        task, metric = names.TASKS[self.task].title, names.METRICS[self.metric].title
        if self.mode == names.AUDIOSET:
            return f"{task}, {metric}"
        how = self.mode if self.mode == self.protocol else f"{self.mode}, {self.protocol}"
        return f"{task}, {metric} ({how})"

    @property
    def measure(self) -> tuple[str, ...]:
        """What two scores must have in common to be subtracted: all but mode and protocol."""
        return self.kind, self.task_version, self.data, self.metric, self.convention

    @property
    def lower_is_better(self) -> bool:
        return names.METRICS[self.metric].lower_is_better


@dataclass(frozen=True, order=True)
class Row:
    """What is compared: a module with one checkpoint, or a published model and setting."""

    kind: str
    model: str
    stage: str
    module: str
    variant: str  # start of the checkpoint's hash, their number, published setting, or ""
    settings: str  # digest of hyperparameters, only where one column has several of them; else ""
    untrained: bool

    @property
    def title(self) -> str:
        """Model and stage in words; rows of one title differ by `labels`."""
        title = f"{names.MODELS.get(self.model, self.model)} {self.stage}".strip()
        return f"{title} (untrained)" if self.untrained else title


@dataclass(frozen=True, eq=False)
class Cell:
    """The score of a row in a column, over its seeds."""

    row: Row
    column: Column
    mean: float  # over the seeds in which it is defined; NaN if in none
    std: float  # sample standard deviation over seeds; NaN for fewer than two
    low: float  # 95 % interval over test clips; NaN if there is none
    high: float
    seeds: int  # runs behind the mean
    undefined: int  # of these, runs whose score is NaN
    rank: int | None  # see `cells`; None: not ranked
    tied: bool  # its interval overlaps that of another
    best: bool  # of two or more ranked means of a column, compared as they are shown
    small_data: bool
    entries: tuple[Entry, ...]  # by seed
    replicates: np.ndarray | None = field(repr=False)  # (R,) mean over seeds; None if not paired
    draws: str  # cells with equal ones are paired

    @property
    def untrained(self) -> bool:
        return self.row.untrained

    @property
    def clips(self) -> int | None:
        """Tested; None if it is not known."""
        return min((e.clips for e in self.entries if e.clips is not None), default=None)

    @property
    def text(self) -> str:
        """The mean as it is shown: 3 decimals, of published figures 4 where they are printed."""
        if math.isnan(self.mean):
            return "undefined"
        if self.row.kind == "published":
            return f"{self.mean:.{DECIMALS + 1}f}".removesuffix("0")
        return f"{self.mean:.{DECIMALS}f}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Words to show beside the number, such as untrained, small data, published."""
        seeds = [entry.seed for entry in self.entries if entry.seed is not None]
        words = {
            "published": self.row.kind == "published",
            "untrained": self.untrained,
            "small data": self.small_data,
            f"{self.undefined} of {self.seeds} undefined": self.undefined > 0,
            "a seed twice": len(seeds) > len(set(seeds)),
        }
        return tuple(word for word, holds in words.items() if holds)


@dataclass(frozen=True)
class Normalised:
    """HEAR-style mean of a row over the columns in which it has a score."""

    row: Row
    value: float  # -1 to 1
    tasks: int  # with a score of this row
    of: int  # that could be normalised


@dataclass(frozen=True, eq=False)
class Difference:
    """Score of `after` less that of `before`, paired over the same resampled clips."""

    before: Cell
    after: Cell
    value: float
    low: float  # NaN where the two cannot be paired
    high: float
    # True, False: the interval leaves 0 out; None: it does not, or none, or of fewer than FEW clips
    improves: bool | None

    @property
    def few(self) -> bool:
        """Whether there are too few clips for a verdict."""
        return any(
            cell.clips is not None and cell.clips < FEW for cell in (self.before, self.after)
        )


@dataclass(frozen=True, eq=False)
class Gain:
    """What the stages of one backbone brought in one column."""

    model: str
    column: Column
    cells: tuple[Cell, ...]  # by stage, at least two
    steps: tuple[Difference, ...]  # from each stage to the next, and last from first to last if >2


def cells(entries: Iterable[Entry], *, primary_only: bool = False) -> list[Cell]:
    """All cells, by column and row. Independent of the order of the entries.

    Interval: percentiles 2.5 and 97.5 of the replicates averaged over seeds, index by index; with
    one seed and no replicates the run's own `ci95`; else none.
    Files of one stage that were trained and evaluated with a seed each are one row.
    Rank: 1 + the number of rows whose whole interval is better; tied with those whose intervals
    overlap its own. Rows without an interval count as an interval of no width. Untrained rows and
    those without a score are not ranked; published ones are ranked among themselves, since they
    have columns of their own.
    """
    entries = list(entries)
    merged = _one_per_stage(entries)
    columns: dict[Column, dict[Row, list[Entry]]] = {}
    for entry in entries:
        row = _row(entry)
        row = merged.get(row, row)
        for metric in [entry.primary] if primary_only else entry.scores:
            column = _column(entry, metric)
            columns.setdefault(column, {}).setdefault(row, []).append(entry)
    found = []
    for column in sorted(columns):
        rows = columns[column]
        plain = [replace(row, settings="") for row in rows]
        own = [
            _cell(row if plain.count(short) > 1 else short, column, rows[row])
            for row, short in zip(rows, plain, strict=True)
        ]
        found += _ranked(sorted(own, key=lambda cell: cell.row))
    return found


def _one_per_stage(entries: Sequence[Entry]) -> dict[Row, Row]:
    """Row of a file -> row of its stage, for files trained and evaluated with a seed each.

    These are files of one's own that are said to be of one stage, no two of them evaluated with
    the same seed in the same way.
    """
    together: dict[Row, list[Entry]] = {}
    for entry in entries:
        if entry.module == OWN_FILES and entry.stage:
            options = entry.variant.partition(" ")[2]
            stage = replace(_row(entry), variant=f"a checkpoint per seed {options}".strip())
            together.setdefault(replace(stage, settings=""), []).append(entry)
    found = {}
    for stage, own in together.items():
        runs = {(e.task_version, e.data, e.mode, e.protocol, e.settings, e.seed) for e in own}
        if len({entry.variant for entry in own}) > 1 and len(runs) == len(own):
            found |= {_row(e): replace(stage, settings=e.settings) for e in own}
    return found


def _row(entry: Entry) -> Row:
    same = ("kind", "model", "stage", "module", "variant", "settings", "untrained")
    return Row(*(getattr(entry, name) for name in same))


def normalised(cells: Sequence[Cell]) -> list[Normalised]:
    """HEAR's normalised means of the cells given, best first; choose the cells by column before.

    Per column standardised over rows (population deviation, sign turned where lower is better),
    clipped to -1 and 1, averaged over the columns of a task, then over tasks. Nothing is imputed:
    see `tasks` of `of`. Untrained rows are left out, as are columns with fewer than two different
    scores.
    """
    columns: dict[Column, list[Cell]] = {}
    for cell in cells:
        if not cell.untrained and not math.isnan(cell.mean):
            columns.setdefault(cell.column, []).append(cell)
    values: dict[Row, dict[str, list[float]]] = {}
    usable: dict[str, set[str]] = {"measured": set(), "published": set()}
    for column, own in columns.items():
        means = np.array([cell.mean for cell in own])
        if not means.std() > 0:
            continue
        usable[column.kind].add(column.task)
        scaled = np.clip((means - means.mean()) / means.std(), -1, 1)
        for cell, value in zip(own, -scaled if column.lower_is_better else scaled, strict=True):
            values.setdefault(cell.row, {}).setdefault(column.task, []).append(float(value))
    found = []
    for row, tasks in values.items():
        means = sorted(math.fsum(own) / len(own) for own in tasks.values())
        value = math.fsum(means) / len(means)
        found.append(Normalised(row, value, len(means), len(usable[row.kind])))
    return sorted(found, key=lambda one: (-one.value, one.row))


def difference(before: Cell, after: Cell) -> Difference:
    """Of two cells of one measure."""
    if before.column.measure != after.column.measure:
        raise ValueError(f"{before.column.title} and {after.column.title} measure different things")
    low = high = math.nan
    a, b = before.replicates, after.replicates
    if a is not None and b is not None and before.draws and before.draws == after.draws:
        if len(a) == len(b):
            low, high = interval(b - a)
    found = Difference(before, after, after.mean - before.mean, low, high, None)
    if found.few or not (low > 0 or high < 0):
        return found
    return replace(found, improves=(low > 0) != before.column.lower_is_better)


def gains(cells: Iterable[Cell]) -> list[Gain]:
    """What ssl, weak, strong … brought each backbone in each column.

    Of several rows of one stage the suite's own plug-in counts, else the one with most seeds.
    Untrained rows and rows without a stage or a score have no part in it.
    """
    groups: dict[tuple[Column, str], dict[str, list[Cell]]] = {}
    for cell in cells:
        if cell.row.stage and not cell.untrained and not math.isnan(cell.mean):
            stages = groups.setdefault((cell.column, cell.row.model), {})
            stages.setdefault(cell.row.stage, []).append(cell)
    found = []
    for (column, model), stages in sorted(groups.items()):
        if len(stages) < 2:
            continue
        chain = [min(stages[s], key=_preference) for s in sorted(stages, key=names.stage_order)]
        steps = [difference(a, b) for a, b in pairwise(chain)]
        if len(chain) > 2:
            steps.append(difference(chain[0], chain[-1]))
        found.append(Gain(model, column, tuple(chain), tuple(steps)))
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the values that are defined; NaN if none is."""
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, CI) if len(values) else (math.nan, math.nan)
    return float(low), float(high)


def _column(entry: Entry, metric: str) -> Column:
    return Column(
        kind=entry.kind,
        task=entry.task,
        mode=entry.mode,
        protocol=entry.protocol,
        task_version=entry.task_version,
        metric=metric,
        data=entry.data,
        convention=entry.conventions[metric],
    )


def _cell(row: Row, column: Column, entries: list[Entry]) -> Cell:
    metric = column.metric
    entries = sorted(entries, key=lambda e: (-1 if e.seed is None else e.seed, e.identity))
    values = np.array([entry.scores[metric] for entry in entries])
    defined = values[~np.isnan(values)]
    replicates, draws = _over_seeds(entries, metric)
    low = high = math.nan
    if replicates is not None:
        low, high = interval(replicates)
    elif len(entries) == 1:
        low, high = entries[0].ci95.get(metric, (low, high))
    return Cell(
        row=row,
        column=column,
        mean=float(defined.mean()) if len(defined) else math.nan,
        std=float(defined.std(ddof=1)) if len(defined) > 1 else math.nan,
        low=low,
        high=high,
        seeds=sum(entry.runs for entry in entries),
        undefined=len(values) - len(defined),
        rank=None,
        tied=False,
        best=False,
        small_data=any(entry.small_data for entry in entries),
        entries=tuple(entries),
        replicates=replicates,
        draws=draws,
    )


def _over_seeds(entries: list[Entry], metric: str) -> tuple[np.ndarray | None, str]:
    """Replicates averaged over seeds where they are of the same draws, and which these are."""
    if any(metric not in entry.replicates for entry in entries):
        return None, ""
    rows = [entry.replicates[metric] for entry in entries]
    draws = {(entry.draws[metric], len(row)) for entry, row in zip(entries, rows, strict=True)}
    if len(draws) > 1 or (len(rows) > 1 and not entries[0].draws[metric]):
        return None, ""
    table = np.array(rows)
    counts = (~np.isnan(table)).sum(0)
    sums = np.nansum(table, 0)
    mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return mean, entries[0].draws[metric]


def _ranked(own: list[Cell]) -> list[Cell]:
    """The cells of one column with their ranks."""
    able = [cell for cell in own if not cell.untrained and not math.isnan(cell.mean)]
    if not able:
        return own
    sign = -1.0 if own[0].column.lower_is_better else 1.0
    spans = []
    for cell in able:
        ends = (cell.mean, cell.mean) if math.isnan(cell.low) else (cell.low, cell.high)
        spans.append(sorted(sign * end for end in ends))
    lows, highs = (np.sort(ends) for ends in zip(*spans, strict=True))
    better = [len(able) - int(np.searchsorted(lows, high, "right")) for _, high in spans]
    worse = [int(np.searchsorted(highs, low, "left")) for low, _ in spans]
    shown = [sign * float(cell.text) for cell in able]
    found = {
        cell.row: replace(
            cell,
            rank=1 + above,
            tied=above + below < len(able) - 1,
            best=value == max(shown) and len(able) > 1,
        )
        for cell, above, below, value in zip(able, better, worse, shown, strict=True)
    }
    return [found.get(cell.row, cell) for cell in own]


def _preference(cell: Cell) -> tuple:
    plug_in = cell.row.module == f"hear_ptsed.plugins.{cell.row.model}_{cell.row.stage}"
    return not plug_in, -cell.seeds, cell.row
