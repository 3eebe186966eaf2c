"""Result records: one JSON file per run, checked by one schema when written and when read.

A record carries the values of its scores on the same resamples of the test clips as every other
record of its task version, so two records can be compared pair by pair without the predictions.
Fields that a later version adds are kept and ignored.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict

from hear_ptsed import schema
from hear_ptsed.errors import shown
from hear_ptsed.files import null_for_nan, remove_stale, write_json
from hear_ptsed.metrics import schema1
from hear_ptsed.metrics.bootstrap import Draws
from hear_ptsed.metrics.predicted import PACKED
from hear_ptsed.metrics.protocols import AS_TRAINED, PROTOCOLS
from hear_ptsed.schema import (
    TEXT,
    Label,
    Line,
    Name,
    Sha256,
    check_json,
    is_line,
    read_json,
    settings,
)

SCHEMA = 2
HUGE, TINY = 1e15, 1e-9  # beyond which no number is one of an evaluation
ITEMS, DEPTH = 5000, 10  # of what is kept as it came
OPEN = ConfigDict(strict=True, extra="allow")  # what a later version adds is no error


def _number(value: float) -> float:
    if not abs(value) < HUGE:
        raise ValueError(f"it must be a number below {HUGE:g}")
    return value


def _cost(value: float) -> float:
    if value and value < TINY:
        raise ValueError(f"it must be 0, or {TINY:g} and above")
    return _number(value)


def _defined(values: list[float | None]) -> list[float]:
    """NaN for null; no infinity."""
    known = [value for value in values if value is not None and value == value]
    if known and not -HUGE < min(known) <= max(known) < HUGE:
        raise ValueError(f"it must be numbers below {HUGE:g}, or null")
    if len(known) == len(values):
        return known
    return [math.nan if value is None else value for value in values]


def _scores(values: dict[str, float | None]) -> dict[str, float]:
    return dict(zip(values, _defined([*values.values()]), strict=True))


def _pair(values: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = _defined([*values])
    if low > high:
        raise ValueError(f"it must be an interval, not {low:g} to {high:g}")
    return low, high


def _when(value: str) -> str:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("it must be a date and time of ISO 8601") from None
    return value


def plain(value: Any, items: int = ITEMS) -> Any:
    """Any JSON of bounded size and depth, each text of it a line."""
    todo, seen = [(value, 0)], 0
    while todo:
        item, depth = todo.pop()
        seen += 1
        if seen > items or depth > DEPTH:
            raise ValueError(f"it must have at most {items} items on {DEPTH} levels")
        if isinstance(item, dict):
            todo += [(inner, depth + 1) for pair in item.items() for inner in pair]
        elif isinstance(item, list | tuple):
            todo += [(inner, depth + 1) for inner in item]
        elif isinstance(item, str) and (len(item) > TEXT or not is_line(item)):
            raise ValueError(f"it must have lines without control characters, of up to {TEXT}")
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("it must have finite numbers")
    return value


def is_module(name: str) -> bool:
    """Whether a text is the name of a Python module."""
    return all(part.isidentifier() for part in name.split("."))


def _version(value: str) -> str:
    if ".." in value:
        raise ValueError("it must be a name without ..")
    return value


def _stage(value: str) -> str:
    if "/" in value or "\\" in value:
        raise ValueError("it must be a name, without / or \\, or empty")
    return value


def _complete(value: "Checkpoint") -> "Checkpoint":
    if (value["file"] is None) != (value["sha256"] is None):
        raise ValueError("it must have both file and sha256, or null for both")
    return value


Count = Annotated[int, Field(ge=0, le=2**63)]


class Drawn(Draws):
    """See hear_ptsed.metrics.bootstrap."""

    __pydantic_config__ = OPEN
    resamples: Count
    seed: Count
    clips: Count
    names: Name


class Checkpoint(TypedDict):
    """A file of weights; both null without one."""

    __pydantic_config__ = OPEN
    file: Name | None
    sha256: Sha256 | None


Protocol = Literal[*PROTOCOLS]
Version = Annotated[Name, AfterValidator(_version)]
Stage = Annotated[Label, AfterValidator(_stage)]
File = Annotated[Checkpoint, AfterValidator(_complete)]
Numbers = Annotated[list[float | None], AfterValidator(_defined), Field(max_length=20_000)]
Points = Annotated[list[float | None], AfterValidator(_defined), Field(max_length=1001)]
Scores = Annotated[dict[Label, float | None], AfterValidator(_scores), Field(max_length=50)]
Interval = Annotated[tuple[float | None, float | None], AfterValidator(_pair)]
OfFolds = Annotated[list[Drawn], Field(max_length=100)]
Plain = Annotated[dict[str, Any], AfterValidator(plain)]
Reasons = Annotated[dict[str, Any], AfterValidator(lambda v: plain(v, 20 * ITEMS))]
# Of each fold: steps, best validation score and its step, where our own loop trained.
# heareval's best score is -inf where a network never found an event.
Training = Annotated[
    list[dict[str, Any]],
    Field(max_length=100),
    AfterValidator(lambda v: plain(null_for_nan(v), 20 * ITEMS)),
]


@settings(config=OPEN, where="the record")
class Asked:
    """What of a record is known before its run: checked before anything is computed."""

    task: Name
    title: Label  # of the task
    primary: Label  # metric of the task to report
    task_version: Version  # such as dcase2016_task2-hear2021-full
    task_sha256: Sha256  # of labels, metadata and clip names
    protocol: Protocol
    module: Name  # HEAR plug-in; of as-trained the file name of the checkpoint
    model: Name
    stage: Stage  # ssl, weak, strong; what a checkpoint of the user's is said to be
    name: Label  # what the user calls the model: records of one name belong together; may be empty
    checkpoint: File
    untrained: bool  # random weights
    seed: Count | None  # null: nothing was trained
    hyperparameters: Plain
    published_task: bool  # false: one of the small tasks of this suite
    coverage: Line | None  # what of the data set is missing
    command: Line  # makes this record
    identity: Sha256  # over all that decides the result

    def __post_init__(self) -> None:
        if self.protocol != AS_TRAINED and not is_module(self.module):
            raise ValueError(f"module is {shown(self.module)}; it must be such as package.module")


@settings(config=OPEN, where="the record")
class Record(Asked):
    """One evaluation of one module on one task with one seed."""

    scores: Scores  # NaN where undefined
    per_class: Annotated[dict[Label, Scores], Field(max_length=2000)]  # metrics, and "events"
    ci95: Annotated[dict[Label, Interval], Field(max_length=50)]  # over clips
    # Scores on resampled clips, and what was drawn, of each fold; see hear_ptsed.metrics.bootstrap.
    replicates: Annotated[dict[Label, Numbers], Field(max_length=50)]
    draws: Annotated[dict[Label, OfFolds], Field(max_length=50)]
    conventions: Annotated[dict[Label, Line], Field(max_length=50)]  # what was computed, for people
    # What a metric's id leaves open: scores with other settings are not compared.
    settings: Annotated[dict[Label, Plain], Field(max_length=50)]
    # Parameters; seconds_per_minute of audio, at inference.
    cost: dict[Name, Annotated[float, Field(ge=0), AfterValidator(_cost)]]
    clips: Annotated[Count, Field(ge=1)]  # tested
    folds: Annotated[list[Scores], Field(max_length=100)]  # of each; empty without folds
    folds_of: Count  # folds of the task; 0 without folds
    seconds: Annotated[float, Field(ge=0), AfterValidator(_number)]  # of the process that ended it
    software: Plain
    hardware: Plain
    commit: Annotated[Line, Field(max_length=255)] | None
    started: Annotated[Line, AfterValidator(_when)]
    training: Training = field(default_factory=list)
    unreadable: Reasons = field(default_factory=dict)  # clip -> why it was left out
    # Group of tested clips, such as a device, -> scores on them.
    groups: Annotated[dict[Label, Scores], Field(max_length=1000)] = field(default_factory=dict)
    # metric -> {"threshold", "f_measure", …} or {"efpr_per_hour", "etpr"} -> values
    curves: Annotated[dict[Label, dict[str, Points]], Field(max_length=50)] = field(
        default_factory=dict
    )
    # Events of the tested clips, see hear_ptsed.metrics.predicted; "" where they are not kept.
    predicted: Annotated[str, Field(max_length=PACKED, pattern="^[A-Za-z0-9+/=]*$")] = ""
    schema: int = SCHEMA


def identity(values: dict[str, Any]) -> str:
    """SHA-256 of what decides a result: task, module, checkpoint, seed, options."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def record_path(results: Path, asked: Asked) -> Path:
    """Where the record of a run lies: its name says what it is, and its identity tells it apart."""
    seed = "" if asked.seed is None else f"-seed{asked.seed}"
    name = f"{asked.module}{seed}-{asked.identity[:12]}.json"
    return Path(results) / asked.task_version / asked.protocol / name


