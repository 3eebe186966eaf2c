"""Strong labels: sound events of many clips, from annotation files to columns."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from hear_ptsed.errors import printable, shown
from hear_ptsed.labels import name_by_mid
from training.data.tables import read_rows

log = logging.getLogger(__name__)

AUDIO_SUFFIXES = frozenset({"wav", "mp3", "flac", "ogg", "m4a", "opus"})
OFFICIAL = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
GENERIC = ("filename", "onset", "offset", "event_label")


@dataclass(frozen=True)
class Events:
    """Sound events of many clips as columns, sorted by clip, then label, then onset.

    As annotations are read, `clips` are those with an event in order of appearance, and `labels`
    the classes that occur, sorted by code point; see `restrict` for other orders of both.
    """

    clips: list[str]  # keys, see clip_key
    labels: list[str]  # names of classes
    first: np.ndarray  # (N + 1,) int64: events of clip i are first[i]:first[i + 1]
    label: np.ndarray  # (E,) int32, into `labels`
    onset_s: np.ndarray  # (E,) float64, relative to the clip
    offset_s: np.ndarray  # (E,) float64

    def __len__(self) -> int:
        return len(self.label)

    @property
    def clip(self) -> np.ndarray:
        """(E,) int64, into `clips`."""
        return np.repeat(np.arange(len(self.clips)), np.diff(self.first))

    @classmethod
    def from_columns(
        cls,
        clip: Sequence[str],
        label: Sequence[str],
        onset_s: Sequence[float] | np.ndarray,
        offset_s: Sequence[float] | np.ndarray,
    ) -> "Events":
        """From one entry per event, (E,) each, in any order; `clip` holds names or keys."""
        code, names = pd.factorize(np.asarray(clip, dtype=object))
        keys: dict[str, int] = {}
        key_of_name = [keys.setdefault(clip_key(name), len(keys)) for name in names]
        clip_code = np.asarray(key_of_name, dtype=np.int64)[code]
        label_code, distinct = pd.factorize(np.asarray(label, dtype=object))
        labels = sorted(distinct)
        rank = {name: i for i, name in enumerate(labels)}
        label_code = np.asarray([rank[name] for name in distinct], dtype=np.int32)[label_code]
        onset_s = np.asarray(onset_s, dtype=np.float64)
        offset_s = np.asarray(offset_s, dtype=np.float64)
        order = np.lexsort((offset_s, onset_s, label_code, clip_code))
        counts = np.bincount(clip_code, minlength=len(keys))
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(list(keys), labels, first, label_code[order], onset_s[order], offset_s[order])

    def with_length(self) -> "Events":
        """Without events that end where they begin."""
        kept = self.offset_s > self.onset_s
        if kept.all():
            return self
        clips = [self.clips[i] for i in self.clip[kept]]
        labels = [self.labels[i] for i in self.label[kept]]
        return Events.from_columns(clips, labels, self.onset_s[kept], self.offset_s[kept])

    def restrict(self, rows: np.ndarray, classes: Sequence[str]) -> "Events":
        """Clips `rows` (N,), in this order, with their events of these classes, also in order.

        A clip stays if none of its events does. Within a clip the events keep their order.
        """
        column = {name: c for c, name in enumerate(classes)}
        to_class = np.array([column.get(name, -1) for name in self.labels], np.int32)
        counts = np.diff(self.first)[rows]
        chosen = ranges(self.first[rows], counts)
        label = to_class[self.label[chosen]]
        kept = label >= 0
        clip = np.repeat(np.arange(len(rows)), counts)[kept]
        ends = np.cumsum(np.bincount(clip, minlength=len(rows)))
        return Events(
            [self.clips[i] for i in rows],
            list(classes),
            np.concatenate([[0], ends]).astype(np.int64),
            label[kept],
            self.onset_s[chosen][kept],
            self.offset_s[chosen][kept],
        )


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[i], first[i] + 1, ..., counts[i] numbers for each i: (N,), (N,) -> (sum of counts,)."""
    begins = np.cumsum(counts) - counts  # of each range in the answer
    return np.arange(counts.sum()) + np.repeat(first - begins, counts)


