"""Random crops of a task's clips, by step, and how whole batches are loaded."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from eval_tasks.fit.recipe import Recipe
from eval_tasks.tasks.base import Part
from hear_ptsed.grid import WINDOW_FRAMES, n_frames
from training.data.sampling import AUGMENT, Plan, TrainPicks, generator


class Crop(NamedTuple):
    """Up to 10 s of a clip, without frames that are padding."""

    part: Part
    file: str
    first: int  # frame
    frames: int
    grid: int  # of windows, see eval_tasks.fit.features

    @property
    def span(self) -> slice:
        return slice(self.first, self.first + self.frames)


class Crops:
    """Random windows of 10 s that begin with a frame: an epoch hears as many as the clips have
    room for.

    Each clip counts once per full 10 s, at least once.
    """

    def __init__(
        self, parts: Sequence[Part], recipe: Recipe, batch: int, seed: int, shifts: int = 1
    ):
        """
        Args:
            batch: crops of a step.
            shifts: grids of windows of cached embeddings; one of them is drawn, too.
        """
        clips = [(part, file) for part in parts for file in part.files]
        self.clips = [clip for clip in clips for _ in range(full_windows(*clip))]
        self._labels = {
            (part.name, file): part.clip_targets(file) if part.tags else part.targets(file)
            for part, file in clips
        }
        self.seed, self.shifts = seed, shifts
        self.plan = plan_crops(parts, recipe, batch)
        augment = recipe.augment
        self.picks = TrainPicks(
            self.plan, None, False, seed, augment.wavmix_p, augment.wavmix_partner
        )

    def label(self, crop: Crop) -> np.ndarray:
        """(T, C) uint8 of the whole clip, or (C,) of a weakly labelled one."""
        return self._labels[crop.part.name, crop.file]

    def at(self, step: int) -> tuple[list[Crop], np.ndarray]:
        """The batch of a step, behind it the partners to mix in.

        Returns:
            The crops, and for each of the batch (B,) the place of what is mixed into it; its own:
            nothing.
        """
        picks = self.picks.at(step)
        grids = generator(self.seed, AUGMENT, step).random(len(picks.clips))
        crops = []
        for row, place, grid in zip(picks.clips, picks.crops, grids, strict=True):
            part, file = self.clips[row]
            first = int(place * (max(0, part.frames(file) - part.window_frames) + 1))
            frames = max(0, min(part.window_frames, part.real_frames(file) - first))
            grid = int(grid * grids_of(part, file, self.shifts))
            crops.append(Crop(part, file, first, frames, grid))
        return crops, picks.partner


def full_windows(part: Part, file: str) -> int:
    """How often a clip counts in an epoch, whatever the hop."""
    return max(1, n_frames(part.samples[file]) // WINDOW_FRAMES)


def grids_of(part: Part, file: str, shifts: int) -> int:
    """Grids of windows of a clip: 1 up to 10 s, or as the task stitches windows."""
    if part.stitch:
        return min(part.stitch.grids, len(part.stitch.starts(part.frames(file), part.hop_ms)))
    return shifts if part.frames(file) > part.window_frames else 1


def plan_crops(parts: Sequence[Part], recipe: Recipe, batch: int) -> Plan:
    """Steps of a training on crops of these parts."""
    clips = sum(full_windows(part, file) for part in parts for file in part.files)
    return Plan(clips, clips, recipe.optim.epochs, batch, 1, recipe.optim.part_batches)


def load_batches(
    batches: Dataset, steps: range, workers: int, device: torch.device
) -> Iterator[Any]:
    """Whole batches of these steps, in order.

    Args:
        batches: step -> the batch.
        workers: loader processes.
    """
    return iter(
        DataLoader(
            batches,
            batch_size=None,  # each is whole already
            sampler=steps,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
    )