def write_record(record: Record, path: Path) -> None:
    """Write a record whole or not at all; NaN becomes null."""
    remove_stale(path.parent)  # of a process killed while it wrote
    write_json(path, null_for_nan(vars(record)))


def read_record(path: Path) -> Record:
    """A record; null becomes NaN again in all that is scored."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = read_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; run it again") from None
    return parse_record(text, values, str(path))


def parse_record(text: str, values: Any, where: str = "") -> Record:
    """The record of a file, of this schema or of an earlier one; a ValueError says what is wrong.

    Args:
        text, values: of the file, and what `read_json` makes of it.
    """
    return check_json(Record, _of_this_schema(text, values, where), where)


def problems_of_record(text: str, values: Any, where: str = "") -> list[str]:
    """All that is wrong in a record's file, a line each, see `parse_record`."""
    try:
        return schema.problems(Record, _of_this_schema(text, values, where), where)
    except ValueError as error:
        return [str(error)]


def _of_this_schema(text: str, values: Any, where: str) -> str:
    number = values.get("schema") if isinstance(values, dict) else type(values).__name__
    if number is None and schema1.is_evaluation(values):
        return _upgraded(schema1.upgrade_evaluation, values, where)
    if type(number) is not int or number not in (1, SCHEMA):
        problem = f"has schema {shown(number)}; this version reads 1 and {SCHEMA}"
        raise ValueError(f"{where} {problem}".strip())
    return text if number == SCHEMA else _upgraded(schema1.upgrade, values, where)


