"""A HEAR task folder as a judge reads it: labels of the test clips, and its fingerprint."""

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.metrics.checks import Events

MORE_PARTS = ("weak", "unlabelled")
SURE = 0.5  # soft labels above it are events


@dataclass(frozen=True)
class TaskFolder:
    """What there is to be heard in the test clips."""

    classes: list[str]
    scored: list[str]  # of the classes
    tested: dict[str, Events]  # the test part, or each fold in order
    pooled: bool  # test folds are scored as one
    fingerprint: str


def fingerprint(
    parts: Iterable[Sequence[Any]], metadata: dict[str, Any], classes: Sequence[str]
) -> str:
    """SHA-256 over labels, classes, metadata, and the names and lengths of all clips.

    Args:
        parts: of each its name, events, tags, samples and seconds, by file.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps([*part], sort_keys=True).encode())
    digest.update(json.dumps([metadata, [*classes]], sort_keys=True).encode())
    return digest.hexdigest()


def join_events(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a label that overlap or touch made one, by start; without values."""
    joined: dict[str, list[dict[str, Any]]] = {}
    for event in sorted(events, key=lambda event: event["start"]):
        of_label = joined.setdefault(event["label"], [])
        if of_label and event["start"] <= of_label[-1]["end"]:
            of_label[-1]["end"] = max(of_label[-1]["end"], event["end"])
        else:
            of_label.append({key: event[key] for key in ("label", "start", "end")})
    flat = [event for of_label in joined.values() for event in of_label]
    return sorted(flat, key=lambda event: (event["start"], event["label"]))


def scored_events(events: Events, scored: Sequence[str] = ()) -> Events:
    """Those of the scored classes, or of all; of soft ones those above 0.5, joined."""
    kept = {
        file: [e for e in of_file if not scored or str(e["label"]) in scored]
        for file, of_file in events.items()
    }
    return {
        file: join_events(e for e in of_file if e["value"] > SURE)
        if any("value" in e for e in of_file)
        else of_file
        for file, of_file in kept.items()
    }


def version_of(folder: Path) -> str:
    """Such as dcase2016_task2-hear2021-full; "" of a folder that is no task folder."""
    try:
        metadata = _load_json(folder / "task_metadata.json")
        return "-".join(metadata[key] for key in ("task_name", "version", "mode"))
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def read_task_folder(folder: Path) -> TaskFolder:
    """A ValueError if it cannot be read as a task folder."""
    try:
        return _read_folder(Path(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{folder} is no task folder that can be read: {error}") from error


def _read_folder(folder: Path) -> TaskFolder:
    import soundfile

    metadata = _load_json(folder / "task_metadata.json")
    with (folder / "labelvocabulary.csv").open(newline="", encoding="utf-8") as file:
        classes = [row["label"] for row in csv.DictReader(file)]
    seconds = _load_json(folder / "durations.json") if (folder / "durations.json").exists() else {}
    more = [name for name in MORE_PARTS if (folder / f"{name}.json").exists()]
    rows, events = [], {}
    for name in (*metadata["splits"], *more):
        labels = dict(sorted(_load_json(folder / f"{name}.json").items()))
        audio = folder / str(SAMPLE_RATE) / name
        samples = {file: soundfile.info(audio / file).frames for file in labels}
        durations_s = {
            file: seconds.get(name, {}).get(file, n / SAMPLE_RATE) for file, n in samples.items()
        }
        weak = name in MORE_PARTS
        events[name] = {} if weak else labels
        rows.append((name, events[name], labels if weak else {}, samples, durations_s))
    folds = sorted(metadata["splits"])
    tested = ["test"] if metadata["split_mode"] == "trainvaltest" else folds
    scored = metadata.get("scored", [])
    return TaskFolder(
        classes,
        scored or classes,
        {name: scored_events(events[name], scored) for name in tested},
        bool(metadata.get("pooled")),
        fingerprint(rows, metadata, classes),
    )


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
