"""Which clips make which batch: a pure function of the seed and the step, on any number of devices.

Epochs follow each other as one stream of clips, and step k takes the clips from k * batch on. So
nothing is dropped or repeated at the end of an epoch, devices never differ in their number of
steps, and the position of a run is its step alone. As published, an epoch can end with a smaller
batch instead.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

ORDER, WAVMIX, CROP, AUGMENT, MODEL, EXTRA = range(6)  # streams of random numbers


def generator(seed: int, stream: int, *numbers: int) -> np.random.Generator:
    """Independent random numbers for each combination of arguments."""
    return np.random.default_rng([seed, stream, *numbers])


def torch_seed(seed: int, stream: int, *numbers: int) -> int:
    """The same, as a seed for torch."""
    return int(generator(seed, stream, *numbers).integers(2**63))


class Picks(NamedTuple):
    """The clips of one part of a batch on one device."""

    step: int  # micro step of the run; -1 in evaluation
    clips: np.ndarray  # (R,) rows of the clip set: the batch, then partners to mix in
    crops: np.ndarray  # (R,) where a clip over 10 s is cut, 0 first to 1 last
    partner: np.ndarray  # (B,) row that is mixed into each clip of the batch; its own: none
    extra: "Picks | None" = None  # of the clips that only teachers label


@dataclass(frozen=True)
class Plan:
    """Size of a run: `batch` and `accumulate` as in the recipe."""

    clips: int  # in the set
    epoch_clips: int
    epochs: float
    batch: int
    accumulate: int
    part_batches: bool = False  # an epoch ends with a smaller batch of what is left

    def __post_init__(self):
        if self.clips < 1:
            raise ValueError("no clip to train on; see the coverage report")

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return steps_in(self.epochs, self.epoch_steps)

    @property
    def epoch_steps(self) -> float:
        """Optimiser steps of an epoch."""
        steps = self.epoch_clips / self.batch
        return math.ceil(steps) if self.part_batches else steps

    @property
    def micro_steps(self) -> int:
        return self.steps * self.accumulate

    def steps_in(self, epochs: float) -> int:
        """Optimiser steps in a number of epochs, at least one."""
        return max(1, round(epochs * self.epoch_steps))


def steps_in(epochs: float, epoch_steps: float) -> int:
    """Whole optimiser steps of a number of epochs; refuses what would be none."""
    if epochs * epoch_steps < 0.5:
        raise ValueError(
            f"optim.epochs is {epochs:g} of {epoch_steps:g} steps each, so no step would be made; "
            f"give optim.epochs {1 / epoch_steps:g} or more, or a smaller optim.batch"
        )
    return max(1, round(epochs * epoch_steps))


def balanced_weights(
    clip: np.ndarray, label: np.ndarray, frames: np.ndarray, clips: int, offset: float
) -> np.ndarray:
    """Weight of each clip: its active frames, each counted by the rarity of its class.

    Args:
        clip, label, frames: (E,) of each event: its clip, its class, how many frames it is active.
        offset: frames added to the total of every class.
    Returns:
        (clips,), above 0 also where a clip has no event.
    """
    rarity = 1000.0 / (offset + np.bincount(label, frames))
    weights = np.bincount(clip, frames * rarity[label], clips)
    return np.maximum(weights, np.finfo(np.float32).tiny)


class TrainPicks(Sampler[Picks]):
    """The picks of one device from micro step `start` to the end of the run.

    Args:
        weights: of the clips, None for uniform sampling.
        wavmix_p, partner: see Augment.
        extra: of the clips that only teachers label, which go with these.
    """

    def __init__(
        self,
        plan: Plan,
        weights: np.ndarray | None,
        replacement: bool,
        seed: int,
        wavmix_p: float = 0.0,
        partner: str = "dataset",
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        extra: "TrainPicks | None" = None,
    ):
        part = plan.batch // plan.accumulate
        if part % world:
            raise ValueError(
                f"optim.batch {plan.batch} in {plan.accumulate} parts cannot be shared by {world} "
                f"devices; make it a multiple of {world * plan.accumulate}"
            )
        self.plan, self.seed = plan, seed
        self.weights = None if weights is None else torch.from_numpy(weights).double()
        self.replacement = replacement and weights is not None
        if plan.epoch_clips > plan.clips and not self.replacement:
            raise ValueError(
                f"epochs of {plan.epoch_clips} of {plan.clips} clips, none of them twice; lower "
                "sampling.epoch_clips"
            )
        self.wavmix_p, self.partner = wavmix_p, partner
        self.start, self.rank, self.world, self.extra = start, rank, world, extra
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.plan.micro_steps

    def __iter__(self) -> Iterator[Picks]:
        for step in range(self.start, self.plan.micro_steps):
            yield self.at(step)

    def at(self, step: int) -> Picks:
        """The picks of one micro step."""
        clips = self._part(step)
        part = len(clips)
        share = part // self.world
        mine = slice(self.rank * share, (self.rank + 1) * share)
        clips = clips[mine]
        partner = np.arange(share)
        others = np.empty(0, np.int64)
        if self.wavmix_p:
            rng = generator(self.seed, WAVMIX, step)
            mixed = (rng.random(part) < self.wavmix_p)[mine]
            if self.partner == "dataset":
                others = rng.integers(self.plan.clips, size=part)[mine][mixed]
                partner[mixed] = share + np.arange(len(others))
            else:
                shift = generator(self.seed, WAVMIX, step, self.rank).integers(1, max(share, 2))
                partner[mixed] = ((partner + shift) % share)[mixed]
        clips = np.concatenate([clips, others])
        crops = generator(self.seed, CROP, step, self.rank).random(len(clips))
        extra = None if self.extra is None else self.extra.at(step)
        return Picks(step, clips, crops, partner, extra)

    def _part(self, step: int) -> np.ndarray:
        """Clips of a micro step over all devices."""
        plan = self.plan
        if not plan.part_batches:
            size = plan.batch // plan.accumulate
            return self._stream(step * size, size)
        batch, part = divmod(step, plan.accumulate)
        epoch, k = divmod(batch, plan.epoch_steps)
        clips = self._order(epoch)[k * plan.batch : (k + 1) * plan.batch]
        # What is left is shared evenly; where it does not go up, some of it comes twice.
        size = -(-len(clips) // (plan.accumulate * self.world)) * self.world
        return np.resize(clips, size * plan.accumulate)[part * size : (part + 1) * size]

    def _stream(self, first: int, count: int) -> np.ndarray:
        """Clips `first` to `first + count` of the endless row of epochs."""
        length, parts = self.plan.epoch_clips, []
        while count:
            epoch, start = divmod(first, length)
            parts.append(self._order(epoch)[start : start + count])
            first, count = first + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            draw = torch.Generator().manual_seed(torch_seed(self.seed, ORDER, epoch))
            length, n = self.plan.epoch_clips, self.plan.clips
            if self.weights is None:
                order = torch.randperm(n, generator=draw)[:length]
            else:
                order = torch.multinomial(self.weights, length, self.replacement, generator=draw)
            self._epoch = (epoch, order.numpy())
        return self._epoch[1]


class EvalPicks(Sampler[Picks]):
    """Every clip once, in order; a device that runs out repeats the last clip."""

    def __init__(self, clips: int, batch: int, rank: int = 0, world: int = 1):
        self.clips, self.batch, self.rank, self.world = clips, batch, rank, world

    def __len__(self) -> int:
        return -(-self.clips // (self.batch * self.world))

    def __iter__(self) -> Iterator[Picks]:
        for i in range(len(self)):
            first = (i * self.world + self.rank) * self.batch
            clips = np.minimum(np.arange(first, first + self.batch), self.clips - 1)
            yield Picks(-1, clips, np.zeros(len(clips)), np.arange(len(clips)))
