"""How a new head begins: small weights, and biases such that its scores begin at a prior."""

import math

from torch import nn

from hear_ptsed.heads import LinearHead


def begin_small(head: LinearHead) -> None:
    """Weights of an attention head as published, from torch's own generator."""
    for layer in (head.strong_head, head.weak_head):
        nn.init.normal_(layer.weight, std=0.01)


def begin_at(prior: float | None, strong: nn.Linear, weak: nn.Linear | None = None) -> None:
    """Biases by which the scores of frames begin at about the prior.

    Args:
        prior: None for PyTorch's own biases.
        strong: gives the scores of frames.
        weak: its biases become 0: no class has more of the attention. None: they stay.
    """
    if prior is None:
        return
    nn.init.constant_(strong.bias, math.log(prior / (1 - prior)))
    if weak is not None:
        nn.init.zeros_(weak.bias)
