"""Audio of any length through 10 s windows, on the 40 ms grid."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hear_ptsed.errors import few
from hear_ptsed.grid import (
    FRAME,
    SAMPLE_RATE,
    WINDOW,
    WINDOW_FRAMES,
    WINDOW_S,
    hop_samples,
    n_frames,
)

# Sample values. Louder audio can overflow inside a front-end; 16-bit integers as floats do not.
LOUDEST = 1e9
Samples = Tensor | np.ndarray  # audio as `as_clips` takes it


def as_clips(audio: Samples, device: torch.device | None = None) -> Tensor:
    """Audio as a batch of mono clips, or what `check_audio` raises.

    Args:
        audio: (S,), (B, S) or (B, 1, S); of NumPy, too.
        device: for an array of NumPy.
    Returns:
        (B, S)
    """
    if isinstance(audio, np.ndarray):  # a copy, since torch refuses some views and warns of others
        audio = torch.from_numpy(audio.copy()).to(device)
    if isinstance(audio, Tensor) and audio.ndim == 1:
        audio = audio[None]
    elif isinstance(audio, Tensor) and audio.ndim == 3 and audio.shape[1] == 1:
        audio = audio[:, 0]
    check_audio(audio)
    return audio


def check_audio(audio: Tensor) -> None:
    """Refuse audio that is not (B, S) of finite floating-point samples.

    Raises:
        TypeError: it is no tensor.
        ValueError: its shape, type or samples; the message says what to do.
    """
    if not isinstance(audio, Tensor):
        raise TypeError(
            f"audio is a {type(audio).__name__}; expected a tensor (clips, samples) of floats in "
            "[-1, 1]: convert with torch.as_tensor(samples, dtype=torch.float32)[None]"
        )
    if audio.ndim != 2 or audio.numel() == 0:
        remedies = {1: ": give one clip as audio[None]", 3: ": average channels by audio.mean(1)"}
        remedy = remedies.get(audio.ndim, "") if audio.numel() else ""
        raise ValueError(
            f"audio of shape {tuple(audio.shape)}; expected (clips, samples), not empty{remedy}"
        )
    if audio.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise ValueError(
            f"audio of {audio.dtype}; expected floating-point samples in [-1, 1]: divide integers "
            "by their full scale, such as audio / 32768"
        )
    if torch.compiler.is_compiling():  # or exporting: no decision by values in a graph
        return
    low, high = torch.aminmax(audio)
    if not ((low >= -LOUDEST) & (high <= LOUDEST)):  # NaN compares false
        _refuse_samples(audio)


def _refuse_samples(audio: Tensor) -> None:
    finite = torch.isfinite(audio).all(1)
    if not finite.all():
        clips = [str(clip) for clip in (~finite).nonzero()[:, 0].tolist()]
        raise ValueError(f"NaN or infinite samples in clip {few(clips, 8)}; repair them")
    raise ValueError(
        f"samples reach {audio.abs().max().item():.3g}; expected [-1, 1]: scale the audio"
    )


def over_windows(
    audio: Tensor, model: Callable[[Tensor], Tensor], overlap_s: float = 0.0, batch: int = 8
) -> Tensor:
    """Run a model of 10 s windows over clips of any length.

    Windows follow each other from the start, the last one zero-padded. With an overlap the last
    window of a longer clip ends with the clip, and a frame is the mean of the windows that hold
    it, weighted by its distance to their borders, so that nothing jumps there.

    Args:
        audio: (B, S) at 16 kHz.
        model: (N, 160000) -> (N, 250, D).
        overlap_s: seconds shared by neighbouring windows, 0 <= overlap_s < 10.
        batch: windows per call of `model`.
    Returns:
        (B, n_frames(S), D)
    """
    total = n_frames(audio.shape[1])
    last = max(total - WINDOW_FRAMES, 0)  # start of the window that ends with the clip
    hop = WINDOW_FRAMES - round(overlap_s * SAMPLE_RATE / FRAME)
    if not 0 <= overlap_s or hop < 1:
        raise ValueError(f"overlap {overlap_s} s; allowed is 0 up to, not including, {WINDOW_S} s")
    starts = [*range(0, last, hop), last] if overlap_s else list(range(0, total, hop))
    weight = frame_weights(overlap_s > 0).to(audio.device)
    return mean_of_windows(audio, model, starts, weight, batch)


def frame_weights(overlapping: bool) -> Tensor:
    """(250,) float32: what the frames of a window count for, where windows overlap their distance
    to its borders.
    """
    if not overlapping:
        return torch.ones(WINDOW_FRAMES, dtype=torch.float32)
    ramp = torch.arange(1, WINDOW_FRAMES + 1, dtype=torch.float32)
    return torch.minimum(ramp, ramp.flip(0))


def mean_of_windows(
    audio: Tensor,
    model: Callable[[Tensor], Tensor],
    starts: Sequence[int],
    weight: Tensor,
    batch: int = 8,
) -> Tensor:
    """The weighted mean of what a model says of a frame in each of the windows that hold it.

    Args:
        audio: (B, S) at 16 kHz, zero-padded where a window reaches beyond its end.
        model: (N, 160000) -> (N, 250, D).
        starts: first frames of the windows, which together hold every frame.
        weight: (250,) of a window's frames, above 0.
        batch: windows per call of `model`.
    Returns:
        (B, n_frames(S), D)
    """
    total = n_frames(audio.shape[1])
    norm = torch.zeros(total, dtype=weight.dtype, device=weight.device)
    for start in starts:
        norm[start : start + WINDOW_FRAMES] += weight[: total - start]

    places = [(clip, start) for clip in range(len(audio)) for start in starts]
    out = None
    for first in range(0, len(places), batch):
        chunk = places[first : first + batch]
        frames = model(torch.stack([cut_window(audio[clip], start) for clip, start in chunk]))
        if out is None:
            out = frames.new_zeros(len(audio), total, frames.shape[-1])
        for (clip, start), window in zip(chunk, frames, strict=True):
            end = min(start + WINDOW_FRAMES, total)
            share = weight[: end - start] / norm[start:end]
            out[clip, start:end] += share[:, None] * window[: end - start]
    return out


def blend(windows: Iterable[tuple[int, Tensor]], weight: Tensor, first: int, end: int) -> Tensor:
    """Some of the frames that `mean_of_windows` gives, of windows that a model has heard.

    Args:
        windows: first frame and frames (250, D) of each, by time; together they hold the frames.
        weight: (250,) of a window's frames, above 0.
        first, end: of the frames that are wanted.
    Returns:
        (end - first, D)
    """
    norm = weight.new_zeros(end - first)
    parts = []
    for start, frames in windows:
        at, until = max(first, start), min(end, start + WINDOW_FRAMES)
        if at < until:
            rows, of_window = slice(at - first, until - first), slice(at - start, until - start)
            norm[rows] += weight[of_window]
            parts.append((rows, weight[of_window], frames[of_window]))
    out = parts[0][2].new_zeros(end - first, parts[0][2].shape[-1])
    for rows, weights, frames in parts:
        out[rows] += (weights / norm[rows])[:, None] * frames
    return out


def with_hop(audio: Tensor, model: Callable[[Tensor], Tensor], hop_ms: int) -> Tensor:
    """Run a model of 40 ms frames so often, each time on audio that begins a hop later, that its
    frames, interleaved, follow each other at the hop.

    Args:
        audio: (B, S) at 16 kHz.
        model: (B, S') -> (B, n_frames(S'), D).
        hop_ms: a part of 40.
    Returns:
        (B, n_frames(S, hop_ms), D); every (40 / hop_ms)-th frame, from the first on, is that of
        `model(audio)`.
    """
    hop, total = hop_samples(hop_ms), n_frames(audio.shape[1], hop_ms)
    runs = FRAME // hop
    frames = model(audio)
    if runs == 1:
        return frames
    out = frames.new_empty(len(audio), total, frames.shape[-1])
    out[:, ::runs] = frames
    for run in range(1, min(runs, total)):
        out[:, run::runs] = model(audio[:, run * hop :])
    return out


def cut_window(clip: Tensor, start: int) -> Tensor:
    """The 10 s from frame `start`, zero-padded at the end of the clip."""
    samples = clip[start * FRAME : start * FRAME + WINDOW]
    return F.pad(samples, (0, WINDOW - len(samples)))
