"""Segment pAUROC and average precision, one class at a time and of many resamples at once."""

import math
from collections.abc import Sequence

import numpy as np

from hear_ptsed.grid import FRAMES_PER_SECOND
from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap, Scored
from hear_ptsed.metrics.predictions import ClassEvents, Predictions
from hear_ptsed.metrics.psds import scored_areas, weights_of

MAX_FPR = 0.1  # of segments of 1 s


def ranking_scores(
    predictions: Predictions,
    metrics: Sequence[str],
    bootstrap: Bootstrap = NO_BOOTSTRAP,
    _curves: Sequence[str] = (),
) -> Scored:
    """Means over the classes in which a value is defined: `pauroc`, and `map` of clips with events.

    The score of a clip is its highest frame, its label whether it has an event.
    """
    clips = predictions.event_clips
    weights = weights_of(clips.files, bootstrap)
    of_class: dict[str, list[np.ndarray]] = {metric: [] for metric in metrics}
    for k, events in enumerate(clips.events):
        x = clips.column(k)
        if "pauroc" in of_class:
            areas = segment_pauroc(x, events, clips.durations_s, weights)
            of_class["pauroc"].append(areas)
        if "map" in of_class:
            label = np.zeros(len(x), bool)
            label[events.row] = True
            of_class["map"].append(average_precision(x.max(1), label, weights))
    per_class = {
        name: {"events": float(n)} | dict.fromkeys(metrics, math.nan)
        for name, n in predictions.events_of_class.items()
    }
    for metric, columns in of_class.items():
        for name, column in zip(clips.classes, columns, strict=True):
            per_class[name][metric] = float(column[0])
    values = {metric: _means(np.stack(columns, 1)) for metric, columns in of_class.items()}
    seconds = clips.frames.max() / FRAMES_PER_SECOND
    conventions = {
        "pauroc": "segments of 1 s, staircase area up to a false positive rate of "
        f"{MAX_FPR}, divided by it; {_durations(clips.durations_s.max(), seconds)}; mean of the "
        "classes with both positive and negative segments",
        "map": "mean over classes of the average precision of clips: the score of a clip is its "
        "highest frame, its label whether it has an event",
    }
    conventions = {metric: conventions[metric] for metric in metrics}
    return scored_areas(predictions, bootstrap, values, per_class, conventions)


def _durations(longest_s: float, scored_s: float) -> str:
    segments = math.ceil(scored_s)
    if longest_s > segments:
        return f"durations of whole clips: a segment behind the {segments} s of scores has score 0"
    return f"durations of at most the {segments} s of scores"


def segment_pauroc(
    x: np.ndarray, events: ClassEvents, durations_s: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Partial area under the ROC curve of 1 s segments of one class, as sed_scores_eval has it.

    Up to a false positive rate of 0.1 and divided by it. The last segment of a clip is the one in
    which its duration ends; a segment beyond the score frames scores 0.

    Args:
        x: (N, T) scores.
        durations_s: (N,)
        weights: (R, N) how often each clip counts.
    Returns:
        (R,); NaN without any positive or any negative segment.
    """
    best = np.maximum.reduceat(x, np.arange(0, x.shape[1], FRAMES_PER_SECOND), axis=1)
    best[np.isneginf(best)] = 0  # beyond the frames
    n_segments = np.ceil(durations_s).astype(np.int64)
    segments = np.zeros((len(x), max(n_segments.max(), best.shape[1])), dtype=x.dtype)
    segments[:, : best.shape[1]] = best
    positive = np.zeros(segments.shape, dtype=bool)
    ends = np.ceil(events.offset_s).astype(np.int64)
    for row, start, end in zip(events.row, events.onset_s.astype(np.int64), ends, strict=True):
        positive[row, start:end] = True
    inside = np.arange(segments.shape[1]) < n_segments[:, None]

    # Each negative segment, from the highest down, is a step of the false positive rate; its height
    # is the share of positive segments that score strictly higher.
    negative_row = np.nonzero(inside & ~positive)[0]
    negative = segments[inside & ~positive]
    order = np.argsort(-negative)
    negative, negative_row = negative[order], negative_row[order]
    positive_row = np.nonzero(inside & positive)[0]
    order = np.argsort(segments[inside & positive])
    positive_row = positive_row[order]
    not_higher = segments[inside & positive][order].searchsorted(negative, side="right")

    areas = np.full(len(weights), np.nan)
    for r, weight in enumerate(weights):
        width = weight[negative_row]
        reached = np.cumsum(width)
        up_to = np.cumsum(np.append(0, weight[positive_row]))
        if not up_to[-1] or not width.any():
            continue
        room = MAX_FPR * reached[-1]
        seen = slice(np.searchsorted(reached - width, room))
        width = np.minimum(width[seen], room - (reached - width)[seen])
        areas[r] = (width * (1 - up_to[not_higher[seen]] / up_to[-1])).sum() / room
    return areas


def average_precision(score: np.ndarray, label: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps of one class, as scikit-learn has it.

    Args:
        score: (N,), one per clip.
        label: (N,) bool.
        weights: (R, N) how often each clip counts.
    Returns:
        (R,); NaN where no clip has the label.
    """
    order = np.argsort(-score)
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(weights[:, order] * label[order], axis=1)[:, last]
    detected = np.cumsum(weights[:, order], axis=1)[:, last]
    gain = np.diff(hits, axis=1, prepend=0) * (hits / np.maximum(detected, 1))
    total = hits[:, -1]
    return np.where(total > 0, gain.sum(1) / np.maximum(total, 1), np.nan)


def clip_label_scores(
    files: Sequence[str],
    scores: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    bootstrap: Bootstrap = NO_BOOTSTRAP,
) -> Scored:
    """`map` of clip labels, the mean over the classes that a clip has.

    Args:
        files: N names.
        scores: (N, C) of the clips.
        targets: (N, C) bool.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, bool)
    if scores.ndim != 2 or scores.shape != targets.shape or scores.shape[1] != len(classes):
        raise ValueError(
            f"scores {scores.shape} and targets {targets.shape} must be (clips, {len(classes)})"
        )
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"clip {row} has a score that is not finite in {classes[column]!r}")
    order = np.argsort(files)
    weights = weights_of(sorted(files), bootstrap)
    of_class = {
        name: average_precision(scores[order, k], targets[order, k], weights)
        for k, name in enumerate(classes)
        if targets[:, k].any()
    }
    columns = [*of_class.values()] or [np.full(len(weights), math.nan)]
    value, *replicates = _means(np.stack(columns, 1)).tolist()
    return Scored(
        {"map": value},
        {name: {"map": float(values[0])} for name, values in of_class.items()},
        {"map": "mean over the classes that occur of the average precision of clips"},
        {"map": {}},
        {"map": replicates} if replicates else {},
        {"map": [bootstrap.draws(files)]} if replicates else {},
    )


def _means(values: np.ndarray) -> np.ndarray:
    """(R, K) -> (R,), over the classes in which a value is defined; NaN if in none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(1)
    return np.where(defined.any(1), total / np.maximum(defined.sum(1), 1), np.nan)
