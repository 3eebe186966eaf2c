"""A head on frozen embeddings: the published linear layer, or DESED's attention head.

The embeddings are cached, see eval_tasks.fit.features: the crops of a step are rows of a file.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval_tasks.fit.features import Features, features
from eval_tasks.fit.loop import fit
from eval_tasks.fit.recipe import Recipe, check_setup
from eval_tasks.plugin import Module
from eval_tasks.score import validation
from eval_tasks.tasks.base import Outcome, Split, TaskData
from hear_ptsed.grid import SAMPLE_RATE, WINDOW_FRAMES
from hear_ptsed.heads import AttentionHead
from training.data.sampling import AUGMENT, ORDER, Plan, TrainPicks, generator, torch_seed


class Crop(NamedTuple):
    """Up to 10 s of a clip, without frames that are padding."""

    part: str
    file: str
    first: int
    frames: int
    grid: int  # of windows, see eval_tasks.fit.features

    @property
    def span(self) -> slice:
        return slice(self.first, self.first + self.frames)


def linear(
    data: TaskData,
    split: Split,
    module: Module,
    recipe: Recipe,
    folder: Path,
    cache: Path,
    *,
    seed: int,
    device: str,
    progress: bool = True,
    setup: str | None = None,
    save_every_s: float = 60.0,
) -> Outcome:
    """Train a head, choose its best weights on the validation part, and predict the test part.

    A run that was killed goes on from the features in `cache` and the state in `folder`.

    Args:
        setup: "simple": attention head, and weakly labelled clips beside the strong ones.
    """
    _check(data, recipe, setup)
    names = [*split.train, split.valid, split.test, *(["weak"] if setup else [])]
    options = {"shifts": recipe.fit.shifts, "device": device, "progress": progress}
    found = {name: features(data, name, module, cache, **options) for name in names}
    problem = Frozen(data, split, found, recipe, seed=seed, device=device, setup=setup)
    fitted = fit(problem, recipe, folder, seed=seed, progress=progress, save_every_s=save_every_s)
    problem.model.eval()
    test = found[split.test]
    started = time.perf_counter()
    predicted = problem.probabilities(test)
    minutes = sum(test.part.samples.values()) / SAMPLE_RATE / 60
    return Outcome(
        split.test,
        predicted,
        test.parameters + sum(p.numel() for p in problem.model.parameters()),
        test.seconds_per_minute + (time.perf_counter() - started) / minutes,
        {key: value for key, value in fitted.items() if key != "history"},
    )


def _check(data: TaskData, recipe: Recipe, setup: str | None) -> None:
    check_setup(data, recipe, setup, accumulate=1, ema=0.0, layer_decay=1.0)
    for name in ("wavmix_p", "frame_shift", "mixup_p", "mixstyle_p", "filter_p", "warp_p"):
        if value := getattr(recipe.augment, name):
            raise ValueError(f"augment.{name} is {value}; cached features are not augmented: set 0")


def head(dim: int, n_classes: int, prior: float | None, seed: int, *, attention: bool) -> nn.Module:
    """A new linear layer or attention head, whose scores begin at about the prior.

    Args:
        prior: None for PyTorch's own bias.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AttentionHead(dim, n_classes) if attention else nn.Linear(dim, n_classes)
    if attention:
        for layer in (model.strong_head, model.weak_head):
            nn.init.normal_(layer.weight, std=0.01)
    if prior is not None:
        if attention:
            nn.init.zeros_(model.weak_head.bias)
        first = model.strong_head if attention else model
        nn.init.constant_(first.bias, math.log(prior / (1 - prior)))
    return model


