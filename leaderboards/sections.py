"""What the pages of tasks, models and runs are made of; their templates print it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import board, charts, hear, models, names, pages
from leaderboards.beside import Beside
from leaderboards.cell import (
    FEW,
    Cell,
    Row,
    best_first,
    by_difference,
    class_events,
    class_means,
    mean_cost,
)
from leaderboards.pages import Names, number, span
from leaderboards.readers import Entry


def task_sections(measured: Sequence[Cell], named: Names) -> list[dict[str, Any]]:
    """One for each primary metric under a protocol: charts, and the numbers that they show."""
    sections = []
    for column, cells in pages.by_column(pages.primary(measured)).items():
        best = sorted(cells, key=best_first)
        curves = charts.curve_charts(cells, named.row)
        costs = [charts.cost_chart(cells, named.row, cost) for cost in charts.COSTS]
        form = METRICS[column.metric].curve
        places = form.places if form else ()
        sections.append(
            {
                "head": board.score_head(column, cells, named),
                "protocol": column.protocol,
                "scores": charts.score_chart(cells, named.row),
                "class_chart": charts.class_chart(best, named.row),
                "curve_charts": curves,
                "cost_charts": [chart for chart in costs if chart],
                "classes": class_table(cells, named),
                "curve_title": "PSD-ROC" if form and form.stairs else "F1 over thresholds",
                "places": places,
                "curves": _curve_rows(curves[0], places) if curves else [],
                "costs": [
                    _costs(cell, named) for cell in best if any(e.cost for e in cell.entries)
                ],
            }
        )
    return sections


def _curve_rows(chart: charts.Chart, places: Sequence[float]) -> list[tuple[str, list[str]]]:
    """The heights of each curve of a chart at some places; "" where it is not defined."""
    rows = []
    for trace in chart["data"]:
        heights = [charts.height_at(trace, place) for place in places]
        rows.append((trace["meta"], ["" if h is None else f"{h:.3f}" for h in heights]))
    return rows


def _costs(cell: Cell, named: Names) -> tuple[str, str, str, str]:
    """Row, parameters, seconds per minute of audio, where measured."""
    amounts = [mean_cost(cell, cost) for cost in charts.COSTS]
    parameters, seconds = (charts.amount(amount) if amount else "" for amount in amounts)
    machines = "; ".join(sorted({e.machine for e in cell.entries if e.machine}))
    return named.row[cell.row], parameters, seconds, machines


def figures(cells: Iterable[Cell]) -> list[Cell]:
    """Those that others printed among them, best first by column."""
    of_kind = [cell for cell in cells if cell.row.kind == "published"]
    return sorted(of_kind, key=lambda c: (pages.column_order(c.column), best_first(c)))


def model_pages(primary: Sequence[Cell], beside: Beside, named: Names) -> dict[str, dict[str, Any]]:
    """Model -> facts and scores, of models that were measured, and of those of this suite."""
    of_models: dict[str, list[Cell]] = {}
    for cell in primary:
        if pages.has_page(cell.row):
            of_models.setdefault(cell.row.model, []).append(cell)
    return {m: _model_page(m, cells, beside, named) for m, cells in sorted(of_models.items())}


def _model_page(model: str, cells: list[Cell], beside: Beside, named: Names) -> dict[str, Any]:
    measured = [cell for cell in cells if cell.row.kind == "measured"]
    stages = sorted({cell.row.stage for cell in cells}, key=names.stage_order)
    facts = [known for stage in stages if (known := models.facts(model, stage))]
    scores, drawn, costs = [], [], {}
    for column, of_column in pages.by_column(measured).items():
        ordered = sorted(of_column, key=lambda cell: pages.row_order(cell.row))
        scores += [(cell, beside.get((cell.row, column)), not k) for k, cell in enumerate(ordered)]
        costs = {cell.row: _costs(cell, named) for cell in ordered} | costs
        if len(of_column) > 1 and (chart := charts.score_chart(of_column, named.row)):
            drawn.append((column, chart))
    return {
        "model": model,
        "facts": facts,
        "load": [(stage, lines) for stage in stages if (lines := models.load_lines(model, stage))],
        "cautions": list(dict.fromkeys(caution for known in facts for caution in known.cautions)),
        "scores": scores,  # cell, the figure printed of it, whether it is the first of its column
        "charts": drawn,
        "costs": list(costs.values()),
        "figures": figures(cells),
    }


class Classes(NamedTuple):
    """Scores per class of one column: two rows side by side. `data` is for the script."""

    metric: str
    lines: list[tuple[str, list[tuple[str, float | None]]]]  # class -> texts, values to sort by
    data: dict[str, Any]


def class_table(cells: Sequence[Cell], named: Names) -> Classes | None:
    """Means over seeds, best rows first; None if no run of the column has values of classes."""
    column, events = cells[0].column, class_events(cells)
    metric = METRICS[column.metric].of_classes or column.metric
    means = {cell: class_means(cell, metric) for cell in sorted(cells, key=best_first)}
    means = {cell: of_class for cell, of_class in means.items() if of_class}
    if not means:
        return None
    order = sorted(events)
    rows = [
        {
            "label": named.row[cell.row],
            "values": [round(of_class[name], 6) if name in of_class else None for name in order],
            "texts": [_class_text(cell, metric, name, of_class) for name in order],
        }
        for cell, of_class in means.items()
    ]
    lines = {}
    for k, name in enumerate(order):
        texts = [(row["texts"][k], row["values"][k]) for row in rows[:2]]
        if len(texts) > 1:
            (_, first), (_, second) = texts
            less = None if None in (first, second) else first - second
            texts.append(("" if less is None else number(less, metric, signed=True), less))
        count = events[name]
        lines[name] = [*texts, ("", None) if math.isnan(count) else (f"{count:.10g}", count)]
    if len(rows) > 1:
        order = by_difference(order, *[*means.values()][:2])
    data = {"classes": sorted(events), "rows": rows, "percent": bool(METRICS[metric].unit)}
    return Classes(METRICS[metric].title, [(name, lines[name]) for name in order], data)


def _class_text(cell: Cell, metric: str, name: str, of_class: dict[str, float]) -> str:
    """With the number of seeds, where a mean is not over all of them."""
    if name not in of_class:
        return ""
    scores = [entry.per_class.get(name, {}).get(metric, math.nan) for entry in cell.entries]
    defined = sum(not math.isnan(score) for score in scores)
    of = "" if defined == len(scores) else f" ({defined} of {len(scores)})"
    return number(of_class[name], metric) + of


class HearCell(NamedTuple):
    """A score as printed, and its field of the heat map: -4 to 4, None for none."""

    text: str = ""
    heat: int | None = None


class HearLine(NamedTuple):
    """A row of HEAR's page; a cell of each task."""

    row: Row
    cells: list[HearCell]
    rank: str = ""
    normalised: str = ""


