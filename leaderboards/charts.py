"""Charts as numbers: what the pages draw as SVG and `figures` as PNG, from the same cells."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import names
from leaderboards.cell import Cell
from leaderboards.pages import Names, best_first, printed, row_order, run_href, show_of, span
from leaderboards.stats import Gain

COSTS = {"parameters": "parameters", "seconds_per_minute": "seconds per minute of audio"}
WIDTH, HEIGHT, TEXT = 316, 212, 9  # of a chart of costs and its numbers, in pixels of the SVG
SHAPES = {"ssl": "circle", "weak": "square", "strong": "triangle"}  # others: diamond


class Point(NamedTuple):
    """A score with its interval, NaN where there is none."""

    label: str
    show: str  # measured, untrained, published
    small: bool
    value: float
    low: float
    high: float
    text: str
    interval: str
    rank: str
    best: bool
    href: str


class ScoreChart(NamedTuple):
    """Scores of one column, best first, over a scale from low to high."""

    low: float
    high: float
    ticks: list[float]
    points: list[Point]

    def at(self, value: float) -> float:
        """Percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def score_chart(cells: Sequence[Cell], named: Names) -> ScoreChart | None:
    """None if nothing has a score."""
    points = []
    for cell in sorted(cells, key=best_first):
        if not math.isnan(cell.mean):
            points.append(
                Point(
                    label=named.row[cell.row],
                    show=show_of(cell.row),
                    small=cell.small_data,
                    value=cell.mean,
                    low=cell.low,
                    high=cell.high,
                    text=printed(cell),
                    interval=span(cell.low, cell.high),
                    rank=cell.place,
                    best=cell.best,
                    href=run_href(cell.entries[0]),
                )
            )
    return ScoreChart(*scale(_ends(cells)), points) if points else None


class Slope(NamedTuple):
    """What the stages brought one backbone."""

    backbone: str
    stages: list[str]
    values: list[float]
    spans: list[tuple[float, float]]
    texts: list[str]
    flags: tuple[str, ...]


class Slopes(NamedTuple):
    """One column, all backbones on one scale."""

    low: float
    high: float
    ticks: list[float]
    lower_is_better: bool
    panels: list[Slope]


def slope_chart(gains: Sequence[Gain]) -> Slopes:
    """Of gains of one column, at least one."""
    panels = [
        Slope(
            backbone=names.MODELS.get(gain.model, gain.model),
            stages=[cell.row.stage for cell in gain.cells],
            values=[cell.mean for cell in gain.cells],
            spans=[(cell.low, cell.high) for cell in gain.cells],
            texts=[printed(cell) for cell in gain.cells],
            flags=tuple(dict.fromkeys(flag for cell in gain.cells for flag in cell.flags)),
        )
        for gain in gains
    ]
    ends = _ends([cell for gain in gains for cell in gain.cells])
    return Slopes(*scale(ends), gains[0].column.lower_is_better, panels)


class Dot(NamedTuple):
    """A row in a chart of cost against score, of which WIDTH and HEIGHT are the size."""

    number: int
    label: str
    shape: str
    show: str
    small: bool
    cost: float
    value: float
    cost_text: str
    text: str
    down: float | None = 0.0  # to move its number by, so that it hides no other; None: no room


class Costs(NamedTuple):
    """Score over one cost, which has a logarithmic scale."""

    cost: str
    x: tuple[float, float]
    x_ticks: list[float]
    y: tuple[float, float]
    y_ticks: list[float]
    dots: list[Dot]
    machines: list[str]  # that times were measured on; empty for other costs

    def at_x(self, value: float) -> float:
        """0 to 1."""
        low, high = map(math.log, self.x)
        return (math.log(value) - low) / (high - low)

    def at_y(self, value: float) -> float:
        """0 to 1."""
        return (value - self.y[0]) / (self.y[1] - self.y[0])


def cost_charts(cells: Sequence[Cell], named: Names) -> list[Costs]:
    """A chart for each kind of cost that is known; a row has the mean of its seeds."""
    charts = []
    for cost, title in COSTS.items():
        dots = []
        for cell in sorted(cells, key=lambda cell: row_order(cell.row)):
            amounts = [e.cost[cost] for e in cell.entries if e.cost.get(cost, 0) > 0]
            if amounts and not math.isnan(cell.mean):
                mean = sum(amounts) / len(amounts)
                shape = SHAPES.get(cell.row.stage, "diamond")
                known = (named.row[cell.row], shape, show_of(cell.row), cell.small_data)
                dots.append(
                    Dot(len(dots) + 1, *known, mean, cell.mean, amount(mean), printed(cell))
                )
        if dots:
            x = [dot.cost for dot in dots]
            ends = (min(x) / 1.3, max(x) * 1.3)
            low, high, y_ticks = scale([dot.value for dot in dots])
            machines = {entry.machine or "not known" for cell in cells for entry in cell.entries}
            machines = sorted(machines) if cost == "seconds_per_minute" else []
            chart = Costs(title, ends, _log_ticks(*ends), (low, high), y_ticks, dots, machines)
            charts.append(chart._replace(dots=_numbers_apart(chart)))
    return charts


