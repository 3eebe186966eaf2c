"""Scores of 40 ms frames -> events: by median filter and thresholds, or by bounding boxes."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hear_ptsed.boxes import DEFAULT, BoxSettings, boxes_by_class
from hear_ptsed.grid import FRAMES_PER_SECOND, SAMPLE_RATE, n_frames

THRESHOLD = 0.5
MEDIAN = 9  # frames, 360 ms


class Event(NamedTuple):
    """One sound event."""

    label: str
    onset_s: float
    offset_s: float
    score: float = 1.0


Edges = Literal["reflected", "copied"]  # what the frames of a clip's ends are smoothed with


def median_filter(
    scores: np.ndarray, sizes: int | Sequence[int], edges: Edges = "reflected"
) -> np.ndarray:
    """Running median over time as SciPy's: an even size reaches further back.

    Args:
        scores: (T, C).
        sizes: frames, one for all classes or one for each.
        edges: reflected; or copied: a frame without a whole window has the median of the nearest
            one, and a clip shorter than the window the median of it all.
    Returns:
        (T, C)
    """
    filtered = np.empty_like(scores)
    for c, size in enumerate(np.broadcast_to(sizes, scores.shape[1]).tolist()):
        if size < 1:
            raise ValueError(f"median of {size} frames; allowed is 1 (no filter) or more")
        column, copied = scores[:, c], edges == "copied"
        size = min(size, len(scores)) if copied else size
        beyond = size // 2, (size - 1) // 2
        padded = column if copied else np.pad(column, beyond, mode="symmetric")
        windows = sliding_window_view(padded, size)  # (T, size), of copied edges fewer
        medians = np.partition(windows, size // 2, axis=1)[:, size // 2]
        filtered[:, c] = np.pad(medians, beyond, mode="edge") if copied else medians
    return filtered


def runs(active: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Runs of active frames in (T, C) bool: class, first frame, frame after the last; by class."""
    steps = np.diff(np.pad(active, ((1, 1), (0, 0))).T.astype(np.int8), axis=1)  # (C, T + 1)
    columns, first = np.nonzero(steps == 1)
    stop = np.nonzero(steps == -1)[1]
    return zip(columns.tolist(), first.tolist(), stop.tolist(), strict=True)


def decode(
    scores: np.ndarray,
    classes: Sequence[str],
    *,
    threshold: float | Sequence[float] = THRESHOLD,
    median: int | Sequence[int] = MEDIAN,
    duration_s: float | None = None,
) -> list[Event]:
    """Runs of frames whose filtered score lies above the threshold, by class and then by time.

    Args:
        scores: (T, C), probabilities at 25 frames per second.
        threshold, median: one for all classes or one for each; an event is strictly above.
        duration_s: of the audio; frames centred after it are cut before anything else, and
            offsets do not go beyond it.
    Returns:
        Events, each with the mean of its filtered scores.
    """
    scores, end_s = _within(scores, classes, duration_s)
    threshold = np.broadcast_to(threshold, len(classes))
    # The median is at most the highest score: classes that stay below need no filter.
    live = np.flatnonzero((scores > threshold).any(0))
    scores = median_filter(scores[:, live], np.broadcast_to(median, len(classes))[live])
    events = []
    for c, start, stop in runs(scores > threshold[live]):
        onset_s, offset_s = start / FRAMES_PER_SECOND, min(stop / FRAMES_PER_SECOND, end_s)
        if onset_s < offset_s:
            mean = float(scores[start:stop, c].mean(dtype=np.float64))
            events.append(Event(classes[live[c]], onset_s, offset_s, mean))
    return events


class Edge(NamedTuple):
    """A sound event begins or, with an offset, ends."""

    label: str
    onset_s: float
    offset_s: float | None = None
    score: float | None = None


