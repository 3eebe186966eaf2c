"""Clips and labels of a recipe, and the batches that leave the loader.

A batch holds 16-bit audio at its stored rate and lists of events; everything dearer (resampling,
labels per frame, mixing) happens on the device, see module.py.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hear_ptsed.audio import to_16k
from hear_ptsed.grid import FRAMES_PER_SECOND, SAMPLE_RATE, WINDOW_FRAMES, WINDOW_S
from training.data.clips import Clips, Unreadable, to_int16
from training.data.pseudo_labels import PseudoLabels
from training.data.sampling import Picks, balanced_weights

log = logging.getLogger(__name__)
Batch = dict[str, Any]


@dataclass
class ClipSet(Dataset):
    """Clips in a fixed order with their events; indexed by Picks, it answers with a batch."""

    classes: list[str]
    sources: list[Clips]
    place: np.ndarray  # (N, 2) int32: source, clip in it
    keys: list[str]
    first: np.ndarray  # (N + 1,) int64, events of each clip
    label: np.ndarray  # (E,) int32, into classes
    onset_s: np.ndarray  # (E,)
    offset_s: np.ndarray  # (E,)
    annotated: np.ndarray  # (sources, C) bool: which classes a source's annotation covers
    pseudo: PseudoLabels | None = None
    times: str = "exact"  # see Data.label_times

    def __len__(self) -> int:
        return len(self.keys)

    def weights(self, offset: float) -> np.ndarray:
        """Sampling weights that balance the classes."""
        clip = np.repeat(np.arange(len(self)), np.diff(self.first))
        start, end = frames_of(self.onset_s, self.offset_s, self.times)
        frames = new_frames(clip * len(self.classes) + self.label, start, end)
        return balanced_weights(clip, self.label, frames, len(self), offset)

    def __getitem__(self, picks: Picks) -> Batch:
        """Shapes: R rows, S = 10 s of samples, E events.

        Returns:
            audio (R, S) int16 and its `rate`; seconds (R,) of it, clip_seconds (R,) of whole clips;
            ok (R,) bool, False for clips that `unreadable` lists as (key, reason); source, clip
            (R,); partner (B,); step; events (E, 4): row, class, first frame, end frame; with pseudo
            labels also pseudo (R, C', 250) float16 logits and has_pseudo (R,).
        """
        rows = len(picks.clips)
        batch: Batch = {"step": picks.step, "unreadable": []}
        found = np.full(rows, -1)
        if self.pseudo is not None:
            wanted = [self.pseudo.find(self.keys[i]) for i in picks.clips]
            found = np.array([-1 if at is None else at for at in wanted])
            logits = np.zeros((rows, self.pseudo.n_classes, WINDOW_FRAMES), np.float16)
            for row in np.flatnonzero(found >= 0):
                logits[row] = self.pseudo.read(int(found[row]))
            batch |= {"pseudo": torch.from_numpy(logits), "has_pseudo": _tensor(found >= 0)}
        # Pseudo labels describe the first 10 s of a clip.
        audio, rate, start_s, seconds = self._audio(picks, found < 0, batch["unreadable"])
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

    def _audio(
        self, picks: Picks, may_crop: np.ndarray, unreadable: list
    ) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """(R, S) int16, its rate, where each row starts in its clip, how long the clip is."""
        cuts, rates = [], []
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
            rates.append(rate)
        mixed = len(set(rates)) > 1
        rate = SAMPLE_RATE if mixed or not rates else rates[0]
        audio = np.zeros((len(picks.clips), round(WINDOW_S * rate)), np.int16)
        for row, samples, own in cuts:
            if own != rate:
                samples = to_16k(torch.from_numpy(samples / np.float32(32768)), own)
                samples = to_int16(samples.numpy())
            audio[row, : min(len(samples), audio.shape[1])] = samples[: audio.shape[1]]
        return audio, rate, start_s, seconds

    def _events(self, clips: np.ndarray, start_s: np.ndarray) -> np.ndarray:
        counts = self.first[clips + 1] - self.first[clips]
        rows = np.repeat(np.arange(len(clips)), counts)
        which = np.arange(counts.sum()) + np.repeat(
            self.first[clips] - np.cumsum(counts) + counts, counts
        )
        shift = start_s[rows]
        onset_s, offset_s = self.onset_s[which] - shift, self.offset_s[which] - shift
        start, end = frames_of(onset_s, offset_s, self.times)
        heard = start < end
        return np.stack([rows, self.label[which], start, end], 1)[heard].astype(np.int64)


def frames_of(
    onset_s: np.ndarray, offset_s: np.ndarray, times: str = "exact"
) -> tuple[np.ndarray, np.ndarray]:
    """First and end frame of every frame that an event touches, within the 10 s window.

    Args:
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
