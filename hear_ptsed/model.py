"""SEDModel: front-end, backbone, sequence model and heads put together."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init
from torch.overrides import TorchFunctionMode

from hear_ptsed.backbones.base import Backbone
from hear_ptsed.errors import few
from hear_ptsed.frontends.base import FrontEnd
from hear_ptsed.grid import WINDOW, WINDOW_FRAMES, n_frames
from hear_ptsed.windows import check_audio, over_clips, over_windows

Step = Callable[[Tensor], Tensor]  # pieces of audio (N, S') -> frames (N, T', D)
Count = Annotated[int, Field(strict=True, ge=1, le=100_000)]  # of classes


class Output(NamedTuple):
    """What SEDModel returns; what it has no head for is None."""

    strong: Tensor | None  # logits (B, C, T)
    weak: Tensor | None  # logits (B, C)
    frames: Tensor  # (B, T, D), what the heads see


@dataclass(frozen=True)
class Report:
    """What became of the tensors of a file and of a model."""

    file: str
    loaded: tuple[str, ...]  # names in the file
    dropped: dict[str, str]  # names in the file -> why
    random: tuple[str, ...]  # names in the model: left at their random initialisation
    classes: tuple[str, ...] | None = None  # if the file names them

    def __str__(self) -> str:
        text = f"{self.file}: {len(self.loaded)} tensors loaded"
        reasons: dict[str, list[str]] = {}
        for name, why in self.dropped.items():
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            text += f"; dropped {few(names)} ({why})"
        return text + (f"; left random: {few(self.random)}" if self.random else "")


@contextmanager
def float32() -> Iterator[None]:
    """What is built inside is float32, whatever the default type of the process."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


