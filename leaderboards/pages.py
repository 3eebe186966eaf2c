"""Cells -> what the pages show: tables, charts and texts, as they are printed."""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import names
from leaderboards.cell import DECIMALS, Cell, Column, Row, best_first
from leaderboards.ranks import Difference
from leaderboards.readers import Entry
from leaderboards.stats import KINDS, Gain, overall
from leaderboards.titles import labels, notes

NONE = "undefined"  # how NaN is printed
MINUS = "\u2212"


class Printed(NamedTuple):
    """A cell as printed; every text is "" where there is nothing to say."""

    text: str
    std: str
    seeds: str
    interval: str
    rank: str  # with = for a tie, * where not paired
    best: bool
    flags: tuple[str, ...]
    href: str  # of its first run, from the root of the site
    value: float | None  # to sort by


class Head(NamedTuple):
    """The head of a column of scores."""

    id: str
    column: Column
    task: str
    metric: str
    how: str  # protocol; "" where there is no choice
    note: str
    convention: str
    small: bool  # all of its scores are of small data
    clips: int | None  # tested, of the least; None if not known


class Mean(NamedTuple):
    """A column of means over tasks."""

    id: str
    title: str
    protocol: str
    small: bool  # over small data, since there is nothing else
    lower_is_better: bool


class TableLine(NamedTuple):
    """A row of a table; cells in the order of the heads, None where there is none."""

    row: Row
    label: str
    show: str  # measured, untrained or published
    cells: list[Printed | None]
    # To sort by, None for those over fewer tasks than others; and how it is printed.
    means: list[tuple[float | None, str] | None]


@dataclass(frozen=True)
class Table:
    """Rows x columns, of one kind: measured or published."""

    kind: str
    heads: list[Head]
    means: list[Mean]
    lines: list[TableLine]


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
        """Title with what tells it apart."""
        note = self.note[column]
        return f"{column.title}: {note}" if note else column.title


def column_id(column: Column) -> str:
    """Short, the same in every build, safe in addresses and file names."""
    key = astuple(replace(column, task_title=""))
    return "c" + hashlib.sha256(repr(key).encode()).hexdigest()[:8]


def run_href(entry: Entry) -> str:
    """Only from the identity, which is unique and checked; never from a name in a record."""
    return f"runs/{entry.identity}.html"


def number(value: float, signed: bool = False) -> str:
    """A measured score or a difference of two, rounded once from all its digits."""
    if math.isnan(value):
        return NONE
    text = f"{value:+.{DECIMALS}f}" if signed else f"{value:.{DECIMALS}f}"
    if not float(text):  # neither +0.000 nor -0.000
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def span(low: float, high: float, signed: bool = False) -> str:
    """An interval; "" if there is none."""
    if math.isnan(low):
        return ""
    return f"{number(low, signed)} to {number(high, signed)}"


def printed(cell: Cell) -> str:
    """The value of a cell; of a published one with the digits of its source."""
    if cell.row.kind == "published" and len(cell.entries) == 1:
        figure = cell.entries[0].record
        # The scale is a power of ten; a division would drop zeros at the end.
        return f"{Decimal(figure['printed']).scaleb(-Decimal(figure['scale']).adjusted()):f}"
    return number(cell.mean)


def printed_cell(cell: Cell, small: bool = False) -> Printed:
    """A cell in a table.

    Args:
        small: its column is marked as one of small data already.
    """
    marked = ("published", "untrained", *(["small data"] if small else []))
    return Printed(
        text=printed(cell),
        std="" if math.isnan(cell.std) else number(cell.std),
        seeds=str(cell.seeds) if cell.seeds else "",
        interval=span(cell.low, cell.high),
        rank=cell.place,
        best=cell.best,
        flags=tuple(flag for flag in cell.flags if flag not in marked),
        href=run_href(cell.entries[0]),
        value=None if math.isnan(cell.mean) else cell.mean,
    )


def show_of(row: Row) -> str:
    return "untrained" if row.untrained else row.kind


def tables(cells: Sequence[Cell], named: Names, means: bool = False) -> list[Table]:
    """The measured and the published ones apart, each only if there are any.

    Args:
        means: with columns of the mean score and the mean rank for each protocol.
    """
    of_kinds = {kind: [cell for cell in cells if cell.row.kind == kind] for kind in KINDS}
    return [
        _score_table(kind, of_kind, named, _means(of_kind) if means else [])
        for kind, of_kind in of_kinds.items()
        if of_kind
    ]


