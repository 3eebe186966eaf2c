"""The classes of AudioSet Strong."""

import csv
from pathlib import Path


def load_labels(evaluated: bool = False) -> list[str]:
    """The 447 AudioSet Strong classes in the order of the released strong heads.

    Args:
        evaluated: only the 407 that the official evaluation set has events of.
    """
    path = Path(__file__).with_name("audioset_strong.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    return [row["name"] for row in rows if row["in_eval"] == "1" or not evaluated]
