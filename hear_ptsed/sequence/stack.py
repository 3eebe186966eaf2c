"""What several sequence models are made of."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides a vector by its root mean square, without an eps under the root, times `gamma`."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        scaled = F.normalize(x.float(), dim=-1, eps=1e-12) * self.gamma * len(self.gamma) ** 0.5
        return scaled.to(x.dtype)


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
    """Linear layer to the width of the stack (none where the widths agree), then the stack.

    Args:
        above: what follows the linear layer, the stack last.
    """

    def __init__(self, in_dim: int, dim: int, *above: nn.Module):
        project = nn.Identity() if in_dim == dim else nn.Linear(in_dim, dim)
        super().__init__(project, *above)
        self.out_dim = dim
