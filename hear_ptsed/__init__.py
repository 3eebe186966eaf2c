"""hear_ptsed: pre-trained sound event detection transformers behind the HEAR API."""

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
    checkpoint: str | None = None,
    n_classes: int | None = 447,
    sequence_model: str | None = None,
    head: str = "linear",
    **sequence_options: int,
):
    """A SEDModel in evaluation mode, from a checkpoint file or the released file of the stage.

    Args:
        stage, checkpoint: both None for random weights.
        n_classes, sequence_model, head, sequence_options: see registry.build.
    """
    from hear_ptsed import checkpoints, download, registry

    net = registry.build(model, n_classes, sequence_model, head, **sequence_options)
    net.classes = None
    if stage is not None and checkpoint is None:
        checkpoint = download.find(model, stage)
    if checkpoint is not None:
        net.classes = checkpoints.load_checkpoint(net, checkpoint).classes
    return net.eval()
