"""Small real HEAR tasks, rendered at the user's side from sampled sounds, speech and music.

The folder is one that unmodified heareval reads. Nothing is shipped: sounds come from pinned
packages on first use. The synthetic version needs none of them.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from tqdm import tqdm

from eval_tasks.heareval.rates import provide_audio
from eval_tasks.sounds.signal import find_audible, to_pcm
from eval_tasks.sounds.sources import Bank, describe_origins
from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.hear_folder import AudioRates, versions
from hear_ptsed import interrupt
from hear_ptsed.files import write_json
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.schema import setting, settings
from training.recipe import Seed

FORMAT = 2  # raise when a change renders other audio from the same settings
BANK_NOTES = [
    "Sources (keys of a preset, voices, recordings) of a split never occur in another; the deal "
    "does not depend on the seed. Classes with one recording (dog, duck, water) are split by parts "
    "of it; neighbouring keys of a preset share samples.",
    "Classes with few independent sources (see `independent_sources` in `manifest.json`) test "
    "generalisation honestly but coarsely.",
    "Event labels come from each event's own energy after reverberation and gain, in 5-ms windows: "
    "above its peak - 35 dB and above the background - 9 dB, split at pauses over 0.35 s.",
    "The full size begins with the clips of the demo size.",
]


@settings
class RenderOptions:
    """What a small task is rendered from."""

    size: Literal["demo", "full"] = setting("demo", "How much is rendered.")
    seed: Seed = setting(0, "The seed of all that is drawn.")
    synthetic: bool = setting(False, "Render computed sounds, in one tiny size; fetch nothing.")

    @property
    def mode(self) -> str:
        """The size that is rendered, as the folder's name says it."""
        return "tiny" if self.synthetic else self.size

    def name_folder(self, task: Task) -> str:
        """Such as office-v1-demo or office_synthetic-v1-tiny."""
        stem = task.folder.split("-")[0]
        return f"{stem}{'_synthetic' * self.synthetic}-v1-{self.mode}"


@settings
class FolderOptions(AudioRates, RenderOptions):
    """What a task folder is rendered from; audio at other rates is made of that at 16 kHz."""


@dataclass(frozen=True)
class RenderedClip:
    """One rendered clip: (S,) at 16 kHz, and its labels as they stand in the split's JSON."""

    split: str
    name: str
    audio: np.ndarray
    labels: list
    seconds: float | None = None  # without padding, if it was padded


@dataclass(frozen=True)
class Rendering:
    """All that makes a folder: `clips` is consumed once, `count` is its length."""

    metadata: dict
    vocabulary: list[str]
    clips: Iterable[RenderedClip]
    count: int
    provenance: dict  # into the manifest: sources, members, packages, dropped classes, notes
    complete_splits: bool = True  # every class must occur in every split
    more_parts: tuple[str, ...] = ()  # beside the splits: weak, unlabelled


def prepare_rendered(
    render: Callable[[RenderOptions, str], Rendering],
    task: Task,
    tasks_dir: Path,
    options: FolderOptions,
    force: bool,
) -> Path:
    """Render a task folder into `tasks_dir`; one with the same settings is kept.

    Args:
        render: (options, name of the folder) -> what is written.
    """
    settings = {
        "task": task.name,
        "size": options.mode,
        "seed": options.seed,
        "synthetic": options.synthetic,
        "format": FORMAT,
    } | options.rate_settings

    def fill(folder: Path) -> None:
        _write_rendering(render(options, folder.name), folder, settings)
        for rate in options.kept_rates:
            provide_audio(folder, rate)

    folder = tasks_dir / options.name_folder(task)
    return hear_folder.build_folder(folder, settings, fill, force=force)


