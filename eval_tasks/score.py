"""Scores of a task from what a module says of its clips."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval_tasks.tasks.base import Part, Task
from hear_ptsed.grid import FRAME_MS
from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap, Scored
from hear_ptsed.metrics.checks import Events
from hear_ptsed.metrics.decoding import BoxDecoding, Decoding
from hear_ptsed.metrics.predictions import Predictions
from hear_ptsed.metrics.score import score
from hear_ptsed.metrics.task_folder import scored_events
from hear_ptsed.metrics.tuning import tune_boxes


def rate(
    task: Task,
    part: Part,
    probabilities: dict[str, np.ndarray],
    *,
    metrics: Sequence[str] | None = None,
    events: Events | None = None,
    decoding: Decoding | None = None,
    boxes: BoxDecoding | None = None,
    bootstrap: Bootstrap = NO_BOOTSTRAP,
    curves: bool = False,
) -> Scored:
    """The task's metrics of one part.

    Args:
        probabilities: file -> (T, C) per frame, of every clip of the part.
        metrics: some of the task's; None for all.
        events: file -> events in ms, where they were decoded elsewhere.
        decoding: how; None for the task's own.
        boxes: bounding boxes instead of decoding and median.
        curves: the first metric over thresholds, too, if it is an F-score; a PSD-ROC comes anyway.
    """
    if missing := [file for file in part.files if file not in probabilities]:
        raise ValueError(f"no predictions for {len(missing)} clips of {part.name}: {missing[0]}, …")
    metrics = task.metrics if metrics is None else metrics
    classes = part.scored or part.classes
    if part.scored:
        columns = [part.classes.index(name) for name in classes]
        probabilities = {file: values[:, columns] for file, values in probabilities.items()}
        events = events and scored_events(events, classes)
    predictions = Predictions(
        classes,
        part.reference,
        part.durations_s,
        probabilities,
        events,
        decoding or task.decoding,
        round(task.psds_median * FRAME_MS / part.hop_ms) if task.psds_median > 1 else 1,
        part.hop_ms,
        task.psds_edges,
        boxes,
    )
    scored = score(predictions, metrics, bootstrap, metrics[:1] if curves else ())
    more = f"; {task.convention}" if task.convention else ""
    texts = {metric: text + more for metric, text in scored.conventions.items()}
    return replace(scored, conventions=texts)


def decode_part(
    task: Task,
    part: Part,
    probabilities: dict[str, np.ndarray],
    decoding: Decoding | None = None,
    boxes: BoxDecoding | None = None,
) -> Events:
    """File -> events in ms, of all classes; see `rate`."""
    of_part = part.classes, part.events, part.durations_s, probabilities
    how = {"decoding": decoding or task.decoding, "hop_ms": part.hop_ms, "boxes": boxes}
    return Predictions(*of_part, **how).events


def rate_groups(
    task: Task, part: Part, probabilities: dict[str, np.ndarray], **how: Any
) -> dict[str, dict[str, float]]:
    """The task's metrics of each group of clips in which every class occurs.

    Args:
        how: metrics, decoding, boxes, see `rate`.
    """
    scores = {}
    for group in sorted({group for of_file in part.groups.values() for group in of_file}):
        clips = part.of_group(group)
        heard = {str(event["label"]) for events in clips.reference.values() for event in events}
        if heard == {*(part.scored or part.classes)}:
            said = {file: probabilities[file] for file in clips.files}
            scores[group] = rate(task, clips, said, **how).scores
    return scores


def tuned_boxes(task: Task, valid: Part, probabilities: dict[str, np.ndarray]) -> BoxDecoding:
    """Bounding boxes whose settings of each class are the best on a validation part."""
    predictions = Predictions(
        valid.classes, valid.reference, valid.durations_s, probabilities, hop_ms=valid.hop_ms
    )
    return tune_boxes(predictions, task.metrics)


def validation(task: Task, part: Part, probabilities: dict[str, np.ndarray]) -> dict[str, float]:
    """What the best epoch is chosen by, higher is better: primary metric, or minus the loss.

    Args:
        probabilities: file -> (T, C) per frame.
    """
    losses = []
    for file, given in probabilities.items():
        target, p = part.targets(file), given.clip(1e-7, 1 - 1e-7)
        losses.append(-(target * np.log(p) + (1 - target) * np.log(1 - p)).mean())
    loss = {"minus_loss": -float(np.mean(losses))}
    if task.select == "loss":
        return loss
    return rate(task, part, probabilities, metrics=task.metrics[:1]).scores | loss
