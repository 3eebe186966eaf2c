"""Frame scores -> events: as heareval makes them, or by bounding boxes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hear_ptsed.boxes import BoxSettings, boxes_by_class
from hear_ptsed.events import median_filter, runs
from hear_ptsed.grid import FRAME_MS
from hear_ptsed.metrics.checks import check_probabilities

FIRST_MS = FRAME_MS / 2  # centre of the first frame
BY_BOXES = {"decoder": "sebb"}  # settings of a metric, in records


@dataclass(frozen=True)
class Decoding:
    """How frame probabilities become events, HEAR's way."""

    median_ms: float  # 0 for no filter
    min_ms: float  # from the centre of the first frame to that of the last
    threshold: float = 0.5  # an event lies strictly above it

    def __post_init__(self) -> None:
        if not (0 <= self.median_ms < math.inf and 0 <= self.min_ms < math.inf):
            raise ValueError(f"median_ms and min_ms must be 0 or more milliseconds, got {self}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold {self.threshold} is no probability; give one from 0 to 1")


def decode_as_heareval(
    probabilities: np.ndarray, classes: Sequence[str], decoding: Decoding, hop_ms: int = FRAME_MS
) -> list[dict[str, Any]]:
    """Events [{"label", "start", "end"}] in ms by start, as heareval makes them.

    An event begins at the centre of its first frame and ends at the centre of its last.

    Args:
        probabilities: (T, C)
        hop_ms: from frame to frame.
    """
    check_probabilities(probabilities, classes)
    width = round(decoding.median_ms / hop_ms)
    if width:
        probabilities = median_filter(probabilities, width)
    events = [
        {
            "label": classes[c],
            "start": FIRST_MS + hop_ms * first,
            "end": FIRST_MS + hop_ms * (stop - 1),
        }
        for c, first, stop in runs(probabilities > decoding.threshold)
        if hop_ms * (stop - 1 - first) >= decoding.min_ms
    ]
    return sorted(events, key=lambda event: event["start"])


@dataclass(frozen=True)
class BoxDecoding:
    """How frame probabilities become bounding boxes (SEBB), of each class."""

    areas: Sequence[BoxSettings]  # before areas under curves
    events: Sequence[BoxSettings]
    thresholds: Sequence[float]  # of events, which lie strictly above


def frame_borders_ms(n: int, hop_ms: int) -> np.ndarray:
    """Borders (n + 1,) of `n` frames: halfway between centres, the first one 0."""
    borders_ms = (FRAME_MS - hop_ms) / 2 + hop_ms * np.arange(n + 1)
    borders_ms[0] = 0
    return borders_ms


def real_frames(n: int, duration_s: float, hop_ms: int) -> int:
    """Of `n` frames those that do not begin after the end of the audio."""
    borders_s = frame_borders_ms(n, hop_ms) / 1000.0
    return min(int(np.searchsorted(borders_s, duration_s)), n)


def decode_by_boxes(
    probabilities: np.ndarray,
    classes: Sequence[str],
    decoding: BoxDecoding,
    duration_s: float,
    hop_ms: int = FRAME_MS,
) -> list[dict[str, Any]]:
    """Events [{"label", "start", "end"}] in ms by start, from border to border of frames.

    Args:
        probabilities: (T, C)
        duration_s: of the audio; frames that begin after it are cut first.
        hop_ms: from frame to frame.
    """
    check_probabilities(probabilities, classes)
    probabilities = probabilities[: real_frames(len(probabilities), duration_s, hop_ms)]
    borders_ms = frame_borders_ms(len(probabilities), hop_ms).tolist()
    boxes = boxes_by_class(probabilities, decoding.events, hop_ms)
    events = [
        {"label": classes[c], "start": borders_ms[first], "end": borders_ms[stop]}
        for c, first, stop, score in zip(*(column.tolist() for column in boxes), strict=True)
        if score > decoding.thresholds[c]
    ]
    return sorted(events, key=lambda event: event["start"])
