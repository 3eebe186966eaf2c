"""First-generation Mamba (arXiv 2312.00752): a state of 16 numbers for each channel."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

STATES = 16  # state size of a channel
# Frames whose states are in memory at once. Training keeps one state per chunk and about five
# copies of one chunk's, so memory for 250 frames is least near sqrt(250 / 5).
CHUNK = 8


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
        state = rate.new_zeros(x.shape[0], *rate.shape)  # (B, N, M)
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
