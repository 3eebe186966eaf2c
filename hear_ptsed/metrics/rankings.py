"""Segment pAUROC and average precision, one class at a time and of many resamples at once."""

import numpy as np

from hear_ptsed.grid import FRAME_MS
from hear_ptsed.metrics.predictions import EventClips

MAX_FPR = 0.1  # of segments of 1 s


def segment_pauroc(x: np.ndarray, clips: EventClips, k: int, weights: np.ndarray) -> np.ndarray:
    """Partial area under the ROC curve of 1 s segments of class k, as sed_scores_eval has it.

    Up to a false positive rate of 0.1 and divided by it. The last segment of a clip is the one in
    which its duration ends; a segment beyond the score frames scores 0.

    Args:
        x: (N, T) scores.
        weights: (R, N) how often each clip counts.
    Returns:
        (R,); NaN without any positive or any negative segment.
    """
    events = clips.events[k]
    second = (FRAME_MS // 2 + clips.hop_ms * np.arange(x.shape[1])) // 1000  # of a frame's centre
    best = np.maximum.reduceat(x, np.flatnonzero(np.diff(second, prepend=-1)), axis=1)
    best[np.isneginf(best)] = 0  # beyond the frames
    n_segments = np.ceil(clips.durations_s).astype(np.int64)
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


def clip_precision(x: np.ndarray, clips: EventClips, k: int, weights: np.ndarray) -> np.ndarray:
    """`average_precision` of clips: the score of one is its highest frame; see `segment_pauroc`."""
    label = np.zeros(len(x), bool)
    label[clips.events[k].row] = True
    return average_precision(x.max(1), label, weights)


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


def mean_of_classes(values: np.ndarray) -> np.ndarray:
    """(R, K) -> (R,), over the classes in which a value is defined; NaN if in none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(1)
    return np.where(defined.any(1), total / np.maximum(defined.sum(1), 1), np.nan)


# Metric -> of each class; of all it is `mean_of_classes`.
RANKINGS = {"pauroc": segment_pauroc, "map": clip_precision}
