"""Second-generation Mamba (arXiv 2405.21060): decays by head, evaluated chunk by chunk."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hear_ptsed.sequence.stack import Projected, Stack

STATES = 64  # state size of a channel
CHUNK = 50  # frames


def chunked_scan(log_decay: Tensor, drive: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Run h[t] = exp(log_decay[t]) h[t-1] + drive[t] b[t]^T and read out h[t] c[t], in float32.

    Inside a chunk of frames it is a product of matrices, Q x Q for each head; states (P, N) exist
    only between the chunks.

    Args:
        log_decay: (B, T, H), < 0; drive: (B, T, H, P).
        b: (B, T, N); c: (B, T, N).
    Returns:
        (B, T, H, P) float32.
    """
    length, padding = log_decay.shape[1], -log_decay.shape[1] % CHUNK
    log_decay = F.pad(log_decay.float(), (0, 0, 0, padding)).unflatten(1, (-1, CHUNK))
    drive = F.pad(drive.float(), (0, 0, 0, 0, 0, padding)).unflatten(1, (-1, CHUNK))
    b, c = (F.pad(x.float(), (0, 0, 0, padding)).unflatten(1, (-1, CHUNK)) for x in (b, c))
    log_decay = log_decay.transpose(2, 3)  # (B, n, H, Q), n chunks
    drive = drive.transpose(2, 3)  # (B, n, H, Q, P)
    b, c = b[:, :, None], c[:, :, None]  # (B, n, 1, Q, N)

    # Sum of the decays behind frame j up to i. A difference of running sums would lose digits.
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=drive.device).tril(-1)
    between = log_decay[..., None].expand(*log_decay.shape, CHUNK) * later
    between = between.cumsum(-2)  # (B, n, H, Q, Q)
    mask = later.T
    weights = between.masked_fill(mask, -math.inf).exp()
    inside = (c @ b.mT * weights) @ drive  # (B, n, H, Q, P)

    added = (drive * weights[..., -1, :, None]).mT @ b  # (B, n, H, P, N), by one chunk
    running = log_decay.cumsum(-1).exp()  # (B, n, H, Q), decay from before the chunk
    state = torch.zeros_like(added[:, 0])
    states = []
    for new, decay in zip(added.unbind(1), running[..., -1, None, None].unbind(1), strict=True):
        states.append(state)
        state = torch.addcmul(new, decay, state)
    carried = c @ torch.stack(states, 1).mT * running[..., None]
    return (inside + carried).transpose(2, 3).flatten(1, 2)[:, :length]


class Mamba2(nn.Module):
    """Selective state-space layer: every frame sees itself and earlier ones."""

    no_weight_decay = ("A_log", "D", "dt_bias")  # parameters an optimizer must not decay

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.inner, self.heads = 2 * dim, heads
        mixed = self.inner + 2 * STATES  # channels of x, B and C
        self.in_proj = nn.Linear(dim, self.inner + mixed + heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, 3, groups=mixed, padding=2)
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        step = torch.empty(heads).uniform_(math.log(0.001), math.log(0.1)).exp().clamp(min=1e-4)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus gives `step`
        self.out_proj = nn.Linear(self.inner, dim, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        mixed = self.inner + 2 * STATES
        z, mixed, dt = self.in_proj(u).split((self.inner, mixed, self.heads), dim=-1)
        mixed = self.conv1d(mixed.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2)  # causal
        x, b, c = F.silu(mixed).split((self.inner, STATES, STATES), dim=-1)
        x = x.unflatten(-1, (self.heads, -1))  # (B, T, heads, size)
        delta = F.softplus((dt + self.dt_bias).float())
        drive = delta[..., None] * x
        s = chunked_scan(-delta * self.A_log.float().exp(), drive, b, c) + self.D[:, None] * x
        return self.out_proj((s.flatten(2) * F.silu(z)).to(z.dtype))


class Mamba2Layer(nn.Sequential):
    """Mamba, then a layer norm, and the residual around both."""

    def __init__(self, dim: int, heads: int):
        super().__init__(Mamba2(dim, heads), nn.LayerNorm(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        return x + super().forward(x)


class Mamba2Model(Projected):
    """Linear layer, layer norm and layers, in float32 throughout as in the published training."""

    def __init__(self, in_dim: int, dim: int, heads: int, layers: int):
        stack = Stack(Mamba2Layer(dim, heads) for _ in range(layers))
        super().__init__(in_dim, dim, nn.LayerNorm(dim), stack)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (B, T, E) -> (B, T, D)."""
        with torch.autocast(frames.device.type, enabled=False):
            return super().forward(frames.to(self[1].weight.dtype))
