"""The sources of a recipe, opened: clips, their events, and the classes of the head."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from hear_ptsed.grid import WINDOW_S
from hear_ptsed.labels import load_labels
from training.data.annotations import Events, joined, merged, read_events, read_names, stack
from training.data.batch import ClipSet
from training.data.clips import Clips, open_clips
from training.data.coverage import Coverage, coverage
from training.data.pseudo_labels import PseudoLabels
from training.data.tables import read_lines, read_records
from training.labels import LABELS, Labels
from training.recipe import Data, Source


def class_names(data: Data, train: Sequence[Events]) -> list[str]:
    """The classes of the head, in its order.

    Args:
        train: the annotations that are learned from.
    """
    if data.classes == "audioset_strong":
        return load_labels()
    if data.classes == "events":
        return sorted({name for events in train for name in events.labels})
    return names_in(data.path(data.classes))


def names_in(path: Path) -> list[str]:
    """Class names in a file: one per line, or the column display_name of a CSV."""
    names = [name for _, line in read_lines(path) if (name := line.strip())]
    header = [name.strip('" ') for name in re.split("[\t,]", names[0])] if names else []
    if "display_name" in header:
        names = [row["display_name"] for _, row in read_records(path, ["display_name"])]
    if len(set(names)) != len(names) or not all(names) or not names:
        raise ValueError(
            f"{path}: {len(names)} class names, {len(set(names) - {''})} different ones that are "
            "not empty; give each class once"
        )
    return names


class AnnotatedClips(NamedTuple):
    """A source, opened."""

    clips: Clips
    annotation: int  # in the list of OpenSources
    classes: list[str] | None = None  # that its annotation covers; None: all


@dataclass(frozen=True)
class OpenSources:
    """The sources of one part of a recipe (train or eval), and their annotations, each once."""

    annotations: list[Events]
    sources: list[AnnotatedClips]
    labels: Labels
    times: str = "exact"  # see Data.label_times

    def clip_set(self, classes: list[str], pseudo: PseudoLabels | None = None) -> ClipSet:
        """The clips that have events, first source first; a clip in several counts once."""
        annotations = [self.labels.prepare(events) for events in self.annotations]
        place: dict[str, tuple[int, int]] = {}
        parts = []
        for s, source in enumerate(self.sources):
            events = annotations[source.annotation]
            row_of, rows = {key: row for row, key in enumerate(events.clips)}, []
            for i, key in enumerate(source.clips.keys):
                if key in row_of and key not in place:
                    place[key] = (s, i)
                    rows.append(row_of[key])
            parts.append(events.restrict(np.array(rows, np.int64), classes))
        if not place:
            raise ValueError(
                f"none of the clips of {self.sources[0].clips.path} is in the annotation"
            )
        covered = [np.isin(classes, source.classes or classes) for source in self.sources]
        return ClipSet(
            [source.clips for source in self.sources],
            np.array(list(place.values()), np.int32),
            stack(parts),
            np.stack(covered),
            np.array([source.annotation for source in self.sources]),
            self.coverage(classes),
            pseudo,
            self.times,
        )

    def merged_events(self) -> Events:
        """The events of all annotations with a length, overlapping ones of a class merged."""
        return merged(joined([events.with_length() for events in self.annotations]))

    def coverage(self, classes: list[str]) -> list[Coverage]:
        """What is there of what each annotation names."""
        return [
            coverage([s.clips for s in self.sources if s.annotation == a], events, classes)
            for a, events in enumerate(self.annotations)
        ]


def open_sources(
    sources: Sequence[Source], data: Data, labels: Labels, unknown: Literal["error", "keep"]
) -> OpenSources:
    """Open the sources of one part of a recipe.

    Args:
        sources: `data.train` or `data.eval`.
        data: how they are read.
        unknown: what becomes of mids without a name, see read_events.
    """
    names = None if data.names is None else read_names(data.path(data.names))
    annotations: list[Events] = []
    of_file: dict[str, int] = {}  # annotation file -> its number
    opened = []
    for source in sources:
        clips = open_clips(data.path(source.audio))
        clips.channels = data.channels
        annotation = len(annotations)
        if source.events is None:
            annotations.append(_stored_events(clips, source, data, labels))
        elif source.events in of_file:
            annotation = of_file[source.events]
        else:
            of_file[source.events] = annotation
            path, kept = data.path(source.events), data.zero_length
            annotations.append(read_events(path, names=names, unknown=unknown, zero_length=kept))
        classes = None if source.classes is None else names_in(data.path(source.classes))
        opened.append(AnnotatedClips(clips, annotation, classes))
    return OpenSources(annotations, opened, labels, data.label_times)


def open_extra(sources: Sequence[Source], data: Data) -> ClipSet:
    """The clips of `extra.clips`, with the labels that they are chosen by.

    Args:
        data: how they are read.
    """
    named_by_source = replace(data, classes="events")
    opened = open_sources(sources, named_by_source, LABELS["weak"], unknown="keep")
    return opened.clip_set(class_names(named_by_source, opened.annotations))


def _stored_events(clips: Clips, source: Source, data: Data, labels: Labels) -> Events:
    """What an audio source itself holds."""
    events = clips.events()
    if events is None and labels.of_clips and (stored := clips.clip_labels()) is not None:
        return _whole_clip_events(clips, stored, source, data)
    if events is None:
        raise ValueError(
            f"{source.audio} carries no events; name an annotation file: {{audio: "
            f"{source.audio}, events: FILE}}"
        )
    return events


def _whole_clip_events(clips: Clips, stored: np.ndarray, source: Source, data: Data) -> Events:
    """Clip labels (N, n) stored beside the audio, as events of the whole clip."""
    n, file = stored.shape[1], data.classes
    if file in ("audioset_strong", "events"):
        file = source.classes
    if file is None:
        raise ValueError(
            f"{clips.path} stores {n} classes per clip; name them: data.classes: FILE, of "
            f"extra.clips {{audio: {source.audio}, classes: FILE}}"
        )
    names = names_in(data.path(file))
    if len(names) != n:
        raise ValueError(f"{clips.path} stores {n} classes per clip, {file} names {len(names)}")
    order = np.argsort(names)
    rows, label = np.nonzero(stored[:, order])
    first = np.concatenate([[0], np.cumsum(stored.astype(bool).sum(1))])
    return Events(
        list(clips.keys),
        sorted(names),
        first.astype(np.int64),
        label.astype(np.int32),
        np.zeros(len(rows)),
        np.full(len(rows), float(WINDOW_S)),
    )
