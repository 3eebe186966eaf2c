"""Files of others, read with suspicion: what is wrong is a ValueError, or a text, of one line.

Types, lengths and texts are checked by `hear_ptsed.metrics.records`; here is what else a board asks
of a result: that task, metrics and curves are known, and that values are possible.
"""

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from hear_ptsed.errors import shown
from hear_ptsed.metrics import records
from hear_ptsed.metrics.records import OPEN, Count, File, Interval, Module, Record, Scores, plain
from hear_ptsed.schema import Label, Name, Sha256, check, read_json, settings
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


def record(text: str, values: Any) -> Record:
    """The record of a file, if the board may take it."""
    made = records.parse(text, values)
    for problem in problems(made):
        raise ValueError(problem)
    return made


def problems(made: Record) -> Iterator[str]:
    """What speaks against a record of right types, a line each."""
    yield from _task(made.task, made.task_version)
    if not isinstance(made.hyperparameters.get("model_options", {}), dict):
        yield f"model_options is {shown(made.hyperparameters['model_options'])}, not an object"
    if not made.scores:
        yield "scores has no score"
    yield from of_scores(made.scores, "scores")
    if made.conventions.keys() != made.scores.keys():
        yield "conventions must say of each score what was computed, and of no other"
    yield from of_classes(made.per_class)
    for fold in made.folds:
        yield from of_scores(fold, "a fold")
    yield from of_intervals(made.ci95, made.scores)
    for metric, own in made.replicates.items():
        yield from _of_metric(metric, made.scores, "replicates") or _within(
            own, f"replicates of {metric}", *_range(metric)
        )
    for metric, columns in made.curves.items():
        yield from _of_metric(metric, made.scores, "curves") or _curve(metric, columns)


def _task(task: str, version: str) -> Iterator[str]:
    of_version = names.task_of(version)
    if task not in names.TASKS or of_version is None:
        unknown = version if task in names.TASKS else task
        yield f"unknown task {shown(unknown)}; known: {', '.join(names.TASKS)}"
    elif of_version != task:
        yield f"task_version {version} is none of task {task}"


def of_scores(scores: Mapping[str, float], what: str) -> Iterator[str]:
    """Metrics that are not known, and values out of their range."""
    for metric, value in scores.items():
        if metric not in names.METRICS:
            yield f"unknown metric {shown(metric)} in {what}; known: {', '.join(names.METRICS)}"
            continue
        low, high = _range(metric)
        if value < low or value > high:
            yield f"{metric} in {what} is {value:g}; allowed are {_allowed(low, high)}"


def of_classes(classes: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """As `of_scores`, of class -> metric -> value, and `events`, their number."""
    for name, own in classes.items():
        scores = {metric: value for metric, value in own.items() if metric != "events"}
        for problem in of_scores(scores, "per_class"):
            yield f"{problem}: class {shown(name)}"
        if not own.get("events", 0) >= 0:
            yield f"events of {shown(name)} is {own['events']:g}; allowed are 0 and above"


def of_intervals(
    intervals: Mapping[str, tuple[float, float]], scores: Mapping[str, float]
) -> Iterator[str]:
    """Intervals of nothing, out of range, or far from the score."""
    for metric, (low, high) in intervals.items():
        if told := _of_metric(metric, scores, "ci95"):
            yield from told
            continue
        yield from of_scores({metric: low}, "ci95")
        yield from of_scores({metric: high}, "ci95")
        if math.isnan(low) != math.isnan(high):
            yield f"ci95 of {metric} is {low:g} to {high:g}, which is no interval"
        # A percentile interval may miss its own value a little, since resampling is biased.
        slack = max(0.05, high - low)
        if scores[metric] < low - slack or scores[metric] > high + slack:
            yield f"{metric} is {scores[metric]:g}, far outside its interval {low:g} to {high:g}"


def _of_metric(metric: str, scores: Mapping[str, float], what: str) -> list[str]:
    if metric in scores:
        return [] if metric in names.METRICS else [f"unknown metric {shown(metric)} in {what}"]
    return [f"{what} has {shown(metric)}, which is not among the scores"]


def _curve(metric: str, columns: Mapping[str, Sequence[float]]) -> Iterator[str]:
    what, known = f"curve of {metric}", names.CURVES.get(metric)
    if known is None or set(columns) != set(known.columns):
        allowed = ", ".join(known.columns) if known else "no curve at all"
        yield f"{what} has {shown(', '.join(columns))}; expected {allowed}"
        return
    first = next(iter(known.columns))
    for key, own in columns.items():
        yield from _within(own, f"{key} in {what}", 0.0, known.high if key == first else 1.0)
    lengths = {len(own) for own in columns.values()}
    if len(lengths) > 1 or not (np.diff(columns[first]) > 0).all():
        yield f"{what} must have columns of one length, the first of them rising"


def _within(values: Sequence[float], what: str, low: float, high: float) -> Iterator[str]:
    array = np.array(values, np.float64)
    if not len(array) or (array < low).any() or (array > high).any():
        yield f"{what} must be some numbers, each {_allowed(low, high)}"


def _range(metric: str) -> tuple[float, float]:
    # d' is below 0 for classifiers worse than chance.
    high = names.METRICS[metric].high
    return (-math.inf if metric == "d_prime" else 0.0), math.inf if high is None else high


def _allowed(low: float, high: float) -> str:
    if high == math.inf:
        return "finite numbers" if low == -math.inf else f"{low:g} and above"
    return f"{low:g} to {high:g}"


# Results that are no records.


class Coverage(TypedDict):
    """How much of an annotation was there, as training reports it."""

    __pydantic_config__ = OPEN
    expected: Count
    found: Count
    unreadable: dict[str, Any]


class Data(TypedDict):
    """What was scored."""

    __pydantic_config__ = OPEN
    sha256: Sha256
    clips: Count  # annotated


@settings(config=OPEN, where="the evaluation")
class Evaluation:
    """What `python -m training evaluate --out` writes; before it named its data, without these."""

    checkpoint: File
    psds1_macro: float | None
    convention: Annotated[dict[str, Any], AfterValidator(plain)]
    coverage: Annotated[list[Coverage], Field(max_length=100)]
    per_class: Annotated[dict[Label, Scores], Field(max_length=2000)]
    ci95: Annotated[dict[str, Interval], Field(max_length=50)]
    clips: Annotated[Count, Field(ge=1)]  # scored
    classes: Annotated[Count, Field(ge=1)]
    events: Annotated[Count, Field(ge=1)]
    psds1: float | None = None
    pauroc: float | None = None
    map: float | None = None
    task: Literal["audioset_strong", "strong_labels"] = "strong_labels"
    data: Data | None = None


@settings(config=OPEN)
class Metadata:
    """What heareval's task_metadata.json says of a task."""

    task_name: Name
    version: Name
    mode: Name
    evaluation: Annotated[list[Label], Field(max_length=50)]


def plugin(folder: str) -> str:
    """The plug-in of heareval's folder, MODULE or MODULE-option=value-option=value."""
    return check(Module, folder.partition("-")[0], "the folder of the plug-in")
