"""RealDESED: fifteen domestic sounds in recordings of 12 to 41 s that people made at home.

Source: https://zenodo.org/records/20056072, as train.zip, validation.zip and test.zip, or their
folders. Several people annotated a training clip; a rule makes one label of theirs, see
realdesed_labels. Validation and test were reviewed. Clips without annotations are no part of it.

Schmid et al., A Real-World Domestic Sound Event Detection Benchmark, arXiv 2607.16736.
"""

import re
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Stitch, Task
from eval_tasks.tasks.downloads import find_path, open_sources, some
from eval_tasks.tasks.hear_folder import Download, versions
from eval_tasks.tasks.realdesed_labels import (
    CLASSES,
    Labeller,
    Span,
    annotator_quality,
    read_annotations,
    read_raw,
)
from hear_ptsed.files import sha256, write_json
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.schema import is_name, setting, settings
from training.data.tables import read_records

PARTS = {"train": "train", "valid": "validation", "test": "test"}  # HEAR's name -> of the data set
TABLES = ("metadata.csv", "annotations.csv", "annotations_raw.csv")
GROUPED = ("recording_device", "device_placement", "recording_environment")  # columns
IOS = re.compile(r"\b(iphone\d*|iphon|ipad|i pad)\b")
ANDROID = re.compile(
    "android|samsung|galaxy|pixel|xiaomi|xioami|redmi|poco|motorola|moto|honor|huawei|onepluss?|"
    r"oppo|vivo|realme|nothing phone|cmf phone|fairphone|zenfone|hmd skyline|cat s\d"
)


@settings
class RealDesedOptions(Download):
    """What RealDESED is made from, and how its training clips are labelled."""

    labels: Literal[
        *("one", "majority", "intersection", "union", "recorder", "soft", "weighted"),
        *("majority_reviewed", "weighted_reviewed"),
    ] = setting(
        "weighted_reviewed",
        "The rule that makes one label of several annotators'; with _reviewed: what a reviewer "
        "accepted, where there is such.",
    )


def prepare_realdesed(task: Task, tasks_dir: Path, options: RealDesedOptions, force: bool) -> Path:
    """Make the task folder from the three archives or their folders."""
    options.require_source(task)
    settings = {"task": task.name, "labels": options.labels, "format": 1} | options.rate_settings
    fill = partial(_fill_or_blame_archive, options, settings)
    folder = tasks_dir / f"realdesed-2026-{options.labels}"
    return hear_folder.build_folder(folder, settings, fill, force=force)


def _fill_or_blame_archive(options: RealDesedOptions, settings: dict, folder: Path) -> None:
    """`_fill_realdesed`; what is wrong with an unpacked file is said of the archive."""
    try:
        _fill_realdesed(options, settings, folder)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        for source in options.source:
            text = text.replace(str(_unpacked(folder, source)), str(source))
        raise type(error)(text) from None


def _unpacked(folder: Path, source: Path) -> Path:
    """Where an archive is unpacked: each in a folder of its own."""
    return folder.with_name("unpacked") / source.name.split(".")[0]


def _fill_realdesed(options: RealDesedOptions, settings: dict, folder: Path) -> None:
    sources = _open_archives(options, folder)
    raw = read_raw(sources["train"] / "annotations_raw.csv")
    quality = annotator_quality(raw.values())
    labeller = Labeller(options.labels, quality)
    parts, groups, coverage = {}, {}, {}
    for part, source in sources.items():
        clips = _read_metadata(source / "metadata.csv")
        shutil.copyfile(source / "metadata.csv", folder / f"{part}_metadata.csv")
        if part == "train":
            marked = {file: clip for file, clip in raw.items() if labeller.annotators(clip)}
            label = labeller.label
        else:
            marked, label = read_annotations(source / "annotations.csv"), label_reviewed
            groups[part] = {f: groups_of(row) for f, row in clips.items() if f in marked}
        audio = {f: source / "audio" / f for f in sorted(clips.keys() & marked.keys())}
        if not audio:
            raise ValueError(
                f"{source}: none of the {len(clips)} clips in {TABLES[0]} has annotations that "
                "are used; correct the tables"
            )
        if missing := [file for file, path in audio.items() if not path.is_file()]:
            raise FileNotFoundError(
                f"{source / 'audio'}: {some(missing, 'clips')} missing; complete the download"
            )
        seconds, coverage[part] = hear_folder.convert_listed(folder, part, audio, None, options)
        if not seconds:
            faults = some(coverage[part]["unreadable"], "faults")
            raise ValueError(f"{source}: no clip of {part} can be used: {faults}")
        parts[part] = {f: label(f, marked[f], round(s * SAMPLE_RATE)) for f, s in seconds.items()}
        coverage[part]["in_metadata"] = len(clips)
    _write(options, settings, folder, parts, coverage)
    write_json(folder / "groups.json", groups)
    scores = [{"annotator_id": a, "score": s, "clips": n} for a, (s, n) in quality.items()]
    write_json(folder / "annotator_quality.json", scores)
    hear_folder.check_folder(TASK, folder, options.source[0])


