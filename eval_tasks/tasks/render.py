"""Write a rendered task as a HEAR task folder, with its manifest and data card."""

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from eval_tasks.sounds.signal import find_audible, to_pcm
from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.hear_folder import versions
from hear_ptsed import interrupt
from hear_ptsed.files import write_json
from hear_ptsed.grid import SAMPLE_RATE


@dataclass(frozen=True)
class Clip:
    """One rendered clip: (S,) at 16 kHz, and its labels as they stand in the split's JSON."""

    split: str
    name: str
    audio: np.ndarray
    labels: list
    seconds: float | None = None  # without padding, if it was padded


@dataclass(frozen=True)
class Task:
    """All that makes a folder: `clips` is consumed once, `count` is its length."""

    metadata: dict
    vocabulary: list[str]
    clips: Iterable[Clip]
    count: int
    provenance: dict  # into the manifest: sources, members, packages, dropped classes, notes
    complete_splits: bool = True  # every class must occur in every split
    more_parts: tuple[str, ...] = ()  # beside the splits: weak, unlabelled


def write(task: Task, folder: Path, settings: dict) -> None:
    """Render every clip into `folder` (new, empty) and write what heareval reads beside it."""
    splits = task.metadata["splits"]
    parts: dict[str, dict] = {part: {} for part in (*splits, *task.more_parts)}
    counts = {part: Counter() for part in parts}
    durations: dict[str, dict] = {}
    bar = partial(tqdm, total=task.count, desc=task.metadata["task_name"], unit="clip")
    for clip in bar(interrupt.between(task.clips)):
        path = hear_folder.audio_folder(folder, clip.split) / clip.name
        soundfile.write(path, to_pcm(clip.audio), SAMPLE_RATE, subtype="PCM_16")
        parts[clip.split][clip.name] = clip.labels
        if clip.seconds is not None:
            durations.setdefault(clip.split, {})[clip.name] = clip.seconds
        counts[clip.split].update(
            event["label"] if isinstance(event, dict) else event for event in clip.labels
        )
    if task.complete_splits:
        for split in splits:
            missing = sorted(set(task.vocabulary) - set(counts[split]))
            if missing:
                raise RuntimeError(f"{split} has no {', '.join(missing)}; use another seed")
    manifest = {
        "settings": settings,
        "versions": versions(),
        "events": {part: dict(sorted(count.items())) for part, count in counts.items()},
        **task.provenance,
    }
    hear_folder.write(folder, task.metadata, task.vocabulary, parts, manifest)
    if durations:
        write_json(folder / "durations.json", durations)
    (folder / "README.md").write_text(_card(task, settings), encoding="utf-8")


def _card(task: Task, settings: dict) -> str:
    notes = "\n".join(f"- {note}" for note in task.provenance["notes"])
    return f"""# {task.metadata["task_name"]}-{task.metadata["version"]}-{task.metadata["mode"]}

A small task in HEAR layout, rendered on this machine with seed {settings["seed"]}: \
{task.count} clips of {task.metadata["sample_duration"]:g} s, {len(task.vocabulary)} classes.

It is not DCASE, MAESTRO or any other published data set, and scores on it cannot be compared with \
published ones.

**Do not redistribute the audio**: it contains recordings and soundfonts under the licences listed \
in `manifest.json` (some GPL, some not stated). Everyone can render the same folder from the same \
seed.

{notes}
"""


def generator(seed: int, task: str, file: str) -> np.random.Generator:
    """Every clip has random numbers of its own, so a larger size begins with the same clips."""
    return np.random.default_rng([seed, zlib.crc32(f"{task}/{file}".encode())])


def list_events(sound: np.ndarray, start_s: float, floor: float, label: str) -> list[dict]:
    """Events in milliseconds of a sound that starts at a time, as far as it is above a level."""
    return [
        {
            "label": label,
            "start": round(1000 * (start_s + onset_s), 1),
            "end": round(1000 * (start_s + offset_s), 1),
        }
        for onset_s, offset_s in find_audible(sound, floor)
    ]


def metadata(
    name: str, mode: str, splits: list[str], seconds: float, scores: list[str], **more
) -> dict:
    """The HEAR task metadata common to all small tasks."""
    return hear_folder.metadata(name, "v1", mode, splits, seconds, scores, **more)
