"""A model as an ONNX file that describes itself, front-end inside; needs the extra `onnx`.

See runtime.py for what such a file takes, gives and says, and for running it.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hear_ptsed import __version__, load
from hear_ptsed.checkpoints import download
from hear_ptsed.checkpoints.names import find_registered
from hear_ptsed.checkpoints.repository import locate
from hear_ptsed.errors import require_package
from hear_ptsed.files import atomic, sha256
from hear_ptsed.frontends.base import Framed
from hear_ptsed.frontends.convolution import ByConvolution
from hear_ptsed.grid import FRAMES_PER_SECOND, SAMPLE_RATE, WINDOW
from hear_ptsed.model import SEDModel
from hear_ptsed.runtime import KEY, Facts, RuntimeModel, read_facts

log = logging.getLogger(__name__)
OPSET = 20  # the first with GELU
TOLERANCE = 1e-5  # of the largest value of an output
LARGEST = 2**31 - 2**20  # bytes of tensors that one protobuf can hold


def export(out: Path, name: str, stage: str | None = None, checkpoint: Path | None = None) -> Facts:
    """Write a model with all that its file holds, sequence model and heads, as an ONNX file.

    Args:
        out: the file to write, which ends in .onnx; it is there whole and checked, or not at all.
        name: of the model.
        stage: of the released file; None for "strong".
        checkpoint: a file of the user's instead of the released one.
    Returns:
        What the file says of itself.
    """
    if out.suffix != ".onnx":
        raise ValueError(f"{out} does not end in .onnx; give such a name")
    if checkpoint is None:
        stage = stage or "strong"
        path = download.find(name, stage)
    else:
        stage, path = None, locate(checkpoint)
    model = load(name, checkpoint=path)
    source = {"stage": stage, "checkpoint": path.name, "sha256": sha256(path)}
    content = to_onnx(model, **source, model=name)
    with atomic(out) as temporary:
        temporary.write_bytes(content)
    return read_facts(content, str(out))


def to_onnx(model: SEDModel, /, **source: str | None) -> bytes:
    """The content of an ONNX file, checked by ONNX and against the model as torch runs it.

    Args:
        model: it is left as it is.
        source: what Facts says of where the model is from: model, stage, checkpoint, sha256.
    """
    onnx = require_package("onnx", "onnx")
    require_package("onnxscript", "onnx")
    if not isinstance(model.frontend, Framed):
        raise ValueError(
            f"{type(model).__name__} cannot be exported, since it takes clips of any length: run "
            "it with torch"
        )
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > LARGEST:
        raise ValueError(f"the model has {size / 1e9:.1f} GB of weights; one file holds 2 GB")
    model = copy.deepcopy(model).fold().requires_grad_(False).cpu()
    proto = _trace(model)
    facts = _state_facts(model, source)
    content = _serialise(proto, facts)
    onnx.checker.check_model(proto)
    error = _compare(model, RuntimeModel(content, "the exported model"))
    log.info("exported: largest difference from torch %.1e of the largest value", error)
    return _serialise(proto, replace(facts, error=error))


class Traced(nn.Module):
    """A model as it is traced: whole windows only, and a front-end without Fourier transform."""

    def __init__(self, model: SEDModel):
        super().__init__()
        self.model, self.frontend = model, ByConvolution(model.frontend)

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        """(B, 160000) -> strong (B, C, 250), weak (B, C), if the model has them; frames
        (B, 250, D).
        """
        outputs = self.model.detect(self.frontend.spectrogram(audio).unsqueeze(1))
        return tuple(value for value in outputs if value is not None)


def _trace(model: SEDModel) -> Any:
    """The model as an onnx.ModelProto."""
    with _quiet():
        program = torch.onnx.export(
            Traced(model).eval(),
            (torch.zeros(2, WINDOW),),
            input_names=["audio"],
            output_names=[*_heads(model), "frames"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes to its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _serialise(proto: Any, facts: Facts) -> bytes:
    """A file's content: an onnx.ModelProto with these facts in its metadata."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=KEY, value=json.dumps(asdict(facts)))
    return proto.SerializeToString()


@torch.no_grad()
def _compare(model: SEDModel, exported: RuntimeModel) -> float:
    """Largest difference of an output, relative to its largest value, of logits to 1 at least; a
    RuntimeError beyond TOLERANCE.
    """
    audio = 0.1 * torch.randn(3, WINDOW, generator=torch.Generator().manual_seed(0))
    audio[1:] *= torch.linspace(0, 1, WINDOW)
    error = 0.0
    for clips in (audio[:1], audio):
        want, got = model(clips), exported(clips)
        for name in (*exported.facts.heads, "frames"):
            ours, theirs = getattr(want, name), getattr(got, name)
            scale = ours.abs().max().item()
            scale = scale if name == "frames" else max(1.0, scale)
            error = max(error, (ours - theirs).abs().max().item() / scale)
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"the exported model differs from torch by {error:.1e} of the largest value; allowed "
            f"is {TOLERANCE:.0e}: run this model with torch"
        )
    return error


def _heads(model: SEDModel) -> tuple[str, ...]:
    return tuple(
        name for name in ("strong", "weak") if getattr(model.head, f"{name}_head", None) is not None
    )


def _state_facts(model: SEDModel, source: dict[str, str | None]) -> Facts:
    nowhere = dict.fromkeys(("stage", "checkpoint", "sha256"))
    return Facts(
        version=__version__,
        sequence_model=None if model.sequence is None else model.sequence.options["kind"],
        heads=_heads(model),
        classes=model.classes,
        sample_rate=SAMPLE_RATE,
        samples=WINDOW,
        frames_per_second=FRAMES_PER_SECOND,
        dim=model.width,
        error=0.0,
        **{"model": find_registered(model.backbone)} | nowhere | source,
    )
