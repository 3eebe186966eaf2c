"""Whether somebody else's record may join: form, fields, and whether it can be true."""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from hear_ptsed.errors import shown
from hear_ptsed.metrics import records
from hear_ptsed.metrics.bootstrap import interval
from hear_ptsed.metrics.catalogue import METRICS, PSD_ROC
from hear_ptsed.metrics.protocols import AS_TRAINED
from hear_ptsed.metrics.records import Record
from leaderboards import checks, names

FIRST = datetime(2024, 9, 1, tzinfo=UTC)  # no record can be older than what it is of
EXACT = 1e-6  # of values that follow from others
THRESHOLD = 0.5  # of the scores
ROC_STEP = 0.05  # its area is told by some points
SUITE, GENERIC = "hear_ptsed.plugins.", "checkpoint"
COMMIT = re.compile(r"[0-9a-f]{40}(\+changes)?")
NEED_WEAK_LABELS = (
    "weak-linear",
    "weak-finetuned",
    "mean-teacher",
)  # protocols that need weak labels


def problems_of_file(path: Path, now: datetime | None = None) -> list[str]:
    """All that speaks against a record, a line each; empty if it is accepted.

    Args:
        now: the present, with its time zone.
    """
    try:
        text, values = checks.load_json(Path(path))
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    except ValueError as error:
        return [str(error)]
    if problems := records.problems_of_record(text, values):
        return problems
    record = records.parse_record(text, values)
    if problems := [*checks.problems_for_board(record)]:
        return problems
    checked = (_circumstances(record, now or datetime.now(UTC)), _intervals(record))
    checked += (_class_values(record), _folds(record), _curves(record))
    return [problem for part in checked for problem in part]


def _circumstances(record: Record, now: datetime) -> Iterator[str]:
    """Where it comes from: task, protocol, module, checkpoint."""
    if task := names.KNOWN_TASKS.get(record.task):
        if record.protocol in NEED_WEAK_LABELS and not task.weak_labels:
            yield f"task {record.task} has no protocol {record.protocol}"
        if record.published_task != task.published:
            yield f"published_task is {record.published_task}, which {record.task} is not"
    plug_in = record.module.removeprefix(SUITE)
    expected = f"{record.model}_{record.stage}"
    if record.module.startswith(SUITE) and plug_in not in (GENERIC, expected):
        yield f"module {record.module} is not model {record.model}, stage {record.stage!r}"
    has_checkpoint = record.checkpoint["sha256"] is not None
    if record.untrained and has_checkpoint:
        yield "untrained, and yet from a checkpoint"
    # Plug-ins of others may bring their weights with them.
    if record.module.startswith(SUITE) and not record.untrained and not has_checkpoint:
        yield "names no checkpoint: file and sha256 are needed, unless it is untrained"
    yield from _cost_and_time(record, now)


def _cost_and_time(record: Record, now: datetime) -> Iterator[str]:
    """Cost, code and time."""
    if record.seconds <= 0:
        yield "seconds is 0; a run takes some"
    for key in ("parameters", "seconds_per_minute") if record.protocol != AS_TRAINED else ():
        if not record.cost.get(key, 0) > 0:
            yield f"cost has no {key} above 0"
    if record.commit is not None and not COMMIT.fullmatch(record.commit):
        yield f"commit {shown(record.commit)} is no hash of git"
    started = datetime.fromisoformat(record.started)
    started = started if started.tzinfo else started.replace(tzinfo=UTC)
    if not FIRST <= started <= now + timedelta(days=1):
        yield f"started {record.started}, which is before {FIRST:%Y-%m} or still to come"


def _intervals(record: Record) -> Iterator[str]:
    """Whether values, replicates, draws and intervals belong together."""
    scores, replicates = record.scores, record.replicates
    if len({len(values) for values in replicates.values()}) > 1:
        yield "replicates differ in their number from metric to metric"
    if missing := sorted(replicates.keys() ^ record.ci95.keys()):
        yield f"replicates and ci95 go together; one of them lacks {', '.join(missing)}"
    for metric, (low, high) in record.ci95.items():
        slack = (high - low) / 2 + EXACT  # resampling is biased, mostly for PSDS
        if not math.isnan(low) and not low - slack <= scores[metric] <= high + slack:
            yield f"{metric} {scores[metric]:g} lies outside its own interval {low:g} to {high:g}"
    for metric, values in replicates.items():
        yield from _draws(record, metric)
        if metric in record.ci95:
            ends = np.array([interval(values), record.ci95[metric]])
            if not np.allclose(*ends, atol=EXACT, equal_nan=True):
                yield f"ci95 of {metric} is not that of its replicates, {ends[0]}"


def _draws(record: Record, metric: str) -> Iterator[str]:
    """Whether the replicates of a metric can come of what was drawn."""
    draws = record.draws.get(metric, [])
    if len(draws) != max(1, len(record.folds)):
        yield f"draws has {len(draws)} parts of {metric}; expected one, or one of each fold"
    if draws and {part["resamples"] for part in draws} != {len(record.replicates[metric])}:
        yield f"replicates of {metric} are not as many as draws says"
    if sum(part["clips"] for part in draws) > record.clips:
        yield f"draws of {metric} are of more clips than were tested, {record.clips}"


def _class_values(record: Record) -> Iterator[str]:
    """Whether the values of the classes can make up that of all."""
    rows = record.per_class
    if not rows:
        yield "per_class is empty"
        return
    for metric, score in record.scores.items():
        values = [row[metric] for row in rows.values() if not math.isnan(row.get(metric, math.nan))]
        if not values or math.isnan(score) or record.folds:
            continue
        mean = sum(values) / len(values)
        if metric.endswith("_fms") and score > max(values) + EXACT:
            yield f"{metric} {score:g} of all events is above that of every class"
        if metric.startswith("psds") and score > mean + EXACT:
            yield f"{metric} {score:g} is above the mean of the classes, {mean:g}"


def _curves(record: Record) -> Iterator[str]:
    """Whether a curve goes through its score, or has it as its area."""
    for metric, curve in record.curves.items():
        score = record.scores[metric]
        if METRICS[metric].curve is PSD_ROC:
            x, y = np.array(curve["efpr_per_hour"]), np.array(curve["etpr"])
            if (x[0], x[-1]) != (0, PSD_ROC.high):
                yield f"the curve of {metric} does not go from 0 to {PSD_ROC.high:g}"
                continue
            area = float(y[:-1] @ np.diff(x)) / PSD_ROC.high
            if not abs(area - score) <= ROC_STEP:
                yield f"{metric} {score:g} is not the area of its curve, {area:g}"
            continue
        for threshold, f in zip(curve["threshold"], curve["f_measure"], strict=True):
            if threshold == THRESHOLD and not np.isclose(f, score, 0, EXACT, equal_nan=True):
                yield f"{metric} {score:g} is not that of its curve at {THRESHOLD}, {f:g}"


def _folds(record: Record) -> Iterator[str]:
    for metric, score in record.scores.items():
        values = [f[metric] for f in record.folds if not math.isnan(f.get(metric, math.nan))]
        if values and not abs(sum(values) / len(values) - score) <= EXACT:
            yield f"{metric} {score:g} is not the mean of its folds, {sum(values) / len(values):g}"
