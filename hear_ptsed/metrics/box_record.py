"""Settings of bounding boxes as a record keeps them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from hear_ptsed.boxes import BoxSettings
from hear_ptsed.errors import shown
from hear_ptsed.metrics.decoding import BoxDecoding
from hear_ptsed.metrics.records import read_record
from hear_ptsed.schema import Label, check


class Kept(TypedDict):
    """See BoxSettings."""

    filter_s: Annotated[float, Field(gt=0, le=60)]
    merging: Literal["absolute", "relative"]
    limit: Annotated[float, Field(ge=0, le=1000)]


class OfClass(TypedDict):
    """Of one class, see BoxDecoding."""

    areas: Kept
    events: Kept
    threshold: Annotated[float, Field(ge=0, le=1)]


def write_boxes(decoding: BoxDecoding, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Class -> its settings."""
    rows = zip(classes, decoding.areas, decoding.events, decoding.thresholds, strict=True)
    return {
        name: {"areas": areas._asdict(), "events": events._asdict(), "threshold": threshold}
        for name, areas, events, threshold in rows
    }


def read_boxes(path: Path, classes: Sequence[str]) -> BoxDecoding:
    """Of a record, for a model of the same classes; a ValueError if it has none."""
    training = read_record(path).training
    if len(training) != 1 or "boxes" not in training[0]:
        raise ValueError(
            f"{path} has no boxes of one training; give the record of `python -m eval_tasks run "
            "--decoder sebb`, of a task with folds one of --folds 1"
        )
    kept = check(dict[Label, OfClass], training[0]["boxes"], f"{path}: boxes")
    if missing := [name for name in classes if name not in kept]:
        raise ValueError(
            f"{path} has no boxes for class {shown(missing[0])} of the model; it has them for "
            f"{', '.join(list(kept)[:5])}{', …' * (len(kept) > 5)}"
        )
    rows = [kept[name] for name in classes]
    return BoxDecoding(
        [BoxSettings(**row["areas"]) for row in rows],
        [BoxSettings(**row["events"]) for row in rows],
        [row["threshold"] for row in rows],
    )
