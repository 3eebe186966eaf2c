"""Segment pAUROC, best F1, average precision: one class at a time, of many resamples at once."""

from typing import NamedTuple

import numpy as np

from hear_ptsed.grid import FRAME_MS
from hear_ptsed.metrics.decoding import frame_borders_ms
from hear_ptsed.metrics.predictions import EventClips

MAX_FPR = 0.1  # of segments of 1 s


class Segments(NamedTuple):
    """The 1 s segments of a class that are compared, S of all clips together."""

    score: np.ndarray  # (S,)
    positive: np.ndarray  # (S,) bool: an event overlaps it
    row: np.ndarray  # (S,) clip


def segment_pauroc(x: np.ndarray, clips: EventClips, k: int, weights: np.ndarray) -> np.ndarray:
    """Partial area under the ROC curve of 1 s segments of class k, as sed_scores_eval has it.

    Up to a false positive rate of 0.1 and divided by it. The score of a segment is its highest
    frame. The last segment of a clip is the one in which its duration ends; a segment beyond the
    score frames scores 0.

    Args:
        x: (N, T) scores.
        weights: (R, N) how often each clip counts.
    Returns:
        (R,); NaN without any positive or any negative segment.
    """
    return _partial_area(_segments(_highest_of_seconds(x, clips), clips, k), weights)


def second_pauroc(x: np.ndarray, clips: EventClips, k: int, weights: np.ndarray) -> np.ndarray:
    """As `segment_pauroc`, of one score per second: the mean of its frames by their overlap."""
    return _partial_area(_segments(_means_of_seconds(x, clips), clips, k), weights)


def segment_best_f1(x: np.ndarray, clips: EventClips, k: int, weights: np.ndarray) -> np.ndarray:
    """F1 of the segments of `segment_pauroc` at the best threshold, which each resample has anew.

    Returns:
        (R,); NaN without any positive segment.
    """
    segments = _segments(_highest_of_seconds(x, clips), clips, k)
    order = np.argsort(-segments.score)
    last = np.flatnonzero(np.append(np.diff(segments.score[order]) != 0, True))
    best = np.full(len(weights), np.nan)
    for r, weight in enumerate(weights):
        times = weight[segments.row[order]]
        hits = np.cumsum(times * segments.positive[order])
        if hits[-1]:
            best[r] = (2 * hits[last] / (np.cumsum(times)[last] + hits[-1])).max()
    return best


def _highest_of_seconds(x: np.ndarray, clips: EventClips) -> np.ndarray:
    """(N, T) -> (N, S): the highest frame whose centre lies in a second; 0 beyond the frames."""
    second = (FRAME_MS // 2 + clips.hop_ms * np.arange(x.shape[1])) // 1000
    best = np.maximum.reduceat(x, np.flatnonzero(np.diff(second, prepend=-1)), axis=1)
    best[np.isneginf(best)] = 0
    return best


def _means_of_seconds(x: np.ndarray, clips: EventClips) -> np.ndarray:
    """(N, T) -> (N, S): mean of the frames, by how long each lies in a second; 0 beyond them.

    Frames end with the clip. In whole milliseconds, so that equal frames give equal means.
    """
    borders_ms = frame_borders_ms(x.shape[1], clips.hop_ms)
    ends_ms = np.round(1000 * clips.ends_s, 6)[:, None]
    cuts_ms = np.union1d(borders_ms, np.arange(0, borders_ms[-1], 1000))
    frame = np.searchsorted(borders_ms, cuts_ms[:-1], side="right") - 1
    starts = np.flatnonzero(np.diff(cuts_ms[:-1] // 1000, prepend=-1))
    lengths_ms = np.maximum(np.minimum(cuts_ms[1:], ends_ms) - cuts_ms[:-1], 0)
    weighted = np.where(np.isneginf(x), 0, x)[:, frame] * lengths_ms
    total_ms = np.add.reduceat(lengths_ms, starts, axis=1)
    sums = np.add.reduceat(weighted, starts, axis=1)
    return np.where(total_ms > 0, sums / np.maximum(total_ms, 1e-6), 0)


def _segments(scores: np.ndarray, clips: EventClips, k: int) -> Segments:
    """Of scores of seconds (N, S)."""
    events = clips.events[k]
    n_segments = np.ceil(clips.durations_s).astype(np.int64)
    segments = np.zeros((len(scores), max(n_segments.max(), scores.shape[1])), dtype=scores.dtype)
    segments[:, : scores.shape[1]] = scores
    positive = np.zeros(segments.shape, dtype=bool)
    ends = np.ceil(events.offset_s).astype(np.int64)
    for row, start, end in zip(events.row, events.onset_s.astype(np.int64), ends, strict=True):
        positive[row, start:end] = True
    inside = np.arange(segments.shape[1]) < n_segments[:, None]
    return Segments(segments[inside], positive[inside], np.nonzero(inside)[0])


def _partial_area(segments: Segments, weights: np.ndarray) -> np.ndarray:
    """Area (R,) under the staircase up to MAX_FPR, divided by it."""
    # Each negative segment, from the highest down, is a step of the false positive rate; its height
    # is the share of positive segments that score strictly higher.
    negative_row, negative = (of[~segments.positive] for of in (segments.row, segments.score))
    order = np.argsort(-negative)
    negative, negative_row = negative[order], negative_row[order]
    positive_row, positive = (of[segments.positive] for of in (segments.row, segments.score))
    order = np.argsort(positive)
    positive_row = positive_row[order]
    not_higher = positive[order].searchsorted(negative, side="right")

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
RANKINGS = {
    "pauroc": segment_pauroc,
    "mpauc": second_pauroc,
    "f1_mo": segment_best_f1,
    "map": clip_precision,
}
