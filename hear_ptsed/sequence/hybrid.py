"""Attention and a minGRU of two directions side by side: the layers of `hybrid`.

Paper: arXiv 2503.11373; minGRU: arXiv 2410.01201.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hear_ptsed.backbones.layers import split_heads
from hear_ptsed.sequence.stack import RMSNorm

CHUNK = 16  # frames; 250 of them take 16 + 16 steps in place of 250


def linear_scan(decay: Tensor, drive: Tensor) -> Tensor:
    """Run h[t] = decay[t] h[t-1] + drive[t] from h = 0, in float32.

    All chunks of frames run beside each other from a state of zero; a second, short recurrence
    carries the states from chunk to chunk.

    Args:
        decay: (B, T, D), 0 to 1; drive: (B, T, D).
    Returns:
        (B, T, D) float32.
    """
    length, padding = decay.shape[1], -decay.shape[1] % CHUNK
    with torch.autocast(decay.device.type, enabled=False):
        decay, drive = (
            F.pad(x.float(), (0, 0, 0, padding)).unflatten(1, (-1, CHUNK)).unbind(2)
            for x in (decay, drive)
        )  # each (B, N, D) for one frame of every chunk
        states, products = [drive[0]], [decay[0]]
        for a, b in zip(decay[1:], drive[1:], strict=True):
            states.append(torch.addcmul(b, a, states[-1]))
            products.append(products[-1] * a)
        carry = [torch.zeros_like(states[-1][:, 0])]  # (B, D), before each chunk
        for a, b in zip(products[-1].unbind(1)[:-1], states[-1].unbind(1)[:-1], strict=True):
            carry.append(torch.addcmul(b, a, carry[-1]))
        before = torch.stack(carry, 1)[:, :, None]  # (B, N, 1, D)
        whole = torch.addcmul(torch.stack(states, 2), torch.stack(products, 2), before)
        return whole.flatten(1, 2)[:, :length]


class MinGRU(nn.Module):
    """Gate and candidate of a frame, which depend on that frame alone."""

    def __init__(self, dim: int):
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(dim, 2 * dim, bias=False)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, D) -> decay (B, T, D) and drive (B, T, D) of the recurrence, float32."""
        candidate, gate = self.to_hidden_and_gate(u).float().chunk(2, dim=-1)
        candidate = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        return (-gate).sigmoid(), gate.sigmoid() * candidate


class BiMinGRU(nn.Module):
    """A minGRU forwards, another one backwards, and a linear layer on both."""

    def __init__(self, dim: int):
        super().__init__()
        self.forward_minGRU, self.backward_minGRU = MinGRU(dim), MinGRU(dim)
        self.to_out = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        ways = zip(self.forward_minGRU(u), self.backward_minGRU(u.flip(1)), strict=True)
        both = linear_scan(*(torch.cat(way, -1) for way in ways))  # (B, T, 2 D)
        forwards, backwards = both.chunk(2, dim=-1)
        return self.to_out(torch.cat([forwards, backwards.flip(1)], -1).to(u.dtype))


class HybridMixer(nn.Module):
    """Attention without positions and minGRU, normed head by head and averaged."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.rnn = BiMinGRU(dim)
        self.rnn_out_norm, self.attn_out_norm = RMSNorm(dim // heads), RMSNorm(dim // heads)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        q, k, v = split_heads(self.to_qkv(u), self.heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # (B, T, heads, size)
        recurred = self.rnn(u).unflatten(-1, (self.heads, -1))
        mixed = (self.rnn_out_norm(recurred) + self.attn_out_norm(attended)) / 2
        return self.to_out(mixed.flatten(2))


class HybridLayer(nn.ModuleList):
    """Norm, mixer, residual; norm, two-layer perceptron four times as wide, residual."""

    def __init__(self, dim: int, heads: int):
        perceptron = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        super().__init__((RMSNorm(dim), HybridMixer(dim, heads), RMSNorm(dim), perceptron))

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        norm1, mixer, norm2, perceptron = self
        x = x + mixer(norm1(x))
        return x + perceptron(norm2(x))
