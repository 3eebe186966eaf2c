"""DC16-T2: DCASE 2016 task 2, sounds of an office in 72 synthetic scenes of 120 s, as in HEAR.

Source: HEAR's release (https://zenodo.org/record/5887964), folder dcase2016_task2-hear2021-full at
16 or 48 kHz; or the original archives dcase2016_task2_train_dev and dcase2016_task2_test_public
(https://archive.org), from which the same clips, splits and labels follow.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Task, TaskData
from eval_tasks.tasks.downloads import convert_all, find, opened
from eval_tasks.tasks.hear_folder import versions
from hear_ptsed.metrics.decoding import Decoding

SECONDS = 120.0
CLIPS = {"train": 44, "valid": 14, "test": 14}
CLASSES = (
    *("clearthroat", "cough", "doorslam", "drawer", "keyboard", "keys", "knock", "laughter"),
    *("pageturn", "phone", "speech"),
)
ORIGINAL = ("dcase2016_task2_dev", "dcase2016_task2_test_public")  # each: sound, annotation

TASK = Task(
    name="dcase2016_task2",
    title="DCASE 2016 task 2",
    folder="dcase2016_task2-hear2021-full",
    about="DCASE 2016 task 2: 11 office sounds, scenes of 120 s with and without overlap",
    metrics=("event_onset_200ms_fms", "event_onset_50ms_fms", "segment_1s_er"),
    decoding=Decoding(250, 125),
    published=True,
)


def prepare(
    sources: Sequence[Path], tasks_dir: Path, *, jobs: int = 1, force: bool = False
) -> Path:
    """Make the task folder from HEAR's release or from the original archives.

    Args:
        sources: folders or archives of one of the two.
        jobs: processes that resample.
    """
    settings = {"task": TASK.name, "format": 2}
    fill = partial(_fill, sources, settings, jobs)
    return hear_folder.build(Path(tasks_dir) / TASK.folder, settings, fill, force=force)


def _fill(sources: Sequence[Path], settings: dict, jobs: int, folder: Path) -> None:
    roots = opened(sources, folder.with_name("unpacked"), _wanted)
    released = hear_folder.find_released(roots, TASK.folder)
    if released:
        data = hear_folder.complete(TASK, released, folder, settings, jobs)
    else:
        data = _from_original(roots, settings, jobs, folder)
    _check(data, released or roots[0])


def _wanted(name: str) -> bool:
    original = {"sound", "annotation"} & set(Path(name).parts)
    return bool(original) or hear_folder.is_released(name, TASK.folder)


def _from_original(roots: list[Path], settings: dict, jobs: int, folder: Path) -> TaskData:
    parts = [find(roots, name) for name in ORIGINAL]
    if None in parts:
        missing = " and ".join(n for n, part in zip(ORIGINAL, parts, strict=True) if not part)
        raise FileNotFoundError(
            f"{roots[0]} holds neither HEAR's {TASK.folder} nor the original {missing}; name both "
            "original archives, or HEAR's, with --source"
        )
    annotations = {path.stem: path for part in parts for path in part.glob("annotation/*.txt")}
    split_of = _split(annotations)
    splits = {split: {} for split in CLIPS}
    for stem, path in annotations.items():
        splits[split_of[stem]][f"{stem}.wav"] = hear_folder.events(_annotated(path), SECONDS)
    for split, clips in splits.items():
        target = hear_folder.audio_folder(folder, split)
        pairs = []
        for file in clips:
            part = annotations[Path(file).stem].parents[1]
            pairs.append((part / "sound" / file, target / file))
        convert_all(pairs, SECONDS, jobs, split)
    found = {event["label"] for clips in splits.values() for c in clips.values() for event in c}
    hear_folder.write(
        folder,
        hear_folder.metadata(
            "dcase2016_task2",
            "hear2021",
            "full",
            list(CLIPS),
            SECONDS,
            ("event_onset_200ms_fms", "segment_1s_er"),
            split_percentage={"valid": 20, "test": 20, "train": 60},
            max_task_duration_by_split=dict.fromkeys(CLIPS),
        ),
        sorted(found),
        splits,
        {"settings": settings, "versions": versions(), "source": "original archives"},
    )
    return hear_folder.checked(TASK, folder, roots[0])


def _split(stems: Sequence[str]) -> dict[str, str]:
    """HEAR's split of each clip."""
    order, n = hear_folder.shuffled(stems, "split_train_test_val"), round(0.2 * len(stems))
    return {
        stem: "valid" if i < n else "test" if i < 2 * n else "train" for i, stem in enumerate(order)
    }


def _annotated(path: Path) -> list[tuple[float, float, str]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            start, end, label = line.split("\t")
            rows.append((float(start), float(end), label.strip()))
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: {line!r}; expected onset, offset and label between tabs"
            ) from None
    return rows


def _check(data: TaskData, source: Path) -> None:
    found = {name: len(part) for name, part in data.parts.items()}
    if found != CLIPS:
        raise ValueError(f"{source} has {found} clips; expected {CLIPS}")
    if data.classes != CLASSES:
        different = ", ".join(sorted(set(data.classes) ^ set(CLASSES))) or "their order"
        raise ValueError(f"{source}: not the 11 classes of the task; different: {different}")
    if data.metadata["sample_duration"] != SECONDS:
        raise ValueError(
            f"{source} has clips of {data.metadata['sample_duration']} s; expected {SECONDS:g} s"
        )
