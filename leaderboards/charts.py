"""Charts as Plotly figures: cells and gains -> {"data": [...], "layout": {...}} of plain JSON.

`labels` are the names of all rows of a site; they also decide the colours, so that a backbone has
the same one in all charts. Colours of text, grid and page are left to who draws, light or dark.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import names
from leaderboards.cell import Cell, Row
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
DASHES = {"ssl": "dot", "weak": "dashdot"}  # others: solid; untrained: dash
LINES = 6  # curves drawn at first; the others by a click in the legend
NAME = 44  # characters of a label


def score_chart(cells: Sequence[Cell], labels: Labels) -> Chart | None:
    """Scores of one column with their intervals, best first; None if nothing has a score."""
    scored = [cell for cell in sorted(cells, key=best_first) if not math.isnan(cell.mean)]
    if not scored:
        return None
    data = []
    for name, colour, alike in _by_model(scored, labels):
        trace = _markers(alike, labels, colour, name)
        trace |= {"x": trace.pop("y"), "y": [scored.index(cell) for cell in alike]}
        data.append(trace | {"error_x": trace.pop("error_y")})
    rows = [_short(labels[cell.row]) for cell in scored]
    y = {"range": [len(rows) - 0.5, -0.5], "tickvals": [*range(len(rows))], "ticktext": rows}
    return _chart(data, 90 + 22 * len(rows), _score_title(cells[0]), "", yaxis=y, showlegend=False)


def slope_chart(gains: Sequence[Gain], labels: Labels) -> Chart:
    """What the stages brought: a line for each backbone. Of gains of one column."""
    stages = {cell.row.stage for gain in gains for cell in gain.cells}
    stages = sorted(stages, key=names.stage_order)
    best = sorted(gains, key=lambda gain: best_first(gain.cells[-1]))
    data = []
    for k, gain in enumerate(best):
        name, colour = _short(names.MODELS.get(gain.model, gain.model)), _colours(labels)
        trace = _markers(gain.cells, labels, colour(gain.cells[0].row), name)
        # A little beside each other, or one interval hides another.
        aside = (k - (len(best) - 1) / 2) * min(0.05, 0.4 / len(best))
        trace["x"] = [round(stages.index(cell.row.stage) + aside, 4) for cell in gain.cells]
        data.append(trace | {"mode": "lines+markers", "line": {"width": 2}})
    x = {"range": [-0.4, len(stages) - 0.6], "tickvals": [*range(len(stages))], "ticktext": stages}
    return _chart(data, 420, "", _score_title(gains[0].cells[0]), xaxis=x)


def cost_chart(cells: Sequence[Cell], labels: Labels, cost: str) -> Chart | None:
    """Score over one of COSTS, the mean of the seeds of a row; None if it is not known."""
    scored = [cell for cell in sorted(cells, key=best_first) if not math.isnan(cell.mean)]
    amounts = {cell: mean_cost(cell, cost) for cell in scored if mean_cost(cell, cost)}
    if not amounts:
        return None
    data = []
    for name, colour, alike in _by_model(amounts, labels):
        trace = _markers(alike, labels, colour, name)
        trace["x"] = [_rounded(amounts[cell]) for cell in alike]
        texts = zip(trace["text"], (amount(amounts[cell]) for cell in alike), strict=True)
        data.append(trace | {"text": [f"{text}<br>{of} {COSTS[cost]}" for text, of in texts]})
    return _chart(data, 420, COSTS[cost], _score_title(cells[0]), xaxis=_LOG)


def mean_cost(cell: Cell, cost: str) -> float:
    """Of its seeds; 0 if it is not known."""
    known = [entry.cost[cost] for entry in cell.entries if entry.cost.get(cost, 0) > 0]
    return sum(known) / len(known) if known else 0.0


def size_chart(rows: Sequence[tuple[Row, float, float]], labels: Labels, title: str) -> Chart:
    """Score over parameters: of rows with the number of parameters and a mean score in %."""
    colour, data = _colours(labels), []
    for model in dict.fromkeys(row.model for row, *_ in rows):
        alike = [given for given in rows if given[0].model == model]
        text = [
            f"{escape(labels[row])}: {score:.1f}<br>{amount(size)} parameters"
            for row, size, score in alike
        ]
        trace = {"name": _short(names.MODELS.get(model, model)), "text": text, **_HOVER}
        trace |= {"x": [size for _, size, _ in alike], "y": [_rounded(s) for *_, s in alike]}
        data.append(trace | _look([row for row, *_ in alike], colour(alike[0][0])))
    return _chart(data, 420, "parameters", title, xaxis=_LOG)


def curve_charts(cells: Sequence[Cell], labels: Labels) -> list[Chart]:
    """Such as F1 over thresholds, and precision over recall, of cells of one column.

    A row is the mean of its seeds, and left out unless each of them has a curve. None of them
    if no row is left.
    """
    form = METRICS[cells[0].column.metric].curve
    means = [(cell, _mean_curve(cell)) for cell in sorted(cells, key=best_first) if form]
    means = [
        (cell, mean) for cell, mean in means if mean and not np.isnan(mean[form.pairs[0][0]]).all()
    ]
    charts = []
    for y, x in form.pairs if means else ():
        lines = [_line(*given, (y, x), labels) for given in means]
        for line in lines[LINES:]:
            line["visible"] = "legendonly"
        top = max(value for line in lines for value in line["y"])
        first = x == form.pairs[0][1]
        ends = (form.high, min(1.0, max(1.1 * top, 0.01))) if first else (1.0, 1.0)
        axes = {
            f"{name}axis": {"range": [0, _rounded(end)]}
            for name, end in zip("xy", ends, strict=True)
        }
        charts.append(_chart(lines, 440, form.columns[x], form.columns[y], **axes))
    return charts


def _line(cell: Cell, curve: dict[str, np.ndarray], of: tuple[str, str], labels: Labels) -> Chart:
    """One column of a curve over another, where both are defined."""
    y, x = (curve[key] for key in of)
    defined = ~np.isnan(x) & ~np.isnan(y)
    label, row = labels[cell.row], cell.row
    dash = "dash" if row.untrained else DASHES.get(row.stage, "solid")
    line = {"color": _colours(labels)(row), "width": 2, "dash": dash}
    line |= {"shape": "hv"} if METRICS[cell.column.metric].curve.stairs else {}
    points = {"x": _all_rounded(x[defined]), "y": _all_rounded(y[defined])}
    hover = "%{text}: %{y:.3f} at %{x:.3~f}<extra></extra>"
    name = {"name": _short(label), "text": escape(label), "meta": label}
    return {**name, "mode": "lines", "line": line, **points, "hovertemplate": hover}


def at(trace: Chart, place: float) -> float | None:
    """Height of a curve there; None if it is not defined."""
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
    first, second = (*means.values(), {})[:2]

    def falling(name: str) -> tuple[bool, float]:
        less = first.get(name, math.nan) - second.get(name, math.nan)
        return math.isnan(less), 0.0 if math.isnan(less) else -less

    order = [escape(name) for name in sorted(classes, key=falling)]
    colour, data = _colours(labels), []
    for k, (cell, of_class) in enumerate(means.items()):
        values = [_value(of_class.get(name, math.nan), metric) for name in classes]
        trace = {"type": "bar", "orientation": "h", "name": _short(labels[cell.row]), "x": values}
        trace |= {"y": [escape(name) for name in classes], "visible": k < 2}
        trace |= {
            "text": escape(labels[cell.row]),
            "textposition": "none",
            "meta": labels[cell.row],
        }
        trace["marker"] = {"color": colour(cell.row), "pattern": {"shape": "/" if k else ""}}
        data.append(trace | {"hovertemplate": "%{y}<br>%{text}: %{x:.1f}<extra></extra>"})
    y = {"type": "category", "categoryarray": order, "autorange": "reversed"}
    more = {"barmode": "group", "bargap": 0.25, "meta": {"pick": ["First", "Second"]}}
    return _chart(data, 140 + 26 * min(len(classes), 60), _unit(metric), "", yaxis=y, **more)


def class_means(cell: Cell, metric: str) -> dict[str, float]:
    """Class -> mean over the seeds in which it is defined."""
    values: dict[str, list[float]] = {}
    for entry in cell.entries:
        for name, scores in entry.per_class.items():
            if not math.isnan(scores.get(metric, math.nan)):
                values.setdefault(name, []).append(scores[metric])
    return {name: math.fsum(of_class) / len(of_class) for name, of_class in values.items()}


def _mean_curve(cell: Cell) -> dict[str, np.ndarray] | None:
    """Over the seeds in which a value is defined; None unless all have a curve of one abscissa."""
    form = METRICS[cell.column.metric].curve
    curves = [entry.curves.get(cell.column.metric) for entry in cell.entries]
    x = form.pairs[0][1]
    if any(curve is None or not np.array_equal(curve[x], curves[0][x]) for curve in curves):
        return None
    stacked = {key: np.array([curve[key] for curve in curves]) for key in form.columns}
    counts = {key: (~np.isnan(table)).sum(0) for key, table in stacked.items()}
    sums = {key: np.nansum(table, 0) for key, table in stacked.items()}
    nan = {key: np.where(counts[key] > 0, counts[key], np.nan) for key in counts}
    return {key: sums[key] / nan[key] for key in sums} | {x: curves[0][x]}


def best_first(cell: Cell) -> tuple:
    """To sort by: untrained ones and those without a score last."""
    sign = 1 if cell.column.lower_is_better else -1
    none = math.isnan(cell.mean)
    return (none, cell.untrained, 0 if none else sign * cell.mean, cell.row)


def titled(chart: Chart, title: str) -> Chart:
    """The chart with its title in the picture."""
    layout = chart["layout"]
    room = {"height": layout["height"] + 40, "margin": layout["margin"] | {"t": 80}}
    return chart | {"layout": layout | room | {"title": {"text": escape(title)}}}


def escape(text: str) -> str:
    """A name as it is: Plotly takes some markup in its texts."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def amount(value: float) -> str:
    """A count or a time, short: 86 M, 1.5."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


# Parts of all charts.

_HOVER = {"hovertemplate": "%{text}<extra></extra>"}
_LOG = {"type": "log"}


def _chart(data: list[Chart], height: int, x_title: str, y_title: str, **layout: Any) -> Chart:
    axes = {}
    for name, title in (("xaxis", x_title), ("yaxis", y_title)):
        axis = {"title": {"text": title}, "automargin": True, "zeroline": False}
        axes[name] = axis | layout.pop(name, {})
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"}
    common = {"height": height, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}, "legend": legend}
    common |= {"hovermode": "closest", "showlegend": True}
    return {"data": data, "layout": common | axes | layout}


def _markers(cells: Sequence[Cell], labels: Labels, colour: str, name: str) -> Chart:
    """Means of cells of one model as y, their intervals and what they say when pointed at."""
    metric, alike = cells[0].column.metric, [*cells]
    trace = {"name": name, "y": [_value(cell.mean, metric) for cell in alike], **_HOVER}
    trace["text"] = [_hover(cell, labels[cell.row]) for cell in alike]
    ends = [(_value(c.high - c.mean, metric), _value(c.mean - c.low, metric)) for c in alike]
    error = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 3}
    trace["error_y"] = error | {"array": [e[0] for e in ends], "arrayminus": [e[1] for e in ends]}
    return trace | _look([cell.row for cell in alike], colour)


def _look(rows: Sequence[Row], colour: str) -> Chart:
    """The stage is the symbol, hollow for untrained models."""
    symbols = [SYMBOLS.get(row.stage, "diamond") + "-open" * row.untrained for row in rows]
    return {"mode": "markers", "marker": {"color": colour, "size": 9, "symbol": symbols}}


def _by_model(cells: Iterable[Cell], labels: Labels) -> list[tuple[str, str, list[Cell]]]:
    """Name, colour and cells of each model."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.row.model, []).append(cell)
    colour = _colours(labels)
    return [
        (_short(names.MODELS.get(model, model)), colour(alike[0].row), alike)
        for model, alike in groups.items()
    ]


