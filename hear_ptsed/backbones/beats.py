"""BEATs: post-norm transformer over 16 x 16 patches with a gated relative position bias.

Paper: Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023,
arXiv 2212.09058.
"""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.backbones.layers import patches, split_heads
from hear_ptsed.grid import FBANK_FRAMES

log = logging.getLogger(__name__)
TABLE = "relative_attention_bias.weight"


@dataclass(frozen=True)
class BEATsConfig:
    dim: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16  # mel bins x spectrogram frames
    patch_dim: int = 512
    n_mels: int = 128
    conv_kernel: int = 128  # tokens
    conv_groups: int = 16
    buckets: int = 320  # half of them for keys behind the query
    max_distance: int = 800  # tokens
    drop: float = 0.1
    layer_drop: float = 0.05


class BEATs(Backbone):
    """8 tokens (low to high frequency) per 160 ms, read as a time series: 496 for 10 s."""

    prefixes = ("model.model.", "model.beats.", "beats.")
    cpu_batch = 2
    ignored = ("predictor.",)  # the classifier of fine-tuned upstream files
    last_norm = ""  # post-norm: each block ends in its own

    def __init__(self, cfg: BEATsConfig = BEATsConfig()):
        super().__init__()
        self.embed_dim = cfg.dim
        self.window_frames = FBANK_FRAMES // cfg.patch * (cfg.n_mels // cfg.patch)
        self.patch_embedding = nn.Conv2d(1, cfg.patch_dim, cfg.patch, cfg.patch, bias=False)
        self.layer_norm = nn.LayerNorm(cfg.patch_dim)
        self.post_extract_proj = nn.Linear(cfg.patch_dim, cfg.dim)
        self.encoder = Encoder(cfg)
        self.drop = nn.Dropout(cfg.drop)

    def forward(self, spec: Tensor) -> Tensor:
        """Spec (B, 1, 128, 998) -> frames (B, 496, D)."""
        x = patches(spec.transpose(2, 3), self.patch_embedding)  # (B, T', 8, 512)
        x = x.flatten(1, 2)  # (B, T' * 8, 512), frequency fastest
        x, bias = self.encoder(self.drop(self.post_extract_proj(self.layer_norm(x))))
        return self.run_blocks(x, bias, self.encoder.layer_drop)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layers

    def depth_of(self, name: str) -> int:
        return int(name.split(".")[2]) if name.startswith("encoder.layers.") else 0

    def fold(self) -> None:
        self.encoder.fold(self.window_frames)

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (name: tensor) in released spelling -> state.

        Stacks q, k, v (D, D) as (3 D, D); takes the last of the twelve copies of the bias table, as
        loading the published model does; reads both spellings of the weight norm.
        """
        state = dict(state)
        for old, new in (("original0", "weight_g"), ("original1", "weight_v")):
            key = f"encoder.pos_conv.0.parametrizations.weight.{old}"
            if key in state:
                state[f"encoder.pos_conv.0.{new}"] = state.pop(key)
        for key in [k for k in state if ".q_proj." in k]:
            names = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
            parts = [state.get(name) for name in names]
            if all(part is not None and part.shape == parts[0].shape for part in parts):
                state[key.replace("q_proj", "qkv")] = torch.cat([state.pop(name) for name in names])
        tables = sorted(
            (int(k.split(".")[2]), k) for k in state if k.endswith(f"self_attn.{TABLE}")
        )
        copies = [state.pop(key) for _, key in tables]
        if copies:
            if not all(copy.equal(copies[-1]) for copy in copies):
                log.warning(
                    "the copies of the relative position table differ; the last one is used"
                )
            state[f"encoder.{TABLE}"] = copies[-1]
        return state

    @classmethod
    def to_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """State -> tensors (name: tensor) in released spelling: q, k, v (D, D) are split, and every
        layer gets a copy of the bias table.
        """
        depth = sum(key.endswith("grep_a") for key in state)
        released = {}
        for key, value in state.items():
            if ".qkv." in key:
                for part, chunk in zip("qkv", value.chunk(3), strict=True):
                    released[key.replace("qkv", f"{part}_proj")] = chunk
            elif key == f"encoder.{TABLE}":
                tables = (f"encoder.layers.{layer}.self_attn.{TABLE}" for layer in range(depth))
                released |= dict.fromkeys(tables, value)
            else:
                released[key] = value
        return released


class Encoder(nn.Module):
    """Holds the layers and prepares their input. Here H is the number of heads."""

    def __init__(self, cfg: BEATsConfig):
        super().__init__()
        self.max_distance, self.layer_drop = cfg.max_distance, cfg.layer_drop
        self.pos_conv = nn.ModuleList([PositionConv(cfg.dim, cfg.conv_kernel, cfg.conv_groups)])
        self.layer_norm = nn.LayerNorm(cfg.dim)
        self.relative_attention_bias = nn.Embedding(cfg.buckets, cfg.heads)
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(cfg.depth))
        self.drop = nn.Dropout(cfg.drop)
        self.folded_bias: Tensor | None
        self.register_buffer("folded_bias", None, persistent=False)
        self._init_weights(cfg.depth)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, D) -> tokens with positions (B, L, D), bias (H, L, L) for all layers."""
        x = x + F.gelu(self.pos_conv[0](x.transpose(1, 2))).transpose(1, 2)
        x = self.drop(self.layer_norm(x))
        bias = self.bias(x.shape[1]) if self.folded_bias is None else self.folded_bias
        if torch.is_autocast_enabled(x.device.type):  # once, not in every layer
            bias = bias.to(torch.get_autocast_dtype(x.device.type))
        return x, bias

    def bias(self, n: int) -> Tensor:
        """Bias of every query-key pair by their distance, (H, n, n)."""
        table = self.relative_attention_bias.weight
        by_distance = table[buckets(n, len(table), self.max_distance).to(table.device)]
        index = torch.arange(n, device=table.device)
        return by_distance.T[:, index - index[:, None] + n - 1].contiguous()

    def fold(self, n: int) -> None:
        """Keep what depends on `n`, the number of tokens, alone."""
        self.folded_bias = self.bias(n).detach()
        self.pos_conv[0].fold(n)

    def _init_weights(self, depth: int) -> None:
        nn.init.normal_(self.relative_attention_bias.weight, std=0.02)
        gain = (8 * depth) ** -0.25
        for layer in self.layers:
            q, k, v = layer.self_attn.qkv.weight.chunk(3)
            for weight in (q, k):
                nn.init.xavier_normal_(weight)
            for weight in (v, layer.self_attn.out_proj.weight, layer.fc1.weight, layer.fc2.weight):
                nn.init.xavier_normal_(weight, gain)
            for linear in (layer.self_attn.qkv, layer.self_attn.out_proj, layer.fc1, layer.fc2):
                nn.init.zeros_(linear.bias)


