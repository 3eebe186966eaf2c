"""The table that leads: rows by their mean over tasks, with ranks and marks. Numbers, no texts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hear_ptsed.metrics.bootstrap import interval
from leaderboards import names
from leaderboards.beside import Beside
from leaderboards.cell import Cell, Column, Row
from leaderboards.ranks import placed

# Protocols that are read together. A task with weak labels may have a column for each.
VIEWS = {"frozen": ("linear", "weak-linear"), "finetuned": ("finetuned", "weak-finetuned")}


@dataclass(frozen=True, eq=False)
class Group:
    """A task: its measured columns, and whether a published one stands beside them."""

    task: str
    title: str
    columns: tuple[Column, ...]  # measured; none where only others have figures
    published: tuple[Column, ...]
    small: bool  # all of its measured scores are of small data
    in_mean: bool


@dataclass(frozen=True, eq=False)
class Mean:
    """Over tasks, those of several columns as their mean; replicates index by index."""

    mean: float
    low: float  # 95 % interval over test clips; NaN for none
    high: float
    replicates: np.ndarray | None
    draws: tuple
    tasks: frozenset[str]


@dataclass(frozen=True, eq=False)
class Line:
    """A row: a rank only with a score in every task of the mean."""

    row: Row
    cells: dict[Column, Cell]
    published: dict[str, Cell]  # task -> the figure printed of this model and stage
    mean: Mean | None  # over the tasks of the overview, or over what it has of them
    rank: int | None = None  # of the mean; it and what follows as of a cell
    tied: bool = False
    paired: bool = True
    best: bool = False
    near_best: bool = False

    @property
    def sampled(self) -> Mean | None:
        """What ranks are made of."""
        return self.mean


@dataclass(frozen=True, eq=False)
class Overview:
    """All rows of the protocols of one view: ranked, then those of fewer tasks, then others'."""

    view: str  # a key of VIEWS, or a protocol
    groups: tuple[Group, ...]
    lines: tuple[Line, ...]
    tasks: frozenset[str]  # of the mean
    of_small: bool  # the mean is over small data, since there is nothing else


def view_of(protocol: str) -> str:
    """The view that a protocol is read in."""
    return next((view for view, protocols in VIEWS.items() if protocol in protocols), protocol)


def overviews(cells: Iterable[Cell], beside: Beside) -> list[Overview]:
    """One for each view that has a score, of cells of primary metrics."""
    views: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: names.protocol_order(cell.column.protocol)):
        views.setdefault(view_of(cell.column.protocol), []).append(cell)
    order = sorted(views, key=lambda view: [*VIEWS, view].index(view))
    return [overview(view, views[view], beside) for view in order]


def overview(view: str, cells: Sequence[Cell], beside: Beside) -> Overview:
    """Of cells of the protocols of one view."""
    measured = [cell for cell in cells if cell.row.kind == "measured"]
    figures = [cell for cell in cells if cell.row.kind == "published"]
    counted = [c for c in measured if c.rank is not None and not c.column.lower_is_better]
    real = [cell for cell in counted if not cell.small_data]
    counted, of_small = real or counted, not real and bool(counted)
    of_rows: dict[Row, list[Cell]] = {}
    for cell in counted:
        of_rows.setdefault(cell.row, []).append(cell)
    tasks = _tasks_of_mean(of_rows.values())
    rows: dict[Row, dict[Column, Cell]] = {}
    for cell in measured:
        rows.setdefault(cell.row, {})[cell.column] = cell
    lines, stands_beside = [], set()
    for row, of_row in rows.items():
        printed = {c.task: beside[row, c] for c in of_row if (row, c) in beside}
        stands_beside |= {*printed.values()}
        lines.append(Line(row, of_row, printed, _mean(of_rows.get(row, ()), tasks)))
    alone: dict[Row, dict[str, Cell]] = {}
    for figure in figures:
        if figure not in stands_beside:
            alone.setdefault(figure.row, {})[figure.column.task] = figure
    complete = [line for line in lines if line.mean and line.mean.tasks == tasks]
    fewer = [line for line in lines if not (line.mean and line.mean.tasks == tasks)]
    others = [Line(row, {}, by_task, _mean([*by_task.values()])) for row, by_task in alone.items()]
    ordered = (*_ranked(complete), *sorted(fewer, key=_by_tasks), *sorted(others, key=_by_tasks))
    return Overview(view, _groups(measured, figures, tasks), ordered, tasks, of_small)


def _tasks_of_mean(of_rows: Iterable[Sequence[Cell]]) -> frozenset[str]:
    """The tasks of some row that say most: their number times that of the rows with all of them."""
    sets = [frozenset(cell.column.task for cell in cells) for cells in of_rows]
    said = {tasks: len(tasks) * sum(tasks <= other for other in sets) for tasks in sets}
    order = sorted(said, key=lambda tasks: (-said[tasks], -len(tasks), sorted(tasks)))
    return order[0] if order else frozenset()


def _mean(cells: Sequence[Cell], tasks: frozenset[str] | None = None) -> Mean | None:
    """None without a score in one of the tasks."""
    by_task: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.column):
        if tasks is None or cell.column.task in tasks:
            by_task.setdefault(cell.column.task, []).append(cell)
    if not by_task:
        return None
    value = _mean_of([_mean_of([cell.mean for cell in task]) for task in by_task.values()])
    replicates, low, high = None, math.nan, math.nan
    used = [cell for task in by_task.values() for cell in task]
    lengths = {-1 if cell.replicates is None else len(cell.replicates) for cell in used}
    if len(lengths) == 1 and lengths != {-1} and all(cell.draws for cell in used):
        of_tasks = [np.mean([cell.replicates for cell in task], 0) for task in by_task.values()]
        replicates = np.mean(of_tasks, 0)
        low, high = interval(replicates)
    draws = tuple((cell.column, cell.draws) for cell in used)
    return Mean(value, low, high, replicates, draws, frozenset(by_task))


def _mean_of(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _ranked(lines: Sequence[Line]) -> list[Line]:
    """By mean, then rank, with their marks."""
    marked = placed(lines, [round(line.mean.mean, 3) for line in lines]) if lines else []
    return sorted(marked, key=lambda line: (-line.mean.mean, line.rank, line.row))


def _by_tasks(line: Line) -> tuple:
    """Rows without a rank: those of most tasks first, untrained ones last."""
    tasks, mean = (len(line.mean.tasks), line.mean.mean) if line.mean else (0, 0.0)
    return line.row.untrained, -tasks, -mean, line.row


def _groups(
    measured: Sequence[Cell], figures: Sequence[Cell], tasks: frozenset[str]
) -> tuple[Group, ...]:
    by_task: dict[str, list[Cell]] = {}
    for cell in (*measured, *figures):
        by_task.setdefault(cell.column.task, []).append(cell)
    groups = []
    for task in sorted(by_task, key=names.task_order):
        columns: dict[str, set[Column]] = {"measured": set(), "published": set()}
        for cell in by_task[task]:
            columns[cell.row.kind].add(cell.column)
        of_task = [cell for cell in by_task[task] if cell.row.kind == "measured"]
        groups.append(
            Group(
                task,
                by_task[task][0].column.task_title,
                tuple(sorted(columns["measured"])),
                tuple(sorted(columns["published"])),
                small=bool(of_task) and all(cell.small_data for cell in of_task),
                in_mean=task in tasks,
            )
        )
    return tuple(groups)
