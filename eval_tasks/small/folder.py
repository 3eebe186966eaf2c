"""Write a rendered task as a HEAR task folder, with its manifest and data card."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from training.sounds.provenance import versions, write_json
from training.sounds.sound import RATE, to_pcm


@dataclass(frozen=True)
class Clip:
    """One rendered clip: (S,) at RATE, and its labels as they stand in the split's JSON."""

    split: str
    name: str
    audio: np.ndarray
    labels: list


@dataclass(frozen=True)
class Task:
    """All that makes a folder: `clips` is consumed once, `count` is its length."""

    metadata: dict
    vocabulary: list[str]
    clips: Iterable[Clip]
    count: int
    provenance: dict  # into the manifest: sources, members, packages, dropped classes, notes
    complete_splits: bool = True  # every class must occur in every split


def write(task: Task, folder: Path, settings: dict) -> None:
    """Render every clip into `folder` (new, empty) and write what heareval reads beside it."""
    splits: dict[str, dict] = {split: {} for split in task.metadata["splits"]}
    counts = {split: Counter() for split in splits}
    for split in splits:
        (folder / str(RATE) / split).mkdir(parents=True)
    for clip in tqdm(task.clips, total=task.count, desc=task.metadata["task_name"], unit="clip"):
        path = folder / str(RATE) / clip.split / clip.name
        soundfile.write(path, to_pcm(clip.audio), RATE, subtype="PCM_16")
        splits[clip.split][clip.name] = clip.labels
        counts[clip.split].update(
            event["label"] if isinstance(event, dict) else event for event in clip.labels
        )
    if task.complete_splits:
        for split, count in counts.items():
            missing = sorted(set(task.vocabulary) - set(count))
            if missing:
                raise RuntimeError(f"{split} has no {', '.join(missing)}; use another seed")
    for split, clips in splits.items():
        write_json(folder / f"{split}.json", dict(sorted(clips.items())))
    rows = [f"{index},{label}" for index, label in enumerate(task.vocabulary)]
    (folder / "labelvocabulary.csv").write_text("\n".join(["idx,label", *rows, ""]))
    write_json(folder / "task_metadata.json", task.metadata)
    manifest = {
        "settings": settings,
        "versions": versions(),
        "events": {split: dict(sorted(count.items())) for split, count in counts.items()},
        **task.provenance,
    }
    write_json(folder / "manifest.json", manifest)
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


def metadata(
    name: str, mode: str, splits: list[str], seconds: float, scores: list[str], **more
) -> dict:
    """The HEAR task metadata common to all small tasks, in the builder's key order."""
    return {
        "task_name": name,
        "version": "v1",
        "embedding_type": more.pop("embedding_type", "event"),
        "prediction_type": more.pop("prediction_type", "multilabel"),
        "split_mode": "trainvaltest" if splits[0] == "train" else "new_split_kfold",
        "sample_duration": seconds,
        "evaluation": scores,
        "download_urls": [],
        "default_mode": mode,
        **more,
        "mode": mode,
        "splits": splits,
    }
