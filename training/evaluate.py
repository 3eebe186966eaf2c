"""Scoring of checkpoints on strongly labelled clips: `python -m training evaluate`."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hear_ptsed import interrupt, load
from hear_ptsed.files import null_for_nan, sha256, write_json
from hear_ptsed.labels import load_labels
from hear_ptsed.model import SEDModel
from hear_ptsed.schema import Label, Name, check
from training.data.annotations import Events, merged
from training.data.sources import open_sources
from training.labels import ClipLabels, FrameLabels, Labels
from training.recipe import Data, Evaluation, Source
from training.scores import Scores

log = logging.getLogger(__name__)
TASKS = ("strong_labels", "audioset_strong")
AUDIOSET_CLIPS = 16_996  # annotated, of the official evaluation set


@dataclass(frozen=True)
class Scoring:
    """How clips are scored."""

    per_frame_of_weak: bool = False  # score the weak head, applied to every frame
    evaluation: Evaluation = Evaluation(batch=32)
    workers: int = 2  # loader processes
    device: str | None = None  # None: a GPU if there is one
    progress: bool = True

    @property
    def labels(self) -> Labels:
        return ClipLabels() if self.per_frame_of_weak else FrameLabels()

    @property
    def usable_device(self) -> str:
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def score(model: SEDModel, scores: Scores, options: Scoring) -> dict[str, str]:
    """Fill `scores` on one device; the unreadable clips with the reason."""
    device, unreadable = options.usable_device, {}
    model = model.to(device).eval()
    batches = scores.loader(options.workers, pin=device != "cpu")
    total = len(scores.clips)
    with tqdm(total=total, unit="clip", desc="score", disable=not options.progress) as bar:
        for batch in interrupt.between(batches):
            unreadable |= dict(batch["unreadable"])
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=device != "cpu"):
                scored = scores.score_batch(model, batch)
            scores.add(*scored)
            bar.update(len(batch["clip"]))
    return unreadable


def evaluate(
    checkpoint: Path,
    sources: Sequence[Source],
    options: Scoring = Scoring(),
    *,
    names: str | None = None,
    model: str | None = None,
    out: Path | None = None,
    task: str = TASKS[0],
) -> dict:
    """Score a checkpoint on annotated clips; the classes are those that both have.

    Args:
        names: file of AudioSet ids and names beyond the 447.
        model: name of the model, for files that do not say it.
        out: where to write the result as JSON.
        task: audioset_strong states that the annotation is the official evaluation set, which is
            refused where that cannot be.
    """
    if out is not None:  # refused now, not when all is computed
        check(Name, checkpoint.name, f"the name of {checkpoint}")
    net, classes = _open(checkpoint, model, options.labels)
    data = Data(eval=tuple(sources), names=names)
    opened = open_sources(data.eval, data, FrameLabels(), unknown="keep")
    events = opened.merged_events()
    scored = [name for name in classes if name in events.labels]
    if out is not None:
        check(list[Label], scored, "a class")
    if task == "audioset_strong":
        _check_audioset(scored, len(events.clips))
    scores = Scores(
        opened.clip_set(classes), events, options.labels, options.evaluation, with_loss=False
    )
    scores.clips.report_unreadable(score(net, scores, options))
    for report in scores.clips.coverage:
        log.info(report.text())
    result = _result(scores, scored, checkpoint, options.usable_device, task)
    if out is not None:
        write_json(out, null_for_nan(result))
    return result


def _open(checkpoint: Path, name: str | None, labels: Labels) -> tuple[SEDModel, list[str]]:
    """The model in a file, and the classes of the head to score."""
    net = load(name, checkpoint=checkpoint)
    try:
        return net, list(net.classes_of(labels.head, str(checkpoint)))
    except ValueError as error:
        other = labels.head == "strong" and getattr(net.head, "weak_head", None) is not None
        raise ValueError(f"{error}{'; --weak scores its weak head' if other else ''}") from None


def _result(
    scores: Scores, classes: Sequence[str], checkpoint: Path, device: str, task: str
) -> dict:
    """The record: what was scored, on what, how, and the scores."""
    events = scores.events
    read = [key for key, s in zip(scores.clips.keys, scores.seconds, strict=True) if s > 0]
    result = {
        "task": task,
        "data": {"sha256": fingerprint(events, read, classes), "clips": len(events.clips)},
        "checkpoint": {"file": checkpoint.name, "sha256": sha256(checkpoint)},
        "device": device,
        **scores.result(),
        "coverage": [asdict(report) for report in scores.clips.coverage],
    }
    # A release computes no other score: it is no part of what makes two results comparable.
    convention = result.get("convention", {})
    result["software"] = {k: convention.pop(k) for k in ("sed_scores_eval",) if k in convention}
    return result


def fingerprint(events: Events, clips: Sequence[str], classes: Sequence[str]) -> str:
    """SHA-256 of what is scored: the merged events of some classes in some clips."""
    events = merged(events)
    scored = np.isin(np.array(events.clips)[events.clip], clips)
    scored &= np.isin(np.array(events.labels)[events.label], classes)
    rows = sorted(
        (events.clips[clip], events.labels[label], onset, offset)
        for clip, label, onset, offset in zip(
            events.clip[scored].tolist(),
            events.label[scored].tolist(),
            events.onset_s[scored].tolist(),
            events.offset_s[scored].tolist(),
            strict=True,
        )
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _check_audioset(scored: Sequence[str], annotated: int) -> None:
    """Refuse what cannot be the official evaluation set, as far as it is known here."""
    known = set(load_labels(evaluated=True))
    if different := sorted(known ^ set(scored)):
        lacks = "lacks" if different[0] in known else "has"
        raise ValueError(
            f"task audioset_strong: its evaluation set has events of {len(known)} of the 447 "
            f"classes; what is scored here {lacks} {different[0]!r}"
            + f" and {len(different) - 1} other differences" * (len(different) > 1)
            + "; leave out --task"
        )
    if annotated > AUDIOSET_CLIPS:
        raise ValueError(
            f"task audioset_strong: its evaluation set has {AUDIOSET_CLIPS} clips, the annotation "
            f"{annotated}; leave out --task"
        )
