"""Sequence models between a backbone and its head: frames (B, T, E) -> (B, T, D), D = `out_dim`.

`bigru` and `bilstm` are those of PretrainedSED (github.com/fschmid56/PretrainedSED); `attention`,
`transformer` and `mamba` appear in its ablation. Attribute names are the keys of the published
files below `seq_model.`, which is why the last three are sequences of projection "0" and stack "1".
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hear_ptsed.backbones.layers import init_linear, split_heads
from hear_ptsed.schema import settings

HEADS = 8  # attention heads of `attention` and `transformer`, whatever the width
STATES = 16  # state size of a Mamba channel
# Frames whose Mamba states are in memory at once. Training keeps one state per chunk and about five
# copies of one chunk's, so memory for 250 frames is least near sqrt(250 / 5).
CHUNK = 8


class BiGRU(nn.Module):
    """Bidirectional GRU with `dim` units per direction; out_dim is 2 * dim."""

    kind: type[nn.RNNBase] = nn.GRU

    def __init__(self, in_dim: int, dim: int = 2048, layers: int = 2, dropout: float = 0.0):
        super().__init__()
        self.out_dim = 2 * dim
        self.rnn = self.kind(
            in_dim, dim, layers, batch_first=True, dropout=dropout, bidirectional=True
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, E) -> (B, T, 2 dim)."""
        return self.rnn(frames)[0]


class BiLSTM(BiGRU):
    """The same with an LSTM, then a linear layer on every frame."""

    kind = nn.LSTM

    def __init__(self, in_dim: int, dim: int = 2048, layers: int = 2, dropout: float = 0.0):
        super().__init__(in_dim, dim, layers, dropout)
        self.embedding = nn.Linear(self.out_dim, self.out_dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, E) -> (B, T, 2 dim)."""
        return self.embedding(super().forward(frames))


class RMSNorm(nn.Module):
    """Divides a vector by its root mean square, without an eps under the root, times `gamma`."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        scaled = F.normalize(x.float(), dim=-1, eps=1e-12) * self.gamma * len(self.gamma) ** 0.5
        return scaled.to(x.dtype)