def hear_page(cells: Sequence[Cell]) -> dict[str, Any]:
    """Rows with a normalised score, best first, as a heat map; then rows without one."""
    rows = hear.hear_rows(cells)
    tasks = [task for task in names.HEAR_TASKS if any(task in row.scores for row in rows)]
    ranked = hear.ranking(rows)
    lines = []
    of_rows = zip(ranked.rows, ranked.values, ranked.scaled.tolist(), strict=True)
    for rank, (row, value, scaled) in enumerate(of_rows, start=1):
        scores = _hear_cells(row, tasks, dict(zip(ranked.tasks, scaled, strict=True)))
        lines.append(HearLine(row.row, scores, str(rank), hear.printed_score(value)))
    others = sorted((row for row in rows if not row.counts), key=lambda row: -len(row.scores))
    fewer = [HearLine(row.row, _hear_cells(row, tasks, {})) for row in others]
    return {
        "hear_tasks": {task: names.HEAR_TASKS[task] for task in tasks},
        "lines": lines,
        "fewer": fewer,
    }


def _hear_cells(
    row: hear.HearRow, tasks: Sequence[str], scaled: dict[str, float]
) -> list[HearCell]:
    """What is imputed stays empty."""
    made = []
    for task in tasks:
        score = row.scores.get(task)
        if score is None:
            made.append(HearCell())
            continue
        heat = round(4 * scaled[task]) if task in scaled else None
        made.append(HearCell(f"{100 * score.value:.1f}{'' if score.whole else ' †'}", heat))
    return made


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


def run_rows(
    scores_of: Mapping[str, Mapping[str, float]],
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Titles of the columns, and the rows, of classes or of groups of clips."""
    keys = list(dict.fromkeys(key for scores in scores_of.values() for key in scores))
    titles = [METRICS[key].title if key in METRICS else key for key in keys]

    def text(key: str, value: Any) -> str:
        if key in METRICS:
            return number(value, key)
        return "undefined" if math.isnan(value) else f"{value:.10g}"

    rows = [
        (name, [text(key, scores[key]) if key in scores else "" for key in keys])
        for name, scores in sorted(scores_of.items())
    ]
    return titles, rows
