"""Gated self-attention with rotary positions: the layers of `attention` and `transformer`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hear_ptsed.backbones.layers import split_heads
from hear_ptsed.sequence.stack import RMSNorm


class Rotary(nn.Module):
    """Rotates the pairs (2i, 2i + 1) of a query or key by angles that grow with its frame."""

    def __init__(self, size: int):
        super().__init__()
        # stored in the files although never trained, hence a persistent buffer
        # and computed on the CPU: on the meta device arithmetic would import the compiler
        freqs = 10000.0 ** (-torch.arange(0, size, 2, device="cpu") / size)
        self.register_buffer("freqs", freqs.to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, heads, T, size) -> (B, heads, T, size)."""
        frame = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)
        angle = frame[:, None] * self.freqs.float()  # (T, size / 2)
        cos, sin = angle.cos(), angle.sin()
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)


class GatedAttention(nn.Module):
    """Pre-norm self-attention with residual; a sigmoid gate per frame scales each head."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = RMSNorm(dim)
        self.pos_encoding = Rotary(dim // heads)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_gates = nn.Linear(dim, heads)
        self.to_out = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        u = self.norm(x)
        q, k, v = split_heads(self.to_qkv(u), self.heads)
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
