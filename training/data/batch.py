"""Clips with their events, and the batches that leave the loader.

A batch holds 16-bit audio at its stored rate and lists of events; everything dearer (resampling,
labels per frame, mixing) happens on the device, see `windows` and training/targets.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from hear_ptsed.audio import to_16k
from hear_ptsed.grid import FRAMES_PER_SECOND, SAMPLE_RATE, WINDOW, WINDOW_FRAMES, WINDOW_S
from training.data.annotations import Events, ranges
from training.data.clips import Clips, Unreadable, to_int16
from training.data.coverage import Coverage
from training.data.pseudo_labels import PseudoLabels
from training.data.sampling import Picks, balanced_weights

Batch = dict[str, Any]


@dataclass(frozen=True, eq=False)
class ClipSet(Dataset):
    """Clips in a fixed order with their events; indexed by Picks, it answers with a batch."""

    sources: list[Clips]
    place: np.ndarray  # (N, 2) int32: source, clip in it
    events: Events  # of the N clips, in their order, restricted to the classes of the head
    annotated: np.ndarray  # (sources, C) bool: which classes a source's annotation covers
    annotation: np.ndarray  # (sources,) which annotation each has, as a number of its report
    coverage: list[Coverage]  # the report of each annotation
    pseudo: PseudoLabels | None = None
    times: str = "exact"  # see Data.label_times
    extra: "ClipSet | None" = None  # clips that only teachers label, see Extra

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def keys(self) -> list[str]:
        return self.events.clips

    @property
    def classes(self) -> list[str]:
        return self.events.labels

    @property
    def pseudo_column(self) -> np.ndarray:
        """(C,) int64: column of each class in the pseudo labels, -1 for one that they lack."""
        names = [] if self.pseudo is None else self.pseudo.classes
        column = {name: c for c, name in enumerate(names)}
        return np.array([column.get(name, -1) for name in self.classes], np.int64)

    def weights(self, offset: float) -> np.ndarray:
        """(N,) sampling weights that balance the classes.

        Args:
            offset: see `balanced_weights`.
        """
        clip, label = self.events.clip, self.events.label
        start, end = frames_of(self.events.onset_s, self.events.offset_s, self.times)
        frames = new_frames(clip * len(self.classes) + label, start, end)
        return balanced_weights(clip, label, frames, len(self), offset)

    def report_unreadable(self, reasons: Mapping[str, str]) -> None:
        """Enter clips that turned out to be unreadable in the reports of their annotations."""
        if not reasons:
            return
        if self.extra is not None:
            self.extra.report_unreadable(reasons)
        annotation = dict(zip(self.keys, self.annotation[self.place[:, 0]], strict=True))
        for key, reason in reasons.items():
            if key in annotation:
                self.coverage[annotation[key]].unreadable[key] = reason

    def __getitem__(self, picks: Picks) -> Batch:
        """Shapes: R rows, S = 10 s of samples, E events.

        Returns:
            audio (R, S) int16 and its `rate`; seconds (R,) of it, clip_seconds (R,) of whole clips;
            ok (R,) bool, False for clips that `unreadable` lists as (key, reason); source, clip
            (R,); partner (B,); step; events (E, 4): row, class, first frame, end frame; with pseudo
            labels also pseudo (R, C', 250) float16 logits and has_pseudo (R,); with extra clips
            also `extra`, the same of those.
        """
        batch: Batch = {"step": picks.step, "unreadable": []}
        if picks.extra is not None:
            batch["extra"] = self.extra[picks.extra]
        has_pseudo = np.zeros(len(picks.clips), bool)
        if self.pseudo is not None:
            logits, has_pseudo = self._pseudo_logits(self.pseudo, picks.clips)
            batch |= {"pseudo": torch.from_numpy(logits), "has_pseudo": _tensor(has_pseudo)}
        # Pseudo labels describe the first 10 s of a clip.
        audio, rate, start_s, seconds = self._audio(picks, ~has_pseudo, batch["unreadable"])
        bad = {key for key, _ in batch["unreadable"]}
        ok = np.array([self.keys[i] not in bad for i in picks.clips])
        return batch | {
            "audio": torch.from_numpy(audio),
            "rate": rate,
            "seconds": _tensor(np.minimum(seconds, WINDOW_S).astype(np.float32)),
            "clip_seconds": _tensor(seconds.astype(np.float32)),
            "ok": _tensor(ok),
            "source": _tensor(self.place[picks.clips, 0].astype(np.int64)),
            "clip": _tensor(picks.clips.astype(np.int64)),
            "partner": _tensor(picks.partner.astype(np.int64)),
            "events": _tensor(self._events(picks.clips, start_s)),
        }

    def _pseudo_logits(
        self, pseudo: PseudoLabels, clips: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(R, C', 250) float16, 0 for clips without pseudo labels; (R,) bool, which have some."""
        logits = np.zeros((len(clips), len(pseudo.classes), WINDOW_FRAMES), np.float16)
        has_pseudo = np.zeros(len(clips), bool)
        for row, clip in enumerate(clips):
            if (stored := pseudo.find(self.keys[clip])) is not None:
                logits[row], has_pseudo[row] = pseudo.read(stored), True
        return logits, has_pseudo

    def _audio(
        self, picks: Picks, may_crop: np.ndarray, unreadable: list
    ) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """(R, S) int16, its rate, where each row starts in its clip, how long the clip is."""
        cuts: list[tuple[int, np.ndarray, int]] = []  # row, samples, their rate
        start_s, seconds = np.zeros(len(picks.clips)), np.zeros(len(picks.clips))
        for row, (clip, crop) in enumerate(zip(picks.clips, picks.crops, strict=True)):
            source, index = self.place[clip]
            try:
                samples, rate = self.sources[source].read(int(index))
            except Unreadable as error:
                unreadable.append((self.keys[clip], str(error)))
                continue
            spare = int((len(samples) / rate - WINDOW_S) * FRAMES_PER_SECOND)  # whole frames
            if spare > 0 and may_crop[row]:
                start_s[row] = int(crop * (spare + 1)) / FRAMES_PER_SECOND
            start = round(start_s[row] * rate)
            seconds[row] = len(samples) / rate
            samples = samples[start : start + round(WINDOW_S * rate)]
            cuts.append((row, samples, rate))
        rates = {rate for _, _, rate in cuts}
        rate = rates.pop() if len(rates) == 1 else SAMPLE_RATE
        audio = np.zeros((len(picks.clips), round(WINDOW_S * rate)), np.int16)
        for row, samples, clip_rate in cuts:
            if clip_rate != rate:
                samples = to_16k(torch.from_numpy(samples / np.float32(32768)), clip_rate)
                samples = to_int16(samples.numpy())
            audio[row, : min(len(samples), audio.shape[1])] = samples[: audio.shape[1]]
        return audio, rate, start_s, seconds

    def _events(self, clips: np.ndarray, start_s: np.ndarray) -> np.ndarray:
        """(E, 4) int64 of a batch: row, class, first frame, end frame."""
        events = self.events
        counts = events.first[clips + 1] - events.first[clips]
        rows = np.repeat(np.arange(len(clips)), counts)
        chosen = ranges(events.first[clips], counts)
        onset_s, offset_s = (x[chosen] - start_s[rows] for x in (events.onset_s, events.offset_s))
        start, end = frames_of(onset_s, offset_s, self.times)
        heard = start < end
        return np.stack([rows, events.label[chosen], start, end], 1)[heard].astype(np.int64)


def windows(batch: Batch) -> Tensor:
    """The audio of a batch as (R, 160000) float32 in [-1, 1] at 16 kHz, on its device."""
    audio = batch["audio"].float() / 32768
    audio = to_16k(audio, batch["rate"])
    return F.pad(audio, (0, max(0, WINDOW - audio.shape[1])))[:, :WINDOW]


def frames_of(
    onset_s: np.ndarray, offset_s: np.ndarray, times: str = "exact"
) -> tuple[np.ndarray, np.ndarray]:
    """First and end frame, (E,) int64, of what events touch within the 10 s window.

    Args:
        onset_s, offset_s: (E,)
        times: "float32" as published: a time on a frame's border falls beside it by the rounding.
    """
    if times == "float32":
        onset_s, offset_s = (x.astype(np.float32).astype(float) for x in (onset_s, offset_s))
    # Rounded first: 35 x 0.04 s lies a hair above frame 35 and would touch one frame more.
    digits = 6 if times == "exact" else 9
    first = np.floor(np.round(onset_s * FRAMES_PER_SECOND, digits))
    end = np.ceil(np.round(offset_s * FRAMES_PER_SECOND, digits))
    return tuple(np.clip(x, 0, WINDOW_FRAMES).astype(np.int64) for x in (first, end))


def new_frames(group: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(E,) frames of each event that no earlier one of its group (class and clip) has."""
    order = np.lexsort((start, group))
    floor = group[order] * (WINDOW_FRAMES + 1)
    first, last = start[order] + floor, end[order] + floor
    reached = np.maximum.accumulate(np.append(0, last))[:-1]
    frames = np.empty(len(group), np.int64)
    frames[order] = np.maximum(last - np.maximum(first, reached), 0)
    return frames


def loader(clips: ClipSet, picks: Sampler[Picks], workers: int, pin: bool) -> DataLoader:
    """Batches in the order of the picks, whatever the number of workers."""
    return _Resumable(
        clips,
        sampler=picks,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )


class _Resumable(DataLoader):
    """Says that it can be resumed: its sampler begins at the step of the run."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing is kept here."""


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
