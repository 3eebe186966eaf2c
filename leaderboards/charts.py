"""Charts as Plotly figures: cells and gains -> {"data": [...], "layout": {...}} of plain JSON.

`labels` are the names of all rows of a site; they also decide the colours, so that a backbone has
the same one in all charts. Colours of text, grid and page are left to who draws, light or dark.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import names
from leaderboards.cell import Cell, Row, best_first, by_difference, class_means, mean_cost
from leaderboards.stats import Gain

Chart = dict[str, Any]
Labels = Mapping[Row, str]

COSTS = {"parameters": "parameters", "seconds_per_minute": "seconds per minute of audio"}
# Told apart in all kinds of colour vision, the first ones best; a contrast of 3 to white and to
# the dark page.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c0609a", "#b8860b")
PALETTE += ("#7a5bd0", "#c23b3b", "#2f8f9d", "#a0522d", "#6a9a00")
GREY = "#7d8790"  # of published figures
SYMBOLS = {"ssl": "circle", "weak": "square", "strong": "triangle-up"}  # others: diamond
STAGE_DASHES = {"ssl": "dot", "weak": "dashdot"}  # others: solid; untrained: dash
DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")  # of grey lines
CLEAR = "rgba(0, 0, 0, 0)"
LINES = 6  # curves drawn at first; the others by a click in the legend
NAME = 44  # characters of a label


def score_chart(cells: Sequence[Cell], labels: Labels) -> Chart | None:
    """Scores of one column with their intervals, best first; None if nothing has a score."""
    scored, data = _scored(cells), []
    for alike in _by_model(scored):
        trace = _markers(alike, labels)
        trace |= {"x": trace.pop("y"), "y": [scored.index(cell) for cell in alike]}
        data.append(trace | {"error_x": trace.pop("error_y")})
    if not data:
        return None
    rows = [_short_label(labels[cell.row]) for cell in scored]
    y = {"range": [len(rows) - 0.5, -0.5], "tickvals": [*range(len(rows))], "ticktext": rows}
    return _chart(data, 90 + 22 * len(rows), _score_title(cells[0]), "", yaxis=y, showlegend=False)


def slope_chart(gains: Sequence[Gain], labels: Labels) -> Chart:
    """What the stages brought: a line for each backbone. Of gains of one column."""
    stages = {cell.row.stage for gain in gains for cell in gain.cells}
    stages = sorted(stages, key=names.stage_order)
    best, data = sorted(gains, key=lambda gain: best_first(gain.cells[-1])), []
    for k, gain in enumerate(best):
        trace = _markers(gain.cells, labels)
        # A little beside each other, or one interval hides another.
        aside = (k - (len(best) - 1) / 2) * min(0.05, 0.4 / len(best))
        trace["x"] = [round(stages.index(cell.row.stage) + aside, 4) for cell in gain.cells]
        grey = gain.column.kind == "published"
        line = {"width": 2, "dash": DASHES[k % len(DASHES)] if grey else "solid"}
        data.append(trace | {"mode": "lines+markers", "line": line})
    x = {"range": [-0.4, len(stages) - 0.6], "tickvals": [*range(len(stages))], "ticktext": stages}
    return _chart(data, 420, "", _score_title(gains[0].cells[0]), xaxis=x)


def cost_chart(cells: Sequence[Cell], labels: Labels, cost: str) -> Chart | None:
    """Score over one of COSTS, the mean of the seeds of a row; None if it is not known."""
    amounts = {cell: mean_cost(cell, cost) for cell in _scored(cells)}
    amounts = {cell: mean for cell, mean in amounts.items() if mean}
    data = []
    for alike in _by_model(amounts):
        trace = _markers(alike, labels)
        trace["x"] = [_rounded(amounts[cell]) for cell in alike]
        costs = [f"<br>{amount(amounts[cell])} {COSTS[cost]}" for cell in alike]
        trace["hovertext"] = [a + b for a, b in zip(trace["hovertext"], costs, strict=True)]
        data.append(trace)
    if not data:
        return None
    return _chart(data, 420, COSTS[cost], _score_title(cells[0]), xaxis={"type": "log"})


def size_chart(points: Mapping[Row, tuple[float, float]], labels: Labels, title: str) -> Chart:
    """Rows with their number of parameters and their mean score in %."""
    models: dict[str, list[Row]] = {}
    for row in points:
        models.setdefault(row.model, []).append(row)
    data = []
    for rows in models.values():
        sizes, scores = zip(*(points[row] for row in rows), strict=True)
        texts = (
            f"{score:.1f}<br>{amount(size)} parameters" for size, score in map(points.get, rows)
        )
        texts = [f"{escape(labels[row])}: {text}" for row, text in zip(rows, texts, strict=True)]
        trace = {"x": [*map(_rounded, sizes)], "y": [*map(_rounded, scores)], "hovertext": texts}
        data.append(trace | _look(rows, labels))
    return _chart(data, 420, "parameters", title, xaxis={"type": "log"})


def curve_charts(cells: Sequence[Cell], labels: Labels) -> list[Chart]:
    """Such as F1 over thresholds, and precision over recall, of cells of one column.

    A row is the mean of its seeds, and left out unless each of them has a curve.
    """
    form = METRICS[cells[0].column.metric].curve
    if form is None:
        return []
    first = form.pairs[0][0]
    means = ((cell, _mean_curve(cell)) for cell in sorted(cells, key=best_first))
    means = {cell: mean for cell, mean in means if not np.isnan(mean.get(first, np.nan)).all()}
    charts = []
    for k, (y, x) in enumerate(form.pairs if means else ()):
        lines = [_line(cell, mean[x], mean[y], labels) for cell, mean in means.items()]
        for line in lines[LINES:]:
            line["visible"] = "legendonly"
        top = max((value for line in lines for value in line["y"]), default=1.0)
        # The first begins at 0 and ends where its values do; the next is of precision and recall.
        ends = (1.0, 1.0) if k else (form.high, min(1.0, max(1.1 * top, 0.01)))
        axes = {"xaxis": {"range": [0, ends[0]]}, "yaxis": {"range": [0, _rounded(ends[1])]}}
        charts.append(_chart(lines, 440, form.columns[x], form.columns[y], **axes))
    return charts


def height_at(trace: Chart, place: float) -> float | None:
    """Of a curve; None where it is not defined."""
    points = zip(trace["x"], trace["y"], strict=True)
    return next((y for x, y in points if abs(x - place) < 1e-6), None)


def class_chart(cells: Sequence[Cell], labels: Labels, metric: str = "") -> Chart | None:
    """Two models class by class, sorted by their difference: the first two of `cells`.

    The others are in it, too, to be picked: see `meta`. None if no run has values of classes.

    Args:
        metric: of the classes; by default the one that belongs to the column's.
    """
    column = cells[0].column
    metric = metric or METRICS[column.metric].of_classes or column.metric
    means = {cell: class_means(cell, metric) for cell in cells}
    means = {cell: of_class for cell, of_class in means.items() if of_class}
    if not means:
        return None
    classes = sorted({name for of_class in means.values() for name in of_class})
    data = []
    for k, (cell, of_class) in enumerate(means.items()):
        name, scores = _name(cell.row, labels), [of_class.get(of, math.nan) for of in classes]
        said = [f"{name['hovertext']}: {METRICS[metric].printed(score)}" for score in scores]
        # The second one is an outline: two stages of a backbone have one colour.
        colour = _colour(cell.row, labels)
        outline = {"color": colour, "width": 1.5}
        look = {"marker": {"color": CLEAR if k else colour, "line": outline}}
        bars = {"x": [_value(score, metric) for score in scores], "y": [*map(escape, classes)]}
        trace = {"type": "bar", "orientation": "h", "visible": k < 2, **name, **bars, **look}
        hover = {"hovertext": said, "hovertemplate": "%{y}<br>%{hovertext}<extra></extra>"}
        data.append(trace | hover)
    first, *others = means.values()
    order = by_difference(classes, first, others[0] if others else first)
    y = {"type": "category", "categoryarray": [*map(escape, order)], "autorange": "reversed"}
    more = {"barmode": "group", "bargap": 0.25, "meta": {"pick": ["First", "Second"]}}
    return _chart(
        data, 140 + 26 * min(len(classes), 60), METRICS[metric].heading, "", yaxis=y, **more
    )


def titled(chart: Chart, title: str) -> Chart:
    """The chart with its title in the picture."""
    layout = chart["layout"]
    room = {"height": layout["height"] + 40, "margin": layout["margin"] | {"t": 80}}
    return chart | {"layout": layout | room | {"title": {"text": escape(title)}}}


def escape(text: str) -> str:
    """A name as it is: Plotly takes some markup in its texts, and formulas between dollars."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def amount(value: float) -> str:
    """A count or a time, short: 86 M, 1.5."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


# Parts of all charts.


def _chart(data: list[Chart], height: int, x_title: str, y_title: str, **layout: Any) -> Chart:
    axes = {}
    for name, title in (("xaxis", x_title), ("yaxis", y_title)):
        axis = {"title": {"text": title}, "automargin": True, "zeroline": False}
        axes[name] = axis | layout.pop(name, {})
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
    common = {"height": height, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}, "legend": legend}
    return {
        "data": data,
        "layout": common | {"hovermode": "closest", "showlegend": True} | axes | layout,
    }


def _scored(cells: Iterable[Cell]) -> list[Cell]:
    """Those with a score, best first."""
    return [cell for cell in sorted(cells, key=best_first) if not math.isnan(cell.mean)]


def _by_model(cells: Iterable[Cell]) -> list[list[Cell]]:
    models: dict[str, list[Cell]] = {}
    for cell in cells:
        models.setdefault(cell.row.model, []).append(cell)
    return [*models.values()]


def _markers(cells: Sequence[Cell], labels: Labels) -> Chart:
    """Means of cells of one model, their intervals, and what they say when pointed at."""
    metric, look = cells[0].column.metric, _look([cell.row for cell in cells], labels)
    error = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 3}
    error["color"] = look["marker"]["color"]
    error["array"] = [_value(cell.high - cell.mean, metric) for cell in cells]
    error["arrayminus"] = [_value(cell.mean - cell.low, metric) for cell in cells]
    means = [_value(cell.mean, metric) for cell in cells]
    return look | {
        "y": means,
        "error_y": error,
        "hovertext": [_hover(cell, labels) for cell in cells],
    }


def _look(rows: Sequence[Row], labels: Labels) -> Chart:
    """Rows of one model: its colour; the stage is the symbol, hollow for untrained models."""
    model = rows[0].model
    symbols = [SYMBOLS.get(row.stage, "diamond") + "-open" * row.untrained for row in rows]
    marker = {"color": _colour(rows[0], labels), "size": 9, "symbol": symbols}
    trace = {"name": _short_label(names.model_title(model)), "mode": "markers", "marker": marker}
    return trace | {"hovertemplate": "%{hovertext}<extra></extra>"}


def _name(row: Row, labels: Labels) -> Chart:
    """Of a trace of one row: short for the legend, escaped for hover, as it is for scripts."""
    label = labels[row]
    return {"name": _short_label(label), "hovertext": escape(label), "meta": label}


def _colour(row: Row, labels: Labels) -> str:
    """Those of this suite have the first ones, then others by name."""
    if row.kind == "published":
        return GREY
    others = {row.model for row in labels if row.kind == "measured"} - {*names.MODELS}
    return PALETTE[[*names.MODELS, *sorted(others)].index(row.model) % len(PALETTE)]


def _hover(cell: Cell, labels: Labels) -> str:
    printed = METRICS[cell.column.metric].printed
    text = f"{escape(labels[cell.row])}: {printed(cell.mean)}"
    if not math.isnan(cell.low):
        text += f" [{printed(cell.low)}, {printed(cell.high)}]"
    more = [f"{cell.seeds} seeds"] if cell.seeds > 1 else []
    more += [f"rank {cell.place}"] if cell.place else []
    more += [flag for flag in cell.flags if flag != "untrained"]  # which the label says
    return text + "<br>" * bool(more) + ", ".join(more)


def _line(cell: Cell, x: np.ndarray, y: np.ndarray, labels: Labels) -> Chart:
    """A curve where both are defined."""
    row, defined = cell.row, ~np.isnan(x) & ~np.isnan(y)
    line = {"color": _colour(row, labels), "width": 2}
    line["dash"] = "dash" if row.untrained else STAGE_DASHES.get(row.stage, "solid")
    line["shape"] = "hv" if METRICS[cell.column.metric].curve.stairs else "linear"
    points = {
        "x": [*map(_rounded, x[defined].tolist())],
        "y": [*map(_rounded, y[defined].tolist())],
    }
    hover = "%{hovertext}: %{y:.3f} at %{x:.3~f}<extra></extra>"
    return _name(row, labels) | points | {"mode": "lines", "line": line, "hovertemplate": hover}


def _mean_curve(cell: Cell) -> dict[str, np.ndarray]:
    """Over the seeds in which a value is defined; {} unless all have a curve of one abscissa."""
    form = METRICS[cell.column.metric].curve
    curves = [entry.curves.get(cell.column.metric) for entry in cell.entries]
    abscissa = form.pairs[0][1]
    if not all(curves) or any((c[abscissa] != curves[0][abscissa]).any() for c in curves):
        return {}
    tables = {key: np.array([curve[key] for curve in curves]) for key in form.columns}
    counts = {key: (~np.isnan(table)).sum(0) for key, table in tables.items()}
    sums = {key: np.nansum(table, 0) for key, table in tables.items()}
    return {key: sums[key] / np.where(counts[key], counts[key], np.nan) for key in tables}


def _value(value: float, metric: str) -> float | None:
    """In the unit of the metric."""
    return _rounded(100 * value if METRICS[metric].unit else value)


def _rounded(value: float) -> float | None:
    """For JSON: NaN is null."""
    return None if math.isnan(value) else round(value, 6)


def _score_title(cell: Cell) -> str:
    lower = " (lower is better)" if cell.column.lower_is_better else ""
    return METRICS[cell.column.metric].heading + lower


def _short_label(label: str) -> str:
    return escape(label if len(label) <= NAME else label[: NAME - 1] + "…")
