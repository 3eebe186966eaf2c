"""The classes of AudioSet Strong."""

import csv
from pathlib import Path


def load_labels(evaluated: bool = False) -> list[str]:
    """The 447 AudioSet Strong classes in the order of the released strong heads.

    Args:
        evaluated: only the 407 that the official evaluation set has events of.
    """
    return [row["name"] for row in _rows() if row["in_eval"] == "1" or not evaluated]


def name_by_mid() -> dict[str, str]:
    """The same classes: machine identifier (mid) in AudioSet's annotation -> name."""
    return {row["mid"]: row["name"] for row in _rows()}


def mid_by_name() -> dict[str, str]:
    """The machine identifier of each of the 447 classes, such as /m/04rlf of Music."""
    return {row["name"]: row["mid"] for row in _rows()}


def _rows() -> list[dict[str, str]]:
    path = Path(__file__).with_name("audioset_strong.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]
