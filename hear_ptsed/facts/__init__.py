"""Facts of models, and what to cite for them: the only reader of models.csv and sources.bib.

Parameters (of the backbone), dimension and file of this suite's models are those of
`hear_ptsed.list_models()`. GFLOP are counted by `torch.utils.flop_counter` over one window of 10 s
from waveform to embeddings; of the sequence models without released weights they are twice the
published multiplications, with two heads.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
MODELS_CSV = "hear_ptsed/facts/models.csv"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model at one stage; None or "" where it is not."""

    model: str
    stage: str
    title: str
    family: str  # whose release it is of: "PretrainedSED", "EfficientSED", "public" or ""
    parameters: int | None
    dimension: int | None  # of its embeddings
    frames_per_second: float | None  # of its own grid in time, before the frames of 40 ms
    pretraining: str  # data and kind
    licence: str  # of the weights
    paper: str
    year: int | None  # of the paper
    paper_url: str
    weights_url: str
    release_file: str
    gflop_per_10s: float | None
    psds1_percent: float | None  # of the released weights on AudioSet Strong, as their authors say
    cite: tuple[str, ...]  # keys of sources.bib
    cautions: tuple[str, ...]


@cache
def all_facts() -> dict[tuple[str, str], ModelFacts]:
    """By model and stage, in the order of the file."""
    with (FOLDER / "models.csv").open(newline="", encoding="utf-8") as file:
        rows = [_facts_of(row) for row in csv.DictReader(file)]
    return {(row.model, row.stage): row for row in rows}


@cache
def bibliography() -> dict[str, str]:
    """BibTeX entries of sources.bib by key."""
    text = (FOLDER / "sources.bib").read_text(encoding="utf-8")
    return {re.match(r"@\w+{(\w+),", entry)[1]: entry for entry in text.strip().split("\n\n")}


def _facts_of(row: dict[str, str]) -> ModelFacts:
    whole = {
        key: int(row[key]) if row[key] else None for key in ("parameters", "dimension", "year")
    }
    decimal = {
        key: float(row[key]) if row[key] else None
        for key in ("frames_per_second", "gflop_per_10s", "psds1_percent")
    }
    lists = {
        "cite": tuple(row["cite"].split()),
        "cautions": tuple(filter(None, row["cautions"].split(" | "))),
    }
    return ModelFacts(**row | whole | decimal | lists)
