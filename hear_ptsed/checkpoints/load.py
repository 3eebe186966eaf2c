"""A model from a file: what the file holds, or parts that are random; or a file into a model."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.checkpoints.compare import match_above, read_backbone
from hear_ptsed.checkpoints.description import Description, read_described
from hear_ptsed.checkpoints.download import find
from hear_ptsed.checkpoints.names import HEADS, Contents, find_closest, sort_tensors
from hear_ptsed.checkpoints.repository import SCHEME, locate
from hear_ptsed.checkpoints.save import refuse_folded
from hear_ptsed.errors import few, shown
from hear_ptsed.heads import HEADS as HEAD_KINDS
from hear_ptsed.heads import AttentionHead, LinearHead
from hear_ptsed.model import Count, Report, SEDModel, Undrawn, float32
from hear_ptsed.registry import MODELS, PublicRow, Row, build, build_head, find_row, trainable
from hear_ptsed.schema import check
from hear_ptsed.sequence import (
    DEFAULTS,
    SequenceOptions,
    build_sequence_model,
    find_options,
)

log = logging.getLogger(__name__)
PARTS = ("sequence_model", "head")  # of a model, above its backbone


@dataclass(frozen=True)
class ChosenParts:
    """What is asked for above the backbone, see `hear_ptsed.load`; `check` refuses nonsense."""

    n_classes: int | Literal["file"] | None
    sequence_model: str | None
    head: str | None
    random: frozenset[str]  # of PARTS
    backbone_only: bool
    sequence_options: dict[str, Any]

    @property
    def sequence(self) -> dict[str, Any]:
        """Options of build_sequence_model; empty if none was asked for."""
        return {"kind": self.sequence_model} | self.sequence_options if self.sequence_model else {}

    @property
    def are_chosen(self) -> bool:
        """Whether anything was asked for but to leave parts out."""
        chosen = self.sequence_model or self.sequence_options or self.head or self.random
        return bool(chosen) or self.n_classes not in ("file", None)

    def like(self, sequence: dict[str, Any] | None) -> "ChosenParts":
        """With the sequence model that a registered model has, unless another was asked for."""
        if self.sequence_model is not None or sequence is None:
            return self
        options = sequence | self.sequence_options
        return replace(self, sequence_model=options.pop("kind"), sequence_options=options)

    @property
    def left_in_file(self) -> set[str]:
        """Those of PARTS that are not taken from a file."""
        if self.backbone_only:
            return set(PARTS)
        return set(self.random) | ({"head"} if self.n_classes is None else set())

    def check(self) -> None:
        """A ValueError if something is not allowed, or contradicts the rest."""
        if unknown := self.random - set(PARTS):
            raise ValueError(f"random has the unknown {min(unknown)!r}; known: {', '.join(PARTS)}")
        if self.sequence_options and self.sequence_model is None:
            names = ", ".join(self.sequence_options)
            raise ValueError(f"{names} given without a sequence_model")
        if self.sequence_model is not None:
            SequenceOptions(**self.sequence)
        if self.head is not None and self.head not in HEAD_KINDS:
            raise ValueError(f"unknown head {self.head!r}; known: {', '.join(HEAD_KINDS)}")
        if self.n_classes not in (None, "file"):
            check(Count, self.n_classes, "n_classes")
        if "sequence_model" in self.random and self.sequence_model is None:
            raise ValueError("a random sequence model: say of which kind, by sequence_model")
        if self.random == {"sequence_model"} and self.n_classes is not None:
            raise ValueError(
                "a head reads the sequence model, so a random one needs a random head, too: "
                "random=('sequence_model', 'head'), or n_classes=None for no head"
            )
        if "head" in self.random and self.n_classes in (None, "file"):
            raise ValueError("a random head: say for how many classes, by n_classes")
        if self.backbone_only and self.are_chosen:
            raise ValueError("backbone_only leaves no parts to choose: leave the other choices out")


def open_model(
    name: str | None, stage: str | None, checkpoint: Path | str | None, parts: ChosenParts
) -> SEDModel:
    """What `hear_ptsed.load` gives; see there."""
    if name is not None and name.startswith(SCHEME):
        if checkpoint is not None:
            raise ValueError(f"{name} and the checkpoint {checkpoint} exclude each other")
        name, checkpoint = None, name
    if isinstance(MODELS.get(name), PublicRow):
        return _load_public(name, stage, checkpoint, parts)
    if name in MODELS and not parts.backbone_only:
        parts = parts.like(MODELS[name].sequence)
    untrained = checkpoint is None and stage is None
    if checkpoint is None and name is None:
        raise ValueError("give the name of a model, a checkpoint, or both")
    if untrained and parts.random:
        raise ValueError("without stage and checkpoint all is random: leave out random")
    parts.check()
    if untrained:
        return _build_random(name, parts)
    return _open_file(find(name, stage) if checkpoint is None else locate(checkpoint), name, parts)


def load_checkpoint(model: SEDModel, path: Path | str) -> Report:
    """Copy a file's weights into a model, all or nothing.

    The backbone must match tensor by tensor, else it is a ValueError. The sequence model is taken
    if all of it fits; a head, if it fits and reads the output of the same kind of stack. The rest
    is dropped and reported.
    """
    path = locate(path)
    refuse_folded(model, "load into")
    tensors, description = read_described(path)
    _refuse_folded_file(tensors, type(model.backbone), path)
    file = sort_tensors(tensors, type(model.backbone), path)
    return _fill(model, file, read_backbone(model.backbone, file, path), description, path)


def _load_public(
    name: str, stage: str | None, checkpoint: Path | str | None, parts: ChosenParts
) -> SEDModel:
    if parts.are_chosen or stage not in (None, "strong"):
        raise ValueError(f"{name} has no stages and no parts to choose: leave them out")
    row = find_row(name)
    if stage is None and checkpoint is None:
        model = row.network()
    else:
        model = row.read(find(name, None) if checkpoint is None else Path(checkpoint))
    if "head" in parts.left_in_file:
        model.head = model.classes = None
    return model


def _build_random(name: str, parts: ChosenParts) -> SEDModel:
    n_classes = 447 if parts.n_classes == "file" else parts.n_classes
    if parts.backbone_only:
        n_classes = None
    head = parts.head or "linear"
    model = build(name, n_classes, parts.sequence_model, head, **parts.sequence_options).eval()
    if parts.backbone_only:
        model.sequence = None
    return model


@float32()
def _open_file(path: Path, name: str | None, parts: ChosenParts) -> SEDModel:
    """The model in a file, in evaluation mode; what goes beyond the file is refused.

    Args:
        name: of the model; by default what the file says or, for the released files, which do not
            describe themselves, the registered model with the same tensors.
    """
    tensors, description = read_described(path)
    name = name or description.model or find_closest(tensors)
    if not isinstance(MODELS.get(name), Row):
        what = f"is a {shown(name)}, which is none" if name else "looks like none"
        raise ValueError(f"{path} {what} of the registered models: {', '.join(trainable())}")
    row = find_row(name)
    with Undrawn():
        backbone = row.backbone()
    if not (parts.backbone_only or parts.n_classes is None):  # to embed alone it is right
        _refuse_folded_file(tensors, type(backbone), path)
    file = sort_tensors(tensors, type(backbone), path)
    state = read_backbone(backbone, file, path)
    lacking = {f"backbone.{name}" for name in backbone.state_dict()} - state.keys()
    drawn = bool(parts.random or lacking)  # then all is, so that a seed gives the same numbers
    options, kind = _find_above(file, description, parts, path)
    with torch.device("meta"), Undrawn():  # compared before memory is asked for
        above = _build_above(backbone.embed_dim, file, options, kind, path)
        _refuse_other_parts(*above, file, parts.left_in_file, path)
    with nullcontext() if drawn else Undrawn():
        backbone = row.backbone() if drawn else backbone
        above = _build_above(backbone.embed_dim, file, options, kind, path)
        model = SEDModel(row.frontend(), backbone, *above)
    _fill(model, file, state, description, path)
    model.classes = _name_classes(model.head, description, row.class_names(), path)
    _add_random_parts(model, parts)
    _refuse_other_than_asked(model, parts, path)
    model.folded = type(backbone).is_folded(tensors)
    return model.eval()


def _refuse_folded_file(tensors: Iterable[str], backbone: type[Backbone], path: Path) -> None:
    if backbone.is_folded(tensors):
        raise ValueError(
            f"{path} is the state of a plug-in's model, folded for inference: open it by the "
            "plug-in's load_model, or give the checkpoint that it was made of"
        )


def _find_above(
    file: Contents, description: Description, parts: ChosenParts, path: Path
) -> tuple[dict[str, Any], type[LinearHead] | None]:
    """Options of the sequence model and kind of the head to take from a file: as described, else by
    the tensors, which tell all but the kind of the head.
    """
    kind = None
    if "head" not in parts.left_in_file:
        kinds = {kind.__name__: kind for kind in HEAD_KINDS.values()}
        kind = kinds.get(description.head, HEAD_KINDS[parts.head or "linear"])
    tensors = {
        name.removeprefix("seq_model."): value
        for name, value in file.above.items()
        if name.startswith("seq_model.")
    }
    if "sequence_model" in parts.left_in_file:
        return {}, kind
    options = find_options(tensors)
    if described := description.sequence_model:
        if options.get("kind") != described.kind:
            options = {}
        given = {key: value for key, value in asdict(described).items() if value is not None}
        return options | given, kind
    if tensors and not options:
        names = [file.names[f"seq_model.{name}"] for name in tensors]
        raise ValueError(
            f"{path} holds {few(names)}, a sequence model that is none of {', '.join(DEFAULTS)}, "
            "or a part of one: give a whole file, or load it with backbone_only"
        )
    return options, kind


def _build_above(
    width: int, file: Contents, options: dict[str, Any], kind: type[LinearHead] | None, path: Path
) -> tuple[nn.Module | None, LinearHead | None]:
    """Sequence model and head of the file's sizes, with random weights, on frames (B, T, width)."""
    sequence = None
    if options:
        try:
            sequence = build_sequence_model(in_dim=width, **options)
        except ValueError as error:
            raise ValueError(f"{path} cannot be rebuilt: {error}") from error
        width = sequence.out_dim
    counts = {}  # of classes, as the first tensor of a head has it
    for name, value in file.above.items():
        part = name.partition(".")[0]
        if part in HEADS:
            counts.setdefault(part, value.shape[:1].numel())
    if kind is None or not counts:
        return sequence, None
    if kind is AttentionHead and "strong_head" not in counts:
        raise ValueError(f"{path} cannot be rebuilt: its attention head lacks strong_head")
    strong, weak = (counts.get(head, next(iter(counts.values()))) for head in HEADS)
    if kind is AttentionHead and len(counts) == 2:
        return sequence, AttentionHead(width, strong)
    head = LinearHead(width, strong, weak)
    for missing in set(HEADS) - set(counts):
        setattr(head, missing, None)
    return sequence, head


