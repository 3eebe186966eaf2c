"""HEAR plug-in: YAMNet, a public baseline."""

from functools import partial

from hear_ptsed import hear
from hear_ptsed.hear import get_scene_embeddings, get_timestamp_embeddings  # noqa: F401

load_model = partial(hear.load_model, "yamnet", None)
