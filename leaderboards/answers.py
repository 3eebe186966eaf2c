"""What an overview answers at a glance: which model, what a stage brought, is it reproduced."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from leaderboards import names
from leaderboards.beside import Beside
from leaderboards.board import MEAN, against, half_width
from leaderboards.cell import Cell, Column
from leaderboards.charts import best_first
from leaderboards.overview import Overview
from leaderboards.pages import Names, number
from leaderboards.ranks import difference
from leaderboards.stats import Gain


class Answer(NamedTuple):
    """What the overview says of a task, or of the mean, in a line."""

    task: str  # "" for the mean
    title: str
    small: bool
    best: str
    score: str
    near: str  # not significantly worse
    over_ssl: str  # gain of the strong stage of one backbone
    over_weak: str
    reproduced: str


def answers(
    overview: Overview, gains: Sequence[Gain], beside: Beside, named: Names
) -> tuple[str, list[Answer]]:
    """The backbone whose gain is told, and a line for the mean and for each task."""
    backbone, of_column = _reference(overview, gains)
    ranked = [line for line in overview.lines if line.rank is not None]
    lines = []
    if ranked and len(overview.tasks) > 1:
        first = ranked[0]
        near = [named.row[line.row] for line in ranked[1:] if line.near_best]
        score = _with_half(first.mean.mean, first.mean.low, first.mean.high, MEAN)
        lines.append(
            Answer("", "Mean", False, named.row[first.row], score, _listed(near), "", "", "")
        )
    for group in overview.groups:
        for column in group.columns:
            cells = [line.cells[column] for line in overview.lines if column in line.cells]
            able = sorted((c for c in cells if c.rank is not None), key=best_first)
            if not able:
                continue
            top = able[0]
            near = [named.row[cell.row] for cell in able[1:] if cell.near_best]
            note = named.note.get(column, "")
            lines.append(
                Answer(
                    group.task,
                    group.title + (f", {note}" if note else ""),
                    group.small,
                    named.row[top.row],
                    _with_half(top.mean, top.low, top.high, column.metric),
                    _listed(near),
                    _gain_text(of_column.get(column), "ssl"),
                    _gain_text(of_column.get(column), "weak"),
                    _reproduced(cells, beside),
                )
            )
    return names.model_title(backbone), lines


def _with_half(value: float, low: float, high: float, metric: str) -> str:
    half = half_width(low, high, metric)
    return number(value, metric) + (f" ± {half}" if half else "")


def _listed(titles: Sequence[str]) -> str:
    """Some of them, and how many more."""
    if not titles:
        return "none"
    more = f" and {len(titles) - 3} more" if len(titles) > 3 else ""
    return ", ".join(titles[:3]) + more


def _reference(overview: Overview, gains: Sequence[Gain]) -> tuple[str, dict[Column, Gain]]:
    """The backbone with gains from ssl to strong on most tasks; of several the best by mean."""
    columns = {column for group in overview.groups for column in group.columns}
    of_models: dict[str, dict[Column, Gain]] = {}
    for gain in gains:
        stages = [cell.row.stage for cell in gain.cells]
        if gain.column in columns and {"ssl", "strong"} <= {*stages}:
            of_models.setdefault(gain.model, {})[gain.column] = gain
    place = {line.row.model: -k for k, line in reversed([*enumerate(overview.lines)])}
    order = sorted(of_models, key=lambda m: (-len(of_models[m]), -place.get(m, -9999), m))
    return (order[0], of_models[order[0]]) if order else ("", {})


def _gain_text(gain: Gain | None, before: str) -> str:
    """Of the strong stage over an earlier one: +11.4 [10.5, 12.2]."""
    of_stage = {cell.row.stage: cell for cell in gain.cells} if gain else {}
    if before not in of_stage:
        return ""
    change, metric = difference(of_stage[before], of_stage["strong"]), gain.column.metric
    text = number(change.value, metric, signed=True)
    if math.isnan(change.low):
        return text
    return f"{text} [{number(change.low, metric)}, {number(change.high, metric)}]"


def _reproduced(cells: Sequence[Cell], beside: Beside) -> str:
    """How far our scores are from the figures printed of the same models."""
    keys = [(cell, (cell.row, cell.column)) for cell in cells if not math.isnan(cell.mean)]
    pairs = [(cell, beside[key]) for cell, key in keys if key in beside]
    if not pairs:
        return ""
    least, most = (pick(pairs, key=lambda pair: pair[0].mean - pair[1].mean) for pick in (min, max))
    text = against(*least) if len(pairs) == 1 else f"{against(*least)} to {against(*most)}"
    inside = sum(cell.low <= figure.mean <= cell.high for cell, figure in pairs)
    return f"{text}; {inside} of {len(pairs)} within our interval"