def _refuse_other_parts(
    sequence: nn.Module | None,
    head: LinearHead | None,
    file: Contents,
    left_out: set[str],
    path: Path,
) -> None:
    """A ValueError if the parts, as described, are not exactly those in the file."""
    _, dropped = match_above(sequence, head, file)
    if sequence is not None and not any(name.startswith("seq_model.") for name in file.above):
        raise ValueError(f"{path} cannot be rebuilt: it lacks the sequence model it describes")
    expected = {
        file.names[name]
        for name in file.above
        if ("sequence_model" if name.startswith("seq_model.") else "head") not in left_out
    }
    if lost := [name for name in dropped if name in expected]:
        raise ValueError(f"{path} cannot be rebuilt: {few(lost)} ({dropped[lost[0]]})")


def _fill(
    model: SEDModel, file: Contents, state: dict[str, Tensor], description: Description, path: Path
) -> Report:
    """Copy the backbone's state and what fits of the parts above it; the report."""
    fitting, dropped = match_above(model.sequence, model.head, file)
    state = state | fitting
    lost = file.dropped | dropped
    loaded = tuple(name for name in file.names.values() if name not in lost)
    random = tuple(name for name in model.state_dict() if name not in state)
    model.load_state_dict(state, strict=False)
    model.report = Report(path.name, loaded, lost, random, description.classes or None)
    log.log(logging.WARNING if random else logging.INFO, "%s", model.report)
    return model.report


