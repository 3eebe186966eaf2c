"""Result records: one JSON file per run, standard library only.

A record carries the values of its scores on the same resamples of the test clips as every other
record of its task version, so two records can be compared pair by pair without the predictions.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hear_ptsed.files import atomic, remove_stale

SCHEMA = 1
_MISSING = dataclasses.MISSING


@dataclass(frozen=True)
class Record:
    """One evaluation of one module on one task with one seed."""

    task: str
    task_version: str  # such as dcase2016_task2-hear2021-full
    task_sha256: str  # of labels, metadata and clip names
    mode: str  # frozen or finetuned
    protocol: str  # hear, linear, finetuned, desed-simple, desed-baseline
    module: str  # HEAR plug-in
    model: str
    stage: str  # ssl, weak, strong; what a checkpoint of the user's is said to be; or ""
    checkpoint: dict[str, Any]  # file, sha256; both null without one
    untrained: bool  # random weights
    seed: int
    scores: dict[str, float]  # the task's primary metric first; NaN where undefined
    per_class: dict[str, dict[str, float]]
    ci95: dict[str, tuple[float, float]]  # over clips
    replicates: dict[str, list[float]]  # scores on resampled clips, see eval_tasks.scoring
    conventions: dict[str, str]  # metric -> what exactly was computed
    hyperparameters: dict[str, Any]
    cost: dict[str, float]  # parameters; seconds_per_minute of audio, at inference
    clips: int  # tested
    published_task: bool  # false: one of the small tasks of this suite
    coverage: str | None  # what of the data set is missing
    folds: list[dict[str, float]]  # scores of each fold; empty without folds
    seconds: float  # wall time of the process that finished the run
    software: dict[str, str]
    hardware: dict[str, Any]
    commit: str | None
    command: str  # makes this record
    started: str  # ISO 8601
    identity: str  # SHA-256 over all that decides the result
    # of each fold: steps, best validation score and its step, where our own loop trained
    training: list[dict[str, Any]] = field(default_factory=list)
    # metric -> {"threshold", "f_measure", …} or {"efpr_per_hour", "etpr"} -> values
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    schema: int = SCHEMA


def identity(values: dict[str, Any]) -> str:
    """SHA-256 of what decides a result: task, module, checkpoint, seed, options."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def record_path(results: Path, record: dict[str, Any] | Record, identity: str) -> Path:
    """Where the record of a run lies: its name says what it is, and its identity tells it apart."""
    get = record.get if isinstance(record, dict) else lambda key: getattr(record, key)
    kind = f"{get('mode')}-{get('protocol')}"
    name = f"{get('module')}-seed{get('seed')}-{identity[:12]}.json"
    return Path(results) / get("task_version") / kind / name


def write(record: Record, path: Path) -> None:
    """Write a record whole or not at all; NaN becomes null."""
    remove_stale(path.parent)
    with atomic(path) as temporary:
        text = json.dumps(_plain(dataclasses.asdict(record)), indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Record:
    """A record; null becomes NaN again in all that is scored."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); run it again") from error
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path} has schema {found!r}; this version reads {SCHEMA}")
    known = {one.name: one for one in dataclasses.fields(Record)}
    needed = {k for k, one in known.items() if one.default is one.default_factory is _MISSING}
    if missing := sorted(needed - values.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    values = {key: value for key, value in values.items() if key in known}
    for name in ("scores", "per_class", "ci95", "replicates", "folds", "curves"):
        values[name] = _nan_for_null(values.get(name, {}))
    values["ci95"] = {key: tuple(pair) for key, pair in values["ci95"].items()}
    return Record(**values)


def finished(path: Path, identity: str) -> Record | None:
    """The record at a path if it is of this very run, None if there is none yet."""
    if not Path(path).exists():
        return None
    record = read(path)
    if record.identity != identity:
        raise ValueError(f"{path} is the record of another run; move it away")
    return record


def paired(a: Record, b: Record, metric: str) -> tuple[float, float, float]:
    """Score of a less that of b, and the 95 % interval of it over the same resampled clips."""
    for one in (a, b):
        if not one.replicates.get(metric):
            known = ", ".join(one.replicates) or "none"
            raise ValueError(f"{_called(one)} has no resampled {metric} to compare; it has {known}")
    if a.task_sha256 != b.task_sha256:
        raise ValueError(
            f"{_called(a)} and {_called(b)} were not tested on the same labels and clips; only "
            "records of one task folder can be paired"
        )
    values = [one.replicates[metric] for one in (a, b)]
    if a.conventions[metric] != b.conventions[metric] or len(values[0]) != len(values[1]):
        raise ValueError(
            f"{metric} was computed in two ways: {a.conventions[metric]!r} in {_called(a)}, "
            f"{b.conventions[metric]!r} in {_called(b)}; such records cannot be paired"
        )
    pairs = zip(*values, strict=True)
    differences = sorted(x - y for x, y in pairs if not math.isnan(x - y))
    ends = (_percentile(differences, share) for share in (0.025, 0.975))
    return a.scores[metric] - b.scores[metric], *ends


def shown(record: Record, per_class: bool = False) -> str:
    """A table of the scores, for people."""
    how = " ".join(dict.fromkeys((record.mode, record.protocol)))
    what = f"{record.task_version}, {how}: {record.module}"
    remarks = [f"seed {record.seed}", f"{record.clips} clips"]
    remarks += [f"mean of {len(record.folds)} folds"] if record.folds else []
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


def _called(record: Record) -> str:
    return f"{record.module} seed {record.seed} ({record.identity[:12]})"


def _text(value: float) -> str:
    if math.isnan(value):
        return "  none"
    return f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.4f}"


def _percentile(ordered: list[float], share: float) -> float:
    """By linear interpolation, as numpy's; NaN of nothing."""
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    i = math.floor(place)
    above = ordered[min(i + 1, len(ordered) - 1)]
    return ordered[i] + (place - i) * (above - ordered[i])


def _nan_for_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_for_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_for_null(item) for item in value]
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
