"""HEAR plug-in: a file of your own.  hear-validator hear_ptsed.plugins.checkpoint --model FILE

heareval names its folder of embeddings by plug-in and options, not by the file: give every file
its own --embeddings-dir.
"""

from typing import Any

from hear_ptsed import load
from hear_ptsed.hear import (  # noqa: F401
    HearModel,
    Options,
    get_scene_embeddings,
    get_timestamp_embeddings,
)


def load_model(model_file_path: str = "", **options: Any) -> HearModel:
    """The backbone of a file, which tells by itself of which model, in evaluation mode.

    As with the other plug-ins, embeddings are the backbone's: a sequence model and heads in the
    file take no part.

    Args:
        model_file_path: any file that `hear_ptsed.load` reads.
        options: see Options; not `untrained`.
    """
    chosen = Options(**options)
    if chosen.untrained:
        raise ValueError("untrained: this plug-in opens a file; use the plug-in of a model instead")
    if not model_file_path:
        raise ValueError("no file: give the path of a checkpoint as model_file_path (--model)")
    return HearModel(load(checkpoint=model_file_path, backbone_only=True), chosen).eval()
