"""Scores of a model on an evaluation set, batch by batch: in training and for `evaluate`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hear_ptsed.grid import WINDOW_FRAMES
from hear_ptsed.metrics.areas import clip_label_scores
from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap, Scored
from hear_ptsed.metrics.predictions import Predictions, ScoreArray, check_distinct
from hear_ptsed.metrics.score import score
from hear_ptsed.model import SEDModel
from training.data.annotations import Events, merged
from training.data.batch import Batch, ClipSet, loader, windows
from training.data.sampling import EvalPicks
from training.labels import Labels
from training.recipe import Evaluation
from training.targets import clip_targets

METRICS = ("psds1_macro", "psds1", "pauroc", "map")
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

    def rate(self, bootstrap: Bootstrap = NO_BOOTSTRAP) -> tuple[Scored, int]:
        """The scores of the clips that could be read, and the number of those that count."""
        read = self.seconds > 0
        if not read.any():
            raise RuntimeError("no clip could be scored; see the coverage report")
        keys = [key for key, kept in zip(self.clips.keys, read, strict=True) if kept]
        rated, clips, metrics = Scored({}, {}, {}), len(keys), METRICS
        if self.labels.of_clips:
            rated = clip_label_scores(
                keys, self.weak[read], self.target[read], self.clips.classes, bootstrap
            )
            metrics = [metric for metric in METRICS if metric not in rated.scores]
        if self.scored or not self.labels.of_clips:
            predictions = as_predictions(
                self.strong if read.all() else self.strong[read],
                keys,
                [self.clips.classes[c] for c in self.scored],
                self.events,
                self.seconds[read],
                self.options.median,
            )
            clips = len(predictions.event_clips.files)
            rated = score(predictions, metrics, bootstrap) | rated
        facts = {"durations": self.options.durations, "head": self.labels.head}
        return replace(
            rated,
            conventions={
                m: f"{self.labels.scores}; {text}" for m, text in rated.conventions.items()
            },
            settings={m: values | facts for m, values in rated.settings.items()},
        ), clips

    def as_dict(self, rated: Scored, clips: int) -> dict[str, Any]:
        """What `rate` says in plain numbers, for files beside a training and for a screen."""
        return rated.scores | {
            "per_class": rated.per_class,
            "ci95": rated.ci95,
            "clips": clips,
            "clips_without_events": int((self.seconds > 0).sum()) - clips,
            "classes": len(rated.per_class),
            "events": int(sum(row.get("events", 0) for row in rated.per_class.values())),
            "convention": rated.conventions | {"scores": self.labels.scores},
        }

    def result(self, intervals: bool = True) -> dict[str, Any]:
        """Plain numbers: the scores, what they are about, the loss; maybe their intervals."""
        bootstrap = Bootstrap(self.options.bootstrap) if intervals else NO_BOOTSTRAP
        result = self.as_dict(*self.rate(bootstrap))
        if self.with_loss:
            read = self.seconds > 0
            size = self.options.batch if self.options.loss_mean == "batches" else 1
            batch = np.flatnonzero(read) // size
            clips = np.bincount(batch)
            losses = np.bincount(batch, self.loss[read])[clips > 0]
            result["loss"] = float((losses / clips[clips > 0]).mean())
        return result


def as_predictions(
    scores: np.ndarray,
    clips: Sequence[str],
    classes: Sequence[str],
    events: Events,
    durations_s: np.ndarray,
    median_frames: int = 1,
) -> Predictions:
    """Frame scores and an annotation, of the classes that occur in it; touching events joined.

    Args:
        scores: (N, C, T) logits or probabilities of T frames of 40 ms, any float type, already
            median filtered. Not float16 probabilities: they saturate.
        clips: N keys.
        classes: C names.
        events: of any clips and classes.
        durations_s: (N,) of the audio without padding.
        median_frames: of the filter that the scores have been through.
    """
    durations_s = np.asarray(durations_s, np.float64)
    check_distinct("class", classes)
    if scores.ndim == 3 and scores.shape[:2] != (len(clips), len(classes)):
        raise ValueError(
            f"scores have shape {scores.shape}, but there are {len(clips)} clips and "
            f"{len(classes)} classes"
        )
    if durations_s.shape != (len(clips),):
        raise ValueError(
            f"durations_s must have one entry for each of {len(clips)} clips, got shape "
            f"{durations_s.shape}"
        )
    _check_events(events)
    reference = _events_of_clips(merged(events), clips, {*classes})
    occurring = {event["label"] for of_clip in reference.values() for event in of_clip}
    if not occurring:
        raise ValueError(
            f"no event to score: none of {len(events)} events is of one of the {len(classes)} "
            f"classes in one of the {len(clips)} clips; check the names of both"
        )
    kept = [c for c, name in enumerate(classes) if name in occurring]
    return Predictions(
        [classes[c] for c in kept],
        reference,
        dict(zip(clips, durations_s.tolist(), strict=True)),
        ScoreArray(clips, scores, kept),
        median_frames=median_frames,
    )


def _events_of_clips(
    events: Events, clips: Sequence[str], classes: set[str]
) -> dict[str, list[dict[str, Any]]]:
    """Clip -> its events of some classes, times in ms."""
    reference: dict[str, list[dict[str, Any]]] = {clip: [] for clip in clips}
    columns = events.clip, events.label, 1000 * events.onset_s, 1000 * events.offset_s
    for clip, label, start, end in zip(*(column.tolist() for column in columns), strict=True):
        name = events.labels[label]
        if name in classes and (of_clip := reference.get(events.clips[clip])) is not None:
            of_clip.append({"label": name, "start": start, "end": end})
    return reference


def _check_events(events: Events) -> None:
    fine = (events.onset_s >= 0) & (events.offset_s > events.onset_s) & np.isfinite(events.offset_s)
    if not fine.all():
        i = int(np.argmin(fine))
        clip = events.clips[events.clip[i]]
        raise ValueError(
            f"clip {clip!r} has an event of class {events.labels[events.label[i]]!r} from "
            f"{events.onset_s[i]} to {events.offset_s[i]} s; it must begin at 0 or later and end "
            "after it begins"
        )
