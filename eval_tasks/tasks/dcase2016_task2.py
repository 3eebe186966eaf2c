"""DC16-T2: DCASE 2016 task 2, sounds of an office in 72 synthetic scenes of 120 s, as in HEAR.

Source: HEAR's release (https://zenodo.org/record/5887964), folder dcase2016_task2-hear2021-full at
16 or 48 kHz; or the original archives dcase2016_task2_train_dev and dcase2016_task2_test_public
(https://archive.org), from which the same clips, splits and labels follow.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.downloads import convert_all, find_path
from eval_tasks.tasks.hear_folder import Download, Release, versions
from hear_ptsed.metrics.decoding import Decoding

CLIPS = {"train": 44, "valid": 14, "test": 14}
CLASSES = (
    *("clearthroat", "cough", "doorslam", "drawer", "keyboard", "keys", "knock", "laughter"),
    *("pageturn", "phone", "speech"),
)
ORIGINAL = ("dcase2016_task2_dev", "dcase2016_task2_test_public")  # each: sound, annotation

HEAR_METRICS = ("event_onset_200ms_fms", "segment_1s_er")


def is_original(member: str) -> bool:
    """Whether an archive's member is wanted of the original archives."""
    return bool({"sound", "annotation"} & set(Path(member).parts))


def fill_from_original(roots: list[Path], options: Download, settings: dict, folder: Path) -> Path:
    """Fill a folder from the original archives."""
    parts = [find_path(roots, name) for name in ORIGINAL]
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
        events = hear_folder.cut_events(_read_events(path), TASK.clip_s)
        splits[split_of[stem]][f"{stem}.wav"] = events
    for split, clips in splits.items():
        target = hear_folder.audio_folder(folder, split)
        pairs = []
        for file in clips:
            part = annotations[Path(file).stem].parents[1]
            pairs.append((part / "sound" / file, target / file))
        convert_all(pairs, TASK.clip_s, options.jobs, split, kept_rates=options.kept_rates)
    labels = {event["label"] for clips in splits.values() for c in clips.values() for event in c}
    hear_folder.write_labels(
        folder,
        hear_folder.describe_folder(
            folder.name,
            list(CLIPS),
            TASK.clip_s,
            HEAR_METRICS,
            split_percentage={"valid": 20, "test": 20, "train": 60},
            max_task_duration_by_split=dict.fromkeys(CLIPS),
        ),
        sorted(labels),
        splits,
        {"settings": settings, "versions": versions(), "source": "original archives"},
    )
    return roots[0]


def _split(stems: Iterable[str]) -> dict[str, str]:
    """HEAR's split of each clip."""
    order = hear_folder.shuffled(stems, "split_train_test_val")
    n = round(0.2 * len(order))
    return {
        stem: "valid" if i < n else "test" if i < 2 * n else "train" for i, stem in enumerate(order)
    }


def _read_events(path: Path) -> list[tuple[float, float, str]]:
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


def find_wrong(classes: tuple[str, ...]) -> str:
    """What is wrong with a folder's classes; empty if nothing is."""
    if classes == CLASSES:
        return ""
    different = ", ".join(sorted(set(classes) ^ set(CLASSES))) or "their order"
    return f"not the 11 classes of the task; different: {different}"


RELEASE = Release(CLIPS, is_original, fill_from_original, find_wrong)
TASK = Task(
    name="dcase2016_task2",
    title="DCASE 2016 task 2",
    folder="dcase2016_task2-hear2021-full",
    about="11 office sounds in synthetic scenes of 120 s, as in HEAR",
    metrics=("event_onset_200ms_fms", "event_onset_50ms_fms", "segment_1s_er"),
    decoding=Decoding(250, 125),
    clip_s=120.0,
    published=True,
    prepare=partial(hear_folder.prepare_released, RELEASE),
    options=Download,
)
