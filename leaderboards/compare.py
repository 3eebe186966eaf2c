"""Two modules on one task: difference with a paired interval, and class by class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import stats
from leaderboards.cell import Cell, class_means
from leaderboards.charts import Chart, class_chart, score_chart
from leaderboards.collect import collect
from leaderboards.ranks import Difference, difference
from leaderboards.titles import labels as labels_of


@dataclass(frozen=True)
class Comparison:
    """A and B by one metric; differences are A less B."""

    titles: tuple[str, str]
    difference: Difference  # its `after` is A
    classes: dict[str, tuple[float, float, float]]  # class -> A, B, events; means over seeds

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
    overall = Table(title=Text(comparison.title))
    for heading in ("", "mean", "95 % interval", "± seeds", "seeds"):
        overall.add_column(heading, justify="left" if not heading else "right")
    for name, cell in zip(comparison.titles, (a, b), strict=True):
        more = "".join(f" ({flag})" for flag in cell.flags if flag not in name)
        span, std = _span(cell.low, cell.high), _number(cell.std)
        overall.add_row(Text(name + more), _number(cell.mean), span, std, str(cell.seeds))
    less = comparison.difference
    overall.add_row("difference", f"{less.value:+.3f}", _span(less.low, less.high, "+"), "", "")
    if not comparison.classes:
        return [overall]
    classes = Table(title="By class")
    for heading in ("class", "events", *comparison.titles, "difference"):
        classes.add_column(Text(heading), justify="left" if heading == "class" else "right")
    for name in _by_difference(comparison.classes):
        x, y, events = comparison.classes[name]
        count = "" if math.isnan(events) else f"{events:.0f}"
        classes.add_row(Text(name), count, _number(x), _number(y), _number(x - y, "+"))
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
    less, printed = comparison.difference, METRICS[metric].printed
    value, low, high = (printed(v, signed=True) for v in (less.value, less.low, less.high))
    span = "" if math.isnan(less.low) else f" [{low}, {high}]"
    return chart, f"{comparison.title}: difference {value}{span}"


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
    classes = {}
    for name, scores in x.entries[0].per_class.items():
        of_both = of_x.get(name, math.nan), of_y.get(name, math.nan)
        if any(metric in e.per_class.get(name, {}) for c in (x, y) for e in c.entries):
            classes[name] = (*of_both, scores.get("events", math.nan))
    return classes


def _less(values: tuple[float, float, float]) -> float:
    return values[0] - values[1]


def _by_difference(classes: dict[str, tuple[float, float, float]]) -> list[str]:
    def key(name: str) -> tuple[bool, float, str]:
        less = _less(classes[name])
        return math.isnan(less), 0.0 if math.isnan(less) else -less, name

    return sorted(classes, key=key)


def _number(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.3f}"


def _span(low: float, high: float, sign: str = "") -> str:
    return "none" if math.isnan(low) else f"{low:{sign}.3f} to {high:{sign}.3f}"
