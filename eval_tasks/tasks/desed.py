"""DESED in the set-up of DCASE 2023 task 4: ten domestic sounds in clips of 10 s.

Source: the folder that the `desed` package and the task's baseline make, with `metadata` and
`audio` in it (synthetic part: https://zenodo.org/record/6026841, list of the real strong labels:
https://zenodo.org/record/6444477). Real clips come from YouTube and many are gone: what is not
there is counted in coverage.json.

Train is synthetic (and real, if asked), valid synthetic, test real. Beside these splits, which HEAR
knows, stand the weakly labelled and the unlabelled clips.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.hear_folder import Download, versions
from hear_ptsed.files import write_json
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.schema import setting, settings
from training.data.tables import read_records

SECONDS = 10.0
CLASSES = (
    *("Alarm_bell_ringing", "Blender", "Cat", "Dishes", "Dog", "Electric_shaver_toothbrush"),
    *("Frying", "Running_water", "Speech", "Vacuum_cleaner"),
)
FOLDED = ("Frying", "Vacuum_cleaner")  # synthetic labels carry suffixes
UNLABELLED = 14412  # clips released; no table lists them
SPLITS = ("train", "valid", "test")
PARTS = (*SPLITS, "weak", "unlabelled")
# Clips of the smaller size: 3 h, 1 h, 3 h. Test and weak stay whole.
SIZES = {"full": {}, "5h": {"train": 1080, "valid": 360, "unlabelled": 1080}}

HEAR_METRICS = ("event_onset_200ms_fms", "segment_1s_er")


@settings
class DesedOptions(Download):
    """What DESED is made from, and how much of it."""

    size: Literal["full", "5h"] = setting(
        "full", "All clips, or 5 h of training: fewer synthetic and unlabelled clips."
    )
    strong_real: bool = setting(False, "Train on the strongly labelled real clips too.")


class ListedClip(NamedTuple):
    """Where a clip's audio should be below a root, and its labels in HEAR's form."""

    audio: str  # folder
    file: str
    labels: list
    left_out: int = 0  # events that have no length within the clip


def prepare_desed(task: Task, tasks_dir: Path, options: DesedOptions, force: bool) -> Path:
    """Make the task folder of the clips that are there.

    What one source lacks is looked for in the next.
    """
    options.require_source(task)
    chosen = {"mode": options.size, "strong_real": options.strong_real}
    settings = {"task": task.name, **chosen, "format": 2} | options.rate_settings
    fill = partial(_fill_desed, options, settings)
    folder = tasks_dir / f"desed-dcase2023-{options.size}"
    return hear_folder.build_folder(folder, settings, fill, force=force)


def _fill_desed(options: DesedOptions, settings: dict, folder: Path) -> None:
    roots, limits = _find_roots(options.source), SIZES[options.size]
    parts, durations, coverage = {}, {}, {}
    for part, clips in _list_clips(roots, options.strong_real).items():
        names = hear_folder.subsample(clips, part, limits.get(part, len(clips)))
        clips = {name: clips[name] for name in sorted(names)}
        paths = {name: _find_audio(roots, clip) for name, clip in clips.items()}
        seconds, coverage[part] = hear_folder.convert_listed(folder, part, paths, SECONDS, options)
        coverage[part]["events_left_out"] = sum(clips[name].left_out for name in seconds)
        if part == "unlabelled":
            coverage[part]["listed"] = max(len(clips), limits.get(part, UNLABELLED))
        if seconds:
            parts[part] = {name: clips[name].labels for name in seconds}
            durations[part] = seconds
        elif part in SPLITS:
            raise FileNotFoundError(
                f"{roots[0]}: none of the {len(clips)} listed clips of {part} can be read; "
                "complete the download"
            )
    hear_folder.write_labels(
        folder,
        hear_folder.describe_folder(
            folder.name,
            SPLITS,
            TASK.clip_s,
            HEAR_METRICS,
            max_task_duration_by_split={s: limits[s] * 10 if s in limits else None for s in SPLITS},
            use_scoring_for_early_stopping=False,
            evaluation_params=hear_folder.ONE_SETTING,
        ),
        CLASSES,
        parts,
        {"settings": settings, "versions": versions(), "source": "DESED"},
    )
    write_json(folder / "durations.json", durations)
    summary = hear_folder.summarise(coverage, PARTS)
    write_json(folder / "coverage.json", {"summary": summary, "parts": coverage})
    hear_folder.check_folder(TASK, folder, roots[0])


def _list_clips(roots: list[Path], strong_real: bool) -> dict[str, dict[str, ListedClip]]:
    """The clips of every part by the name they get."""
    train, valid = "train/synthetic21_train", "validation/synthetic21_validation"
    listed = {
        "train": _list_strong(roots, f"{train}/soundscapes.tsv", f"{train}/soundscapes"),
        "valid": _list_strong(
            roots,
            f"{valid}/soundscapes.tsv",
            f"{valid}/soundscapes",
            f"{valid}/durations.tsv",
        ),
        "test": _list_strong(
            roots,
            "validation/validation.tsv",
            "validation/validation",
            "validation/validation_durations.tsv",
        ),
    }
    if strong_real:
        real = _list_strong(roots, "train/audioset_strong.tsv", "train/strong_label_real")
        listed["train"] |= {f"real_{file}": clip for file, clip in real.items()}
    if weak := _read_table(roots, "train/weak.tsv", ("filename", "event_labels"), optional=True):
        listed["weak"] = {
            row["filename"]: ListedClip(
                "train/weak",
                row["filename"],
                sorted({_class_of(name, where) for name in row["event_labels"].split(",")}),
            )
            for where, row in weak
        }
    if unlabelled := _list_unlabelled(roots):
        listed["unlabelled"] = unlabelled
    return listed


def _list_strong(
    roots: list[Path], table: str, audio: str, durations: str | None = None
) -> dict[str, ListedClip]:
    """Clips of a table of events; clips that only the table of durations has are without events."""
    events: dict[str, list[tuple[float, float, str]]] = {}
    counts: dict[str, int] = {}
    for where, row in _read_table(roots, table, ("filename", "onset", "offset", "event_label")):
        of_clip = events.setdefault(row["filename"], [])
        if not row["event_label"]:
            continue
        try:
            start, end = max(0.0, float(row["onset"])), min(SECONDS, float(row["offset"]))
        except ValueError:
            raise ValueError(
                f"{where}: times {row['onset']!r} and {row['offset']!r}; expected seconds"
            ) from None
        label = _class_of(row["event_label"], where)
        if start < end:
            of_clip.append((start, end, label))
        else:
            counts[row["filename"]] = counts.get(row["filename"], 0) + 1
    if durations:
        for _, row in _read_table(roots, durations, ("filename",), optional=True):
            events.setdefault(row["filename"], [])
    return {
        file: ListedClip(audio, file, hear_folder.cut_events(rows, SECONDS), counts.get(file, 0))
        for file, rows in events.items()
    }


def _list_unlabelled(roots: list[Path]) -> dict[str, ListedClip]:
    audio = "train/unlabel_in_domain"
    folders = [root / "audio" / name for root in roots for name in (audio, f"{audio}_16k")]
    files = {path.name for folder in folders for path in folder.glob("*.wav")}
    return {file: ListedClip(audio, file, []) for file in files}


def _class_of(label: str, where: str) -> str:
    """The class of a label; `where` it stands goes into the error."""
    label = label.strip()
    folded = next((name for name in FOLDED if label.startswith(name)), label)
    if folded not in CLASSES:
        raise ValueError(f"{where}: unknown label {label!r}; known: {', '.join(CLASSES)}")
    return folded


def _find_roots(sources: Sequence[Path]) -> list[Path]:
    """The folders that hold `metadata` or `audio`: a source itself, else what lies in it."""
    roots = []
    for source in sources:
        if not source.is_dir():
            raise FileNotFoundError(
                f"{source} is no folder; unpack DESED and name its folder with --source"
            )
        for pattern in ("", "*", "*/*"):
            inside = [source] if not pattern else sorted(source.glob(pattern))
            of_desed = [f for f in inside if (f / "metadata").is_dir() or (f / "audio").is_dir()]
            if of_desed:
                roots += of_desed
                break
        else:
            raise FileNotFoundError(f"{source} has no folder metadata or audio; correct --source")
    return roots


def _read_table(
    roots: list[Path], name: str, columns: Sequence[str], *, optional: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """Rows of a table of `metadata`, each with the place to name in an error."""
    path = next((p for p in (root / "metadata" / name for root in roots) if p.is_file()), None)
    if path is None:
        if optional:
            return []
        raise FileNotFoundError(f"{roots[0]} lacks metadata/{name}; complete the download")
    return [
        (f"{path}, line {number}", row)
        for number, row in read_records(path, columns, fill=True)
        if row["filename"]
    ]


def _find_audio(roots: list[Path], clip: ListedClip) -> Path | None:
    """The clip as it was released, or the baseline's copy of it at 16 kHz."""
    for root in roots:
        for folder in (clip.audio, f"{clip.audio}_16k"):
            if (path := root / "audio" / folder / clip.file).is_file():
                return path
    return None


TASK = Task(
    name="desed",
    title="DESED",
    folder="desed-dcase2023-full",
    about="10 domestic sounds, trained on synthetic, tested on real clips of 10 s",
    metrics=("psds1", "psds2", "event_onset_200ms_fms", "segment_1s_er"),
    decoding=Decoding(280, 120),
    psds_median=7,
    labels=("strong", "weak", "unlabelled"),
    clip_s=SECONDS,
    published=True,
    prepare=prepare_desed,
    options=DesedOptions,
)
