"""hear_ptsed: pre-trained sound event detection transformers behind the HEAR API."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # importing torch takes seconds
    from hear_ptsed.model import SEDModel
    from hear_ptsed.registry import Listed

__version__ = "0.1.0"


def list_models() -> "list[Listed]":
    """One row per model and stage: family, model, stage, module, parameters, dim, checkpoint …"""
    from hear_ptsed import registry

    return registry.list_models()


def load(
    model: str | None = None,
    stage: str | None = "strong",
    checkpoint: Path | str | None = None,
    n_classes: int | Literal["file"] | None = "file",
    sequence_model: str | None = None,
    head: str | None = None,
    random: str | Collection[str] = (),
    *,
    backbone_only: bool = False,
    seed: int | None = None,
    **sequence_options: int | float,
) -> "SEDModel":
    """A model in evaluation mode, from a checkpoint file or the released file of the stage.

    It is what the file holds: its classes, heads and sequence model; what it has no head for is
    None in the output. Other parts are a ValueError, unless `random` gives them new weights:

        load("beats")                                            # 447 classes
        load("hf:OWNER/NAME")                                    # from the Hugging Face Hub
        load("beats", stage="weak", n_classes=10, random="head")  # to be fine-tuned

    Args:
        model: see `list_models`; None for what the file says it is or, where it does not say, for
            the model with the same tensors.
        stage, checkpoint: both None for random weights in all parts. A checkpoint is a file, a
            folder with model.safetensors, or hf:OWNER/NAME[@REVISION] (extra `hub`), which may also
            stand in place of the model.
        n_classes: "file" for those of the file, without one 447; None for no heads.
        sequence_model, head, sequence_options: see registry.build; None for those of the file,
            without one no sequence model and a linear head. EfficientSED's files need `head`.
        random: "head", or ("sequence_model", "head"), since a head reads the sequence model.
        backbone_only: leave sequence model and heads in the file, whatever they are.
        seed: of random weights; None for torch's global generator.
    Returns:
        A model with `classes`, names or None: audio (B, S) at 16 kHz, at most 10 s -> logits strong
        (B, C, T) and weak (B, C), frames (B, T, D), T = 250 for 10 s. A file without names of
        classes whose strong head has the 447 outputs of the released ones is taken to have theirs.
        A public network takes clips of any length and has no parts to choose.
    """
    import torch

    from hear_ptsed.checkpoints.load import ChosenParts, open_model

    random = frozenset({random} if isinstance(random, str) else random)
    parts = ChosenParts(n_classes, sequence_model, head, random, backbone_only, sequence_options)
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return open_model(model, stage, checkpoint, parts)
