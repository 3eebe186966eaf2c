"""Fine-tuning of whole networks on a task: front-end, backbone and a new head on random crops.

The batch of a step is a function of the seed and the step alone, so a run can be killed at any
moment, and loader processes change nothing.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from eval_tasks.fit import loop
from eval_tasks.fit.recipe import Fit, Recipe, check_setup
from eval_tasks.plugin import Module
from eval_tasks.score import validation
from eval_tasks.tasks.base import Outcome, Part, Split, Task, TaskData
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.frontends.mel import ATSTMel
from hear_ptsed.grid import SAMPLE_RATE, WINDOW_FRAMES, n_frames
from hear_ptsed.model import SEDModel
from hear_ptsed.windows import over_windows
from training import optim
from training.augment import augment, per_db, wavmix
from training.data.sampling import AUGMENT, Plan, TrainPicks, generator, torch_seed
from training.labels import ClipLabels, FrameLabels
from training.optim import freeze_unused
from training.recipe import Augment
from training.targets import Targets

WEAK = 100  # stream of random numbers beside those of training.data.sampling
SURE = 0.999  # share of a frame that must be known for it to count

Rows = dict[str, Tensor]  # of one kind of clips, see Crops.at


def run(
    data: TaskData,
    split: Split,
    module: Module,
    recipe: Recipe,
    folder: Path,
    *,
    seed: int,
    device: str,
    workers: int = 0,
    progress: bool = True,
    setup: str | None = None,
    save_every_s: float = 60.0,
    export: Path | None = None,
) -> Outcome:
    """Fine-tune, choose the best weights on the validation part, and let them hear the test part.

    A run that was killed goes on from the state in `folder`.

    Args:
        workers: loader processes.
        setup: "simple": attention head, and weakly labelled clips beside the strong ones.
        export: .pt or .safetensors, where the network is written in the released layout.
    """
    check_setup(data, recipe, setup, accumulate=1, ema=0.0, precision="auto")
    strong = [data.parts[name] for name in split.train]
    weak = [data.parts["weak"]] if setup else []
    net = network(module, len(data.classes), recipe.fit, seed, attention=bool(setup)).to(device)
    if recipe.fit.precision == "auto" and not net.backbone.bfloat16:
        recipe = replace(recipe, fit=replace(recipe.fit, precision="32-true"))
    batches = Batches(strong, weak, recipe, seed)
    problem = FineTuning(net, data.task, data.parts[split.valid], batches, recipe, workers)
    fitted = loop.fit(
        problem, recipe, folder, seed=seed, progress=progress, save_every_s=save_every_s
    )
    if export is not None:
        heads = ("strong_head", "weak_head") if setup else ("strong_head",)
        save_checkpoint(net, export, data.classes, heads)
    net.eval()
    test = data.parts[split.test]
    started = time.perf_counter()
    with torch.no_grad(), loop.autocast(recipe.fit.precision, torch.device(device)):
        found = probabilities(net, test)
    minutes = sum(test.samples.values()) / SAMPLE_RATE / 60
    return Outcome(
        test.name,
        found,
        sum(p.numel() for p in net.parameters() if p.requires_grad),
        (time.perf_counter() - started) / minutes,
        {key: value for key, value in fitted.items() if key != "history"},
    )


def network(
    module: Module, n_classes: int, fit: Fit, seed: int, *, attention: bool = False
) -> SEDModel:
    """The module's network with a new head, which the seed draws.

    What the loss never reaches, such as the other head, is frozen.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = module.network(n_classes, "attention" if attention else "linear")
        for layer in (net.head.strong_head, net.head.weak_head):
            if attention:
                nn.init.normal_(layer.weight, std=0.01)
    if (prior := fit.head_prior) is not None:
        nn.init.zeros_(net.head.weak_head.bias)
        nn.init.constant_(net.head.strong_head.bias, math.log(prior / (1 - prior)))
    if isinstance(net.frontend, ATSTMel):
        net.frontend.floor = fit.decibel_floor
    net.backbone.to(memory_format=torch.channels_last)
    if fit.batch_norm_momentum is not None:
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = fit.batch_norm_momentum
    freeze_unused(net, ClipLabels() if attention else FrameLabels())
    return net.train()


class Crops:
    """Random windows of 10 s on the 40 ms grid: an epoch hears as many as the clips have room for.

    Each clip counts once per full 10 s, at least once; shorter ones are zero-padded.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        seed: int,
        batch: int,
        epochs: float,
        options: Augment,
        part_batches: bool = False,
    ):
        clips = [(part, file) for part in parts for file in part.files]
        self.clips = [
            clip for clip in clips for _ in range(max(1, clip[0].frames(clip[1]) // WINDOW_FRAMES))
        ]
        self.labels = {
            (part.name, file): part.clip_targets(file) if part.tags else part.targets(file)
            for part, file in clips
        }
        self.plan = Plan(len(self.clips), len(self.clips), epochs, batch, 1, part_batches)
        self.picks = TrainPicks(
            self.plan, None, False, seed, options.wavmix_p, options.wavmix_partner
        )

    def at(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step, behind it the partners to mix in: audio (R, 160000), labels
        (R, C, 250) or of clips (R, C), known (R, 250) where a frame lies in its clip, partner (B,)
        row that is mixed into each clip of the batch; its own: none.
        """
        picks = self.picks.at(step)
        audio, labels, known = [], [], []
        for row, place in zip(picks.clips, picks.crops, strict=True):
            part, file = self.clips[row]
            real = part.real_frames(file)
            first = int(place * (max(0, part.frames(file) - WINDOW_FRAMES) + 1))
            audio.append(part.read(file, first, WINDOW_FRAMES))
            known.append(first + np.arange(WINDOW_FRAMES) < real)
            label = self.labels[part.name, file]
            if label.ndim == 2:
                window = label[first : first + WINDOW_FRAMES].T
                label = np.pad(window, ((0, 0), (0, WINDOW_FRAMES - window.shape[1])))
            labels.append(label)
        return {
            "audio": np.stack(audio),
            "labels": np.stack(labels),
            "known": np.stack(known),
            "partner": picks.partner,
        }