def clip_key(name: str) -> str:
    """What identifies a clip: its file name without folder and without an audio extension."""
    name = name.rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and suffix.lower() in AUDIO_SUFFIXES else name


def read_names(path: Path | str) -> dict[str, str]:
    """Official class lists, mid to name: `mid<tab>name`, or CSV with columns mid, display_name."""
    names: dict[str, str] = {}
    header: list[str] = []
    for number, row in read_rows(path):
        header = header or row
        if {"mid", "display_name"} <= set(header):
            mid, name = row[header.index("mid")], row[header.index("display_name")]
        elif len(header) == 2:
            mid, name = row
        else:
            raise ValueError(
                f"{path}: neither two columns (mid, name) nor a header with mid and display_name; "
                f"its first line has {shown(', '.join(header))}"
            )
        if not mid or not name:
            raise ValueError(f"{path}, line {number}: a mid or a name is empty")
        if names.setdefault(mid, name) != name:
            raise ValueError(f"{path}, line {number}: {mid} is both {names[mid]} and {name}")
    names.pop("mid", None)  # a header
    if not names:
        raise ValueError(f"{path}: no names in it")
    return names


def read_events(
    path: Path | str,
    *,
    names: Mapping[str, str] | None = None,
    unknown: Literal["error", "keep"] = "error",
    zero_length: Literal["drop", "keep"] = "drop",
) -> Events:
    """Read a table of events, tab- or comma-separated; the header says which form it has.

    Official AudioSet Strong (segment_id, start_time_seconds, end_time_seconds, label): mids are
    replaced by `names`, by default those of the 447 training classes, and segment `<id>_<start
    in ms>` is clip `Y<id>`. Own data (filename, onset, offset, event_label): names as they stand;
    a row with nothing but a file name says that the clip has no events.
    Events of zero length are left out, with a logged count, unless zero_length="keep".
    unknown="keep" takes a mid without name as name.
    """
    path = Path(path)
    line, columns, wanted = _columns(path)

    def where(row: int) -> str:
        return f"{path}, line {line[row]}"

    for name in ("filename", "event_label"):
        if (empty := columns[name] == "").any():
            raise ValueError(f"{where(empty.argmax())}: {wanted[GENERIC.index(name)]} is empty")
    onset_s, offset_s = (
        _numbers(columns[name], where, wanted[i]) for i, name in ((1, "onset"), (2, "offset"))
    )
    check_times(onset_s, offset_s, where)
    clip, label = columns["filename"], columns["event_label"]
    if wanted is OFFICIAL:
        clip = _segment_keys(clip, where)
        label = _named(label, name_by_mid() if names is None else names, unknown, where)
    kept = (offset_s > onset_s) | (zero_length == "keep")
    if not kept.all():
        log.warning("%s: %d events of zero length left out", path, np.count_nonzero(~kept))
    return Events.from_columns(clip[kept], label[kept], onset_s[kept], offset_s[kept])


def check_times(onset_s: np.ndarray, offset_s: np.ndarray, where: Callable[[int], str]) -> None:
    """Refuse events with impossible times, (E,) each; `where` words the place of event i."""
    for wrong, text in (
        (~(np.isfinite(onset_s) & np.isfinite(offset_s)), "a time is not a finite number"),
        (onset_s < 0, "the event begins before the clip"),
        (offset_s < onset_s, "the event ends before it begins"),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            times = f"onset {onset_s[i]:g} s, offset {offset_s[i]:g} s"
            raise ValueError(f"{where(i)}: {text} ({times}){_more(wrong)}; correct the annotation")


def joined(parts: Sequence[Events]) -> Events:
    """The events of several sources as one."""
    return Events.from_columns(
        [part.clips[i] for part in parts for i in part.clip],
        [part.labels[i] for part in parts for i in part.label],
        np.concatenate([part.onset_s for part in parts]),
        np.concatenate([part.offset_s for part in parts]),
    )


def stack(parts: Sequence[Events]) -> Events:
    """The clips of several tables one after another; all of them have the same labels."""
    counts = np.concatenate([np.diff(part.first) for part in parts])
    return Events(
        [key for part in parts for key in part.clips],
        parts[0].labels,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("label", "onset_s", "offset_s")
        ),
    )


