"""Files of others, read with suspicion: every rule here raises a ValueError of one line."""

import json
import math
import re
import stat
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from eval_tasks.results import SCHEMA, Record
from leaderboards import names

BYTES = 8 << 20  # of a file
NAME, TEXT = 200, 10_000  # characters
CLASSES, METRICS, REPLICATES, ITEMS, DEPTH = 2000, 50, 20_000, 5000, 10
POINTS = 1001  # of a curve
HUGE, TINY = 1e15, 1e-9  # beyond which no number is one of an evaluation

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_PLUGIN_FOLDER = re.compile(_MODULE.pattern + r"(-[\w.=-]+)?", re.ASCII)  # heareval's: + options
_NAME = re.compile(r"[\w(][\w.,+=()\[\]~@ -]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Control and format characters, line separators, half surrogates: nothing that prints.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ud800-\udfff\U000e0000-\U000e0fff]"
)
_MARKUP = re.compile(r"<\s*[a-zA-Z/!?]")
_NUMBER = {int, float, type(None)}


def shown(value: Any, limit: int = 60) -> str:
    """A value for a message: one short line of printable characters."""
    plain = isinstance(value, (str, int, float, type(None)))
    text = ascii(value) if plain else type(value).__name__
    return text if len(text) <= limit else text[:limit] + "…"


def printable(text: str, limit: int) -> str:
    """Of one line, without what a terminal or a page could take for more than text."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return text if len(text) <= limit else text[:limit] + "…"


def load_json(path: Path, undefined: bool = False) -> Any:
    """What a JSON file holds; it is small, regular and UTF-8.

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
        return json.loads(text, parse_constant=None if undefined else _no_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error}); truncated?") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON; a score that is not defined is null")


def text(value: Any, what: str, limit: int = TEXT) -> str:
    """A line of printable text. It can hold markup, so it is to be escaped wherever it is shown."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {shown(value)}, not a text")
    if len(value) > limit:
        raise ValueError(f"{what} has {len(value)} characters; at most {limit} are allowed")
    if _HIDDEN.search(value):
        raise ValueError(f"{what} has control characters: {shown(value)}")
    return value


def label(value: Any, what: str, limit: int = NAME) -> str:
    """A short text without markup, such as the name of a class."""
    if _MARKUP.search(text(value, what, limit)):
        raise ValueError(f"{what} has markup: {shown(value)}")
    return value


def name(value: Any, what: str, pattern: re.Pattern = _NAME) -> str:
    """A text that can stand in a file name: no separators, no '..', no markup."""
    text(value, what, NAME)
    if not pattern.fullmatch(value) or ".." in value:
        raise ValueError(f"{what} is {shown(value)}, which is no plain name")
    return value


def module(value: Any) -> str:
    return name(value, "module", _MODULE)


def plugin_folder(value: str) -> str:
    """heareval's folder of a plug-in: its name, and its options after a hyphen."""
    return name(value, "the folder of the plug-in", _PLUGIN_FOLDER)


def sha256(value: Any, what: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{what} is {shown(value)}, not 64 digits of a SHA-256")
    return value


def number(value: Any, what: str, low: float = 0.0, high: float | None = None) -> float:
    """A finite number in a range."""
    if type(value) not in (int, float) or value != value:
        raise ValueError(f"{what} is {shown(value)}, not a number")
    if not -HUGE < value < HUGE:
        raise ValueError(f"{what} is {shown(value)}; no number of an evaluation reaches {HUGE:g}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{what} is {value:g}; allowed are {_allowed(low, high)}")
    return float(value)


def whole(value: Any, what: str, low: int = 0, high: int = 2**63) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} is {shown(value)}, not a whole number from {low} on")
    return value


def flag(value: Any, what: str) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{what} is {shown(value)}, not true or false")
    return value


def table(value: Any, what: str, limit: int = ITEMS) -> dict[str, Any]:
    """A JSON object of not too many items."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {shown(value)}, not an object")
    if len(value) > limit:
        raise ValueError(f"{what} has {len(value)} items; at most {limit} are allowed")
    return value


def row(value: Any, what: str, limit: int) -> list[Any]:
    """A JSON list of not too many items."""
    if not isinstance(value, list):
        raise ValueError(f"{what} is {shown(value)}, not a list")
    if len(value) > limit:
        raise ValueError(f"{what} has {len(value)} items; at most {limit} are allowed")
    return value


def one_of(value: Any, what: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"unknown {what} {shown(value)}; known: {', '.join(allowed)}")
    return value


def anything(value: Any, what: str, items: int = ITEMS) -> None:
    """Any JSON of bounded size and depth, each text of it a printable line."""
    todo, seen = [(value, 0)], 0
    while todo:
        item, depth = todo.pop()
        seen += 1
        if seen > items or depth > DEPTH:
            raise ValueError(f"{what} has more than {items} items or {DEPTH} levels")
        if isinstance(item, str):
            text(item, f"a text in {what}")
        elif isinstance(item, dict):
            todo += [(key, depth + 1) for key in item]
            todo += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list):
            todo += [(inner, depth + 1) for inner in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{what} has a number that is not finite")


def task_version(value: Any) -> str:
    """Name of the folder of a known task."""
    name(value, "task_version")
    if names.task_of(value) is None:
        raise ValueError(f"unknown task {shown(value)}; known: {', '.join(names.TASKS)}")
    return value


def score(value: Any, metric: str, what: str) -> float:
    """A score in its metric's range; NaN for null."""
    if value is None:
        return math.nan
    return number(value, what, *_range(metric))


