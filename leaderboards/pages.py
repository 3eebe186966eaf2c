"""Cells -> what the pages show: tables, charts and texts, as they are printed."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from leaderboards import names
from leaderboards.cell import DECIMALS, Cell, Column, Row
from leaderboards.ranks import Difference
from leaderboards.readers import Entry
from leaderboards.stats import KINDS, Gain, overall
from leaderboards.titles import labels, notes

NONE = "undefined"  # how NaN is printed
MINUS = "\u2212"


class Shown(NamedTuple):
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
    how: str  # mode and protocol
    note: str
    convention: str
    small: bool  # all of its scores are of small data
    clips: int | None  # tested, of the least; None if not known


class Mean(NamedTuple):
    """A column of means over tasks."""

    id: str
    title: str
    mode: str
    small: bool  # over small data, since there is nothing else
    lower_is_better: bool


class Line(NamedTuple):
    """A row of a table; cells in the order of the heads, None where there is none."""

    row: Row
    label: str
    show: str  # measured, untrained or published
    cells: list[Shown | None]
    # To sort by, None for those over fewer tasks than others; and how it is printed.
    means: list[tuple[float | None, str] | None]


@dataclass(frozen=True)
class Table:
    """Rows x columns, of one kind: measured or published."""

    kind: str
    heads: list[Head]
    means: list[Mean]
    lines: list[Line]


class Names:
    """How rows and columns are called on all pages of a site."""

    def __init__(self, cells: Sequence[Cell]):
        self.row: dict[Row, str] = {}
        self.note: dict[Column, str] = {}
        # Each kind by itself: what is shown is always marked as measured or published.
        for kind in KINDS:
            own = [cell for cell in cells if cell.row.kind == kind]
            self.row |= labels(cell.row for cell in own)
            self.note |= notes(cell.column for cell in own)

    def column(self, column: Column) -> str:
        """Title with what tells it apart."""
        note = self.note[column]
        return f"{column.title}: {note}" if note else column.title


def column_id(column: Column) -> str:
    """Short, the same in every build, safe in addresses and file names."""
    return "c" + hashlib.sha256(repr(astuple(column)).encode()).hexdigest()[:8]


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


def shown(cell: Cell, small: bool = False) -> Shown:
    """A cell in a table.

    Args:
        small: its column is marked as one of small data already.
    """
    marked = ("published", "untrained", *(["small data"] if small else []))
    return Shown(
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
        means: with columns of the mean score and the mean rank for each mode.
    """
    found = []
    for kind in KINDS:
        own = [cell for cell in cells if cell.row.kind == kind]
        if own:
            found.append(_table(kind, own, named, _means(own) if means else []))
    return found


def _table(kind: str, cells: list[Cell], named: Names, means: list) -> Table:
    columns = sorted({cell.column for cell in cells}, key=column_order)
    rows = sorted({cell.row for cell in cells}, key=row_order)
    at = {(cell.row, cell.column): cell for cell in cells}
    heads = {column: head(column, own, named) for column, own in by_column(cells).items()}
    lines = [
        Line(
            row=row,
            label=named.row[row],
            show=show_of(row),
            cells=[shown(at[row, c], heads[c].small) if (row, c) in at else None for c in columns],
            means=[values.get(row) for _, values in means],
        )
        for row in rows
    ]
    return Table(kind, [heads[c] for c in columns], [mean for mean, _ in means], lines)


def head(column: Column, cells: Sequence[Cell], named: Names) -> Head:
    """Of a column with all its cells."""
    how = column.mode if column.mode == column.protocol else f"{column.mode}, {column.protocol}"
    return Head(
        id=column_id(column),
        column=column,
        task=names.TASKS[column.task].title,
        metric=names.METRICS[column.metric].title,
        how="" if column.mode == names.AUDIOSET else how,
        note=named.note.get(column, ""),
        convention=column.convention,
        small=all(cell.small_data for cell in cells),
        clips=min((cell.clips for cell in cells if cell.clips is not None), default=None),
    )


