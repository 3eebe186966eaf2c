"""Charts as PNG for papers: the same files, byte by byte, from the same results."""

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from leaderboards.charts import (
    HEIGHT,
    Costs,
    CurveLine,
    Curves,
    Dot,
    Point,
    ScoreChart,
    Slopes,
    amount,
    scale,
)
from leaderboards.pages import Classes

INK, GREY, PALE, ACCENT = "#1f2328", "#8a929a", "#e3e6e9", "#0072b2"
COLOURS = {"measured": ACCENT, "untrained": GREY, "published": INK}
MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D"}
ROWS, LABEL = 60, 60  # of a chart of scores: the best ones; characters of a name
PANELS, CLASSES = 12, 120
# Of Okabe and Ito: told apart in every kind of colour vision.
LINES = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GAP = (math.nan, math.nan)
LEGEND = {"frameon": False, "fontsize": 7, "borderaxespad": 0, "handlelength": 1.5}
LETTER = 0.066  # inches, of the widest usual text
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "savefig.dpi": 200,
    # A name may hold a dollar sign, which would begin a formula.
    "text.parse_math": False,
}


def draw_scores(chart: ScoreChart, title: str, path: Path) -> None:
    """A row each, with its interval."""
    points = chart.points[:ROWS]
    labels = [_label_of(point) for point in points]
    with _style():
        left = 0.2 + LETTER * max(map(len, labels))
        page = _Page(title, left, 3.4, 0.19 * len(points), below=0.4)
        axes = page.axes(0, 0, 3.4, 0.19 * len(points))
        for show in dict.fromkeys(point.show for point in points):
            alike = [(y, point) for y, point in enumerate(points) if point.show == show]
            rows, lows, highs = zip(*((y, p.low, p.high) for y, p in alike), strict=True)
            axes.hlines(rows, lows, highs, color=COLOURS[show], linewidth=1.2)
            values = [point.value for _, point in alike]
            axes.plot(values, rows, "o", markersize=4, **_mark(alike[0][1]))
        low, high, ticks = scale([v for p in points for v in (p.value, p.low, p.high) if v == v])
        _ticks(axes.xaxis, ticks)
        _ticks(axes.yaxis, range(len(points)), labels)
        axes.set(xlim=(low, high), ylim=(len(points) - 0.5, -0.5))
        axes.grid(axis="x", color=PALE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", left=False)
        if len(points) < len(chart.points):
            axes.set_xlabel(f"the first {ROWS} of {len(chart.points)}")
        page.save(path)


def draw_slopes(chart: Slopes, title: str, path: Path) -> None:
    """A panel for each backbone."""
    panels = chart.panels[:PANELS]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    title += " (lower is better)" if chart.lower_is_better else ""
    if len(panels) < len(chart.panels):
        title += f": the first {PANELS} of {len(chart.panels)}"
    with _style():
        wide = max(1.4, *(0.55 * len(panel.stages) for panel in panels))
        width = columns * (wide + 0.3) - 0.3
        page = _Page(title, 0.5, width, 1.75 * rows, below=0.1)
        for row in range(rows):
            # All panels of a row in one system of axes, of which each takes long to make.
            axes = page.axes(0, 1.75 * row + 0.2, width, 1.2)
            places, labels = [], []
            for column, panel in enumerate(panels[4 * row : 4 * row + columns]):
                left, n = column * (wide + 0.3), len(panel.stages)
                x = [left + wide * (k + 0.5) / n for k in range(n)]
                axes.hlines(chart.ticks, left, left + wide, color=PALE, linewidth=0.6)
                axes.vlines(x, *zip(*panel.spans, strict=True), color=GREY, linewidth=1.2)
                axes.plot(x, panel.values, color=ACCENT, marker="o", markersize=3.5, linewidth=1.4)
                heading = ", ".join((panel.backbone, *panel.flags))
                axes.text(left + wide / 2, chart.high, heading, ha="center", va="bottom")
                places, labels = places + x, labels + panel.stages
            _ticks(axes.xaxis, places, labels)
            _ticks(axes.yaxis, chart.ticks)
            axes.set(xlim=(0, width), ylim=(chart.low, chart.high))
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        page.save(path)


def draw_classes(table: Classes, title: str, path: Path) -> None:
    """Bars of the best row, marks of the next."""
    names = table.data["classes"][:CLASSES]
    title += f": the first {CLASSES} classes" if len(names) < len(table.data["classes"]) else ""
    with _style():
        left = 0.2 + LETTER * max(map(len, (_short(name) for name in names)))
        page = _Page(title, left, 3.4, 0.17 * len(names), below=0.75)
        axes = page.axes(0, 0, 3.4, 0.17 * len(names))
        for row, draw in zip(table.data["rows"], (_bars, _marks), strict=False):
            draw(axes, row["values"][: len(names)], _short(row["label"]))
        _ticks(axes.yaxis, range(len(names)), [_short(name) for name in names])
        axes.set(xlim=(0, table.top), ylim=(len(names) - 0.5, -0.5), xlabel=table.metric)
        axes.tick_params(axis="y", left=False)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color=PALE, linewidth=0.6)
        below = -0.42 / (0.17 * len(names))
        axes.legend(loc="upper left", bbox_to_anchor=(0, below), **LEGEND)
        page.save(path)


def _bars(axes: Axes, values: list[float | None], label: str) -> None:
    for y in (y for y, value in enumerate(values) if value is None):
        axes.text(0, y, " undefined", va="center", size=6, color=GREY)
    axes.barh(range(len(values)), [value or 0 for value in values], 0.7, color=ACCENT, label=label)


