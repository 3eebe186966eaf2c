"""Audio of any length through 10 s windows, on the 40 ms grid."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SAMPLE_RATE = 16_000  # Hz
FRAME = 640  # samples, 40 ms
WINDOW_FRAMES = 250
WINDOW = WINDOW_FRAMES * FRAME  # samples, 10 s


def n_frames(n_samples: int) -> int:
    """Frames whose centre lies within the audio; at least one."""
    return max(1, (n_samples + FRAME // 2) // FRAME)


def timestamps(n: int, device: torch.device | None = None) -> Tensor:
    """Centres of the first `n` frames in milliseconds: 20, 60, 100, ... (n,) float32."""
    return (20 + 40 * torch.arange(n, device=device)).float()


def over_windows(
    audio: Tensor, model: Callable[[Tensor], Tensor], overlap_s: float = 0.0, batch: int = 8
) -> Tensor:
    """Run a model of 10 s windows over clips of any length.

    Windows follow each other from the start, the last one zero-padded. With an overlap the last
    window of a longer clip ends with the clip, and frames are averaged with weights that fall to
    zero at the borders of a window, so that nothing jumps there.

    Args:
        audio: (B, S) at 16 kHz.
        model: (N, 160000) -> (N, 250, D).
        overlap_s: seconds shared by neighbouring windows, 0 <= overlap_s < 10.
        batch: windows per call of `model`.
    Returns:
        (B, n_frames(S), D)
    """
    total = n_frames(audio.shape[1])
    hop = WINDOW_FRAMES - round(overlap_s * SAMPLE_RATE / FRAME)
    if not 0 <= overlap_s or hop < 1:
        raise ValueError(f"overlap {overlap_s} s; allowed is 0 up to, not including, 10 s")
    starts = list(range(0, max(total - WINDOW_FRAMES, 0) + hop, hop))
    weight = torch.ones(WINDOW_FRAMES, device=audio.device)
    if overlap_s:
        starts = [min(start, max(total - WINDOW_FRAMES, 0)) for start in starts]
        ramp = torch.arange(1, WINDOW_FRAMES + 1, device=audio.device).float()
        weight = torch.minimum(ramp, ramp.flip(0))
    starts = [start for start in dict.fromkeys(starts) if start < total]
    norm = torch.zeros(total, device=audio.device)
    for start in starts:
        norm[start : start + WINDOW_FRAMES] += weight[: total - start]

    places = [(clip, start) for clip in range(len(audio)) for start in starts]
    out = None
    for first in range(0, len(places), batch):
        chunk = places[first : first + batch]
        frames = model(torch.stack([_window(audio[clip], start) for clip, start in chunk]))
        if out is None:
            out = frames.new_zeros(len(audio), total, frames.shape[-1])
        for (clip, start), window in zip(chunk, frames, strict=True):
            end = min(start + WINDOW_FRAMES, total)
            share = weight[: end - start] / norm[start:end]
            out[clip, start:end] += share[:, None] * window[: end - start]
    return out


def _window(clip: Tensor, start: int) -> Tensor:
    """The 10 s from frame `start`, zero-padded at the end of the clip."""
    samples = clip[start * FRAME : start * FRAME + WINDOW]
    return F.pad(samples, (0, WINDOW - len(samples)))
