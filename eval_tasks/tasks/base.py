"""What a downstream task is, and its folder opened: clips, labels, splits.

A folder is a HEAR task folder. It may hold two parts that HEAR does not know, `weak.json` ({file:
[label, ...]}, labels of whole clips) and `unlabelled.json` ({file: []}), with their audio beside
that of the splits; `durations.json` ({split: {file: seconds}}), where clips were padded;
`groups.json` ({split: {file: [group, ...]}}), in which they are scored, too; and `coverage.json`,
what of the data set is not there. An event of a task with soft labels has a
"value" from 0 to 1; above 0.5 it is scored. The metadata may name the classes that are "scored",
the clips that validate each fold ("validation"), and that test folds are scored "pooled".
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soundfile

from eval_tasks.tasks.folds import split_folds, training_part, validation_part
from eval_tasks.tasks.stitch import Stitch
from hear_ptsed.events import Edges
from hear_ptsed.grid import FRAME_MS, SAMPLE_RATE, hop_samples, n_frames, window_frames
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.metrics.task_folder import MORE_PARTS, fingerprint, scored_events
from hear_ptsed.schema import is_name, settings
from training.data.tables import read_records

END_MS = 0.0001  # HEAR: a frame is active where start <= centre < end + this
LABELS = ("strong", "weak", "unlabelled", "soft")
NEEDS = {  # protocol -> labels that it learns from
    "hear": {"strong"},
    "linear": {"strong"},
    "finetuned": {"strong"},
    "weak-linear": {"strong", "weak"},
    "weak-finetuned": {"strong", "weak"},
    "mean-teacher": {"strong", "weak", "unlabelled"},
}


@settings
class NoOptions:
    """A task that is made in one way."""


@dataclass(frozen=True)
class Task:
    """All that is known of a task. The numbers of a training on it are in `recipes`."""

    name: str  # on the command line
    title: str  # on pages
    folder: str  # its usual folder in a tasks folder: NAME-VERSION-MODE
    about: str
    # ids of hear_ptsed.metrics.catalogue, the primary one first; none: it can only be prepared
    metrics: tuple[str, ...] = ()
    decoding: Decoding = Decoding(0, 0)  # how frames become events
    psds_median: int = 1  # frames, before PSDS
    psds_edges: Edges = "reflected"  # of that median
    select: Literal["score", "loss"] = "score"  # what the best epoch is chosen by, on validation
    labels: tuple[str, ...] = ("strong",)  # that its clips have: of LABELS
    clip_s: float | None = 10.0  # None: clips of any length
    stitch: Stitch | None = None  # None: windows that follow each other
    convention: str = ""  # what a record says of the labels beside each metric's convention
    published: bool = False  # a published data set; else one of this suite's small tasks
    recipes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    # (task, tasks folder, options, force) -> the folder, or several; None: it is made elsewhere
    prepare: "Callable[[Task, Path, Any, bool], Path | list[Path]] | None" = None
    options: type = NoOptions  # of `prepare`, a class under hear_ptsed.schema.settings
    folders: tuple[str, ...] = ()  # where it is prepared as several; none: as `folder` alone

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"the task's name {self.name!r} cannot name a file")
        for what, values, known in (
            ("metric", self.metrics, METRICS),
            ("kind of label", self.labels, LABELS),
            ("protocol", self.recipes, NEEDS),
        ):
            if unknown := [value for value in values if value not in known]:
                raise ValueError(
                    f"task {self.name}: unknown {what} {unknown[0]!r}; known: {', '.join(known)}"
                )

    @property
    def protocols(self) -> tuple[str, ...]:
        """That its metrics, labels and clips allow.

        heareval needs clips of one length, and stitches no windows.
        """
        allowed = (name for name, needs in NEEDS.items() if needs <= {*self.labels})
        taken_by_heareval = self.clip_s is not None and self.stitch is None
        possible = (name for name in allowed if taken_by_heareval or name != "hear")
        return tuple(possible) if self.metrics else ()

    def require_protocols(self) -> None:
        """Refuse a task that can only be prepared."""
        if not self.protocols:
            why = f"its labels are {', '.join(self.labels)}" if self.metrics else "it has no metric"
            raise ValueError(f"{self.name} can be prepared, not run: {why}")

    def make(self, tasks_dir: Path, options: Any, force: bool) -> Path | list[Path]:
        """Make its folder, or its folders, and return them, see eval_tasks.tasks.prepare."""
        if self.prepare is None:
            raise ValueError(
                f"{self.name} is not made here; put its folder, {self.folder}, into {tasks_dir}"
            )
        return self.prepare(self, tasks_dir, options, force)


class Split(NamedTuple):
    """Names of the parts to train, validate and test on."""

    train: tuple[str, ...]
    valid: str
    test: str


@dataclass(frozen=True)
class Part:
    """Clips of one split, fold, or of the weak or unlabelled clips."""

    name: str
    audio: Path  # folder
    classes: tuple[str, ...]
    events: dict[str, list[dict]]  # file -> [{"label", "start", "end"}] in ms; empty if not strong
    tags: dict[str, list[str]]  # file -> labels of the clip, of the weak part
    samples: dict[str, int]  # file -> length at 16 kHz, in the order of the files
    durations_s: dict[str, float]  # file -> seconds without padding
    soft: bool = False  # events have a value
    hop_ms: int = FRAME_MS  # from frame to frame
    stitch: Stitch | None = None  # of its task
    scored: tuple[str, ...] = ()  # classes that are scored; empty: all
    homes: dict[str, str] = field(default_factory=dict)  # file -> its part, see tasks.folds
    groups: dict[str, list[str]] = field(default_factory=dict)  # file -> groups that it is in

    @property
    def files(self) -> list[str]:
        return list(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def window_frames(self) -> int:
        """Frames in 10 s."""
        return window_frames(self.hop_ms)

    def frames(self, file: str) -> int:
        """Frames whose centre lies in the clip."""
        return n_frames(self.samples[file], self.hop_ms)

    def real_frames(self, file: str) -> int:
        """Those that are not padding."""
        samples = round(self.durations_s[file] * SAMPLE_RATE)
        return min(self.frames(file), n_frames(samples, self.hop_ms))

    def centres(self, file: str) -> np.ndarray:
        """Of its frames (T,) in milliseconds."""
        return FRAME_MS / 2 + self.hop_ms * np.arange(self.frames(file))

    def read(self, file: str, first: int = 0, frames: int | None = None) -> np.ndarray:
        """Audio (S,) float32 from a frame on; what lies beyond the clip's end is 0."""
        path = self.audio / self.homes.get(file, "") / file
        if frames is None:
            return soundfile.read(path, dtype="float32")[0]
        hop = hop_samples(self.hop_ms)
        return soundfile.read(path, frames * hop, first * hop, dtype="float32", fill_value=0.0)[0]

    @cached_property
    def reference(self) -> dict[str, list[dict]]:
        """The events that are scored: of the scored classes, those that are sure."""
        return scored_events(self.events, self.scored)

    def targets(self, file: str) -> np.ndarray:
        """(T, C): what is active at the centre of each frame, by HEAR's rule.

        uint8, 0 or 1; of soft labels float32, the highest value of the events.
        """
        dtype = np.float32 if self.soft else np.uint8
        centres = self.centres(file)
        values = np.zeros((len(centres), len(self.classes)), dtype)
        for event in self.events[file]:
            active = (centres >= event["start"]) & (centres < event["end"] + END_MS)
            column = values[:, self.classes.index(str(event["label"]))]
            column[active] = np.maximum(column[active], dtype(event.get("value", 1)))
        return values

    def of_group(self, group: str) -> "Part":
        """The clips of a group."""
        kept = [file for file in self.files if group in self.groups.get(file, ())]
        of_files = {name: getattr(self, name) for name in ("events", "samples", "durations_s")}
        return replace(self, **{name: {f: of[f] for f in kept} for name, of in of_files.items()})

    def clip_targets(self, file: str) -> np.ndarray:
        """(C,) uint8 of a weakly labelled clip."""
        return np.array([name in self.tags[file] for name in self.classes], np.uint8)


