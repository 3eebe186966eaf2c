"""Pseudo labels from an ensemble: `python -m training pseudo-label`, on any number of processes."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from hear_ptsed import __version__, interrupt, load
from hear_ptsed.audio import to_16k
from hear_ptsed.detect import Options
from hear_ptsed.errors import few
from hear_ptsed.files import sha256
from hear_ptsed.grid import WINDOW, WINDOW_FRAMES, WINDOW_S
from hear_ptsed.model import SEDModel
from training.data.clips import Clips, Unreadable
from training.data.pseudo_labels import Place, Writer, canonical


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
        for name, own in zip(names, classes, strict=True):
            if missing := [label for label in self.classes if label not in set(own)]:
                raise ValueError(f"{name} lacks {few(missing)}, classes of {names[fewest]}")
        # None: as they come
        self.columns = [
            None if own == self.classes else [own.index(label) for label in self.classes]
            for own in classes
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
    device: str | None = None,
    batch: int = 32,
    precision: str = "float32",
    rank: int | None = None,
    world: int | None = None,
    block: int = 128,
    workers: int = 4,
) -> dict[str, Any]:
    """Write the mean logits of models; killed at any time, the same call again does the rest.

    The processes share the blocks of clips; the last one to finish makes the file of them, in the
    order of the sources. Their number may change between calls.

    Args:
        checkpoints: files that `hear_ptsed.load` takes.
        keys: names of the clips wanted, in any form; None for all.
        rank, world: of this process; None: see `process`.
        block: clips per part file: what a killed process has to do again at most.
        workers: threads that read ahead.
    Returns:
        The report, which is also in the file: clips expected, found and written, those missing,
        those unreadable with the reason; and here `parts_left`, those that other processes do.
    """
    own_rank, own_world, local = process()
    rank, world = own_rank if rank is None else rank, own_world if world is None else world
    if not 0 <= rank < world or min(block, workers) < 1:
        raise ValueError(
            f"rank {rank} of {world}, block {block}, workers {workers}; allowed are ranks from 0 "
            "below their number, blocks and workers from 1"
        )
    if device in (None, "cuda") and torch.cuda.is_available():
        device = f"cuda:{local % torch.cuda.device_count()}"
    options = Options(batch=batch, precision=precision, device=device)
    where = options.usable_device()
    settings = _settings(checkpoints, precision, block)
    writer = Writer(Path(out), *_places(clips, keys), settings)
    if (report := writer.finished()) is not None:
        return report
    todo = [b for b in range(writer.n_blocks) if b % world == rank and not writer.part(b).exists()]
    if todo:
        models = [load(checkpoint=path).fold() for path in checkpoints]
        names = [str(path) for path in checkpoints]
        ensemble = Ensemble(models, names, precision).to(where)
        _compute(writer, todo, clips, ensemble, batch, workers, show=rank == 0)
    return writer.merge()


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
    """Key, source and index of each clip wanted, in the order of the sources; the missing ones."""
    places: dict[str, Place] = {}
    for s, source in enumerate(clips):
        for i, key in enumerate(source.keys):
            places.setdefault(canonical(key), Place(key, s, i))
    wanted = places if keys is None else {canonical(key): key for key in keys}
    found = [place for form, place in places.items() if form in wanted]
    if not found:
        raise ValueError(f"none of the {len(wanted)} clips wanted is in the sources of audio")
    return found, sorted(wanted[form] for form in wanted if form not in places)


def _compute(
    writer: Writer,
    todo: list[int],
    clips: Sequence[Clips],
    ensemble: Ensemble,
    batch: int,
    workers: int,
    show: bool,
) -> None:
    """Write the parts `todo`."""

    def read(place: Place) -> tuple[np.ndarray, int] | Unreadable:
        try:
            samples, rate = clips[place.source].read(place.index)
            return samples[: WINDOW_S * rate], rate
        except Unreadable as error:
            return error

    device = next(ensemble.parameters()).device
    jobs = [place for b in todo for place in writer.block(b)]
    audio = _ahead(read, jobs, workers, 2 * max(batch, workers))
    with tqdm(total=len(jobs), unit=" clips", disable=None if show else True) as bar:
        for b in interrupt.between(todo):
            keys, cuts, unreadable = [], [], {}
            for place in writer.block(b):
                cut = next(audio)
                if isinstance(cut, Unreadable):
                    unreadable[place.key] = cut.reason
                else:
                    keys.append(place.key)
                    cuts.append(cut)
            logits = np.zeros((len(cuts), len(ensemble.classes), WINDOW_FRAMES), np.float16)
            for first in range(0, len(cuts), batch):
                with torch.inference_mode():
                    got = ensemble(_windows(cuts[first : first + batch], device)).half()
                logits[first : first + batch] = got.cpu().numpy()
                bar.update(len(got))
            bar.update(len(unreadable))
            writer.write(b, keys, logits, ensemble.classes, unreadable)


def _ahead(read: Callable, jobs: Sequence, workers: int, depth: int) -> Iterator:
    """read(job) of each job in turn, computed in threads up to `depth` jobs ahead."""
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = deque()
        for job in jobs:
            waiting.append(pool.submit(read, job))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _windows(cuts: Sequence[tuple[np.ndarray, int]], device: torch.device) -> Tensor:
    """int16 (S,) of at most 10 s at any rates -> (B, 160000) at 16 kHz, zero-padded."""
    windows = torch.zeros(len(cuts), WINDOW, device=device)
    for rate in sorted({rate for _, rate in cuts}):
        rows = [row for row, cut in enumerate(cuts) if cut[1] == rate]
        samples = np.zeros((len(rows), WINDOW_S * rate), np.int16)
        for at, row in enumerate(rows):
            samples[at, : len(cuts[row][0])] = cuts[row][0]
        audio = torch.from_numpy(samples).to(device).float() / 32768
        windows[rows] = to_16k(audio, rate)[:, :WINDOW]
    return windows
