"""Entries -> cells with means, intervals and ranks; means over tasks; gains of stages."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from leaderboards import names
from leaderboards.cell import Cell, Column, Row
from leaderboards.ranks import Difference, difference, interval, ranked
from leaderboards.readers import Entry

KINDS = ("measured", "published")
OWN_FILES = "hear_ptsed.plugins.checkpoint"


@dataclass(frozen=True)
class Overall:
    """Means of a row over the tasks in which it is ranked."""

    row: Row
    score: float  # 0 to 1; NaN where lower is better in all
    rank: float
    tasks: int  # in which it is ranked
    of: int  # in which some row is


@dataclass(frozen=True)
class Normalised:
    """HEAR-style mean of a row over the columns in which it has a score."""

    row: Row
    value: float  # -1 to 1
    tasks: int  # with a score of this row
    of: int  # that could be normalised


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
    Ranks: see `ranks.ranked`; published rows are ranked among themselves, since they have columns
    of their own.
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
        found += ranked(sorted(own, key=lambda cell: cell.row))
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


def overall(cells: Iterable[Cell]) -> list[Overall]:
    """Means over tasks of the scores and ranks; several columns of a task count as one.

    Untrained rows, and those of few clips, have no rank and are left out.
    """
    tasks: dict[Row, dict[str, list[Cell]]] = {}
    for cell in cells:
        if cell.rank is not None:
            tasks.setdefault(cell.row, {}).setdefault(cell.column.task, []).append(cell)
    of = {kind: {t for r, own in tasks.items() if r.kind == kind for t in own} for kind in KINDS}

    def mean(values: Iterable[list[float]]) -> float:
        means = [math.fsum(own) / len(own) for own in values if own]
        return math.fsum(means) / len(means) if means else math.nan

    return [
        Overall(
            row,
            mean([c.mean for c in own if not c.column.lower_is_better] for own in by.values()),
            mean([float(c.rank) for c in own] for own in by.values()),
            len(by),
            len(of[row.kind]),
        )
        for row, by in sorted(tasks.items())
    ]


def normalised(cells: Sequence[Cell]) -> list[Normalised]:
    """HEAR's normalised means of the cells given, best first; choose the cells by column before.

    Per column standardised over rows (population deviation, sign turned where lower is better),
    clipped to -1 and 1, averaged over the columns of a task, then over tasks. Nothing is imputed:
    see `tasks` of `of`. Untrained rows and few clips are left out, as are columns with fewer than
    two different scores. Clipped, the best of several rows can have the same value.
    """
    columns: dict[Column, list[Cell]] = {}
    for cell in cells:
        if not (cell.untrained or cell.few or math.isnan(cell.mean)):
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
    made = Cell(
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
        paired=True,
        best=False,
        small_data=any(entry.small_data for entry in entries),
        entries=tuple(entries),
        replicates=replicates,
        draws=draws,
    )
    return replace(made, low=math.nan, high=math.nan) if made.few else made


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


def _preference(cell: Cell) -> tuple:
    plug_in = cell.row.module == f"hear_ptsed.plugins.{cell.row.model}_{cell.row.stage}"
    return not plug_in, -cell.seeds, cell.row
