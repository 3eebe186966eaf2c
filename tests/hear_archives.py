"""Folders and archives in the layout of HEAR's releases, with a few short clips of tones."""

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

LABELS = ("high", "low", "middle")
HZ = {"high": 3000, "low": 300, "middle": 1000}


@dataclass(frozen=True)
class Release:
    """One of HEAR's folders."""

    name: str
    splits: tuple[str, ...]
    seconds: float | None
    kind: str = "multiclass"
    metrics: tuple[str, ...] = ("top1_acc", "mAP", "d_prime", "aucroc")
    clips: int = 3  # of each split
    prefix: str = "tasks/"  # before the folder in an archive
    metadata: dict = field(default_factory=dict)

    @property
    def jsons(self) -> list[str]:
        return [f"{split}.json" for split in self.splits]


FOLDS = tuple(f"fold{k:02d}" for k in range(3))
SPLITS = ("train", "valid", "test")
ESC = Release("esc50-v2.0.0-full", FOLDS, 0.5, metadata={"split_mode": "presplit_kfold"})
OPERA = Release("beijing_opera-v1.0-hear2021-full", FOLDS, 0.4, prefix="hear-2021.0.6/tasks/")
FSD = Release("fsd50k-v1.0-full", SPLITS, None, "multilabel", ("mAP", "top1_acc"))
BEEHIVE = tuple(
    Release(f"beehive_states_fold{k}-v2-full", SPLITS, 600.0, metrics=("aucroc", "top1_acc"))
    for k in range(2)
)


def folder_of(name: str) -> tuple[str, str, str]:
    """Task, version and mode, as HEAR's metadata has them."""
    task, rest = name.split("-", 1)
    version, mode = rest.rsplit("-", 1)
    return task, version, mode


def write_release(into: Path, release: Release, rate: int = 48000) -> Path:
    """The folder of a release in `into`."""
    folder = into / release.name
    task, version, mode = folder_of(release.name)
    labels = LABELS[:2] if release.name.startswith("beehive") else LABELS
    for split in release.splits:
        content = {}
        for k in range(release.clips):
            file = f"{split}_{k}.wav"
            content[file] = [labels[(k + 1) % len(labels)]]
            if release.kind == "multilabel":
                content[file] = [[], ["high"], ["high", "low"]][k % 3]
            path = folder / str(rate) / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            seconds = 0.3 + 0.2 * k if release.seconds is None else release.seconds
            _write_tones(path, content[file], seconds, rate, k)
        (folder / f"{split}.json").write_text(json.dumps(content))
    rows = "".join(f"{k},{label}\n" for k, label in enumerate(labels))
    (folder / "labelvocabulary.csv").write_text("idx,label\n" + rows)
    metadata = {
        "task_name": task,
        "version": version,
        "embedding_type": "scene",
        "prediction_type": release.kind,
        "split_mode": "trainvaltest" if "train" in release.splits else "new_split_kfold",
        "sample_duration": release.seconds,
        "evaluation": [*release.metrics],
        "mode": mode,
        "splits": [*release.splits],
    }
    (folder / "task_metadata.json").write_text(json.dumps(metadata | release.metadata))
    return folder


def _write_tones(path: Path, labels: list[str], seconds: float, rate: int, seed: int) -> None:
    time = np.arange(round(min(seconds, 10.0) * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    tones = sum((0.2 * np.sin(2 * np.pi * HZ[label] * time) for label in labels), noise)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(max(1, round(seconds / 10))):
            file.write(tones)


def pack(folder: Path, into: Path, prefix: str) -> Path:
    """The archive of a folder, named as HEAR's are."""
    into.mkdir(parents=True, exist_ok=True)
    archive = into / f"hear2021-{folder.name}-48000.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(folder, prefix + folder.name)
    return archive
