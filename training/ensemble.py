"""Pseudo labels from an ensemble: `python -m training pseudo-label`, on any number of processes."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hear_ptsed import __version__, interrupt, load
from hear_ptsed.detect import DetectorOptions
from hear_ptsed.errors import few
from hear_ptsed.files import sha256
from hear_ptsed.grid import WINDOW_FRAMES, WINDOW_S
from hear_ptsed.model import SEDModel
from training.data.batch import Batch, windows
from training.data.clips import Clips, Place, Unreadable
from training.data.pseudo_labels import Writer, canonical
from training.data.reading import read_ahead

DEFAULTS = DetectorOptions(batch=32)


class Ensemble(nn.Module):
    """Mean of the strong logits of models, on the classes that all of them have.

    Args:
        names: of the models, for messages.
        precision: "float32", or "bfloat16" for those backbones that bear it.
    """

    def __init__(
        self, models: Sequence[SEDModel], names: Sequence[str], precision: str = "float32"
    ):
        super().__init__()
        self.models = nn.ModuleList(models).eval()
        self.low_precision = precision == "bfloat16"
        classes = [
            list(model.classes_of("strong", name))
            for model, name in zip(models, names, strict=True)
        ]
        fewest = min(range(len(classes)), key=lambda i: len(classes[i]))
        self.classes = classes[fewest]
        for name, labels in zip(names, classes, strict=True):
            if missing := [label for label in self.classes if label not in set(labels)]:
                raise ValueError(f"{name} lacks {few(missing)}, classes of {names[fewest]}")
        # None: as they come
        self.columns = [
            None if labels == self.classes else [labels.index(label) for label in self.classes]
            for labels in classes
        ]

    def forward(self, windows: Tensor) -> Tensor:
        """(B, 160000) -> logits (B, C, 250) float32."""
        total = torch.zeros((), device=windows.device)
        for model, columns in zip(self.models, self.columns, strict=True):
            low = self.low_precision and model.backbone.bfloat16
            with torch.autocast(windows.device.type, torch.bfloat16, enabled=low):
                logits = model(windows).strong.float()
            total = total + (logits if columns is None else logits[:, columns])
        return total / len(self.models)


def process() -> tuple[int, int, int]:
    """Rank, number of processes, rank on this machine: from torchrun, Slurm's srun, or alone."""
    # SLURM_NTASKS is also set where a batch script starts a single process without srun.
    for names in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ):
        if all(name in os.environ for name in names):
            rank, world, local = (int(os.environ[name]) for name in names)
            return rank, world, local
    return 0, 1, 0


def write_pseudo_labels(
    checkpoints: Sequence[Path],
    clips: Sequence[Clips],
    out: Path,
    *,
    keys: Collection[str] | None = None,
    options: DetectorOptions = DEFAULTS,
    share: tuple[int, int] | None = None,
    block: int = 128,
    workers: int = 4,
) -> dict[str, Any]:
    """Write the mean logits of models; killed at any time, the same call again does the rest.

    The processes share the blocks of clips; the last one to finish makes the file of them, in the
    order of the sources. Their number may change between calls.

    Args:
        checkpoints: files that `hear_ptsed.load` takes.
        keys: names of the clips wanted, in any form; None for all.
        options: device, precision and windows per forward pass.
        share: rank of this process and number of processes; None: see `process`.
        block: clips per part file: what a killed process has to do again at most.
        workers: processes that read ahead.
    Returns:
        The report, which is also in the file: clips expected, found and written, those missing,
        those unreadable with the reason; and here `parts_left`, those that other processes do.
    """
    rank, world = process()[:2] if share is None else share
    if not 0 <= rank < world or min(block, workers) < 1:
        raise ValueError(
            f"rank {rank} of {world}, block {block}, workers {workers}; allowed are ranks from 0 "
            "below their number, blocks and workers from 1"
        )
    device = _device(options)
    settings = _settings(checkpoints, options.precision, block)
    writer = Writer(Path(out), *_places(clips, keys), settings)
    if (report := writer.finished()) is not None:
        return report
    if todo := [b for b in writer.parts.left() if b % world == rank]:
        models = [load(checkpoint=path).fold() for path in checkpoints]
        names = [str(path) for path in checkpoints]
        ensemble = Ensemble(models, names, options.precision).to(device)
        places = [place for b in todo for place in writer.blocks[b]]
        bar = tqdm(total=len(places), unit=" clips", disable=None if rank == 0 else True)
        with bar, closing(read_ahead(clips, places, _first_window, workers)) as audio:
            for b in interrupt.between(todo):
                _write_block(writer, b, audio, ensemble, options.batch)
                bar.update(len(writer.blocks[b]))
    return writer.merge()


