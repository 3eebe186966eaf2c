"""MAESTRO 5h: piano notes in the first 120 s of 185 recordings of MAESTRO v3, as in HEAR.

Source: HEAR's release (https://zenodo.org/record/5887964), folder maestro-v3.0.0-5h at 16 or 48
kHz; or MAESTRO v3.0.0 itself (https://magenta.tensorflow.org/datasets/maestro), unpacked or as
maestro-v3.0.0.zip, of which the 185 recordings, about 20 GB, are unpacked for a while.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Task, TaskData
from eval_tasks.tasks.downloads import convert_all, find, opened, some
from eval_tasks.tasks.hear_folder import versions
from eval_tasks.tasks.midi import Note, sustained_notes
from hear_ptsed.metrics.decoding import Decoding
from training.data.tables import read_records

SECONDS = 120.0
FOLDS = tuple(f"fold{i:02d}" for i in range(5))
RECORDINGS = 1276
CLIPS = 37  # per fold: 4500 s
LOWEST, HIGHEST = 21, 108  # MIDI pitches of a piano
INDEX = "maestro-v3.0.0.csv"
COLUMNS = ("midi_filename", "audio_filename", "duration")
EVALUATION = {
    "event_postprocessing_grid": {"median_filter_ms": [150], "min_duration": [50]},
    "task_specific_param_grid": {"max_epochs": [50], "check_val_every_n_epoch": [1]},
}

TASK = Task(
    name="maestro",
    title="MAESTRO 5h",
    folder="maestro-v3.0.0-5h",
    about="MAESTRO: notes of piano recordings, five folds of 37 clips of 120 s",
    metrics=("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"),
    decoding=Decoding(150, 50),
    select="loss",
    published=True,
)


def prepare(
    sources: Sequence[Path], tasks_dir: Path, *, jobs: int = 1, force: bool = False
) -> Path:
    """Make the task folder from HEAR's release or from MAESTRO v3.0.0.

    Args:
        sources: folders or archives of one of the two.
        jobs: processes that resample.
    """
    settings = {"task": TASK.name, "format": 2}
    fill = partial(_fill, sources, settings, jobs)
    return hear_folder.build(Path(tasks_dir) / TASK.folder, settings, fill, force=force)


def _fill(sources: Sequence[Path], settings: dict, jobs: int, folder: Path) -> None:
    scratch = folder.with_name("unpacked")
    roots = opened(sources, scratch, _wanted)
    source = hear_folder.find_released(roots, TASK.folder)
    if source:
        data = hear_folder.complete(TASK, source, folder, settings, jobs)
    elif index := find(roots, INDEX):
        source, folds = index.parent, selected(index)
        if source.is_relative_to(scratch):
            files = tuple(
                row[key] for rows in folds.values() for row in rows for key in COLUMNS[:2]
            )
            opened(sources, scratch, lambda name: name.endswith(files))
        data = _from_original(source, folds, settings, jobs, folder)
    else:
        raise FileNotFoundError(
            f"{sources[0]} holds neither HEAR's {TASK.folder} nor {INDEX}; correct --source"
        )
    _check(data, source)


def _wanted(name: str) -> bool:
    return Path(name).name == INDEX or hear_folder.is_released(name, TASK.folder)


def selected(index: Path) -> dict[str, list[dict[str, str]]]:
    """HEAR's 37 recordings of each fold, as rows of MAESTRO's table."""
    rows = [row for _, row in read_records(index, COLUMNS)]
    by_stem = {Path(row["audio_filename"]).stem: row for row in rows}
    if len(by_stem) != RECORDINGS:
        raise ValueError(f"{index} lists {len(by_stem)} recordings; v3.0.0 has {RECORDINGS}")
    order = hear_folder.shuffled(by_stem, "split_k_folds")
    cuts = np.array_split(np.arange(len(order)), len(FOLDS))
    return {
        fold: [
            by_stem[stem] for stem in hear_folder.subsample([order[i] for i in cut], fold, CLIPS)
        ]
        for fold, cut in zip(FOLDS, cuts, strict=True)
    }


def _from_original(
    source: Path, folds: dict[str, list[dict]], settings: dict, jobs: int, folder: Path
) -> TaskData:
    splits = {fold: {} for fold in FOLDS}
    pairs, late = [], []
    for fold, rows in folds.items():
        target = hear_folder.audio_folder(folder, fold)
        missing = [r["midi_filename"] for r in rows if not (source / r["midi_filename"]).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{source} lacks {some(missing, f'recordings of {fold}')}; complete the download"
            )
        for row in rows:
            file = f"{Path(row['audio_filename']).stem}.wav"
            notes = sustained_notes(source / row["midi_filename"])
            splits[fold][file] = hear_folder.events(labelled(notes), SECONDS)
            pairs.append((source / row["audio_filename"], target / file))
            late.append(abs(max((note.end for note in notes), default=0) - float(row["duration"])))
    convert_all(pairs, SECONDS, jobs, "recordings")
    found = {int(e["label"]) for clips in splits.values() for c in clips.values() for e in c}
    hear_folder.write(
        folder,
        hear_folder.metadata(
            "maestro",
            "v3.0.0",
            "5h",
            FOLDS,
            SECONDS,
            TASK.metrics,
            nfolds=len(FOLDS),
            max_task_duration_by_fold=4500,
            use_scoring_for_early_stopping=False,
            evaluation_params=EVALUATION,
        ),
        [str(pitch) for pitch in sorted(found)],
        splits,
        {
            "settings": settings,
            "versions": versions(),
            "source": "MAESTRO v3.0.0",
            "mean_seconds_between_last_note_and_listed_duration": float(np.mean(late)),
        },
    )
    return hear_folder.checked(TASK, folder, source)


def labelled(notes: Sequence[Note]) -> list[tuple[float, float, int]]:
    """Start, end, pitch of what a piano has keys for."""
    return [(n.start, n.end, n.pitch) for n in notes if LOWEST <= n.pitch <= HIGHEST]


def _check(data: TaskData, source: Path) -> None:
    found = {name: len(part) for name, part in data.parts.items()}
    if found != dict.fromkeys(FOLDS, CLIPS):
        raise ValueError(f"{source} has {found} clips; expected {CLIPS} in each of five folds")
    strange = [c for c in data.classes if not (c.isdigit() and LOWEST <= int(c) <= HIGHEST)]
    if strange:
        raise ValueError(
            f"{source} has the labels {', '.join(strange)}; expected pitches {LOWEST}-{HIGHEST}"
        )
    if data.metadata["sample_duration"] != SECONDS:
        raise ValueError(
            f"{source} has clips of {data.metadata['sample_duration']} s; expected {SECONDS:g} s"
        )