class Undrawn(TorchFunctionMode):
    """A model that is built inside does not draw its random weights: a file is to fill them.

    What is computed, such as windows, is as ever. Unlike the meta device, where initialisation
    imports the compiler, it takes milliseconds.
    """

    # The functions of nn.init end in the methods; those that a mode sees from outside come last.
    draws = (Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Any call of torch as it is, but a draw into a tensor (...), which is left alone."""
        kwargs = kwargs or {}
        if func in self.draws:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class SEDModel(nn.Module):
    """Sound event detector for clips of at most 10 s at 16 kHz, 25 frames per second.

    Args:
        sequence: None, or a module (B, 250, E) -> (B, 250, D) with `out_dim`.
        head: None, or a module (B, T, D) -> strong (B, C, T), weak (B, C) logits.

    Attributes:
        classes: names of the classes, set by whatever opens a file; None if nobody named them.
        report: what was loaded from the file; None if there was none.
    """

    # None: a frame sees all of its window; else how many frames around it, of clips of any length
    reach: ClassVar[int | None] = None

    def __init__(
        self,
        frontend: FrontEnd,
        backbone: Backbone,
        sequence: nn.Module | None = None,
        head: nn.Module | None = None,
    ):
        super().__init__()
        self.frontend, self.backbone = frontend, backbone
        self.sequence, self.head = sequence, head
        self.folded = False
        self.classes: tuple[str, ...] | None = None
        self.report: Report | None = None
        pooling = pooling_matrix(backbone.window_frames, WINDOW_FRAMES)
        self.pooling: Tensor | None
        self.register_buffer("pooling", pooling, persistent=False)
        self.register_load_state_dict_post_hook(_fold_again)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SEDModel":
        """What .to(...), .half() and the like end in; another type than float32 is a ValueError."""
        dtype = fn(torch.empty(1, dtype=torch.float32)).dtype
        if dtype != torch.float32:
            raise ValueError(
                f"the weights stay in float32, asked for is {dtype}: load a plug-in with "
                "precision='bfloat16', or run the model under torch.autocast"
            )
        return super()._apply(fn, recurse)

    def forward(self, audio: Tensor) -> Output:
        """Clips under 10 s are zero-padded as in training; only their real frames come back.

        Args:
            audio: (B, S) in [-1, 1], 1 <= S <= 160000; longer or bad audio is a ValueError.
        """
        check_audio(audio)
        if audio.shape[1] > WINDOW:
            raise ValueError(
                f"audio has {audio.shape[1]} samples; the model takes 1 to {WINDOW} (10 s at "
                "16 kHz): use hear_ptsed.windows.over_windows for longer clips"
            )
        spec = self.frontend(F.pad(audio, (0, WINDOW - audio.shape[1])))
        return self.detect(spec, n_frames(audio.shape[1]))

    def detect(self, spec: Tensor, n: int = WINDOW_FRAMES) -> Output:
        """Everything behind the front-end; the head sees the first `n` frames.

        Args:
            spec: (B, 1, F, T) of 10 s windows.
            n: 1 to 250.
        Returns:
            logits strong (B, C, n), weak (B, C); frames (B, n, D)
        """
        frames = self._frames(spec)[:, :n]
        strong, weak = (None, None) if self.head is None else self.head(frames)
        return Output(strong, weak, frames)

    @property
    def width(self) -> int:
        """D of the frames that the heads see."""
        return self.backbone.embed_dim if self.sequence is None else self.sequence.out_dim

    def classes_of(self, head: str, name: str = "the model") -> tuple[str, ...]:
        """Names of the outputs of a trained head; a ValueError if it has none, or no names.

        Args:
            head: "strong" (logits of frames) or "weak" (logits of clips).
            name: of the model, for messages.
        """
        random = self.report.random if self.report else ()
        trained = {}
        for kind in ("strong", "weak"):
            layer = getattr(self.head, f"{kind}_head", None)
            if layer is not None and f"head.{kind}_head.bias" not in random:
                trained[kind] = len(layer.bias)
        if head not in trained:
            has = f", but a {next(iter(trained))} one" if trained else ""
            labels = {"strong": "events", "weak": "clip labels"}[head]
            raise ValueError(
                f"{name} has no trained {head} head{has}; give a checkpoint trained on {labels}"
            )
        if self.classes is None or len(self.classes) != trained[head]:
            raise ValueError(
                f"{name} does not name its {trained[head]} classes; give a file of this project "
                "that does (save_checkpoint with classes)"
            )
        return self.classes

    def embed(self, windows: Tensor) -> Tensor:
        """What the heads see, at 25 frames per second: (B, 160000) -> (B, 250, D) float32."""
        return self._frames(self.frontend(windows)).float()

    def over(self, audio: Tensor, step: Step, overlap_s: float = 0.0, batch: int = 8) -> Tensor:
        """Run a step, such as `embed`, over clips of any length; see windows.over_windows.

        Args:
            audio: (B, S) at 16 kHz.
            step: gets pieces of 160000 samples and gives 250 frames.
        Returns:
            (B, n_frames(S), D)
        """
        return over_windows(audio, step, overlap_s, batch)

    def over_clips(
        self, clips: Iterable[Tensor], step: Step, overlap_s: float = 0.0, batch: int = 8
    ) -> Iterator[Tensor]:
        """`over` of clips (S,) of any lengths, each in turn: (n_frames(S), D)."""
        return over_clips(clips, step, overlap_s, batch)

    def _frames(self, spec: Tensor) -> Tensor:
        frames = self._pooled(spec)
        return frames if self.sequence is None else self.sequence(frames)

    def _pooled(self, spec: Tensor) -> Tensor:
        if spec.is_cpu and not self.training and not torch.compiler.is_exporting():
            frames = torch.cat([self.backbone(s) for s in spec.split(self.backbone.cpu_batch)])
        else:
            frames = self.backbone(spec)
        with torch.autocast(frames.device.type, enabled=False):
            return frames.float() if self.pooling is None else self.pooling @ frames.float()

    def fold(self) -> "SEDModel":
        """Fold constants for inference (see Backbone.fold); it cannot be saved afterwards."""
        self.eval()
        self.backbone.fold()
        self.folded = True
        return self


def _fold_again(model: SEDModel, _: Any) -> None:
    """After load_state_dict: what was folded follows the new weights."""
    if model.folded:
        model.backbone.fold()


def pooling_matrix(n_in: int, n_out: int) -> Tensor | None:
    """Resampling over time as one matrix (T', T), T' = n_out, T = n_in: mean of the inputs that an
    output spans, or linear interpolation (half-pixel centres) if there are fewer; None if equal.
    """
    if n_in == n_out:
        return None
    identity = torch.eye(n_in)[None]  # (1, time, time)
    if n_in > n_out:
        return F.adaptive_avg_pool1d(identity, n_out)[0].T.contiguous()
    return F.interpolate(identity, n_out, mode="linear", align_corners=False)[0].T.contiguous()
