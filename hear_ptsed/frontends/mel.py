"""Mel spectrograms of ATST-Frame and M2D."""

import math
from typing import Literal

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from hear_ptsed.frontends.base import Framed, power_spectrogram
from hear_ptsed.grid import SAMPLE_RATE


class ATSTMel(Framed):
    """Decibels of 64 HTK mel bands, 60-7800 Hz, down to 80 dB below the maximum.

    Args:
        floor: whose maximum that is: the "clip"'s, or the "batch"'s as in the published front-end,
            where a clip depends on its neighbours. For a clip alone both agree.
    """

    def __init__(self, floor: Literal["clip", "batch"] = "clip"):
        super().__init__()
        self.floor, self.n_fft = floor, 1024
        bank = melscale_fbanks(
            1 + self.n_fft // 2, 60.0, 7800.0, 64, SAMPLE_RATE, norm=None, mel_scale="htk"
        )
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        self.register_buffer("bank", bank, persistent=False)  # (513, 64)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, 64, 1 + S // 160)."""
        return self.bands(power_spectrogram(audio, self.window))

    def bands(self, power: Tensor) -> Tensor:
        """(B, 513, T) -> (B, 64, T)."""
        decibel = 10.0 * (power.transpose(1, 2) @ self.bank).clamp(min=1e-10).log10()
        over = (1, 2) if self.floor == "clip" else (0, 1, 2)
        floor = decibel.amax(over, keepdim=True) - 80.0
        decibel = torch.maximum(decibel, floor).clamp(-50.0, 80.0)
        return ((decibel + 79.6482) / (50.6842 + 79.6482) * 2.0 - 1.0).transpose(1, 2)


class M2DMel(Framed):
    """Natural logarithm of 80 Slaney mel bands, 50-8000 Hz.

    Mean and deviation are fixed: the published model ignores the pair stored in its checkpoints.
    """

    def __init__(self):
        super().__init__()
        self.n_fft = 400
        # Designed in float64 and rounded once, which is what the published filters are.
        window = torch.hann_window(self.n_fft, dtype=torch.float64).float()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", slaney_bank(50.0, 8000.0, 80, self.n_fft), persistent=False)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, 80, 1 + S // 160)."""
        return self.bands(power_spectrogram(audio, self.window))

    def bands(self, power: Tensor) -> Tensor:
        """(B, 201, T) -> (B, 80, T)."""
        energy = self.bank @ power
        return ((energy + torch.finfo(torch.float32).eps).log() + 7.1) / 4.2


def slaney_bank(low: float, high: float, n_mels: int, n_fft: int) -> Tensor:
    """Triangles (F, N) linear in Hz with equal area on the Slaney scale, N = n_fft // 2 + 1.

    Args:
        low, high: edges of the first and the last triangle in Hz.
    """
    bend, per_octave = 1000.0, math.log(6.4) / 27.0  # linear below 1 kHz, logarithmic above

    def mel(hz: float) -> float:
        return hz * 3 / 200 if hz < bend else 15 + math.log(hz / bend) / per_octave

    mels = torch.linspace(mel(low), mel(high), n_mels + 2, dtype=torch.float64)
    points = torch.where(mels < 15, mels * 200 / 3, bend * ((mels - 15) * per_octave).exp())
    hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / n_fft
    left, centre, right = points[:-2, None], points[1:-1, None], points[2:, None]
    triangles = torch.minimum((hz - left) / (centre - left), (right - hz) / (right - centre))
    return (triangles.clamp(min=0.0) * 2.0 / (right - left)).float()
