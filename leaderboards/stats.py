"""Entries -> cells with means, intervals and ranks; means over tasks; gains of stages."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from hear_ptsed.metrics.bootstrap import interval
from leaderboards import names
from leaderboards.cell import Cell, Column, Row
from leaderboards.ranks import Difference, difference, ranked
from leaderboards.readers import Entry

KINDS = ("measured", "published")


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
    Ranks: see `ranks.ranked`; published rows are ranked among themselves, since they have columns
    of their own.
    """
    columns: dict[Column, dict[Row, list[Entry]]] = {}
    for entry in entries:
        for metric in [entry.primary] if primary_only else entry.scores:
            rows = columns.setdefault(_column(entry, metric), {})
            rows.setdefault(_row(entry), []).append(entry)
    all_cells = []
    for column in sorted(columns):
        rows = columns[column]
        plain = [replace(row, hyperparameters="") for row in rows]
        unranked = [
            _cell(row if plain.count(short) > 1 else short, column, rows[row])
            for row, short in zip(rows, plain, strict=True)
        ]
        all_cells += ranked(sorted(unranked, key=lambda cell: cell.row))
    return all_cells


def _row(entry: Entry) -> Row:
    """Records of one name are of one row, whatever their modules and checkpoints."""
    return Row(
        kind=entry.kind,
        model=entry.name or entry.model,
        stage=entry.stage,
        module="" if entry.name else entry.module,
        variant=entry.variant,
        hyperparameters=entry.hyperparameters,
        untrained=entry.untrained,
    )


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
    chains = []
    for (column, model), stages in sorted(groups.items()):
        if len(stages) < 2:
            continue
        chain = [min(stages[s], key=_preference) for s in sorted(stages, key=names.stage_order)]
        steps = [difference(a, b) for a, b in pairwise(chain)]
        if len(chain) > 2:
            steps.append(difference(chain[0], chain[-1]))
        chains.append(Gain(model, column, tuple(chain), tuple(steps)))
    return chains


def _column(entry: Entry, metric: str) -> Column:
    same = ("kind", "task", "protocol", "task_version", "data", "folds", "task_title")
    settings = entry.settings.get(metric, "")
    return Column(metric=metric, settings=settings, **{key: getattr(entry, key) for key in same})


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
        near_best=False,
        small_data=any(entry.small_data for entry in entries),
        entries=tuple(entries),
        replicates=replicates,
        draws=draws,
    )
    return replace(made, low=math.nan, high=math.nan) if made.few else made


def _over_seeds(entries: list[Entry], metric: str) -> tuple[np.ndarray | None, tuple]:
    """Replicates averaged over seeds where they are of the same draws, and which these are."""
    if any(metric not in entry.replicates for entry in entries):
        return None, ()
    rows = [entry.replicates[metric] for entry in entries]
    draws = {(entry.draws.get(metric, ()), len(entry.replicates[metric])) for entry in entries}
    if len(draws) > 1 or (len(rows) > 1 and not entries[0].draws.get(metric)):
        return None, ()
    table = np.array(rows)
    counts = (~np.isnan(table)).sum(0)
    sums = np.nansum(table, 0)
    mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return mean, entries[0].draws.get(metric, ())


def _preference(cell: Cell) -> tuple:
    plug_in = cell.row.module == f"hear_ptsed.plugins.{cell.row.model}_{cell.row.stage}"
    return not plug_in, -cell.seeds, cell.row
