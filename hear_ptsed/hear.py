"""The HEAR API over every model: load_model, get_timestamp_embeddings, get_scene_embeddings."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hear_ptsed import grid, load, windows
from hear_ptsed.backbones.base import Backbone
from hear_ptsed.export import to_onnx
from hear_ptsed.grid import FRAME_MS, Hop
from hear_ptsed.model import SEDModel, Undrawn
from hear_ptsed.registry import MODELS, find_row
from hear_ptsed.runtime import RuntimeModel
from hear_ptsed.schema import settings
from hear_ptsed.windows import Samples

log = logging.getLogger(__name__)
RUNTIMES = {"onnx": "float32", "openvino": "bfloat16"}  # beside torch -> its precision


@settings
class NetworkOptions:
    """How a network runs, in a plug-in or in a detector."""

    # seconds shared by neighbouring 10 s windows, which move by 40 ms or more
    overlap: Annotated[float, Field(ge=0, le=9.96)] = 0.0
    batch: Annotated[int, Field(ge=1, le=4096)] = 8  # windows per forward pass
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network
    compile: bool = False  # by torch.compile: a minute at first use, then faster; pads to `batch`
    untrained: bool = False  # random weights, no checkpoint
    # what computes; on a CPU also ONNX Runtime, in float32, and OpenVINO, in bfloat16
    runtime: Literal["torch", "onnx", "openvino"] = "torch"
    # Transformers only, at most one of the next three; see Backbone.take.
    # embed by the output of this block, 1 to depth
    layer: Annotated[int, Field(ge=1)] | None = None
    layers: Literal["mean"] | None = None  # by the mean over the outputs of all blocks
    drop_layers: Annotated[int, Field(ge=0)] = 0  # without the last blocks
    final_norm: bool = True  # with the norm behind the blocks

    def take_from(self, backbone: Backbone) -> None:
        """Reduce a backbone to the chosen blocks; a ValueError if it has no such blocks."""
        backbone.take(self.layer, self.layers, self.drop_layers, self.final_norm)

    def check_runtime(self, backbone: Backbone) -> None:
        """Refuse a runtime that does not go with the other options, or with the backbone."""
        if self.runtime == "torch":
            return
        precision = RUNTIMES[self.runtime]
        if self.compile or self.precision != precision:
            raise ValueError(
                f"runtime {self.runtime} computes in {precision}, uncompiled; asked for are "
                f"precision {self.precision} and compile {self.compile}"
            )
        if precision == "bfloat16" and not backbone.bfloat16:
            name = type(backbone).__name__
            raise ValueError(f"{name} breaks in bfloat16, which openvino takes: take runtime onnx")

    def open_exported(self, path: Path, name: str) -> RuntimeModel | None:
        """The named model from an .onnx file; None if the file is no such file."""
        if path.suffix != ".onnx":
            return None
        if self.runtime == "torch":
            raise ValueError(f"{path} is an ONNX file, which torch cannot run; take runtime onnx")
        with Undrawn():
            self.check_runtime(MODELS[name].backbone())
        if self.layer or self.layers or self.drop_layers or not self.final_norm:
            raise ValueError(
                f"{path} is fixed: leave out layer, layers, drop_layers and final_norm, or give "
                "the checkpoint that it was made of"
            )
        model = RuntimeModel(path.read_bytes(), str(path), self.runtime)
        if MODELS.get(model.facts.model) is not MODELS[name]:
            raise ValueError(f"{path} holds the model {model.facts.model}; asked for is {name}")
        return model


@settings
class Options(NetworkOptions):
    """Options of load_model; heareval passes them from --model-options."""

    hop: Hop = FRAME_MS  # ms from frame to frame; 20 takes twice the time, 10 four times


DEFAULTS = Options()


class HearModel(nn.Module):
    """A network that embeds clips of any length by what its heads see.

    25 frames per second, or as `hop` says. It is folded for inference: gradients reach the audio;
    to train the weights, load a SEDModel. Its state_dict, saved, is a file for `load_model` of the
    same model; YAMNet's, and any after a choice of blocks, for load_state_dict of a like one.
    """

    sample_rate = grid.SAMPLE_RATE

    def __init__(self, model: SEDModel | RuntimeModel, options: Options = DEFAULTS):
        super().__init__()
        self.options = options
        self.hop_ms = options.hop
        self.timestamp_embedding_size = self.scene_embedding_size = model.width
        self.model, self.low_precision = set_up(model, options)

    def __repr__(self) -> str:  # hear-validator prints it
        model = self.model
        exported = isinstance(model, RuntimeModel)
        return f"HearModel({model.name if exported else _name(model)}, {self.options})"

    def forward(self, audio: Samples) -> Tensor:
        """Timestamp embeddings, with gradients: audio as `take_audio` says -> (B, T, D) float32.

        T = n_frames(S, hop).
        """
        audio = take_audio(audio, self)
        with self._as_chosen(audio.device):
            return windows.with_hop(audio, self._embed, self.hop_ms)

    @torch.no_grad()
    def each(self, clips: Iterable[Tensor]) -> Iterator[Tensor]:
        """Timestamp embeddings of clips (S,) at 16 kHz on the CPU, each in turn: (T, D) float32.

        At 40 ms from frame to frame their windows share batches.
        """
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        if self.hop_ms != FRAME_MS:
            yield from (self(clip[None].to(device))[0].cpu() for clip in clips)
            return

        def step(audio: Tensor) -> Tensor:
            """(N, 160000) -> (N, 250, D)"""
            with self._as_chosen(device):
                return self._embed_windows(audio.to(device)).cpu()

        yield from self.model.over_clips(clips, step, self.options.overlap, self.options.batch)

    @contextmanager
    def _as_chosen(self, device: torch.device) -> Iterator[None]:
        """What runs inside has the precision and the compiler of the options."""
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=self.low_precision)
        with autocast, self._freezing(device.type == "cpu"):
            yield

    def _embed(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, n_frames(S), D)."""
        options = self.options
        return self.model.over(audio, self._embed_windows, options.overlap, options.batch)

    def _freezing(self, on: bool) -> AbstractContextManager:
        """Let the compiler lay out the weights for a CPU, when it first runs, as constants."""
        if not self.options.compile:
            return nullcontext()
        from torch._inductor import config

        return config.patch(freezing=on)

    def _embed_windows(self, audio: Tensor) -> Tensor:
        """(N, 160000) -> (N, 250, D); a compiled network always gets whole batches."""
        missing = self.options.batch - len(audio) if self.options.compile else 0
        return self.model.embed(F.pad(audio, (0, 0, 0, missing)))[: len(audio)]