class Crops:
    """Random crops on the 40 ms grid: an epoch hears as many as the clips have room for.

    Each clip counts once per full 10 s, at least once. The grid of windows is random, too.
    """

    def __init__(
        self,
        found: Sequence[Features],
        seed: int,
        batch: int,
        epochs: float,
        part_batches: bool = False,
    ):
        self.clips = [
            (one, file)
            for one in found
            for file in one.part.files
            for _ in range(max(1, one.part.frames(file) // WINDOW_FRAMES))
        ]
        self.seed = seed
        self.plan = Plan(len(self.clips), len(self.clips), epochs, batch, 1, part_batches)
        self.picks = TrainPicks(self.plan, None, False, seed)

    def at(self, step: int) -> list[Crop]:
        """Those of a step."""
        picks = self.picks.at(step)
        grids = generator(self.seed, AUGMENT, step).random(len(picks.clips))
        crops = []
        for row, place, grid in zip(picks.clips, picks.crops, grids, strict=True):
            found, file = self.clips[row]
            part, total = found.part, found.part.frames(file)
            first = int(place * (max(0, total - WINDOW_FRAMES) + 1))
            frames = max(0, min(WINDOW_FRAMES, part.real_frames(file) - first))
            crops.append(Crop(part.name, file, first, frames, int(grid * found.grids(file))))
        return crops


class Frozen:
    """A head on a task, as eval_tasks.fit.loop trains it."""

    def __init__(
        self,
        data: TaskData,
        split: Split,
        found: Mapping[str, Features],
        recipe: Recipe,
        *,
        seed: int,
        device: str,
        setup: str | None = None,
    ):
        self.task, self.found, self.recipe = data.task, found, recipe
        self.valid, self.device = split.valid, torch.device(device)
        dim = found[split.valid].rows.shape[1]
        prior = recipe.fit.head_prior
        self.model = head(dim, len(data.classes), prior, seed, attention=bool(setup)).to(device)
        self.frame_layer = self.model.strong_head if setup else self.model
        o, sizes = recipe.optim, (recipe.optim.batch, recipe.fit.weak_batch)
        shared = o.epochs, o.part_batches
        kinds = {"strong": split.train} | ({"weak": ("weak",)} if setup else {})
        self.kinds = {
            kind: Crops([found[name] for name in names], torch_seed(seed, ORDER, i), size, *shared)
            for i, ((kind, names), size) in enumerate(zip(kinds.items(), sizes, strict=False))
        }
        # With weak clips an epoch is a pass over them, as published.
        plan = self.kinds["weak" if setup else "strong"].plan
        self.steps, self.epoch_steps = plan.steps, plan.epoch_steps
        self.targets = {
            (one.part.name, file): one.part.targets(file)
            for one in found.values()
            for file in one.part.events
        }
        weak = data.parts["weak"] if setup else None
        self.tags = {file: weak.clip_targets(file) for file in weak.files} if weak else {}
        self._space: dict[str, Tensor] = {}

    def groups(self) -> list[dict[str, Any]]:
        """The weight with weight_decay, the bias with vector_decay as in training.optim."""
        o = self.recipe.optim
        vectors = o.vector_decay if o.name == "adamw" else 0.0
        return [
            {"params": [p], "lr": o.lr, "weight_decay": o.weight_decay if p.ndim > 1 else vectors}
            for p in self.model.parameters()
        ]

    def batches(self, first: int) -> Iterator[dict[str, list[Crop]]]:
        for step in range(first, self.steps):
            yield {kind: crops.at(step) for kind, crops in self.kinds.items()}

    def loss(self, batch: dict[str, list[Crop]], step: int) -> Tensor:
        """Mean cross-entropy of all frames, plus that of weakly labelled clips."""
        with torch.autocast(self.device.type, enabled=False):  # a head in float32 costs nothing
            crops = batch["strong"]
            loss = self._cross_entropy(
                self.frame_layer(self.gather("strong", crops)),
                np.concatenate([self.targets[one.part, one.file][one.span] for one in crops]),
            )
            if weak := batch.get("weak"):
                loss = loss + self._cross_entropy(
                    self._clip_logits(weak), np.stack([self.tags[one.file] for one in weak])
                )
        return loss

    def _cross_entropy(self, logits: Tensor, targets: np.ndarray) -> Tensor:
        wanted = torch.from_numpy(targets).to(self.device).float()
        return F.binary_cross_entropy_with_logits(logits, wanted)

    def _clip_logits(self, crops: list[Crop]) -> Tensor:
        """(B, C) of crops that may differ in length."""
        frames, lengths = self.gather("weak", crops), [one.frames for one in crops]
        if len(set(lengths)) == 1:
            return self.model(frames.unflatten(0, (-1, lengths[0])))[1]
        return torch.cat([self.model(clip[None])[1] for clip in frames.split(lengths)])

    def gather(self, kind: str, crops: list[Crop]) -> Tensor:
        """(N, D) float32, the frames of all crops; the next call overwrites those of its kind."""
        on_cpu = self.device.type == "cpu"
        rows, n = self.found[self.valid].rows, sum(one.frames for one in crops)
        space = self._space.get(kind)
        if space is None or len(space) < n:  # fresh memory would cost as much as the step itself
            size = max(n, len(crops) * WINDOW_FRAMES)
            dtype = torch.float32 if on_cpu else rows.dtype
            space = self._space[kind] = torch.empty(size, rows.shape[1], dtype=dtype)
        end = 0
        for one in crops:
            start, end = end, end + one.frames
            stored = self.found[one.part].get(one.file, one.first, one.frames, one.grid)
            space[start:end].copy_(stored)
        return space[:n].to(self.device).float()

    def after_step(self, step: int) -> None:
        pass

    def validate(self) -> dict[str, float]:
        found = self.found[self.valid]
        return validation(self.task, found.part, self.probabilities(found))

    def probabilities(self, found: Features) -> dict[str, np.ndarray]:
        """file -> (T, C) float32 of every clip, by the first grid of windows."""
        device = self.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return {
                file: self.frame_layer(found.get(file).to(device).float()).sigmoid().cpu().numpy()
                for file in found.part.files
            }
