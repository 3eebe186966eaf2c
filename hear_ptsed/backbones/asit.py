"""ASiT: a ViT-Base over 16 x 16 patches whose token sequence is read as a time series.

Paper: Atito et al., "ASiT: Local-Global Audio Spectrogram vIsion Transformer for Event
Classification", TASLP 2024, arXiv 2211.13189.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.backbones.layers import blocks, init_linear, patches
from hear_ptsed.grid import FBANK_FRAMES


@dataclass(frozen=True)
class ASiTConfig:
    dim: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16  # mel bins x spectrogram frames
    n_mels: int = 128
    table_columns: int = 37  # time steps of the position table


class ASiT(Backbone):
    """Class token, then 8 tokens (low to high frequency) per 160 ms: 497 for 10 s."""

    prefixes = ("model.", "model.asit.", "asit.")
    ignored = ("head.", "fc.", "head_cls.", "head_recons.")  # of upstream files
    cpu_batch = 2

    def __init__(self, cfg: ASiTConfig = ASiTConfig()):
        super().__init__()
        self.rows, self.columns = cfg.n_mels // cfg.patch, FBANK_FRAMES // cfg.patch
        self.table_columns = cfg.table_columns
        self.embed_dim, self.window_frames = cfg.dim, 1 + self.rows * self.columns
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.rows * cfg.table_columns, cfg.dim))
        self.folded_positions: Tensor | None
        self.register_buffer("folded_positions", None, persistent=False)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, cfg.dim, cfg.patch, cfg.patch)})
        self.blocks = blocks(cfg.dim, cfg.heads, cfg.depth)
        self.norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        init_linear(self)
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward(self, spec: Tensor) -> Tensor:
        """Spec (B, 1, 128, 998) -> frames (B, 497, D)."""
        x = patches(spec.transpose(2, 3), self.patch_embed["proj"])  # (B, T', 8, D)
        x = x.flatten(1, 2)  # (B, T' * 8, D), frequency fastest
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        positions = self.positions() if self.folded_positions is None else self.folded_positions
        return self.run_blocks(x + positions)

    def positions(self) -> Tensor:
        """The position table for tokens (B, 497, D) of 10 s, resized to (1, 497, D).

        It was learned as 37 x 8 (time by frequency), but the published weak and strong weights
        were trained with it read as 8 x 37.
        """
        table = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.rows, self.table_columns))
        size = (self.columns, self.rows)
        table = F.interpolate(table, size, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def fold(self) -> None:
        """Keep the resized position table."""
        self.folded_positions = self.positions().detach()
