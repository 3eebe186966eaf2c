"""Packing: clips of any source, decoded once to 16 kHz int16 shards that are read from memory maps.

A folder holds shard-00000.i16 … (samples without header), a .json beside each (lengths of the
clips, reasons of unreadable ones, checksum: what a resumed run relies on), index.npz (names,
positions, events, clip labels), shards.json (settings and checksums) and coverage.json.
"""

import contextlib
import hashlib
import json
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hear_ptsed import interrupt
from hear_ptsed.audio import to_16k
from hear_ptsed.files import atomic, locked, remove_stale
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.parts import Parts
from training.data.annotations import Events, joined
from training.data.clips import INDEX, MANIFEST, Clips, Place, Unreadable, to_int16
from training.data.coverage import Coverage, coverage

log = logging.getLogger(__name__)
COVERAGE = "coverage.json"


@dataclass(frozen=True)
class Packing:
    """Clips of some sources on their way into shards."""

    sources: Sequence[Clips]
    events: Events | None
    places: list[Place]
    clips_per_shard: int
    parts: Parts

    @property
    def out(self) -> Path:
        return self.parts.folder

    def shard(self, number: int) -> list[Place]:
        first = number * self.clips_per_shard
        return self.places[first : first + self.clips_per_shard]

    def write(self, number: int) -> None:
        """Decode the clips of a shard and write it."""
        lengths: list[int] = []  # samples; -1: unreadable
        unreadable: dict[str, str] = {}
        facts = {"lengths": lengths, "unreadable": unreadable}
        with self.parts.write(number, facts) as path, path.open("wb") as stream:
            for place in interrupt.between(self.shard(number)):
                if parent_process() is not None and not parent_process().is_alive():
                    raise RuntimeError("the process that packs was killed")
                try:
                    audio = _resampled(*self.sources[place.source].read(place.index))
                except Unreadable as error:
                    unreadable[place.key] = error.reason
                    lengths.append(-1)
                else:
                    stream.write(audio.astype("<i2", copy=False).data)
                    lengths.append(len(audio))


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
    packing = Packing(sources, events, places, clips_per_shard, parts)
    with locked(out):
        remove_stale(out, alone=True)
        parts.claim()
        report = coverage(sources, events)
        report.used = len(places)
        _write_shards(packing, report, workers, max_unreadable, progress)
        _finish(packing, report)
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
    packing: Packing, report: Coverage, workers: int, max_unreadable: float, progress: bool
) -> None:
    """Write the shards that are missing or damaged, and stop at too many unreadable clips."""
    parts = packing.parts
    missing = {number for number in range(len(parts.files)) if not parts.check(number)}
    with tqdm(total=len(packing.places), unit="clip", desc="pack", disable=not progress) as bar:

        def note(number: int) -> None:
            bar.update(len(packing.shard(number)))
            report.add_unreadable(parts.facts(number)["unreadable"])
            try:
                report.check(max_unreadable)
            except RuntimeError:
                report.write(packing.out / COVERAGE)
                raise

        if kept := [number for number in range(len(parts.files)) if number not in missing]:
            log.info("%s: %d of %d shards are kept", packing.out, len(kept), len(parts.files))
        for number in kept:
            note(number)
        if min(workers, len(missing)) > 1:
            _write_in_processes(packing, sorted(missing), workers, note)
        else:
            _write_here(packing, sorted(missing), note)


