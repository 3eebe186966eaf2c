"""HEAR's leaderboard: a row of 19 tasks for each model, and the normalised score over all rows."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np

from leaderboards import names
from leaderboards.cell import Cell, Row
from leaderboards.pages import MINUS, Names

ROUNDS = 10  # of the imputation


@dataclass(frozen=True, eq=False)
class Score:
    """What counts of a row in a task: the primary score, of Beehive the mean of its two folders."""

    row: Row
    task: str
    value: float
    cells: tuple[Cell, ...]

    @property
    def whole(self) -> bool:
        """Whether all clips of the task were there."""
        return not any(cell.small_data for cell in self.cells)


@dataclass(frozen=True, eq=False)
class HearRow:
    """A model and what it has of HEAR's tasks."""

    row: Row
    scores: dict[str, Score] = field(default_factory=dict)  # by task

    @property
    def counts(self) -> bool:
        """Whether it is in the table of normalised scores: published, or trained and complete."""
        if self.row.kind == "published":
            return True
        whole = all(score.whole for score in self.scores.values())
        return not self.row.untrained and whole and len(self.scores) == len(names.HEAR_TASKS)


def hear_scores(cells: Iterable[Cell]) -> list[Score]:
    """Of all rows under HEAR's protocol; one of two folders alone is no score."""
    parts: dict[tuple, list[Cell]] = {}
    for cell in cells:
        column = cell.column
        primary = any(entry.primary == column.metric for entry in cell.entries)
        if column.protocol == "hear" and column.task in names.HEAR_TASKS and primary:
            several = _folders(cell) > 1
            key = (cell.row, column.task, None if several else column)
            parts.setdefault(key, []).append(cell)
    scores = []
    for (row, task, _), of_task in parts.items():
        versions = {cell.column.task_version for cell in of_task}
        if len(versions) == len(of_task) == _folders(of_task[0]):
            value = math.fsum(cell.mean for cell in of_task) / len(of_task)
            scores.append(Score(row, task, value, tuple(of_task)))
    return scores


def _folders(cell: Cell) -> int:
    """That a task is made of; the public leaderboard has one figure."""
    folders = names.KNOWN_TASKS[cell.column.task].folders
    return len(folders) if cell.row.kind == "measured" else 1


def hear_rows(cells: Iterable[Cell]) -> list[HearRow]:
    """Rows with a score; of several of a task that of all clips, else the first, is taken."""
    rows: dict[Row, HearRow] = {}
    for score in sorted(hear_scores(cells), key=lambda score: not score.whole):
        if not math.isnan(score.value):
            rows.setdefault(score.row, HearRow(score.row)).scores.setdefault(score.task, score)
    return [rows[row] for row in sorted(rows)]


def normalised(rows: Sequence[HearRow], tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """HEAR's normalised scores: each row's (R,), and of each task before the mean (R, C).

    What is missing is imputed from the other tasks; then each task is standardised over the rows
    (population deviation), clipped to -1 and 1, and averaged. Every row changes those of all.
    """
    table = np.full((len(rows), len(tasks)), np.nan)
    for k, row in enumerate(rows):
        for task, score in row.scores.items():
            if task in tasks:
                table[k, tasks.index(task)] = score.value
    filled = _imputed(table.shape, table.tobytes())
    spread = filled.std(0)
    scaled = ((filled - filled.mean(0)) / np.where(spread > 0, spread, 1)).clip(-1, 1)
    return scaled.mean(1), scaled


@cache  # it takes half a second, and a page and a file of a site ask for the same
def _imputed(shape: tuple[int, int], values: bytes) -> np.ndarray:
    """A table (R, C) of float64 without NaN."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        imputer = IterativeImputer(max_iter=ROUNDS, random_state=0)
        return imputer.fit_transform(np.frombuffer(values).reshape(shape))


class Ranking(NamedTuple):
    """Rows that count, best first, with their normalised scores and those of each task (R, C)."""

    tasks: list[str]
    rows: list[HearRow]
    values: list[float]
    scaled: np.ndarray


def ranking(rows: Sequence[HearRow]) -> Ranking:
    """Over the tasks of which one of them has a score: all of HEAR's with the published models."""
    counted = [row for row in rows if row.counts]
    tasks = [task for task in names.HEAR_TASKS if any(task in row.scores for row in counted)]
    if not counted:
        return Ranking([], [], [], np.zeros((0, 0)))
    values, scaled = normalised(counted, tasks)
    order = sorted(range(len(counted)), key=lambda k: (-round(values[k], 9), counted[k].row))
    return Ranking(tasks, [counted[k] for k in order], values[order].tolist(), scaled[order])


def beside_published(row: HearRow, published: Iterable[HearRow], named: Names) -> str:
    """A row among the published models, as a table for a terminal, over the tasks that it has."""
    tasks = [task for task in names.HEAR_TASKS if task in row.scores]
    others = [other for other in published if {*tasks} & other.scores.keys()]
    values, _ = normalised([row, *others], tasks)
    missing = [title for task, title in names.HEAR_TASKS.items() if task not in tasks]
    few = [names.HEAR_TASKS[task] for task in tasks if not row.scores[task].whole]
    lines = [
        f"{named.row[row.row]}: HEAR's normalised score over {len(tasks)} of "
        f"{len(names.HEAR_TASKS)} tasks, beside the published models over the same"
    ]
    lines += [f"not measured: {', '.join(missing)}"] if missing else []
    lines += [f"on a part of the clips, not comparable: {', '.join(few)}"] if few else []
    for rank, k in enumerate(np.argsort(-values, kind="stable"), start=1):
        label = named.row[[row, *others][k].row]
        lines.append(f"{'>' if k == 0 else ' '} {rank:2}  {values[k]:6.3f}  {label}")
    return "\n".join(lines)


def printed_score(value: float) -> str:
    """A normalised score as pages show it."""
    return f"{value:.3f}".replace("-", MINUS)
