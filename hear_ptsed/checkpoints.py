"""Checkpoints: compare with a model, load strictly, report; write; rebuild a model from its file.

A file is a flat dictionary name -> tensor in the names of the released checkpoints (see
`tensor_files`). Names are freed from everything that wraps them, so neither the file's name nor
repeated renaming matters.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.errors import few
from hear_ptsed.heads import AttentionHead, LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, row
from hear_ptsed.sequence import build_sequence_model
from hear_ptsed.tensor_files import read, write

log = logging.getLogger(__name__)
FORMAT = 1  # of our own files
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


@dataclass(frozen=True)
class Report:
    """What became of the tensors of a file and of a model."""

    file: str
    loaded: tuple[str, ...]  # names in the file
    dropped: dict[str, str]  # names in the file -> why
    random: tuple[str, ...]  # names in the model: left at their random initialisation
    classes: tuple[str, ...] | None = None  # if the file names them: see save_checkpoint

    def __str__(self) -> str:
        text = f"{self.file}: {len(self.loaded)} tensors loaded"
        reasons: dict[str, list[str]] = {}
        for name, why in self.dropped.items():
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            text += f"; dropped {few(names)} ({why})"
        return text + (f"; left random: {few(self.random)}" if self.random else "")


@dataclass(frozen=True)
class Contents:
    """A file's tensors under released names without prefix, sorted by the part they belong to."""

    backbone: dict[str, Tensor]
    above: dict[str, Tensor]  # seq_model.*, strong_head.*, weak_head.*
    dropped: dict[str, str]
    names: dict[str, str]  # released name without prefix -> name in the file


def load_checkpoint(model: SEDModel, path: Path | str) -> Report:
    """Copy a file's weights into a model, all or nothing.

    The backbone must match tensor by tensor. The sequence model is taken if all of it fits; a head,
    if it fits and reads the output of the same kind of stack. The rest is dropped and reported.
    """
    path = Path(path)
    _refuse_folded(model, "load into")
    return _load(model, path, *read(path))


def _load(
    model: SEDModel, path: Path, tensors: dict[str, Any], description: dict[str, Any]
) -> Report:
    file = _sort(tensors, type(model.backbone), path)
    state = _backbone(model.backbone, file, path)
    loaded = [file.names[name] for name in file.backbone]
    sequence, heads = _above(model, file)
    for name, value in (sequence | heads).items():
        loaded.append(file.names[name])
        inside = name.removeprefix("seq_model.")
        state[f"sequence.{inside}" if name in sequence else f"head.{name}"] = value

    random = tuple(name for name in model.state_dict() if name not in state)
    model.load_state_dict(state, strict=False)
    classes = description.get("classes")
    report = Report(
        path.name, tuple(loaded), file.dropped, random, tuple(classes) if classes else None
    )
    log.log(logging.WARNING if random else logging.INFO, "%s", report)
    return report


def open_checkpoint(
    path: Path | str, model: str | None = None, *, backbone_only: bool = False
) -> SEDModel:
    """The model that a file holds, in evaluation mode: with its sequence model and its heads.

    Args:
        model: name of the model; by default what the file says or, for the released files, which
            do not describe themselves, the registered model with the same tensors.
        backbone_only: leave sequence model and heads in the file.
    Returns:
        The model with `classes` (None if the file names none) and `report`, which tells what was
        loaded: a file may lack one of the heads, which then is random and as wide as the other.
    """
    path = Path(path)
    tensors, description = read(path)
    if description.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} is of format {description['format']!r}, this version reads {FORMAT}: "
            "update hear_ptsed"
        )
    name = model or description.get("model") or _closest(tensors)
    if name not in MODELS:
        what = f"is a {name!r}, which is none" if name else "looks like none"
        raise ValueError(f"{path} {what} of the registered models: {', '.join(MODELS)}")
    backbone = row(name).backbone()
    file = _sort(tensors, type(backbone), path)
    if backbone_only:
        net = SEDModel(row(name).frontend(), backbone)
        net.report = _load(net, path, tensors, description)
        net.classes = None
        return net.eval()
    sequence, width = None, backbone.embed_dim
    if options := description.get("sequence_model") or _recurrent(file, path):
        sequence = build_sequence_model(in_dim=width, **options)
        width = sequence.out_dim
    head = None
    if counts := [n for n in (f"{head}.bias" for head in HEADS) if n in file.above]:
        strong, weak = (file.above[counts[i]].numel() for i in (0, -1))
        attention = description.get("head") == AttentionHead.__name__
        head = AttentionHead(width, strong) if attention else LinearHead(width, strong, weak)
    net = SEDModel(row(name).frontend(), backbone, sequence, head)
    net.report = _load(net, path, tensors, description)
    if lost := [n for n in file.names.values() if n in net.report.dropped]:
        raise ValueError(f"{path} cannot be rebuilt: {few(lost)} ({net.report.dropped[lost[0]]})")
    net.classes = net.report.classes
    return net.eval()


