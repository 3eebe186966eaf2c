"""Random numbers of the trainings: each is a function of the seed, and of the step if it has one.

So a training can be killed at any moment, and loader processes change nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from training.data.sampling import AUGMENT, ORDER, generator, torch_seed

KINDS = ("strong", "weak", "unlabelled")  # of clips
WEAK = 100  # stream beside those of training.data.sampling


def picks_seed(seed: int, kind: str, *, finetuning: bool = False) -> int:
    """Seed by which the clips of one kind are ordered and cropped.

    Args:
        finetuning: other streams, so that the numbers of its earlier records stay: strong clips
            have the seed of the run itself.
    """
    if not finetuning:
        return torch_seed(seed, ORDER, KINDS.index(kind))
    return seed if kind == "strong" else int(generator(seed, WEAK).integers(2**31))


def augmentation(seed: int, step: int) -> torch.Generator:
    """What the augmentations of a step are drawn from."""
    return torch.Generator().manual_seed(torch_seed(seed, AUGMENT, step))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw new weights by a seed; torch's own generator goes on as if nothing had been drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
