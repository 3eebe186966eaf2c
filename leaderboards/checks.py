"""Files of others, read with suspicion: what is wrong is a ValueError, or a text, of one line.

Types, lengths and texts are checked by `hear_ptsed.metrics.records`; here is what else a board asks
of a result: that metrics and curves are known, that values are possible and belong together.
"""

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hear_ptsed.errors import shown
from hear_ptsed.metrics import records
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.records import OPEN, Record, is_module
from hear_ptsed.schema import Label, Name, check, read_json, settings
from leaderboards import names

BYTES = 8 << 20  # of a file


def load_json(path: Path, undefined: bool = False) -> tuple[str, Any]:
    """The text of a JSON file, and what it holds; it is small, regular and UTF-8.

    Args:
        undefined: allow NaN and Infinity, as heareval writes them.
    """
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        raise ValueError("a link; give the file itself")
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("no regular file")
    if about.st_size > BYTES:
        raise ValueError(f"{about.st_size >> 20} MiB; a result has at most {BYTES >> 20}")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from error
    return text, read_json(text, undefined)


def accepted_record(text: str, values: Any) -> Record:
    """The record of a file, if the board may take it."""
    record = records.parse_record(text, values)
    for problem in problems_for_board(record):
        raise ValueError(problem)
    return record


def problems_for_board(record: Record) -> Iterator[str]:
    """What speaks against a record of right types, a line each."""
    yield from problems_of_scores(record.scores, "scores")
    yield from _problems_of_fields(record)
    yield from _problems_of_classes(record.per_class)
    for fold in record.folds:
        yield from problems_of_scores(fold, "a fold")
    for name, scores in record.groups.items():
        yield from problems_of_scores(scores, f"group {shown(name)}")
    yield from _problems_of_intervals(record)
    for metric in record.replicates.keys() & record.scores.keys() & METRICS.keys():
        limits = METRICS[metric].low, METRICS[metric].high
        yield from _outside(record.replicates[metric], f"replicates of {metric}", *limits)
    for metric in record.curves.keys() & record.scores.keys() & METRICS.keys():
        yield from _problems_of_curve(metric, record.curves[metric])


def _problems_of_fields(record: Record) -> Iterator[str]:
    """Fields that do not belong together."""
    if names.task_of_folder(record.task_version) not in (None, record.task):
        yield f"task_version {record.task_version} is none of task {record.task}"
    options = record.hyperparameters.get("model_options", {})
    if not isinstance(options, dict):
        yield f"model_options is {shown(options)}, not an object"
    if not record.scores:
        yield "scores has no score"
    if record.conventions.keys() != record.scores.keys():
        yield "conventions must say of each score what was computed, and of no other"
    if len(record.folds) > record.folds_of:
        yield f"folds has {len(record.folds)} folds of {record.folds_of}"
    for what in ("replicates", "draws", "settings", "curves"):
        if strange := sorted(getattr(record, what).keys() - record.scores.keys()):
            yield f"{what} has {shown(strange[0])}, which is not among the scores"


def problems_of_scores(scores: Mapping[str, float], what: str) -> Iterator[str]:
    """Metrics that are not known, and values out of their range."""
    for metric, value in scores.items():
        if metric not in METRICS:
            yield f"unknown metric {shown(metric)} in {what}; known: {', '.join(METRICS)}"
            continue
        low, high = METRICS[metric].low, METRICS[metric].high
        if value < low or value > high:
            yield f"{metric} in {what} is {value:g}; allowed are {_range(low, high)}"


def _problems_of_classes(classes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """As `problems_of_scores`, of class -> metric -> value, and `events`, their number."""
    for name, row in classes.items():
        scores = {metric: value for metric, value in row.items() if metric != "events"}
        for problem in problems_of_scores(scores, "per_class"):
            yield f"{problem}: class {shown(name)}"
        if not row.get("events", 0) >= 0:
            yield f"events of {shown(name)} is {row['events']:g}; allowed are 0 and above"


def _problems_of_intervals(record: Record) -> Iterator[str]:
    """Intervals of nothing, out of range, or far from the score."""
    for metric, (low, high) in record.ci95.items():
        if metric not in record.scores:
            yield f"ci95 has {shown(metric)}, which is not among the scores"
            continue
        yield from problems_of_scores({metric: low}, "ci95")
        yield from problems_of_scores({metric: high}, "ci95")
        if math.isnan(low) != math.isnan(high):
            yield f"ci95 of {metric} is {low:g} to {high:g}, which is no interval"
        # A percentile interval may miss its own value a little, since resampling is biased.
        slack, score = max(0.05, high - low), record.scores[metric]
        if score < low - slack or score > high + slack:
            yield f"{metric} is {score:g}, far outside its interval {low:g} to {high:g}"


def _problems_of_curve(metric: str, columns: Mapping[str, Sequence[float]]) -> Iterator[str]:
    what, form = f"curve of {metric}", METRICS[metric].curve
    if form is None or set(columns) != set(form.columns):
        allowed = ", ".join(form.columns) if form else "no curve at all"
        yield f"{what} has {shown(', '.join(columns))}; expected {allowed}"
        return
    abscissa = next(iter(form.columns))
    for key, values in columns.items():
        high = form.high if key == abscissa else 1.0
        yield from _outside(values, f"{key} in {what}", 0.0, high)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1 or not (np.diff(columns[abscissa]) > 0).all():
        yield f"{what} must have columns of one length, the first of them rising"


def _outside(values: Sequence[float], what: str, low: float, high: float) -> Iterator[str]:
    array = np.array(values, np.float64)
    if not len(array) or (array < low).any() or (array > high).any():
        yield f"{what} must be some numbers, each {_range(low, high)}"


def _range(low: float, high: float) -> str:
    if high == math.inf:
        return "finite numbers" if low == -math.inf else f"{low:g} and above"
    return f"{low:g} to {high:g}"


@settings(config=OPEN)
class Metadata:
    """What heareval's task_metadata.json says of a task."""

    task_name: Name
    version: Name
    mode: Name
    evaluation: Annotated[list[Label], Field(max_length=50)]


def plugin(folder: str) -> str:
    """The plug-in of heareval's folder, MODULE or MODULE-option=value-option=value."""
    name = check(Name, folder.partition("-")[0], "the folder of the plug-in")
    if not is_module(name):
        raise ValueError(f"the folder of the plug-in is {shown(name)}; it must be package.module")
    return name
