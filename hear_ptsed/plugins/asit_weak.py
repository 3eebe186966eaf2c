"""HEAR plug-in: ASiT after AudioSet clip-label training."""

from functools import partial

from hear_ptsed import hear
from hear_ptsed.hear import get_scene_embeddings, get_timestamp_embeddings  # noqa: F401

load_model = partial(hear.load_model, "asit", "weak")
