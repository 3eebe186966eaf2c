"""What is refused before anything is scored, each in one line."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

Events = Mapping[str, Sequence[Mapping[str, Any]]]  # file -> [{"label", "start", "end"}] in ms


def check_metrics(metrics: Sequence[str], known: Collection[str]) -> None:
    """Refuse names that are not known."""
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(known)}")


def check_probabilities(
    probabilities: np.ndarray, classes: Sequence[str], where: str = "probabilities"
) -> None:
    """Refuse what is not a finite (T, C)."""
    shape = np.shape(probabilities)
    if len(shape) != 2 or not shape[0] or shape[1] != len(classes):
        raise ValueError(f"{where}: shape {shape}; expected (frames, {len(classes)})")
    if not np.isfinite(probabilities).all():
        raise ValueError(f"{where}: NaN or infinity; check the training and the precision")


def check_files(reference: Mapping, other: Mapping, what: str) -> None:
    """Refuse two sets of files that differ, or are empty."""
    if not reference:
        raise ValueError("no clip to score; the reference names none")
    if missing := sorted(reference.keys() ^ other.keys()):
        lacks = what if missing[0] in reference else "a reference"
        raise ValueError(
            f"{missing[0]} lacks {lacks}, as do {len(missing) - 1} others; give both for each clip"
        )


def check_events(events: Events, where: str) -> None:
    """Refuse times that are no span of time."""
    for file, of_file in events.items():
        for event in of_file:
            if not -math.inf < event["start"] <= event["end"] < math.inf:
                raise ValueError(
                    f"{where} of {file}: event from {event['start']} to {event['end']} ms; it must "
                    "not end before it begins"
                )
