"""What a model shall answer for a batch: hard and soft labels, and how those of clips are mixed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hear_ptsed.grid import WINDOW_FRAMES


class Targets(NamedTuple):
    """What the model shall answer, in [0, 1]; None for what is not taught."""

    strong: Tensor | None  # (B, C, 250), labels per 40 ms
    weak: Tensor | None = None  # (B, C), labels per clip
    soft: Tensor | None = None  # (B, C, 250), pseudo-label probabilities
    known: Tensor | None = None  # (B, C), 1 where a class is annotated, less mixed with unknown

    def map(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        """The same change of every tensor that is taught, (B, ...) each."""
        return Targets(*(None if tensor is None else change(tensor) for tensor in self))

    def mix(self, partners: "Targets", share: Tensor) -> "Targets":
        """(1 - share) of these targets and `share` (B,) of the partners'; both teach the same."""
        pairs = zip(self, partners, strict=True)
        return Targets(*(None if a is None else blend(a, b, share).clamp(0, 1) for a, b in pairs))


def blend(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """(1 - share) of each x (B, ...) and `share` (B,) of its partner; x itself where that is 0."""
    return x.lerp(partner, share.to(x.dtype).view(-1, *[1] * (x.ndim - 1)))


def frame_targets(events: Tensor, rows: int, classes: int) -> Tensor:
    """Events (E, 4) of a batch as float32 (rows, classes, 250), 1 where one is active."""
    row, label, first, end = events.unbind(1)
    base = (row * classes + label) * (WINDOW_FRAMES + 1)
    steps = torch.zeros(
        rows * classes * (WINDOW_FRAMES + 1), dtype=torch.int16, device=events.device
    )
    up = torch.ones_like(base, dtype=torch.int16)
    steps.index_add_(0, base + first, up)
    steps.index_add_(0, base + end, -up)
    steps = steps.view(rows, classes, WINDOW_FRAMES + 1)
    return (steps.cumsum(-1, dtype=torch.int16)[..., :-1] > 0).float()


def clip_targets(events: Tensor, rows: int, classes: int) -> Tensor:
    """Events (E, 4) of a batch as float32 (rows, classes), 1 where a class occurs."""
    targets = torch.zeros(rows, classes, device=events.device)
    targets[events[:, 0], events[:, 1]] = 1.0
    return targets


def soft_targets(hard: Tensor, logits: Tensor, has_pseudo: Tensor, column: Tensor) -> Tensor:
    """Probabilities (B, C, 250) of pseudo labels; the hard label of clips and classes without.

    Args:
        hard: (B, C, 250) labels.
        logits: (B, C', 250) pseudo labels, on other classes.
        has_pseudo: (B,) bool, which clips have some.
        column: (C,) column of each class in the logits, -1 for one that they lack.
    """
    soft = hard.clone()
    taught = column >= 0
    probabilities = logits.float().sigmoid()[:, column[taught]]
    soft[:, taught] = torch.where(has_pseudo[:, None, None], probabilities, hard[:, taught])
    return soft
