"""Labels of RealDESED's training clips, from the annotations of several people.

Each annotator of a clip has a matrix of frames (T, C), active where the centre of a frame of 40 ms
lies in an event. A rule makes one matrix of them, and its runs of equal values are the labels. Who
marked nothing in a clip has no row and does not vote.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from hear_ptsed.grid import FRAME_MS, FRAMES_PER_SECOND, n_frames
from training.data.tables import read_records

CLASSES = (
    *("bell_ringing", "coffee_machine", "cutlery_dishes", "door_open_close", "footsteps"),
    *("keyboard_typing", "keychain", "light_switch", "microwave", "phone_ringing"),
    *("running_water", "toilet_flushing", "vacuum_cleaner", "wardrobe_drawer_open_close"),
    "window_open_close",
)
EVENT = ("filename", "onset", "offset", "class")  # columns of all tables of annotations
RAW = (*EVENT, "annotator_id", "annotator_is_creator", "review_status", "reviewer_id")
STATUS = ("accepted", "rejected", "unreviewed")
POWER = 16  # of the quality that weighs an annotator
PRIOR_CLIPS = 5  # as many clips of mean quality count with those of an annotator

Span = tuple[float, float, str]  # onset and offset in seconds, class


@dataclass
class Annotations:
    """What people marked in one clip, by annotator."""

    unreviewed: dict[str, list[Span]] = field(default_factory=dict)
    accepted: dict[str, list[Span]] = field(default_factory=dict)
    creators: set[str] = field(default_factory=set)  # annotators who recorded the clip


def read_annotations(path: Path) -> dict[str, list[Span]]:
    """File -> events of a table with one annotation of each clip."""
    clips: dict[str, list[Span]] = {}
    for where, row in _rows(path, EVENT):
        clips.setdefault(row["filename"], []).append(_span(row, where))
    return clips


def read_raw(path: Path) -> dict[str, Annotations]:
    """File -> annotations that were not rejected; a row that comes twice counts once."""
    clips: dict[str, Annotations] = {}
    seen = set()
    for where, row in _rows(path, RAW):
        if (key := tuple(row.values())) in seen:
            continue
        seen.add(key)
        status, creator = row["review_status"], row["annotator_is_creator"]
        if status not in STATUS or creator not in ("True", "False"):
            raise ValueError(
                f"{where}: review_status {status!r}, annotator_is_creator {creator!r}; expected "
                f"one of {', '.join(STATUS)}, and True or False"
            )
        span, annotator = _span(row, where), row["annotator_id"]
        if status == "rejected":
            continue
        clip = clips.setdefault(row["filename"], Annotations())
        of_status = clip.accepted if status == "accepted" else clip.unreviewed
        of_status.setdefault(annotator, []).append(span)
        if creator == "True":
            clip.creators.add(annotator)
    return clips


def _rows(path: Path, columns: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    for number, row in read_records(path, columns):
        yield f"{path}, line {number}", row


def _span(row: Mapping[str, str], where: str) -> Span:
    """The event of a row, checked."""
    label = row["class"].strip()
    if label not in CLASSES:
        raise ValueError(f"{where}: unknown label {label!r}; known: {', '.join(CLASSES)}")
    try:
        onset_s, offset_s = float(row["onset"]), float(row["offset"])
        valid = 0 <= onset_s <= offset_s < float("inf")
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            f"{where}: times {row['onset']!r} and {row['offset']!r}; expected seconds, 0 <= onset "
            "<= offset"
        )
    return onset_s, offset_s, label


def frame_matrix(spans: Iterable[Span], frames: int) -> np.ndarray:
    """(T, C) bool: where onset <= centre of the frame < offset."""
    active = np.zeros((frames, len(CLASSES)), bool)
    for onset_s, offset_s, label in spans:
        # Rounded: times in a table are decimal, and may lie on a centre.
        places = np.round(np.array([onset_s, offset_s]) * FRAMES_PER_SECOND - 0.5, 6)
        first, stop = np.ceil(places).astype(int).clip(0)
        active[first:stop, CLASSES.index(label)] = True
    return active


def annotator_quality(clips: Iterable[Annotations]) -> dict[str, tuple[float, int]]:
    """Annotator -> agreement with the others on clips that were not reviewed, and their number.

    In a clip it is the mean over the others of F1 of frames, a mean over classes that either of the
    two marked. The mean over clips is drawn to that of all annotators where there are few.
    """
    of_clips: dict[str, list[float]] = {}
    for clip in clips:
        if len(clip.unreviewed) < 2:
            continue
        last_s = max(offset_s for spans in clip.unreviewed.values() for _, offset_s, _ in spans)
        frames = int(np.ceil(last_s * FRAMES_PER_SECOND))
        marked = {name: frame_matrix(spans, frames) for name, spans in clip.unreviewed.items()}
        agreement: dict[str, list[float]] = {name: [] for name in marked}
        for a, b in combinations(marked, 2):
            size = marked[a].sum(0) + marked[b].sum(0)
            if size.any():
                both = 2 * (marked[a] & marked[b]).sum(0)
                f1 = float((both[size > 0] / size[size > 0]).mean())
                agreement[a].append(f1)
                agreement[b].append(f1)
        for name, values in agreement.items():
            if values:
                of_clips.setdefault(name, []).append(float(np.mean(values)))
    raw = {name: float(np.mean(values)) for name, values in of_clips.items()}
    mean = float(np.mean([*raw.values()])) if raw else 1.0
    quality = {}
    for name, value in sorted(raw.items()):
        n = len(of_clips[name])
        share = n / (n + PRIOR_CLIPS)
        quality[name] = share * value + (1 - share) * mean, n
    return quality


# Rule -> (A, T, C) of the annotators of a clip and their weights (A,) -> (T, C) of 0 to 1.
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
RULES: dict[str, Rule] = {
    "majority": lambda marked, _: marked.mean(0) >= 0.5,
    "intersection": lambda marked, _: marked.all(0),
    "union": lambda marked, _: marked.any(0),
    "soft": lambda marked, _: marked.mean(0),
    "weighted": lambda marked, weights: np.average(marked, axis=0, weights=weights),
}


class Labeller:
    """Makes the labels of a training clip by one rule.

    Args:
        rule: of RULES; one: an annotator drawn for each clip; recorder: who recorded the clip, else
            the majority; with "_reviewed": annotations that a reviewer accepted, where there are
            some, and without weights.
        quality: of annotators, see `annotator_quality`; others have the mean.
    """

    def __init__(self, rule: str, quality: Mapping[str, tuple[float, int]]):
        self.rule, self.reviewed = rule.removesuffix("_reviewed"), rule.endswith("_reviewed")
        self.quality = {name: value for name, (value, _) in quality.items()}
        self.mean = float(np.mean([*self.quality.values()])) if quality else 1.0

    def annotators(self, clip: Annotations) -> dict[str, list[Span]]:
        """Who is asked, and what they marked; nobody where the clip is of no use."""
        return clip.accepted if self.reviewed and clip.accepted else clip.unreviewed

    def label(self, file: str, clip: Annotations, samples: int) -> list[dict[str, Any]]:
        """Events in ms with their value.

        Args:
            samples: of the clip at 16 kHz.
        """
        spans = self.annotators(clip)
        rule = "soft" if self.rule == "weighted" and spans is clip.accepted else self.rule
        names = sorted(spans)
        if rule == "one":
            names, rule = [random.Random(file).choice(names)], "majority"
        if rule == "recorder":
            names, rule = sorted(clip.creators & spans.keys()) or names, "majority"
        marked = np.stack([frame_matrix(spans[name], n_frames(samples)) for name in names])
        weights = np.array([self.quality.get(name, self.mean) for name in names]) ** POWER
        # All but 0 is no weight at all: they count the same.
        weights = weights if weights.sum() > 0 else np.ones(len(names))
        return runs_of_values(RULES[rule](marked, weights))


def runs_of_values(values: np.ndarray) -> list[dict[str, Any]]:
    """Events of frames (T, C): runs of one value above 0, by start."""
    edges = np.zeros((1, values.shape[1]))
    changes = np.diff(np.concatenate([edges, values, edges]), axis=0) != 0
    events = []
    for k, label in enumerate(CLASSES):
        places = np.flatnonzero(changes[:, k])
        for first, stop in zip(places[:-1], places[1:], strict=True):
            if value := float(values[first, k]):
                times = {"start": float(FRAME_MS * first), "end": float(FRAME_MS * stop)}
                events.append({"label": label} | times | {"value": value})
    return sorted(events, key=lambda event: (event["start"], event["label"]))