def _numbers_apart(chart: Costs) -> list[Dot]:
    """Numbers from top to bottom, each a little lower if it would cover another."""
    placed: list[tuple[float, float]] = []
    moved = {}
    for dot in sorted(chart.dots, key=lambda dot: (-dot.value, dot.number)):
        x, y = WIDTH * chart.at_x(dot.cost), HEIGHT * (1 - chart.at_y(dot.value))
        at = y
        for taken in sorted(top for left, top in placed if abs(left - x) < 1.6 * TEXT):
            at = taken + TEXT if abs(at - taken) < TEXT else at
        moved[dot.number] = round(at - y, 1) if at - y < 1.5 * TEXT else None
        if moved[dot.number] is not None:
            placed.append((x, at))
    return [dot._replace(down=moved[dot.number]) for dot in chart.dots]


class Panel(NamedTuple):
    """Axes from 0 on."""

    x_title: str
    y_title: str
    x_high: float
    y_high: float
    x_ticks: list[float]
    y_ticks: list[float]


class CurveLine(NamedTuple):
    """A row in all panels, the mean of its seeds."""

    label: str
    show: str
    small: bool
    points: list[list[tuple[float, float]]]  # of each panel, where they are defined
    numbers: list[float]  # on the first ordinate, NaN where undefined


class Curves(NamedTuple):
    """Rows in panels, such as F over thresholds and precision over recall."""

    panels: list[Panel]
    stairs: bool
    places: tuple[float, ...]  # on the first abscissa, of the numbers
    lines: list[CurveLine]  # best first

    def path(self, line: CurveLine, k: int) -> str:
        """SVG path in panel k, of which WIDTH and HEIGHT are the size."""
        panel = self.panels[k]
        places = [
            (f"{WIDTH * x / panel.x_high:.1f}", f"{HEIGHT * (1 - y / panel.y_high):.1f}")
            for x, y in line.points[k]
        ]
        step = "H{}V{}" if self.stairs else "L{} {}"
        return "".join(("M{} {}" if not i else step).format(*xy) for i, xy in enumerate(places))


def curve_chart(cells: Sequence[Cell], named: Names) -> Curves | None:
    """Of cells of one column; a row is left out unless each of its runs has a curve.

    None if no row is left, or nothing is defined.
    """
    form = METRICS[cells[0].column.metric].curve
    lines = []
    for cell in sorted(cells, key=best_first) if form else ():
        of_runs = [entry.curves.get(cell.column.metric) for entry in cell.entries]
        x = form.pairs[0][1]
        if any(curve is None or not np.array_equal(curve[x], of_runs[0][x]) for curve in of_runs):
            continue
        mean = {key: _mean_of_curves([curve[key] for curve in of_runs]) for key in form.columns}
        mean[x] = of_runs[0][x]
        points = [
            [(a, b) for a, b in zip(mean[x].tolist(), mean[y].tolist(), strict=True) if a + b >= 0]
            for y, x in form.pairs
        ]
        numbers = [_at(place, points[0]) for place in form.places]
        if points[0]:
            label, show = named.row[cell.row], show_of(cell.row)
            lines.append(CurveLine(label, show, cell.small_data, points, numbers))
    if not lines:
        return None
    top = max(value for line in lines for _, value in line.points[0])
    panels, ends = [], (form.high, min(1.0, max(1.1 * top, 0.01)))
    for y, x in form.pairs:
        ticks = (_round_ticks(0.0, end, end / 6) for end in ends)
        panels.append(Panel(form.columns[x], form.columns[y], *ends, *ticks))
        ends = (1.0, 1.0)  # of precision over recall
    return Curves(panels, form.stairs, form.places, lines)


def _at(place: float, points: Sequence[tuple[float, float]]) -> float:
    return next((y for x, y in points if abs(x - place) < 1e-9), math.nan)


def _mean_of_curves(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Over those that are defined; NaN where none is."""
    stacked = np.array(arrays)
    defined = ~np.isnan(stacked)
    return np.where(defined, stacked, 0).sum(0) / np.where(defined.any(0), defined.sum(0), np.nan)


def amount(value: float) -> str:
    """A count or a time, short: 86 M, 1.5."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends around all values, and round numbers between them."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low)
    if margin < 1e-6:  # nothing to tell apart
        margin = max(0.05 * abs(high), 0.001)
    low, high = low - margin, high + margin
    return low, high, _round_ticks(low, high, (high - low) / 5)


def _round_ticks(low: float, high: float, step: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, at least `step` apart."""
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= step)
    first = math.ceil(low / step)
    return [round(k * step, 10) for k in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    if high < 5 * low:
        return [tick for tick in scale([low, high])[2] if low <= tick <= high]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [k * 10.0**power for power in powers for k in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high][:: max(1, len(powers) - 1)]


def _ends(cells: Sequence[Cell]) -> list[float]:
    values = [value for cell in cells for value in (cell.mean, cell.low, cell.high)]
    return [value for value in values if not math.isnan(value)]