class PositionConv(nn.Module):
    """Grouped convolution over the tokens, weight-normalised per kernel tap.

    Folded, it multiplies spectra instead, which takes a fifth of the time; not in what is exported.
    """

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        self.groups = groups
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (kernel * dim)))
        self.weight_g.data = self.weight_v.data.norm(dim=(0, 1), keepdim=True)
        self.spectrum: Tensor | None
        self.register_buffer("spectrum", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, D, L) -> (B, D, L)."""
        if self.spectrum is not None and not torch.compiler.is_exporting():
            return self._by_spectrum(x)
        pad = self.weight_v.shape[-1] // 2
        return F.conv1d(x, self._kernel(), self.bias, padding=pad, groups=self.groups)[..., :-1]

    def fold(self, n: int) -> None:
        """Turn the kernel into its spectrum, of a size that holds the convolution of `n` tokens."""
        size = -(-(n + self.weight_v.shape[-1] - 1) // 128) * 128
        spectrum = torch.fft.rfft(self._kernel().detach().flip(2), size)
        spectrum = spectrum.unflatten(0, (self.groups, -1))  # (G, out, in, frequency)
        # (frequency, G, in, out, 2): .to(torch.float32) would drop imaginary parts
        self.spectrum = torch.view_as_real(spectrum.permute(3, 0, 2, 1).contiguous())

    def _by_spectrum(self, x: Tensor) -> Tensor:
        size, kernel = 2 * (len(self.spectrum) - 1), self.weight_v.shape[-1]
        spectrum = torch.fft.rfft(x.float(), size)
        spectrum = spectrum.unflatten(1, (self.groups, -1)).permute(3, 1, 0, 2)  # (freq, G, B, in)
        spectrum = spectrum @ torch.view_as_complex(self.spectrum)
        spectrum = spectrum.permute(2, 1, 3, 0).flatten(1, 2)  # (B, D, freq)
        first = kernel - 1 - kernel // 2
        convolved = torch.fft.irfft(spectrum, size)[..., first : first + x.shape[-1]]
        return convolved + self.bias[:, None]

    def _kernel(self) -> Tensor:
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)


class Layer(nn.Module):
    """Post-norm layer with DeepNorm scaling of the residual."""

    def __init__(self, cfg: BEATsConfig):
        super().__init__()
        self.alpha = (2 * cfg.depth) ** 0.25
        self.self_attn = RelativeAttention(cfg.dim, cfg.heads, cfg.drop)
        self.self_attn_layer_norm = nn.LayerNorm(cfg.dim)
        self.fc1 = nn.Linear(cfg.dim, 4 * cfg.dim)
        self.fc2 = nn.Linear(4 * cfg.dim, cfg.dim)
        self.final_layer_norm = nn.LayerNorm(cfg.dim)
        self.drop = nn.Dropout(cfg.drop)

    def forward(self, x: Tensor, bias: Tensor, layer_drop: float) -> Tensor:
        """Tokens (B, L, D), bias (H, L, L) -> (B, L, D); skipped in training at that rate."""
        if self.training and torch.rand(()) < layer_drop:
            return x
        x = torch.add(self.drop(self.self_attn(x, bias)), x, alpha=self.alpha)
        x = self.self_attn_layer_norm(x)
        y = self.drop(self.fc2(F.gelu(self.fc1(x))))
        return self.final_layer_norm(torch.add(y, x, alpha=self.alpha))


class RelativeAttention(nn.Module):
    """Self-attention; each head and query scales the shared position bias by its own gate."""

    def __init__(self, dim: int, heads: int, drop: float):
        super().__init__()
        self.heads, self.drop = heads, drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Tokens (B, L, D), bias (H, L, L) -> (B, L, D)."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        drop = self.drop if self.training else 0.0
        mask = self._gate(q).to(bias.dtype) * bias  # (B, H, L, L)
        x = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=drop)
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def _gate(self, q: Tensor) -> Tensor:
        """(B, H, L, D/H) -> (B, H, L, 1); the eight outputs only matter as two sums of four."""
        weight = self.grep_linear.weight.unflatten(0, (2, 4)).sum(1)
        gate = F.linear(q, weight, self.grep_linear.bias.unflatten(0, (2, 4)).sum(1))
        first, second = torch.sigmoid(gate).chunk(2, dim=-1)
        return first * (second * self.grep_a - 1.0) + 2.0


def buckets(n: int, n_buckets: int, max_distance: int) -> Tensor:
    """Bucket (T,) of every key - query distance from -(n - 1) to n - 1, T = 2 n - 1.

    Each half of the buckets serves one direction: its first half holds single distances, its
    second half spans the rest up to `max_distance` logarithmically.
    """
    half = n_buckets // 2
    exact = half // 2
    distance = torch.arange(-(n - 1), n)
    size = distance.abs()
    log_size = (size.clamp(min=1) / exact).log() / math.log(max_distance / exact)
    far = (exact + (log_size * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(size < exact, size, far) + half * (distance > 0)
