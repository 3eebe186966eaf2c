"""Events of a batch as what a model shall answer."""

import torch
from torch import Tensor

from hear_ptsed.grid import WINDOW_FRAMES


def frame_targets(events: Tensor, rows: int, classes: int) -> Tensor:
    """Events (E, 4) of a batch as float32 (rows, classes, 250), 1 where one is active."""
    row, label, first, end = events.unbind(1)
    base = (row * classes + label) * (WINDOW_FRAMES + 1)
    steps = torch.zeros(
        rows * classes * (WINDOW_FRAMES + 1), dtype=torch.int16, device=events.device
    )
    one = torch.ones_like(base, dtype=torch.int16)
    steps.index_add_(0, base + first, one)
    steps.index_add_(0, base + end, -one)
    steps = steps.view(rows, classes, WINDOW_FRAMES + 1)
    return (steps.cumsum(-1, dtype=torch.int16)[..., :-1] > 0).float()


def clip_targets(events: Tensor, rows: int, classes: int) -> Tensor:
    """Events (E, 4) of a batch as float32 (rows, classes), 1 where a class occurs."""
    targets = torch.zeros(rows, classes, device=events.device)
    targets[events[:, 0], events[:, 1]] = 1.0
    return targets
