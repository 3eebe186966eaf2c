"""Scoring of checkpoints on strongly labelled clips: `python -m training evaluate`."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hear_ptsed import interrupt, load
from hear_ptsed.errors import LINE, printable
from hear_ptsed.files import sha256
from hear_ptsed.labels import load_labels
from hear_ptsed.metrics import audioset, records
from hear_ptsed.metrics.bootstrap import Bootstrap
from hear_ptsed.metrics.provenance import make_record
from hear_ptsed.metrics.records import Asked
from hear_ptsed.model import SEDModel
from hear_ptsed.schema import Label, Line, Name, check
from training.data.annotations import Events, merged
from training.data.coverage import Coverage
from training.data.sources import open_sources
from training.labels import ClipLabels, FrameLabels, Labels
from training.recipe import Data, Evaluation, Source
from training.scores import Scores

log = logging.getLogger(__name__)
TASKS = {"strong_labels": "Own strong labels", "audioset_strong": "AudioSet Strong"}  # titles


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
def fill_scores(model: SEDModel, scores: Scores, options: Scoring) -> dict[str, str]:
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
    task: str = "strong_labels",
    name: str = "",
    command: str = "",
) -> dict[str, Any]:
    """Score a checkpoint on annotated clips; the classes are those that both have.

    Args:
        names: file of AudioSet ids and names beyond the 447.
        model: name of the model, for files that do not say it.
        out: where to write the record.
        name: what the record calls the model: those of one name belong together.
        command: that makes the record again.
        task: audioset_strong states that the annotation is the official evaluation set, which is
            refused where that cannot be.
    """
    started, began = datetime.now(UTC), time.monotonic()
    if out is not None:  # refused now, not when all is computed
        check(Name, checkpoint.name, f"the name of {checkpoint}")
        check(Label, name, "--name")
        check(Line, command, "the command")
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
    scores.clips.report_unreadable(fill_scores(net, scores, options))
    for report in scores.clips.coverage:
        log.info(report.text())
    rated, clips = scores.rate(Bootstrap(options.evaluation.bootstrap))
    if out is not None:
        asked = _asked(checkpoint, model, task, name, command, options, scores, scored)
        cost = {"parameters": sum(weight.numel() for weight in net.parameters())}
        made = started, time.monotonic() - began, options.usable_device
        more = {"cost": cost, "clips": clips, "unreadable": _reasons(scores.clips.coverage)}
        record = make_record(asked, rated, *made, **more)
        records.write_record(record, out)
    coverage = [asdict(report) for report in scores.clips.coverage]
    return scores.as_dict(rated, clips) | {"coverage": coverage}


def _open(checkpoint: Path, name: str | None, labels: Labels) -> tuple[SEDModel, list[str]]:
    """The model in a file, and the classes of the head to score."""
    net = load(name, checkpoint=checkpoint)
    try:
        return net, list(net.classes_of(labels.head, str(checkpoint)))
    except ValueError as error:
        other = labels.head == "strong" and getattr(net.head, "weak_head", None) is not None
        raise ValueError(f"{error}{'; --weak scores its weak head' if other else ''}") from None


def _asked(
    checkpoint: Path,
    model: str | None,
    task: str,
    name: str,
    command: str,
    options: Scoring,
    scores: Scores,
    classes: Sequence[str],
) -> Asked:
    """What a record says of what was scored, on what, and how."""
    read = [key for key, s in zip(scores.clips.keys, scores.seconds, strict=True) if s > 0]
    data, weights = fingerprint(scores.events, read, classes), sha256(checkpoint)
    how = {
        "head": options.labels.head,
        "median_frames": options.evaluation.median,
        "durations": options.evaluation.durations,
    }
    return Asked(
        task=task,
        title=TASKS[task],
        primary=scores.primary,
        task_version=task,
        task_sha256=data,
        protocol="as-trained",
        module=checkpoint.name,
        model=model or checkpoint.stem,
        stage="",
        name=name,
        checkpoint={"file": checkpoint.name, "sha256": weights},
        untrained=False,
        seed=None,
        hyperparameters=how,
        published_task=task == "audioset_strong",
        coverage="; ".join(filter(None, map(_missing, scores.clips.coverage))) or None,
        command=command,
        identity=records.identity({"task": task, "data": data, "checkpoint": weights} | how),
    )


def _reasons(reports: Sequence[Coverage]) -> dict[str, str]:
    """Clip -> why it could not be read, as a record may hold them."""
    return {
        printable(clip, LINE): printable(reason, LINE)
        for report in reports
        for clip, reason in report.unreadable.items()
    }


def _missing(report: Coverage) -> str:
    """What of an annotation was not there, or could not be read; "" if all was scored."""
    if report.found == report.expected and not report.unreadable:
        return ""
    return (
        f"{report.found} of {report.expected} clips there, {len(report.unreadable)} of them "
        "unreadable"
    )


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
    if annotated > audioset.CLIPS:
        raise ValueError(
            f"task audioset_strong: its evaluation set has {audioset.CLIPS} clips, the annotation "
            f"{annotated}; leave out --task"
        )
