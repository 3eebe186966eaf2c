"""The sources of a recipe, opened: clips, their events, and the classes of the head."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hear_ptsed.grid import WINDOW_S
from hear_ptsed.labels import load_labels
from training.data.annotations import Events, joined, merged, read_events, read_names
from training.data.batch import ClipSet
from training.data.clips import Clips, open_clips
from training.data.coverage import Coverage, coverage
from training.data.tables import read_lines, read_records
from training.recipe import Recipe, Source


def class_names(recipe: Recipe, train: Sequence[Events]) -> list[str]:
    """The classes of the head, in its order."""
    choice = recipe.data.classes
    if choice == "audioset_strong":
        return load_labels()
    if choice == "events":
        return sorted({name for events in train for name in events.labels})
    return names_in(recipe.path(choice))


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


@dataclass(frozen=True)
class Opened:
    """The sources of one part of a recipe (train or eval), opened."""

    clips: list[Clips]
    events: list[Events]  # of each source
    annotated: list[list[str] | None]
    times: str = "exact"  # see Data.label_times

    @classmethod
    def of(cls, sources: Sequence[Source], recipe: Recipe, unknown: str) -> "Opened":
        """Open the sources; `unknown` says what to do about labels without a name."""
        names = None if recipe.data.names is None else read_names(recipe.path(recipe.data.names))
        clips, events, annotated = [], [], []
        files: dict[str, Events] = {}
        for source in sources:
            opened = open_clips(recipe.path(source.audio))
            opened.channels = recipe.data.channels
            if source.events is not None:
                path = recipe.path(source.events)
                if source.events not in files:
                    files[source.events] = read_events(
                        path, names=names, unknown=unknown, zero_length=recipe.data.zero_length
                    )
                found = files[source.events]
            else:
                found = opened.events()
            if found is None and recipe.data.labels == "weak":
                found = _stored_labels(opened, recipe)
            if found is None:
                raise ValueError(
                    f"{source.audio} carries no events; name an annotation file: {{audio: "
                    f"{source.audio}, events: FILE}}"
                )
            clips.append(opened)
            events.append(found)
            file = source.classes
            annotated.append(None if file is None else names_in(recipe.path(file)))
        return cls(clips, events, annotated, recipe.data.label_times)

    def clip_set(self, classes: list[str], labels: str) -> ClipSet:
        """The clips that have events, first source first; a clip in several counts once."""
        column = {name: c for c, name in enumerate(classes)}
        place, keys, firsts, parts = [], [], [], []
        seen: set[str] = set()
        for s, (clips, events) in enumerate(zip(self.clips, self.events, strict=True)):
            if labels == "strong":
                events = merged(events)
            row = {key: i for i, key in enumerate(events.clips)}
            to_class = np.array([column.get(name, -1) for name in events.labels], np.int32)
            for i, key in enumerate(clips.keys):
                at = row.get(key)
                if at is None or key in seen:
                    continue
                seen.add(key)
                span = slice(events.first[at], events.first[at + 1])
                label = to_class[events.label[span]]
                known = label >= 0
                place.append((s, i))
                keys.append(key)
                firsts.append(int(known.sum()))
                parts.append(
                    (label[known], events.onset_s[span][known], events.offset_s[span][known])
                )
        if not keys:
            raise ValueError(f"none of the clips of {self.clips[0].path} is in the annotation")
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        covered = [np.isin(classes, classes if a is None else a) for a in self.annotated]
        return ClipSet(
            classes,
            self.clips,
            np.array(place, np.int32),
            keys,
            np.concatenate([[0], np.cumsum(firsts)]).astype(np.int64),
            *columns,
            np.stack(covered),
            times=self.times,
        )

    def joined(self) -> Events:
        """The events of all sources with a length, overlapping ones of a class merged."""
        once = {id(events): events.with_length() for events in self.events}
        return merged(joined(list(once.values())))

    def coverage(self, classes: list[str]) -> list[Coverage]:
        """What is there of what each annotation names."""
        groups: dict[int, tuple[list[Clips], Events]] = {}
        for clips, events in zip(self.clips, self.events, strict=True):
            groups.setdefault(id(events), ([], events))[0].append(clips)
        return [coverage(clips, events, classes) for clips, events in groups.values()]


def _stored_labels(clips: Clips, recipe: Recipe) -> Events | None:
    """Clip labels stored beside the audio, as events of the whole clip."""
    stored = clips.clip_labels()
    if stored is None:
        return None
    if recipe.data.classes in ("audioset_strong", "events"):
        raise ValueError(
            f"{clips.path} stores {stored.shape[1]} classes per clip; name them: data.classes: FILE"
        )
    names = names_in(recipe.path(recipe.data.classes))
    if len(names) != stored.shape[1]:
        raise ValueError(
            f"{clips.path} stores {stored.shape[1]} classes per clip, {recipe.data.classes} names "
            f"{len(names)}"
        )
    order = np.argsort(names)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    rows, label = np.nonzero(stored[:, order])
    first = np.concatenate([[0], np.cumsum(stored.astype(bool).sum(1))])
    onset, offset = np.zeros(len(rows)), np.full(len(rows), float(WINDOW_S))
    return Events(
        list(clips.keys),
        sorted(names),
        first.astype(np.int64),
        label.astype(np.int32),
        onset,
        offset,
    )
