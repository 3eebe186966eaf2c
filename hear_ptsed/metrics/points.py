"""PSDS1, segment pAUROC and average precision, one class at a time and of many resamples at once.

PSDS1 is computed by sed_scores_eval; its change points are prepared here.

The library visits every pair of class and clip and sorts all change points together. Nearly all
pairs have no event, where the points are the local extrema of the scores, and nearly all points
lie at more false positives per hour than PSDS1 looks at. Finding the extrema of a class in one
go and leaving those points out changes no digit of the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sed_scores_eval import intersection_based
from sed_scores_eval.base_modules.cy_detection import onset_offset_curves
from sed_scores_eval.intersection_based.intermediate_statistics import statistics_fn

HOP_S = 0.04  # of the score frames
DTC = GTC = 0.7  # tolerance of detections, of ground-truth intersections
ALPHA_ST = 1.0  # weight of the deviation between classes
MAX_EFPR = 100.0  # false positives per hour
SEGMENT_FRAMES = 25  # in a segment of 1 s
MAX_FPR = 0.1  # of segments


@dataclass(frozen=True)
class ClassEvents:
    """Events of one class, sorted by row and onset, those of a row apart from each other."""

    row: np.ndarray  # (E,) clip, as row of the scores
    onset_s: np.ndarray  # (E,)
    offset_s: np.ndarray  # (E,)


@dataclass(frozen=True)
class ChangePoints:
    """Changes of one class as the threshold falls, (P,) each, from the highest score down."""

    row: np.ndarray  # clip
    tps: np.ndarray  # change of the true positives
    fps: np.ndarray  # change of the false positives
    last: np.ndarray  # (G,) last point of each group of equal scores


def lowest_score(top: np.ndarray, weights: np.ndarray, hours: np.ndarray) -> float:
    """Score that PSDS1 does not look at, nor anything below it; -inf where it may see all.

    Each event-free clip has at least one false positive at any threshold up to its maximum.

    Args:
        top: (n,) maxima of the event-free clips of a class.
        weights: (R, n) how often each of these clips counts, in each of R resamples.
        hours: (R,) audio in each resample.
    """
    order = np.argsort(-top)
    # One more than the first whole number beyond the limit: safe from rounding in the library.
    too_many = np.floor(MAX_EFPR * hours) + 2
    reached = (np.cumsum(weights[:, order], axis=1) < too_many[:, None]).sum(1).max()
    return float(top[order[reached]]) if reached < len(top) else -np.inf


def change_points(x: np.ndarray, events: ClassEvents, lowest: float) -> ChangePoints:
    """Where the counts of one class change, at scores (N, T) above `lowest`."""
    free = np.ones(len(x), dtype=bool)
    free[events.row] = False
    parts = [_without_events(x, np.flatnonzero(free), lowest)]
    rows, starts = np.unique(events.row, return_index=True)
    timestamps = np.arange(x.shape[1] + 1) * HOP_S
    for row, start, end in zip(rows, starts, [*starts[1:], len(events.row)], strict=True):
        spans = events.onset_s[start:end], events.offset_s[start:end]
        score, tps, fps = _with_events(x[row], timestamps, *spans, lowest)
        parts.append((score, np.full(len(score), row), tps, fps))
    score, row, tps, fps = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-score)
    score = score[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], len(score) > 0))
    return ChangePoints(row[order], tps[order], fps[order], last)


def _without_events(x: np.ndarray, rows: np.ndarray, lowest: float) -> tuple[np.ndarray, ...]:
    # Every detection is false: one begins at a local maximum, two become one at a local minimum.
    rows = rows[x[rows].max(1) > lowest]
    x = x[rows]
    rises = np.ones((len(x), x.shape[1] + 1), dtype=np.int8)
    rises[:, 1:-1] = x[:, 1:] > x[:, :-1]
    rises[:, -1] = 0
    change = rises[:, :-1] - rises[:, 1:]
    at = np.nonzero((change != 0) & (x > lowest))
    return x[at], rows[at[0]], np.zeros(len(at[0]), dtype=np.int64), change[at].astype(np.int64)


def _with_events(
    x: np.ndarray, timestamps: np.ndarray, onset: np.ndarray, offset: np.ndarray, lowest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    thresholds = np.unique(x[x > lowest])
    _, starts, ends = onset_offset_curves(x, timestamps, thresholds)
    counts = statistics_fn(
        starts, ends, onset, offset, {}, {}, dtc_threshold=DTC, gtc_threshold=GTC,
        cttc_threshold=None,
    )  # fmt: skip
    tps, fps = (counts[key] - np.append(counts[key][1:], 0) for key in ("tps", "fps"))
    at = np.flatnonzero((tps != 0) | (fps != 0))
    return thresholds[at].astype(x.dtype), tps[at], fps[at]


def counts_of(points: ChangePoints, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (P',) as the threshold falls, without points PSDS1 cannot see.

    Of neighbouring thresholds with the same true positives, only the fewest false positives
    show in the curve.

    Args:
        weights: (N,) how often each clip counts.
    """
    times = weights[points.row]
    # The first point is that of a threshold above all scores.
    tps = np.append(0, np.cumsum(times * points.tps)[points.last])
    fps = np.append(0, np.cumsum(times * points.fps)[points.last])
    starts = np.flatnonzero(np.diff(tps, prepend=-1))
    return tps[starts].astype(np.int32), np.minimum.reduceat(fps, starts).astype(np.int32)


def psds1(
    counts: Mapping[str, tuple[np.ndarray, np.ndarray]], n_events: Mapping[str, int], seconds: float
) -> tuple[float, dict[str, float]]:
    """PSDS1 with variance penalty, and of each class, by sed_scores_eval.

    Args:
        counts: of each class, true and false positives (P',) from `counts_of`.
        n_events: events of each class, at least one.
        seconds: of audio in all.
    """
    deltas, events = {}, []
    for name, (tps, fps) in counts.items():
        # The library sees one file. It only compares scores, and it only counts the events.
        ranks = -np.arange(len(tps), dtype=float)
        changes = {"tps": np.diff(tps, prepend=0), "fps": np.diff(fps, prepend=0)}
        deltas[name] = ranks, {**changes, "cts": np.zeros(len(tps))}
        events += [(2.0 * i, 2.0 * i + 1.0, name) for i in range(n_events[name])]
    value, per_class, *_ = intersection_based.psds(
        None, {"all": events}, {"all": seconds}, deltas={"all": deltas}, dtc_threshold=DTC,
        gtc_threshold=GTC, cttc_threshold=None, alpha_ct=0.0, alpha_st=ALPHA_ST,
        unit_of_time="hour", max_efpr=MAX_EFPR,
    )  # fmt: skip
    return float(value), {name: float(psds) for name, psds in per_class.items()}


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
    best = np.maximum.reduceat(x, np.arange(0, x.shape[1], SEGMENT_FRAMES), axis=1)
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
