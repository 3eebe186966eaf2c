"""Two modules on one task: difference with a paired interval, and class by class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from hear_ptsed.files import atomic
from hear_ptsed.metrics.catalogue import METRICS
from leaderboards import stats
from leaderboards.cell import Cell
from leaderboards.collect import collect
from leaderboards.ranks import Difference, difference
from leaderboards.titles import labels as labels_of

SHOWN = 30  # classes in the picture: those that differ most
SIDES = {"a": "#0072b2", "b": "#d55e00", "zero": "#666666"}  # told apart by all eyes


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


def draw(comparison: Comparison, path: Path) -> None:
    """The same as a picture (PNG)."""
    from matplotlib.figure import Figure

    from leaderboards.figures import png

    order = _by_difference(comparison.classes)
    defined = [n for n in order if not math.isnan(_less(comparison.classes[n]))]
    largest = sorted(defined, key=lambda n: -abs(_less(comparison.classes[n])))[:SHOWN]
    drawn = [n for n in defined if n in largest][::-1]
    figure = Figure(figsize=(8, 2.2 + 0.24 * len(drawn)), layout="constrained")
    heights = [2, max(1, 0.3 * len(drawn))]
    top, bottom = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    figure.suptitle(_plain(comparison.title), fontsize=11)
    cells = (comparison.difference.after, comparison.difference.before)
    for at, key, cell in zip((1, 0), ("a", "b"), cells, strict=True):
        if not math.isnan(cell.low):
            top.plot([cell.low, cell.high], [at, at], color=SIDES[key], linewidth=2)
        values = [entry.scores[cell.column.metric] for entry in cell.entries]
        top.plot(values, [at] * len(values), "|", color=SIDES[key], markersize=9)
        top.plot([cell.mean], [at], "o", color=SIDES[key])
    top.set_yticks([1, 0], [_plain(name) for name in comparison.titles])
    top.set_ylim(-0.6, 1.6)
    less = comparison.difference
    span = "" if math.isnan(less.low) else f" [{less.low:+.3f}, {less.high:+.3f}]"
    top.set_xlabel(f"{METRICS[less.after.column.metric].title}; difference {less.value:+.3f}{span}")
    values = [_less(comparison.classes[name]) for name in drawn]
    colours = [SIDES["a"] if value >= 0 else SIDES["b"] for value in values]
    bottom.barh(range(len(drawn)), values, color=colours)
    bottom.set_yticks(range(len(drawn)), [_plain(name) for name in drawn], fontsize=8)
    bottom.axvline(0, color=SIDES["zero"], linewidth=0.8)
    left_out = len(comparison.classes) - len(drawn)
    more = (
        f"; {left_out} classes that differ less, or have no value, are left out" if left_out else ""
    )
    bottom.set_xlabel(f"difference by class{more}")
    with atomic(path) as temporary:
        temporary.write_bytes(png(figure, dpi=150))


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
    classes = {}
    for name in x.entries[0].per_class:
        both = [[e.per_class.get(name, {}) for e in cell.entries] for cell in (x, y)]
        a, b = (_mean_of_defined([row.get(metric, math.nan) for row in rows]) for rows in both)
        if any(metric in row for rows in both for row in rows):
            classes[name] = (a, b, both[0][0].get("events", math.nan))
    return classes


def _mean_of_defined(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


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


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib takes what is between two for a formula
