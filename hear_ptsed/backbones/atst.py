"""ATST-Frame: twelve blocks over tokens of 40 ms that span all mel bands.

Paper: Li, Shao, Li, "Self-supervised audio teacher-student transformer for both clip-level and
frame-level tasks", TASLP 2024, arXiv 2306.04186.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.backbones.layers import blocks, init_linear
from hear_ptsed.grid import WINDOW_FRAMES


@dataclass(frozen=True)
class ATSTFrameConfig:
    dim: int = 768
    depth: int = 12
    heads: int = 12
    n_mels: int = 64
    patch: int = 4  # spectrogram frames of one token


class ATSTFrame(Backbone):
    """Tokens of 4 spectrogram frames x 64 mel bands, 25 per second."""

    prefixes = ("model.atst.", "atst.", "teacher.encoder.", "encoder.encoder.")
    # All but the first are the rest of upstream training files.
    ignored = ("atst_mel.", "teacher.", "student.", "cls_token")
    last_norm = "norm_frame"

    def __init__(self, cfg: ATSTFrameConfig = ATSTFrameConfig()):
        super().__init__()
        self.patch, self.embed_dim, self.window_frames = cfg.patch, cfg.dim, WINDOW_FRAMES
        self.mask_embed = nn.Parameter(torch.zeros(1, 1, cfg.dim))  # of SSL training, unused here
        # Row 0 is a leftover of a class token.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.window_frames, cfg.dim))
        self.patch_embed = nn.ModuleDict(
            {"patch_embed": nn.Linear(cfg.n_mels * cfg.patch, cfg.dim)}
        )
        self.blocks = blocks(cfg.dim, cfg.heads, cfg.depth, qkv_bias=False)
        self.norm_frame = nn.LayerNorm(cfg.dim, eps=1e-6)
        init_linear(self)
        nn.init.normal_(self.mask_embed, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors (name: tensor) in released spelling -> state; the upstream name of the final norm
        is read, too.
        """
        return {re.sub(r"^norm\.", "norm_frame.", key): value for key, value in state.items()}

    def forward(self, spec: Tensor) -> Tensor:
        """Spec (B, 1, 64, 1001) -> frames (B, 250, D); the last spectrogram frame is not used."""
        x = spec[:, 0].unfold(-1, self.patch, self.patch)  # (B, F, T', 4)
        x = self.patch_embed["patch_embed"](x.transpose(1, 2).flatten(2))  # (B, T', D)
        return self.run_blocks(x + self.pos_embed[:, 1:])
