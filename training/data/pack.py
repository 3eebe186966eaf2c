"""Packing: clips of any source, decoded once to 16 kHz int16 shards that are read from memory maps.

A folder holds shard-00000.i16 … (samples without header), a .json beside each (lengths of the
clips, reasons of unreadable ones, checksum: what a resumed run relies on), index.npz (names,
positions, events, clip labels), shards.json (settings and checksums) and coverage.json.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hear_ptsed import interrupt
from hear_ptsed.audio import to_16k
from hear_ptsed.files import atomic, locked, remove_stale
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.parts import Parts
from training.data.annotations import Events, joined
from training.data.clips import EVENT_ARRAYS, INDEX, MANIFEST, Clips, Place, Unreadable, to_int16
from training.data.coverage import Coverage, coverage
from training.data.reading import read_ahead

log = logging.getLogger(__name__)
COVERAGE = "coverage.json"


def pack(
    sources: Sequence[Clips],
    events: Events | None,
    out: Path,
    *,
    workers: int = 1,
    clips_per_shard: int = 2000,
    max_unreadable: float = 0.01,
    all_clips: bool = False,
    progress: bool = False,
) -> Coverage:
    """Write the clips that have events (or all of them) as shards; `open_clips(out)` reads them.

    Finished shards of an interrupted run are kept if their checksum is right. The bytes do not
    depend on the number of workers. One process at a time may pack into a folder.

    Args:
        events: None takes those that the sources hold; without any, all clips are packed.
        max_unreadable: share of undecodable clips beyond which packing stops with an error.
    """
    out = Path(out)
    for source in sources:
        if source.path.resolve() in (out.resolve(), *out.resolve().parents):
            raise ValueError(f"{out} lies inside the source {source.path}; choose another folder")
    if events is None:
        stored = [source.events() for source in sources]
        events = None if any(part is None for part in stored) else joined(stored)
    places = _places(sources, events, all_clips)
    settings = {
        "format": "int16 shards, version 2",
        "clips_per_shard": clips_per_shard,
        "sources": [_source_digest(source) for source in sources],
        "events": _events_digest(events),
        "clips": len(places),
    }
    shards = [f"shard-{number:05d}.i16" for number in range(-(-len(places) // clips_per_shard))]
    parts = Parts(out, settings, shards, MANIFEST)
    with locked(out):
        remove_stale(out, alone=True)
        parts.claim()
        report = coverage(sources, events)
        report.used = len(places)
        _write_shards(parts, sources, places, report, workers, max_unreadable, progress)
        _finish(parts, sources, places, events, report)
    return report


def _places(sources: Sequence[Clips], events: Events | None, all_clips: bool) -> list[Place]:
    named = None if events is None or all_clips else set(events.clips)
    path_of: dict[str, Path] = {}
    places = []
    for s, source in enumerate(sources):
        for i, key in enumerate(source.keys):
            if named is None or key in named:
                if key in path_of:
                    raise ValueError(f"clip {key} is in {path_of[key]} and in {source.path}")
                path_of[key] = source.path
                places.append(Place(key, s, i))
    if not places:
        have = sources[0].keys[0] if sources and len(sources[0]) else "nothing"
        first = events.clips[0] if events is not None and events.clips else "nothing"
        raise ValueError(
            f"no clip to pack: the sources hold {have} …, the annotation names {first} …"
        )
    return places


def _write_shards(
    parts: Parts,
    sources: Sequence[Clips],
    places: Sequence[Place],
    report: Coverage,
    workers: int,
    max_unreadable: float,
    progress: bool,
) -> None:
    """Write the shards that are missing or damaged, and stop at too many unreadable clips."""
    size = parts.settings["clips_per_shard"]
    shards = [places[first : first + size] for first in range(0, len(places), size)]
    missing = [number for number in range(len(shards)) if not parts.check(number)]
    if len(missing) < len(shards):
        kept = len(shards) - len(missing)
        log.info("%s: %d of %d shards are kept", parts.folder, kept, len(shards))
    needed = [place for number in missing for place in shards[number]]
    bar = tqdm(total=len(places), unit="clip", desc="pack", disable=not progress)
    with bar, closing(read_ahead(sources, needed, _at_16k, workers)) as audio:
        for number, shard in enumerate(shards):
            if number in missing:
                _write_shard(parts, number, shard, audio)
            bar.update(len(shard))
            report.unreadable |= parts.facts(number)["unreadable"]
            try:
                report.check(max_unreadable)
            except RuntimeError:
                report.write(parts.folder / COVERAGE)
                raise


def _write_shard(
    parts: Parts, number: int, shard: Sequence[Place], audio: Iterator[Tensor | Unreadable]
) -> None:
    """Write a shard, whose clips come next in `audio`."""
    lengths: list[int] = []  # samples; -1: unreadable
    unreadable: dict[str, str] = {}
    facts = {"lengths": lengths, "unreadable": unreadable}
    with parts.write(number, facts) as path, path.open("wb") as stream:
        for place in interrupt.between(shard):
            clip = next(audio)
            if isinstance(clip, Unreadable):
                unreadable[place.key] = clip.reason
                lengths.append(-1)
            else:
                stream.write(clip.numpy().astype("<i2", copy=False).data)
                lengths.append(len(clip))


def _at_16k(audio: np.ndarray, rate: int) -> Tensor:
    """int16 (S,) at a rate in Hz -> int16 (S',) at 16 kHz."""
    if rate != SAMPLE_RATE:
        audio = to_int16(to_16k(torch.from_numpy(audio / np.float32(32768)), rate).numpy())
    return torch.from_numpy(audio)


def _finish(
    parts: Parts,
    sources: Sequence[Clips],
    places: Sequence[Place],
    events: Events | None,
    report: Coverage,
) -> None:
    """Write what stands beside the shards."""
    shards = [parts.facts(number) for number in range(len(parts.files))]
    lengths = [n for shard in shards for n in shard["lengths"]]
    readable = [place for place, n in zip(places, lengths, strict=True) if n >= 0]
    samples = [[n for n in shard["lengths"] if n >= 0] for shard in shards]
    seconds = [n / SAMPLE_RATE for row in samples for n in row]
    keys = [place.key for place in readable]
    report.add_durations(dict(zip(keys, seconds, strict=True)), events)
    report.write(parts.folder / COVERAGE)
    _write_index(parts.folder / INDEX, sources, readable, samples, events)
    files = [
        {"file": file.name, "samples": sum(row), "sha256": shard["sha256"]}
        for file, row, shard in zip(parts.files, samples, shards, strict=True)
    ]
    parts.finish(rate=SAMPLE_RATE, shards=files)


def _write_index(
    path: Path,
    sources: Sequence[Clips],
    places: Sequence[Place],
    samples: list[list[int]],
    events: Events | None,
) -> None:
    """Write where each readable clip lies, with events and clip labels.

    Args:
        samples: of the readable clips of each shard.
    """
    columns: dict[str, np.ndarray] = {
        "names": np.array([sources[place.source].names[place.index] for place in places], str),
        "shard": np.repeat(np.arange(len(samples)), [len(row) for row in samples]),
        "start": np.concatenate([np.cumsum([0, *row])[:-1] for row in samples]),
        "length": np.concatenate(samples).astype(np.int64),
    }
    if events is not None:
        columns |= {
            "event_clips": np.array(events.clips, dtype=str),
            "event_labels": np.array(events.labels, dtype=str),
            **{name: getattr(events, name) for name in EVENT_ARRAYS},
        }
    labels = [source.clip_labels() for source in sources]
    if all(part is not None and part.shape[1] == labels[0].shape[1] for part in labels):
        rows = [[i for _, source, i in places if source == s] for s in range(len(sources))]
        columns["clip_labels"] = np.concatenate(
            [part[row] for part, row in zip(labels, rows, strict=True)]
        )
    elif any(part is not None for part in labels):
        log.warning("%s: clip labels left out, not all sources have the same ones", path.parent)
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **columns)


def _source_digest(source: Clips) -> str:
    files = [source.path] if source.path.is_file() else sorted(source.path.rglob("*"))
    facts = [(f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return _digest(json.dumps([source.names, facts]))


def _events_digest(events: Events | None) -> str | None:
    if events is None:
        return None
    arrays = [np.ascontiguousarray(getattr(events, name)).data for name in EVENT_ARRAYS]
    return _digest(json.dumps([events.clips, events.labels]), *arrays)


def _digest(text: str, *more: memoryview) -> str:
    return hashlib.sha256(b"".join([text.encode(), *more])).hexdigest()[:16]