def load_model(
    name: str, stage: str | None, model_file_path: str = "", **options: Any
) -> HearModel:
    """A model in evaluation mode for the two embedding functions.

    It embeds by its sequence model if it has one of its own, such as fmn10_tf256, else by its
    backbone, whatever else a file holds.

    Args:
        stage: None for a model without stages.
        model_file_path: a released, trained, safetensors or .onnx file; without one the released
            file of the stage, from $HEAR_PTSED_CHECKPOINTS, the cache or by download.
        options: see Options; a wrong one is a ValueError.
    """
    chosen = Options(**options)
    row = find_row(name, stage)
    with Undrawn():  # a wrong choice of blocks is told before a file is fetched
        chosen.take_from(row.backbone())
    if chosen.untrained and model_file_path:
        raise ValueError(f"untrained and a checkpoint ({model_file_path}) exclude each other")
    given = {"backbone_only": row.sequence is None, "n_classes": None}
    if chosen.untrained:
        return HearModel(load(name, stage=None, seed=0, **given), chosen).eval()
    path = model_file_path or None
    if path and (exported := chosen.open_exported(Path(path), name)):
        stacked = exported.facts.sequence_model is not None
        if stacked != (row.sequence is not None):
            ways = ("its sequence model", "its backbone")
            raise ValueError(
                f"{path} embeds by {ways[not stacked]}, {name} by {ways[stacked]}: give the "
                "checkpoint that it was made of"
            )
        return HearModel(exported, chosen).eval()
    return HearModel(load(name, stage or "strong", path, **given), chosen).eval()


