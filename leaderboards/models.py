"""Facts of models by the names of rows, and how a model is loaded."""

from hear_ptsed.facts import ModelFacts, all_facts
from leaderboards import names

BASELINES = {"yamnet": "hear_ptsed.plugins", "logmel": "eval_tasks"}  # plug-ins without a stage


def facts(model: str, stage: str) -> ModelFacts | None:
    """By the model and stage of a row; None of a model that is not known, or not at this stage."""
    return all_facts().get((names.OTHER_NAMES.get(model, model), stage))


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
