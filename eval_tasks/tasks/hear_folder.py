"""HEAR task folders: written whole or not at all, and completed from HEAR's own releases."""

import hashlib
import logging
import platform
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from eval_tasks.tasks.base import MORE_PARTS, Part, Task, TaskData, open_task, read_json
from eval_tasks.tasks.downloads import (
    RATE,
    convert,
    convert_all,
    find_path,
    link_file,
    open_sources,
    some,
)
from hear_ptsed.files import write_json
from hear_ptsed.metrics.records import OPEN
from hear_ptsed.parts import make_folder
from hear_ptsed.schema import Name, check, is_name, setting, settings

LIBRARIES = ("numpy", "scipy", "soxr", "soundfile", "tinysoundfont", "espeakng-loader", "music21")
ONE_SETTING = {  # of heareval, where nothing is searched
    "event_postprocessing_grid": {"median_filter_ms": [280], "min_duration": [120]},
    "task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]},
}
RELEASED_RATE = 48000  # Hz, of HEAR's archives; they exist at 16 kHz too


@settings
class AudioRates:
    """The rates of a folder's audio."""

    sample_rate: Literal[16000, 22050, 32000, 44100, 48000] = setting(
        RATE, "The Hz of audio that is kept, for plug-ins of others, beside that at 16000 Hz."
    )

    @property
    def kept_rates(self) -> tuple[int, ...]:
        """Rates in Hz of audio beside that at 16 kHz."""
        return () if self.sample_rate == RATE else (self.sample_rate,)

    @property
    def rate_settings(self) -> dict[str, Any]:
        """What a folder's manifest says of them."""
        return {"sample_rate": [*self.kept_rates]} if self.kept_rates else {}


@settings
class Download(AudioRates):
    """What a task is made from that comes as a download."""

    source: tuple[Path, ...] = setting((), "The folders or archives of the download.")
    jobs: int = setting(1, "The number of processes that resample.", ge=1, le=512)

    def require_source(self, task: Task) -> None:
        if not self.source:
            raise ValueError(
                f"{task.name} is made from a download; name its folder or archive: --source"
            )


@settings(config=OPEN)
class ReleasedMetadata:
    """What task_metadata.json of a released folder must say."""

    task_name: str
    version: str
    mode: str
    splits: Annotated[list[Name], Field(min_length=1)]
    sample_duration: Annotated[float, Field(gt=0)] | None  # seconds; None: clips differ


@dataclass(frozen=True)
class Release:
    """A task of which HEAR released a folder, and how the same follows from the data set."""

    clips: dict[str, int]  # of each split
    is_original: Callable[[str], bool]  # whether an archive's member is wanted of the data set
    # (roots, jobs, settings, folder) -> where the data set lies, after the folder is filled
    fill_from_original: Callable[[list[Path], Download, dict, Path], Path]
    find_wrong: Callable[[tuple[str, ...]], str]  # what is wrong with the classes, if anything


def prepare_released(
    release: Release, task: Task, tasks_dir: Path, options: Download, force: bool
) -> Path:
    """Make the task folder from HEAR's release or from the data set."""
    options.require_source(task)
    settings = {"task": task.name, "format": 2} | options.rate_settings
    fill = partial(_fill_released, task, release, options, settings)
    return build_folder(tasks_dir / task.folder, settings, fill, force=force)


def _fill_released(
    task: Task, release: Release, options: Download, settings: dict, folder: Path
) -> None:
    def is_wanted(name: str) -> bool:
        return release.is_original(name) or is_released(name, task.folder, options.kept_rates)

    roots = open_sources(options.source, folder.with_name("unpacked"), is_wanted)
    if source := find_released(roots, task.folder):
        copy_release(task, source, folder, settings, options)
    else:
        source = release.fill_from_original(roots, options, settings, folder)
    data = check_folder(task, folder, source)
    counts = {name: len(part) for name, part in data.parts.items()}
    if counts != release.clips:
        raise ValueError(f"{source} has {counts} clips; expected {release.clips}")
    if wrong := release.find_wrong(data.classes):
        raise ValueError(f"{source}: {wrong}")
    if data.metadata["sample_duration"] != task.clip_s:
        raise ValueError(
            f"{source} has clips of {data.metadata['sample_duration']} s; expected "
            f"{task.clip_s:g} s"
        )


def build_folder(
    folder: Path, settings: dict, fill: Callable[[Path], None], *, force: bool = False
) -> Path:
    """Have a new folder filled and put it in place; one with the same settings is kept.

    Args:
        fill: writes the files, a `manifest.json` with these settings among them.
        force: replace a folder that has other settings.
    """
    remedy = "use --force to replace it"
    if not make_folder(Path(folder), settings, fill, force=force, remedy=remedy):
        logging.getLogger(__name__).info("%s is there already and is kept", folder)
    return Path(folder)


