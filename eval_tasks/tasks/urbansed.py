"""URBAN-SED v2.0.0: ten urban sounds in 10,000 synthetic street scenes of 10 s.

Source: https://zenodo.org/record/1324404, URBAN-SED_v2.0.0.tar.gz (CC BY 4.0), or the folder in it;
its text annotations are read, its JAMS files are not needed. Salamon, MacConnell, Cartwright, Li,
Bello: Scaper, a library for soundscape synthesis and augmentation, WASPAA 2017.

In some scenes events of a class overlap. Events of a class that overlap or touch are one here, as
PSDS asks and as the transformers that were evaluated on this data have it.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.downloads import check_md5, find_path, open_sources
from eval_tasks.tasks.hear_folder import Download, versions
from hear_ptsed.files import write_json
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.metrics.task_folder import join_events
from hear_ptsed.schema import setting, settings
from training.data.tables import read_lines

SECONDS = 10.0
CLASSES = (
    *("air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling"),
    *("engine_idling", "gun_shot", "jackhammer", "siren", "street_music"),
)
FOLDERS = {"train": "train", "valid": "validate", "test": "test"}
RELEASED = {"train": 6000, "valid": 2000, "test": 2000}  # clips
SIZES = {"full": RELEASED, "5h": {"train": 1080, "valid": 360, "test": 2000}}
MD5 = {"URBAN-SED_v2.0.0.tar.gz": "a2d24a2148ece7c021fcc079ee87c2dc"}
HEAR_METRICS = ("segment_1s_er", "event_onset_200ms_fms")


@settings
class UrbanSedOptions(Download):
    """What URBAN-SED is made from, and how much of it."""

    size: Literal["full", "5h"] = setting(
        "full", "All clips, or 3 h of training and 1 h of validation."
    )


def prepare_urbansed(task: Task, tasks_dir: Path, options: UrbanSedOptions, force: bool) -> Path:
    """Make the task folder of the clips that are there."""
    options.require_source(task)
    settings = {"task": task.name, "mode": options.size, "format": 1} | options.rate_settings
    fill = partial(_fill_urbansed, options, settings)
    folder = tasks_dir / f"urbansed-v2.0.0-{options.size}"
    return hear_folder.build_folder(folder, settings, fill, force=force)


def _fill_urbansed(options: UrbanSedOptions, settings: dict, folder: Path) -> None:
    check_md5(options.source, MD5)
    roots = open_sources(options.source, folder.with_name("unpacked"), _is_wanted)
    annotations = find_path(roots, "annotations/train")
    if annotations is None:
        raise FileNotFoundError(
            f"{options.source[0]} has no folder annotations/train; correct --source"
        )
    source, limits = annotations.parents[1], SIZES[options.size]
    parts, coverage, durations = {}, {}, {}
    joined = 0
    for part, name in FOLDERS.items():
        events = {
            path.with_suffix(".wav").name: _read_scene(path)
            for path in sorted((source / "annotations" / name).glob("*.txt"))
        }
        chosen = sorted(hear_folder.subsample(events, part, limits[part]))
        audio = {file: source / "audio" / name / file for file in chosen}
        listed = {file: path if path.is_file() else None for file, path in audio.items()}
        seconds, coverage[part] = hear_folder.convert_listed(folder, part, listed, SECONDS, options)
        if not seconds:
            raise FileNotFoundError(
                f"{source}: none of the {len(chosen)} annotated clips of {name} can be read; "
                "complete the download"
            )
        coverage[part]["listed"] = max(limits[part], len(chosen))
        parts[part] = {file: join_events(events[file]) for file in seconds}
        joined += sum(len(events[file]) - len(parts[part][file]) for file in seconds)
        durations[part] = seconds
    _write(folder, parts, coverage, durations, {"settings": settings, "joined_events": joined})
    hear_folder.check_folder(TASK, folder, source)


def _is_wanted(member: str) -> bool:
    """Whether an archive's member is one of the text annotations or of the clips."""
    return f"/{member}".rpartition("/")[0].endswith(
        tuple(f"/{kind}/{name}" for kind in ("annotations", "audio") for name in FOLDERS.values())
    ) and member.endswith((".txt", ".wav"))


def _read_scene(path: Path) -> list[dict[str, Any]]:
    """Events of a clip as they are annotated: lines of start, end (s) and label."""
    rows = []
    for number, line in read_lines(path):
        try:
            start, end, label = line.split()
            rows.append((float(start), float(end), label))
            valid = 0 <= rows[-1][0] < rows[-1][1] < float("inf")
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(
                f"{path}, line {number}: {line!r}; expected start, end and label, 0 <= start < end "
                "in seconds"
            )
        if label not in CLASSES:
            raise ValueError(
                f"{path}, line {number}: unknown label {label!r}; known: {', '.join(CLASSES)}"
            )
    return hear_folder.cut_events(rows, SECONDS)


def _write(folder: Path, parts: dict, coverage: dict, durations: dict, manifest: dict) -> None:
    limits = {part: round(SECONDS * clip["listed"]) for part, clip in coverage.items()}
    hear_folder.write_labels(
        folder,
        hear_folder.describe_folder(
            folder.name,
            [*FOLDERS],
            SECONDS,
            HEAR_METRICS,
            max_task_duration_by_split=limits,
            use_scoring_for_early_stopping=False,
            evaluation_params=hear_folder.ONE_SETTING,
        ),
        CLASSES,
        parts,
        {**manifest, "versions": versions(), "source": "URBAN-SED v2.0.0"},
    )
    write_json(folder / "durations.json", durations)
    summary = hear_folder.summarise(coverage, [*FOLDERS])
    write_json(folder / "coverage.json", {"summary": summary, "parts": coverage})


# Chosen by the size of the data, not tuned: half a million frames of training an epoch.
RECIPES = {
    "linear": {"optim": {"epochs": 100.0, "warmup_steps": 100}, "fit": {"check_every_epochs": 5.0}},
    "finetuned": {
        "optim": {"batch": 64, "epochs": 50.0, "warmup_steps": 500},
        "fit": {"check_every_epochs": 5.0},
    },
}
TASK = Task(
    name="urbansed",
    title="URBAN-SED",
    folder="urbansed-v2.0.0-full",
    about="10 urban sounds in synthetic scenes of 10 s",
    metrics=(
        *("event_onset_offset_200ms_20perc_fms_macro", "segment_1s_f1_micro"),
        *("segment_1s_f1_macro", "psds1", "psds2", "segment_1s_er"),
    ),
    decoding=Decoding(280, 120),
    psds_median=7,
    clip_s=SECONDS,
    convention="events of a class that overlap or touch in a scene are one",
    published=True,
    recipes=RECIPES,
    prepare=prepare_urbansed,
    options=UrbanSedOptions,
)
