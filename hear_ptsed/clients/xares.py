"""X-ARES: an encoder class per model and stage, read by soundfile (extra `xares`).

    python -m xares.run hear_ptsed/clients/xares/beats_strong.py tasks/esc50_task.py --max-jobs 0

Such a path is no file: it names a module that the finder below makes, as the HEAR plug-ins are
made. With options or a file of your own, give X-ARES a file of two lines:

    from hear_ptsed.clients import xares
    Encoder = xares.encoder_class("beats_strong", layer=6)
"""

import logging
import re
import sys
import tarfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hear_ptsed.audio import AudioFile
from hear_ptsed.clients.chosen import Chosen
from hear_ptsed.errors import require_package
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.hear import get_timestamp_embeddings
from hear_ptsed.plugins import PluginModules

log = logging.getLogger(__name__)
__path__: list[str] = []  # of modules that no folder holds
KINDS = ("flac", "mp3", "sox", "wav", "m4a", "ogg", "wma")  # what X-ARES takes for audio


class Frames(nn.Module):
    """What X-ARES asks of an encoder; `encoder_class` makes classes of it."""

    chosen: Chosen
    sampling_rate = SAMPLE_RATE

    def __init__(self):
        super().__init__()
        bridge()
        self.model = self.chosen.load()
        self.output_dim = self.model.timestamp_embedding_size
        self.hop_size_in_ms = self.model.hop_ms

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (B, S) or (S,) at 16 kHz -> (B, T, D) float32."""
        return get_timestamp_embeddings(audio, self.model)[0]


def encoder_class(plugin: str, checkpoint: Path | str = "", **options: Any) -> type[Frames]:
    """An encoder for X-ARES, which makes the object and loads the model.

    X-ARES keeps embeddings and scores by the name of the class, so it is another one for each
    plug-in, file and choice of options. A released file that you replaced in
    $HEAR_PTSED_CHECKPOINTS keeps the name of the plug-in: give such a file as `checkpoint`.

    Args:
        plugin: such as beats_strong, or "checkpoint" with a file.
        options: of the plug-in's load_model.
    """
    chosen = Chosen(plugin, checkpoint, options)
    parts = ["".join(word.capitalize() for word in chosen.plugin.split("_"))]
    parts += [re.sub(r"\W", "_", f"{key}_{options[key]}") for key in sorted(options)]
    parts += [chosen.sha256[:12]] if checkpoint else []
    name = "_".join(parts) + "Encoder"
    return type(name, (Frames,), {"__module__": __name__, "chosen": chosen})


def bridge() -> None:
    """From now on X-ARES 0.1.3 reads audio by soundfile in this process, and refuses to go on
    without any.

    Since torchaudio 2.9 its reader needs FFmpeg. Without, each clip fails in silence and an empty
    encoding is marked as complete.
    """
    require_package("webdataset", "xares").torch_audio = _decode
    task = require_package("xares.task", "xares").XaresTask
    if not hasattr(task.make_encoded_tar, "__wrapped__"):
        task.make_encoded_tar = _checked(task.make_encoded_tar)


def _decode(key: str, data: bytes) -> tuple[Tensor, int] | None:
    """A member of an archive, if it is audio: mono (1, S) float32, and its rate."""
    if key.rpartition(".")[2].lower() not in KINDS:
        return None
    with AudioFile(data, key) as file:
        return torch.from_numpy(np.concatenate([*file.blocks()]))[None], file.rate


def _checked(make: Callable[[Any], None]) -> Callable[[Any], None]:
    """XaresTask.make_encoded_tar, after which each split has embeddings."""

    @wraps(make)
    def make_encoded_tar(task: Any) -> None:
        make(task)
        if not task.encoded_ready_path.exists():  # a private data set that is not on this machine
            return
        for split, encoded in task.encoded_tar_path_of_split.items():
            audio = task.env_dir / task.config.audio_tar_name_of_split[split]
            clips, embedded = _count(audio, ".json"), _count(encoded, ".npy")
            if not embedded:
                task.encoded_ready_path.unlink()
                raise ValueError(
                    f"{audio}: none of its {clips} clips could be read as audio, so that nothing "
                    "is encoded; give WAV, FLAC, OGG or MP3 and run it again"
                )
            if embedded < clips:
                log.warning("%s: %d of %d clips cannot be read", audio, clips - embedded, clips)

    return make_encoded_tar


def _count(pattern: Path, suffix: str) -> int:
    """Members of the archives under a pattern whose names end so."""
    total = 0
    for path in pattern.parent.glob(pattern.name):
        if not path.stat().st_size:  # so X-ARES leaves an archive that nothing came into
            continue
        with tarfile.open(path) as archive:
            total += sum(member.name.endswith(suffix) for member in archive)
    return total


def _fill(module: ModuleType, plugin: str) -> None:
    encoder = encoder_class(plugin)
    setattr(module, encoder.__name__, encoder)


sys.meta_path.append(PluginModules(__name__, _fill))
