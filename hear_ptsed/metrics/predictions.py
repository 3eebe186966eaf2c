"""What a model says of the clips of a set, and what there is to be heard in them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hear_ptsed.boxes import BoxSettings, boxes_of
from hear_ptsed.events import Edges, median_filter
from hear_ptsed.grid import FRAME_MS
from hear_ptsed.metrics.checks import Events, check_events, check_files, check_probabilities
from hear_ptsed.metrics.decoding import (
    BoxDecoding,
    Decoding,
    decode_as_heareval,
    decode_by_boxes,
    frame_borders_ms,
    real_frames,
)


class ScoreArray(Mapping[str, np.ndarray]):
    """Frame scores (N, C', T) of N files of one length, any float type, as file -> (T, C).

    They are scored as they stand: already filtered, and not cut at the end of the audio. Not
    float16 probabilities, which saturate: logits.

    Args:
        columns: C of the C' classes.
    """

    def __init__(self, files: Sequence[str], scores: np.ndarray, columns: Sequence[int]):
        if scores.ndim != 3 or not np.issubdtype(scores.dtype, np.floating) or not scores.shape[-1]:
            raise ValueError(
                f"scores must be floats of shape (clips, classes, frames), got {scores.dtype} "
                f"{scores.shape}"
            )
        check_distinct("clip", files)
        self.scores, self.columns = scores, list(columns)
        self.row = {file: i for i, file in enumerate(files)}

    def __getitem__(self, file: str) -> np.ndarray:
        return self.scores[self.row[file], self.columns].T

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)


def check_distinct(what: str, names: Sequence[str]) -> None:
    """Refuse a name that comes twice."""
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{what} {twice!r} comes twice; names must differ")


def paint_boxes(
    x: np.ndarray, frames: np.ndarray, settings: Sequence[BoxSettings], hop_ms: int
) -> Iterator[tuple[BoxSettings, np.ndarray]]:
    """Each of the settings with the scores (n, T) of a class by boxes.

    Args:
        x: (n, T), -inf beyond the frames (n,) of a clip.
    """
    boxes = boxes_of(np.maximum(x, 0), settings, hop_ms, frames)
    behind = np.isneginf(x)
    for each, of_rows in boxes.items():
        yield each, np.where(behind, x, of_rows.paint(*x.shape))


@dataclass(frozen=True)
class ClassEvents:
    """Events of one class, sorted by clip and onset, those of a clip apart from each other."""

    row: np.ndarray  # (E,) clip, as row of the scores
    onset_s: np.ndarray  # (E,)
    offset_s: np.ndarray  # (E,)


@dataclass(frozen=True)
class EventClips:
    """The clips with events, n of them, and the K classes that occur: what areas are made of."""

    files: list[str]  # n, sorted
    classes: list[str]  # K, in the order of the vocabulary
    events: list[ClassEvents]  # K; those of a clip that overlap or touch are one
    durations_s: np.ndarray  # (n,) of the audio without padding
    frames: np.ndarray  # (n,) that are scored
    ends_s: np.ndarray  # (n,) where the last of them ends
    hop_ms: int  # from frame to frame
    column: Callable[[int], np.ndarray]  # class k -> its scores (n, T), -inf beyond the frames

    @cached_property
    def spans(self) -> list[dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Of each clip: class -> onsets and offsets in seconds."""
        spans: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [{} for _ in self.files]
        for k, events in enumerate(self.events):
            rows, starts = np.unique(events.row, return_index=True)
            for row, start, end in zip(rows, starts, [*starts[1:], len(events.row)], strict=True):
                spans[row][k] = events.onset_s[start:end], events.offset_s[start:end]
        return spans


@dataclass(frozen=True)
class Predictions:
    """Frame scores of some files, or events, beside the reference."""

    classes: Sequence[str]  # C
    reference: Events  # of the same files, times in ms
    durations_s: Mapping[str, float]  # of the audio without padding
    scores: Mapping[str, np.ndarray]  # file -> (T, C); a ScoreArray for many files
    decoded: Events | None = None  # events of the model, where others have made them of the scores
    decoding: Decoding | None = None  # how events are made of the scores otherwise
    median_frames: int = 1  # of a filter before areas under curves; of a ScoreArray: it has been
    hop_ms: int = FRAME_MS  # from frame to frame; of a ScoreArray 40
    median_edges: Edges = "reflected"  # of that filter
    boxes: BoxDecoding | None = None  # instead of decoding and median; not of a ScoreArray

    @cached_property
    def events(self) -> Events:
        """Of the model: as they were given, or decoded."""
        if self.decoded is not None:
            return self.decoded
        if self.boxes is not None:
            return {
                file: decode_by_boxes(
                    self.scores[file], self.classes, self.boxes, self.durations_s[file], self.hop_ms
                )
                for file in self.reference
            }
        if self.decoding is None:
            raise ValueError("no events and no decoding; give one of them for scores of events")
        return {
            file: decode_as_heareval(self.scores[file], self.classes, self.decoding, self.hop_ms)
            for file in self.reference
        }

    @cached_property
    def event_clips(self) -> EventClips:
        """The clips with events, in columns; refuses what cannot be scored."""
        check_events(self.reference, "reference")
        check_files(self.reference, self.scores, "probabilities")
        check_files(self.reference, self.durations_s, "a duration")
        for file in self.reference:
            if not 0 < self.durations_s[file] < np.inf:
                raise ValueError(
                    f"{file} has duration {self.durations_s[file]} s; give seconds, above 0"
                )
        files = sorted(file for file, events in self.reference.items() if events)
        if not files:
            raise ValueError(
                f"none of the {len(self.reference)} clips has an event; PSDS needs some"
            )
        numbers, events = self._joined_events(files)
        durations_s = np.array([self.durations_s[file] for file in files], np.float64)
        frames, ends_s, column = (
            self._of_array(files, numbers)
            if isinstance(self.scores, ScoreArray)
            else self._of_files(files, numbers)
        )
        names = [str(self.classes[k]) for k in numbers]
        return EventClips(files, names, events, durations_s, frames, ends_s, self.hop_ms, column)

    @cached_property
    def events_of_class(self) -> dict[str, int]:
        """Class -> its events in the reference."""
        names = [str(name) for name in self.classes]
        check_distinct("class", names)
        counts = dict.fromkeys(names, 0)
        for file, events in self.reference.items():
            for event in events:
                if str(event["label"]) not in counts:
                    raise ValueError(
                        f"reference of {file}: label {event['label']!r} is none of the "
                        f"{len(names)} classes"
                    )
                counts[str(event["label"])] += 1
        return counts

    def _joined_events(self, files: Sequence[str]) -> tuple[list[int], list[ClassEvents]]:
        """The classes that occur, and the events of each in seconds."""
        number = {name: k for k, name in enumerate(self.events_of_class)}
        spans: list[tuple[int, int, float, float]] = []
        for k, row, onset_s, offset_s in sorted(
            (number[str(event["label"])], row, event["start"] / 1000.0, event["end"] / 1000.0)
            for row, file in enumerate(files)
            for event in self.reference[file]
        ):
            if spans and spans[-1][:2] == (k, row) and onset_s <= spans[-1][3]:
                _, _, onset_s, earlier_s = spans.pop()
                offset_s = max(offset_s, earlier_s)
            spans.append((k, row, onset_s, offset_s))
        of_class, row, onset, offset = map(np.array, zip(*spans, strict=True))
        numbers, starts = np.unique(of_class, return_index=True)
        parts = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(row)], strict=True)]
        return numbers.tolist(), [ClassEvents(row[p], onset[p], offset[p]) for p in parts]

    def _of_array(self, files: Sequence[str], numbers: Sequence[int]) -> tuple:
        scores, columns = self.scores.scores, self.scores.columns
        rows = np.array([self.scores.row[file] for file in files])

        def column(k: int) -> np.ndarray:
            x = scores[rows, columns[numbers[k]]]
            # Exact, and NumPy is faster in it; of one class at a time it needs little memory.
            x = x.astype(np.float32) if x.dtype == np.float16 else x
            if (wrong := ~np.isfinite(x).all(1)).any():
                raise ValueError(
                    f"clip {files[int(np.argmax(wrong))]!r} has a score that is not finite in "
                    f"class {self.classes[numbers[k]]!r}; scores must be finite"
                )
            return x

        frames = np.full(len(rows), scores.shape[2])
        return frames, frames * FRAME_MS / 1000.0, column

    def _of_files(self, files: Sequence[str], numbers: Sequence[int]) -> tuple:
        """Frames that begin after the end of the audio are cut, first of all."""
        tables, ends_s = [], []
        for file in files:
            scores = self.scores[file]
            check_probabilities(scores, self.classes, f"probabilities of {file}")
            n = real_frames(len(scores), self.durations_s[file], self.hop_ms)
            table = scores[:n, numbers]
            if not self.boxes:
                table = median_filter(table, self.median_frames, self.median_edges)
            tables.append(table)
            ends_s.append(min(frame_borders_ms(n, self.hop_ms)[n] / 1000.0, self.durations_s[file]))
        frames = np.array([len(table) for table in tables])

        def column(k: int) -> np.ndarray:
            x = np.full((len(files), frames.max()), -np.inf)
            for row, table in zip(x, tables, strict=True):
                row[: len(table)] = table[:, k]
            if self.boxes is None:
                return x
            settings = self.boxes.areas[numbers[k]]
            return dict(paint_boxes(x, frames, [settings], self.hop_ms))[settings]

        return frames, np.array(ends_s), column
