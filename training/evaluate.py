"""Scoring of models on strongly labelled clips: `python -m training evaluate`."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from hear_ptsed import interrupt
from hear_ptsed.audio import to_16k
from hear_ptsed.checkpoints import open_checkpoint
from hear_ptsed.files import null_for_nan, sha256, write_json
from hear_ptsed.grid import WINDOW
from hear_ptsed.labels import load_labels
from hear_ptsed.model import SEDModel
from hear_ptsed.schema import Label, Name, check
from training import metrics
from training.data.annotations import Events, merged
from training.data.batch import Batch, ClipSet, loader
from training.data.sampling import EvalPicks
from training.data.sources import Opened
from training.recipe import Data, Recipe, Source
from training.targets import clip_targets

log = logging.getLogger(__name__)
SECONDS_OF = {"heard": "seconds", "whole": "clip_seconds"}  # durations -> name in a batch
TASKS = ("strong_labels", "audioset_strong")
AUDIOSET_CLIPS = 16_996  # annotated, of the official evaluation set


def windows(batch: Batch) -> Tensor:
    """The audio of a batch as (R, 160000) float32 at 16 kHz, on its device."""
    audio = batch["audio"].float() / 32768
    audio = to_16k(audio, batch["rate"])
    return F.pad(audio, (0, max(0, WINDOW - audio.shape[1])))[:, :WINDOW]


def frame_logits(model: SEDModel, audio: Tensor, labels: str) -> tuple[Tensor, Tensor]:
    """Logits per frame (B, C, 250) and per clip (B, C), float32; of clips NaN without such a head.

    A model of clip labels has no trained strong head: its weak head, which reads the mean frame,
    is applied to each frame.
    """
    output = model(audio)
    strong, weak = output.strong, output.weak
    if labels == "weak":
        strong = model.head.weak_head(output.frames).transpose(1, 2)
    if weak is None:
        weak = strong.new_full(strong.shape[:2], math.nan)
    return strong.float(), weak.float()


def median(scores: Tensor, size: int) -> Tensor:
    """Running median of (..., T), edges reflected, as hear_ptsed.events.median_filter."""
    if size == 1:
        return scores
    at = torch.arange(-(size // 2), scores.shape[-1] + (size - 1) // 2, device=scores.device)
    at = torch.where(at < 0, -1 - at, at)
    at = torch.where(at >= scores.shape[-1], 2 * scores.shape[-1] - 1 - at, at)
    return scores[..., at].unfold(-1, size, 1).sort(-1).values[..., size // 2]


@dataclass
class Scores:
    """Collects the scores of an evaluation set, and rates them."""

    clips: ClipSet
    events: Events  # merged ones of all clips, classes by name
    labels: str  # strong or weak
    size: int = 9  # of the median filter, frames
    loss_batch: int = 1  # clips; the loss is the mean of the means of such batches
    strong: np.ndarray = field(init=False)  # (N, scored classes, 250) float16 logits
    weak: np.ndarray = field(init=False)  # (N, C) float16 logits
    seconds: np.ndarray = field(init=False)  # (N,) 0 for clips that were not scored
    target: np.ndarray = field(init=False)  # (N, C)
    loss: np.ndarray = field(init=False)  # (N,), where it was given

    def __post_init__(self):
        n, classes = len(self.clips), self.clips.classes
        timed = self.events.offset_s.size > 0
        self.scored = [c for c, name in enumerate(classes) if timed and name in self.events.labels]
        self.strong = np.zeros((n, len(self.scored), 250), np.float16)
        self.weak = np.zeros((n, len(classes)), np.float16)
        self.target = np.zeros((n, len(classes)), bool)
        self.seconds, self.loss = np.zeros(n), np.full(n, np.nan)

    def filtered(self, strong: Tensor) -> Tensor:
        """What is stored of frame logits (B, C, 250)."""
        return median(strong[:, self.scored], self.size).half()

    def add(
        self,
        rows: Tensor,
        ok: Tensor,
        seconds: Tensor,
        strong: Tensor,
        weak: Tensor,
        target: Tensor,
        loss: Tensor | None = None,
    ) -> None:
        """Take over a batch: clip numbers, whether readable, `filtered` logits, clip logits."""
        ok = ok.cpu()
        rows = rows.cpu()[ok].numpy()
        self.strong[rows] = strong.cpu()[ok].numpy()
        self.weak[rows] = weak.half().cpu()[ok].numpy()
        self.target[rows] = target.bool().cpu()[ok].numpy()
        self.seconds[rows] = seconds.cpu()[ok].numpy()
        if loss is not None:
            self.loss[rows] = loss.cpu()[ok].numpy()

    def result(self, bootstrap: int = 0) -> dict:
        """The metrics with everything that says how they came about."""
        there = self.seconds > 0
        if not there.any():
            raise RuntimeError("no clip could be scored; see the coverage report")
        result: dict = {}
        if self.labels == "weak":
            result |= metrics.clip_average_precision(
                self.weak[there], self.target[there], self.clips.classes
            )
        if self.labels == "strong" or self.scored:
            keys = [key for key, kept in zip(self.clips.keys, there, strict=True) if kept]
            names = [self.clips.classes[c] for c in self.scored]
            timed = metrics.evaluate(
                self.strong if there.all() else self.strong[there],
                keys,
                names,
                self.events,
                self.seconds[there],
                bootstrap=bootstrap,
            ).to_dict()
            timed["convention"]["median_frames"] = self.size
            timed["convention"]["scores"] = "float16 logits"
            if self.labels == "weak":
                timed["convention"]["scores"] += " of the weak head, applied to every frame"
                timed["convention"]["map"] = "of clip logits, mean over classes that occur"
            result = timed | result
        if not np.isnan(self.loss[there]).all():
            batch = np.flatnonzero(there) // self.loss_batch
            clips = np.bincount(batch)
            losses = np.bincount(batch, self.loss[there])[clips > 0]
            result["loss"] = float((losses / clips[clips > 0]).mean())
        return result


@torch.no_grad()
def score(
    model: SEDModel,
    clips: ClipSet,
    events: Events,
    *,
    labels: str = "strong",
    size: int = 9,
    durations: str = "heard",
    batch: int = 32,
    workers: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[Scores, dict[str, str]]:
    """Scores of a model on one device, and the unreadable clips with the reason."""
    model = model.to(device).eval()
    collected, unreadable = Scores(clips, events, labels, size), {}
    batches = loader(clips, EvalPicks(len(clips), batch), workers, device != "cpu")
    with tqdm(total=len(clips), unit="clip", desc="score", disable=not progress) as bar:
        for item in interrupt.between(batches):
            unreadable |= dict(item["unreadable"])
            item = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in item.items()}
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
                strong, weak = frame_logits(model, windows(item), labels)
            target = clip_targets(item["events"], len(weak), weak.shape[1])
            collected.add(
                item["clip"],
                item["ok"],
                item[SECONDS_OF[durations]],
                collected.filtered(strong),
                weak,
                target,
            )
            bar.update(len(weak))
    return collected, unreadable


def evaluate(
    checkpoint: Path,
    sources: Sequence[dict[str, str | None]],
    *,
    names: str | None = None,
    model: str | None = None,
    size: int = 9,
    durations: str = "heard",
    batch: int = 32,
    workers: int = 2,
    device: str | None = None,
    bootstrap: int = 0,
    per_frame_of_weak: bool = False,
    progress: bool = True,
    out: Path | None = None,
    task: str = TASKS[0],
) -> dict:
    """Score a checkpoint on annotated clips; the classes are those that both have.

    Args:
        sources: `audio` and `events` of each, see config.Source.
        names: file of AudioSet ids and names beyond the 447.
        model: name of the model, for files that do not say it.
        durations: of clips over 10 s, see config.Evaluation.
        per_frame_of_weak: score the weak head, applied to every frame.
        out: where to write the result as JSON.
        task: audioset_strong states that the annotation is the official evaluation set, which is
            refused where that cannot be.
    """
    if out is not None:  # told now, not when all is computed
        check(Name, checkpoint.name, f"the name of {checkpoint}")
    net = open_checkpoint(checkpoint, model)
    labels = "weak" if per_frame_of_weak else "strong"
    try:
        classes = list(net.classes_of(labels, str(checkpoint)))
    except ValueError as error:
        other = labels == "strong" and getattr(net.head, "weak_head", None) is not None
        raise ValueError(f"{error}{'; --weak scores its weak head' if other else ''}") from None
    data = Data(eval=tuple(Source(**source) for source in sources), names=names, labels="strong")
    opened = Opened.of(data.eval, Recipe(data=data), unknown="keep")
    events = opened.joined()
    annotated = len(events.clips)
    scored = [name for name in classes if name in events.labels]
    if out is not None:
        check(list[Label], scored, "a class")
    if task == "audioset_strong":
        _check_audioset(scored, annotated)
    clips = opened.clip_set(classes, "strong")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    scores, unreadable = score(
        net,
        clips,
        events,
        labels=labels,
        size=size,
        durations=durations,
        batch=batch,
        workers=workers,
        device=device,
        progress=progress,
    )
    coverage = opened.coverage(classes)
    for report in coverage:
        report.unreadable |= {k: v for k, v in unreadable.items() if k not in report.missing}
        log.info(report.text())
    read = [key for key, s in zip(clips.keys, scores.seconds, strict=True) if s > 0]
    result = {
        "task": task,
        "data": {"sha256": fingerprint(events, read, scored), "clips": annotated},
        "checkpoint": {"file": checkpoint.name, "sha256": sha256(checkpoint)},
        "device": device,
        **scores.result(bootstrap),
        "coverage": [asdict(report) for report in coverage],
    }
    # A release computes no other score: it is no part of what makes two results comparable.
    convention = result.get("convention", {})
    result["software"] = {k: convention.pop(k) for k in ("sed_scores_eval",) if k in convention}
    if out is not None:
        write_json(out, null_for_nan(result))
    return result


def fingerprint(events: Events, clips: Sequence[str], classes: Sequence[str]) -> str:
    """SHA-256 of what is scored: the merged events of some classes in some clips."""
    events = merged(events)
    of = np.isin(np.array(events.clips)[events.clip], clips)
    of &= np.isin(np.array(events.labels)[events.label], classes)
    rows = sorted(
        (events.clips[clip], events.labels[label], onset, offset)
        for clip, label, onset, offset in zip(
            events.clip[of].tolist(),
            events.label[of].tolist(),
            events.onset_s[of].tolist(),
            events.offset_s[of].tolist(),
            strict=True,
        )
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _check_audioset(scored: Sequence[str], annotated: int) -> None:
    """Refuse what cannot be the official evaluation set, as far as it is known here."""
    known = set(load_labels(evaluated=True))
    if scored_else := sorted(known ^ set(scored)):
        lacks = "lacks" if scored_else[0] in known else "has"
        raise ValueError(
            f"task audioset_strong: its evaluation set has events of {len(known)} of the 447 "
            f"classes; what is scored here {lacks} {scored_else[0]!r}"
            + f" and {len(scored_else) - 1} other differences" * (len(scored_else) > 1)
            + "; leave out --task"
        )
    if annotated > AUDIOSET_CLIPS:
        raise ValueError(
            f"task audioset_strong: its evaluation set has {AUDIOSET_CLIPS} clips, the annotation "
            f"{annotated}; leave out --task"
        )
