"""`hear`: task folders as HEAR released them, of any kind, for the unmodified heareval.

Source: the archives hear2021-FOLDER-48000.tar.gz of https://zenodo.org/record/6332517 or of
https://zenodo.org/record/5887964; at other rates those of gs://hear2021-archive/tasks/. Licences
are those of the data sets: LICENSE.txt of the record. The 20 FOLDERS are the 19 tasks of
the leaderboard, of which Beehive is two folders. Labels, splits and vocabulary stay as released.

The two tasks of sound events are made as `prepare dcase2016_task2` and `prepare maestro` make them
and can be run as those; the others are of whole clips, which only heareval takes.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eval_tasks.tasks import dcase2016_task2, hear_folder, maestro
from eval_tasks.tasks.base import Task, count_samples, open_task, read_classes, read_json
from eval_tasks.tasks.downloads import RATE, archive_names, is_archive, open_sources, some
from eval_tasks.tasks.hear_folder import Download
from hear_ptsed.files import write_json

CLIPS = {  # HEAR's folder -> clips that it has
    "nsynth_pitch-v2.2.3-5h": 5000,
    "nsynth_pitch-v2.2.3-50h": 49060,
    "speech_commands-v0.0.2-5h": 22890,
    "speech_commands-v0.0.2-full": 100503,
    "beehive_states_fold0-v2-full": 576,
    "beehive_states_fold1-v2-full": 576,
    "beijing_opera-v1.0-hear2021-full": 236,
    "tfds_crema_d-1.0.0-full": 7438,
    "esc50-v2.0.0-full": 2000,
    "fsd50k-v1.0-full": 51185,
    "gunshot_triangulation-v1.0-full": 88,
    "tfds_gtzan-1.0.0-full": 1000,
    "tfds_gtzan_music_speech-1.0.0-full": 128,
    "libricount-v1.0.0-hear2021-full": 5720,
    "mridangam_stroke-v1.5-full": 6977,
    "mridangam_tonic-v1.5-full": 6977,
    "vocal_imitation-v1.1.3-full": 5601,
    "vox_lingua_top10-hear2021-full": 972,
}
EVENT_TASKS = {task.folder: task for task in (dcase2016_task2.TASK, maestro.TASK)}
FOLDERS = (*CLIPS, *EVENT_TASKS)
METADATA = "task_metadata.json"


def prepare_releases(task: Task, tasks_dir: Path, options: Download, force: bool) -> list[Path]:
    """Make a folder of each release that the sources hold; those that are there are kept."""
    options.require_source(task)
    made = []
    for source, name in find_releases(options.source):
        of_source = replace(options, source=(source,))
        if event_task := EVENT_TASKS.get(name):
            made.append(event_task.make(tasks_dir, of_source, force))
            continue
        stored = {"task": task.name, "folder": name, "format": 1} | options.rate_settings
        fill = partial(_fill_hear, replace(task, folder=name), of_source, stored)
        made.append(hear_folder.build_folder(tasks_dir / name, stored, fill, force=force))
    if not made:
        named = ", ".join(map(str, options.source))
        raise FileNotFoundError(f"{named} holds no {METADATA} and no archive; correct --source")
    return list(dict.fromkeys(made))


def find_releases(sources: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Where each task lies and how its folder is called: in folders, archives, folders of these."""
    for source in map(Path, sources):
        if source.is_dir():
            for depth in range(4):
                for path in sorted(source.glob("*/" * depth + METADATA)):
                    yield path.parent, path.parent.resolve().name
            yield from find_releases(sorted(path for path in source.iterdir() if is_archive(path)))
        elif source.is_file():
            called = re.fullmatch(r"hear2021-(.+)-\d+\.tar\.gz", source.name)
            yield from ((source, name) for name in ([called[1]] if called else _folders_in(source)))
        else:
            raise FileNotFoundError(f"no folder or archive {source}; correct --source")


def _folders_in(archive: Path) -> list[str]:
    """The folders of an archive that have metadata; it is read for their names alone."""
    paths = (Path(name) for name in archive_names(archive))
    return sorted(
        {path.parent.name for path in paths if path.name == METADATA and path.parent.name}
    )


def _fill_hear(task: Task, options: Download, stored: dict[str, Any], folder: Path) -> None:
    scratch, given = folder.with_name("unpacked"), options.source[0]
    roots = open_sources(
        options.source,
        scratch,
        lambda name: hear_folder.is_released(name, task.folder, options.kept_rates),
    )
    source = hear_folder.find_released(roots, task.folder)
    if source is None:
        raise FileNotFoundError(f"{given} holds no {task.folder}/{METADATA}; correct --source")
    try:
        hear_folder.copy_release(task, source, folder, stored, options)
        clips = check_clips(task, folder)
    except (ValueError, FileNotFoundError) as error:  # said of what the user gave
        text = str(error).replace(str(folder), str(source)).replace(str(scratch), str(given))
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(text) from None
    expected = CLIPS.get(task.folder, clips)
    if clips != expected:
        coverage = {"summary": f"{clips} of {expected} clips", "clips": clips, "of": expected}
        write_json(folder / "coverage.json", coverage)


def check_clips(task: Task, folder: Path) -> int:
    """Check a new folder, of whole clips or of events; the number of its clips."""
    metadata = read_json(folder / METADATA)
    kind = metadata.get("embedding_type")
    if kind == "event":
        return sum(map(len, open_task(task, folder).parts.values()))
    types = ("multiclass", "multilabel")
    if kind != "scene" or metadata.get("prediction_type") not in types:
        raise ValueError(
            f"{folder / METADATA}: embedding_type is {kind!r} and prediction_type "
            f"{metadata.get('prediction_type')!r}; expected scene or event, {' or '.join(types)}"
        )
    classes = {*read_classes(folder / "labelvocabulary.csv")}
    return sum(_check_split(folder, split, metadata, classes) for split in metadata["splits"])


def _check_split(folder: Path, split: str, metadata: dict[str, Any], classes: set[str]) -> int:
    """Labels and audio of a split at 16 kHz; its number of clips."""
    path, one_label = folder / f"{split}.json", metadata["prediction_type"] == "multiclass"
    labels, seconds = read_json(path), metadata["sample_duration"]
    if not labels:
        raise ValueError(f"{path} lists no clip; download the task again")
    lengths = {}
    for file, names in labels.items():
        if not isinstance(names, list) or (one_label and len(names) != 1):
            expected = "one label in a list" if one_label else "a list of labels"
            raise ValueError(f"{path}: {file} has {names!r}; expected {expected}")
        if unknown := [str(name) for name in names if str(name) not in classes]:
            raise ValueError(
                f"{path}: {file} has the label {unknown[0]!r}, which labelvocabulary.csv does not "
                "list; download the task again"
            )
        lengths[file] = count_samples(folder / str(RATE) / split / file)
    samples = None if seconds is None else round(seconds * RATE)
    if wrong := [file for file, length in lengths.items() if samples not in (None, length)]:
        raise ValueError(f"{path}: {some(wrong, 'clips')} have not {samples} samples at 16 kHz")
    return len(labels)


TASK = Task(
    name="hear",
    title="HEAR 2021",
    folder="hear",
    folders=FOLDERS,
    about="the released folders of HEAR's 19 tasks, run by `hear-all`",
    clip_s=None,
    published=True,
    prepare=prepare_releases,
    options=Download,
)
