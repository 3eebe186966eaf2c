"""hear_ptsed: pre-trained sound event detection transformers behind the HEAR API."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # importing torch takes seconds
    from hear_ptsed.model import SEDModel
    from hear_ptsed.yamnet import YamNet

__version__ = "0.1.0"


def list_models() -> list:
    """One row per model and stage: model, stage, module, parameters, dim, checkpoint, cached."""
    from hear_ptsed import download, registry

    return [
        row._replace(cached=download.cached(row.model, row.stage) is not None)
        for row in registry.listed()
    ]


def load(
    model: str,
    stage: str | None = "strong",
    checkpoint: Path | str | None = None,
    n_classes: int | Literal["file"] | None = "file",
    sequence_model: str | None = None,
    head: str | None = None,
    random: str | Collection[str] = (),
    **sequence_options: int | float,
) -> "SEDModel | YamNet":
    """A model in evaluation mode, from a checkpoint file or the released file of the stage.

    It is what the file holds: its classes, heads and sequence model; what it has no head for is
    None in the output. Asking for something else is an error, unless it is one of the parts in
    `random`, which get new weights from torch's global generator:

        load("beats")                                            # 447 classes
        load("beats", stage="weak", n_classes=10, random="head")  # to be fine-tuned

    Args:
        stage, checkpoint: both None for random weights in all parts.
        n_classes: "file" for those of the file, without one 447; None for no heads.
        sequence_model, head, sequence_options: see registry.build; None for those of the file,
            without one no sequence model and a linear head. They also say what the file itself does
            not: the sequence model and the kind of head of files of EfficientSED.
        random: "head", or ("sequence_model", "head"), since a head reads the sequence model.
    Returns:
        A model with `classes`, names or None. "yamnet" has one stage, 521 classes, an output of its
        own (see yamnet.YamNet) and no parts to choose.
    """
    from hear_ptsed import checkpoints, download, registry, yamnet

    untrained = stage is None and checkpoint is None
    if model == "yamnet":
        asked = n_classes != "file" or sequence_model or head or random or sequence_options
        if stage not in (None, "strong") or asked:
            raise ValueError("yamnet has no stages and no parts to choose: leave them out")
        return yamnet.load_model(checkpoint or "", untrained=untrained)
    if untrained:
        if random:
            raise ValueError("without stage and checkpoint all is random: leave out random")
        count = 447 if n_classes == "file" else n_classes
        net = registry.build(model, count, sequence_model, head or "linear", **sequence_options)
        return net.eval()
    parts = {"n_classes": n_classes, "sequence_model": sequence_model, "head": head}
    path = download.find(model, stage) if checkpoint is None else checkpoint
    return checkpoints.open_as_asked(path, model, **parts, random=random, **sequence_options)