@dataclass(frozen=True)
class TaskData:
    """A task's folder, checked."""

    task: Task
    folder: Path
    metadata: dict[str, Any]
    classes: tuple[str, ...]
    parts: dict[str, Part]
    coverage: str | None  # what is missing, in a line; None if nothing is

    @property
    def version(self) -> str:
        """Name of the folder's kind: dcase2016_task2-hear2021-full."""
        return "-".join(self.metadata[key] for key in ("task_name", "version", "mode"))

    @property
    def splits(self) -> list[Split]:
        """One, or one for each fold as heareval has it: the next fold validates, if no clips are
        named for it.
        """
        names = sorted(self.metadata["splits"])
        if self.metadata["split_mode"] == "trainvaltest":
            return [Split(("train",), "valid", "test")]
        if "validation" in self.metadata:
            return [Split((training_part(n),), validation_part(n), n) for n in names]
        n = len(names)
        return [
            Split(tuple(names[(i + j) % n] for j in range(2, n)), names[(i + 1) % n], names[i])
            for i in range(n)
        ]

    def stored(self, name: str) -> tuple[str, ...]:
        """The parts on disk that hold the clips of a part."""
        return tuple(sorted({*self.parts[name].homes.values()})) or (name,)

    def with_hop(self, hop_ms: int) -> "TaskData":
        """The same clips with a label every `hop_ms`."""
        parts = {name: replace(part, hop_ms=hop_ms) for name, part in self.parts.items()}
        return replace(self, parts=parts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over labels, classes, metadata, and the names and lengths of all clips."""
        parts = (
            (part.name, part.events, part.tags, part.samples, part.durations_s)
            for part in self.parts.values()
            if not part.homes
        )
        return fingerprint(parts, self.metadata, self.classes)


def open_task(task: Task, folder: Path) -> TaskData:
    """Read and check a folder: every error names the file and what is wrong with it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no task folder {folder}; make it with `python -m eval_tasks prepare {task.name}`, "
            "or name the folder of tasks with --tasks-dir"
        )
    metadata = read_json(folder / "task_metadata.json")
    for key in ("task_name", "version", "mode", "splits", "split_mode", "embedding_type"):
        if key not in metadata:
            raise ValueError(f"{folder / 'task_metadata.json'} lacks {key}")
    if metadata["embedding_type"] != "event":
        raise ValueError(f"{folder} is a task of whole clips; sound events are evaluated here")
    if metadata["split_mode"] != "trainvaltest" and len(metadata["splits"]) < 3:
        raise ValueError(f"{folder} has {len(metadata['splits'])} folds; at least 3 are needed")
    classes = read_classes(folder / "labelvocabulary.csv")
    durations, groups = (
        read_json(folder / name) if (folder / name).exists() else {}
        for name in ("durations.json", "groups.json")
    )
    names = [*metadata["splits"], *(p for p in MORE_PARTS if (folder / f"{p}.json").exists())]
    scored = tuple(metadata.get("scored", ()))
    if unknown := {*scored} - {*classes}:
        raise ValueError(f"{folder}: scored class {min(unknown)!r} is none of the classes")
    parts = {
        name: replace(
            _open_part(task, folder, name, classes, durations.get(name, {}), groups.get(name, {})),
            scored=scored,
        )
        for name in names
    }
    if "validation" in metadata:
        folds = [parts[name] for name in metadata["splits"]]
        parts |= split_folds(folder / "task_metadata.json", folds, metadata["validation"])
    return TaskData(task, folder, metadata, classes, parts, read_coverage(folder))


