"""Scores of events computed again, from the events that a record carries and the task's labels."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap, Scored, mean_of_folds
from hear_ptsed.metrics.catalogue import BY_EVENTS, METRICS
from hear_ptsed.metrics.events import event_scores
from hear_ptsed.metrics.predicted import unpack_events
from hear_ptsed.metrics.records import Record
from hear_ptsed.metrics.task_folder import (
    TaskFolder,
    read_task_folder,
    scored_events,
    version_of,
)

EXACT = 1e-9


def problems_of_predicted(record: Record, tasks_dir: Path) -> list[str]:
    """Where its scores, classes and replicates of events are not those of its predicted events.

    Also a line where this cannot be told: without predicted events, or without the task's folder.
    """
    try:
        scored = _score_again(record, Path(tasks_dir))
    except ValueError as error:
        return [str(error)]
    return [problem for metric in scored.scores for problem in _differences(record, scored, metric)]


def _score_again(record: Record, tasks_dir: Path) -> Scored:
    metrics = [name for name in record.scores if METRICS[name].function == BY_EVENTS]
    if not (metrics and record.predicted):
        what = "predicted events" if metrics else "scores of events"
        raise ValueError(f"has no {what} to compute again; without --tasks-dir its form is checked")
    task = _find_task(record, tasks_dir)
    events = scored_events(unpack_events(record.predicted, task.classes), task.scored)
    tested = [clips for clips in task.tested.values() if clips.keys() & events.keys()]
    if task.pooled and not record.folds:
        tested = [{file: of_file for clips in tested for file, of_file in clips.items()}]
    if len(tested) != max(1, len(record.folds)):
        raise ValueError(f"predicted is of {len(tested)} test parts, scores of others")
    if strange := events.keys() - {file for clips in tested for file in clips}:
        raise ValueError(f"predicted has {min(strange)}, which is no test clip")
    resamples = len(record.replicates.get(metrics[0], []))
    draws = record.draws.get(metrics[0], [])
    bootstrap = Bootstrap(resamples, draws[0]["seed"]) if resamples and draws else NO_BOOTSTRAP
    scored = [
        event_scores(
            clips,
            {file: events[file] for file in clips if file in events},
            task.scored,
            metrics,
            bootstrap,
        )
        for clips in tested
    ]
    return mean_of_folds(scored) if record.folds else scored[0]


def _find_task(record: Record, tasks_dir: Path) -> TaskFolder:
    """The folder that the record was tested on."""
    folders = sorted(tasks_dir.iterdir()) if tasks_dir.is_dir() else []
    folders = [folder for folder in folders if version_of(folder) == record.task_version]
    if not folders:
        raise ValueError(
            f"{tasks_dir} has no folder of {record.task_version}; make it with `python -m "
            f"eval_tasks prepare {record.task}`"
        )
    task = read_task_folder(folders[0])
    if task.fingerprint != record.task_sha256:
        raise ValueError(
            f"{folders[0]} has the fingerprint {task.fingerprint[:12]}, the record "
            f"{record.task_sha256[:12]}: it was tested on other clips or labels"
        )
    return task


def _differences(record: Record, scored: Scored, metric: str) -> Iterator[str]:
    if not _same([record.scores[metric]], [scored.scores[metric]]):
        yield f"{metric} is {record.scores[metric]:g}; of its events {scored.scores[metric]:g}"
    for name, row in scored.per_class.items():
        key = METRICS[metric].of_classes or metric
        value = record.per_class.get(name, {}).get(key, math.nan)
        if not _same([value], [row[key]]):
            yield f"{metric} of class {name} is {value:g}; of its events {row[key]:g}"
    if not _same(record.replicates.get(metric, []), scored.replicates.get(metric, [])):
        yield f"replicates of {metric} are not those of its events"


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and np.allclose(a, b, rtol=0, atol=EXACT, equal_nan=True)
