"""Options of a sequence model, and the model that they make."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from hear_ptsed.backbones.layers import init_linear
from hear_ptsed.schema import settings
from hear_ptsed.sequence.attention import FeedForward, GatedAttention
from hear_ptsed.sequence.hybrid import HybridLayer
from hear_ptsed.sequence.mamba import MambaLayer
from hear_ptsed.sequence.mamba2 import Mamba2Model
from hear_ptsed.sequence.recurrent import BiGRU, BiLSTM
from hear_ptsed.sequence.stack import Projected, RMSNorm, Stack
from hear_ptsed.sequence.tcn import TCNLayer

# The RNNs have those of the published teachers, the others the width that did best in the ablations
# at this depth.
DEFAULTS = {
    "bigru": {"dim": 2048, "layers": 2, "dropout": 0.0},
    "bilstm": {"dim": 2048, "layers": 2, "dropout": 0.0},
    "attention": {"dim": 1024, "layers": 2, "dropout": 0.0},
    "transformer": {"dim": 1024, "layers": 2, "dropout": 0.2},
    "mamba": {"dim": 1024, "layers": 1, "dropout": 0.0},
    "hybrid": {"dim": 1024, "layers": 2, "dropout": 0.0},
    "mamba2": {"dim": 1024, "layers": 2, "dropout": 0.0},
    "tcn": {"dim": 1024, "layers": 2, "dropout": 0.2},
}
UNDROPPED = ("mamba", "hybrid", "mamba2")  # kinds without dropout
HEADED = ("attention", "transformer", "hybrid", "mamba2")  # kinds with heads


@settings
class SequenceOptions:
    """What makes a sequence model; None takes the value of DEFAULTS, or of `published_heads`."""

    kind: Literal[tuple(DEFAULTS)]
    # units per direction of the RNNs (out_dim is twice that), else the width and out_dim
    dim: Annotated[int, Field(ge=1, le=16_384)] | None = None
    layers: Annotated[int, Field(ge=1, le=64)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # of the RNNs: between the layers
    bidirectional: bool = False  # `mamba` only
    heads: Annotated[int, Field(ge=1, le=1024)] | None = None  # of the kinds of HEADED


def build_sequence_model(kind: str, in_dim: int, **options: int | float | None) -> nn.Module:
    """Build a sequence model, frames (B, T, in_dim) -> (B, T, out_dim), with random weights.

    Args:
        options: dim, layers, dropout, bidirectional, heads; see SequenceOptions.
    Returns:
        The model; its `options` are those of this function that give the same tensors.
    """
    given = {name: value for name, value in options.items() if value is not None}
    chosen = SequenceOptions(kind=kind, **DEFAULTS.get(kind, {}) | given)
    if in_dim < 1:
        raise ValueError(f"in_dim is {in_dim}; it must be at least 1")
    facts = {"kind": kind, "dim": chosen.dim, "layers": chosen.layers}
    if kind == "mamba":
        facts["bidirectional"] = chosen.bidirectional
    if kind in HEADED:
        facts["heads"] = chosen.heads or published_heads(kind, chosen.dim)
    _check(chosen, facts.get("heads", 1))
    if kind in ("bigru", "bilstm"):
        rnn = BiGRU if kind == "bigru" else BiLSTM
        model = rnn(in_dim, chosen.dim, chosen.layers, chosen.dropout)
    elif kind == "mamba2":
        model = Mamba2Model(in_dim, chosen.dim, facts["heads"], chosen.layers)
    else:
        model = Projected(in_dim, chosen.dim, _stack(chosen, facts.get("heads", 1)))
        if kind in ("attention", "transformer"):
            init_linear(model)
    model.options = facts
    return model


def published_heads(kind: str, dim: int) -> int:
    """Heads that the published models of this width have; a ValueError if none could have it."""
    if kind != "mamba2":
        return 4 if kind == "transformer" and dim < 128 else 8
    size = 32 if dim == 128 else 64  # of a head; the heads share 2 dim channels
    if 2 * dim % size:
        raise ValueError(f"dim of mamba2 is {dim}; without heads it must be divisible by 32")
    return 2 * dim // size


def _stack(chosen: SequenceOptions, heads: int) -> Stack:
    """The layers of a kind that has a stack behind a linear layer."""
    kind, dim, dropout = chosen.kind, chosen.dim, chosen.dropout

    def layer() -> nn.Module:
        if kind == "mamba":
            return MambaLayer(dim, chosen.bidirectional)
        if kind == "tcn":
            return TCNLayer(dim, dropout)
        if kind == "hybrid":
            return HybridLayer(dim, heads)
        attention = GatedAttention(dim, heads, dropout)
        if kind == "attention":
            return attention
        return nn.Sequential(attention, FeedForward(dim, dropout))

    norm = RMSNorm(dim) if kind in ("transformer", "hybrid") else None
    return Stack((layer() for _ in range(chosen.layers)), norm)


def _check(chosen: SequenceOptions, heads: int) -> None:
    """A ValueError if options do not go together."""
    kind, dim = chosen.kind, chosen.dim
    if chosen.bidirectional and kind != "mamba":
        raise ValueError(f"bidirectional is an option of mamba; leave it out for {kind}")
    if chosen.heads and kind not in HEADED:
        raise ValueError(f"heads is an option of {', '.join(HEADED)}; leave it out for {kind}")
    if chosen.dropout and kind in UNDROPPED:
        raise ValueError(f"{kind} has no dropout; leave out dropout={chosen.dropout}")
    if chosen.dropout and chosen.layers == 1 and kind in ("bigru", "bilstm"):
        raise ValueError(f"dropout of {kind} acts between layers; 1 layer needs dropout 0")
    # pairs are rotated inside a head; mamba2 is twice as wide inside
    multiple = 2 * heads if kind in ("attention", "transformer") else heads
    width = 2 * dim if kind == "mamba2" else dim
    if kind in HEADED and width % multiple:
        what = f"twice the dim of {kind}" if kind == "mamba2" else f"dim of {kind}"
        raise ValueError(
            f"{what} is {width}; with {heads} heads it must be divisible by {multiple}"
        )
