"""Temporal convolutional network (arXiv 1803.01271): causal, dilated, with weight norm."""

import torch.nn.functional as F
from torch import Tensor, nn

DILATIONS = (1, 2, 4, 8, 16)  # of the blocks of one layer


class CausalConv(nn.Module):
    """Convolution over the present and two earlier frames; its weight has the norms `weight_g`."""

    def __init__(self, dim: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        start = nn.Conv1d(dim, dim, 3)
        self.bias, self.weight_v = start.bias, start.weight
        self.weight_g = nn.Parameter(start.weight.detach().norm(dim=(1, 2), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        norm = self.weight_v.norm(dim=(1, 2), keepdim=True)
        weight = self.weight_v * (self.weight_g / norm)
        return F.conv1d(F.pad(x, (2 * self.dilation, 0)), weight, self.bias, dilation=self.dilation)


class Block(nn.Module):
    """Two convolutions, each with ReLU and dropout, and a residual."""

    def __init__(self, dim: int, dilation: int, dropout: float):
        super().__init__()
        self.conv1, self.conv2 = CausalConv(dim, dilation), CausalConv(dim, dilation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        y = self.dropout(self.conv1(x).relu())
        return (x + self.dropout(self.conv2(y).relu())).relu()


class TCNLayer(nn.Module):
    """Five blocks with growing dilation, which see 124 frames back, and a residual around all."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.network = nn.Sequential(*(Block(dim, dilation, dropout) for dilation in DILATIONS))

    def forward(self, x: Tensor) -> Tensor:
        """Frames (B, T, D) -> (B, T, D)."""
        return x + self.network(x.transpose(1, 2)).transpose(1, 2)
