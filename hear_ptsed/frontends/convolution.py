"""A front-end whose Fourier transform is one convolution, for runtimes without a fast transform."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hear_ptsed.frontends.base import Framed, FrontEnd
from hear_ptsed.grid import SPEC_HOP


class ByConvolution(FrontEnd):
    """What a front-end computes in evaluation mode, up to rounding.

    The kernel is its linear step as a matrix: window, Fourier transform, and what it does to a
    frame before, merged in float64 and rounded once.
    """

    def __init__(self, frontend: Framed):
        super().__init__()
        self.frontend = frontend
        spectrum = frontend.spectrum(torch.eye(len(frontend.window), dtype=torch.float64))
        kernel = torch.cat([spectrum.real, spectrum.imag], 1).T  # (2 N, W)
        self.register_buffer("kernel", kernel[:, None].float().contiguous(), persistent=False)

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio (B, S) -> (B, F, T)."""
        x = F.conv1d(self.frontend.prepare(audio)[:, None], self.kernel, stride=SPEC_HOP)
        real, imaginary = x.chunk(2, dim=1)
        return self.frontend.bands(real.square() + imaginary.square())