def _score_table(kind: str, cells: list[Cell], named: Names, means: list) -> Table:
    columns = sorted({cell.column for cell in cells}, key=column_order)
    rows = sorted({cell.row for cell in cells}, key=row_order)
    at = {(cell.row, cell.column): cell for cell in cells}
    heads = {
        column: column_head(column, cells, named) for column, cells in by_column(cells).items()
    }
    lines = [
        TableLine(
            row=row,
            label=named.row[row],
            show=show_of(row),
            cells=[
                printed_cell(at[row, c], heads[c].small) if (row, c) in at else None
                for c in columns
            ],
            means=[values.get(row) for _, values in means],
        )
        for row in rows
    ]
    return Table(kind, [heads[c] for c in columns], [mean for mean, _ in means], lines)


def column_head(column: Column, cells: Sequence[Cell], named: Names) -> Head:
    """Of a column with all its cells."""
    return Head(
        id=column_id(column),
        column=column,
        task=column.task_title,
        metric=METRICS[column.metric].title,
        how=column.how,
        note=named.note.get(column, ""),
        convention=cells[0].convention,
        small=all(cell.small_data for cell in cells),
        clips=min((cell.clips for cell in cells if cell.clips is not None), default=None),
    )


def _means(cells: list[Cell]) -> list[tuple[Mean, dict[Row, tuple[float | None, str]]]]:
    """Columns for each protocol of several tasks: over the real data, else over the small ones."""
    columns = []
    protocols = {cell.column.protocol for cell in cells}
    for protocol in sorted(protocols, key=names.protocol_order):
        of_protocol = [cell for cell in cells if cell.column.protocol == protocol]
        real = [cell for cell in of_protocol if not cell.small_data]
        means = [mean for mean in overall(real or of_protocol) if mean.of > 1]
        most = max((mean.tasks for mean in means), default=0)
        for title, key, lower in (("Mean score", "score", False), ("Mean rank", "rank", True)):
            values = {}
            for mean in means:
                value = getattr(mean, key)
                text = f"{value:.1f}" if lower else f"{100 * value:.1f}"
                text += f" ({mean.tasks} of {mean.of})"
                if not math.isnan(value):
                    values[mean.row] = (value if mean.tasks == most else None, text)
            if values:
                id_ = f"{key}-{cells[0].row.kind}-{protocol}"
                columns.append((Mean(id_, title, protocol, not real, lower), values))
    return columns


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
    """Name of its page: a task may be called as no file can."""
    if not re.fullmatch("[a-z0-9_]{1,60}", task):
        task = hashlib.sha256(task.encode()).hexdigest()[:16]
    return f"task-{task}.html"


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


def steps(gain: Gain) -> list[Step]:
    return [_step(gain, difference) for difference in gain.steps]


def _step(gain: Gain, step: Difference) -> Step:
    verdicts = {True: "better", False: "worse", None: "not clear"}
    none = math.isnan(step.low)
    return Step(
        backbone=names.MODELS.get(gain.model, gain.model),
        stages=f"{step.before.row.stage} → {step.after.row.stage}",
        before=printed(step.before),
        after=printed(step.after),
        value=number(step.value, signed=True),
        interval="" if none else span(step.low, step.high, signed=True),
        verdict="no interval" if none else "few clips" if step.few else verdicts[step.improves],
        flags=tuple(dict.fromkeys(step.before.flags + step.after.flags)),
    )


class Classes(NamedTuple):
    """Scores per class of one column. `data` is for the script of the page."""

    id: str
    title: str
    metric: str
    top: float  # the end of the bars' scale
    data: dict[str, Any]


def class_table(column: Column, cells: Sequence[Cell], named: Names) -> Classes | None:
    """Means over seeds; None if no run of the column has values of classes."""
    metric, rows, events = METRICS[column.metric].of_classes or column.metric, [], {}
    for cell in sorted(cells, key=best_first):
        of_class: dict[str, list[float]] = {}
        for entry in cell.entries:
            for name, scores in entry.per_class.items():
                events.setdefault(name, scores.get("events"))
                if not math.isnan(scores.get(metric, math.nan)):
                    of_class.setdefault(name, []).append(scores[metric])
        if of_class:
            label = named.row[cell.row] + " (small data)" * cell.small_data
            rows.append((label, len(cell.entries), of_class))
    if not rows:
        return None
    order = sorted(events)
    values = [
        {
            "label": label,
            "values": [_rounded(of_class.get(name)) for name in order],
            # Where the mean is not one over all seeds.
            "of": [
                f"{len(of_class[name])} of {seeds}"
                if len(of_class.get(name, ())) not in (0, seeds)
                else ""
                for name in order
            ],
        }
        for label, seeds, of_class in rows
    ]
    high = max(v for row in values for v in row["values"] if v is not None)
    return Classes(
        id=column_id(column),
        title=named.column(column),
        metric=METRICS[metric].title,
        top=max(high, 1.0) if METRICS[metric].high == 1 else max(high, 1e-9),
        data={"classes": order, "events": [events[name] for name in order], "rows": values},
    )


def _rounded(values: list[float] | None) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