def _device(options: DetectorOptions) -> torch.device:
    """The device of the options; of several GPUs, each process of a machine takes another."""
    if options.device in (None, "cuda") and torch.cuda.is_available():
        return torch.device(f"cuda:{process()[2] % torch.cuda.device_count()}")
    return options.usable_device()


def _settings(checkpoints: Sequence[Path], precision: str, block: int) -> dict[str, Any]:
    """What two parts of one file must have in common."""
    if not checkpoints:
        raise ValueError("no checkpoints; give at least one")
    files = []
    for path in map(Path, checkpoints):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the path of a checkpoint")
        files.append({"file": path.name, "sha256": sha256(path)})
        if files[-1] in files[:-1]:
            raise ValueError(f"{path} is given twice; its logits would count twice")
    return {
        "checkpoints": files,
        "precision": precision,
        "block": block,
        "software": f"hear_ptsed {__version__}",
    }


def _places(clips: Sequence[Clips], keys: Collection[str] | None) -> tuple[list[Place], list[str]]:
    """The clips wanted that the sources have, in their order; names of those they lack."""
    place_of: dict[str, Place] = {}
    for s, source in enumerate(clips):
        for i, key in enumerate(source.keys):
            place_of.setdefault(canonical(key), Place(key, s, i))
    wanted = place_of if keys is None else {canonical(key): key for key in keys}
    places = [place for form, place in place_of.items() if form in wanted]
    if not places:
        raise ValueError(f"none of the {len(wanted)} clips wanted is in the sources of audio")
    return places, sorted(wanted[form] for form in wanted if form not in place_of)


def _first_window(samples: np.ndarray, rate: int) -> Batch:
    """The first 10 s of a clip as a batch of one, because each clip may have another rate."""
    audio = np.zeros((1, WINDOW_S * rate), np.int16)
    samples = samples[: audio.shape[1]]
    audio[0, : len(samples)] = samples
    return {"audio": torch.from_numpy(audio), "rate": rate}


def _write_block(
    writer: Writer, b: int, audio: Iterator[Batch | Unreadable], ensemble: Ensemble, batch: int
) -> None:
    """Write the part of a block, whose clips come next in `audio`."""
    keys, readable, unreadable = [], [], {}
    for place, clip in zip(writer.blocks[b], audio, strict=False):  # which has more behind them
        if isinstance(clip, Unreadable):
            unreadable[place.key] = clip.reason
        else:
            keys.append(place.key)
            readable.append(clip)
    logits = np.zeros((len(keys), len(ensemble.classes), WINDOW_FRAMES), np.float16)
    for first in range(0, len(keys), batch):
        logits[first : first + batch] = _logits(ensemble, readable[first : first + batch])
    writer.write(b, keys, logits, ensemble.classes, unreadable)


@torch.inference_mode()
def _logits(ensemble: Ensemble, clips: Sequence[Batch]) -> np.ndarray:
    """(B, C, 250) float16 of the windows of B clips."""
    device = next(ensemble.parameters()).device
    audio = [windows(clip | {"audio": clip["audio"].to(device)}) for clip in clips]
    return ensemble(torch.cat(audio)).half().cpu().numpy()