def merged(events: Events) -> Events:
    """Overlapping and touching events of one class in one clip joined to one."""
    group = events.clip * len(events.labels) + events.label
    latest_s = pd.Series(events.offset_s).groupby(group).cummax().to_numpy()  # end so far
    begins = np.ones(len(events), dtype=bool)
    begins[1:] = (group[1:] != group[:-1]) | (events.onset_s[1:] > latest_s[:-1])
    ends = np.roll(begins, -1)  # an event ends where the next begins; the first always begins
    first = np.concatenate([[0], np.cumsum(begins)])[events.first]
    return Events(
        events.clips,
        events.labels,
        first.astype(np.int64),
        events.label[begins],
        events.onset_s[begins],
        latest_s[ends],
    )


def _columns(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[str, ...]]:
    """Line numbers, texts by GENERIC names, and the file's names for them; clips with events."""
    rows = read_rows(path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    if not header:
        raise ValueError(f"{path} is empty, not a table of events")
    wanted = OFFICIAL if set(OFFICIAL) <= set(header) else GENERIC
    if any(header.count(name) != 1 for name in wanted):
        raise ValueError(
            f"{path}: columns {printable(', '.join(header), 200)}; expected "
            f"{', '.join(OFFICIAL)} (AudioSet Strong) or {', '.join(GENERIC)}, each once"
        )
    places = [header.index(name) for name in wanted]
    described = places if wanted is OFFICIAL else places[1:]  # more than that there is a clip
    lines: list[int] = []
    cells: list[list[str]] = []
    for number, row in rows:
        if any([row[place] for place in described]):
            lines.append(number)
            cells.append([row[place] for place in places])
    columns = np.array(cells, dtype=object).reshape(-1, len(GENERIC)).T
    return np.array(lines), dict(zip(GENERIC, columns, strict=True)), wanted


def _numbers(texts: np.ndarray, where: Callable[[int], str], column: str) -> np.ndarray:
    numbers = np.array([_number(text) for text in texts], dtype=np.float64)
    if (wrong := np.isnan(numbers)).any():
        i = int(wrong.argmax())
        text = shown(texts[i])
        raise ValueError(f"{where(i)}: {column} is {text}, not a number of seconds{_more(wrong)}")
    return numbers


def _number(text: str) -> float:
    """Exactly the number that the text says, which pandas misses in the last digit; or NaN."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _named(
    mids: np.ndarray, names: Mapping[str, str], unknown: str, where: Callable[[int], str]
) -> np.ndarray:
    code, distinct = pd.factorize(mids)
    strange = np.asarray([mid not in names for mid in distinct], dtype=bool)
    if unknown == "error" and strange.any():
        i = int(strange[code].argmax())
        others = np.count_nonzero(strange) - 1
        more = f" and {others} other mids" if others else ""
        raise ValueError(
            f"{where(i)}: no name for {mids[i]}{more} ({np.count_nonzero(strange[code])} events); "
            "give the class list that has it, or keep unknown mids as classes of their own"
        )
    return np.asarray([names.get(mid, mid) for mid in distinct], dtype=object)[code]


def _segment_keys(segments: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
    code, distinct = pd.factorize(segments)
    keys: dict[str, str] = {}
    for i, segment in enumerate(distinct):
        video, _, start_ms = segment.rpartition("_")
        other = keys.setdefault("Y" + video, segment)
        if not video or not start_ms.isdecimal():
            reason = f"segment_id is {segment!r}, expected <video id>_<start in ms>"
        elif other != segment:
            reason = f"{segment} and {other} are of one video, whose audio has one name, Y{video}"
        else:
            continue
        raise ValueError(f"{where(int((code == i).argmax()))}: {reason}")
    return np.asarray(list(keys), dtype=object)[code]


def _more(wrong: np.ndarray) -> str:
    n = np.count_nonzero(wrong) - 1
    return f" and {n} more like it" if n else ""
