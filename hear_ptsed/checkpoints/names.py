"""Names of tensors, freed from what wraps them; and the registered model that they are of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.errors import one_line
from hear_ptsed.model import Undrawn
from hear_ptsed.registry import find_parts, trainable

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
# Second names of the convolutions of a TCN: EfficientSED registers each of them twice.
DOUBLED = re.compile(r"(seq_model\.1\.layers\.\d+\.network\.\d+\.)net\.([04])(\..*)")
CLAIMED = 2**32  # bytes that tensors may claim beyond those in the file before it is refused


@dataclass(frozen=True)
class Contents:
    """A file's tensors under released names without prefix, sorted by the part they belong to."""

    backbone: dict[str, Tensor]
    above: dict[str, Tensor]  # seq_model.*, strong_head.*, weak_head.*
    dropped: dict[str, str]  # names in the file -> why
    names: dict[str, str]  # released name without prefix -> name in the file


def sort_tensors(tensors: Mapping[str, Any], backbone: type[Backbone], path: Path) -> Contents:
    """The tensors of the file at `path`; a ValueError where a name is there twice, or sizes lie."""
    claimed = [
        value.numel() * value.element_size()
        for value in tensors.values()
        if usable(value) and not is_stored(value)
    ]
    if sum(claimed) > CLAIMED:
        raise ValueError(f"{path} holds fewer numbers than the shapes of its tensors need")
    inside, above, dropped, names = {}, {}, {}, {}
    for name, value in tensors.items():
        released = release_name(name, backbone)
        if not usable(value):
            dropped[name] = "not a tensor"
        elif released.startswith(backbone.ignored):
            dropped[name] = "not part of the network"
        elif released in names:
            raise ValueError(f"{path} holds {released} twice: as {names[released]} and as {name}")
        else:
            names[released] = name
            (above if released.startswith(ABOVE) else inside)[released] = value
    for name in _find_doubled(above, names, path):
        del above[name]
        dropped[names.pop(name)] = "there under another name, too"
    return Contents(inside, above, dropped, names)


def _find_doubled(above: Mapping[str, Tensor], names: Mapping[str, str], path: Path) -> list[str]:
    """Names of tensors that are there under their first name, too; a ValueError if they differ."""
    doubled = []
    for name, value in above.items():
        if match := DOUBLED.fullmatch(name):
            first = f"{match[1]}conv{'1' if match[2] == '0' else '2'}{match[3]}"
            if first in above and not torch.equal(above[first], value):
                raise ValueError(
                    f"{path} holds a convolution twice, with other numbers: as {names[first]} and "
                    f"as {names[name]}"
                )
            doubled += [name] if first in above else []
    return doubled


def release_name(name: str, backbone: type[Backbone]) -> str:
    """A name without what wraps it, in released spelling; applying it again changes nothing."""
    prefixes = sorted({*backbone.prefixes, *WRAPPERS}, key=len, reverse=True)
    while prefix := next((p for p in prefixes if name.startswith(p)), None):
        name = name[len(prefix) :]
    for other, released in RENAMES.items():
        if name.startswith(other):
            name = released + name[len(other) :]
    return name


def convert(
    tensors: dict[str, Tensor], backbone: type[Backbone]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors (name: tensor) in released spelling as a backbone's state, and that state in released
    spelling again.
    """
    try:
        state = backbone.from_released(tensors)
        return state, backbone.to_released(state)
    except Exception as error:  # whatever shapes bring that no file of this backbone has
        raise ValueError(f"its tensors cannot be read ({one_line(error)})") from error


def find_closest(tensors: Mapping[str, Any]) -> str | None:
    """The registered model that shares most names and shapes with a file, if nearly all."""
    shares = {}
    for name in trainable():
        backbone, expected = sign(name)
        released = {release_name(n, backbone): v for n, v in tensors.items() if usable(v)}
        other = (*ABOVE, *backbone.ignored)
        released = {n: v for n, v in released.items() if not n.startswith(other)}
        try:
            got = pair_shapes(convert(released, backbone)[1])
        except ValueError:
            got = frozenset()
        shares[name] = len(expected & got) / len(expected | got)
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.9 else None


def find_registered(backbone: Backbone) -> str | None:
    """The name of the registered model that has this backbone."""
    signature = type(backbone), pair_shapes(backbone.to_released(backbone.state_dict()))
    return next((name for name in trainable() if sign(name) == signature), None)


@cache
def sign(name: str) -> tuple[type[Backbone], frozenset]:
    """Class of a registered backbone and its tensors' names and shapes."""
    with Undrawn():
        backbone = find_parts(name).backbone()
    return type(backbone), pair_shapes(backbone.to_released(backbone.state_dict()))


def pair_shapes(state: Mapping[str, Tensor]) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names of tensors with their shapes, such as (C', C)."""
    return frozenset((name, tuple(value.shape)) for name, value in state.items())


def usable(value: Any) -> bool:
    """Whether it is a tensor with a number in memory for each element."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def is_stored(value: Tensor) -> bool:
    """Whether memory holds as many numbers as the shape (..., N) of a tensor needs."""
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