def scores(values: Any, what: str) -> dict[str, float]:
    """Metric -> value."""
    for metric in table(values, what, METRICS):
        one_of(metric, "metric", tuple(names.METRICS))
    return {metric: score(value, metric, f"{metric} in {what}") for metric, value in values.items()}


def some_scores(values: Any, what: str) -> dict[str, float]:
    """Metric -> value, at least one."""
    found = scores(values, what)
    if not found:
        raise ValueError(f"{what} has no score")
    return found


def per_class(values: Any) -> dict[str, dict[str, float]]:
    """Class -> metric -> value, and `events`, the number of them."""
    rows = {}
    for class_, own in table(values, "per_class", CLASSES).items():
        label(class_, "a class")
        own = dict(table(own, f"per_class of {shown(class_)}", METRICS))
        counts = {}
        if "events" in own:
            counts["events"] = number(own.pop("events"), f"events of {shown(class_)}")
        rows[class_] = scores(own, f"per_class of {shown(class_)}") | counts
    return rows


def ci95(values: Any, of: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Metric -> interval, near the score."""
    intervals = {}
    for metric, pair in table(values, "ci95", METRICS).items():
        _has(metric, of, "ci95")
        if len(row(pair, f"ci95 of {metric}", 2)) != 2:
            raise ValueError(f"ci95 of {metric} must be [low, high]")
        low, high = (score(value, metric, f"ci95 of {metric}") for value in pair)
        if math.isnan(low) != math.isnan(high) or low > high:
            raise ValueError(f"ci95 of {metric} is {low:g} to {high:g}, which is no interval")
        # A percentile interval may miss its own value a little, since resampling is biased.
        slack = max(0.05, high - low)
        if not math.isnan(of[metric]) and (of[metric] < low - slack or of[metric] > high + slack):
            raise ValueError(
                f"{metric} is {of[metric]:g}, far outside its interval {low:g} to {high:g}"
            )
        intervals[metric] = (low, high)
    return intervals


def replicates(values: Any, of: dict[str, float]) -> dict[str, np.ndarray]:
    """Metric -> (R,), NaN where not defined."""
    arrays = {}
    for metric, own in table(values, "replicates", METRICS).items():
        _has(metric, of, "replicates")
        what = f"replicates of {metric}"
        arrays[metric] = _numbers(row(own, what, REPLICATES), what, *_range(metric))
    return arrays


def curves(values: Any, of: dict[str, float]) -> dict[str, dict[str, np.ndarray]]:
    """Metric -> column of its curve -> (P,), NaN where not defined; see names.CURVES."""
    found = {}
    for metric, columns in table(values, "curves", METRICS).items():
        _has(metric, of, "curves")
        what = f"curve of {metric}"
        known = names.CURVES.get(metric)
        if known is None or set(table(columns, what)) != set(known.columns):
            allowed = ", ".join(known.columns) if known else "no curve at all"
            raise ValueError(f"{what} has {shown(', '.join(columns))}; expected {allowed}")
        arrays, first = {}, next(iter(known.columns))
        for key in known.columns:
            high = known.high if key == first else 1.0
            arrays[key] = _numbers(row(columns[key], what, POINTS), f"{key} in {what}", 0.0, high)
        x = arrays[first]
        if len({len(array) for array in arrays.values()}) > 1 or not (np.diff(x) > 0).all():
            raise ValueError(f"{what} must have columns of one length, the first of them rising")
        found[metric] = arrays
    return found


def _numbers(values: list[Any], what: str, low: float, high: float | None) -> np.ndarray:
    """(N,) float64 in a range, at least one; NaN for null."""
    if not set(map(type, values)) <= _NUMBER:
        raise ValueError(f"{what} must be numbers or null")
    try:
        array = np.array(values, np.float64)  # null becomes NaN
    except OverflowError as error:
        raise ValueError(f"{what} has a number beyond all floats") from error
    ends = max(low, -HUGE), HUGE if high is None else high
    if not values or (array < ends[0]).any() or (array > ends[1]).any():
        below = f", below {HUGE:g}" if high is None else ""
        raise ValueError(f"{what} must be some numbers, each {_allowed(low, high)}{below}")
    return array


def checkpoint(values: Any) -> dict[str, Any]:
    """`file` and `sha256`, both null without one."""
    if set(table(values, "checkpoint")) != {"file", "sha256"}:
        raise ValueError("checkpoint must have file and sha256, and nothing else")
    if any(value is not None for value in values.values()):
        name(values["file"], "the file of the checkpoint")
        sha256(values["sha256"], "sha256 of the checkpoint")
    return values


def when(value: Any, what: str) -> datetime:
    """ISO 8601."""
    try:
        return datetime.fromisoformat(text(value, what, NAME))
    except ValueError as error:
        raise ValueError(f"{what} is {shown(value)}, not a date and time of ISO 8601") from error


def record_problems(values: Any) -> list[str]:
    """What is wrong in a record of eval_tasks.results, less its scores and what goes with them."""
    known = {field.name: field for field in fields(Record)}
    needed = {k for k, field in known.items() if field.default is field.default_factory is MISSING}
    if type(values.get("schema")) is not int or values["schema"] != SCHEMA:
        return [f"schema {shown(values.get('schema'))}; this version reads {SCHEMA}"]
    if missing := sorted(needed - values.keys()):
        return [f"lacks {', '.join(missing)}"]
    if unknown := sorted(values.keys() - known.keys()):
        return [f"has unknown keys: {shown(', '.join(unknown))}"]
    found = []
    for key, check in _FIELDS.items():
        try:
            if key in values:
                check(values[key])
        except ValueError as error:
            found.append(str(error))
    if not found and names.task_of(values["task_version"]) != values["task"]:
        found.append(f"task_version {values['task_version']} is none of task {values['task']}")
    return found


def _costs(values: Any) -> None:
    for key, value in table(values, "cost", METRICS).items():
        if 0 < number(value, f"cost {name(key, 'a cost')}") < TINY:
            raise ValueError(f"cost {key} is {value:g}; allowed are 0 and {TINY:g} and above")


def _folds(values: Any) -> None:
    for fold in row(values, "folds", 100):
        scores(fold, "a fold")


_FIELDS = {
    "task": lambda value: one_of(value, "task", tuple(names.TASKS)),
    "task_version": task_version,
    "task_sha256": lambda value: sha256(value, "task_sha256"),
    "mode": lambda value: one_of(value, "mode", names.MODES),
    "protocol": lambda value: one_of(value, "protocol", names.PROTOCOLS),
    "module": module,
    "model": lambda value: name(value, "model"),
    "stage": lambda value: value == "" or name(value, "stage"),
    "checkpoint": checkpoint,
    "untrained": lambda value: flag(value, "untrained"),
    "seed": lambda value: whole(value, "seed"),
    "hyperparameters": lambda value: anything(table(value, "hyperparameters"), "hyperparameters"),
    "cost": _costs,
    "clips": lambda value: whole(value, "clips", 1),
    "published_task": lambda value: flag(value, "published_task"),
    "coverage": lambda value: value is None or text(value, "coverage"),
    "folds": _folds,
    "seconds": lambda value: number(value, "seconds"),
    "software": lambda value: anything(table(value, "software"), "software"),
    "hardware": lambda value: anything(table(value, "hardware"), "hardware"),
    "commit": lambda value: value is None or text(value, "commit", NAME),
    "command": lambda value: text(value, "command"),
    "started": lambda value: when(value, "started"),
    "identity": lambda value: sha256(value, "identity"),
    "training": lambda value: anything(row(value, "training", 100), "training", 20 * ITEMS),
}


def conventions(values: Any, of: dict[str, float]) -> dict[str, str]:
    """A text for each metric of the scores."""
    if table(values, "conventions", METRICS).keys() != of.keys():
        raise ValueError("conventions must say of each score what was computed, and of no other")
    return {metric: text(values[metric], f"convention of {metric}") for metric in of}


def _has(metric: str, of: dict[str, float], what: str) -> None:
    if metric not in of:
        raise ValueError(f"{what} has {shown(metric)}, which is not among the scores")


def _range(metric: str) -> tuple[float, float | None]:
    # d' is below 0 for classifiers worse than chance.
    return (-math.inf if metric == "d_prime" else 0.0), names.METRICS[metric].high


def _allowed(low: float, high: float | None) -> str:
    if high is None:
        return "finite numbers" if low == -math.inf else f"{low:g} and above"
    return f"{low:g} to {high:g}"
