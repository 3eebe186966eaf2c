"""A head on frozen embeddings: the published linear layer, or DESED's attention head.

The embeddings are cached, see eval_tasks.fit.features: the crops of a step are rows of a file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eval_tasks.fit import loop
from eval_tasks.fit.crops import Crop, Crops
from eval_tasks.fit.features import Features, features
from eval_tasks.fit.heads import begin_at, begin_small
from eval_tasks.fit.recipe import OFF, Recipe, check_recipe
from eval_tasks.fit.streams import picks_seed, seeded
from eval_tasks.fit.trainer import Context, Predictions, predict_test_part
from eval_tasks.score import validation
from eval_tasks.tasks.base import Split, TaskData
from hear_ptsed.heads import AttentionHead

# Of optim: of no use here.
IDLE = {"accumulate": 1, "ema": 0.0, "layer_decay": 1.0, "lr_above": None}


def train_head(context: Context) -> Predictions:
    """The trainer of linear and weak-linear, see eval_tasks.fit.trainer.Trainer."""
    data, split, recipe = context.data, context.split, context.recipe
    check_recipe(data, recipe, context.protocol, optim=IDLE, augment=OFF)
    names = [*split.train, split.valid, split.test, *(["weak"] if context.weak else [])]
    options = context.embedding | {"shifts": recipe.fit.shifts}
    embedded = {n: features(data, n, context.plugin, context.cache, **options) for n in names}
    options = {"seed": context.seed, "device": context.device, "weak": context.weak}
    problem = Frozen(data, split, embedded, recipe, **options)
    fitted = loop.train_problem(problem, recipe, context.folder, **context.fitting)
    problem.model.eval()
    test = embedded[split.test]
    return predict_test_part(
        context,
        fitted,
        lambda: problem.probabilities(test),
        test.parameters + sum(p.numel() for p in problem.model.parameters()),
        test.seconds_per_minute,
    )


def new_head(
    dim: int, n_classes: int, prior: float | None, seed: int, *, attention: bool
) -> nn.Linear | AttentionHead:
    """A linear layer or an attention head, which the seed draws; see `begin_at` for the prior."""
    with seeded(seed):
        if not attention:
            head = nn.Linear(dim, n_classes)
            begin_at(prior, head)
            return head
        head = AttentionHead(dim, n_classes)
        begin_small(head)
    begin_at(prior, head.strong_head, head.weak_head)
    return head


class Frozen:
    """A head on a task, as eval_tasks.fit.loop trains it.

    Args:
        embedded: the parts of the split, and the weak part.
        weak: an attention head, which learns from weakly labelled clips, too.
    """

    def __init__(
        self,
        data: TaskData,
        split: Split,
        embedded: Mapping[str, Features],
        recipe: Recipe,
        *,
        seed: int,
        device: str,
        weak: bool = False,
    ):
        self.task, self.embedded, self.recipe = data.task, embedded, recipe
        self.valid, self.device = embedded[split.valid], torch.device(device)
        dim, prior = self.valid.rows.shape[1], recipe.fit.head_prior
        self.model = new_head(dim, len(data.classes), prior, seed, attention=weak).to(device)
        self.frame_layer = self.model.strong_head if weak else self.model
        kinds = {"strong": split.train} | ({"weak": ("weak",)} if weak else {})
        self.crops = {
            kind: Crops(
                [embedded[name].part for name in names],
                recipe,
                recipe.batch_sizes[kind],
                picks_seed(seed, kind),
                recipe.fit.shifts,
            )
            for kind, names in kinds.items()
        }
        # With weak clips an epoch is a pass over them, as published.
        plan = self.crops["weak" if weak else "strong"].plan
        self.steps, self.epoch_steps = plan.steps, plan.epoch_steps
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
            yield {kind: crops.at(step)[0] for kind, crops in self.crops.items()}

    def loss(self, batch: dict[str, list[Crop]], step: int) -> Tensor:
        """Mean cross-entropy of all frames (N, C), plus that of weakly labelled clips (B, C)."""
        with torch.autocast(self.device.type, enabled=False):  # a head in float32 costs nothing
            strong = batch["strong"]
            labels = [self.crops["strong"].label(crop)[crop.span] for crop in strong]
            logits = self.frame_layer(self.gather("strong", strong))
            loss = self._cross_entropy(logits, np.concatenate(labels))
            if weak := batch.get("weak"):
                labels = [self.crops["weak"].label(crop) for crop in weak]
                loss = loss + self._cross_entropy(self.clip_logits(weak), np.stack(labels))
        return loss

    def _cross_entropy(self, logits: Tensor, labels: np.ndarray) -> Tensor:
        targets = torch.from_numpy(labels).to(self.device).float()
        return F.binary_cross_entropy_with_logits(logits, targets)

    def clip_logits(self, crops: list[Crop]) -> Tensor:
        """(B, C) of crops that may differ in length."""
        frames, lengths = self.gather("weak", crops), [crop.frames for crop in crops]
        if len(set(lengths)) == 1:
            return self.model(frames.unflatten(0, (-1, lengths[0])))[1]
        return torch.cat([self.model(clip[None])[1] for clip in frames.split(lengths)])

    def gather(self, kind: str, crops: list[Crop]) -> Tensor:
        """(N, D) float32, the frames of all crops; the next call overwrites those of its kind."""
        on_cpu = self.device.type == "cpu"
        rows, n = self.valid.rows, sum(crop.frames for crop in crops)
        space = self._space.get(kind)
        if space is None or len(space) < n:  # fresh memory would cost as much as the step itself
            size = max(n, len(crops) * self.valid.part.window_frames)
            dtype = torch.float32 if on_cpu else rows.dtype
            space = self._space[kind] = torch.empty(size, rows.shape[1], dtype=dtype)
        end = 0
        for crop in crops:
            start, end = end, end + crop.frames
            stored = self.embedded[crop.part.name].get(
                crop.file, crop.first, crop.frames, crop.grid
            )
            space[start:end].copy_(stored)
        return space[:n].to(self.device).float()

    def after_step(self, step: int) -> None:
        pass

    def validate(self) -> dict[str, float]:
        return validation(self.task, self.valid.part, self.probabilities(self.valid))

    def probabilities(self, embedded: Features) -> dict[str, np.ndarray]:
        """file -> (T, C) float32 of every clip."""

        def frame_logits(rows: Tensor) -> Tensor:
            """(T, D) -> (T, C)."""
            return self.frame_layer(rows.to(self.device).float())

        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return {
                file: embedded.stitched(file, frame_logits).cpu().numpy()
                for file in embedded.part.files
            }
