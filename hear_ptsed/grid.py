"""The grid on which all models hear and answer; each of its numbers stands here alone."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # importing torch takes seconds
    import torch
    from torch import Tensor

SAMPLE_RATE = 16_000  # Hz
FRAME = 640  # samples
FRAME_MS = FRAME * 1000 // SAMPLE_RATE  # 40
FRAMES_PER_SECOND = SAMPLE_RATE // FRAME  # 25
Hop = Literal[40, 20, 10]  # ms from frame to frame, where it may be finer than a frame is long
WINDOW_FRAMES = 250
WINDOW = WINDOW_FRAMES * FRAME  # samples
WINDOW_S = WINDOW // SAMPLE_RATE  # 10

SPEC_HOP = FRAME // 4  # samples: spectrograms have 100 frames per second
FBANK = 400  # samples in a frame of Kaldi's filter banks
FBANK_FRAMES = (WINDOW - FBANK) // SPEC_HOP + 1  # 998: those that lie wholly in a window


def hop_samples(hop_ms: int) -> int:
    """Samples from frame to frame."""
    return hop_ms * SAMPLE_RATE // 1000


def window_frames(hop_ms: int) -> int:
    """Frames in a window of 10 s."""
    return WINDOW_FRAMES * FRAME_MS // hop_ms


def n_frames(n_samples: int, hop_ms: int = FRAME_MS) -> int:
    """Frames whose centre lies within the audio; at least one."""
    return max(1, (n_samples - FRAME // 2) // hop_samples(hop_ms) + 1)


def timestamps(n: int, device: "torch.device | None" = None, hop_ms: int = FRAME_MS) -> "Tensor":
    """Centres (T,) of the first T = `n` frames in milliseconds, float32: 20, 60, 100, ..."""
    import torch

    return (FRAME_MS // 2 + hop_ms * torch.arange(n, device=device)).float()
