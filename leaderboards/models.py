"""Facts of models that boards name: models.csv, and how a model is loaded.

Parameters (of the backbone), dimension and file of this suite's models are those of
`hear_ptsed.list_models()`. GFLOP are counted by `torch.utils.flop_counter` over one window of 10 s
from waveform to embeddings; of the sequence models without released weights they are twice the
published multiplications, with two heads.
"""

from dataclasses import dataclass
from functools import cache

from leaderboards import names

BASELINES = {"yamnet": "hear_ptsed.plugins", "logmel": "eval_tasks"}  # plug-ins without a stage


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
    cite: tuple[str, ...]  # keys of published/sources.bib
    cautions: tuple[str, ...]


def facts(model: str, stage: str) -> ModelFacts | None:
    """By the model and stage of a row; None of a model that is not known, or not at this stage."""
    return all_facts().get((names.OTHER_NAMES.get(model, model), stage))


@cache
def all_facts() -> dict[tuple[str, str], ModelFacts]:
    """By model and stage, in the order of the file."""
    rows = [_facts_of(row) for row in names.rows_of("models.csv")]
    return {(row.model, row.stage): row for row in rows}


def load_lines(model: str, stage: str) -> list[str]:
    """Three lines of Python that load a model of this suite and embed a clip; [] of others."""
    known = facts(model, stage)
    if known is None or not (model in (*names.MODELS, *BASELINES) and known.dimension):
        return []
    folder = BASELINES.get(model, "hear_ptsed.plugins")
    plugin = f"{model}_{stage}" if stage else model
    return [
        f"from {folder} import {plugin} as plugin",
        "model = plugin.load_model()",
        f"frames, centres_ms = plugin.get_timestamp_embeddings(audio, model)  # audio (B, S) at "
        f"16 kHz -> (B, T, {known.dimension})",
    ]


def _facts_of(row: dict[str, str]) -> ModelFacts:
    whole = {
        key: int(row[key]) if row[key] else None for key in ("parameters", "dimension", "year")
    }
    decimal = {
        key: float(row[key]) if row[key] else None for key in ("frames_per_second", "gflop_per_10s")
    }
    lists = {
        "cite": tuple(row["cite"].split()),
        "cautions": tuple(filter(None, row["cautions"].split(" | "))),
    }
    return ModelFacts(**row | whole | decimal | lists)
