"""Transformer layers shared by the backbones."""

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention over all tokens; one matrix gives q, k and v, in this order."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, D) -> (B, L, D)."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, H, L, D/H)
        return self.proj(x.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, D) -> (B, L, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block, LayerNorm eps 1e-6, MLP ratio 4."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, L, D) -> (B, L, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def blocks(dim: int, heads: int, depth: int, qkv_bias: bool = True) -> nn.ModuleList:
    """`depth` blocks over tokens (B, L, D)."""
    return nn.ModuleList(Block(dim, heads, qkv_bias) for _ in range(depth))


def patches(x: Tensor, proj: nn.Conv2d) -> Tensor:
    """A convolution of non-overlapping patches as one matrix product, several times as fast.

    Args:
        x: (B, 1, H, W); incomplete patches at the ends are dropped.
        proj: the convolution, with a kernel of (h, w).
    Returns:
        (B, H // h, W // w, D)
    """
    height, width = proj.kernel_size
    rows, columns = x.shape[2] // height, x.shape[3] // width
    x = x[:, 0, : rows * height, : columns * width].unflatten(2, (columns, width))
    x = x.unflatten(1, (rows, height)).transpose(2, 3).flatten(3)  # (B, rows, columns, h * w)
    return F.linear(x, proj.weight.flatten(1), proj.bias)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split qkv (B, L, 3 D) into q, k, v of (B, heads, L, D / heads)."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def init_linear(module: nn.Module) -> None:
    """Normal weights (sd 0.02) and zero biases for every linear layer inside."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
