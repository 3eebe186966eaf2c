"""Checkpoints: compare with a model, load strictly, report; write; rebuild a model from its file.

A file is a flat dictionary name -> tensor in the names of the released checkpoints (see
`tensor_files`). Names are freed from everything that wraps them, so neither the file's name nor
repeated renaming matters. Files of this project describe themselves (see `Description`).
"""

from hear_ptsed.checkpoints.description import describe
from hear_ptsed.checkpoints.load import load_checkpoint
from hear_ptsed.checkpoints.save import save_checkpoint

__all__ = ["describe", "load_checkpoint", "save_checkpoint"]
