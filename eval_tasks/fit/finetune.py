"""Fine-tuning of whole networks on a task: front-end, backbone and a new head on random crops.

The batch of a step is a function of the seed and the step alone, so a run can be killed at any
moment, and loader processes change nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from eval_tasks.fit import loop
from eval_tasks.fit.crops import Crops, load_batches
from eval_tasks.fit.heads import begin_at, begin_small
from eval_tasks.fit.recipe import Fit, Recipe, check_recipe
from eval_tasks.fit.streams import augmentation, picks_seed, seeded
from eval_tasks.fit.trainer import Context, Predictions, predict_test_part
from eval_tasks.plugin import Plugin
from eval_tasks.score import validation
from eval_tasks.tasks.base import Part, Task
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.frontends.mel import ATSTMel
from hear_ptsed.grid import WINDOW_FRAMES, n_frames
from hear_ptsed.model import SEDModel
from hear_ptsed.windows import mean_of_windows, over_windows
from training import optim
from training.augment import augment, per_db, wavmix
from training.labels import ClipLabels, FrameLabels
from training.optim import freeze_unused
from training.targets import Targets

SURE = 0.999  # share of a frame that must be known for it to count
IDLE = {"accumulate": 1, "ema": 0.0, "precision": "auto"}  # of optim: of no use here

Rows = dict[str, Tensor]  # of one kind of clips, see AudioBatches


def train_network(context: Context) -> Predictions:
    """The trainer of finetuned and weak-finetuned, see eval_tasks.fit.trainer.Trainer."""
    data, split, recipe, device = context.data, context.split, context.recipe, context.device
    check_recipe(data, recipe, context.protocol, optim=IDLE)
    strong = [data.parts[name] for name in split.train]
    weak = [data.parts["weak"]] if context.weak else []
    net = new_network(
        context.plugin, len(data.classes), recipe.fit, context.seed, attention=context.weak
    ).to(device)
    if recipe.fit.precision == "auto" and not net.backbone.bfloat16:
        recipe = replace(recipe, fit=replace(recipe.fit, precision="32-true"))
    batches = AudioBatches(strong, weak, recipe, context.seed)
    valid = data.parts[split.valid]
    problem = FineTuning(net, data.task, valid, batches, recipe, context.workers)
    fitted = loop.train_problem(problem, recipe, context.folder, **context.fitting)
    if context.export is not None:
        heads = ("strong_head", "weak_head") if context.weak else ("strong_head",)
        save_checkpoint(net, context.export, data.classes, heads)
    net.eval()

    def predict() -> dict[str, np.ndarray]:
        with torch.no_grad(), loop.autocast(recipe.fit.precision, torch.device(device)):
            return probabilities(net, context.test)

    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return predict_test_part(context, fitted, predict, trained)


def new_network(
    plugin: Plugin, n_classes: int, fit: Fit, seed: int, *, attention: bool = False
) -> SEDModel:
    """The plug-in's network with a new head, which the seed draws.

    What the loss never reaches, such as the other head, is frozen.
    """
    with seeded(seed):
        net = plugin.network(n_classes, "attention" if attention else "linear")
        if attention:
            begin_small(net.head)
    begin_at(fit.head_prior, net.head.strong_head, net.head.weak_head)
    if isinstance(net.frontend, ATSTMel):
        net.frontend.floor = fit.decibel_floor
    net.backbone.to(memory_format=torch.channels_last)
    if fit.batch_norm_momentum is not None:
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = fit.batch_norm_momentum
    freeze_unused(net, ClipLabels() if attention else FrameLabels())
    return net.train()


class AudioBatches(Dataset):
    """Whole batches by step: strongly labelled crops, and weakly labelled ones if there are any."""

    def __init__(self, strong: Sequence[Part], weak: Sequence[Part], recipe: Recipe, seed: int):
        kinds = {"strong": strong} | ({"weak": weak} if weak else {})
        sizes = recipe.batch_sizes
        self.crops = {
            kind: Crops(parts, recipe, sizes[kind], picks_seed(seed, kind, finetuning=True))
            for kind, parts in kinds.items()
        }
        self.seed = seed
        # With weak clips an epoch is a pass over them, as published.
        self.plan = self.crops["weak" if weak else "strong"].plan

    def __getitem__(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        return {kind: audio_rows(crops, step) for kind, crops in self.crops.items()}


def audio_rows(crops: Crops, step: int) -> dict[str, np.ndarray]:
    """The crops of a step, behind the batch the partners to mix in.

    Returns:
        audio (R, 160000), zero-padded; labels (R, C, 250), or (R, C) of weak clips; known (R, 250):
        where a frame lies in its clip; partner (B,): row that is mixed into each clip of the batch.
    """
    picked, partner = crops.at(step)
    audio, labels, known = [], [], []
    for crop in picked:
        audio.append(crop.part.read(crop.file, crop.first, WINDOW_FRAMES))
        known.append(np.arange(WINDOW_FRAMES) < crop.frames)
        label = crops.label(crop)
        if label.ndim == 2:
            window = label[crop.first : crop.first + WINDOW_FRAMES].T
            label = np.pad(window, ((0, 0), (0, WINDOW_FRAMES - window.shape[1])))
        labels.append(label)
    rows = {"audio": audio, "labels": labels, "known": known}
    return {name: np.stack(values) for name, values in rows.items()} | {"partner": partner}


class FineTuning:
    """A network on a task, as eval_tasks.fit.loop trains it."""

    def __init__(
        self,
        model: SEDModel,
        task: Task,
        valid: Part,
        batches: AudioBatches,
        recipe: Recipe,
        workers: int = 0,
    ):
        self.model, self.task, self.valid, self.audio = model, task, valid, batches
        self.recipe, self.workers = recipe, workers
        self.steps = batches.plan.steps
        self.epoch_steps = batches.plan.epoch_steps
        self.device = next(model.parameters()).device
        self.per_db = per_db(model.frontend)
        # Known frames are mixed and rolled like pseudo labels (see `inputs`), but never blanked.
        self.options = replace(recipe.augment, time_mask_pseudo=False)

    def groups(self) -> list[dict[str, Any]]:
        return optim.groups(self.model, self.recipe.optim)

    def batches(self, first: int) -> Iterator[dict[str, Rows]]:
        return load_batches(self.audio, range(first, self.steps), self.workers, self.device)

    def loss(self, batch: dict[str, Rows], step: int) -> Tensor:
        """Mean cross-entropy of known frames (B, C, T), plus that of weak clips (B, C)."""
        draw = augmentation(self.audio.seed, step)
        with torch.no_grad():
            inputs = {kind: self.inputs(batch[kind], draw) for kind in batch}
        output = self.model.detect(torch.cat([spec for spec, _ in inputs.values()]))
        spec, targets = inputs["strong"]
        size = len(spec)
        loss = frame_loss(output.strong[:size], targets.strong, targets.soft)
        if "weak" in inputs:
            answer = output.weak[size:].float()
            loss = loss + F.binary_cross_entropy_with_logits(answer, inputs["weak"][1].weak)
        return loss

    def inputs(self, rows: Rows, draw: torch.Generator) -> tuple[Tensor, Targets]:
        """Augmented spectrograms (B, 1, F, T); targets, and as their `soft` the known frames."""
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
    """file -> (T, C) float32 of every clip: consecutive windows of 10 s, the last one padded, or as
    the task stitches windows.

    Args:
        batch: windows that the network, which is in evaluation mode, hears at a time.
    """
    device, stitch = next(model.parameters()).device, part.stitch

    def frame_logits(windows: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        return model(windows).strong.transpose(1, 2).float()

    def over_clips(audio: Tensor) -> Tensor:
        """(B, S) -> probabilities (B, T, C)."""
        if stitch is None:
            return over_windows(audio, frame_logits, batch=batch).sigmoid()
        starts = stitch.starts(n_frames(audio.shape[1]))
        weight = torch.from_numpy(stitch.weight()).to(device)
        if stitch.average == "logits":
            return mean_of_windows(audio, frame_logits, starts, weight, batch).sigmoid()
        return mean_of_windows(
            audio, lambda windows: frame_logits(windows).sigmoid(), starts, weight, batch
        )

    predicted = {}
    for length, files in groupby(part.files, part.samples.get):
        together = max(1, batch * WINDOW_FRAMES // n_frames(length))
        while names := list(islice(files, together)):
            audio = torch.from_numpy(np.stack([part.read(name) for name in names])).to(device)
            values = over_clips(audio).cpu().numpy()
            predicted |= dict(zip(names, values, strict=True))
    return predicted