def save_checkpoint(
    model: SEDModel,
    path: Path | str,
    classes: Sequence[str] | None = None,
    heads: Sequence[str] = HEADS,
) -> None:
    """Write a model in the released layout, with a description of itself (see `describe`).

    Args:
        classes: names of the classes, in order, of the strong head or, if that is not written, of
            the weak one.
        heads: those of the model's heads to write; leave out one that is untrained.
    """
    _refuse_folded(model, "save")
    if unknown := set(heads) - set(HEADS):
        raise ValueError(f"unknown head {', '.join(unknown)}; known: {', '.join(HEADS)}")
    written = [] if model.head is None else [head for head in HEADS if head in heads]
    n_classes = len(getattr(model.head, written[0]).bias) if written else 0
    if classes is not None and len(classes) != n_classes:
        raise ValueError(f"{len(classes)} class names for a head of {n_classes} classes")
    description = {
        "format": FORMAT,
        "model": _registered(model.backbone),
        "backbone": type(model.backbone).__name__,
        "sequence_model": None if model.sequence is None else _describe(model.sequence),
        "head": type(model.head).__name__ if written else None,
        "classes": None if classes is None else list(classes),
    }
    left_out = tuple(f"{head}." for head in HEADS if head not in written)
    state = {n: v for n, v in _released(model).items() if not n.startswith(left_out)}
    write(Path(path), state, description)


def describe(path: Path | str) -> dict[str, Any]:
    """What `save_checkpoint` wrote about the model: model (its registered name or None), backbone,
    sequence_model (None or options of `build_sequence_model`), head, classes; empty for files of
    others.
    """
    return read(Path(path))[1]


def _recurrent(file: Contents, path: Path) -> dict[str, Any] | None:
    """Options of the recurrent sequence model in a file that does not describe itself."""
    names = [name for name in file.above if name.startswith("seq_model.")]
    if not names:
        return None
    weight = file.above.get("seq_model.rnn.weight_hh_l0", torch.empty(0))
    if weight.ndim != 2:
        raise ValueError(
            f"{path} holds {few(names)}, a sequence model that it does not describe, and which is "
            "no bigru or bilstm: load it by hear_ptsed.load with its sequence_model and options"
        )
    layers = [name for name in names if re.fullmatch(r"seq_model\.rnn\.weight_hh_l\d+", name)]
    rows, dim = weight.shape
    kind = "bilstm" if rows == 4 * dim else "bigru"  # by the number of gates
    return {"kind": kind, "dim": dim, "layers": len(layers)}


def _refuse_folded(model: SEDModel, verb: str) -> None:
    if model.folded:
        raise RuntimeError(
            f"cannot {verb} a folded model, its weights were rewritten: build another"
        )


def _released(model: SEDModel) -> dict[str, Tensor]:
    backbone = model.backbone
    state = {
        backbone.prefixes[0] + name: value
        for name, value in backbone.to_released(backbone.state_dict()).items()
    }
    if model.sequence is not None:
        state |= {f"seq_model.{name}": v for name, v in model.sequence.state_dict().items()}
    return state if model.head is None else state | model.head.state_dict()


def _describe(sequence: nn.Module) -> dict[str, Any]:
    """The options of `build_sequence_model` that give this module, dropout aside."""
    if hasattr(sequence, "rnn"):
        rnn = sequence.rnn
        kind = type(sequence).__name__.lower()
        return {"kind": kind, "dim": rnn.hidden_size, "layers": rnn.num_layers}
    stack = sequence[1]
    kind = type(stack).__name__.removesuffix("Stack").lower()
    options = {"kind": kind, "dim": sequence.out_dim, "layers": len(stack.layers)}
    if kind == "mamba":
        options["bidirectional"] = stack.layers[0].mixer_reverse is not None
    return options


# Comparing


def _sort(tensors: dict[str, Any], backbone: type[Backbone], path: Path) -> Contents:
    file = Contents({}, {}, {}, {})
    for name, value in tensors.items():
        short = _short(name, backbone)
        if not isinstance(value, Tensor):
            file.dropped[name] = "not a tensor"
        elif short.startswith(backbone.ignored):
            file.dropped[name] = "not part of the network"
        elif short in file.names:
            raise ValueError(f"{path} holds {short} twice: as {file.names[short]} and as {name}")
        else:
            (file.above if short.startswith(ABOVE) else file.backbone)[short] = value
            file.names[short] = name
    return file


def _short(name: str, backbone: type[Backbone]) -> str:
    """A name without what wraps it, in released spelling; applying it again changes nothing."""
    prefixes = sorted({*backbone.prefixes, *WRAPPERS}, key=len, reverse=True)
    while prefix := next((p for p in prefixes if name.startswith(p)), None):
        name = name[len(prefix) :]
    for theirs, released in RENAMES.items():
        if name.startswith(theirs):
            name = released + name[len(theirs) :]
    return name


