"""What the pages of tasks, models, gains and runs say, as it is printed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import board, charts, models, names, pages
from leaderboards.beside import Beside
from leaderboards.cell import FEW, Cell, Column, best_first, mean_cost
from leaderboards.pages import Names, number, printed, span
from leaderboards.readers import Entry
from leaderboards.stats import Gain


class GainSection(NamedTuple):
    """What the stages brought all backbones in a column."""

    id: str
    title: str
    column: Column
    clips: int | None
    chart: charts.Chart
    steps: list[pages.Step]


def gain_sections(gains: Sequence[Gain], named: Names) -> dict[str, list[GainSection]]:
    """Kind -> sections, in the order of tables."""
    of_columns: dict[Column, list[Gain]] = {}
    for gain in gains:
        of_columns.setdefault(gain.column, []).append(gain)
    by_kind: dict[str, list[GainSection]] = {"measured": [], "published": []}
    for column in sorted(of_columns, key=pages.column_order):
        of_column = of_columns[column]
        by_kind[column.kind].append(
            GainSection(
                id=f"gain-{pages.column_id(column)}",
                title=named.column(column),
                column=column,
                clips=of_column[0].cells[0].clips,
                chart=charts.slope_chart(of_column, named.row),
                steps=[pages.step(gain, change) for gain in of_column for change in gain.steps],
            )
        )
    return by_kind


class TaskSection(NamedTuple):
    """A primary metric of a task under a protocol."""

    head: board.Head
    protocol: str
    scores: charts.Chart | None
    class_chart: charts.Chart | None
    curve_charts: list[charts.Chart]
    cost_charts: list[charts.Chart]
    classes: pages.Classes | None
    curve_title: str
    places: tuple[float, ...]  # of the curves, whose numbers are printed
    curves: list[tuple[str, list[str]]]
    costs: list[tuple[str, str, str, str, str]]


def task_sections(measured: Sequence[Cell], named: Names) -> list[TaskSection]:
    sections = []
    for column, cells in pages.by_column(pages.primary(measured)).items():
        best = sorted(cells, key=best_first)
        curves = charts.curve_charts(cells, named.row)
        costs = [charts.cost_chart(cells, named.row, cost) for cost in charts.COSTS]
        form = METRICS[column.metric].curve
        sections.append(
            TaskSection(
                head=board.score_head(column, cells, named),
                protocol=column.protocol,
                scores=charts.score_chart(cells, named.row),
                class_chart=charts.class_chart(best, named.row),
                curve_charts=curves,
                cost_charts=[chart for chart in costs if chart],
                classes=pages.class_table(cells, named),
                curve_title="PSD-ROC" if form and form.stairs else "F1 over thresholds",
                places=form.places if form else (),
                curves=_curve_rows(curves[0], form.places) if curves else [],
                costs=[_costs(cell, named) for cell in best if any(e.cost for e in cell.entries)],
            )
        )
    return sections


def _curve_rows(chart: charts.Chart, places: Sequence[float]) -> list[tuple[str, list[str]]]:
    """The heights of each curve of a chart at some places; "" where it is not defined."""
    rows = []
    for trace in chart["data"]:
        heights = [charts.height_at(trace, place) for place in places]
        rows.append((trace["meta"], ["" if h is None else f"{h:.3f}" for h in heights]))
    return rows


def _costs(cell: Cell, named: Names) -> tuple[str, str, str, str, str]:
    """Row, parameters, seconds per minute of audio, where measured, score."""
    amounts = [mean_cost(cell, cost) for cost in charts.COSTS]
    parameters, seconds = (charts.amount(amount) if amount else "" for amount in amounts)
    machines = "; ".join(sorted({e.machine for e in cell.entries if e.machine}))
    return named.row[cell.row], parameters, seconds, machines, printed(cell)


class Figure(NamedTuple):
    """A figure that others printed."""

    model: str
    href: str
    stage: str
    setting: str
    task: str
    protocol: str
    metric: str
    text: str
    runs: str
    source: str
    note: str


def figures(cells: Iterable[Cell], named: Names) -> list[Figure]:
    """The published ones among them, best first by column."""
    of_kind = [cell for cell in cells if cell.row.kind == "published"]
    order = sorted(of_kind, key=lambda c: (pages.column_order(c.column), best_first(c)))
    return [
        Figure(
            model=names.model_title(cell.row.model),
            href=pages.model_page(cell.row.model) if pages.has_page(cell.row) else "",
            stage=cell.row.stage,
            setting=names.setting_title(cell.row.variant),
            task=cell.column.task_title,
            protocol=names.PROTOCOL_TITLES[cell.column.protocol],
            metric=METRICS[cell.column.metric].title,
            text=printed(cell),
            runs=str(cell.seeds or ""),
            source=cell.entries[0].source,
            note=cell.entries[0].record["note"],
        )
        for cell in order
    ]


class Score(NamedTuple):
    """A score on the page of its model."""

    id: str  # of its column, "" but for the first row of it
    task: str
    href: str
    protocol: str
    metric: str
    row: str  # stage, and what else tells the row apart
    text: str
    interval: str
    spread: str  # standard deviation over seeds, and how many
    rank: str
    published: str
    less: str  # ours less the published one
    source: str
    flags: tuple[str, ...]
    runs: list[tuple[str, str]]  # title and address


class ModelPage(NamedTuple):
    """A model with all its stages."""

    model: str
    title: str
    facts: list[models.ModelFacts]
    load: list[tuple[str, list[str]]]  # stage and lines
    cautions: list[str]
    scores: list[Score]
    chart: list[tuple[str, str, charts.Chart]]  # id, title, chart
    costs: list[tuple[str, str, str, str, str]]
    figures: list[Figure]


def model_pages(primary: Sequence[Cell], beside: Beside, named: Names) -> list[ModelPage]:
    """Of models that were measured, and of those of this suite."""
    of_models: dict[str, list[Cell]] = {}
    for cell in primary:
        if pages.has_page(cell.row):
            of_models.setdefault(cell.row.model, []).append(cell)
    return [_model_page(model, of_models[model], beside, named) for model in sorted(of_models)]


def _model_page(model: str, cells: list[Cell], beside: Beside, named: Names) -> ModelPage:
    measured = [cell for cell in cells if cell.row.kind == "measured"]
    stages = sorted({cell.row.stage for cell in cells}, key=names.stage_order)
    facts = [known for stage in stages if (known := models.facts(model, stage))]
    scores, drawn, costs = [], [], {}
    for column, of_column in pages.by_column(measured).items():
        ordered = sorted(of_column, key=lambda cell: pages.row_order(cell.row))
        for k, cell in enumerate(ordered):
            figure = beside.get((cell.row, column))
            scores.append(_score(cell, figure, named, first=not k))
            costs.setdefault(cell.row, _costs(cell, named))
        if len(of_column) > 1:
            chart = charts.score_chart(of_column, named.row)
            id_ = f"scores-{pages.column_id(column)}"
            drawn += [(id_, named.column(column), chart)] if chart else []
    return ModelPage(
        model=model,
        title=names.model_title(model),
        facts=facts,
        load=[(stage, lines) for stage in stages if (lines := models.load_lines(model, stage))],
        cautions=list(dict.fromkeys(caution for known in facts for caution in known.cautions)),
        scores=scores,
        chart=drawn,
        costs=list(costs.values()),
        figures=figures(cells, named),
    )


def _score(cell: Cell, figure: Cell | None, named: Names, first: bool) -> Score:
    column, metric = cell.column, cell.column.metric
    spread = "" if math.isnan(cell.std) else f"{number(cell.std, metric)} ({cell.seeds})"
    runs = [
        (str(entry.seed) if entry.seed is not None else "run", pages.run_href(entry))
        for entry in cell.entries
    ]
    said_before = ("untrained",) if first else ("untrained", "small data")
    more, untrained = named.more(cell.row), "untrained" * cell.untrained
    return Score(
        id=pages.column_id(column) if first else "",
        task=column.task_title,
        href=f"{pages.task_page(column.task)}#{pages.column_id(column)}",
        protocol=names.PROTOCOL_TITLES[column.protocol],
        metric=METRICS[metric].title + (f", {note}" if (note := named.note[column]) else ""),
        row=", ".join(filter(None, (cell.row.stage, more, untrained))) or named.row[cell.row],
        text=printed(cell),
        interval=span(cell.low, cell.high, metric),
        spread=spread,
        rank="" if cell.rank is None else str(cell.rank) + "*" * (not cell.paired),
        published=printed(figure) if figure else "",
        less=board.against(cell, figure) if figure else "",
        source=figure.entries[0].source if figure else "",
        flags=tuple(flag for flag in cell.flags if flag not in said_before),
        runs=runs,
    )


def run_scores(entry: Entry) -> list[tuple[str, str, str, str, str]]:
    """Key, title, value, interval and convention of each metric."""
    rows = []
    few = entry.clips is not None and entry.clips < FEW
    for metric, value in entry.scores.items():
        low, high = (math.nan, math.nan) if few else entry.ci95.get(metric, (math.nan, math.nan))
        title = METRICS[metric].heading
        conventions = entry.conventions[metric]
        rows.append((metric, title, number(value, metric), span(low, high, metric), conventions))
    return rows


def run_classes(entry: Entry) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Titles of the columns, and the rows."""
    keys = list(dict.fromkeys(key for scores in entry.per_class.values() for key in scores))
    titles = [METRICS[key].title if key in METRICS else key for key in keys]

    def text(key: str, value: Any) -> str:
        if key in METRICS:
            return number(value, key)
        return "undefined" if math.isnan(value) else f"{value:.10g}"

    rows = [
        (name, [text(key, scores[key]) if key in scores else "" for key in keys])
        for name, scores in sorted(entry.per_class.items())
    ]
    return titles, rows
