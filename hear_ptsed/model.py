"""SEDModel: front-end, backbone, sequence model and heads put together."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.frontends.base import FrontEnd
from hear_ptsed.windows import WINDOW, WINDOW_FRAMES, n_frames


class Output(NamedTuple):
    """What SEDModel returns; without a head `strong` and `weak` are None."""

    strong: Tensor | None  # logits (B, C, T)
    weak: Tensor | None  # logits (B, C)
    frames: Tensor  # (B, T, D), what the heads see


class SEDModel(nn.Module):
    """Sound event detector for clips of at most 10 s at 16 kHz, 25 frames per second.

    Args:
        sequence: None, or a module (B, 250, E) -> (B, 250, D) with `out_dim`.
        head: None, or a module (B, T, D) -> strong (B, C, T), weak (B, C) logits.
    """

    def __init__(
        self,
        frontend: FrontEnd,
        backbone: Backbone,
        sequence: nn.Module | None = None,
        head: nn.Module | None = None,
    ):
        super().__init__()
        self.frontend, self.backbone = frontend, backbone
        self.sequence, self.head = sequence, head
        self.folded = False
        pooling = pooling_matrix(backbone.window_frames, WINDOW_FRAMES)
        self.pooling: Tensor | None
        self.register_buffer("pooling", pooling, persistent=False)

    def forward(self, audio: Tensor) -> Output:
        """Clips under 10 s are zero-padded as in training; only their real frames come back.

        Args:
            audio: (B, S) in [-1, 1], 1 <= S <= 160000.
        """
        if audio.ndim != 2 or not audio.is_floating_point():
            raise ValueError(
                f"audio is {audio.dtype} of shape {tuple(audio.shape)}; "
                "expected floating-point samples (clips, samples)"
            )
        if not 0 < audio.shape[1] <= WINDOW:
            raise ValueError(
                f"audio has {audio.shape[1]} samples; the model takes 1 to {WINDOW} (10 s at "
                "16 kHz): use hear_ptsed.windows.over_windows for longer clips"
            )
        spec = self.frontend(F.pad(audio, (0, WINDOW - audio.shape[1])))
        return self.detect(spec, n_frames(audio.shape[1]))

    def detect(self, spec: Tensor, n: int = WINDOW_FRAMES) -> Output:
        """Everything behind the front-end; the head sees the first `n` frames.

        Args:
            spec: (B, 1, F, T) of 10 s windows.
        """
        frames = self._pooled(spec)
        if self.sequence is not None:
            frames = self.sequence(frames)
        frames = frames[:, :n]
        strong, weak = (None, None) if self.head is None else self.head(frames)
        return Output(strong, weak, frames)

    def embed(self, windows: Tensor) -> Tensor:
        """The backbone's sequence at 25 frames per second: (B, 160000) -> (B, 250, E) float32."""
        return self._pooled(self.frontend(windows))

    def _pooled(self, spec: Tensor) -> Tensor:
        if spec.is_cpu and not self.training:
            frames = torch.cat([self.backbone(s) for s in spec.split(self.backbone.cpu_batch)])
        else:
            frames = self.backbone(spec)
        with torch.autocast(frames.device.type, enabled=False):
            return frames.float() if self.pooling is None else self.pooling @ frames.float()

    def fold(self) -> "SEDModel":
        """Fold constants for inference (see Backbone.fold); it cannot be saved afterwards."""
        self.eval()
        self.backbone.fold()
        self.folded = True
        return self


def pooling_matrix(n_in: int, n_out: int) -> Tensor | None:
    """Resampling over time as one matrix (n_out, n_in): mean of the inputs that an output spans,
    or linear interpolation (half-pixel centres) if there are fewer of them; None if equal.
    """
    if n_in == n_out:
        return None
    identity = torch.eye(n_in)[None]  # (1, time, time)
    if n_in > n_out:
        return F.adaptive_avg_pool1d(identity, n_out)[0].T.contiguous()
    return F.interpolate(identity, n_out, mode="linear", align_corners=False)[0].T.contiguous()
