"""fPaSST: a convolutional stem and twelve blocks over one token per 40 ms.

Papers: Koutini et al., "Efficient training of audio transformers with patchout", Interspeech 2022,
arXiv 2110.05069; Schmid et al., arXiv 2407.12997 (frame-wise version).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.backbones.layers import blocks, init_linear
from hear_ptsed.grid import WINDOW_FRAMES


@dataclass(frozen=True)
class FPaSSTConfig:
    dim: int = 768
    depth: int = 12
    heads: int = 12


class FPaSST(Backbone):
    """Four spectrogram frames of 10 ms give one token, centred on its 40 ms."""

    prefixes = ("model.", "model.fpasst.", "fpasst.")
    ignored = ("head.", "head_dist.")  # ImageNet classifiers
    absent = {"pos_embed": ("conv_in_",)}  # ImageNet knows nothing of the stem

    def __init__(self, cfg: FPaSSTConfig = FPaSSTConfig()):
        super().__init__()
        self.embed_dim, self.window_frames = cfg.dim, WINDOW_FRAMES
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, cfg.dim))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, cfg.dim, 1, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, cfg.dim, 1, WINDOW_FRAMES))
        self.conv_in_1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv_in_2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv_in_3 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(16, cfg.dim, (128, 2))})
        self.blocks = blocks(cfg.dim, cfg.heads, cfg.depth)
        self.norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        init_linear(self)
        for name, table in self.named_parameters():
            if name.endswith(("_token", "pos_embed")):
                nn.init.normal_(table, std=0.02)

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (name: tensor) in released spelling -> state.

        DeiT-base-distilled (ImageNet, 384 x 384 pixels) is converted as the published model does:
        its kernel (D, 3, 16, 16) and its positions (1, N, D).
        """
        table, kernel = state.get("pos_embed"), state.get("patch_embed.proj.weight")
        if table is None or kernel is None or kernel.shape[1:] != (3, 16, 16):
            return state
        state = {key: value for key, value in state.items() if key != "pos_embed"}
        state["new_pos_embed"] = table[:, :2]
        side = math.isqrt(table.shape[1] - 2)
        grid = table[:, 2:].float().transpose(1, 2).unflatten(2, (side, side))
        time = F.interpolate(grid, (1, WINDOW_FRAMES), mode="bicubic", align_corners=False)
        state["time_new_pos_embed"] = time
        state["freq_new_pos_embed"] = time.mean(3, keepdim=True)
        tiled = kernel[:, torch.arange(16) % 3] * (3 / 16)  # RGB in turn, the sum stays the same
        state["patch_embed.proj.weight"] = tiled.reshape(-1, 16, 128, 2)
        return state

    def forward(self, spec: Tensor) -> Tensor:
        """Spec (B, 1, 128, 1000) -> frames (B, 250, D)."""
        x = spec
        for conv in (self.conv_in_1, self.conv_in_2, self.conv_in_3):
            x = F.gelu(conv(x))
        positions = self.time_new_pos_embed + self.freq_new_pos_embed  # (1, D, 1, T')
        x = self._tokens(x) + positions[0, :, 0].T  # (B, T', D)
        special = torch.cat([self.cls_token, self.dist_token], dim=1) + self.new_pos_embed
        x = torch.cat([special.expand(x.shape[0], -1, -1), x], dim=1)
        return self.run_blocks(x)[:, 2:]

    def _tokens(self, x: Tensor) -> Tensor:
        """The published convolution over the stem's output, (B, 64, 32, T') -> (B, T', D).

        Its kernel of 128 x 2 sees the 64 x 32 values of a column as 16 x 128, and one column of
        zeros behind the last. Here it is one matrix for two neighbouring columns.
        """
        x = x.flatten(1, 2).transpose(1, 2)  # (B, T', 2048)
        x = torch.cat([x, F.pad(x[:, 1:], (0, 0, 0, 1))], dim=2)
        proj = self.patch_embed["proj"]
        weight = proj.weight.flatten(1, 2).permute(0, 2, 1).flatten(1)  # (D, 2 * 2048)
        return F.linear(x, weight, proj.bias)
