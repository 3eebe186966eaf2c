"""The grid on which all models hear and answer; each of its numbers stands here alone."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing torch takes seconds
    import torch
    from torch import Tensor

SAMPLE_RATE = 16_000  # Hz
FRAME = 640  # samples
FRAME_MS = FRAME * 1000 // SAMPLE_RATE  # 40
FRAMES_PER_SECOND = SAMPLE_RATE // FRAME  # 25
WINDOW_FRAMES = 250
WINDOW = WINDOW_FRAMES * FRAME  # samples
WINDOW_S = WINDOW // SAMPLE_RATE  # 10

SPEC_HOP = FRAME // 4  # samples: spectrograms have 100 frames per second
FBANK = 400  # samples in a frame of Kaldi's filter banks
FBANK_FRAMES = (WINDOW - FBANK) // SPEC_HOP + 1  # 998: those that lie wholly in a window


def n_frames(n_samples: int) -> int:
    """Frames whose centre lies within the audio; at least one."""
    return max(1, (n_samples + FRAME // 2) // FRAME)


def timestamps(n: int, device: "torch.device | None" = None) -> "Tensor":
    """Centres (T,) of the first T = `n` frames in milliseconds, float32: 20, 60, 100, ..."""
    import torch

    return (FRAME_MS // 2 + FRAME_MS * torch.arange(n, device=device)).float()
