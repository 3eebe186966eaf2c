"""Cells -> what the pages show: tables and texts, as they are printed."""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from decimal import Decimal
from typing import Any, NamedTuple

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import names
from leaderboards.cell import Cell, Column, Row, best_first, class_means
from leaderboards.ranks import Difference
from leaderboards.readers import Entry
from leaderboards.stats import KINDS, Gain
from leaderboards.titles import labels, notes

NONE = "undefined"  # how NaN is printed
MINUS = "\u2212"


class Printed(NamedTuple):
    """A cell of a table as printed; every text is "" where there is nothing to say."""

    text: str
    value: float | None = None  # to sort by
    half: str = ""  # half of the 95 % interval
    hover: str = ""
    mark: str = ""  # best, near (not significantly worse)
    flags: tuple[str, ...] = ()
    href: str = ""  # from the root of the site
    best: bool = False


class Names:
    """How rows and columns are called on all pages of a site."""

    def __init__(self, cells: Sequence[Cell]):
        self.row: dict[Row, str] = {}
        self.note: dict[Column, str] = {}
        # Each kind by itself: what is shown is always marked as measured or published.
        for kind in KINDS:
            of_kind = [cell for cell in cells if cell.row.kind == kind]
            self.row |= labels(cell.row for cell in of_kind)
            self.note |= notes(cell.column for cell in of_kind)

    def column(self, column: Column) -> str:
        """Task, metric and protocol, and what tells it apart."""
        metric, how = METRICS[column.metric].title, names.PROTOCOL_TITLES[column.protocol]
        note = self.note.get(column, "")
        return f"{column.task_title}, {metric}, {how}" + (f": {note}" if note else "")

    def more(self, row: Row) -> str:
        """What tells a row from others of its model and stage; "" for nothing."""
        return self.row[row].removeprefix(row.title).strip(" ()")


def column_id(column: Column) -> str:
    """Short, the same in every build, safe in addresses and file names."""
    key = astuple(replace(column, task_title=""))
    return "c" + hashlib.sha256(repr(key).encode()).hexdigest()[:8]


def run_href(entry: Entry) -> str:
    """Only from the identity, which is unique and checked; never from a name in a record."""
    return f"runs/{entry.identity}.html"


def number(value: float, metric: str, signed: bool = False) -> str:
    """A score or a difference of two: in percent where the metric ends at 1, rounded once."""
    if math.isnan(value):
        return NONE
    text = METRICS[metric].printed(value, signed)
    if not float(text):  # neither +0.0 nor -0.0
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def span(low: float, high: float, metric: str, signed: bool = False) -> str:
    """An interval; "" if there is none."""
    if math.isnan(low):
        return ""
    return f"{number(low, metric, signed)} to {number(high, metric, signed)}"


def printed(cell: Cell) -> str:
    """The value of a cell; of a published one with the digits of its source."""
    metric = cell.column.metric
    if cell.row.kind == "published" and len(cell.entries) == 1:
        figure = cell.entries[0].record
        percent = 2 if METRICS[metric].unit else 0
        # The scale is a power of ten; a division would drop zeros at the end.
        digits = Decimal(figure["printed"]).scaleb(percent - Decimal(figure["scale"]).adjusted())
        return f"{digits:f}"
    return number(cell.mean, metric)


def show_of(row: Row) -> str:
    """What a row is, as filters call it."""
    return "untrained" if row.untrained else row.kind


def row_order(row: Row) -> tuple:
    """Models by name, the stages of each as they are trained, untrained ones last."""
    return (row.untrained, row.model.lower(), names.stage_order(row.stage), row)


def column_order(column: Column) -> tuple:
    """Tasks, protocols and metrics as they are listed."""
    task, protocol = names.task_order(column.task), names.protocol_order(column.protocol)
    return (task, protocol, names.metric_order(column.metric), column)


def task_titles(cells: Iterable[Cell]) -> dict[str, str]:
    """Task -> title, in the order of tables."""
    titles: dict[str, str] = {}
    for cell in cells:
        titles.setdefault(cell.column.task, cell.column.task_title)
    return {task: titles[task] for task in sorted(titles, key=names.task_order)}


def task_page(task: str) -> str:
    """Name of its page."""
    return f"task-{_file_name(task)}.html"


def model_page(model: str) -> str:
    """Name of its page."""
    return f"model-{_file_name(model)}.html"


