"""M2D: a plain ViT-Base over 16 x 16 patches; the five patches of a time step are concatenated.

Paper: Niizumi et al., "Masked Modeling Duo", ICASSP 2023, arXiv 2210.14648 (weights: M2D-CLAP,
Interspeech 2024, arXiv 2406.02032).
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.backbones.layers import blocks, init_linear, patches
from hear_ptsed.grid import SPEC_HOP, WINDOW

log = logging.getLogger(__name__)
NORM_STATS = (-7.1, 4.2)  # mean and deviation of the log-mel values


@dataclass(frozen=True)
class M2DConfig:
    dim: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16  # mel bins x spectrogram frames
    n_mels: int = 80


class M2D(Backbone):
    """One embedding of 5 x 768 per 160 ms."""

    prefixes = ("model.m2d.backbone.", "m2d.", "ar.runtime.backbone.")
    ignored = ("to_spec.", "ar.", "head.")  # the last two: projections and heads of upstream files

    def __init__(self, cfg: M2DConfig = M2DConfig()):
        super().__init__()
        self.rows, self.window_frames = cfg.n_mels // cfg.patch, WINDOW // SPEC_HOP // cfg.patch
        self.embed_dim = self.rows * cfg.dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, cfg.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.rows * self.window_frames, cfg.dim))
        # Travels with the checkpoint; the front-end has constants, as the published model does.
        self.register_buffer("norm_stats", torch.tensor(NORM_STATS))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, cfg.dim, cfg.patch, cfg.patch)})
        self.blocks = blocks(cfg.dim, cfg.heads, cfg.depth)
        self.norm = nn.LayerNorm(cfg.dim, eps=1e-6)
        init_linear(self)
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (name: tensor) in released spelling are the state as they are; other statistics
        than the front-end's are warned of.
        """
        stats = state["norm_stats"].tolist() if "norm_stats" in state else list(NORM_STATS)
        if any(abs(a - b) > 0.01 for a, b in zip(stats, NORM_STATS, strict=False)):
            log.warning(
                "the file's norm_stats are %s; the front-end uses %s, as the published model does",
                stats,
                NORM_STATS,
            )
        return state

    def forward(self, spec: Tensor) -> Tensor:
        """Spec (B, 1, 80, 1001) -> frames (B, 62, 5 * 768)."""
        x = patches(spec, self.patch_embed["proj"]).flatten(1, 2)  # (B, 5 * T', D), time fastest
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = self.run_blocks(x)[:, 1:].unflatten(1, (self.rows, self.window_frames))
        return x.transpose(1, 2).flatten(2)  # (B, T', 5 * D)