def read_coverage(folder: Path) -> str | None:
    """What of the data set is not in a prepared folder; None if nothing is missing."""
    path = folder / "coverage.json"
    return read_json(path)["summary"] if path.exists() else None


def _open_part(
    task: Task, folder: Path, name: str, classes: tuple[str, ...], durations: dict, groups: dict
) -> Part:
    soft = "soft" in task.labels
    path = folder / f"{name}.json"
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise ValueError(f"{path} is not {{file: [labels]}}; prepare the task again")
    if not content:
        raise ValueError(f"{path} lists no clip; prepare the task again, or remove the split")
    labels = dict(sorted(content.items()))
    weak = name in MORE_PARTS
    for file, items in labels.items():
        for item in items:
            label = str(item) if weak else _check_event(path, file, item, soft)
            if label not in classes:
                raise ValueError(
                    f"{path}: {file} has the label {label!r}, which labelvocabulary.csv does not "
                    "list; correct one of them"
                )
    audio = folder / str(SAMPLE_RATE) / name
    samples = {file: count_samples(audio / file) for file in labels}
    return Part(
        name,
        audio,
        classes,
        {} if weak else labels,
        labels if weak else {},
        samples,
        {file: durations.get(file, samples[file] / SAMPLE_RATE) for file in labels},
        soft,
        stitch=task.stitch,
        groups=groups,
    )


def _check_event(path: Path, file: str, event: Any, soft: bool) -> str:
    """The label of an event whose times are in order, and whose value is if it must have one."""
    try:
        valid = 0 <= event["start"] <= event["end"] < float("inf")
        valid &= 0 <= event["value"] <= 1 if soft else "value" not in event
        label = str(event["label"])
    except (TypeError, KeyError):
        valid = False
    if not valid:
        more = " and 0 <= value <= 1" if soft else " and, as labels are not soft, no value"
        raise ValueError(
            f"{path}: {file} has the event {event!r}; expected label, start and end in ms, 0 <= "
            f"start <= end{more}"
        )
    return label


def count_samples(path: Path) -> int:
    """Of a clip at 16 kHz, mono."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        what = "is not audio that can be read" if path.exists() else "is missing"
        raise FileNotFoundError(
            f"{path} {what}; prepare the task again, or take the clip out of the split's json"
        ) from error
    if (info.samplerate, info.channels) != (SAMPLE_RATE, 1):
        raise ValueError(
            f"{path} has {info.samplerate} Hz and {info.channels} channels; expected 16000 Hz "
            "mono: prepare the task again, which resamples"
        )
    return info.frames


def read_classes(path: Path) -> tuple[str, ...]:
    """The labels of a vocabulary, in order."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; prepare the task again")
    rows = [row for _, row in read_records(path, ("idx", "label"))]
    if not rows or [row["idx"] for row in rows] != [str(i) for i in range(len(rows))]:
        raise ValueError(f"{path}: expected idx,label with idx 0, 1, … in order")
    return tuple(row["label"] for row in rows)


def read_json(path: Path) -> Any:
    """A JSON file of a task folder."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; prepare the task again")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); prepare the task again") from error