def get_timestamp_embeddings(audio: Samples, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Embed clips every 40 ms, or at the hop that the model was loaded with; without gradients.

    Args:
        audio: see `take_audio`.
        model: of a plug-in: audio (B, S) -> embeddings (B, T, D).
    Returns:
        embeddings (B, T, D) float32 and the centres of the frames in milliseconds (B, T): 20, 60,
        100, ... as long as they lie within the audio, at least one; with hop 20, 20, 40, 60, ...
    """
    audio = take_audio(audio, model)
    model.eval()
    with torch.no_grad():
        embeddings = refuse_infinite(model(audio.float()))
    hop_ms = getattr(model, "hop_ms", FRAME_MS)  # plug-ins of others may have these functions, too
    centres = grid.timestamps(embeddings.shape[1], audio.device, hop_ms)
    return embeddings, centres.expand(len(audio), -1)


def get_scene_embeddings(audio: Samples, model: nn.Module) -> Tensor:
    """Embed whole clips, audio as `take_audio` says -> (B, D) float32: the mean over the real
    frames.
    """
    return refuse_infinite(get_timestamp_embeddings(audio, model)[0].mean(1))


def take_audio(audio: Samples, model: nn.Module) -> Tensor:
    """Audio as models take it; an error if it is none, or if the model's rate was changed.

    Args:
        audio: clips (B, S) or (B, 1, S), or one clip (S,), in [-1, 1] at model.sample_rate, of any
            length; an array of NumPy goes to the device of the model.
    Returns:
        (B, S)
    """
    if model.sample_rate != grid.SAMPLE_RATE:
        raise ValueError(
            f"model.sample_rate was set to {model.sample_rate}; the model takes 16000 Hz only: "
            "set it back and resample the audio"
        )
    parameter = next(model.parameters(), None)
    return windows.as_clips(audio, None if parameter is None else parameter.device)


def refuse_infinite(embeddings: Tensor) -> Tensor:
    """Embeddings (..., D), if they are finite; else a ValueError."""
    if not embeddings.isfinite().all():
        raise ValueError(
            "the embeddings are NaN or infinite: the weights are too large, so the checkpoint is "
            "damaged or of another model; or the audio is far beyond [-1, 1]"
        )
    return embeddings


def set_up(
    model: SEDModel | RuntimeModel, options: NetworkOptions
) -> tuple[SEDModel | RuntimeModel, bool]:
    """Reduce a model to the chosen blocks, fold it and give it its precision and runtime.

    Returns:
        The model, and True if it must run under bfloat16 autocast.
    """
    if isinstance(model, RuntimeModel):
        return model, False
    options.check_runtime(model.backbone)
    options.take_from(model.backbone)
    if options.runtime != "torch":
        name = _name(model)
        log.info("making an ONNX model of %s; `hear-ptsed export` does so once", name)
        return RuntimeModel(to_onnx(model), name, options.runtime), False
    backbone = model.fold().backbone
    low_precision = options.precision == "bfloat16" and backbone.bfloat16
    if low_precision:  # matrices only: norms and tables stay in float32
        for layer in backbone.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                layer.to(torch.bfloat16)
    elif options.precision == "bfloat16":
        log.warning("%s stays in float32", _name(model))
    if options.compile:
        backbone.compile(dynamic=False)
    return model, low_precision


def _name(model: SEDModel) -> str:
    return type(model.backbone).__name__