def _means(cells: list[Cell]) -> list[tuple[Mean, dict[Row, tuple[float | None, str]]]]:
    """Columns for each mode: over the real data, or over the small ones if there are no others."""
    found = []
    for mode in names.MODES:
        own = [cell for cell in cells if cell.column.mode == mode]
        real = [cell for cell in own if not cell.small_data]
        means = overall(real or own)
        most = max((one.tasks for one in means), default=0)
        for title, key, lower in (("Mean score", "score", False), ("Mean rank", "rank", True)):
            values = {}
            for one in (mean for mean in means if not math.isnan(getattr(mean, key))):
                value = getattr(one, key)
                text = f"{value:.1f}" if lower else f"{100 * value:.1f}"
                text += f" ({one.tasks} of {one.of})"
                values[one.row] = (value if one.tasks == most else None, text)
            if values:
                id_ = f"{key}-{cells[0].row.kind}-{mode}"
                found.append((Mean(id_, title, mode, not real, lower), values))
    return found


def row_order(row: Row) -> tuple:
    """Models by name, the stages of each as they are trained, untrained ones last."""
    return (row.untrained, row.model.lower(), names.stage_order(row.stage), row)


def column_order(column: Column) -> tuple:
    """Tasks, modes, protocols and metrics as they are listed."""
    order = list(names.TASKS).index(column.task), list(names.METRICS).index(column.metric)
    mode = (*names.MODES, names.AUDIOSET).index(column.mode)
    return (order[0], mode, column.protocol, order[1], column)


def by_column(cells: Iterable[Cell]) -> dict[Column, list[Cell]]:
    """In the order of tables."""
    found: dict[Column, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.column, []).append(cell)
    order = sorted(found, key=lambda column: (column.kind != "measured", column_order(column)))
    return {column: found[column] for column in order}


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
    return [_step(gain, one) for one in gain.steps]


def _step(gain: Gain, one: Difference) -> Step:
    verdicts = {True: "better", False: "worse", None: "not clear"}
    none = math.isnan(one.low)
    return Step(
        backbone=names.MODELS.get(gain.model, gain.model),
        stages=f"{one.before.row.stage} → {one.after.row.stage}",
        before=printed(one.before),
        after=printed(one.after),
        value=number(one.value, signed=True),
        interval="" if none else span(one.low, one.high, signed=True),
        verdict="no interval" if none else "few clips" if one.few else verdicts[one.improves],
        flags=tuple(dict.fromkeys(one.before.flags + one.after.flags)),
    )


class Classes(NamedTuple):
    """Scores per class of one column. `data` is for the script of the page."""

    id: str
    title: str
    metric: str
    top: float  # the end of the bars' scale
    data: dict[str, Any]


def classes(column: Column, cells: Sequence[Cell], named: Names) -> Classes | None:
    """Means over seeds; None if no run of the column has values of classes."""
    metric, rows, events = names.PER_CLASS.get(column.metric, column.metric), [], {}
    for cell in sorted(cells, key=best_first):
        found: dict[str, list[float]] = {}
        for entry in cell.entries:
            for name, own in entry.per_class.items():
                events.setdefault(name, own.get("events"))
                if not math.isnan(own.get(metric, math.nan)):
                    found.setdefault(name, []).append(own[metric])
        if found:
            label = named.row[cell.row] + " (small data)" * cell.small_data
            rows.append((label, len(cell.entries), found))
    if not rows:
        return None
    order = sorted(events)
    values = [
        {
            "label": label,
            "values": [_rounded(found.get(name)) for name in order],
            # Where the mean is not one over all seeds.
            "of": [
                f"{len(found[name])} of {seeds}"
                if len(found.get(name, ())) not in (0, seeds)
                else ""
                for name in order
            ],
        }
        for label, seeds, found in rows
    ]
    high = max(v for row in values for v in row["values"] if v is not None)
    return Classes(
        id=column_id(column),
        title=named.column(column),
        metric=names.METRICS[metric].title,
        top=max(high, 1.0) if names.METRICS[metric].high == 1 else max(high, 1e-9),
        data={"classes": order, "events": [events[name] for name in order], "rows": values},
    )


def _rounded(values: list[float] | None) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def best_first(cell: Cell) -> tuple:
    """Untrained ones and those without a score last."""
    sign = 1 if cell.column.lower_is_better else -1
    none = math.isnan(cell.mean)
    return (none, cell.untrained, 0 if none else sign * cell.mean, cell.row)