def _write_here(packing: Packing, numbers: Sequence[int], note: Callable[[int], None]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker process, for the same bytes
    try:
        for number in numbers:
            packing.write(number)
            note(number)
    finally:
        torch.set_num_threads(threads)


def _write_in_processes(
    packing: Packing, numbers: Sequence[int], workers: int, note: Callable[[int], None]
) -> None:
    """Each process writes every n-th shard, and says so through a pipe."""
    context = get_context()
    processes = {}
    try:
        for first in range(min(workers, len(numbers))):
            receiver, sender = context.Pipe(duplex=False)
            job = (packing, numbers[first::workers], sender)
            process = context.Process(target=_work, args=job, daemon=True)
            process.start()
            processes[receiver] = process
            sender.close()  # so that the pipe ends with the process
        with interrupt.deferred():
            waiting = set(processes)
            while waiting:
                for receiver in connection.wait(waiting, timeout=0.5):
                    if not _receive(receiver, note):
                        waiting.remove(receiver)
                        processes[receiver].join()
                        _require_success(processes[receiver].exitcode, packing.out)
                interrupt.safe_point()
    finally:
        for process in processes.values():
            process.kill()
            process.join()
        remove_stale(packing.out, alone=True)


def _work(packing: Packing, numbers: Sequence[int], sender: connection.Connection) -> None:
    """Write shards in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to stop
    torch.set_num_threads(1)
    with contextlib.suppress(BrokenPipeError):  # the parent was killed
        try:
            for number in numbers:
                packing.write(number)
                sender.send(number)
        except Exception as error:  # raised again by the parent
            sender.send(error)


def _receive(receiver: connection.Connection, note: Callable[[int], None]) -> bool:
    """Take what a worker says; False when it has ended."""
    try:
        message = receiver.recv()
    except EOFError:
        return False
    if isinstance(message, Exception):
        raise message
    note(message)
    return True


def _require_success(exitcode: int, out: Path) -> None:
    if exitcode:
        raise RuntimeError(
            f"{out}: a worker was killed, perhaps for lack of memory; pack with fewer workers"
        )


def _resampled(audio: np.ndarray, rate: int) -> np.ndarray:
    """int16 (S,) at a rate in Hz -> int16 (S',) at 16 kHz."""
    if rate == SAMPLE_RATE:
        return audio
    return to_int16(to_16k(torch.from_numpy(audio / np.float32(32768)), rate).numpy())


def _finish(packing: Packing, report: Coverage) -> None:
    """Write what stands beside the shards."""
    parts = packing.parts
    shards = [parts.facts(number) for number in range(len(parts.files))]
    # In their order, and not in that in which the workers finished.
    report.unreadable = {k: v for shard in shards for k, v in shard["unreadable"].items()}
    lengths = [n for shard in shards for n in shard["lengths"]]
    readable = [place for place, n in zip(packing.places, lengths, strict=True) if n >= 0]
    samples = [[n for n in shard["lengths"] if n >= 0] for shard in shards]
    seconds = [n / SAMPLE_RATE for row in samples for n in row]
    keys = [place.key for place in readable]
    report.add_durations(dict(zip(keys, seconds, strict=True)), packing.events)
    report.write(packing.out / COVERAGE)
    _write_index(packing, readable, samples)
    files = [
        {"file": file.name, "samples": sum(row), "sha256": shard["sha256"]}
        for file, row, shard in zip(parts.files, samples, shards, strict=True)
    ]
    parts.finish(rate=SAMPLE_RATE, shards=files)


def _write_index(packing: Packing, places: Sequence[Place], samples: list[list[int]]) -> None:
    """Write where each readable clip lies, with events and clip labels.

    Args:
        samples: of the readable clips of each shard.
    """
    sources, events = packing.sources, packing.events
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
        }
        columns |= {
            name: getattr(events, name) for name in ("first", "label", "onset_s", "offset_s")
        }
    labels = [source.clip_labels() for source in sources]
    if all(part is not None and part.shape[1] == labels[0].shape[1] for part in labels):
        rows = [[i for _, source, i in places if source == s] for s in range(len(sources))]
        columns["clip_labels"] = np.concatenate(
            [part[row] for part, row in zip(labels, rows, strict=True)]
        )
    elif any(part is not None for part in labels):
        log.warning("%s: clip labels left out, not all sources have the same ones", packing.out)
    with atomic(packing.out / INDEX) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **columns)


def _source_digest(source: Clips) -> str:
    files = [source.path] if source.path.is_file() else sorted(source.path.rglob("*"))
    facts = [(f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return _digest(json.dumps([source.names, facts]))


def _events_digest(events: Events | None) -> str | None:
    if events is None:
        return None
    arrays = (events.first, events.label, events.onset_s, events.offset_s)
    return _digest(json.dumps([events.clips, events.labels]), *arrays)


def _digest(text: str, *arrays: np.ndarray) -> str:
    hashed = hashlib.sha256(text.encode())
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:16]
