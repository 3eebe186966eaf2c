"""The models: one row each. Nothing else in the project names a model.

Rows hold facts and the places of classes. What needs torch, whose import takes seconds, is imported
when a model is built: a list of the models is instant.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hear_ptsed import yamnet
from hear_ptsed.files import cache_dir
from hear_ptsed.labels import load_labels
from hear_ptsed.wheels import Wheel

if TYPE_CHECKING:
    from hear_ptsed.backbones.base import Backbone
    from hear_ptsed.frontends.base import FrontEnd
    from hear_ptsed.heads import LinearHead
    from hear_ptsed.model import SEDModel

log = logging.getLogger(__name__)
FOLDER = "HEAR_PTSED_CHECKPOINTS"  # environment variable: the user's folder of checkpoints


@dataclass(frozen=True)
class Row:
    """A model that is composed of parts and can be trained.

    A model without released files has no stages and no plug-in: it is there to be trained.
    """

    backbone: Callable[[], "Backbone"]
    frontend: Callable[[], "FrontEnd"]
    parameters: int  # of the backbone
    dim: int  # of its embeddings
    checkpoints: dict[str, tuple[str, ...]]  # by stage names of the released file, likeliest first
    batch_norm: bool = False  # whether the backbone has it; else it is a transformer
    class_names: Callable[[], Sequence[str]] = load_labels  # of the released heads


@dataclass(frozen=True)
class PublicRow:
    """A network that others published: it has neither stages nor parts to choose or to train."""

    backbone: Callable[[], "Backbone"]
    network: Callable[[], "SEDModel"]  # with random weights
    read: Callable[[Path], "SEDModel"]  # from its file
    wheel: Wheel  # the file
    class_names: Callable[[], Sequence[str]]
    parameters: int  # of the backbone
    dim: int  # of its embeddings


def _lazy(place: str, **options: Any) -> Callable[..., Any]:
    """A function that calls the "module:name" of this package, imported only then."""

    def call(*arguments: Any) -> Any:
        module, _, name = place.partition(":")
        return getattr(import_module(f"hear_ptsed.{module}"), name)(*arguments, **options)

    return call


def _row(backbone: str, frontend: str, parameters: int, dim: int, name: str, *ssl: str) -> Row:
    """A model with all three stages; `ssl` are other names of that file."""
    checkpoints = {
        "ssl": (f"{name}_ssl.pt", *ssl),
        "weak": (f"{name}_weak.pt",),
        "strong": (f"{name}_strong_1.pt",),
    }
    places = _lazy(f"backbones.{backbone}"), _lazy(f"frontends.{frontend}")
    return Row(*places, parameters, dim, checkpoints)


def _frame_mn(width: float, parameters: int, dim: int, *strong: str) -> Row:
    backbone = _lazy("backbones.frame_mn:FrameMN", width=width)
    frontend = _lazy("frontends.kaldi:frame_mn_mel")
    checkpoints = {"strong": strong} if strong else {}
    return Row(backbone, frontend, parameters, dim, checkpoints, batch_norm=True)


MODELS: dict[str, Row | PublicRow] = {
    "atst_frame": _row("atst:ATSTFrame", "mel:ATSTMel", 85_419_264, 768, "ATST-F"),
    "beats": _row("beats:BEATs", "kaldi:beats_fbank", 90_311_792, 768, "BEATs"),
    "fpasst": _row("fpasst:FPaSST", "kaldi:fpasst_mel", 88_421_632, 768, "fpasst", "fpasst_im.pt"),
    "m2d": _row("m2d:M2D", "mel:M2DMel", 85_492_992, 3840, "M2D"),
    "asit": _row("asit:ASiT", "kaldi:asit_fbank", 85_482_240, 768, "ASIT"),
    "frame_mn02": _frame_mn(0.2, 139_848, 192),
    "frame_mn04": _frame_mn(0.4, 516_128, 384),
    "frame_mn06": _frame_mn(0.6, 1_099_184, 576, "frame_mn06_strong_1.pt", "frame_mn06.pt"),
    "frame_mn10": _frame_mn(1.0, 2_971_664, 960, "frame_mn10_strong_1.pt", "frame_mn10.pt"),
    "yamnet": PublicRow(
        backbone=_lazy("yamnet.network:MobileNet"),
        network=_lazy("yamnet.network:YamNet"),
        read=_lazy("yamnet.weights:read_wheel"),
        wheel=yamnet.WHEEL,
        class_names=_lazy("yamnet.weights:class_names"),
        parameters=3_195_456,
        dim=1024,
    ),
}


def trainable() -> list[str]:
    """Names of the models that are composed of parts."""
    return [name for name, row in MODELS.items() if isinstance(row, Row)]


def find_row(name: str, stage: str | None = None) -> Row | PublicRow:
    """The row of a model; a ValueError if there is none, or if it has no such stage."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    row = MODELS[name]
    if stage is None:
        return row
    if not isinstance(row, Row):
        raise ValueError(f"{name} has no stages; leave out {stage!r}")
    if stage not in row.checkpoints:
        stages = ", ".join(row.checkpoints) or "no released checkpoints: give a file of your own"
        raise ValueError(f"{name} has no {stage!r} stage; it has {stages}")
    return row


