"""Scores of a model on an evaluation set, batch by batch: in training and for `evaluate`."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hear_ptsed.grid import WINDOW_FRAMES
from hear_ptsed.model import SEDModel
from training import metrics
from training.data.annotations import Events
from training.data.batch import Batch, ClipSet, loader, windows
from training.data.sampling import EvalPicks
from training.labels import Labels
from training.recipe import Evaluation
from training.targets import clip_targets

SECONDS_OF = {"heard": "seconds", "whole": "clip_seconds"}  # Evaluation.durations -> in a batch


def median(scores: Tensor, frames: int) -> Tensor:
    """Running median of (..., T), edges reflected, on the device of the scores.

    hear_ptsed.events.median_filter is the same for (T, C) arrays with a size for each class.
    """
    if frames == 1:
        return scores
    last = scores.shape[-1] - 1
    at = torch.arange(-(frames // 2), last + 1 + (frames - 1) // 2, device=scores.device)
    at = torch.where(at < 0, -1 - at, at)
    at = torch.where(at > last, 2 * last + 1 - at, at)
    return scores[..., at].unfold(-1, frames, 1).sort(-1).values[..., frames // 2]


@dataclass
class Scores:
    """Collects the scores of an evaluation set, and rates them."""

    clips: ClipSet
    events: Events  # merged ones of all clips, classes by name
    labels: Labels
    options: Evaluation
    with_loss: bool = True
    strong: np.ndarray = field(init=False)  # (N, scored classes, 250) float16 logits
    weak: np.ndarray = field(init=False)  # (N, C) float16 logits
    seconds: np.ndarray = field(init=False)  # (N,) 0 for clips that were not scored
    target: np.ndarray = field(init=False)  # (N, C)
    loss: np.ndarray = field(init=False)  # (N,) NaN where there is none

    def __post_init__(self):
        names = set(self.events.labels if self.events.offset_s.size else ())
        self.scored = [c for c, name in enumerate(self.clips.classes) if name in names]
        self.clear()

    def clear(self) -> None:
        """Forget all scores."""
        n, classes = len(self.clips), len(self.clips.classes)
        self.strong = np.zeros((n, len(self.scored), WINDOW_FRAMES), np.float16)
        self.weak = np.zeros((n, classes), np.float16)
        self.target = np.zeros((n, classes), bool)
        self.seconds, self.loss = np.zeros(n), np.full(n, np.nan)

    def loader(self, workers: int, pin: bool, rank: int = 0, world: int = 1) -> DataLoader:
        """Batches of all clips, or of those of one device of several."""
        picks = EvalPicks(len(self.clips), self.options.batch, rank, world)
        return loader(self.clips, picks, workers, pin)

    @property
    def primary(self) -> str:
        """The metric to choose a checkpoint by."""
        return "psds1_macro" if self.scored else "map"

    def score_batch(self, model: SEDModel, batch: Batch) -> tuple[Tensor, ...]:
        """What `add` takes, each (B, ...), computed on the model's device."""
        strong, weak = self.labels.scored_logits(model, windows(batch))
        target = clip_targets(batch["events"], *weak.shape)
        loss = torch.full_like(weak[:, 0], math.nan)
        if self.with_loss:
            loss = self.labels.clip_losses(strong, weak, batch["events"])
        seconds = batch[SECONDS_OF[self.options.durations]]
        return batch["clip"], batch["ok"], seconds, self.filtered(strong), weak, target, loss

    def filtered(self, strong: Tensor) -> Tensor:
        """What is stored of frame logits (B, C, 250): (B, scored classes, 250) float16."""
        return median(strong[:, self.scored], self.options.median).half()

    def add(
        self,
        rows: Tensor,
        ok: Tensor,
        seconds: Tensor,
        strong: Tensor,
        weak: Tensor,
        target: Tensor,
        loss: Tensor,
    ) -> None:
        """Take over a batch of clips `rows`, those that are `ok` (readable).

        Args:
            rows, ok, seconds, loss: (B,)
            strong: (B, scored classes, 250), see `filtered`.
            weak, target: (B, C)
        """
        ok = ok.cpu()
        rows = rows.cpu()[ok].numpy()
        self.strong[rows] = strong.cpu()[ok].numpy()
        self.weak[rows] = weak.half().cpu()[ok].numpy()
        self.target[rows] = target.bool().cpu()[ok].numpy()
        self.seconds[rows] = seconds.cpu()[ok].numpy()
        self.loss[rows] = loss.cpu()[ok].numpy()

    def result(self, intervals: bool = True) -> dict:
        """The metrics with everything that says how they came about; maybe their intervals."""
        scored = self.seconds > 0
        if not scored.any():
            raise RuntimeError("no clip could be scored; see the coverage report")
        of_clips: dict = {}
        if self.labels.of_clips:
            of_clips = metrics.clip_average_precision(
                self.weak[scored], self.target[scored], self.clips.classes
            )
        of_frames = {}
        if self.scored or not of_clips:
            of_frames = self._of_frames(scored, self.options.bootstrap if intervals else 0)
        result = of_frames | of_clips
        if self.with_loss:
            size = self.options.batch if self.options.loss_mean == "batches" else 1
            batch = np.flatnonzero(scored) // size
            clips = np.bincount(batch)
            losses = np.bincount(batch, self.loss[scored])[clips > 0]
            result["loss"] = float((losses / clips[clips > 0]).mean())
        return result

    def _of_frames(self, scored: np.ndarray, bootstrap: int) -> dict:
        """PSDS1, pAUROC and mAP of the clips `scored` (N,) bool."""
        result = metrics.evaluate(
            self.strong if scored.all() else self.strong[scored],
            [key for key, kept in zip(self.clips.keys, scored, strict=True) if kept],
            [self.clips.classes[c] for c in self.scored],
            self.events,
            self.seconds[scored],
            bootstrap=bootstrap,
        ).to_dict()
        result["convention"] |= {"median_frames": self.options.median} | self.labels.convention
        return result
