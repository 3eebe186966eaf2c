"""Detections as text: one function and one row of FORMATS for each format."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hear_ptsed.errors import printable

if TYPE_CHECKING:  # the command lists the formats without importing torch
    from hear_ptsed.detect import Detection


def to_tsv(detection: "Detection") -> str:
    """A row per event under a header; random weights add a column that says so."""
    mark = ["untrained"] if detection.detector.untrained else []
    rows = [["filename", "onset", "offset", "event_label", "score", *mark]]
    for event in detection.events:
        times = [f"{event.onset_s:.3f}", f"{event.offset_s:.3f}"]
        rows.append([detection.file, *times, event.label, f"{event.score:.4f}", *mark])
    return "".join(_row(row) for row in rows)


def _row(cells: Sequence[str]) -> str:
    """A line of a table that has no quoting and no escapes."""
    for cell in cells:
        if set(cell) & set("\t\n\r"):
            raise ValueError(
                f"{printable(cell, 200)} holds a tab or line break, which this format cannot "
                "hold; rename it or use the format json"
            )
    return "\t".join(cells) + "\n"


def to_json(detection: "Detection") -> str:
    """One object: the file, the model, and the events."""
    content = {
        "file": detection.file,
        "duration_s": round(detection.duration_s, 6),
        "model": detection.detector.model,
        "stage": detection.detector.stage,
        "checkpoint": detection.detector.checkpoint,
        "untrained": detection.detector.untrained,
        "events": [
            {
                "label": event.label,
                "onset_s": round(event.onset_s, 6),
                "offset_s": round(event.offset_s, 6),
                "score": round(event.score, 6),
            }
            for event in detection.events
        ],
    }
    return _json(content)


def to_audacity(detection: "Detection") -> str:
    """A label track: File > Import > Labels."""
    mark = " (untrained)" if detection.detector.untrained else ""
    return "".join(
        _row([f"{event.onset_s:.6f}", f"{event.offset_s:.6f}", event.label + mark])
        for event in detection.events
    )


def to_labelstudio(detection: "Detection") -> str:
    """One task with predictions, for a labelling interface with
    <Audio name="audio" value="$audio"/> and <Labels name="label" toName="audio">.
    """
    regions = [
        {
            "id": f"event{i}",
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "original_length": round(detection.duration_s, 6),
            "value": {
                "start": round(event.onset_s, 6),
                "end": round(event.offset_s, 6),
                "labels": [event.label],
            },
            "score": round(event.score, 6),
        }
        for i, event in enumerate(detection.events)
    ]
    prediction = {"model_version": str(detection.detector), "result": regions}
    if regions:
        prediction["score"] = round(sum(e.score for e in detection.events) / len(regions), 6)
    tasks = [{"data": {"audio": detection.file}, "predictions": [prediction]}]
    return _json(tasks)


def _json(content: dict | list) -> str:
    """In ASCII: names that a terminal or UTF-8 cannot encode stay valid JSON."""
    return json.dumps(content, indent=1) + "\n"


class Format(NamedTuple):
    """A format of text."""

    suffix: str  # of the file
    write: Callable[["Detection"], str]


FORMATS = {
    "tsv": Format(".tsv", to_tsv),
    "json": Format(".json", to_json),
    "audacity": Format(".txt", to_audacity),
    "labelstudio": Format(".labelstudio.json", to_labelstudio),
}