def find_parts(name: str) -> Row:
    """The row of a model that is composed of parts; a ValueError if it is not."""
    row = find_row(name)
    if not isinstance(row, Row):
        raise ValueError(
            f"{name} has no parts to choose or to train; models that have: {', '.join(trainable())}"
        )
    return row


def build(
    name: str,
    n_classes: int | None = 447,
    sequence_model: str | None = None,
    head: str = "linear",
    **sequence_options: int | float,
) -> "SEDModel":
    """A model of parts with random weights, in training mode.

    Args:
        n_classes: None for no heads.
        sequence_model: None, "bigru", "bilstm", "attention", "transformer" or "mamba".
        head: "linear", or "attention" (weak logits pooled from the strong ones).
        sequence_options: those of sequence.build_sequence_model.
    """
    from hear_ptsed.model import SEDModel, float32
    from hear_ptsed.sequence import build_sequence_model

    if sequence_options and sequence_model is None:
        raise ValueError(f"{', '.join(sequence_options)} given without a sequence_model")
    row = find_parts(name)
    with float32():
        model = SEDModel(row.frontend(), row.backbone())
        if sequence_model is not None:
            model.sequence = build_sequence_model(sequence_model, model.width, **sequence_options)
        if n_classes is not None:
            model.head = build_head(head, model.width, n_classes)
        return model


def build_head(kind: str, in_dim: int, n_classes: int) -> "LinearHead":
    """A head, "linear" or "attention", on frames (B, T, in_dim), with random weights."""
    from hear_ptsed.heads import HEADS
    from hear_ptsed.model import Count, float32
    from hear_ptsed.schema import check

    if kind not in HEADS:
        raise ValueError(f"unknown head {kind!r}; known: {', '.join(HEADS)}")
    with float32():
        return HEADS[kind](in_dim, check(Count, n_classes, "n_classes"))


def find_cached(name: str, stage: str | None) -> Path | None:
    """The released file of a stage if it is on this machine, under any of its names; unchecked."""
    row = find_row(name, stage)
    if not isinstance(row, Row):
        return row.wheel.path if row.wheel.path.exists() else None
    folders = [cache_dir("checkpoints")]
    if users := os.environ.get(FOLDER):
        folders.insert(0, Path(users).expanduser())
        if not folders[0].is_dir():
            log.warning("$%s is set to %s, which is no folder", FOLDER, users)
    paths = (folder / file for folder in folders for file in row.checkpoints[stage])
    return next(filter(Path.is_file, paths), None)


class Listed(NamedTuple):
    """One model and stage, as `hear-ptsed list` shows it."""

    model: str
    stage: str | None  # None: the model has no stages
    module: str  # HEAR plug-in
    parameters: int  # of the backbone
    dim: int  # of its embeddings
    checkpoint: str  # released file
    cached: bool  # whether that is on this machine


def list_models() -> list[Listed]:
    """Every model and stage that has a released file."""
    listed = []
    for name, row in MODELS.items():
        if isinstance(row, Row):
            files = {stage: names[0] for stage, names in row.checkpoints.items()}
        else:
            files = {None: row.wheel.path.name}
        for stage, file in files.items():
            module = "hear_ptsed.plugins." + (f"{name}_{stage}" if stage else name)
            cached = find_cached(name, stage) is not None
            listed.append(Listed(name, stage, module, row.parameters, row.dim, file, cached))
    return listed