def _backbone(backbone: Backbone, file: Contents, path: Path) -> dict[str, Tensor]:
    """The backbone's part of our state dict; a ValueError if the file's is not exactly that."""
    own = backbone.state_dict()
    state = backbone.from_released(file.backbone)
    want, got = backbone.to_released(own), backbone.to_released(state)
    marks = [mark for mark in backbone.absent if mark in file.backbone]
    absent = tuple(prefix for mark in marks for prefix in backbone.absent[mark])

    def named(names: Iterable[str]) -> str:
        return few([file.names.get(name, backbone.prefixes[0] + name) for name in names])

    faults = []
    if missing := [n for n in want if n not in got and not n.startswith(absent)]:
        faults.append(f"misses {named(missing)}")
    if unexpected := [name for name in got if name not in want]:
        faults.append(f"has the unexpected {named(unexpected)}")
    if wrong := [name for name in want if name in got and not _fits(got[name], want[name])]:
        first = wrong[0]
        faults.append(
            f"has {named(wrong)} of another shape ({_shape(got[first])}, "
            f"the model's is {_shape(want[first])})"
        )
    if faults:
        raise ValueError(
            f"{path} does not fit {type(backbone).__name__}: it {', it '.join(faults)}"
            f"{_looks_like(file)}"
        )
    if bad := [name for name, value in (file.backbone | file.above).items() if not _finite(value)]:
        raise ValueError(f"{path} has NaN or infinite values in {named(bad)}")
    return {f"backbone.{name}": value for name, value in state.items()}


def _above(model: SEDModel, file: Contents) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the sequence model and of the heads that fit; the rest goes to `dropped`."""

    def starting(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name.startswith(prefix)}

    above = {} if model.sequence is None else model.sequence.state_dict()
    above = {f"seq_model.{name}": value for name, value in above.items()}
    sequence = starting(file.above, "seq_model.")
    other_stack = _difference(sequence, above, "sequence model")
    if other_stack:
        file.dropped.update({file.names[name]: other_stack for name in sequence})
        sequence = {}
    heads = {}
    for head in HEADS:
        own = {} if model.head is None else starting(model.head.state_dict(), f"{head}.")
        theirs = starting(file.above, f"{head}.")
        why = _difference(theirs, own, head)
        if not why and other_stack:
            why = f"trained on another input: {other_stack}"
        if why:
            file.dropped.update({file.names[name]: why for name in theirs})
        else:
            heads |= theirs
    return sequence, heads


def _difference(theirs: dict[str, Tensor], own: dict[str, Tensor], part: str) -> str:
    """Why the file's tensors of a part cannot be loaded into the model's; empty if they can."""
    if theirs and not own:
        return f"the model has no {part}"
    if own and not theirs:
        return f"the file has no {part}"
    if theirs.keys() != own.keys():
        return f"another {part} than the model's"
    for name, value in own.items():
        if not _fits(theirs[name], value):
            return f"{_shape(theirs[name])} in the file, {_shape(value)} in the model"
    return ""


def _fits(theirs: Tensor, own: Tensor) -> bool:
    return theirs.shape == own.shape and theirs.is_floating_point() == own.is_floating_point()


def _finite(value: Tensor) -> bool:
    # One sum is several times faster than a look at every element, which only doubt requires.
    return bool(value.float().sum().isfinite() or value.isfinite().all())


def _looks_like(file: Contents) -> str:
    name = _closest({file.names[short]: value for short, value in file.backbone.items()})
    return f"; it looks like {name}" if name else ""


def _closest(tensors: Mapping[str, Any]) -> str | None:
    """The registered model that shares most names and shapes with a file, if nearly all."""
    shares = {}
    for name in MODELS:
        backbone, own = _signature(name)
        theirs = {_short(n, backbone): v for n, v in tensors.items() if isinstance(v, Tensor)}
        other = (*ABOVE, *backbone.ignored)
        theirs = {n: v for n, v in theirs.items() if not n.startswith(other)}
        got = _shapes(backbone.to_released(backbone.from_released(theirs)))
        shares[name] = len(own & got) / len(own | got)
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.9 else None


def _registered(backbone: Backbone) -> str | None:
    """The name of the registered model that has this backbone."""
    own = type(backbone), _shapes(backbone.to_released(backbone.state_dict()))
    return next((name for name in MODELS if _signature(name) == own), None)


@cache
def _signature(name: str) -> tuple[type[Backbone], frozenset]:
    """Class of a registered backbone and its tensors' names and shapes."""
    with torch.device("meta"):
        backbone = MODELS[name].backbone()
    return type(backbone), _shapes(backbone.to_released(backbone.state_dict()))


def _shapes(state: Mapping[str, Tensor]) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((name, tuple(value.shape)) for name, value in state.items())


def _shape(value: Tensor) -> str:
    text = " x ".join(map(str, value.shape)) or "scalar"
    return text if value.is_floating_point() else f"{text} of {value.dtype}"
