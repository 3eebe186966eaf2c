"""Models over a live signal: windows of 10 s that move on by a hop.

A frame comes twice: provisional, when the first window that holds it has been heard, after at most
a hop and the time to compute; and final, 10 s after it sounded, as the mean over all windows.
"""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hear_ptsed.grid import FRAME, FRAME_MS, FRAMES_PER_SECOND, WINDOW_FRAMES, WINDOW_S, n_frames
from hear_ptsed.model import Output
from hear_ptsed.windows import blend, check_audio, cut_window, frame_weights

Model = Callable[[Tensor], Tensor | Output]


class Block(NamedTuple):
    """Consecutive frames of a stream."""

    first: int  # number of the first of them
    frames: Tensor  # (T, D)
    final: bool  # False: said by the newest window alone; they come again, final


class Stream:
    """Run a model over audio that comes piece by piece; memory does not depend on the length.

    The final frames are, however the audio is cut into pieces, those of
    `over_windows(audio, model, overlap_s=10 - hop_s, batch=1)`: on one machine with the same
    threads to the last bit.

        stream = Stream(hear_ptsed.load("beats"), hop_s=1)
        for samples in microphone:  # (S,) at 16 kHz
            for first, logits, final in stream.feed(samples):
                ...
        last = stream.finish()

    YAMNet, whose frames see half a second around them and no window, gives final frames after that
    time and a hop, those of the whole to rounding; it has no windows to drop.

    Args:
        model: (1, 160000) -> (1, 250, D). What `hear_ptsed.load` gives: its strong logits, without
            a head its frames; or the model of a plug-in; or a function.
        hop_s: 0.04 to 10, a multiple of 0.04.

    Attributes:
        dropped: windows that `feed` left out to catch up; frames are the mean over the others.
    """

    def __new__(cls, model: Model, hop_s: float = 1.0) -> "Stream":
        return super().__new__(cls if _reach_of(model) is None else _NearStream)

    def __init__(self, model: Model, hop_s: float = 1.0):
        hop = round(hop_s * FRAMES_PER_SECOND) if 0 < hop_s <= WINDOW_S else 0
        if not hop or abs(hop / FRAMES_PER_SECOND - hop_s) > 1e-6:
            raise ValueError(f"hop of {hop_s} s; allowed are multiples of 0.04 up to {WINDOW_S}")
        if getattr(model, "hop_ms", FRAME_MS) != FRAME_MS:
            raise ValueError(
                f"the model embeds every {model.hop_ms} ms; frames of a stream have {FRAME_MS} ms: "
                "load it without hop"
            )
        self.hop_s, self.dropped = hop_s, 0
        self._model, self._hop = model, hop
        self._weight = frame_weights(hop < WINDOW_FRAMES)
        self._ended = False
        # The buffer reaches back to where the newest window began, or to a hop before the start.
        self._buffer = torch.zeros((hop + WINDOW_FRAMES) * FRAME)
        self._begin, self._filled = -hop, hop * FRAME  # frame, samples
        self._windows: deque[tuple[int, Tensor]] = deque()  # start, (250, D); of frames to come
        self._newest = -WINDOW_FRAMES  # start of the last window that was heard whole
        self._given = {False: 0, True: 0}  # frames, by Block.final

    @property
    def samples(self) -> int:
        """Number of samples so far."""
        return self._begin * FRAME + self._filled

    @torch.no_grad()
    def feed(self, samples: Tensor, catch_up: bool = False) -> list[Block]:
        """What is known now that these samples are, too.

        Args:
            samples: (S,) in [-1, 1] at 16 kHz, of any length; on the model's device.
            catch_up: of several windows that end in these samples run only the newest, and those
                that no frame can do without.
        """
        self._check(samples)
        self._buffer = self._buffer.to(samples.device)
        blocks = []
        while len(samples):
            piece = samples[: self._due() - self._filled]
            self._buffer[self._filled : self._filled + len(piece)] = piece
            due, samples = self._filled + len(piece) == self._due(), samples[len(piece) :]
            self._filled += len(piece)
            if due:
                late = catch_up and len(samples) >= self._hop * FRAME
                if late and self._can_drop():
                    self.dropped += 1
                else:
                    blocks += self._hear()
                self._move_on()
            blocks += self._settle()
        return blocks

    @torch.no_grad()
    def finish(self) -> list[Block]:
        """The last frames; nothing can be fed afterwards."""
        self._check_open()
        self._ended = True
        if not self.samples:
            return []
        total = n_frames(self.samples)
        last = max(total - WINDOW_FRAMES, 0)  # the last window ends with the audio,
        if self._hop == WINDOW_FRAMES:  # unless windows do not overlap
            last = self._begin + self._hop
        if self._newest < last < total:
            self._windows.append((last, self._run(last)))
        return self._finals(total)

    def _check(self, samples: Tensor) -> None:
        self._check_open()
        if not isinstance(samples, Tensor) or samples.ndim != 1:
            shape = f" of shape {tuple(samples.shape)}" if hasattr(samples, "shape") else ""
            raise ValueError(
                f"samples are a {type(samples).__name__}{shape}; expected a tensor (samples,): "
                "give those of a clip, torch.as_tensor(samples, dtype=torch.float32)"
            )
        if len(samples):
            check_audio(samples[None])

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError("this stream has ended; make another one")

    def _due(self) -> int:
        """Samples in the buffer at which a window is to be heard."""
        whole = len(self._buffer)
        if self._begin >= 0:
            return whole
        hop = self._hop * FRAME  # in the first 10 s every hop, zero-padded
        return min((self._filled // hop + 1) * hop, whole)

    def _run(self, start: int) -> Tensor:
        """The frames (250, D) of the window at a frame, zero-padded at its end."""
        return self._ask(cut_window(self._buffer[: self._filled], start - self._begin))

    def _ask(self, audio: Tensor) -> Tensor:
        """(S,) -> (T, D)"""
        out = self._model(audio[None].clone())
        if isinstance(out, Output):
            out = out.frames if out.strong is None else out.strong.mT
        return out[0]

    def _hear(self) -> list[Block]:
        """Run the window that is due, and give what it is the first to say."""
        start = self._begin + self._hop
        frames = self._run(start)
        heard = n_frames(self._filled - self._hop * FRAME)
        if heard == WINDOW_FRAMES:
            self._windows.append((start, frames))
            self._newest = start
        return self._give(frames[self._given[False] - start : heard].clone(), final=False)

    def _can_drop(self) -> bool:
        """Whether the windows before and behind the one that is due hold all frames."""
        early = self._filled < len(self._buffer)
        return early or self._begin + 2 * self._hop <= self._newest + WINDOW_FRAMES

    def _move_on(self) -> None:
        if self._filled == len(self._buffer):
            hop = self._hop * FRAME
            self._buffer[:-hop] = self._buffer[hop:].clone()
            self._begin, self._filled = self._begin + self._hop, self._filled - hop

    def _settle(self) -> list[Block]:
        """The frames that no window to come will hold, wherever the audio ends."""
        if self._hop == WINDOW_FRAMES:
            return self._finals(self._newest + WINDOW_FRAMES)
        return self._finals(n_frames(self.samples) - WINDOW_FRAMES)

    def _finals(self, end: int) -> list[Block]:
        first = self._given[True]
        if end <= first:
            return []
        weight = self._weight.to(self._windows[0][1].device)
        blocks = self._give(blend(self._windows, weight, first, end), final=True)
        while self._windows and self._windows[0][0] + WINDOW_FRAMES <= end:
            self._windows.popleft()
        return blocks

    def _give(self, frames: Tensor, final: bool) -> list[Block]:
        block = Block(self._given[final], frames, final)
        self._given[final] += len(frames)
        return [block]


class _NearStream(Stream):
    """A model whose frames see only so far: no window is heard twice but for its margins."""

    def __init__(self, model: Model, hop_s: float = 1.0):
        super().__init__(model, hop_s)
        self._reach = _reach_of(model)
        margin = 2 * self._reach
        self._buffer = torch.zeros((margin + self._hop) * FRAME)
        self._begin, self._filled = -margin, margin * FRAME

    @torch.no_grad()
    def finish(self) -> list[Block]:
        self._check_open()
        self._ended = True
        total = n_frames(self.samples)
        if not self.samples or self._given[True] == total:
            return []
        missing = max((total - self._begin) * FRAME - self._filled, 0)
        frames = self._ask(F.pad(self._buffer[: self._filled], (0, missing)))
        return self._give(frames[self._given[True] - self._begin :], final=True)

    def _due(self) -> int:
        return len(self._buffer)

    def _can_drop(self) -> bool:
        return False

    def _hear(self) -> list[Block]:
        frames, blocks = self._ask(self._buffer), []
        for final, end in ((False, len(frames)), (True, len(frames) - self._reach)):
            first = self._given[final] - self._begin
            if first < end:
                blocks += self._give(frames[first:end].clone(), final)
        return blocks

    def _settle(self) -> list[Block]:
        return []


def _reach_of(model: Model) -> int | None:
    # Plug-ins have the network in `model`; a detector's logits are a method of what has it.
    network = getattr(getattr(model, "__self__", model), "model", model)
    return getattr(network, "reach", None)