def _write_rendering(rendering: Rendering, folder: Path, settings: dict) -> None:
    """Render every clip into `folder` (new, empty) and write what heareval reads beside it."""
    splits = rendering.metadata["splits"]
    parts: dict[str, dict] = {part: {} for part in (*splits, *rendering.more_parts)}
    counts = {part: Counter() for part in parts}
    durations: dict[str, dict] = {}
    bar = partial(tqdm, total=rendering.count, desc=rendering.metadata["task_name"], unit="clip")
    for clip in bar(interrupt.between(rendering.clips)):
        path = hear_folder.audio_folder(folder, clip.split) / clip.name
        soundfile.write(path, to_pcm(clip.audio), SAMPLE_RATE, subtype="PCM_16")
        parts[clip.split][clip.name] = clip.labels
        if clip.seconds is not None:
            durations.setdefault(clip.split, {})[clip.name] = clip.seconds
        counts[clip.split].update(
            event["label"] if isinstance(event, dict) else event for event in clip.labels
        )
    if rendering.complete_splits:
        for split in splits:
            missing = sorted(set(rendering.vocabulary) - set(counts[split]))
            if missing:
                raise RuntimeError(f"{split} has no {', '.join(missing)}; use another seed")
    manifest = {
        "settings": settings,
        "versions": versions(),
        "events": {part: dict(sorted(count.items())) for part, count in counts.items()},
        **rendering.provenance,
    }
    hear_folder.write_labels(folder, rendering.metadata, rendering.vocabulary, parts, manifest)
    if durations:
        write_json(folder / "durations.json", durations)
    (folder / "README.md").write_text(_write_card(rendering, settings), encoding="utf-8")


def _write_card(rendering: Rendering, settings: dict) -> str:
    notes = "\n".join(f"- {note}" for note in rendering.provenance["notes"])
    about, classes = rendering.metadata, len(rendering.vocabulary)
    return f"""# {about["task_name"]}-{about["version"]}-{about["mode"]}

A small task in HEAR layout, rendered on this machine with seed {settings["seed"]}: \
{rendering.count} clips of {about["sample_duration"]:g} s, {classes} classes.

It is not DCASE, MAESTRO or any other published data set, and scores on it cannot be compared with \
published ones.

**Do not redistribute the audio**: it contains recordings and soundfonts under the licences listed \
in `manifest.json` (some GPL, some not stated). Everyone can render the same folder from the same \
seed.

{notes}
"""


def clip_generator(seed: int, folder: str, file: str) -> np.random.Generator:
    """Every clip has random numbers of its own, so a larger size begins with the same clips.

    Args:
        folder: name of the task's folder.
    """
    return np.random.default_rng([seed, zlib.crc32(f"{folder.split('-')[0]}/{file}".encode())])


def cut_clip(clip: RenderedClip, pieces: int) -> Iterator[RenderedClip]:
    """Pieces of equal length; an event that is cut ends with one piece and begins the next."""
    stem, length_ms = clip.name.removesuffix(".wav"), 1000 * len(clip.audio) / SAMPLE_RATE / pieces
    for i, audio in enumerate(np.split(clip.audio, pieces)):
        labels = [
            {
                "label": event["label"],
                "start": round(max(event["start"] - i * length_ms, 0.0), 1),
                "end": round(min(event["end"] - i * length_ms, length_ms), 1),
            }
            for event in clip.labels
            if event["start"] < (i + 1) * length_ms and event["end"] > i * length_ms
        ]
        yield RenderedClip(clip.split, f"{stem}_piece_{i}.wav", audio, labels)


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


def describe_bank(bank: Bank, notes: list[str]) -> dict:
    """What the manifest says of a bank's sources; `notes` are of the task."""
    names = {
        split: {label: [source.name for source in of_split[label]] for label in bank.classes}
        for split, of_split in bank.sources.items()
    }
    return {
        "sources": names,
        "independent_sources": {
            split: {label: len(sources) for label, sources in of_split.items()}
            for split, of_split in names.items()
        },
        "dropped_classes": bank.dropped,
        **describe_origins(bank.members),
        "notes": [*BANK_NOTES, *notes],
    }
