"""Windows of 10 s that overlap, as a task asks for them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hear_ptsed.grid import FRAME_MS, WINDOW_FRAMES, WINDOW_S, window_frames


@dataclass(frozen=True)
class Stitch:
    """How the scores of a clip's frames are made from windows of 10 s that overlap.

    A window begins every `hop_s` as long as there are frames left, zero-padded at the clip's end. A
    frame has the weighted mean of the windows that hold it.
    """

    hop_s: float
    floor: float = 1.0  # weight of a window's first and last frame; its middle has 1
    average: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        parts = [WINDOW_S / n for n in range(1, WINDOW_FRAMES + 1) if WINDOW_FRAMES % n == 0]
        if self.hop_s not in parts:
            raise ValueError(
                f"windows every {self.hop_s} s; allowed are whole parts of 10 s on the grid of "
                "40 ms, as 5, 2, 1"
            )
        if not 0 < self.floor <= 1:
            raise ValueError(f"the weight at a window's border is {self.floor}; give 0 < it <= 1")

    @property
    def grids(self) -> int:
        """Windows that hold a frame in the midst of a clip."""
        return round(WINDOW_S / self.hop_s)

    def starts(self, frames: int, hop_ms: int = FRAME_MS) -> range:
        """First frames of the windows of a clip."""
        return range(0, frames, window_frames(hop_ms) // self.grids)

    def weight(self, hop_ms: int = FRAME_MS) -> np.ndarray:
        """(T,) float32 of the frames of a window: from `floor` up to 1 and down again."""
        place = np.linspace(-1, 1, window_frames(hop_ms), dtype=np.float32)
        return self.floor + (1 - self.floor) * (1 - np.abs(place))
