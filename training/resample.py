"""Resampling with the kernel that the published checkpoints were trained with."""

from fractions import Fraction
from functools import cache

import torch
from torch import Tensor
from torchaudio.transforms import Resample

from hear_ptsed.windows import SAMPLE_RATE


def to_16k(audio: Tensor, rate: int) -> Tensor:
    """(..., S) float32 at `rate` Hz to 16 kHz, on its device."""
    return audio if rate == SAMPLE_RATE else _kernel(rate, audio.device)(audio)


@cache
def _kernel(rate: int, device: torch.device) -> Resample:
    # A ratio of large numbers would need a kernel of gigabytes; common rates stay exact.
    ratio = Fraction(rate, SAMPLE_RATE).limit_denominator(1000)
    return Resample(*ratio.as_integer_ratio(), resampling_method="sinc_interp_kaiser").to(device)
