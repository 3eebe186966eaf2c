"""Reading a file into a model, and the model that a file holds."""

import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.checkpoints.description import Description, read_described
from hear_ptsed.checkpoints.names import (
    ABOVE,
    HEADS,
    closest,
    converted,
    released_name,
    usable,
)
from hear_ptsed.checkpoints.saving import refuse_folded
from hear_ptsed.errors import few, shown
from hear_ptsed.heads import AttentionHead, LinearHead
from hear_ptsed.labels import load_labels
from hear_ptsed.model import Report, SEDModel
from hear_ptsed.registry import MODELS, float32, row
from hear_ptsed.sequence import build_sequence_model

log = logging.getLogger(__name__)
CLAIMED = 2**32  # bytes that tensors may claim beyond those in the file before it is refused
PARTS = ("sequence_model", "head")  # of a model, above its backbone


@dataclass(frozen=True)
class Contents:
    """A file's tensors under released names without prefix, sorted by the part they belong to."""

    backbone: dict[str, Tensor]
    above: dict[str, Tensor]  # seq_model.*, strong_head.*, weak_head.*
    dropped: dict[str, str]  # names in the file -> why
    names: dict[str, str]  # released name without prefix -> name in the file


def load_checkpoint(model: SEDModel, path: Path | str) -> Report:
    """Copy a file's weights into a model, all or nothing.

    The backbone must match tensor by tensor. The sequence model is taken if all of it fits; a head,
    if it fits and reads the output of the same kind of stack. The rest is dropped and reported.
    """
    path = Path(path)
    refuse_folded(model, "load into")
    tensors, description = read_described(path)
    file = _sort(tensors, type(model.backbone), path)
    return _fill(model, file, _backbone(model.backbone, file, path), description, path)


def open_checkpoint(
    path: Path | str, model: str | None = None, *, backbone_only: bool = False
) -> SEDModel:
    """The model that a file holds, in evaluation mode: with its sequence model and its heads.

    Args:
        model: name of the model; by default what the file says or, for the released files, which
            do not describe themselves, the registered model with the same tensors.
        backbone_only: leave sequence model and heads in the file.
    Returns:
        The model with `classes` and `report`. A file without names of classes whose strong head
        has the 447 outputs of the released ones is taken to have their classes.
    """
    return open_parts(Path(path), model, leave_out=PARTS if backbone_only else ())


@float32()
def open_parts(
    path: Path,
    model: str | None,
    leave_out: Collection[str] = (),
    sequence: dict[str, Any] | None = None,
    head: str | None = None,
) -> SEDModel:
    """As `open_checkpoint`, without some of PARTS.

    Args:
        sequence, head: options of the sequence model and "linear" or "attention", which count
            where the file does not tell them itself.
    """
    tensors, description = read_described(path)
    name = model or (description and description.model) or closest(tensors)
    if name not in MODELS:
        what = f"is a {shown(name)}, which is none" if name else "looks like none"
        raise ValueError(f"{path} {what} of the registered models: {', '.join(MODELS)}")
    backbone = row(name).backbone()
    file = _sort(tensors, type(backbone), path)
    state = _backbone(backbone, file, path)
    build = partial(_build_above, backbone.embed_dim, file, path, leave_out)
    options = {} if "sequence_model" in leave_out else _sequence(file, description, sequence, path)
    attention = description.head == AttentionHead.__name__ if description else head == "attention"
    with torch.device("meta"):  # compared before memory is asked for
        _refuse_other_parts(*build(options, attention), file, leave_out, path)
    net = SEDModel(row(name).frontend(), backbone, *build(options, attention))
    _fill(net, file, state, description, path)
    net.classes = _classes(net.head, description, path)
    return net.eval()