def _upgraded(upgrade: Callable[[dict[str, Any]], dict[str, Any]], values: Any, where: str) -> str:
    try:
        return json.dumps(upgrade(values))
    except RecursionError:
        raise ValueError(f"{where}: not a record: nested too deeply".removeprefix(": ")) from None


def finished_record(path: Path, identity: str) -> Record | None:
    """The record at a path if it is of this very run, None if there is none yet."""
    if not Path(path).exists():
        return None
    record = read_record(path)
    if record.identity != identity:
        raise ValueError(f"{path} is the record of another run; move it away")
    return record


def score_table(record: Record, per_class: bool = False) -> str:
    """The scores of a record, for a terminal."""
    what = f"{record.task_version}, {record.protocol}: {record.name or record.module}"
    remarks = [] if record.seed is None else [f"seed {record.seed}"]
    remarks += [f"{record.clips} clips"]
    if record.folds:
        remarks.append(f"mean of {len(record.folds)} folds of {record.folds_of}")
    remarks += ["UNTRAINED: random weights"] if record.untrained else []
    lines = [f"{what} ({', '.join(remarks)})"]
    lines += [f"  coverage: {record.coverage}"] if record.coverage else []
    width = max(map(len, [*record.scores, *(record.per_class if per_class else [])]))
    for metric, score in record.scores.items():
        low, high = record.ci95.get(metric, (math.nan, math.nan))
        interval = "" if math.isnan(low) else f"  95 % {low:.4f} to {high:.4f}"
        lines.append(f"  {metric:{width}}  {_text(score)}{interval}")
    if per_class:
        keys = list(dict.fromkeys(key for row in record.per_class.values() for key in row))
        lines.append("  ".join([" " * (width + 2), *keys]).rstrip())
        for name, row in record.per_class.items():
            cells = (f"{_text(row.get(key, math.nan)):>{len(key)}}" for key in keys)
            lines.append("  ".join([f"  {name:{width}}", *cells]))
    return "\n".join(lines)


def _text(value: float) -> str:
    if math.isnan(value):
        return "  none"
    return f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.4f}"