class Batches(Dataset):
    """Whole batches by step: strongly labelled crops, and weakly labelled ones if there are any."""

    def __init__(self, strong: Sequence[Part], weak: Sequence[Part], recipe: Recipe, seed: int):
        o = recipe.optim
        shared = o.epochs, recipe.augment, o.part_batches
        self.kinds = {"strong": Crops(strong, seed, o.batch, *shared)}
        if weak:
            draws = int(generator(seed, WEAK).integers(2**31))
            self.kinds["weak"] = Crops(weak, draws, recipe.fit.weak_batch, *shared)
        self.seed = seed
        # With weak clips an epoch is a pass over them, as published.
        self.plan = self.kinds["weak" if weak else "strong"].plan

    def __getitem__(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        return {kind: crops.at(step) for kind, crops in self.kinds.items()}


class FineTuning:
    """A network on a task, as eval_tasks.fit.loop trains it."""

    def __init__(
        self,
        model: SEDModel,
        task: Task,
        valid: Part,
        data: Batches,
        recipe: Recipe,
        workers: int = 0,
    ):
        self.model, self.task, self.valid, self.data = model, task, valid, data
        self.recipe, self.workers = recipe, workers
        self.steps = data.plan.steps
        self.epoch_steps = data.plan.epoch_steps
        self.device = next(model.parameters()).device
        self.per_db = per_db(model.frontend)
        # Known frames are mixed and rolled like pseudo labels (see `_inputs`), but never blanked.
        self.options = replace(recipe.augment, time_mask_pseudo=False)

    def groups(self) -> list[dict[str, Any]]:
        return optim.groups(self.model, self.recipe.optim)

    def batches(self, first: int) -> Iterator[dict[str, Rows]]:
        return iter(
            DataLoader(
                self.data,
                batch_size=None,  # one already
                sampler=range(first, self.steps),
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
            )
        )

    def loss(self, batch: dict[str, Rows], step: int) -> Tensor:
        """Mean cross-entropy of known frames, plus that of weakly labelled clips."""
        draw = torch.Generator().manual_seed(torch_seed(self.data.seed, AUGMENT, step))
        with torch.no_grad():
            inputs = {kind: self._inputs(batch[kind], draw) for kind in self.data.kinds}
        output = self.model.detect(torch.cat([spec for spec, _ in inputs.values()]))
        spec, targets = inputs["strong"]
        size = len(spec)
        loss = frame_loss(output.strong[:size], targets.strong, targets.soft)
        if "weak" in inputs:
            answer = output.weak[size:].float()
            loss = loss + F.binary_cross_entropy_with_logits(answer, inputs["weak"][1].weak)
        return loss

    def _inputs(self, rows: Rows, draw: torch.Generator) -> tuple[Tensor, Targets]:
        """Augmented spectrograms; targets `strong` or `weak`, and as `soft` the known frames."""
        rows = {name: value.to(self.device, non_blocking=True) for name, value in rows.items()}
        audio, partner, labels = rows["audio"], rows["partner"], rows["labels"].float()
        if labels.ndim == 3:
            targets = Targets(labels, None, rows["known"][:, None].float())
        else:
            targets = Targets(None, labels)
        if self.options.wavmix_p:
            mean, alpha = self.options.wavmix_mean, self.recipe.fit.wavmix_alpha
            audio, targets = wavmix(audio, targets, partner, draw, mean, alpha)
        spec = self.model.frontend(audio)
        return augment(spec, targets, self.options, draw, self.per_db)

    def after_step(self, step: int) -> None:
        pass

    def validate(self) -> dict[str, float]:
        return validation(self.task, self.valid, probabilities(self.model, self.valid))


def frame_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean binary cross-entropy over known frames.

    Args:
        logits, target: (B, C, 250)
        known: (B, 1, 250), 0 beyond the end of a clip.
    """
    known = (known > SURE).float()
    losses = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none") * known
    return losses.sum() / (known.sum() * logits.shape[1]).clamp(min=1.0)


def probabilities(model: SEDModel, part: Part, batch: int = 8) -> dict[str, np.ndarray]:
    """file -> (T, C) float32 of every clip: consecutive windows of 10 s, the last one padded.

    Args:
        batch: windows that the network, which is in evaluation mode, hears at a time.
    """
    device = next(model.parameters()).device

    def heard(windows: Tensor) -> Tensor:
        return model(windows).strong.transpose(1, 2).float()

    found = {}
    for length, files in groupby(part.files, part.samples.get):
        together = max(1, batch * WINDOW_FRAMES // n_frames(length))
        while names := list(islice(files, together)):
            audio = torch.from_numpy(np.stack([part.read(name) for name in names])).to(device)
            values = over_windows(audio, heard, batch=batch).sigmoid().cpu().numpy()
            found |= dict(zip(names, values, strict=True))
    return found