def _build_above(
    width: int,
    file: Contents,
    path: Path,
    leave_out: Collection[str],
    options: dict[str, Any],
    attention: bool,
) -> tuple[nn.Module | None, LinearHead | None]:
    """Sequence model and head of the file's sizes, with random weights."""
    sequence = None
    if options:
        try:
            sequence = build_sequence_model(in_dim=width, **options)
        except ValueError as error:
            raise ValueError(f"{path} cannot be rebuilt: {error}") from error
        width = sequence.out_dim
    counts = {}
    for head in HEADS:
        sizes = [file.above[n].shape[:1].numel() for n in file.above if n.startswith(f"{head}.")]
        counts |= {head: sizes[0]} if sizes else {}
    if "head" in leave_out or not counts:
        return sequence, None
    if attention and "strong_head" not in counts:
        raise ValueError(f"{path} cannot be rebuilt: its attention head lacks strong_head")
    strong, weak = (counts.get(head, next(iter(counts.values()))) for head in HEADS)
    if attention and len(counts) == 2:
        return sequence, AttentionHead(width, strong)
    head = LinearHead(width, strong, weak)
    for missing in set(HEADS) - set(counts):
        setattr(head, missing, None)
    return sequence, head


def _sequence(
    file: Contents, description: Description | None, asked: dict[str, Any] | None, path: Path
) -> dict[str, Any]:
    """Options of the sequence model in a file: as described, by its tensors, or as asked for."""
    if description and description.sequence_model:
        return {k: v for k, v in asdict(description.sequence_model).items() if v is not None}
    names = [name for name in file.above if name.startswith("seq_model.")]
    if not names:
        return {}
    weight = file.above.get("seq_model.rnn.weight_hh_l0", torch.empty(0))
    if weight.ndim == 2:
        layers = [name for name in names if re.fullmatch(r"seq_model\.rnn\.weight_hh_l\d+", name)]
        rows, dim = weight.shape
        kind = "bilstm" if rows == 4 * dim else "bigru"  # by the number of gates
        return {"kind": kind, "dim": dim, "layers": len(layers)}
    if asked:
        return asked
    raise ValueError(
        f"{path} holds {few(names)}, a sequence model that it does not describe, and which is "
        "no bigru or bilstm: load it by hear_ptsed.load with its sequence_model and options"
    )


def _classes(
    head: LinearHead | None, description: Description | None, path: Path
) -> tuple[str, ...] | None:
    """Names of the classes: the file's or, for its 447 outputs, those of the released heads."""
    if head is None:
        return None
    strong = head.strong_head is not None
    n = len((head.strong_head if strong else head.weak_head).bias)
    if description and description.classes:
        if len(description.classes) != n:
            raise ValueError(f"{path} names {len(description.classes)} classes for a head of {n}")
        return description.classes
    released = tuple(load_labels())
    return released if strong and n == len(released) else None


def _fill(
    model: SEDModel,
    file: Contents,
    state: dict[str, Tensor],
    description: Description | None,
    path: Path,
) -> Report:
    """Copy the backbone's state and what fits of the parts above it; the report."""
    loaded = [file.names[name] for name in file.backbone]
    sequence, heads, dropped = _above(model.sequence, model.head, file)
    for name, value in (sequence | heads).items():
        loaded.append(file.names[name])
        inside = name.removeprefix("seq_model.")
        state[f"sequence.{inside}" if name in sequence else f"head.{name}"] = value
    random = tuple(name for name in model.state_dict() if name not in state)
    model.load_state_dict(state, strict=False)
    classes = (description.classes or None) if description else None
    model.report = Report(path.name, tuple(loaded), file.dropped | dropped, random, classes)
    log.log(logging.WARNING if random else logging.INFO, "%s", model.report)
    return model.report