class Rotary(nn.Module):
    """Rotates the pairs (2i, 2i + 1) of a query or key by angles that grow with its frame."""

    def __init__(self, size: int):
        super().__init__()
        # stored in the files although never trained, hence a persistent buffer
        self.register_buffer("freqs", 10000.0 ** (-torch.arange(0, size, 2) / size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, T, size) -> (B, heads, T, size)."""
        frame = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)
        angle = frame[:, None] * self.freqs.float()  # (T, size / 2)
        cos, sin = angle.cos(), angle.sin()
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)


class GatedAttention(nn.Module):
    """Pre-norm self-attention with residual; a sigmoid gate per frame scales each head."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm = RMSNorm(dim)
        self.pos_encoding = Rotary(dim // HEADS)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_gates = nn.Linear(dim, HEADS)
        self.to_out = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        u = self.norm(x)
        q, k, v = split_heads(self.to_qkv(u), HEADS)
        q, k = self.pos_encoding(q), self.pos_encoding(k)
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        mixed = mixed.transpose(1, 2)  # (B, T, heads, size)
        return x + self.to_out((mixed * self.to_gates(u).sigmoid()[..., None]).flatten(2))


class FeedForward(nn.Module):
    """Pre-norm two-layer perceptron with residual, four times as wide inside."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.net = nn.Sequential(
            RMSNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        return x + self.net(x)


def _scan_chunk(
    state: Tensor, rate: Tensor, delta: Tensor, x: Tensor, b: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan the Q frames of one chunk: their outputs (B, Q, M) and the last state (B, N, M)."""
    decay = torch.exp(delta[:, :, None] * rate)  # (B, Q, N, M)
    drive = (delta * x)[:, :, None] * b[..., None]
    states = []
    for decay_t, drive_t in zip(decay.unbind(1), drive.unbind(1), strict=True):
        state = torch.addcmul(drive_t, decay_t, state)
        states.append(state)
    return (c[:, :, None] @ torch.stack(states, 1)).squeeze(2), state


def selective_scan(delta: Tensor, x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Run h[t] = exp(delta[t] a) h[t-1] + delta[t] b[t] x[t] and read out c[t] h[t], in float32.

    The recurrence runs frame by frame and is exact. To save memory only the states of one chunk of
    frames exist at a time: the backward pass computes them again from the state before the chunk.

    Args:
        delta: (B, T, M) step sizes, > 0; x: (B, T, M).
        a: (M, N) decay rates, < 0; b: (B, T, N); c: (B, T, N).
    Returns:
        (B, T, M) float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        rate = a.float().T.contiguous()
        state = rate.new_zeros(len(x), *rate.shape)  # (B, N, M)
        outputs = []
        scan_chunk = _scan_chunk
        if torch.is_grad_enabled() and not torch.compiler.is_exporting():
            scan_chunk = partial(
                checkpoint, _scan_chunk, use_reentrant=False, preserve_rng_state=False
            )
        for parts in zip(*(z.float().split(CHUNK, 1) for z in (delta, x, b, c)), strict=True):
            y, state = scan_chunk(state, rate, *parts)
            outputs.append(y)
        return torch.cat(outputs, 1)


class Mamba(nn.Module):
    """Selective state-space layer (arXiv 2312.00752): every frame sees itself and earlier ones."""

    no_weight_decay = ("A_log", "D")  # parameters an optimizer must not decay

    def __init__(self, dim: int):
        super().__init__()
        inner, rank = 2 * dim, math.ceil(dim / 16)
        # Unrolled over the frames, the scan takes a compiler minutes.
        self.scan = torch.compiler.disable(selective_scan)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, 4, groups=inner, padding=3)
        self.x_proj = nn.Linear(inner, rank + 2 * STATES, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)

        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        log_step = torch.empty(inner).uniform_(math.log(0.001), math.log(0.1))
        step = log_step.exp().clamp(min=1e-4)
        with torch.no_grad():  # softplus of the bias is the step size
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, u: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = self.conv1d(x.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2)  # causal
        x = F.silu(x)
        p, b, c = self.x_proj(x).split((self.dt_proj.in_features, STATES, STATES), dim=-1)
        delta = F.softplus(self.dt_proj(p).float())
        s = self.scan(delta, x, -self.A_log.float().exp(), b, c) + self.D * x
        return self.out_proj((s * F.silu(z)).to(z.dtype))


class MambaLayer(nn.Module):
    """Norm, Mamba, residual; `bidirectional` averages with a second Mamba that runs backwards."""

    def __init__(self, dim: int, bidirectional: bool):
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.mixer = Mamba(dim)
        self.mixer_reverse = Mamba(dim) if bidirectional else None

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        u = self.norm(x.to(self.norm.weight.dtype))  # mixed types would miss the fused norm
        y = self.mixer(u)
        if self.mixer_reverse is not None:
            y = (y + self.mixer_reverse(u.flip(1)).flip(1)) / 2
        return x + y


class Stack(nn.Module):
    """Layers one after the other, then a norm or none."""

    def __init__(self, layers: Iterable[nn.Module], norm: nn.Module | None = None):
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Projected(nn.Sequential):
    """Linear layer to the width of the stack (none where the widths agree), then the stack."""

    def __init__(self, in_dim: int, dim: int, stack: Stack):
        project = nn.Identity() if in_dim == dim else nn.Linear(in_dim, dim)
        super().__init__(project, stack)
        self.out_dim = dim


# The RNNs have those of the published teachers, the others the width that did best in the ablation
# at this depth.
DEFAULTS = {
    "bigru": {"dim": 2048, "layers": 2, "dropout": 0.0},
    "bilstm": {"dim": 2048, "layers": 2, "dropout": 0.0},
    "attention": {"dim": 1024, "layers": 2, "dropout": 0.0},
    "transformer": {"dim": 1024, "layers": 2, "dropout": 0.2},
    "mamba": {"dim": 1024, "layers": 1, "dropout": 0.0},
}


@settings
class SequenceOptions:
    """What makes a sequence model; None takes the value of DEFAULTS."""

    kind: Literal[tuple(DEFAULTS)]
    # units per direction of the RNNs (out_dim is twice that), else the width and out_dim
    dim: Annotated[int, Field(ge=1, le=16_384)] | None = None
    layers: Annotated[int, Field(ge=1, le=64)] | None = None
    # between the layers of the RNNs, none in `mamba`
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    bidirectional: bool = False  # `mamba` only; the other kinds see past and future anyway


def build_sequence_model(kind: str, in_dim: int, **options: int | float | None) -> nn.Module:
    """Build a sequence model, frames (B, T, in_dim) -> (B, T, out_dim), with random weights.

    Args:
        options: dim, layers, dropout, bidirectional; see SequenceOptions.
    Returns:
        The model; its `options` are those of this function that give the same tensors.
    """
    given = {name: value for name, value in options.items() if value is not None}
    chosen = SequenceOptions(kind=kind, **DEFAULTS.get(kind, {}) | given)
    dim, layers, dropout = chosen.dim, chosen.layers, chosen.dropout
    if in_dim < 1:
        raise ValueError(f"in_dim is {in_dim}; it must be at least 1")
    if chosen.bidirectional and kind != "mamba":
        raise ValueError(f"bidirectional is an option of mamba; leave it out for {kind}")

    if kind in ("bigru", "bilstm"):
        if dropout and layers == 1:
            raise ValueError(f"dropout of {kind} acts between layers; 1 layer needs dropout 0")
        model = (BiGRU if kind == "bigru" else BiLSTM)(in_dim, dim, layers, dropout)
    elif kind == "mamba":
        if dropout:
            raise ValueError(f"mamba has no dropout; leave out dropout={dropout}")
        stack = Stack(MambaLayer(dim, chosen.bidirectional) for _ in range(layers))
        model = Projected(in_dim, dim, stack)
    else:
        if dim % (2 * HEADS):
            raise ValueError(f"dim of {kind} is {dim}; it must be divisible by {2 * HEADS}")
        if kind == "attention":
            stack = Stack(GatedAttention(dim, dropout) for _ in range(layers))
        else:
            blocks = (
                nn.Sequential(GatedAttention(dim, dropout), FeedForward(dim, dropout))
                for _ in range(layers)
            )
            stack = Stack(blocks, RMSNorm(dim))
        model = Projected(in_dim, dim, stack)
        init_linear(model)
    model.options = {"kind": kind, "dim": dim, "layers": layers}
    if kind == "mamba":
        model.options["bidirectional"] = chosen.bidirectional
    return model
