"""The plug-in under evaluation: a HEAR module with its checkpoint and its options."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor, nn

from eval_tasks.heareval.modules import find_module, hear_module, in_milliseconds, of_2021
from hear_ptsed import checkpoints, hear, load
from hear_ptsed.checkpoints import download
from hear_ptsed.errors import shown
from hear_ptsed.files import sha256
from hear_ptsed.grid import FRAME_MS, SAMPLE_RATE, Hop
from hear_ptsed.model import SEDModel
from hear_ptsed.registry import MODELS, PublicRow, Row, build_head

GENERIC = "hear_ptsed.plugins.checkpoint"
TAKE = ("layer", "layers", "drop_layers", "final_norm")  # options that choose blocks


@dataclass(frozen=True)
class Plugin:
    """A HEAR module such as hear_ptsed.plugins.beats_strong, or one of somebody else."""

    name: str  # of the module
    checkpoint: Path | None = None  # given by the user; None: what the plug-in finds itself
    options: dict[str, Any] = field(default_factory=dict)  # of load_model
    given_stage: str = ""  # what a checkpoint of the user's is said to be

    def __post_init__(self):
        if not isinstance(self.untrained, bool):
            raise ValueError(
                f"{self.name}: untrained is {shown(self.untrained)}; it must be true or false"
            )

    @cached_property
    def module(self) -> ModuleType:
        return find_module(self.name)

    @property
    def _of_suite(self) -> tuple[str, str | None] | None:
        """Model and stage (None: it has none) of one of this suite's plug-ins."""
        loader = getattr(self.module, "load_model", None)
        if isinstance(loader, partial) and loader.func is hear.load_model:
            return loader.args
        return None

    @cached_property
    def model(self) -> str:
        """Name of the network."""
        if self._of_suite:
            return self._of_suite[0]
        if self.name == GENERIC and self.file is not None:
            return checkpoints.describe(self.file).get("model") or self.file.stem
        return self.name.rsplit(".", 1)[-1]

    @property
    def row(self) -> Row | PublicRow | None:
        """Of the registry; None of a network that is not of this suite."""
        of_suite = self._of_suite or (self.name == GENERIC and self.file is not None)
        return MODELS.get(self.model) if of_suite else None

    @property
    def stage(self) -> str:
        released = self._of_suite[1] if self._of_suite else None
        return self.given_stage or released or ""

    @property
    def untrained(self) -> bool:
        """Whether the weights are random, which every record of theirs must say."""
        return self.options.get("untrained", False)

    @property
    def hop_ms(self) -> int:
        """From frame to frame, as far as the options say it."""
        hop = self.options.get("hop")
        return hop if hop in get_args(Hop) else FRAME_MS

    @cached_property
    def file(self) -> Path | None:
        """The checkpoint that is loaded, if it is known."""
        if self.checkpoint is not None and not self.checkpoint.is_file():
            raise FileNotFoundError(f"{self.checkpoint}: no such checkpoint")
        if self.checkpoint is not None or self.untrained or not self._of_suite:
            return self.checkpoint
        return download.find(*self._of_suite)

    @cached_property
    def sha256(self) -> str | None:
        """Of the checkpoint."""
        return None if self.file is None else sha256(self.file)

    def load(self, device: str = "cpu") -> nn.Module:
        """The HEAR model, frozen."""
        path = [] if self.checkpoint is None else [str(self.checkpoint)]
        with hear_module(self.name) as module:
            model = module.load_model(*path, **self.options).to(device)
        if model.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"{self.name} takes {model.sample_rate} Hz; only `--protocol hear` evaluates "
                "modules of another rate than 16000 Hz, for which `prepare TASK --sample-rate` "
                "keeps audio"
            )
        return model.eval()  # which not all modules of others are

    @torch.no_grad()
    def embed(self, model: nn.Module, audio: Tensor) -> Tensor:
        """(B, S) -> (B, T, D), a frame every `hop_ms`."""
        embed = in_milliseconds(self.module.get_timestamp_embeddings, self.name)
        with of_2021(self.name):
            frames, centres = embed(audio, model)
        spacing = float(centres[0, 1] - centres[0, 0]) if frames.shape[1] > 1 else self.hop_ms
        if abs(spacing - self.hop_ms) > 0.01:
            raise ValueError(
                f"{self.name} gives a frame every {spacing:g} ms; only `--protocol hear` "
                f"evaluates other spacings than {self.hop_ms} ms"
            )
        return frames

    def check_trainable(self) -> None:
        """Refuse what cannot be fine-tuned."""
        if unknown := set(self.options) - {*TAKE, "untrained"}:
            raise ValueError(
                f"the option {', '.join(sorted(unknown))} is of frozen models; fine-tuning takes "
                f"{', '.join(TAKE)}, untrained"
            )
        generic = self.name == GENERIC and self.file is not None
        if not generic and not (self._of_suite and isinstance(self.row, Row)):
            raise ValueError(
                f"{self.name} is no model of this suite and cannot be fine-tuned; use "
                f"--protocol linear, or {GENERIC} with --checkpoint"
            )

    def network(self, n_classes: int, head: str = "linear") -> SEDModel:
        """The network to fine-tune, with its own weights and a new head.

        The head is drawn from torch's global generator: seed it before.
        """
        self.check_trainable()
        parts = {"n_classes": None, "backbone_only": True}
        if self.name == GENERIC:
            net = load(checkpoint=self.file, **parts)
        else:
            parts["backbone_only"] = self.row.sequence is None
            stage, seed = (None, 0) if self.untrained else ("strong", None)
            net = load(self.model, stage, self.file, seed=seed, **parts)
        take = {key: self.options[key] for key in TAKE if key in self.options}
        if take:
            net.backbone.take(**take)
        net.head = build_head(head, net.width, n_classes)
        return net.train()


def device_of(name: str | None) -> str:
    """The device asked for, else a GPU if there is one."""
    return name or ("cuda" if torch.cuda.is_available() else "cpu")
