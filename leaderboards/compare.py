"""Two modules on one task: difference with a paired interval, and class by class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import stats
from leaderboards.cell import Cell, by_difference, class_events, class_means
from leaderboards.charts import Chart, class_chart, score_chart
from leaderboards.collect import collect
from leaderboards.pages import number, printed, span
from leaderboards.ranks import Difference, difference
from leaderboards.titles import labels as labels_of


@dataclass(frozen=True)
class Comparison:
    """A and B by one metric; differences are A less B."""

    titles: tuple[str, str]
    difference: Difference  # its `after` is A
    classes: dict[str, tuple[float, float, float]]  # A, B, events; by the difference of the two

    @property
    def title(self) -> str:
        return self.difference.after.column.title


def compare(a: Path, b: Path, metric: str | None = None) -> Comparison:
    """Of two records, or of two folders with the seeds of one module each.

    Args:
        metric: None for the primary one.
    """
    cells_a, cells_b = _cells(a), _cells(b)
    metric = metric or cells_a[0].entries[0].primary
    cells_a, cells_b = _of_metric(cells_a, metric, a), _of_metric(cells_b, metric, b)
    pairs = [(x, y) for x in cells_a for y in cells_b if x.column.measure == y.column.measure]
    if not pairs:
        raise ValueError(_what_differs(cells_a[0], cells_b[0], a, b))
    pairs = [(x, y) for x, y in pairs if x.column == y.column] or pairs
    if len(pairs) > 1:
        tasks = ", ".join(
            sorted({f"{x.column.task_version} ({x.column.protocol})" for x, _ in pairs})
        )
        raise ValueError(f"{a} and {b} have several results in common: {tasks}; give one of each")
    (x, y), *_ = pairs
    labels = labels_of([x.row, y.row])
    titles = [labels[x.row], labels[y.row]]
    if titles[0] == titles[1]:
        titles = [f"{t}, {c.column.protocol}" for t, c in zip(titles, (x, y), strict=True)]
    return Comparison((titles[0], titles[1]), difference(y, x), _both_of_classes(x, y, metric))


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The difference, and the classes by it, for a terminal."""
    a, b = comparison.difference.after, comparison.difference.before
    metric = a.column.metric
    overall = Table(title=Text(comparison.title))
    mean = f"mean, {METRICS[metric].unit}".rstrip(", ")
    for heading in ("", mean, "95 % interval", "± seeds", "seeds"):
        overall.add_column(heading, justify="left" if not heading else "right")
    for name, cell in zip(comparison.titles, (a, b), strict=True):
        more = "".join(f" ({flag})" for flag in cell.flags if flag not in name)
        std = "" if math.isnan(cell.std) else number(cell.std, metric)
        interval = span(cell.low, cell.high, metric) or "none"
        overall.add_row(Text(name + more), printed(cell), interval, std, str(cell.seeds))
    less = comparison.difference
    interval = span(less.low, less.high, metric, signed=True) or "none"
    overall.add_row("difference", number(less.value, metric, signed=True), interval, "", "")
    if not comparison.classes:
        return [overall]
    classes = Table(title="By class")
    for heading in ("class", "events", *comparison.titles, "difference"):
        classes.add_column(Text(heading), justify="left" if heading == "class" else "right")
    for name, (x, y, events) in comparison.classes.items():
        count = "" if math.isnan(events) else f"{events:.0f}"
        less = number(x - y, metric, signed=True)
        classes.add_row(Text(name), count, number(x, metric), number(y, metric), less)
    return [overall, classes]


def verdict(comparison: Comparison) -> str:
    """The difference in a sentence."""
    less, (a, b) = comparison.difference, comparison.titles
    if less.few:
        clips = min(cell.clips for cell in (less.before, less.after) if cell.clips is not None)
        return f"No verdict: {clips} test clips are too few for an interval of the difference."
    if math.isnan(less.low):
        return "No interval of the difference: the two have no replicates of the same resamples."
    if less.improves is None:
        return f"{a} and {b} do not differ at the 95 % level: the interval holds 0."
    better, worse = (a, b) if less.improves else (b, a)
    return f"{better} is better than {worse} at the 95 % level: the interval leaves 0 out."


def picture(comparison: Comparison) -> tuple[Chart, str]:
    """Class by class, or the two scores where there are no classes; and a title."""
    cells = (comparison.difference.after, comparison.difference.before)
    # Of one row, too, under two protocols.
    rows = [
        replace(cell.row, variant=title)
        for cell, title in zip(cells, comparison.titles, strict=True)
    ]
    cells = [replace(cell, row=row) for cell, row in zip(cells, rows, strict=True)]
    labels = dict(zip(rows, comparison.titles, strict=True))
    metric = cells[0].column.metric
    chart = class_chart(cells, labels, metric) or score_chart(cells, labels)
    if chart is None:
        raise ValueError("no score is defined; there is nothing to draw")
    less = comparison.difference
    interval = span(less.low, less.high, metric, signed=True)
    title = f"{comparison.title}: difference {number(less.value, metric, signed=True)}"
    return chart, title + f" ({interval})" * bool(interval)


def _cells(path: Path) -> list[Cell]:
    collected = collect([path], figures=False)
    if collected.rejected:
        first = collected.rejected[0]
        raise ValueError(f"{path}: {first.file}: {first.reason}; mend it or move it away")
    if not collected.entries:
        raise ValueError(f"{path}: no result in it")
    cells = stats.cells(collected.entries)
    if len({cell.row for cell in cells}) > 1:
        several = ", ".join(list(dict.fromkeys(labels_of(c.row for c in cells).values()))[:5])
        raise ValueError(f"{path} has several modules: {several}; give the results of one")
    return cells


def _of_metric(cells: Sequence[Cell], metric: str, path: Path) -> list[Cell]:
    of_metric = [cell for cell in cells if cell.column.metric == metric]
    if not of_metric:
        known = ", ".join(dict.fromkeys(cell.column.metric for cell in cells))
        raise ValueError(f"{path} has no {metric}; it has {known}")
    return of_metric


def _what_differs(x: Cell, y: Cell, a: Path, b: Path) -> str:
    fields = {"task": "task_version", "test data": "data", "settings": "settings"}
    fields |= {"folds": "folds", "name of the task": "task"}
    both = {w: (getattr(x.column, f), getattr(y.column, f)) for w, f in fields.items()}
    what, (of_a, of_b) = next((w, pair) for w, pair in both.items() if pair[0] != pair[1])
    return f"{a} and {b} cannot be compared: their {what} differs: {of_a!r} and {of_b!r}"


def _both_of_classes(x: Cell, y: Cell, metric: str) -> dict[str, tuple[float, float, float]]:
    of_x, of_y = class_means(x, metric), class_means(y, metric)
    events = class_events([x, y])
    return {
        name: (of_x.get(name, math.nan), of_y.get(name, math.nan), events[name])
        for name in by_difference(of_x.keys() | of_y.keys(), of_x, of_y)
    }
