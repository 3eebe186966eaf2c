"""The kind of a sequence model, and its sizes, by the tensors of a file alone."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

# kind -> a tensor that it alone has, (..., D, ...) with D = dim on the second axis. A transformer
# is looked for by its feed-forward: one without that is none.
MARKS = {
    "bigru": "rnn.weight_hh_l0",
    "transformer": "1.layers.0.1.net.1.weight",
    "attention": "1.layers.0.to_qkv.weight",
    "hybrid": "1.layers.0.1.rnn.forward_minGRU.to_hidden_and_gate.weight",
    "mamba2": "2.layers.0.0.in_proj.weight",
    "tcn": "1.layers.0.network.0.conv1.weight_v",
    "mamba": "1.layers.0.mixer.in_proj.weight",
}
# kind -> a vector with one number per head
GATES = {
    "transformer": "1.layers.0.0.to_gates.bias",
    "attention": "1.layers.0.to_gates.bias",
    "mamba2": "2.layers.0.0.A_log",
}


def find_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of `build_sequence_model` that give these tensors; empty if none does.

    Args:
        tensors: those of the sequence model by their names below `seq_model.`, in released
            spelling.
    """
    kind = next((kind for kind, name in MARKS.items() if name in tensors), None)
    if kind is None or tensors[MARKS[kind]].ndim < 2:
        return {}
    rows, dim = tensors[MARKS[kind]].shape[:2]
    if kind == "bigru":
        layers = _count(r"rnn\.weight_hh_l(\d+)", tensors)
        return {"kind": "bilstm" if rows == 4 * dim else kind, "dim": dim, "layers": layers}
    options = {"kind": kind, "dim": dim, "layers": _count(r"[12]\.layers\.(\d+)\..*", tensors)}
    if kind == "mamba":
        options["bidirectional"] = "1.layers.0.mixer_reverse.A_log" in tensors
    if kind == "hybrid" and (gain := tensors.get("1.layers.0.1.rnn_out_norm.gamma")) is not None:
        options["heads"] = dim // max(1, gain.numel())  # the gain has the size of a head
    if kind in GATES and (gates := tensors.get(GATES[kind])) is not None:
        options["heads"] = gates.numel()
    return options


def _count(pattern: str, names: Iterable[str]) -> int:
    """How many different layers a pattern matches; its group is the number of the layer."""
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})
