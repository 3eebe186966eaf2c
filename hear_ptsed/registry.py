"""The models: one row each. Nothing else in the project names a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

import torch
from pydantic import Field

from hear_ptsed.backbones.asit import ASiT
from hear_ptsed.backbones.atst import ATSTFrame
from hear_ptsed.backbones.base import Backbone
from hear_ptsed.backbones.beats import BEATs
from hear_ptsed.backbones.fpasst import FPaSST
from hear_ptsed.backbones.frame_mn import FrameMN, FrameMNConfig
from hear_ptsed.backbones.m2d import M2D
from hear_ptsed.frontends.base import FrontEnd
from hear_ptsed.frontends.kaldi import PaSSTMel, asit_fbank, beats_fbank
from hear_ptsed.frontends.mel import ATSTMel, M2DMel
from hear_ptsed.heads import HEADS, LinearHead
from hear_ptsed.model import SEDModel
from hear_ptsed.schema import check
from hear_ptsed.sequence import build_sequence_model

Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]  # of classes


@dataclass(frozen=True)
class Row:
    """A model: its parts, and by stage the names of its released file, likeliest first.

    A model without released files has no stages and no plug-in: it is there to be trained.
    """

    backbone: Callable[[], Backbone]
    frontend: Callable[[], FrontEnd]
    checkpoints: dict[str, tuple[str, ...]]


def _stages(name: str, *ssl: str) -> dict[str, tuple[str, ...]]:
    return {
        "ssl": (f"{name}_ssl.pt", *ssl),
        "weak": (f"{name}_weak.pt",),
        "strong": (f"{name}_strong_1.pt",),
    }


def _frame_mn(width: float, checkpoints: dict[str, tuple[str, ...]]) -> Row:
    return Row(
        partial(FrameMN, FrameMNConfig(width)), partial(PaSSTMel, periodic=False), checkpoints
    )


MODELS = {
    "atst_frame": Row(ATSTFrame, ATSTMel, _stages("ATST-F")),
    "beats": Row(BEATs, beats_fbank, _stages("BEATs")),
    "fpasst": Row(FPaSST, partial(PaSSTMel, periodic=True), _stages("fpasst", "fpasst_im.pt")),
    "m2d": Row(M2D, M2DMel, _stages("M2D")),
    "asit": Row(ASiT, asit_fbank, _stages("ASIT")),
    "frame_mn02": _frame_mn(0.2, {}),
    "frame_mn04": _frame_mn(0.4, {}),
    "frame_mn06": _frame_mn(0.6, {"strong": ("frame_mn06_strong_1.pt", "frame_mn06.pt")}),
    "frame_mn10": _frame_mn(1.0, {"strong": ("frame_mn10_strong_1.pt", "frame_mn10.pt")}),
}


def row(name: str, stage: str | None = None) -> Row:
    """The row of a model, checked to have the stage."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    found = MODELS[name]
    if stage is not None and stage not in found.checkpoints:
        stages = ", ".join(found.checkpoints) or "no released checkpoints: give a file of your own"
        raise ValueError(f"{name} has no {stage!r} stage; it has {stages}")
    return found


@contextmanager
def float32() -> Iterator[None]:
    """What is built inside is float32, whatever the default type of the process."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


@float32()
def build(
    name: str,
    n_classes: int | None = 447,
    sequence_model: str | None = None,
    head: str = "linear",
    **sequence_options: int | float,
) -> SEDModel:
    """A model with random weights, in training mode.

    Args:
        n_classes: None for no heads.
        sequence_model: None, "bigru", "bilstm", "attention", "transformer" or "mamba".
        head: "linear", or "attention" (weak logits pooled from the strong ones).
        sequence_options: those of sequence.build_sequence_model.
    """
    if sequence_options and sequence_model is None:
        raise ValueError(f"{', '.join(sequence_options)} given without a sequence_model")
    found = row(name)
    backbone = found.backbone()
    sequence = None
    width = backbone.embed_dim
    if sequence_model is not None:
        sequence = build_sequence_model(sequence_model, width, **sequence_options)
        width = sequence.out_dim
    top = None if n_classes is None else build_head(head, width, n_classes)
    return SEDModel(found.frontend(), backbone, sequence, top)


@float32()
def build_head(kind: str, in_dim: int, n_classes: int) -> LinearHead:
    """A head of a kind by its name, with random weights."""
    if kind not in HEADS:
        raise ValueError(f"unknown head {kind!r}; known: {', '.join(HEADS)}")
    return HEADS[kind](in_dim, check(Count, n_classes, "n_classes"))


def untrained(name: str, n_classes: int | None = 447) -> SEDModel:
    """A model with random weights, the same ones at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(name, n_classes)


class Listed(NamedTuple):
    """One model and stage, as `hear-ptsed list` shows it."""

    model: str
    stage: str
    module: str  # HEAR plug-in
    parameters: int  # of the backbone
    dim: int  # of its embeddings
    checkpoint: str  # released file
    cached: bool = False  # filled in by hear_ptsed.list_models


def listed() -> list[Listed]:
    """Every model and stage."""
    rows = []
    for name, found in MODELS.items():
        with torch.device("meta"):
            backbone = found.backbone()
        size = sum(p.numel() for p in backbone.parameters())
        for stage, files in found.checkpoints.items():
            module = f"hear_ptsed.plugins.{name}_{stage}"
            rows.append(Listed(name, stage, module, size, backbone.embed_dim, files[0]))
    return rows
