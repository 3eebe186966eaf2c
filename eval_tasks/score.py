"""Scores of a task from what a module says of its clips."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eval_tasks.tasks.base import Part, Task
from hear_ptsed.metrics.bootstrap import Bootstrap, Scored
from hear_ptsed.metrics.decoding import Decoding, decode
from hear_ptsed.metrics.events import event_scores, threshold_curve

PSDS = ("psds1", "psds2")


def rate(
    task: Task,
    part: Part,
    probabilities: dict[str, np.ndarray],
    *,
    metrics: Sequence[str] | None = None,
    events: dict[str, list[dict]] | None = None,
    decoding: Decoding | None = None,
    bootstrap: Bootstrap | None = None,
    curves: bool = False,
) -> Scored:
    """The task's metrics of one part.

    Args:
        probabilities: file -> (T, C) per frame of 40 ms, of every clip of the part.
        metrics: some of the task's; None for all.
        events: file -> events in ms, where they were decoded elsewhere.
        decoding: how; None for the task's own.
        curves: the first metric over thresholds, too, if it is an F-score; a PSD-ROC comes anyway.
    """
    if missing := [file for file in part.files if file not in probabilities]:
        raise ValueError(f"no predictions for {len(missing)} clips of {part.name}: {missing[0]}, …")
    metrics = task.metrics if metrics is None else metrics
    decoding = decoding or task.decoding
    scored = Scored({}, {}, {})
    by_event = [name for name in metrics if name not in PSDS]
    if by_event:
        if events is None:
            events = {
                file: decode(probabilities[file], part.classes, decoding) for file in part.files
            }
        scored = event_scores(part.events, events, part.classes, by_event, bootstrap)
        if curves and metrics[0].endswith("_fms"):
            own = threshold_curve(part.events, probabilities, part.classes, metrics[0], decoding)
            scored.curves[metrics[0]] = own
    if by_area := [name for name in metrics if name in PSDS]:
        from hear_ptsed.metrics.psds import psds_scores  # seconds to import

        areas = psds_scores(
            probabilities,
            part.events,
            part.durations_s,
            part.classes,
            by_area,
            task.psds_median,
            bootstrap,
        )
        scored = areas | scored
    return replace(scored, scores={name: scored.scores[name] for name in metrics}, details={})


def validation(task: Task, part: Part, probabilities: dict[str, np.ndarray]) -> dict[str, float]:
    """What the best epoch is chosen by, higher is better: primary metric, or minus the loss."""
    losses = []
    for file, given in probabilities.items():
        target, p = part.targets(file), given.clip(1e-7, 1 - 1e-7)
        losses.append(-np.where(target > 0, np.log(p), np.log(1 - p)).mean())
    loss = {"minus_loss": -float(np.mean(losses))}
    if task.select == "loss":
        return loss
    return rate(task, part, probabilities, metrics=task.metrics[:1]).scores | loss
