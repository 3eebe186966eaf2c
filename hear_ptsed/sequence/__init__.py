"""Sequence models between a backbone and its head: frames (B, T, E) -> (B, T, D), D = `out_dim`.

`bigru` and `bilstm` are those of PretrainedSED (github.com/fschmid56/PretrainedSED); `attention`,
`transformer` and `mamba` appear in its ablation. `hybrid`, `mamba2` and `tcn` are those of
EfficientSED (github.com/theMoro/EfficientSED). Attribute names are the keys of the published files
below `seq_model.`.
"""

from hear_ptsed.sequence.build import DEFAULTS, SequenceOptions, build_sequence_model
from hear_ptsed.sequence.hybrid import linear_scan
from hear_ptsed.sequence.layouts import find_options
from hear_ptsed.sequence.mamba import selective_scan
from hear_ptsed.sequence.mamba2 import chunked_scan
from hear_ptsed.sequence.recurrent import BiGRU
from hear_ptsed.sequence.stack import Projected

__all__ = [
    "DEFAULTS",
    "BiGRU",
    "Projected",
    "SequenceOptions",
    "build_sequence_model",
    "chunked_scan",
    "find_options",
    "linear_scan",
    "selective_scan",
]
