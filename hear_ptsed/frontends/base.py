"""The contract of every front-end."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrontEnd(nn.Module, ABC):
    """Maps audio (B, S) in [-1, 1] at 16 kHz to a spectrogram (B, 1, F, T), 100 frames per second.

    Computes in float32 also under autocast, each clip by itself. Constants are not stored.
    """

    min_samples: int = 2800  # zero-padded to this length, which gives every backbone one frame

    def forward(self, audio: Tensor) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            audio = F.pad(audio.float(), (0, max(0, self.min_samples - audio.shape[-1])))
            return self.spectrogram(audio).unsqueeze(1)

    @abstractmethod
    def spectrogram(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, F, T)."""
