"""Checkpoints: compare with a model, load strictly, report; write; rebuild a model from its file.

A file is a flat dictionary name -> tensor in the names of the released checkpoints (see
`tensor_files`). Names are freed from everything that wraps them, so neither the file's name nor
repeated renaming matters. Files of this project describe themselves (see `Description`).
"""

from hear_ptsed.checkpoints.asked import open_as_asked
from hear_ptsed.checkpoints.description import Description, describe
from hear_ptsed.checkpoints.loading import load_checkpoint, open_checkpoint
from hear_ptsed.checkpoints.saving import save_checkpoint
from hear_ptsed.model import Report

__all__ = [
    "Description",
    "Report",
    "describe",
    "load_checkpoint",
    "open_as_asked",
    "open_checkpoint",
    "save_checkpoint",
]
