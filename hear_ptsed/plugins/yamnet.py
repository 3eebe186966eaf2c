"""HEAR plug-in: YAMNet, a public baseline.  hear-validator hear_ptsed.plugins.yamnet"""

from hear_ptsed.hear import get_scene_embeddings, get_timestamp_embeddings  # noqa: F401
from hear_ptsed.yamnet import load_model  # noqa: F401