def has_page(row: Row) -> bool:
    """Whether its model has a page: one for each printed name would be too many."""
    return row.kind == "measured" or row.model in names.MODELS


def _file_name(name: str) -> str:
    """Tasks and models may be called as no file can."""
    safe = re.fullmatch("[a-z0-9_]{1,60}", name)
    return name if safe else hashlib.sha256(name.encode()).hexdigest()[:16]


def by_column(cells: Iterable[Cell]) -> dict[Column, list[Cell]]:
    """In the order of tables."""
    columns: dict[Column, list[Cell]] = {}
    for cell in cells:
        columns.setdefault(cell.column, []).append(cell)
    order = sorted(columns, key=lambda column: (column.kind != "measured", column_order(column)))
    return {column: columns[column] for column in order}


def primary(cells: Iterable[Cell]) -> list[Cell]:
    """Cells of the metric to report: each entry is in one of them."""
    return [c for c in cells if any(entry.primary == c.column.metric for entry in c.entries)]


class Step(NamedTuple):
    """A gain of one stage over another as printed."""

    backbone: str
    stages: str
    before: str
    after: str
    value: str
    interval: str
    verdict: str
    flags: tuple[str, ...]


def step(gain: Gain, change: Difference) -> Step:
    """One of the steps of a gain."""
    verdicts = {True: "better", False: "worse", None: "not clear"}
    none, metric = math.isnan(change.low), gain.column.metric
    return Step(
        backbone=names.MODELS.get(gain.model, gain.model),
        stages=f"{change.before.row.stage} → {change.after.row.stage}",
        before=printed(change.before),
        after=printed(change.after),
        value=number(change.value, metric, signed=True),
        interval=span(change.low, change.high, metric, signed=True),
        verdict="no interval" if none else "few clips" if change.few else verdicts[change.improves],
        flags=tuple(dict.fromkeys(change.before.flags + change.after.flags)),
    )


class Classes(NamedTuple):
    """Scores per class of one column: two rows side by side. `data` is for the script."""

    metric: str
    lines: list[tuple[str, list[tuple[str, float | None]]]]  # class -> texts, values to sort by
    data: dict[str, Any]


def class_table(cells: Sequence[Cell], named: Names) -> Classes | None:
    """Means over seeds, best rows first; None if no run of the column has values of classes."""
    column, rows, events = cells[0].column, [], {}
    metric = METRICS[column.metric].of_classes or column.metric
    for cell in sorted(cells, key=best_first):
        for entry in cell.entries:
            for name, scores in entry.per_class.items():
                events.setdefault(name, scores.get("events"))
        if of_class := class_means(cell, metric):
            rows.append((named.row[cell.row], cell, of_class))
    if not rows:
        return None
    order = sorted(events)
    values = [
        {
            "label": label,
            "values": [_rounded(of_class.get(name)) for name in order],
            "texts": [_class_text(cell, metric, name, of_class) for name in order],
        }
        for label, cell, of_class in rows
    ]
    data = {"classes": order, "rows": values, "percent": bool(METRICS[metric].unit)}
    lines = [
        (name, _class_line(k, values[:2], metric, events[name])) for k, name in enumerate(order)
    ]
    if len(values) > 1:
        lines.sort(key=lambda line: (line[1][2][1] is None, -(line[1][2][1] or 0.0), line[0]))
    return Classes(METRICS[metric].title, lines, data)


def _class_text(cell: Cell, metric: str, name: str, of_class: dict[str, float]) -> str:
    """With the number of seeds, where a mean is not over all of them."""
    if name not in of_class:
        return ""
    scores = [entry.per_class.get(name, {}).get(metric, math.nan) for entry in cell.entries]
    defined = sum(not math.isnan(score) for score in scores)
    of = "" if defined == len(scores) else f" ({defined} of {len(scores)})"
    return number(of_class[name], metric) + of


def _class_line(
    k: int, pair: Sequence[dict[str, Any]], metric: str, events: float | None
) -> list[tuple[str, float | None]]:
    cells = [(row["texts"][k], row["values"][k]) for row in pair]
    if len(pair) > 1:
        values = [value for _, value in cells]
        less = None if None in values else values[0] - values[1]
        cells.append(("" if less is None else number(less, metric, signed=True), less))
    return [*cells, ("" if events is None else f"{events:.10g}", events)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
