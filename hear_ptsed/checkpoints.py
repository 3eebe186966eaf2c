"""Checkpoint files: read, compare with a model, load strictly, report; write.

A file is a flat dictionary name -> tensor in the names of the released checkpoints, as a torch or a
safetensors file; upstream and Lightning files hold that dictionary one level down. Names are freed
from everything that wraps them, so neither the file's name nor repeated renaming matters.
"""

import argparse
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.files import atomic
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS

log = logging.getLogger(__name__)
FORMAT = 1  # of our own files
METADATA = "hear_ptsed"  # attribute of the dictionary in a .pt file, entry in a safetensors header
NESTED = ("state_dict", "model", "teacher", "student")  # where files keep the dictionary, by rank
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


@dataclass(frozen=True)
class Report:
    """What became of the tensors of a file and of a model."""

    file: str
    loaded: tuple[str, ...]  # names in the file
    dropped: dict[str, str]  # names in the file -> why
    random: tuple[str, ...]  # names in the model: left at their random initialisation
    classes: tuple[str, ...] | None = None  # of the strong head, if the file names them

    def __str__(self) -> str:
        text = f"{self.file}: {len(self.loaded)} tensors loaded"
        reasons: dict[str, list[str]] = {}
        for name, why in self.dropped.items():
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            text += f"; dropped {_few(names)} ({why})"
        return text + (f"; left random: {_few(self.random)}" if self.random else "")


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
    tensors, metadata = _read(path)
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
    classes = metadata.get("classes")
    report = Report(
        path.name, tuple(loaded), file.dropped, random, tuple(classes) if classes else None
    )
    log.log(logging.WARNING if random else logging.INFO, "%s", report)
    return report


def save_checkpoint(
    model: SEDModel, path: Path | str, classes: Sequence[str] | None = None
) -> None:
    """Write a model in the released layout, with a description of itself (see `describe`).

    A .pt file stays a flat dictionary of tensors for every other reader, because the description
    is an attribute of that dictionary; in a .safetensors file it is an entry of the header.

    Args:
        classes: names of the strong head's classes, in its order.
    """
    path = Path(path)
    _refuse_folded(model, "save")
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}; use .pt or .safetensors")
    n_classes = 0 if model.head is None else len(model.head.strong_head.bias)
    if classes is not None and len(classes) != n_classes:
        raise ValueError(f"{len(classes)} class names for a head of {n_classes} classes")
    metadata = {
        "format": FORMAT,
        "backbone": type(model.backbone).__name__,
        "sequence_model": None if model.sequence is None else _describe(model.sequence),
        "head": None if model.head is None else type(model.head).__name__,
        "classes": None if classes is None else list(classes),
    }
    # Own memory for each: safetensors refuses shared storage, and torch would store all of it.
    state = OrderedDict(
        (name, value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format))
        for name, value in _released(model).items()
    )
    with atomic(path) as temporary:
        if path.suffix == ".pt":
            setattr(state, METADATA, metadata)
            torch.save(state, temporary)
        else:
            _safetensors().torch.save_file(state, temporary, {METADATA: json.dumps(metadata)})


def describe(path: Path | str) -> dict[str, Any]:
    """What `save_checkpoint` wrote about the model: backbone, sequence_model (None or options of
    `build_sequence_model`), head, classes; empty for files of others.
    """
    return _read(Path(path))[1]


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


# Reading


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The dictionary of tensors in a file of any accepted kind, and our own description if any."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a checkpoint")
    with path.open("rb") as file:
        start = file.read(16)
    torch_file, zipped = start.startswith((b"PK", b"\x80")), start.startswith(b"PK")
    if not torch_file and start[8:9] != b"{":
        what = f"begins with {start!r}" if start else "is empty"
        raise ValueError(f"{path}: no checkpoint, it {what}; expected a torch or safetensors file")
    try:
        if not torch_file:
            return _read_safetensors(path)
        # Upstream files carry their training options in this class, which only holds attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ImportError:
        raise
    except Exception as error:  # whatever a parser trips over in damaged bytes
        if called := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path}: refused and not run, its pickle calls {called[1]}; only tensors and "
                "plain containers are read: save the weights alone, as a dictionary name -> tensor"
            ) from error
        why = str(error).partition("\n")[0][:120]
        raise ValueError(
            f"{path}: cut off, damaged or no checkpoint; delete it and fetch it again ({why})"
        ) from error
    return _flat(content, path), getattr(content, METADATA, {})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with _safetensors().safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, json.loads(metadata.get(METADATA, "{}"))


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("safetensors files need the package: pip install safetensors") from error
    return safetensors


def _flat(content: Any, path: Path) -> dict[str, Any]:
    if isinstance(content, Mapping):
        if any(isinstance(value, Tensor) for value in content.values()):
            return dict(content)
        for name in NESTED:
            if isinstance(content.get(name), Mapping):
                return dict(content[name])
        holds = f"a dictionary of {_few([str(name) for name in content])}"
    else:
        holds = f"a {type(content).__name__}"
    raise ValueError(
        f"{path} holds {holds}; expected a dictionary of tensors, or one under {', '.join(NESTED)}"
    )


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
            above = short.startswith(("seq_model.", *(f"{head}." for head in HEADS)))
            (file.above if above else file.backbone)[short] = value
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
        return _few([file.names.get(name, backbone.prefixes[0] + name) for name in names])

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
    """The model of the registry that shares most names and shapes with the file, as a hint."""
    shares = {}
    for name in MODELS:
        backbone, own = _signature(name)
        theirs = {_short(file.names[n], backbone): value for n, value in file.backbone.items()}
        theirs = backbone.to_released(backbone.from_released(theirs))
        got = {(n, tuple(value.shape)) for n, value in theirs.items()}
        shares[name] = len(own & got) / len(own | got)
    best = max(shares, key=shares.__getitem__)
    return f"; it looks like {best}" if shares[best] > 0.9 else ""


@cache
def _signature(name: str) -> tuple[type[Backbone], frozenset[tuple[str, tuple[int, ...]]]]:
    """Class of a registered backbone and its tensors' names and shapes."""
    with torch.device("meta"):
        backbone = MODELS[name].backbone()
    state = backbone.to_released(backbone.state_dict())
    return type(backbone), frozenset((n, tuple(value.shape)) for n, value in state.items())


def _shape(value: Tensor) -> str:
    text = " x ".join(map(str, value.shape)) or "scalar"
    return text if value.is_floating_point() else f"{text} of {value.dtype}"


def _few(names: Sequence[str], n: int = 2) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
