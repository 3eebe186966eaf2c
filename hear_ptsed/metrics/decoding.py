"""Frame scores -> events, as heareval makes them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hear_ptsed.events import median_filter, runs
from hear_ptsed.grid import FRAME_MS
from hear_ptsed.metrics.checks import check_probabilities

FIRST_MS = FRAME_MS / 2  # centre of the first frame


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