class Decoder:
    """`decode` for scores that come piece by piece, of which it keeps no more than the filter sees.

    Args:
        threshold, median: see `decode`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        threshold: float | Sequence[float] = THRESHOLD,
        median: int | Sequence[int] = MEDIAN,
    ):
        self._classes = classes
        self._threshold = np.broadcast_to(threshold, len(classes))
        self._median = np.broadcast_to(median, len(classes))
        self._longest = int(self._median.max())
        self._kept = np.empty((0, len(classes)), np.float32)
        self._first = self._done = 0  # frames: that of the first kept score, and decoded ones
        self._open: dict[int, tuple[int, float]] = {}  # class: first frame, sum of scores

    def feed(self, scores: np.ndarray) -> list[Edge]:
        """What begins and ends, by time, as far as the filter knows with these scores (T, C)."""
        scores, _ = _within(scores, self._classes, None)
        self._kept = np.concatenate([self._kept, scores])
        return self._advance(len(self._kept) - (self._longest - 1) // 2)

    def finish(self, duration_s: float) -> list[Edge]:
        """The rest of the edges; all events end with the audio."""
        edges = self._advance(len(self._kept))
        end_s = min(self._done / FRAMES_PER_SECOND, duration_s)
        for c, (first, total) in sorted(self._open.items()):
            edges.append(self._end(c, first, total, self._done)._replace(offset_s=end_s))
        return edges

    def _advance(self, until: int) -> list[Edge]:
        """Decode kept scores up to a row; see `decode` for `live`."""
        begin = self._done - self._first
        if until <= begin:
            return []
        live = np.flatnonzero((self._kept > self._threshold).any(0))
        filtered = np.zeros((until - begin, len(self._classes)))
        filtered[:, live] = median_filter(self._kept[:, live], self._median[live])[begin:until]
        active = np.zeros(filtered.shape, bool)
        active[:, live] = filtered[:, live] > self._threshold[live]
        edges = self._edges(active, filtered)
        self._done += until - begin
        unneeded = max(until - self._longest // 2, 0)
        self._kept, self._first = self._kept[unneeded:], self._first + unneeded
        return sorted(edges, key=lambda e: e.onset_s if e.offset_s is None else e.offset_s)

    def _edges(self, active: np.ndarray, filtered: np.ndarray) -> list[Edge]:
        """Of the next frames, (T, C) both."""
        before = np.zeros((1, len(self._classes)), bool)
        before[0, list(self._open)] = True
        edges = []
        for c, start, stop in runs(np.concatenate([before, active])):
            if start:
                first, total = self._done + start - 1, 0.0
                edges.append(Edge(self._classes[c], first / FRAMES_PER_SECOND))
            else:
                first, total = self._open.pop(c)
            total += float(filtered[max(start - 1, 0) : stop - 1, c].sum())
            if stop <= len(active):
                edges.append(self._end(c, first, total, self._done + stop - 1))
            else:
                self._open[c] = first, total
        return edges

    def _end(self, c: int, first: int, total: float, stop: int) -> Edge:
        onset_s, offset_s = first / FRAMES_PER_SECOND, stop / FRAMES_PER_SECOND
        return Edge(self._classes[c], onset_s, offset_s, total / (stop - first))


def decode_boxes(
    scores: np.ndarray,
    classes: Sequence[str],
    *,
    threshold: float | Sequence[float] = THRESHOLD,
    settings: Sequence[BoxSettings] | None = None,
    duration_s: float | None = None,
) -> list[Event]:
    """Bounding boxes whose score lies above the threshold, by class and then by time.

    A threshold moves no onset and no offset.

    Args:
        scores, threshold, duration_s: see `decode`.
        settings: of each class; None for the default.
    """
    scores, end_s = _within(scores, classes, duration_s)
    settings = settings or [DEFAULT] * len(classes)
    threshold = np.broadcast_to(threshold, len(classes))
    live = np.flatnonzero((scores > threshold).any(0))  # a box is at most the highest score
    boxes = boxes_by_class(scores[:, live], [settings[c] for c in live])
    events = []
    for c, first, stop, score in zip(*(column.tolist() for column in boxes), strict=True):
        onset_s, offset_s = first / FRAMES_PER_SECOND, min(stop / FRAMES_PER_SECOND, end_s)
        if score > threshold[live[c]] and onset_s < offset_s:
            events.append(Event(classes[live[c]], onset_s, offset_s, score))
    return events


def _within(
    scores: np.ndarray, classes: Sequence[str], duration_s: float | None
) -> tuple[np.ndarray, float]:
    """The frames that are centred in the audio, checked, and where it ends."""
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise ValueError(f"scores of shape {scores.shape}; expected (frames, {len(classes)})")
    if not np.isfinite(scores).all():
        raise ValueError("scores hold NaN or infinity; check the checkpoint and the precision")
    if duration_s is None:
        return scores, math.inf
    return scores[: n_frames(round(duration_s * SAMPLE_RATE))], float(duration_s)
