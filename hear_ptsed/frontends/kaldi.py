"""Kaldi-style log filter banks of BEATs, ASiT, fPaSST and frame_mn.

The banks and windows are evaluated in float32 in a fixed order: rounding them from float64 moves
the features by up to 1e-2 in near-empty bands.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from hear_ptsed.frontends.base import Framed, power_spectrogram
from hear_ptsed.grid import FBANK, SAMPLE_RATE, SPEC_HOP

N_FFT = 512


def mel_bank(
    low: float,
    high: float,
    n_mels: int = 128,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Triangles (F, 257) in the mel domain with peak 1; the Nyquist bin has weight 0.

    Args:
        low, high: edges of the first and the last triangle in Hz.
    """

    def mel(hz: float) -> float:
        return 1127.0 * math.log(1.0 + hz / 700.0)

    step = (mel(high) - mel(low)) / (n_mels + 1)
    index = torch.arange(n_mels, dtype=dtype, device=device)[:, None]
    left, centre, right = (mel(low) + (index + i) * step for i in range(3))
    hz = SAMPLE_RATE / N_FFT * torch.arange(N_FFT // 2, dtype=dtype, device=device)
    bins = 1127.0 * (1.0 + hz / 700.0).log()
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return F.pad(torch.minimum(rising, falling).clamp(min=0.0), (0, 1))


class KaldiFbank(Framed):
    """Log energies of 128 mel bands, 20-8000 Hz, of frames of 25 ms that fit completely.

    Args:
        window: (400,)
        mean, divisor: normalisation of the log energies.
        scale: applied to the audio, which Kaldi expects as 16-bit integers.
        centre_clip: subtract the mean of the whole clip.
    """

    def __init__(
        self,
        window: Tensor,
        mean: float,
        divisor: float,
        scale: float = 1.0,
        centre_clip: bool = False,
    ):
        super().__init__()
        self.n_fft = N_FFT
        self.mean, self.divisor, self.scale, self.centre_clip = mean, divisor, scale, centre_clip
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", mel_bank(20.0, 8000.0), persistent=False)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, 128, 1 + (S - 400) // 160)."""
        frames = self.prepare(audio).unfold(-1, FBANK, SPEC_HOP)  # (B, T, 400)
        return self.bands(self.spectrum(frames).abs().square().transpose(1, 2))

    def prepare(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, S)."""
        audio = audio * self.scale
        if self.centre_clip:  # in float64: a float32 mean depends on the number of threads
            audio = audio - audio.mean(-1, keepdim=True, dtype=torch.float64).float()
        return audio

    def spectrum(self, frames: Tensor) -> Tensor:
        """(..., 400) -> (..., 257), complex."""
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        return super().spectrum(frames - 0.97 * before)

    def bands(self, power: Tensor) -> Tensor:
        """(B, 257, T) -> (B, 128, T)."""
        energy = (power.transpose(1, 2) @ self.bank.T).clamp(min=torch.finfo(torch.float32).eps)
        return ((energy.log() - self.mean) / self.divisor).transpose(1, 2)


def beats_fbank() -> KaldiFbank:
    window = torch.hann_window(FBANK, periodic=False).pow(0.85)  # Kaldi's "povey"
    return KaldiFbank(window, mean=15.41663, divisor=2 * 6.55582, scale=2.0**15)


def asit_fbank() -> KaldiFbank:
    window = torch.hann_window(FBANK, periodic=False)
    return KaldiFbank(window, mean=-4.2677393, divisor=2 * 4.5689974, centre_clip=True)


class PaSSTMel(Framed):
    """Log-mel of fPaSST and frame_mn.

    In training the band edges are drawn anew for every call, from PyTorch's global generator.
    """

    def __init__(self, periodic: bool):
        super().__init__()
        self.n_fft = N_FFT
        self.divisor = 5.0  # of the log energies
        window = torch.hann_window(FBANK, periodic=periodic)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", mel_bank(0.0, 7000.0), persistent=False)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, 128, 1 + (S - 1) // 160)."""
        return self.bands(power_spectrogram(self._emphasise(audio), self.window, self.n_fft))

    def prepare(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, S + 399)."""
        return super().prepare(self._emphasise(audio))

    def bands(self, power: Tensor) -> Tensor:
        """(B, 257, T) -> (B, 128, T)."""
        bank = self._jittered_bank(power.device) if self.training else self.bank
        return ((bank @ power).clamp(min=1e-7).log() + 4.5) / self.divisor

    def _emphasise(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, S - 1)."""
        return audio[:, 1:] - 0.97 * audio[:, :-1]

    def _jittered_bank(self, device: torch.device) -> Tensor:
        low, high = int(torch.randint(10, ())), 8000 - int(torch.randint(2000, ()))
        return mel_bank(low, high, device=device)


def fpasst_mel() -> PaSSTMel:
    return PaSSTMel(periodic=True)


def frame_mn_mel() -> PaSSTMel:
    return PaSSTMel(periodic=False)
