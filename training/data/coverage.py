"""What is there of what an annotation names: the report printed beside every score."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from hear_ptsed.errors import printable
from hear_ptsed.files import write_json
from training.data.annotations import Events
from training.data.clips import Clips

SHOWN = 3  # names per line of the report
TOLERANCE_S = 0.1  # annotations round times, encoders round durations


@dataclass
class Coverage:
    """Clips and classes of one set; lists hold clip keys."""

    sources: list[str]
    expected: int  # clips with events; all clips where nothing is annotated
    found: int  # of those, whether readable or not
    used: int  # clips that are read: those found, or all
    missing: list[str] = field(default_factory=list)
    extra: int = 0  # clips without events
    unreadable: dict[str, str] = field(default_factory=dict)  # clip: reason
    n_classes: int = 0
    classes_without_clips: list[str] = field(default_factory=list)
    labels_outside: dict[str, int] = field(default_factory=dict)  # events of each unknown label
    past_end: dict[str, int] = field(default_factory=dict)  # events past the end of their clip
    longer_than_10_s: int = 0  # clips, among those whose duration is known

    def add_durations(self, seconds: Mapping[str, float], events: Events | None) -> None:
        """Durations that became known: which events lie past the end of their clip.

        Such an event begins after the end of the clip or ends more than 0.1 s after it.
        """
        self.longer_than_10_s += sum(length > 10 + TOLERANCE_S for length in seconds.values())
        if events is None:
            return
        end = np.array([seconds.get(key, np.inf) for key in events.clips])[events.clip]
        late = (events.onset_s > end) | (events.offset_s > end + TOLERANCE_S)
        clips, counts = np.unique(events.clip[late], return_counts=True)
        self.past_end |= {
            events.clips[clip]: int(count) for clip, count in zip(clips, counts, strict=True)
        }

    @property
    def share_unreadable(self) -> float:
        return len(self.unreadable) / max(1, self.used)

    def check(self, max_unreadable: float) -> None:
        """Stop if more than this share of the clips in use cannot be decoded."""
        if self.share_unreadable > max_unreadable:
            raise RuntimeError(
                f"{len(self.unreadable)} of {self.used} clips ({self.share_unreadable:.2%}) are "
                f"unreadable, more than the {max_unreadable:.2%} allowed: {self._reasons()}; "
                "replace these files or allow a larger share"
            )

    def text(self) -> str:
        """The report in a few lines; lines with nothing to report are left out."""
        share, bad = self.found / max(1, self.expected), self.share_unreadable
        use = "not used" if self.used <= self.found else "used too"
        absent, outside, late = self.classes_without_clips, self.labels_outside, self.past_end
        n_outside, n_late = sum(outside.values()), sum(late.values())
        notes = [
            (self.missing, f"{len(self.missing)} missing: {_few(self.missing)}"),
            (self.extra, f"{self.extra} clips without events, {use}"),
            (self.unreadable, f"{len(self.unreadable)} unreadable ({bad:.2%}): {self._reasons()}"),
            (absent, f"{len(absent)} of {self.n_classes} classes without clips: {_few(absent)}"),
            (
                outside,
                f"{n_outside} events of {len(outside)} labels outside the classes: {_few(outside)}",
            ),
            (late, f"{n_late} events past the end of {len(late)} clips: {_few(late)}"),
            (self.longer_than_10_s, f"{self.longer_than_10_s} clips longer than 10 s"),
        ]
        first = f"{self.found} of {self.expected} clips found ({share:.2%}): {_few(self.sources)}"
        return "\n".join([first, *(text for noted, text in notes if noted)])

    def write(self, path: Path) -> None:
        """All of it as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Coverage":
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not a coverage report ({error})") from error

    def _reasons(self) -> str:
        return _few([f"{name} ({reason})" for name, reason in self.unreadable.items()])


def coverage(
    clips: Sequence[Clips], events: Events | None, classes: Sequence[str] | None = None
) -> Coverage:
    """Compare sources with an annotation by names alone, which decodes nothing.

    Args:
        classes: of the model; by default those of the events.
    """
    keys = {key for source in clips for key in source.keys}
    sources = [str(source.path) for source in clips]
    if events is None:
        report = Coverage(sources, len(keys), len(keys), len(keys), n_classes=len(classes or ()))
    else:
        classes = events.labels if classes is None else classes
        known = set(classes)
        is_held = np.array([key in keys for key in events.clips], dtype=bool)
        missing = [key for key, held in zip(events.clips, is_held, strict=True) if not held]
        heard = np.unique(events.label[is_held[events.clip]])
        heard_names = {events.labels[label] for label in heard}
        counts = np.bincount(events.label, minlength=len(events.labels))
        report = Coverage(
            sources,
            expected=len(events.clips),
            found=int(is_held.sum()),
            used=int(is_held.sum()),
            missing=missing,
            extra=len(keys) - int(is_held.sum()),
            n_classes=len(classes),
            classes_without_clips=[name for name in classes if name not in heard_names],
            labels_outside={
                name: int(count)
                for name, count in zip(events.labels, counts, strict=True)
                if name not in known
            },
        )
    for source in clips:
        if (seconds := source.seconds()) is not None:
            report.add_durations(dict(zip(source.keys, seconds.tolist(), strict=True)), events)
    return report


def _few(names: Sequence[str] | Mapping[str, int]) -> str:
    names = list(names)
    return ", ".join(printable(name, 300) for name in names[:SHOWN]) + (
        ", …" if len(names) > SHOWN else ""
    )
