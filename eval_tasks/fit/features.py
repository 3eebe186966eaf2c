"""Frame embeddings of a task's clips by a frozen module: computed once per part, kept on disk.

A clip over 10 s is embedded on several grids of windows, so that a crop is not always seen with the
same neighbours. Grid 0 is what the module gives for the whole clip; grid j begins j / shifts of a
window later (what lies before is grid 0's). Where a task stitches windows, the grids hold
each of these windows once, embedded alone.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from eval_tasks.fit.crops import grids_of
from eval_tasks.plugin import Plugin
from eval_tasks.tasks.base import Part, TaskData
from hear_ptsed import __version__, interrupt
from hear_ptsed.files import sha256, write_json
from hear_ptsed.grid import FRAME, WINDOW, WINDOW_FRAMES, hop_samples
from hear_ptsed.parts import make_folder

FORMAT = 1
INDEX, ARRAY = "index.json", "frames.npy"
TOGETHER = 8  # windows that are embedded together
BATCH = TOGETHER * WINDOW  # samples of clips that are embedded together, if so short
ROUNDING = 1e-3  # of the largest value of a clip: what float16 may change


@dataclass(frozen=True)
class Features:
    """Embeddings of all clips of a part."""

    part: Part
    shifts: int  # grids of clips over 10 s
    rows: Tensor  # (N, D) clip after clip, and the grids of a clip one after another
    parameters: int  # of the module
    seconds_per_minute: float  # of audio, when it was computed
    homes: Mapping[str, "Features"] = field(default_factory=dict)  # of a part gathered from others

    @cached_property
    def _first(self) -> dict[str, int]:
        """file -> its first row."""
        part = self.part
        counts = [part.frames(file) * grids_of(part, file, self.shifts) for file in part.files]
        return dict(zip(part.files, np.cumsum([0, *counts]).tolist(), strict=False))

    def stitched(self, file: str, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Probabilities (T, C) of a clip, from what a head says of embeddings: (T, D) -> (T, C).

        By the first grid, or as the task stitches windows.
        """
        stitch, hop_ms, total = self.part.stitch, self.part.hop_ms, self.part.frames(file)
        if stitch is None:
            return logits_of(self.get(file)).sigmoid()
        on_logits = stitch.average == "logits"
        weight = torch.from_numpy(stitch.weight(hop_ms))
        mean, norm = 0.0, torch.zeros(total, 1)
        for grid in range(grids_of(self.part, file, self.shifts)):
            start = stitch.starts(total, hop_ms)[grid]
            share = torch.zeros(total, 1)
            share[start:, 0] = weight.repeat(total // len(weight) + 1)[: total - start]
            logits = logits_of(self.get(file, grid=grid))
            mean = mean + share.to(logits.device) * (logits if on_logits else logits.sigmoid())
            norm += share
        mean = mean / norm.to(mean.device)
        return mean.sigmoid() if on_logits else mean

    def get(self, file: str, first: int = 0, frames: int | None = None, grid: int = 0) -> Tensor:
        """(T, D) from a frame of a clip on, in the type they are stored in."""
        if self.homes:
            return self.homes[self.part.homes[file]].get(file, first, frames, grid)
        total = self.part.frames(file)
        start = self._first[file] + grid * total + first
        return self.rows[start : start + (total - first if frames is None else frames)]


def features(
    data: TaskData,
    name: str,
    plugin: Plugin,
    cache: Path,
    *,
    shifts: int = 1,
    device: str = "cpu",
    progress: bool = True,
) -> Features:
    """The embeddings of a part, from the cache if they are there.

    Args:
        shifts: grids of the parts that some split trains on; the others have one.
    """
    part = data.parts[name]
    if part.homes:
        options = {"shifts": shifts, "device": device, "progress": progress}
        homes = {h: features(data, h, plugin, cache, **options) for h in data.stored(name)}
        return replace(next(iter(homes.values())), part=part, homes=homes)
    identity, folder = _identity_and_folder(data, part, plugin, cache, shifts)

    def fill(new: Path) -> None:
        model = plugin.load(device)
        write = partial(_write_rows, new, identity, part, plugin, model, progress)
        index = write(np.float16) or write(np.float32)
        index["parameters"] = sum(p.numel() for p in model.parameters())
        write_json(new / INDEX, {"settings": identity} | index)

    make_folder(folder, identity, fill, manifest=INDEX, wait=True)
    return _open_cached(folder, identity, part)


def missing_rows(
    data: TaskData, names: Iterable[str], plugin: Plugin, cache: Path, *, shifts: int = 1
) -> int:
    """Embeddings of these parts that are not in the cache."""
    rows = 0
    for name in names:
        part = data.parts[name]
        identity, folder = _identity_and_folder(data, part, plugin, cache, shifts)
        rows += 0 if folder.exists() else count_rows(part, identity["shifts"])
    return rows


def count_rows(part: Part, shifts: int) -> int:
    """Embeddings of a part, on all grids of its clips."""
    return sum(part.frames(file) * grids_of(part, file, shifts) for file in part.files)


def _identity_and_folder(
    data: TaskData, part: Part, plugin: Plugin, cache: Path, shifts: int
) -> tuple[dict[str, Any], Path]:
    """All that decides the embeddings of a part, and where they lie."""
    if not 1 <= shifts <= WINDOW_FRAMES:
        raise ValueError(f"fit.shifts is {shifts}; allowed is 1 to {WINDOW_FRAMES}")
    stitch = part.stitch
    if stitch and shifts != stitch.grids:
        raise ValueError(
            f"fit.shifts is {shifts}; {data.task.name} hears windows of 10 s every "
            f"{stitch.hop_s:g} s: set {stitch.grids}"
        )
    trained = {home for split in data.splits for name in split.train for home in data.stored(name)}
    trains = not part.events or part.name in trained
    longest = max(part.files, key=part.samples.get)
    identity = {
        "format": FORMAT,
        "library": __version__,
        "task": data.fingerprint,
        "part": part.name,
        "module": plugin.name,
        "checkpoint": plugin.sha256,
        "options": json.loads(json.dumps(plugin.options)),
        "shifts": grids_of(part, longest, shifts) if trains or stitch else 1,
    }
    identity |= {"windows_s": stitch.hop_s} if stitch else {}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    name = f"{part.name}-{digest[:12]}"
    return identity, Path(cache) / data.version / plugin.name / name


def _write_rows(
    folder: Path,
    identity: dict,
    part: Part,
    plugin: Plugin,
    model: nn.Module,
    progress: bool,
    dtype: type,
) -> dict[str, Any] | None:
    """Write the array; None if the embeddings do not fit into float16."""
    shifts = identity["shifts"]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rows = count_rows(part, shifts)
    digest, seconds = hashlib.sha256(), 0.0
    bar = tqdm(
        total=rows, desc=f"embedding {part.name}", unit="frame", leave=False, disable=not progress
    )
    with (folder / ARRAY).open("wb") as file, bar:
        for files in interrupt.between(_clips_together(part)):
            audio = torch.from_numpy(np.stack([part.read(name) for name in files])).to(device)
            started = time.perf_counter()
            if part.stitch:
                grids = _embed_windows(audio, part, files[0], plugin, model)
            else:
                grids = _embed_grids(audio, part, files[0], shifts, plugin, model)
            seconds += time.perf_counter() - started
            for name, clip in zip(files, grids, strict=True):
                values = clip.reshape(-1, clip.shape[-1])
                if not np.isfinite(values).all():
                    raise ValueError(f"{plugin.name} gives NaN or infinite embeddings for {name}")
                with np.errstate(over="ignore"):
                    stored = values.astype(dtype)
                if np.abs(stored - values).max() > ROUNDING * np.abs(values).max():
                    return None
                if file.tell() == 0:
                    header = _write_header(file, (rows, values.shape[1]), stored.dtype)
                    digest.update(header)
                file.write(stored.data)
                digest.update(stored.data)
                bar.update(len(values))
    minutes = rows * part.hop_ms / 1000 / 60
    return {"sha256": digest.hexdigest(), "seconds_per_minute": seconds / minutes}


def _write_header(file: Any, shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """Write the header of an .npy file, where there is room for all of it."""
    need = shape[0] * shape[1] * dtype.itemsize
    free = shutil.disk_usage(Path(file.name).parent).free
    if need > free:
        raise OSError(
            f"{need / 1e9:.1f} GB of embeddings do not fit: {Path(file.name).parents[2]} has "
            f"{free / 1e9:.1f} GB left; name another folder for the cache"
        )
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(
        file, {"descr": description, "fortran_order": False, "shape": shape}
    )
    file.flush()
    return Path(file.name).read_bytes()


def _clips_together(part: Part) -> Iterator[list[str]]:
    """Neighbouring clips of one length, as many as make some windows."""
    for samples, files in groupby(part.files, part.samples.get):
        together = max(1, BATCH // max(samples, 1))
        while names := list(islice(files, together)):
            yield names


def _embed_grids(
    audio: Tensor, part: Part, file: str, shifts: int, plugin: Plugin, model: nn.Module
) -> np.ndarray:
    """Audio (B, S) of clips as long as `file` -> (B, grids, T, D) float32."""
    grids: list[Tensor] = []
    for j in range(grids_of(part, file, shifts)):
        sample = j * WINDOW_FRAMES // shifts * FRAME
        first = sample // hop_samples(part.hop_ms)
        frames = part.frames(file) - first
        later = _embed(audio[:, sample:], frames, plugin, model)
        grids.append(torch.cat([grids[0][:, :first], later], 1) if j else later)
    return torch.stack(grids, 1).cpu().numpy()


def _embed_windows(
    audio: Tensor, part: Part, file: str, plugin: Plugin, model: nn.Module
) -> np.ndarray:
    """Audio (B, S) of clips as long as `file` -> (B, grids, T, D) float32.

    Grid j holds the windows j, j + grids, ... from the start of the first of them on, and before it
    what grid 0 has.
    """
    total, width, stitch = part.frames(file), part.window_frames, part.stitch
    starts = stitch.starts(total, part.hop_ms)
    padded = F.pad(audio, (0, WINDOW))
    windows = padded.unfold(1, WINDOW, WINDOW // stitch.grids)[:, : len(starts)].flatten(0, 1)
    frames = [_embed(some, width, plugin, model) for some in windows.split(TOGETHER)]
    by_clip = torch.cat(frames).unflatten(0, (len(audio), len(starts)))
    grids = by_clip.new_empty(len(audio), grids_of(part, file, 1), total, by_clip.shape[-1])
    for i, start in enumerate(starts):
        j = i % stitch.grids
        grids[:, j, start : start + width] = by_clip[:, i, : total - start]
        if i == j:
            grids[:, j, :start] = grids[:, 0, :start]
    return grids.cpu().numpy()


def _embed(audio: Tensor, frames: int, plugin: Plugin, model: nn.Module) -> Tensor:
    """Audio (B, S) -> float32 (B, T, D), of as many frames as there must be."""
    given = plugin.embed(model, audio)[:, :frames].float()
    if given.shape[1] < frames:
        raise ValueError(
            f"{plugin.name} gives {given.shape[1]} frames where {frames} of {plugin.hop_ms} ms "
            "are; only `--protocol hear` evaluates such modules"
        )
    return given


def _open_cached(folder: Path, identity: dict[str, Any], part: Part) -> Features:
    again = f"delete {folder} to make it anew"
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        digest, stored = sha256(folder / ARRAY), index["sha256"]
        numbers = (int(index["parameters"]), float(index["seconds_per_minute"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cached features cannot be read ({type(error).__name__}: {error}); {again}"
        ) from error
    if digest != stored:
        raise ValueError(
            f"cached features are damaged: sha256 starts {digest[:8]}, expected {stored[:8]}; "
            f"{again}"
        )
    # "c": never written to, but torch warns of arrays that are read-only
    rows = torch.from_numpy(np.load(folder / ARRAY, mmap_mode="c"))
    return Features(part, identity["shifts"], rows, *numbers)
