"""Small real HEAR tasks, rendered at the user's side from sampled sounds, speech and music.

`prepare("office", tasks_dir)` gives a folder that unmodified heareval reads. Nothing is shipped:
sounds come from pinned packages on first use. The synthetic version needs none of them.
"""

from functools import partial
from pathlib import Path

from eval_tasks.sounds.catalogue import describe_packages
from eval_tasks.tasks import hear_folder

NAMES = {
    "office": "sound events in 120-s scenes, 11 classes, DCASE-2016-task-2-like",
    "piano": "notes of composed music in 120-s clips, five folds, MAESTRO-like",
    "scenes": "which of 11 classes a 4-s clip holds (a clip-level task)",
    "home": "sound events in 10-s clips, strong, weak and no labels, 10 classes, DESED-like",
}
FOLDERS = {"office": "office", "piano": "piano", "scenes": "officeclips", "home": "home"}
SIZES = ("demo", "full")
FORMAT = 1  # raise when a change renders other audio from the same settings


def prepare(
    name: str,
    tasks_dir: Path,
    *,
    seed: int = 0,
    size: str = "demo",
    synthetic: bool = False,
    force: bool = False,
) -> Path:
    """Render a task folder into `tasks_dir` and return it; one with the same settings is kept.

    Args:
        size: "demo" or "full"; the synthetic version has one tiny size.
        force: replace a folder that was rendered with other settings.
    """
    if name not in NAMES:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(NAMES)}")
    folder = Path(tasks_dir) / folder_name(FOLDERS[name], size, seed, synthetic)
    mode = "tiny" if synthetic else size
    settings = {"task": name, "size": mode, "seed": seed, "synthetic": synthetic, "format": FORMAT}
    fill = partial(_render, name, folder.name.split("-")[0], settings)
    return hear_folder.build(folder, settings, fill, force=force)


def folder_name(task: str, size: str, seed: int, synthetic: bool) -> str:
    """Such as office-v1-demo or office_synthetic-v1-tiny; a ValueError if they cannot be."""
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}; known: {', '.join(SIZES)}")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; give 0 or more")
    return f"{task}_synthetic-v1-tiny" if synthetic else f"{task}-v1-{size}"


def _render(name: str, task_name: str, settings: dict, folder: Path) -> None:
    from eval_tasks.tasks import home, office
    from eval_tasks.tasks.render import write

    mode, seed, synthetic = settings["size"], settings["seed"], settings["synthetic"]

    if name == "piano":
        from eval_tasks.tasks.piano import REAL, SYNTHETIC, piano

        provenance = {"notes": PIANO_NOTES}
        task = piano(SYNTHETIC if synthetic else REAL, mode, seed, task_name, provenance)
        provenance |= {} if synthetic else _piano_provenance(provenance["sources"]["pieces"])
    else:
        from eval_tasks.sounds.synthetic import synthetic_bank

        if name == "home":
            bank = home.synthetic_bank() if synthetic else home.real_bank()
        else:
            bank = synthetic_bank() if synthetic else office.real_bank()
        notes = [*BANK_NOTES, *(home.NOTES if name == "home" else OFFICE_NOTES)]
        provenance = _bank_provenance(bank) | {"notes": notes}
        build = {"office": office.office, "scenes": office.office_clips, "home": home.home}[name]
        task = build(bank, mode, seed, task_name, provenance)
    write(task, folder, settings)


BANK_NOTES = [
    "Sources (keys of a preset, voices, recordings) of a split never occur in another; the deal "
    "does not depend on the seed. Classes with one recording (dog, duck, water) are split by parts "
    "of it; neighbouring keys of a preset share samples.",
    "Classes with few independent sources (see `independent_sources` in `manifest.json`) test "
    "generalisation honestly but coarsely.",
    "Event labels come from each event's own energy after reverberation and gain, in 5-ms windows: "
    "above its peak - 35 dB and above the background - 9 dB, split at pauses over 0.35 s.",
    "The full size begins with the clips of the demo size.",
]
OFFICE_NOTES = [
    "The recordings of camera, horn and knock and the keys of gunshot were chosen among those that "
    "YAMNet names well, which favours YAMNet as a reference a little.",
]
PIANO_NOTES = [
    "A piece belongs to one fold. Composed music from scores, performed by a program.",
    "A pitch is a class if three of the five folds play it: then every training set (three folds) "
    "has it. Notes of other pitches were left out of the performance (`notes_left_out`).",
    "A note lasts from key press to release, the pedal applied: the sound may ring on a little.",
]


def _bank_provenance(bank) -> dict:
    from eval_tasks.sounds.sources import describe_origins

    names = {
        split: {label: [source.name for source in of_split[label]] for label in bank.classes}
        for split, of_split in bank.sources.items()
    }
    return {
        "sources": names,
        "independent_sources": {
            split: {label: len(sources) for label, sources in of_split.items()}
            for split, of_split in names.items()
        },
        "dropped_classes": bank.dropped,
        **describe_origins(bank.members),
    }


def _piano_provenance(pieces: dict[str, list[str]]) -> dict:
    from eval_tasks.sounds.sheet_music import source_file
    from eval_tasks.sounds.soundfont import FONTS
    from eval_tasks.sounds.sources import describe_origins
    from hear_ptsed.files import sha256

    font = FONTS["TimGM6mb"]
    names = sorted({piece for titles in pieces.values() for piece in titles})
    return {
        "independent_sources": {fold: len(titles) for fold, titles in pieces.items()},
        "dropped_classes": {},
        "packages": describe_packages({font[0], "music21"}),
        "members": describe_origins({font})["members"]
        | {f"music21: {name}": sha256(source_file(name)) for name in names},
    }
