"""Audio of any length through 10 s windows, on the 40 ms grid."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

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
    starts = window_starts(audio.shape[1], overlap_s)
    weight = frame_weights(overlap_s > 0).to(audio.device)
    return mean_of_windows(audio, model, starts, weight, batch)


def over_clips(
    clips: Iterable[Tensor],
    model: Callable[[Tensor], Tensor],
    overlap_s: float = 0.0,
    batch: int = 8,
) -> Iterator[Tensor]:
    """`over_windows` of clips (S,) of any lengths, whose windows share the calls of the model.

    Clips are taken as they are needed, and each comes back in turn: (n_frames(S), D).
    """
    placed = ((clip, window_starts(len(clip), overlap_s)) for clip in clips)
    return _means(placed, model, frame_weights(overlap_s > 0), batch)


def window_starts(n_samples: int, overlap_s: float) -> list[int]:
    """First frames of the windows over a clip; see `over_windows`."""
    total = n_frames(n_samples)
    last = max(total - WINDOW_FRAMES, 0)  # start of the window that ends with the clip
    hop = WINDOW_FRAMES - round(overlap_s * SAMPLE_RATE / FRAME)
    if not 0 <= overlap_s or hop < 1:
        raise ValueError(f"overlap {overlap_s} s; allowed is 0 up to, not including, {WINDOW_S} s")
    return [*range(0, last, hop), last] if overlap_s else list(range(0, total, hop))


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
    means = [*_means(((clip, starts) for clip in audio), model, weight, batch)]
    return torch.stack(means) if len(means) > 1 else means[0][None]


def _means(
    clips: Iterable[tuple[Tensor, Sequence[int]]],
    model: Callable[[Tensor], Tensor],
    weight: Tensor,
    batch: int,
) -> Iterator[Tensor]:
    """`mean_of_windows` of each of the clips (S,), which come with the starts of their windows."""
    unfinished: deque[_Mean] = deque()
    chunk: list[tuple[_Mean, int]] = []

    def run_chunk() -> None:
        frames = model(torch.stack([cut_window(mean.clip, start) for mean, start in chunk]))
        for (mean, start), window in zip(chunk, frames, strict=True):
            mean.add(start, window)
        chunk.clear()

    for clip, starts in clips:
        mean = _Mean(clip, starts, weight)
        unfinished.append(mean)
        for start in starts:
            chunk.append((mean, start))
            if len(chunk) == batch:
                run_chunk()
        while unfinished and not unfinished[0].missing:
            yield unfinished.popleft().frames
    if chunk:
        run_chunk()
    while unfinished:
        yield unfinished.popleft().frames


class _Mean:
    """The frames of one clip, to which its windows are added.

    Args:
        clip: (S,).
        starts: first frames of the windows.
        weight: (250,) of a window's frames.

    Attributes:
        frames: (n_frames(S), D), right when no window is missing.
    """

    frames: Tensor

    def __init__(self, clip: Tensor, starts: Sequence[int], weight: Tensor):
        self.clip, self.missing, self.heard = clip, len(starts), 0
        self.weight = weight.to(clip.device)
        self.norm = self.weight.new_zeros(n_frames(len(clip)))
        for start in starts:
            self.norm[start : start + WINDOW_FRAMES] += self.weight[: len(self.norm) - start]

    def add(self, start: int, window: Tensor) -> None:
        """Add what a model says of a window (250, D)."""
        if not self.heard:
            self.frames = window.new_zeros(len(self.norm), window.shape[-1])
        end = min(start + WINDOW_FRAMES, len(self.norm))
        share = self.weight[: end - start] / self.norm[start:end]
        self.frames[start:end] += share[:, None] * window[: end - start]
        self.heard, self.missing = self.heard + 1, self.missing - 1


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