def _name_classes(
    head: LinearHead | None, description: Description, released: Sequence[str], path: Path
) -> tuple[str, ...] | None:
    """Names of the classes: the file's or, for as many strong outputs, those of released heads."""
    if head is None:
        return None
    strong = head.strong_head is not None
    n = len((head.strong_head if strong else head.weak_head).bias)
    if description.classes:
        if len(description.classes) != n:
            raise ValueError(f"{path} names {len(description.classes)} classes for a head of {n}")
        return description.classes
    return tuple(released) if strong and n == len(released) else None


def _add_random_parts(model: SEDModel, parts: ChosenParts) -> None:
    """Put the parts asked for by `random` on a model, and on its report."""
    new = []
    if "sequence_model" in parts.random:
        model.sequence = build_sequence_model(in_dim=model.backbone.embed_dim, **parts.sequence)
        new += [f"sequence.{name}" for name in model.sequence.state_dict()]
    if "head" in parts.random:
        model.head = build_head(parts.head or "linear", model.width, parts.n_classes)
        new += [f"head.{name}" for name in model.head.state_dict()]
    model.report = replace(model.report, random=(*model.report.random, *new))


def _refuse_other_than_asked(model: SEDModel, parts: ChosenParts, path: Path) -> None:
    """A ValueError if another sequence model or head was asked for than the file has."""
    if "sequence_model" not in parts.random and parts.sequence:
        has = {} if model.sequence is None else model.sequence.options
        if any(has.get(key, False) != value for key, value in parts.sequence.items()):
            _refuse(path, "sequence model", has, parts.sequence, ("sequence_model", "head"))
    if "head" in parts.random or parts.n_classes is None:
        return
    has, asked = {}, {}
    if model.head is not None:
        kind = next(name for name, cls in HEAD_KINDS.items() if type(model.head) is cls)
        counts = {len(layer.bias) for layer in model.head.children()}
        has = {"head": kind, "n_classes": counts.pop() if len(counts) == 1 else sorted(counts)}
    if parts.head is not None:
        asked["head"] = parts.head
    if parts.n_classes != "file":
        asked["n_classes"] = parts.n_classes
    if any(has.get(key) != value for key, value in asked.items()):
        _refuse(path, "head", has, asked, ("head",))


def _refuse(
    path: Path, part: str, has: dict[str, Any], asked: dict[str, Any], random: tuple[str, ...]
) -> None:
    def listed(options: dict[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in options.items())

    raise ValueError(
        f"{path} holds {f'a {part} ({listed(has)})' if has else f'no {part}'}, asked for is "
        f"{listed(asked)}: leave that out, name another model, or ask for random weights by "
        f"random={random}"
    )