def _sort(tensors: dict[str, Any], backbone: type[Backbone], path: Path) -> Contents:
    file = Contents({}, {}, {}, {})
    claims = [
        v.numel() * v.element_size() for v in tensors.values() if usable(v) and not _stored(v)
    ]
    if sum(claims) > CLAIMED:
        raise ValueError(f"{path} holds fewer numbers than the shapes of its tensors need")
    for name, value in tensors.items():
        short = released_name(name, backbone)
        if not usable(value):
            file.dropped[name] = "not a tensor"
        elif short.startswith(backbone.ignored):
            file.dropped[name] = "not part of the network"
        elif short in file.names:
            raise ValueError(f"{path} holds {short} twice: as {file.names[short]} and as {name}")
        else:
            (file.above if short.startswith(ABOVE) else file.backbone)[short] = value
            file.names[short] = name
    return file


def _backbone(backbone: Backbone, file: Contents, path: Path) -> dict[str, Tensor]:
    """The backbone's part of our state dict; a ValueError if the file's is not exactly that."""
    want = backbone.to_released(backbone.state_dict())
    try:
        state, got = converted(file.backbone, type(backbone))
    except ValueError as error:
        raise ValueError(f"{path} does not fit {type(backbone).__name__}: {error}") from error
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
        looks = closest({file.names[short]: value for short, value in file.backbone.items()})
        raise ValueError(
            f"{path} does not fit {type(backbone).__name__}: it {', it '.join(faults)}"
            + (f"; it looks like {looks}" if looks else "")
        )
    everything = file.backbone | file.above
    if short := [name for name, value in everything.items() if not _stored(value)]:
        raise ValueError(f"{path} holds fewer numbers of {named(short)} than its shape needs")
    if bad := [name for name, value in everything.items() if not _finite(value)]:
        raise ValueError(f"{path} has NaN or infinite values in {named(bad)}")
    return {f"backbone.{name}": value for name, value in state.items()}


def _above(
    sequence: nn.Module | None, head: LinearHead | None, file: Contents
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    """The file's tensors of the sequence model and of the heads that fit; why the rest does not."""

    def starting(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name.startswith(prefix)}

    above = {} if sequence is None else sequence.state_dict()
    above = {f"seq_model.{name}": value for name, value in above.items()}
    stack, heads, dropped = starting(file.above, "seq_model."), {}, {}
    other_stack = _difference(stack, above, "sequence model")
    if other_stack:
        dropped |= {file.names[name]: other_stack for name in stack}
        stack = {}
    for kind in HEADS:
        own = {} if head is None else starting(head.state_dict(), f"{kind}.")
        theirs = starting(file.above, f"{kind}.")
        why = _difference(theirs, own, kind)
        if not why and other_stack:
            why = f"trained on another input: {other_stack}"
        if why:
            dropped |= {file.names[name]: why for name in theirs}
        else:
            heads |= theirs
    return stack, heads, dropped


def _refuse_other_parts(
    sequence: nn.Module | None,
    head: LinearHead | None,
    file: Contents,
    leave_out: Collection[str],
    path: Path,
) -> None:
    """A ValueError if the parts, as described, are not exactly those in the file."""
    stack, _, dropped = _above(sequence, head, file)
    if sequence is not None and not stack and not dropped:
        raise ValueError(f"{path} cannot be rebuilt: it lacks the sequence model it describes")
    expected = {
        file.names[name]
        for name in file.above
        if ("sequence_model" if name.startswith("seq_model.") else "head") not in leave_out
    }
    if lost := [name for name in dropped if name in expected]:
        raise ValueError(f"{path} cannot be rebuilt: {few(lost)} ({dropped[lost[0]]})")


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


def _stored(value: Tensor) -> bool:
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _finite(value: Tensor) -> bool:
    """Whether the values are finite in float32, which models have."""
    if not value.is_floating_point():
        return True
    # One sum is several times faster than a look at every element, which only doubt requires.
    value = value.float()
    return bool(value.sum().isfinite() or value.isfinite().all())


def _shape(value: Tensor) -> str:
    text = " x ".join(map(str, value.shape)) or "scalar"
    return text if value.is_floating_point() else f"{text} of {value.dtype}"