def describe_folder(
    name: str,
    splits: Sequence[str],
    clip_s: float | None,
    metrics: Sequence[str],
    *,
    embedding_type: str = "event",
    prediction_type: str = "multilabel",
    **more: Any,
) -> dict[str, Any]:
    """The contents of task_metadata.json, in the key order of HEAR's own.

    Args:
        name: of the folder: NAME-VERSION-MODE.
        splits: train, valid and test, or folds.
        clip_s: seconds of a clip; None where they differ, which heareval does not take.
        metrics: that heareval scores, its primary one first.
    """
    if name.count("-") != 2:
        raise ValueError(f"the task's folder is named {name}; it must be NAME-VERSION-MODE")
    task_name, version, mode = name.split("-")
    return {
        "task_name": task_name,
        "version": version,
        "embedding_type": embedding_type,
        "prediction_type": prediction_type,
        "split_mode": "trainvaltest" if splits[0] == "train" else "new_split_kfold",
        "sample_duration": clip_s,
        "evaluation": list(metrics),
        "download_urls": [],
        "default_mode": mode,
        **more,
        "mode": mode,
        "splits": list(splits),
    }


def write_labels(
    folder: Path,
    metadata: Mapping[str, Any],
    vocabulary: Sequence[str],
    parts: Mapping[str, Mapping[str, list]],
    manifest: Mapping[str, Any],
) -> None:
    """Write all that stands beside the audio; `parts` has the labels of every split by file."""
    for name, labels in parts.items():
        write_json(folder / f"{name}.json", dict(sorted(labels.items())))
    rows = [f"{index},{label}" for index, label in enumerate(vocabulary)]
    text = "\n".join(["idx,label", *rows, ""])
    (folder / "labelvocabulary.csv").write_text(text, encoding="utf-8")
    write_json(folder / "task_metadata.json", dict(metadata))
    write_json(folder / "manifest.json", dict(manifest))


def audio_folder(folder: Path, part: str) -> Path:
    """Where the 16 kHz audio of a part lies, made if it is not there."""
    path = folder / str(RATE) / part
    path.mkdir(parents=True, exist_ok=True)
    return path