def _marks(axes: Axes, values: list[float | None], label: str) -> None:
    style = {"markersize": 3.5, "markerfacecolor": "white", "markeredgecolor": INK}
    known = [math.nan if value is None else value for value in values]
    axes.plot(known, range(len(known)), "D", label=label, clip_on=False, **style)


def draw_curves(chart: Curves, title: str, path: Path) -> None:
    """The best rows in colours, the others in grey."""
    with _style():
        best = [_label_of(line) for line in chart.lines[: len(LINES)]]
        wide = 0.5 + LETTER * max(map(len, best))
        page = _Page(title, 0.65, 3.3 * len(chart.panels) + wide, 2.4, below=0.5)
        for k, panel in enumerate(chart.panels):
            axes = page.axes(3.3 * k, 0, 2.8, 2.4)
            step = {"drawstyle": "steps-post" if chart.stairs else "default"}
            # One line with gaps: matplotlib takes as long for it as for one without.
            rest = [xy for line in chart.lines[len(best) :] for xy in (*line.points[k], GAP)]
            axes.plot(*zip(GAP, *rest, strict=True), color=PALE, linewidth=0.8, **step)
            for i, label in reversed([*enumerate(best)]):
                style = {"color": LINES[i], "linewidth": 1.4, "label": label} | step
                dashes = "--" if chart.lines[i].show == "untrained" else "-"
                axes.plot(*zip(*chart.lines[i].points[k], strict=True), linestyle=dashes, **style)
            _ticks(axes.xaxis, panel.x_ticks)
            _ticks(axes.yaxis, panel.y_ticks)
            axes.set(xlim=(0, panel.x_high), ylim=(0, panel.y_high))
            axes.set(xlabel=panel.x_title, ylabel=panel.y_title)
            axes.grid(color=PALE, linewidth=0.6)
            axes.set_axisbelow(True)
        handles, labels = page.figure.axes[0].get_legend_handles_labels()
        at = {"loc": "upper left", "bbox_to_anchor": (1.05, 1)}
        axes.legend(handles[::-1], labels[::-1], **at, **LEGEND)
        page.save(path)


def draw_costs(charts: list[Costs], title: str, path: Path) -> None:
    """Score against parameters, and against time."""
    key = ["○ ssl  □ weak  △ strong  ◇ other", ""]
    key += [f"{dot.number} {_label_of(dot)}" for dot in charts[0].dots[:ROWS]]
    with _style():
        wide = 0.2 + 0.72 * LETTER * max(map(len, key))
        high = max(2.6, 0.095 * len(key))
        page = _Page(title, 0.65, 3.3 * len(charts) + wide, high, below=0.5)
        for k, chart in enumerate(charts):
            axes = page.axes(3.3 * k, 0, 2.9, 2.6)
            for alike in _alike(chart.dots):
                x, y = [dot.cost for dot in alike], [dot.value for dot in alike]
                axes.plot(x, y, MARKERS[alike[0].shape], markersize=4, **_mark(alike[0]))
            for dot in chart.dots[:ROWS]:
                if dot.down is not None:
                    place = (3.5, -2 - dot.down * 2.6 * 72 / HEIGHT)
                    text, at = str(dot.number), (dot.cost, dot.value)
                    axes.annotate(text, at, place, textcoords="offset points", size=6)
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            _ticks(axes.xaxis, chart.x_ticks, [amount(tick) for tick in chart.x_ticks])
            _ticks(axes.yaxis, chart.y_ticks)
            axes.set(xlim=chart.x, ylim=chart.y, xlabel=chart.cost, ylabel="" if k else "score")
            axes.grid(color=PALE, linewidth=0.6)
        axes.text(1.05, 1, "\n".join(key), size=6, va="top", transform=axes.transAxes)
        page.save(path)


class _Page:
    """A figure of which all is placed in inches, from the left and the top.

    Looking for the room that texts need would take longer than all of the drawing.
    """

    def __init__(self, title: str, left: float, width: float, height: float, below: float):
        self.left, self.top = left, 0.4
        self.width = max(left + width + 0.2, 0.2 + 1.2 * LETTER * len(title))
        self.height = self.top + height + below
        self.figure = Figure(figsize=(self.width, self.height))
        self.figure.text(0.08 / self.width, 1 - 0.22 / self.height, title, size=9, weight="bold")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        bottom = self.height - self.top - y - height
        place = (self.left + x) / self.width, bottom / self.height
        return self.figure.add_axes((*place, width / self.width, height / self.height))

    def save(self, path: Path) -> None:
        path.write_bytes(png(self.figure, STYLE["savefig.dpi"]))


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as a file; letters that the font lacks are boxes in it, without a word."""
    data = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(data, format="png", dpi=dpi, metadata={"Software": None})
    return data.getvalue()


def _alike(dots: Sequence[Dot]) -> list[list[Dot]]:
    """Dots with one mark: matplotlib takes as long for many of them as for one."""
    groups: dict[tuple[str, str], list[Dot]] = {}
    for dot in dots:
        groups.setdefault((dot.shape, dot.show), []).append(dot)
    return list(groups.values())


def _style():
    """From matplotlib's defaults, not from the settings of the machine."""
    return matplotlib.style.context(["default", STYLE])


def _ticks(axis, places: Sequence[float], texts: Sequence[str] | None = None) -> None:
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter(texts or [f"{place:g}" for place in places]))


def _mark(point: Point | Dot) -> dict[str, str]:
    colour = COLOURS[point.show]
    return {"color": colour, "markerfacecolor": colour if point.show == "measured" else "white"}


def _short(label: str) -> str:
    return label if len(label) <= LABEL else label[:LABEL] + "…"


def _label_of(point: Point | Dot | CurveLine) -> str:
    label, published = _short(point.label), point.show == "published"
    return label + " (published)" * published + " (small data)" * point.small
