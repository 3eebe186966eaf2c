"""Tables of scores as printed: that of an overview, and that of all metrics of a task."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.protocols import PROTOCOLS
from leaderboards import models, names, pages
from leaderboards.beside import Beside
from leaderboards.cell import Cell, Column, Row
from leaderboards.charts import amount
from leaderboards.overview import Group, Line, Overview
from leaderboards.pages import Names, Printed, number, printed, span

VIEW_TITLES = {
    "frozen": ("Frozen", "a single layer is trained on the frozen embeddings of a model"),
    "finetuned": ("Fine-tuned", "the whole model is trained on the task"),
    "hear": ("HEAR protocol", PROTOCOLS["hear"]),
    "mean-teacher": ("Mean teacher", PROTOCOLS["mean-teacher"]),
}
MEAN = "event_onset_200ms_fms"  # a metric in percent, for means of several


class Head(NamedTuple):
    """The head of a column; `why` are the lines that its button opens."""

    id: str
    title: str
    name: str  # with the task, for files
    why: tuple[str, ...] = ()
    first: str = "desc"  # the direction in which the best comes first
    kind: str = ""  # wide (not on phones), small, published
    task: str = ""
    convention: str = ""  # id on the page About


class Heads(NamedTuple):
    """Columns under one title; "" for those that stand alone."""

    title: str
    href: str
    heads: list[Head]
    tag: str = ""


class BoardLine(NamedTuple):
    """A row of a board; cells in the order of the heads, None where there is none."""

    row: Row
    cells: list[Printed | None]


class Board(NamedTuple):
    """A table: the model comes after `before` cells."""

    id: str
    groups: list[Heads]
    lines: list[BoardLine]
    tasks: list[tuple[str, str]]  # to choose from on phones


def half_width(low: float, high: float, metric: str) -> str:
    """Half of an interval; "" if there is none."""
    return "" if math.isnan(low) else number((high - low) / 2, metric)


def hover(cell: Cell, figure: Cell | None = None) -> str:
    """Everything that a table leaves out of a cell, on one line."""
    metric, parts = cell.column.metric, []
    if not math.isnan(cell.low):
        parts.append(f"95 % interval {span(cell.low, cell.high, metric)}")
    if cell.clips is not None and cell.row.kind == "measured":
        parts.append(f"{cell.clips} test clips")
    if cell.seeds and cell.row.kind == "measured":
        parts.append(f"{cell.seeds} seed{'s' if cell.seeds > 1 else ''}")
    if not math.isnan(cell.std):
        parts.append(f"standard deviation over seeds {number(cell.std, metric)}")
    if cell.rank is not None and cell.row.kind == "measured":
        parts.append(f"rank {cell.rank} by paired differences")
        parts += [] if cell.paired else ["not paired with all: there by intervals"]
    if figure:
        parts.append(f"published {printed(figure)}, ours {against(cell, figure)}")
    if cell.row.kind == "published":
        parts.append(cell.entries[0].source)
    return "; ".join((*parts, *cell.flags))


def against(cell: Cell, figure: Cell) -> str:
    """The difference of ours to a printed figure."""
    return number(cell.mean - figure.mean, cell.column.metric, signed=True)


def printed_cell(cell: Cell, figure: Cell | None = None, href: str = "") -> Printed:
    """A cell in a table, beside it what was printed of the same."""
    small = ("published", "untrained", "small data")
    return Printed(
        text=printed(cell),
        value=None if math.isnan(cell.mean) else cell.mean,
        half=half_width(cell.low, cell.high, cell.column.metric),
        hover=hover(cell, figure),
        mark="best" if cell.best else "near" if cell.near_best else "",
        flags=tuple(flag for flag in cell.flags if flag not in small),
        href=href,
    )


def score_href(cell: Cell) -> str:
    """Where a score is told in full: on the page of its model, which has the primary ones."""
    primary = cell.column.metric in {entry.primary for entry in cell.entries}
    place = pages.column_id(cell.column) if primary else "scores"
    return f"{pages.model_page(cell.row.model)}#{place}"


def score_head(column: Column, cells: Sequence[Cell], named: Names, title: str = "") -> Head:
    """Of a column of measured scores."""
    metric, note = METRICS[column.metric], named.note.get(column, "")
    clips = min((cell.clips for cell in cells if cell.clips is not None), default=None)
    protocol = PROTOCOLS[column.protocol]
    small = all(cell.small_data for cell in cells)
    why = (
        f"{metric.title}: {'lower' if metric.lower_is_better else 'higher'} is better. "
        f"{names.PROTOCOL_TITLES[column.protocol].capitalize()}: {protocol}.",
        "± is half of the 95 % interval over "
        + (f"{clips} test clips" if clips else "test clips")
        + ", of the mean over seeds: the uncertainty from the finite test set.",
    )
    return Head(
        id=pages.column_id(column),
        title=title or metric.title + (f", {note}" if note else ""),
        name=named.column(column),
        why=why,
        first="asc" if metric.lower_is_better else "desc",
        kind="small" if small else "",
        task=column.task,
        convention=pages.column_id(column),
    )


def overview_board(overview: Overview, beside: Beside, named: Names) -> Board:
    """The table that leads, of one view."""
    groups = [Heads("", "", _lead(overview))]
    for group in overview.groups:
        heads = []
        for column in group.columns:
            cells = [line.cells[column] for line in overview.lines if column in line.cells]
            heads.append(score_head(column, cells, named))
        if group.published:
            heads.append(_published_head(group, overview.view))
        tag = "small data" if group.small else ""
        groups.append(Heads(group.title, pages.task_page(group.task), heads, tag))
    lines = [_line(line, overview, beside) for line in overview.lines]
    return Board(overview.view, groups, lines, [(g.task, g.title) for g in overview.groups])


def _lead(overview: Overview) -> list[Head]:
    view, titles = overview.view, [g.title for g in overview.groups if g.in_mean]
    mean = (
        f"Mean of the scores on {', '.join(titles) or 'no task'}"
        + (" (small data: there is nothing else)" if overview.of_small else "")
        + "; error rates are left out. ● best, ○ not significantly worse than the best.",
        "± is half of the 95 % interval over test clips. Rows without a score on each of these "
        "tasks have no rank; their mean, in grey, is over those they have.",
    )
    rank = (
        "1 + the number of models that are significantly better on average: the 95 % interval of "
        "the paired difference of the means leaves 0 out.",
        "All are resampled with the same test clips. Models that share a rank cannot be told "
        "apart. *: not paired with all others, compared there by intervals.",
    )
    facts = {
        "params": ("Parameters", "wide", "Parameters", "asc"),
        "dim": ("Dim.", "wide", "Dimension of an embedding", "asc"),
        "licence": ("Licence", "wide", "Licence of the weights", "asc"),
    }
    return [
        Head(f"rank-{view}", "#", "Rank", rank, "asc"),
        Head(f"name-{view}", "Model", "Model", first="asc"),
        Head(f"stage-{view}", "Stage", "Stage", first="asc", kind="wide"),
        *(
            Head(f"{key}-{view}", title, name, first=first, kind=kind)
            for key, (title, kind, name, first) in facts.items()
        ),
        Head(f"mean-{view}", "Mean", "Mean", mean),
    ]


def _published_head(group: Group, view: str) -> Head:
    column = group.published[0]
    why = (
        f"{METRICS[column.metric].title}, as others printed it for the same model and stage "
        f"({names.PROTOCOL_TITLES[column.protocol]}): the source is shown on hover.",
        "Without rank and interval, since the clips behind it are not known.",
    )
    id_ = f"published-{view}-{pages.column_id(column)}"
    kind = "" if group.columns else "published"
    return Head(id_, "published", f"{group.title}, published", why, "desc", kind, group.task)


def _line(line: Line, overview: Overview, beside: Beside) -> BoardLine:
    row = line.row
    known = models.facts(row.model, row.stage)
    cells = [_rank_cell(line), None, _text(row.stage), *_fact_cells(line, known), _mean_cell(line)]
    for group in overview.groups:
        for column in group.columns:
            cell, figure = line.cells.get(column), beside.get((row, column))
            cells.append(printed_cell(cell, figure, score_href(cell)) if cell else None)
        figure = line.published.get(group.task)
        if group.published:
            cells.append(printed_cell(figure)._replace(mark="grey") if figure else None)
    return BoardLine(row, cells)


def _text(text: str) -> Printed | None:
    return Printed(text, mark="text") if text else None


def _rank_cell(line: Line) -> Printed | None:
    if line.rank is None:
        return None
    star = "" if line.paired else "*"
    return Printed(
        f"{line.rank}{star}", line.rank, hover="" if line.paired else "not paired with all"
    )


def _mean_cell(line: Line) -> Printed | None:
    if line.mean is None:
        return None
    mean, ranked = line.mean, line.rank is not None
    text = number(mean.mean, MEAN)
    interval = span(mean.low, mean.high, MEAN)
    tasks = f"over {len(mean.tasks)} task{'s' if len(mean.tasks) > 1 else ''}"
    return Printed(
        text,
        mean.mean if ranked else None,
        half_width(mean.low, mean.high, MEAN) if ranked else "",
        f"95 % interval {interval}, {tasks}" if interval else tasks,
        ("best" if line.best else "near" if line.near_best else "") if ranked else "grey",
    )


def _fact_cells(line: Line, known: models.ModelFacts | None) -> list[Printed | None]:
    """Parameters, dimension, licence; of a model that is not known the parameters of its runs."""
    costs = [e.cost.get("parameters") for cell in line.cells.values() for e in cell.entries]
    count = known.parameters if known and known.parameters else next(filter(None, costs), None)
    dimension, licence = (known.dimension, known.licence) if known else (None, "")
    return [
        Printed(amount(count), count) if count else None,
        Printed(str(dimension), dimension) if dimension else None,
        _text(licence),
    ]


def task_board(cells: Sequence[Cell], named: Names) -> Board:
    """All metrics of a task that were measured, a group of columns for each protocol."""
    by_column = pages.by_column(cells)
    protocols: dict[str, list[Head]] = {}
    for column, of_column in by_column.items():
        protocols.setdefault(column.protocol, []).append(score_head(column, of_column, named))
    name = Head("name-all", "Model", "Model", first="asc")
    groups = [Heads("", "", [name])]
    groups += [Heads(names.PROTOCOL_TITLES[p], "", heads) for p, heads in protocols.items()]
    at = {(cell.row, cell.column): cell for cell in cells}
    lines = []
    for row in sorted({cell.row for cell in cells}, key=pages.row_order):
        of_columns = [at.get((row, column)) for column in by_column]
        scores = [c and printed_cell(c, None, score_href(c)) for c in of_columns]
        lines.append(BoardLine(row, [None, *scores]))
    return Board("all", groups, lines, [])
