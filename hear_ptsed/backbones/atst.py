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


@dataclass(frozen=True)
class ATSTFrameConfig:
    dim: int = 768
    depth: int = 12
    heads: int = 12
    n_mels: int = 64
    patch: int = 4  # spectrogram frames of one token
    max_tokens: int = 250
    drop: float = 0.0  # dropout, and drop-path of the last block


class ATSTFrame(Backbone):
    """Tokens of 4 spectrogram frames x 64 mel bands, 25 per second; at most 10 s."""

    prefixes = ("model.atst.", "atst.", "teacher.encoder.", "encoder.encoder.")
    # All but the first are the rest of upstream training files.
    ignored = ("atst_mel.", "teacher.", "student.", "cls_token")
    last_norm = "norm_frame"

    def __init__(self, cfg: ATSTFrameConfig = ATSTFrameConfig()):
        super().__init__()
        self.patch, self.embed_dim, self.window_frames = cfg.patch, cfg.dim, cfg.max_tokens
        self.mask_embed = nn.Parameter(torch.zeros(1, 1, cfg.dim))  # of SSL training, unused here
        self.pos_embed = nn.Parameter(torch.zeros(1, cfg.max_tokens + 1, cfg.dim))
        self.patch_embed = nn.ModuleDict(
            {"patch_embed": nn.Linear(cfg.n_mels * cfg.patch, cfg.dim)}
        )
        self.drop = nn.Dropout(cfg.drop)
        self.blocks = blocks(cfg.dim, cfg.heads, cfg.depth, qkv_bias=False, drop=cfg.drop)
        self.norm_frame = nn.LayerNorm(cfg.dim, eps=1e-6)
        init_linear(self)
        nn.init.normal_(self.mask_embed, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    @classmethod
    def from_released(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Reads the upstream name of the final norm, too."""
        return {re.sub(r"^norm\.", "norm_frame.", key): value for key, value in state.items()}

    def forward(self, spec: Tensor) -> Tensor:
        n_tokens = spec.shape[-1] // self.patch
        if n_tokens > self.window_frames:
            raise ValueError(
                f"{spec.shape[-1]} spectrogram frames; ATST-Frame takes at most "
                f"{self.patch * (self.window_frames + 1) - 1} (10 s): cut the audio into windows"
            )
        x = spec[:, 0, :, : n_tokens * self.patch]  # (B, F, T)
        x = x.unflatten(-1, (n_tokens, self.patch)).transpose(1, 2).flatten(2)  # (B, T', F * 4)
        x = self.patch_embed["patch_embed"](x)
        # Row 0 of the table is a leftover of a class token.
        return self.run_blocks(self.drop(x + self.pos_embed[:, 1 : n_tokens + 1]))
