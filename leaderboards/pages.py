"""Cells -> what the pages show: tables and texts, as they are printed."""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from typing import NamedTuple, TypeVar

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import names
from leaderboards.cell import Cell, Column, Row
from leaderboards.readers import Entry
from leaderboards.stats import KINDS, Gain
from leaderboards.titles import labels, notes

MINUS = "\u2212"
OfColumn = TypeVar("OfColumn", Cell, Gain)


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
    return METRICS[metric].printed(value, signed).replace("-", MINUS)


def span(low: float, high: float, metric: str, signed: bool = False) -> str:
    """An interval; "" if there is none."""
    if math.isnan(low):
        return ""
    return f"{number(low, metric, signed)} to {number(high, metric, signed)}"


def printed(cell: Cell) -> str:
    """The value of a cell."""
    return cell.text.replace("-", MINUS)


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


def by_column(cells: Iterable[OfColumn]) -> dict[Column, list[OfColumn]]:
    """In the order of tables."""
    columns: dict[Column, list[OfColumn]] = {}
    for cell in cells:
        columns.setdefault(cell.column, []).append(cell)
    order = sorted(columns, key=lambda column: (column.kind != "measured", column_order(column)))
    return {column: columns[column] for column in order}


def primary(cells: Iterable[Cell]) -> list[Cell]:
    """Cells of the metric to report: each entry is in one of them."""
    return [c for c in cells if any(entry.primary == c.column.metric for entry in c.entries)]