def convert_listed(
    folder: Path,
    part: str,
    listed: Mapping[str, Path | None],
    seconds: float | None,
    options: Download,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Write the audio that is there: seconds of each clip, and what to say of the rest.

    Args:
        listed: file -> its audio; None: there is none.
        seconds: of each clip, cut or padded; None for its own length.
    """
    target = audio_folder(folder, part)
    paths = {name: path for name, path in listed.items() if path}
    pairs = [(path, target / name) for name, path in paths.items()]
    values = convert(pairs, seconds, options.jobs, part, kept_rates=options.kept_rates)
    results = dict(zip(paths, values, strict=True))
    seconds_of = {name: value for name, value in results.items() if isinstance(value, float)}
    if not seconds_of:
        target.rmdir()
    return seconds_of, {
        "listed": len(listed),
        "there": len(seconds_of),
        "missing": sorted(listed.keys() - paths.keys()),
        "unreadable": sorted(value for value in results.values() if isinstance(value, str)),
    }


def summarise(coverage: Mapping[str, Mapping[str, Any]], parts: Sequence[str]) -> str | None:
    """What is missing of the parts, in a line; None if nothing is."""
    short = []
    for part in parts:
        if part not in coverage:
            short.append(f"{part}: none")
            continue
        listed, usable = coverage[part]["listed"], coverage[part]["there"]
        if missing := listed - usable:
            share = 100 * missing / listed
            short.append(f"{part}: {usable} of {listed} clips (missing {missing}, {share:.1f} %)")
    return "; ".join(short) or None


def cut_events(rows: Iterable[tuple[float, float, str]], seconds: float) -> list[dict[str, Any]]:
    """HEAR's events, in ms, of (start s, end s, label): those that begin in the clip, cut to it."""
    return [
        {"label": label, "start": 1000 * start, "end": 1000 * min(end, seconds)}
        for start, end, label in sorted(rows)
        if start < seconds
    ]


def shuffled(names: Iterable[str], key: str) -> list[str]:
    """HEAR's order of names for cutting them into splits or folds."""
    ordered = sorted(names)
    random.Random(key).shuffle(ordered)
    return ordered


def subsample(names: Iterable[str], split: str, count: int) -> list[str]:
    """HEAR's choice of `count` clips of a split: it is that of pandas' sample, by the same seed."""
    text = f"SubsampleSplit({split})".encode()
    seed = int(hashlib.sha1(text, usedforsecurity=False).hexdigest(), 16) % (2**32 - 1)
    ordered = sorted(names)
    order = np.random.RandomState(seed).permutation(len(ordered))
    return [ordered[i] for i in order[:count]]


def is_released(name: str, folder: str, kept_rates: Sequence[int] = ()) -> bool:
    """Whether an archive's member is wanted of a HEAR release: labels; 16, 48 kHz or kept audio."""
    _, released, inside = f"/{name}".partition(f"/{folder}/")
    first = inside.split("/")[0]
    rates = map(str, (RATE, RELEASED_RATE, *kept_rates))
    return bool(released) and (not first.isdigit() or first in rates)


def find_released(roots: Sequence[Path], folder: str) -> Path | None:
    """HEAR's folder of a task: a root itself, or in one."""
    for root in roots:
        if (root / "task_metadata.json").is_file():
            return root
    metadata_file = find_path(roots, f"{folder}/task_metadata.json")
    return metadata_file.parent if metadata_file else None


def copy_release(task: Task, source: Path, folder: Path, settings: dict, options: Download) -> None:
    """Fill a folder from HEAR's release: audio at 16 kHz is linked, else made from 48 kHz."""
    if source.resolve() == (folder.parents[1] / folder.name).resolve():
        raise ValueError(f"{source} would be replaced by itself; name another --tasks-dir")
    path = source / "task_metadata.json"
    about = check(ReleasedMetadata, read_json(path), str(path))
    stored = f"{about.task_name}-{about.version}-{about.mode}"
    if stored != task.folder:
        raise ValueError(f"{source} is {stored}; expected {task.folder}")
    splits = [f"{name}.json" for name in about.splits]
    for name in ("task_metadata.json", "labelvocabulary.csv", *splits):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source / name} is missing; download the task again")
        shutil.copyfile(source / name, folder / name)
    for name in about.splits:
        files = _clip_names(source / f"{name}.json")
        target = audio_folder(folder, name)
        have, released = (source / str(rate) / name for rate in (RATE, RELEASED_RATE))
        ready = [(have / file, target / file) for file in files if (have / file).is_file()]
        rest = [(released / file, target / file) for file in files if not (have / file).is_file()]
        if ready:
            convert_all(ready, None, options.jobs, f"{name} at 16 kHz", RATE)
        if rest:
            seconds = about.sample_duration
            convert_all(rest, seconds, options.jobs, f"{name} from 48 kHz", RELEASED_RATE)
        for rate in options.kept_rates:
            _keep_rate(source, folder, rate, name, files)
    manifest = {"settings": settings, "versions": versions(), "source": "HEAR release"}
    write_json(folder / "manifest.json", manifest)


def _clip_names(path: Path) -> list[str]:
    """Of a split's JSON; none may lead out of its folder."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not {{file: [labels]}}; download the task again")
    if strange := [file for file in content if not is_name(file)]:
        raise ValueError(
            f"{path}: {some([ascii(f) for f in strange], 'names')} cannot be those of clips; "
            "download the task again"
        )
    return [*content]


def _keep_rate(source: Path, folder: Path, rate: int, part: str, files: Sequence[str]) -> None:
    """Link a part's audio at a rate of the archive."""
    released, target = source / str(rate) / part, folder / str(rate) / part
    target.mkdir(parents=True, exist_ok=True)
    if missing := [file for file in files if not (released / file).is_file()]:
        rates = sorted(int(path.name) for path in source.iterdir() if path.name.isdecimal())
        raise FileNotFoundError(
            f"{source} lacks {some(missing, f'clips of {part}')} at {rate} Hz; it has audio at "
            f"{', '.join(map(str, rates)) or 'no rate'}: correct --sample-rate"
        )
    for file in files:
        if not (target / file).exists():  # 16 kHz is there already
            link_file(released / file, target / file)


def check_folder(task: Task, folder: Path, source: Path) -> TaskData:
    """The new folder, opened; what is wrong with it is said of the source.

    All clips must have the length of the metadata, if the task's have one.
    """
    try:
        data = open_task(task, folder)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(str(error).replace(str(folder), str(source))) from None
    for name, part in data.parts.items():
        if task.clip_s is not None:
            _check_lengths(part, round(data.metadata["sample_duration"] * RATE), source)
        if name not in MORE_PARTS and not any(part.events.values()):
            raise ValueError(f"{source}: no clip of {name} has an event")
    return data


def _check_lengths(part: Part, samples: int, source: Path) -> None:
    wrong = [file for file, count in part.samples.items() if count != samples]
    if wrong:
        raise ValueError(
            f"{source}: {some(wrong, f'clips of {part.name}')} have not {samples} samples at 16 kHz"
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape the audio."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
