"""Figures that others published, as data with their source: see README.md beside this file."""

import csv
from collections.abc import Iterator
from pathlib import Path

CONVENTIONS = {
    "downstream": "as published: mean of three runs, printed in percent with one decimal",
    "DESED baseline": "as published, DCASE 2023 task 4 baseline set-up",
    "HEAR leaderboard": "as published on the HEAR leaderboard",
}
AUDIOSET = "as published: PSDS1, mean over classes (alpha_st 0), AudioSet Strong evaluation"


def rows() -> Iterator[dict[str, str]]:
    """All rows of all tables, with `file` and `convention`; values are text as in the files."""
    for path in sorted(Path(__file__).parent.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                convention = CONVENTIONS.get(row["table"], AUDIOSET)
                yield {"file": path.name, **row, "convention": convention}
