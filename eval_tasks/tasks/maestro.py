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
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.downloads import convert_all, find_path, open_sources, some
from eval_tasks.tasks.hear_folder import Download, Release, versions
from eval_tasks.tasks.midi import Note, sustained_notes
from hear_ptsed.metrics.decoding import Decoding
from training.data.tables import read_records

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


def is_original(member: str) -> bool:
    """Whether an archive's member is wanted before the 185 recordings are known."""
    return Path(member).name == INDEX


def select_recordings(index: Path) -> dict[str, list[dict[str, str]]]:
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


def fill_from_original(roots: list[Path], options: Download, settings: dict, folder: Path) -> Path:
    """Fill a folder from MAESTRO; of an archive only the selected recordings are unpacked."""
    index = find_path(roots, INDEX)
    if index is None:
        raise FileNotFoundError(
            f"{options.source[0]} holds neither HEAR's {TASK.folder} nor {INDEX}; correct --source"
        )
    source, folds = index.parent, select_recordings(index)
    scratch = folder.with_name("unpacked")
    if source.is_relative_to(scratch):
        files = tuple(row[key] for rows in folds.values() for row in rows for key in COLUMNS[:2])
        open_sources(options.source, scratch, lambda name: name.endswith(files))
    splits = {fold: {} for fold in FOLDS}
    pairs, late_s = [], []
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
            splits[fold][file] = hear_folder.cut_events(list_keys(notes), TASK.clip_s)
            pairs.append((source / row["audio_filename"], target / file))
            last_s = max((note.end for note in notes), default=0)
            late_s.append(abs(last_s - float(row["duration"])))
    rates = options.kept_rates
    convert_all(pairs, TASK.clip_s, options.jobs, "recordings", kept_rates=rates)
    _write_labels(splits, float(np.mean(late_s)), settings, folder)
    return source


def _write_labels(splits: dict[str, dict], late_s: float, settings: dict, folder: Path) -> None:
    pitches = {int(e["label"]) for clips in splits.values() for c in clips.values() for e in c}
    hear_folder.write_labels(
        folder,
        hear_folder.describe_folder(
            folder.name,
            FOLDS,
            TASK.clip_s,
            TASK.metrics,
            nfolds=len(FOLDS),
            max_task_duration_by_fold=4500,
            use_scoring_for_early_stopping=False,
            evaluation_params=EVALUATION,
        ),
        [str(pitch) for pitch in sorted(pitches)],
        splits,
        {
            "settings": settings,
            "versions": versions(),
            "source": "MAESTRO v3.0.0",
            "mean_seconds_between_last_note_and_listed_duration": late_s,
        },
    )


def list_keys(notes: Sequence[Note]) -> list[tuple[float, float, int]]:
    """Start, end, pitch of what a piano has keys for."""
    return [(n.start, n.end, n.pitch) for n in notes if LOWEST <= n.pitch <= HIGHEST]


def find_wrong(classes: tuple[str, ...]) -> str:
    """What is wrong with a folder's classes; empty if nothing is."""
    strange = [c for c in classes if not (c.isdigit() and LOWEST <= int(c) <= HIGHEST)]
    if not strange:
        return ""
    return f"has the labels {', '.join(strange)}; expected pitches {LOWEST}-{HIGHEST}"


RELEASE = Release(dict.fromkeys(FOLDS, CLIPS), is_original, fill_from_original, find_wrong)
TASK = Task(
    name="maestro",
    title="MAESTRO 5h",
    folder="maestro-v3.0.0-5h",
    about="notes of piano recordings, five folds of 37 clips of 120 s, as in HEAR",
    metrics=("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms"),
    decoding=Decoding(150, 50),
    select="loss",
    clip_s=120.0,
    published=True,
    prepare=partial(hear_folder.prepare_released, RELEASE),
    options=Download,
)
