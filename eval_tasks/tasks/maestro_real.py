"""MAESTRO Real: 49 recordings of five places with soft labels, of DCASE 2023 4B and 2024 4.

Source: https://zenodo.org/record/7244360, development_audio.zip and development_annotation.zip, or
their folders. Its licence text allows academic, non-commercial use only. Martin-Morato, Mesaros:
Strong Labeling of Sound Events Using Crowdsourced Weak Labels and Annotator Competence Estimation,
TASLP 31, 2023. It is not the piano set of HEAR, which is the task `maestro`.

A label is a second of a class with a value from 0 to 1. Networks learn the values of all 17
classes; scored are 11, and as events the seconds above 0.5.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Stitch, Task
from eval_tasks.tasks.downloads import check_md5, find_path, open_sources
from eval_tasks.tasks.hear_folder import Download, versions
from hear_ptsed.files import write_json
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.schema import setting, settings
from training.data.tables import read_rows

SCORED = (
    *("birds_singing", "car", "people talking", "footsteps", "children voices", "wind_blowing"),
    *("brakes_squeaking", "large_vehicle", "cutlery and dishes", "metro approaching"),
    "metro leaving",
)
CLASSES = (
    *SCORED[:9],
    *("furniture dragging", "coffee machine"),
    *SCORED[9:],
    *("door opens/closes", "announcement", "shopping cart", "cash register beeping"),
)
TOLERANCE = 0.1  # values of the release exceed 1 slightly
SCENES = {
    "C": "cafe_restaurant",
    "Y": "city_center",
    "G": "grocery_store",
    "M": "metro_station",
    "R": "residential_area",
}
FOLDS = {  # of 2023: test clips, validation clips
    "fold1": (
        "C 04 07 G 04 09 M 00 07 R 07 08 09 Y 04 11",
        "C 08 11 12 14 M 02 10 12 R 14 Y 02 05 09 14",
    ),
    "fold2": (
        "C 11 14 G 01 08 M 05 10 R 05 12 Y 02 12",
        "C 04 06 12 13 G 02 M 07 11 R 03 Y 04 05 06 11",
    ),
    "fold3": (
        "C 00 08 G 03 11 M 01 11 R 06 14 Y 05 09",
        "C 07 12 G 00 01 12 M 04 05 07 R 12 Y 02 04 11",
    ),
    "fold4": (
        "C 06 10 G 00 12 M 02 04 R 03 04 Y 06 07",
        "C 00 04 G 11 M 00 11 R 01 05 07 12 Y 04 10 14",
    ),
    "fold5": (
        "C 12 13 G 02 M 12 R 00 01 Y 10 14",
        "C 08 10 G 00 04 M 02 04 11 R 03 04 12 Y 04 05 06",
    ),
}
TEST_2024 = "C 04 10 13 G 01 04 12 M 01 04 11 R 03 05 06 12 Y 05 09 10"
MD5 = {
    "development_audio.zip": "3de7cb4f92a115a6f5cc077a41ca07b3",
    "development_annotation.zip": "e6a3f84f8020725d559b38ccb494ef3d",
}


@settings
class MaestroRealOptions(Download):
    """What MAESTRO Real is made from, and how it is split."""

    split: Literal["2023", "2024"] = setting(
        "2023", "The challenge whose split it is: five folds, or 16 test clips."
    )


class Recording(NamedTuple):
    """Where a recording and its annotation lie, if they are there."""

    audio: Path | None
    annotation: Path | None


def list_files(text: str) -> list[str]:
    """Names of clips, as cafe_restaurant_04.wav, of a list such as C 04 07 G 11."""
    files, scene = [], ""
    for word in text.split():
        if word in SCENES:
            scene = SCENES[word]
        else:
            files.append(f"{scene}_{word}.wav")
    return files


def split_2023() -> dict[str, list[str]]:
    """Fold -> the clips that are tested in it: together all 49."""
    return {fold: list_files(test) for fold, (test, _) in FOLDS.items()}


def split_2024() -> dict[str, list[str]]:
    """The 16 test clips; of those that train, a tenth of each place validates, drawn by us."""
    test, rng = list_files(TEST_2024), np.random.RandomState(42)
    rest = sorted({file for files in split_2023().values() for file in files} - {*test})
    valid = []
    for scene in SCENES.values():
        files = rng.permutation([file for file in rest if file.startswith(scene)])
        valid += files[-max(1, len(files) // 10) :].tolist()
    return {"train": sorted({*rest} - {*valid}), "valid": sorted(valid), "test": test}


def prepare_maestro_real(
    task: Task, tasks_dir: Path, options: MaestroRealOptions, force: bool
) -> Path:
    """Make the task folder of the recordings that are there."""
    options.require_source(task)
    settings = {"task": task.name, "split": options.split, "format": 1} | options.rate_settings
    folder = tasks_dir / f"maestro_real-dcase{options.split}-full"
    fill = partial(_fill_maestro_real, options, settings)
    return hear_folder.build_folder(folder, settings, fill, force=force)


def _fill_maestro_real(options: MaestroRealOptions, settings: dict, folder: Path) -> None:
    check_md5(options.source, MD5)
    roots = open_sources(options.source, folder.with_name("unpacked"), _is_wanted)
    parts, coverage, durations = {}, {}, {}
    for part, files in (split_2023() if options.split == "2023" else split_2024()).items():
        listed = {file: _find(roots, file) for file in sorted(files)}
        audio = {f: place.audio if place.annotation else None for f, place in listed.items()}
        seconds, coverage[part] = hear_folder.convert_listed(folder, part, audio, None, options)
        if not seconds:
            raise FileNotFoundError(
                f"{options.source[0]}: none of the {len(files)} recordings of {part} is there with "
                "its audio and its annotation; complete the download"
            )
        durations[part] = seconds
        parts[part] = {
            file: [*_read_soft_events(listed[file].annotation, seconds[file])] for file in seconds
        }
    manifest = {"settings": settings, "versions": versions(), "source": "MAESTRO Real, development"}
    metadata = _task_metadata(folder.name, parts)
    hear_folder.write_labels(folder, metadata, CLASSES, parts, manifest)
    write_json(folder / "durations.json", durations)
    summary = hear_folder.summarise(coverage, [*parts])
    write_json(folder / "coverage.json", {"summary": summary, "parts": coverage})
    hear_folder.check_folder(TASK, folder, options.source[0])


def _task_metadata(name: str, parts: dict[str, dict]) -> dict[str, Any]:
    more: dict[str, Any] = {"scored": [*SCORED]}
    if "train" not in parts:
        present = {file for clips in parts.values() for file in clips}
        validation = {
            fold: [file for file in list_files(valid) if file in present]
            for fold, (_, valid) in FOLDS.items()
        }
        more |= {"nfolds": len(parts), "validation": validation, "pooled": True}
    return hear_folder.describe_folder(name, [*parts], None, ("segment_1s_er",), **more)


def _is_wanted(member: str) -> bool:
    """Whether an archive's member is a recording or a soft annotation."""
    stem = Path(member).stem.rpartition("_")[0]
    return stem in SCENES.values() and member.endswith((".wav", ".txt"))


