"""The contract of every front-end."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class FrontEnd(nn.Module, ABC):
    """Maps audio (B, S) in [-1, 1] at 16 kHz to a spectrogram (B, 1, F, T), 100 frames per second.

    Computes in float32 also under autocast, each clip by itself. Constants are not stored.
    """

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> spec (B, 1, F, T)."""
        with torch.autocast(audio.device.type, enabled=False):
            return self.spectrogram(audio.float()).unsqueeze(1)

    @abstractmethod
    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, F, T)."""
