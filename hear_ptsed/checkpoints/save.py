"""Writing a model in the released layout."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hear_ptsed.checkpoints.description import FORMAT, check_description
from hear_ptsed.checkpoints.names import HEADS, find_registered
from hear_ptsed.model import SEDModel
from hear_ptsed.tensor_files import write


def save_checkpoint(
    model: SEDModel,
    path: Path | str,
    classes: Sequence[str] | None = None,
    heads: Sequence[str] = HEADS,
) -> None:
    """Write a model in the released layout, with a description of itself (see `describe`).

    A folded model is a RuntimeError; other classes or heads than the model's are a ValueError.

    Args:
        path: ends in .pt or .safetensors.
        classes: names of the classes, in order, of the strong head or, if that is not written, of
            the weak one.
        heads: those of the model's heads to write; leave out one that is untrained.
    """
    refuse_folded(model, "save")
    if unknown := set(heads) - set(HEADS):
        raise ValueError(f"unknown head {', '.join(unknown)}; known: {', '.join(HEADS)}")
    written = [head for head in HEADS if head in heads and getattr(model.head, head, None)]
    n_classes = len(getattr(model.head, written[0]).bias) if written else 0
    if classes is not None and len(classes) != n_classes:
        raise ValueError(f"{len(classes)} class names for a head of {n_classes} classes")
    description = {
        "format": FORMAT,
        "model": find_registered(model.backbone),
        "backbone": type(model.backbone).__name__,
        "sequence_model": None if model.sequence is None else model.sequence.options,
        "head": type(model.head).__name__ if written else None,
        "classes": None if classes is None else list(classes),
    }
    check_description(description, Path(path))
    left_out = tuple(f"{head}." for head in HEADS if head not in written)
    state = {n: v for n, v in _release(model).items() if not n.startswith(left_out)}
    write(Path(path), state, description)


def refuse_folded(model: SEDModel, verb: str) -> None:
    """A RuntimeError if the model is folded."""
    if model.folded:
        raise RuntimeError(
            f"cannot {verb} a folded model, its weights were rewritten: build another"
        )


def _release(model: SEDModel) -> dict[str, Tensor]:
    """The model's tensors under released names."""
    backbone = model.backbone
    state = {
        backbone.prefixes[0] + name: value
        for name, value in backbone.to_released(backbone.state_dict()).items()
    }
    if model.sequence is not None:
        state |= {f"seq_model.{name}": v for name, v in model.sequence.state_dict().items()}
    return state if model.head is None else state | model.head.state_dict()