def _colours(labels: Labels):
    """Row -> colour: those of this suite first, the others by name."""
    measured = {row.model for row in labels if row.kind == "measured"}
    models = [*names.MODELS, *sorted(measured - {*names.MODELS})]
    place = {model: k % len(PALETTE) for k, model in enumerate(models)}
    return lambda row: PALETTE[place[row.model]] if row.kind == "measured" else GREY


def _hover(cell: Cell, label: str) -> str:
    metric = cell.column.metric
    text = f"{escape(label)}: {_text(cell.mean, metric)}"
    if not math.isnan(cell.low):
        text += f" [{_text(cell.low, metric)}, {_text(cell.high, metric)}]"
    seeds = f"{cell.seeds} seeds" if cell.seeds > 1 else ""
    rank = f"rank {cell.place}" if cell.place else ""
    flags = [flag for flag in cell.flags if flag != "untrained"]  # which the label says
    return "<br>".join((text, *filter(None, [", ".join(filter(None, [seeds, rank, *flags]))])))


def _in_percent(metric: str) -> bool:
    return METRICS[metric].high == 1


def _value(value: float, metric: str) -> float | None:
    """In % where the metric ends at 1."""
    return _rounded(100 * value if _in_percent(metric) else value)


def _rounded(value: float) -> float | None:
    """For JSON: NaN is null."""
    return None if math.isnan(value) else round(value, 6)


def _all_rounded(values: np.ndarray) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


def _text(value: float, metric: str) -> str:
    return f"{100 * value:.1f}" if _in_percent(metric) else f"{value:.2f}"


def _unit(metric: str) -> str:
    return METRICS[metric].title + ", %" * _in_percent(metric)


def _score_title(cell: Cell) -> str:
    lower = " (lower is better)" if cell.column.lower_is_better else ""
    return _unit(cell.column.metric) + lower


def _short(label: str) -> str:
    return escape(label if len(label) <= NAME else label[: NAME - 1] + "…")
