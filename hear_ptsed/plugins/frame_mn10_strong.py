"""HEAR plug-in: frame_mn10 after AudioSet Strong training."""

from functools import partial

from hear_ptsed import hear
from hear_ptsed.hear import get_scene_embeddings, get_timestamp_embeddings  # noqa: F401

load_model = partial(hear.load_model, "frame_mn10", "strong")