def _open_archives(options: RealDesedOptions, folder: Path) -> dict[str, Path]:
    """Part -> the folder with its tables."""

    def is_wanted(name: str) -> bool:
        return name.endswith((*TABLES, ".wav"))

    roots = []
    for source in options.source:
        roots += open_sources([source], _unpacked(folder, source), is_wanted)
    sources = {}
    for part, name in PARTS.items():
        at_top = [root for root in roots if root.name == name and (root / TABLES[0]).is_file()]
        inside = find_path(roots, f"{name}/{TABLES[0]}")
        if not at_top and inside is None:
            raise FileNotFoundError(
                f"{', '.join(map(str, options.source))}: none is {name}.zip or has a folder "
                f"{name} with {TABLES[0]}; give train, validation and test with --source"
            )
        sources[part] = at_top[0] if at_top else inside.parent
    return sources


def _read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """File -> its row."""
    clips = {}
    for number, row in read_records(path, ("filename", *GROUPED)):
        file = row["filename"]
        if file in clips or not is_name(file):
            what = "comes twice" if file in clips else "is no name of a file"
            raise ValueError(f"{path}, line {number}: filename {file!r} {what}; correct the table")
        clips[file] = row
    return clips


def label_reviewed(file: str, spans: Iterable[Span], samples: int) -> list[dict[str, Any]]:
    """Events in ms of an annotation that was reviewed, as far as they lie in the clip."""
    lasting = [span for span in spans if span[0] < span[1]]
    return [
        event | {"value": 1.0} for event in hear_folder.cut_events(lasting, samples / SAMPLE_RATE)
    ]


def groups_of(row: dict[str, str]) -> list[str]:
    """The groups that a clip is scored in, from its row of metadata."""
    device = " ".join(re.sub("[_-]", " ", row["recording_device"].lower()).split())
    kind = "ios" if IOS.search(device) else "android" if ANDROID.search(device) else "other"
    rooms = {"_".join(re.split(r"[\s_-]+", r.strip().lower())) for r in row[GROUPED[2]].split(";")}
    placement = row["device_placement"].strip().lower()
    return [
        *([f"placement {placement}"] if placement else []),
        f"device {kind}",
        *(f"environment {room}" for room in sorted(rooms - {""})),
    ]


def _write(
    options: RealDesedOptions,
    settings: dict,
    folder: Path,
    parts: dict[str, dict],
    coverage: dict[str, dict[str, Any]],
) -> None:
    """Labels and what is known of the data: sizes, sums, counts."""
    archives = {
        source.name: {"bytes": source.stat().st_size, "sha256": sha256(source)}
        for source in options.source
        if source.is_file()
    }
    manifest = {"settings": settings, "versions": versions(), "source": "RealDESED"}
    manifest |= {"archives": archives}
    metadata = hear_folder.describe_folder(folder.name, [*PARTS], None, TASK.metrics)
    hear_folder.write_labels(folder, metadata, CLASSES, parts, manifest)
    summary = hear_folder.summarise(coverage, [*PARTS])
    write_json(folder / "coverage.json", {"summary": summary, "parts": coverage})


# As published (weights drawn from ATST-F_strong_1): 100 epochs of one crop a clip are some 50 of
# ours, in which a clip counts once per full 10 s.
FINETUNED = {
    "optim": {
        **{"lr": 4e-5, "weight_decay": 0.001, "vector_decay": 0.001, "layer_decay": 1.0},
        **{"warmup_steps": 1000, "batch": 48, "epochs": 50.0},
    },
    "augment": {"wavmix_p": 0.0, "mixup_p": 0.5, "warp_p": 0.5},
    "fit": {"check_every_epochs": 2.5, "head_prior": None},
}
TASK = Task(
    name="realdesed",
    title="RealDESED",
    folder="realdesed-2026-weighted_reviewed",
    about="15 domestic sounds in recordings of 12 to 41 s made at home, reviewed test clips",
    metrics=("psds1_macro", "psds1", "psds2_nocross_macro", "psds2_nocross", "pauroc"),
    psds_median=9,
    psds_edges="copied",
    labels=("strong", "soft"),
    clip_s=None,
    stitch=Stitch(5.0, 0.3, "logits"),
    published=True,
    recipes={
        "linear": {"optim": {"epochs": 50.0}, "fit": {"check_every_epochs": 2.5}},
        "finetuned": FINETUNED,
    },
    prepare=prepare_realdesed,
    options=RealDesedOptions,
)
