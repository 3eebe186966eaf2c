"""Figures that others published, as data with their source: see README.md beside this file."""

import csv
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
CONVENTIONS = {
    "downstream": "as published: mean of three runs, printed in percent with one decimal",
    "DESED baseline": "as published, DCASE 2023 task 4 baseline set-up",
    "URBAN-SED": "as published: sed_eval, segments of 1 s, events within 200 ms and 20 %",
    "RealDESED": "as published: psds1_macro is the mean over classes, psds1 has the variance "
    "penalty; the decoder is named, and the default of this suite is the median of 9 frames",
    "MAESTRO Real 2023": "as published, DCASE 2023 task 4B: scores of five test folds pooled, "
    "frames of 200 ms, a segment's score is its highest frame",
    "MAESTRO Real 2024": "as published, DCASE 2024 task 4: 16 test clips, one score per second",
    "HEAR leaderboard": "as published on the HEAR leaderboard",
}
AUDIOSET = "as published: PSDS1, mean over classes (alpha_st 0), AudioSet Strong evaluation"


def rows() -> Iterator[dict[str, str]]:
    """All rows of all tables, with `file` and `convention`; values are text as in the files."""
    for path in sorted(FOLDER.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                convention = CONVENTIONS.get(row["table"], AUDIOSET)
                yield {"file": path.name, **row, "convention": convention}
