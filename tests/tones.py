"""Task folders of tones in faint noise: the one kind of data that tests train and score on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from eval_tasks.tasks.hear_folder import describe_folder, write_labels

HZ = {"high": 4000.0, "low": 400.0, "middle": 1300.0}


def write_tones(
    folder: Path,
    clips: Mapping[str, Sequence[float]],
    hz: Mapping[Any, float] = HZ,
    *,
    first_s: tuple[float, float] = (0.2, 0.6),
    length_s: tuple[float, float] = (0.5, 1.0),
    every_s: float = 2.0,
    names: str = "{part}_{i}.wav",
    rates: Sequence[int] = (16_000,),
    labels: Mapping[str, dict[str, list]] | None = None,
    metrics: Sequence[str] = ("event_onset_200ms_fms",),
    **metadata: Any,
) -> Path:
    """Write a task folder and return it; clip i begins with class i, what follows is drawn.

    Args:
        clips: train, valid, test or folds, and weak or unlabelled -> seconds of each clip.
        hz: class -> pitch, in the order of the vocabulary.
        first_s: range of the first onset, in seconds; `every_s` later comes the next.
        length_s: range of the length of a tone.
        labels: what the parts' JSON holds instead: part -> file -> labels.
        metadata: of task_metadata.json; with embedding_type="scene" a clip is one tone.
    """
    name = folder.name if folder.name.count("-") == 2 else f"{folder.name}-v1-tiny"
    splits = [part for part in clips if part not in ("weak", "unlabelled")]
    scene = metadata.get("embedding_type") == "scene"
    parts: dict[str, dict[str, list]] = {}
    for p, (part, seconds) in enumerate(clips.items()):
        parts[part] = {}
        for i, clip_s in enumerate(seconds):
            rng, file = np.random.default_rng([p, i]), names.format(part=part, i=i)
            starts = np.arange(rng.uniform(*first_s), clip_s - length_s[1], every_s)
            events = [
                {"label": label, "start": 1000 * start, "end": 1000 * (start + length)}
                for label, start, length in zip(
                    _draw_classes([*hz], i, max(len(starts), 1), rng),
                    starts,
                    rng.uniform(*length_s, len(starts)),
                    strict=False,
                )
            ]
            if scene:
                events = [{"label": [*hz][i % len(hz)], "start": 0.0, "end": 1000 * clip_s}]
            for rate in rates:
                path = folder / str(rate) / part / file
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, _sound(events, hz, clip_s, rate, rng), rate)
            tags = sorted({event["label"] for event in events})
            content = {"weak": tags, "unlabelled": []}.get(part, tags if scene else events)
            parts[part][file] = content
    described = describe_folder(name, splits, max(clips[splits[0]]), metrics) | metadata
    write_labels(folder, described, [*hz], labels or parts, {})
    return folder


def _draw_classes(classes: list, first: int, count: int, rng: np.random.Generator) -> list:
    drawn = [classes[k] for k in rng.integers(len(classes), size=count - 1)]
    return [classes[first % len(classes)], *drawn]


def _sound(
    events: list[dict], hz: Mapping[Any, float], clip_s: float, rate: int, rng: np.random.Generator
) -> np.ndarray:
    audio = 0.01 * rng.standard_normal(round(clip_s * rate))
    time = np.arange(len(audio)) / rate
    for event in events:
        sounding = (time >= event["start"] / 1000) & (time < event["end"] / 1000)
        audio += 0.2 * sounding * np.sin(2 * np.pi * hz[event["label"]] * time)
    return audio.astype(np.float32)
