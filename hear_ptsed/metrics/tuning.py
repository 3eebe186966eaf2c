"""What decodes each class best: chosen by its own score, on validation alone."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from hear_ptsed.boxes import GRID, Boxes, BoxSettings, boxes_of
from hear_ptsed.events import THRESHOLD
from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP
from hear_ptsed.metrics.catalogue import BY_AREAS, EVENTS, METRICS
from hear_ptsed.metrics.decoding import BoxDecoding, frame_borders_ms, real_frames
from hear_ptsed.metrics.predictions import Predictions, paint_boxes
from hear_ptsed.metrics.psds import (
    ChangePoints,
    Resamples,
    change_points,
    criteria_of,
    psds_of_points,
)

T = TypeVar("T")
TUNED_BY = "psds1"  # of a single class: detections and ground truth of 0.7, no cross triggers
COLLAR_S = 0.2  # sed_eval's own


def check_tunable(metrics: Sequence[str]) -> None:
    """Refuse metrics that boxes cannot be tuned by."""
    if not _of_psds(metrics) and collar_metric(metrics) is None:
        raise ValueError(
            f"boxes (SEBB) are tuned by PSDS or by an F-score of events; the metrics are "
            f"{', '.join(metrics)}: take the median"
        )


def tune_boxes(valid: Predictions, metrics: Sequence[str]) -> BoxDecoding:
    """Settings of each class for the metrics, from what a model says of the validation clips.

    For areas those with the best PSDS1 of the class alone; for events settings and threshold with
    the best F-score of the class by the first such metric, or those of the areas and 0.5.
    """
    check_tunable(metrics)
    n_classes = len(valid.classes)
    areas, thresholds = [], [THRESHOLD] * n_classes
    metric = collar_metric(metrics)
    if _of_psds(metrics):
        areas = best_of_classes(GRID, valid.classes, psds_by_boxes(valid).get)
    if metric is None:
        return BoxDecoding(areas, areas, thresholds)
    best = best_thresholds(valid, metric)
    events = best_of_classes(
        GRID, valid.classes, lambda each: {name: f for name, (f, _) in best[each].items()}
    )
    for c, (name, settings) in enumerate(zip(valid.classes, events, strict=True)):
        thresholds[c] = best[settings].get(name, (0, THRESHOLD))[1]
    return BoxDecoding(areas or events, events, thresholds)


def best_of_classes(
    candidates: Sequence[T], classes: Sequence[str], score: Callable[[T], Mapping[str, float]]
) -> list[T]:
    """For each class the candidate with its highest score.

    Of equal ones, and for a class without a score, the best in the mean over classes; then the
    earliest.

    Args:
        score: class -> value, higher is better; NaN, or none, where undefined.
    """
    table = np.array(
        [[of.get(name, math.nan) for name in classes] for of in map(score, candidates)]
    )
    table = np.where(np.isnan(table), -math.inf, table)
    scored = np.isfinite(table).all(0)
    means = table[:, scored].mean(1) if scored.any() else np.zeros(len(candidates))
    best = [max(range(len(candidates)), key=lambda i: (column[i], means[i])) for column in table.T]
    return [candidates[i] for i in best]


def psds_by_boxes(valid: Predictions) -> dict[BoxSettings, dict[str, float]]:
    """By each of the settings, PSDS1 of each class alone that has events."""
    clips, criteria = valid.event_clips, criteria_of(TUNED_BY)
    resamples = Resamples.of(clips, NO_BOOTSTRAP)
    points: dict[BoxSettings, list[ChangePoints]] = {each: [] for each in GRID}
    for k in range(len(clips.classes)):
        for each, x in paint_boxes(clips.column(k), clips.frames, GRID, clips.hop_ms):
            points[each].append(change_points(x, clips, k, criteria, resamples))
    table = {}
    for each, of_classes in points.items():
        _, areas, _ = psds_of_points(of_classes, criteria, resamples, [0.0])
        table[each] = dict(zip(clips.classes, areas.tolist(), strict=True))
    return table


def collar_metric(metrics: Sequence[str]) -> str | None:
    """The first F-score of events by their onsets, of sed_eval; None without one."""
    return next((m for m in metrics if METRICS[m].options.get("scorer") == EVENTS), None)


def _of_psds(metrics: Sequence[str]) -> bool:
    return any(METRICS[m].function == BY_AREAS and "dtc" in METRICS[m].options for m in metrics)


def best_thresholds(
    valid: Predictions, metric: str
) -> dict[BoxSettings, dict[str, tuple[float, float]]]:
    """Of each settings and class with events: highest F-score, and the threshold that gives it."""
    files = sorted(valid.reference)
    frames = np.array(
        [real_frames(len(valid.scores[f]), valid.durations_s[f], valid.hop_ms) for f in files]
    )
    best: dict[BoxSettings, dict[str, tuple[float, float]]] = {each: {} for each in GRID}
    x = np.zeros((len(files), frames.max()), np.float32)
    for c, name in enumerate(valid.classes):
        spans = [
            [(e["start"] / 1000.0, e["end"] / 1000.0) for e in events if str(e["label"]) == name]
            for events in (valid.reference[file] for file in files)
        ]
        if not any(spans):
            continue
        for row, file, n in zip(x, files, frames, strict=True):
            row[:n] = valid.scores[file][:n, c]
        borders_s = frame_borders_ms(x.shape[1], valid.hop_ms) / 1000.0
        for each, boxes in boxes_of(x, GRID, valid.hop_ms, frames).items():
            best[each][name] = best_threshold(boxes, borders_s, spans, metric)
    return best


def best_threshold(
    boxes: Boxes,
    borders_s: np.ndarray,
    spans: Sequence[Sequence[tuple[float, float]]],
    metric: str,
) -> tuple[float, float]:
    """Highest F-score of one class, and a threshold amid those that give it.

    Args:
        borders_s: of frames.
        spans: of each row the events in seconds, as (onset, offset).
    """
    order = np.argsort(-boxes.confidence, kind="stable")
    row, score = boxes.row[order], boxes.confidence[order]
    onset_s, offset_s = borders_s[boxes.first[order]], borders_s[boxes.stop[order]]
    gains = np.zeros(len(order))
    for r in np.flatnonzero([len(of_row) > 0 for of_row in spans]):
        at = np.flatnonzero(row == r)
        hits = _hits(np.array(spans[r]), onset_s[at], offset_s[at], metric)
        gains[at] = _matched(hits)
    n_events = sum(map(len, spans))
    f = 2 * np.cumsum(gains) / (n_events + np.arange(1, len(order) + 1))
    f = np.where(np.append(score[1:] != score[:-1], True)[: len(f)], f, -1)  # equal ones together
    if not len(f) or f.max() <= 0:
        return 0.0, THRESHOLD
    i = int(f.argmax())
    return float(f[i]), float(score[i] + (score[i + 1] if i + 1 < len(f) else 0)) / 2


def _hits(spans: np.ndarray, onset_s: np.ndarray, offset_s: np.ndarray, metric: str) -> np.ndarray:
    """(B, E) whether a box fits an event, as sed_eval has it."""
    options = METRICS[metric].options
    collar_s = options.get("t_collar", COLLAR_S)
    hits = np.abs(spans[:, 0] - onset_s[:, None]) <= collar_s
    if options.get("evaluate_offset", True):
        share = options.get("percentage_of_length", 0.5)
        tolerance_s = np.maximum(collar_s, share * (spans[:, 1] - spans[:, 0]))
        hits &= np.abs(spans[:, 1] - offset_s[:, None]) <= tolerance_s
    return hits


def _matched(hits: np.ndarray) -> list[int]:
    """Of each box, the strongest first: whether it adds a pair to the largest matching so far."""
    owner: dict[int, int] = {}  # event -> box

    def settle(box: int, tried: set[int]) -> bool:
        for event in np.flatnonzero(hits[box]).tolist():
            if event in tried:
                continue
            tried.add(event)
            if event not in owner or settle(owner[event], tried):
                owner[event] = box
                return True
        return False

    return [int(settle(box, set())) for box in range(len(hits))]
