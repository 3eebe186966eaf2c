"""The contract of every front-end."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hear_ptsed.grid import SPEC_HOP


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


class Framed(FrontEnd):
    """A front-end that is there in three steps, too: `prepare`, `spectrum`, `bands`.

    The second is linear, so that an export can make it a convolution, see convolution.py. The first
    two are here those of centred frames, as torch.stft takes them.
    """

    window: Tensor  # (W,)
    n_fft: int  # points of the Fourier transform

    def prepare(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, S'), of which a frame of W samples begins every 160."""
        reach = len(self.window) // 2
        return F.pad(audio, (reach, reach), mode="reflect")

    def spectrum(self, frames: Tensor) -> Tensor:
        """(..., W) -> (..., 1 + n_fft // 2), complex."""
        return torch.fft.rfft(frames * self.window, self.n_fft)

    @abstractmethod
    def bands(self, power: Tensor) -> Tensor:
        """Power (B, 1 + n_fft // 2, T) -> (B, F, T)."""


def power_spectrogram(audio: Tensor, window: Tensor, n_fft: int | None = None) -> Tensor:
    """Power of centred frames, with the edges of the audio reflected, both as torch.stft does.

    Args:
        audio: (B, S)
        window: (W,)
        n_fft: points of the Fourier transform, W if None.
    Returns:
        (B, 1 + n_fft // 2, 1 + S // 160)
    """
    size = len(window)
    stft = torch.stft(audio, n_fft or size, SPEC_HOP, size, window, return_complex=True)
    return stft.real.square() + stft.imag.square()  # abs() of complex numbers is slow
