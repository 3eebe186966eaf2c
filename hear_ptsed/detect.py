"""Sound events of audio files: any rate, channel count and length -> scores -> events."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hear_ptsed import corpus, crew, events, hear, load, registry
from hear_ptsed.audio import read_audio
from hear_ptsed.boxes import BoxSettings
from hear_ptsed.checkpoints import download
from hear_ptsed.files import sha256
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.model import SEDModel
from hear_ptsed.runtime import RuntimeModel
from hear_ptsed.schema import settings

Progress = Callable[[float, float], None]  # seconds of audio done by this step, and in all


@dataclass(frozen=True)
class Detector:
    """A model with its weights, ready to score audio."""

    model: str
    stage: str | None  # None: the model has no stages
    checkpoint: str | None  # file name; None: random weights
    classes: Sequence[str]
    score: "Scorer"  # audio (S,) at 16 kHz, who to tell about progress -> probabilities (T, C)
    path: Path | None = None  # of the checkpoint

    @property
    def untrained(self) -> bool:
        return self.checkpoint is None

    @property
    def name(self) -> str:
        return f"{self.model} {self.stage}" if self.stage else self.model

    def __str__(self) -> str:
        return f"{self.name} (untrained)" if self.untrained else self.name


@dataclass(frozen=True)
class Detection:
    """The events of one file, with what they were made of."""

    file: str  # as the caller named it
    duration_s: float
    detector: Detector
    events: list[events.Event]  # by onset
    scores: np.ndarray  # (T, C), before the median filter
    audio: Tensor  # (S,) at 16 kHz


def detect(
    path: Path,
    detector: Detector,
    threshold: float | Sequence[float] = events.THRESHOLD,
    median: int | Sequence[int] = events.MEDIAN,
    progress: Progress = lambda step_s, total_s: None,
    boxes: Sequence[BoxSettings] | None = None,
) -> Detection:
    """Find the events of one file; threshold and median are one for all classes or one for each.

    Args:
        boxes: settings of each class, to decode by bounding boxes and without median.
    """
    audio, duration_s = read_audio(path)
    scores = detector.score(audio, progress)
    decoded = EventRule(threshold, median, boxes).decode(scores, detector.classes, duration_s)
    return Detection(str(path), duration_s, detector, decoded, scores, audio)


class EventRule(NamedTuple):
    """How scores become events; see `detect`."""

    threshold: float | Sequence[float] = events.THRESHOLD
    median: int | Sequence[int] = events.MEDIAN
    boxes: Sequence[BoxSettings] | None = None

    def decode(
        self, scores: np.ndarray, classes: Sequence[str], duration_s: float
    ) -> list[events.Event]:
        """Events of a file, by onset, of its scores (T, C)."""
        how = {"threshold": self.threshold, "duration_s": duration_s}
        if self.boxes is None:
            decoded = events.decode(scores, classes, median=self.median, **how)
        else:
            decoded = events.decode_boxes(scores, classes, settings=self.boxes, **how)
        return sorted(decoded, key=lambda event: (event.onset_s, event.offset_s))


DEFAULT_RULE = EventRule()


@settings
class DetectorOptions(hear.NetworkOptions):
    """How a detector runs: as the HEAR plug-ins do, and the device."""

    device: str | None = None  # cpu, cuda, ...; None: a GPU if there is one

    def usable_device(self) -> torch.device:
        """The device, with its index; a ValueError if it cannot be used."""
        if self.runtime != "torch" and self.device not in (None, "cpu"):
            raise ValueError(
                f"device {self.device!r}: runtime {self.runtime} computes on the cpu only"
            )
        gpu = self.runtime == "torch" and torch.cuda.is_available()
        name = self.device or ("cuda" if gpu else "cpu")
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {name!r} cannot be used here: {reason}") from error


DEFAULTS = DetectorOptions()
NOT_OF_ROWS = ("batch", "compile", "device")  # options that change rows by rounding alone


class Scorer:
    """A model on its device that scores audio of any length; see Detector.score."""

    def __init__(self, model: SEDModel | RuntimeModel, options: DetectorOptions):
        self.options, self.device = options, options.usable_device()
        model, self.low_precision = hear.set_up(model, options)
        self.model = model.to(self.device)

    @torch.inference_mode()
    def __call__(self, audio: Tensor, progress: Progress) -> np.ndarray:
        """audio (S,) at 16 kHz -> probabilities (T, C)."""
        total_s = len(audio) / SAMPLE_RATE

        def step(pieces: Tensor) -> Tensor:
            """(N, S') -> (N, T', C)"""
            logits = self.logits(pieces)
            progress(len(pieces) * (pieces.shape[1] / SAMPLE_RATE - self.options.overlap), total_s)
            return logits

        scores = self.model.over(audio[None], step, self.options.overlap, self.options.batch)
        return scores[0].sigmoid().numpy()

    @torch.inference_mode()
    def each(self, clips: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Clips (S,) at 16 kHz, whose windows share batches -> probabilities (T, C) of each."""
        overlap_s, batch = self.options.overlap, self.options.batch
        for logits in self.model.over_clips(clips, self.logits, overlap_s, batch):
            yield logits.sigmoid().numpy()

    @torch.inference_mode()
    def logits(self, pieces: Tensor) -> Tensor:
        """Audio (N, S') at 16 kHz -> (N, T', C) float32 on the CPU."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
            strong = self.model(pieces.to(self.device)).strong
        return strong.transpose(1, 2).float().cpu()


def load_detector(
    name: str,
    stage: str | None = None,
    checkpoint: Path | None = None,
    options: DetectorOptions = DEFAULTS,
) -> Detector:
    """A model by its name, ready to score audio.

    A model or file without a trained event head is a ValueError.

    Args:
        stage: of the released file; None for "strong", or for the only one.
        checkpoint: a file of the user's instead of the released one, which may be an .onnx file.
    """
    if options.untrained and checkpoint is not None:
        raise ValueError(f"untrained and a checkpoint ({checkpoint}) exclude each other")
    row = registry.find_row(name)
    has_stages = isinstance(row, registry.Row)
    stage = stage or ("strong" if has_stages else None)
    if not has_stages or (checkpoint is None and not options.untrained):
        registry.find_row(name, stage)
    if checkpoint is None and stage not in (None, *registry.DETECT):
        raise ValueError(
            f"the released {stage} checkpoint of {name} has no event head; use the strong stage, "
            "or give a checkpoint of your own"
        )
    if options.untrained:
        model = load(name, stage=None, seed=0)
        return Detector(name, stage, None, row.class_names(), Scorer(model, options))
    path = checkpoint or download.find(name, stage)
    model = options.open_exported(path, name) or load(name, checkpoint=path)
    classes = model.classes_of("strong", f"{path} ({name})")
    return Detector(name, stage, path.name, classes, Scorer(model, options), path)


@dataclass(frozen=True)
class EventAnalysis:
    """A detector with what it makes of its scores; see corpus.Analysis."""

    detector: Detector
    rule: EventRule

    def each(self, clips: Iterable[Tensor]) -> Iterator[np.ndarray]:
        """Clips (S,) at 16 kHz -> probabilities (T, C) of each."""
        return self.detector.score.each(clips)

    def content(self, heard: np.ndarray, duration_s: float) -> list[events.Event]:
        """The events of scores (T, C)."""
        return self.rule.decode(heard, self.detector.classes, duration_s)


def detect_corpus(
    files: Sequence[Path],
    out: Path,
    detector: Detector,
    rule: EventRule = DEFAULT_RULE,
    how: crew.Crew = crew.ALONE,
    advance: crew.Advance = lambda files, seconds: None,
) -> corpus.Totals:
    """Find the events of files, into Parquet parts; see corpus.make_corpus.

    Args:
        detector: of `load_detector`; other processes load it again.
    """
    options = detector.score.options
    path = detector.path and detector.path.absolute()  # which workers open elsewhere
    analysis = partial(_open_events, detector.model, detector.stage, path, options, rule)
    if how == crew.ALONE:
        analysis = partial(EventAnalysis, detector, rule)
    facts = {
        "made": "events",
        "model": detector.model,
        "stage": detector.stage,
        "checkpoint": detector.checkpoint,
        "checkpoint_sha256": path and sha256(path),
        "threshold": _of_classes(rule.threshold, detector.classes),
    }
    if rule.boxes is None:
        facts["median"] = _of_classes(rule.median, detector.classes)
    else:
        facts["boxes"] = _of_classes(rule.boxes, detector.classes)
    facts |= {k: v for k, v in asdict(options).items() if k not in NOT_OF_ROWS}
    return corpus.make_corpus(files, out, corpus.Work(analysis, "events", facts), how, advance)


def _of_classes(values: Any, classes: Sequence[str]) -> Any:
    """One value, where it is that of all classes; else each by its class."""
    if not isinstance(values, Sequence):
        return values
    same = all(value == values[0] for value in values)
    return values[0] if same else dict(zip(classes, values, strict=True))


def _open_events(
    name: str,
    stage: str | None,
    path: Path | None,
    options: DetectorOptions,
    rule: EventRule,
) -> EventAnalysis:
    return EventAnalysis(load_detector(name, stage, path, options), rule)
