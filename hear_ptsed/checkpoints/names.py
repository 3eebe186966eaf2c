"""Names of tensors: freed from what wraps them; and the registered model that they are of."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.errors import one_line
from hear_ptsed.registry import MODELS

# Levels around a backbone: Lightning's, EfficientSED's, DataParallel's, torch.compile's and ours.
WRAPPERS = ("model.", "net.", "module.", "_orig_mod.", "backbone.")
# Names of the parts behind the backbone: ours or EfficientSED's -> released.
RENAMES = {
    "sequence.": "seq_model.",
    "seq_model.0.gru.": "seq_model.rnn.",
    "head.strong_head.": "strong_head.",
    "head.weak_head.": "weak_head.",
}
HEADS = ("strong_head", "weak_head")
ABOVE = ("seq_model.", *(f"{head}." for head in HEADS))  # names of the parts above the backbone


def released_name(name: str, backbone: type[Backbone]) -> str:
    """A name without what wraps it, in released spelling; applying it again changes nothing."""
    prefixes = sorted({*backbone.prefixes, *WRAPPERS}, key=len, reverse=True)
    while prefix := next((p for p in prefixes if name.startswith(p)), None):
        name = name[len(prefix) :]
    for theirs, released in RENAMES.items():
        if name.startswith(theirs):
            name = released + name[len(theirs) :]
    return name


def converted(
    tensors: dict[str, Tensor], backbone: type[Backbone]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Released tensors as a backbone's state, and that state as released again."""
    try:
        state = backbone.from_released(tensors)
        return state, backbone.to_released(state)
    except Exception as error:  # whatever shapes bring that no file of this backbone has
        raise ValueError(f"its tensors cannot be read ({one_line(error)})") from error


def closest(tensors: Mapping[str, Any]) -> str | None:
    """The registered model that shares most names and shapes with a file, if nearly all."""
    shares = {}
    for name in MODELS:
        backbone, own = signature(name)
        theirs = {released_name(n, backbone): v for n, v in tensors.items() if usable(v)}
        other = (*ABOVE, *backbone.ignored)
        theirs = {n: v for n, v in theirs.items() if not n.startswith(other)}
        try:
            got = shapes(converted(theirs, backbone)[1])
        except ValueError:
            got = frozenset()
        shares[name] = len(own & got) / len(own | got)
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.9 else None


def registered(backbone: Backbone) -> str | None:
    """The name of the registered model that has this backbone."""
    own = type(backbone), shapes(backbone.to_released(backbone.state_dict()))
    return next((name for name in MODELS if signature(name) == own), None)


@cache
def signature(name: str) -> tuple[type[Backbone], frozenset]:
    """Class of a registered backbone and its tensors' names and shapes."""
    with torch.device("meta"):
        backbone = MODELS[name].backbone()
    return type(backbone), shapes(backbone.to_released(backbone.state_dict()))


def shapes(state: Mapping[str, Tensor]) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((name, tuple(value.shape)) for name, value in state.items())


def usable(value: Any) -> bool:
    """Whether it is a tensor with a number in memory for each element."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )
