"""Heads: frames of any sequence model or backbone -> logits per frame (strong) and per clip (weak).

Both heads answer with logits, so a caller applies the same sigmoid whichever head a model has.
The children's names are the keys of the released files: strong_head.*, weak_head.*.
"""

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """Strong logits of every frame, weak logits of the mean frame; n_weak defaults to n_strong.

    One of the two layers may be set to None, as in files that hold one of them; so is its output.
    """

    strong_head: nn.Linear | None
    weak_head: nn.Linear | None

    def __init__(self, in_dim: int, n_strong: int, n_weak: int | None = None):
        super().__init__()
        n_weak = n_strong if n_weak is None else n_weak
        if min(n_strong, n_weak) < 1:
            raise ValueError(f"class counts are {n_strong} and {n_weak}; both must be at least 1")
        self.strong_head = nn.Linear(in_dim, n_strong)
        self.weak_head = nn.Linear(in_dim, n_weak)

    def forward(self, frames: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Frames (B, T, D) -> strong logits (B, C, T), weak logits (B, C')."""
        strong = None if self.strong_head is None else self.strong_head(frames).transpose(1, 2)
        weak = None if self.weak_head is None else self.weak_head(frames.mean(1))
        return strong, weak


class AttentionHead(LinearHead):
    """Weak score = mean of the strong probabilities over time, weighted per class by attention.

    The attention is a softmax over the class axis (not over time), as in the released models.
    """

    def __init__(self, in_dim: int, n_classes: int):
        super().__init__(in_dim, n_classes)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, D) -> strong logits (B, C, T), weak logits (B, C) within +-16.2."""
        strong = self.strong_head(frames)
        # float32 under autocast: bfloat16 has no number between 0.996 and 1
        weights = self.weak_head(frames).float().softmax(-1).clamp(1e-7, 1.0)
        weak = (strong.float().sigmoid() * weights).sum(1) / weights.sum(1)
        return strong.transpose(1, 2), torch.logit(weak, eps=1e-7)


HEADS = {"linear": LinearHead, "attention": AttentionHead}