def _find(roots: list[Path], file: str) -> Recording:
    stem = file.removesuffix(".wav")
    scene = stem.rpartition("_")[0]
    return Recording(
        find_path(roots, f"{scene}/{file}"), find_path(roots, f"soft_labels_{scene}/{stem}.txt")
    )


def _read_soft_events(path: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """Soft events of a recording, within it: rows of start, end (s), label and value."""
    for number, row in read_rows(path):
        where = f"{path}, line {number}"
        try:
            start, end, label, value = float(row[0]), float(row[1]), row[2], float(row[3])
            valid = len(row) == 4 and 0 <= start < end < float("inf")
        except (ValueError, IndexError):
            valid = False
        if not valid:
            raise ValueError(
                f"{where}: {' '.join(row)!r}; expected start, end, label and value with tabs "
                "between, 0 <= start < end in seconds"
            )
        if label not in CLASSES:
            raise ValueError(f"{where}: unknown label {label!r}; known: {', '.join(CLASSES)}")
        if not 0 <= value <= 1 + TOLERANCE:
            raise ValueError(f"{where}: value {value:g}; a soft label is from 0 to 1")
        if value and start < seconds:
            yield {
                "label": label,
                "start": 1000 * start,
                "end": 1000 * min(end, seconds),
                "value": min(value, 1.0),
            }


# Chosen by the size of the data, not tuned: an epoch is 27 recordings, 680 crops of 10 s.
RECIPES = {
    "finetuned": {"optim": {"batch": 64, "epochs": 60.0, "warmup_steps": 60}},
}
TASK = Task(
    name="maestro_real",
    title="MAESTRO Real",
    folder="maestro_real-dcase2023-full",
    about="17 sounds of five places in recordings of 3 to 5 minutes, with soft labels; 11 scored",
    metrics=(*("mpauc", "f1_mo", "segment_1s_f1_macro", "segment_1s_f1_micro", "segment_1s_er"),),
    decoding=Decoding(600, 0),
    psds_median=15,
    labels=("strong", "soft"),
    clip_s=None,
    stitch=Stitch(5.0, average="probabilities"),
    convention="11 of 17 classes; events are soft labels above 0.5",
    published=True,
    recipes=RECIPES,
    prepare=prepare_maestro_real,
    options=MaestroRealOptions,
)
