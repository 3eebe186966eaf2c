"""Packing: clips of any source, decoded once to 16 kHz int16 shards that are read from memory maps.

A folder holds shard-00000.i16 … (samples without header), a .json beside each (which clips, and
the checksum: what a resumed run relies on), index.npz (names, places, events, clip labels),
shards.json (settings and checksums) and coverage.json.
"""

import hashlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from hear_ptsed import interrupt
from hear_ptsed.audio import to_16k
from hear_ptsed.files import LOCK, atomic, locked, remove_stale, sha256
from hear_ptsed.grid import SAMPLE_RATE
from training.data.annotations import Events, joined
from training.data.clips import INDEX, MANIFEST, Clips, Unreadable, to_int16
from training.data.coverage import Coverage, coverage

log = logging.getLogger(__name__)
COVERAGE = "coverage.json"
CHECKED = 8  # clips per shard that are read back and compared

Place = tuple[int, int]  # source, clip in it
Shard = dict[str, Any]  # number, lengths (-1: unreadable), unreadable {key: reason}, sha256, plan


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
    if events is None:
        own = [source.events() for source in sources]
        events = None if any(part is None for part in own) else joined(own)
    places = _places(sources, events, all_clips)
    plan = {
        "format": "int16 shards, version 1",
        "rate": SAMPLE_RATE,
        "clips_per_shard": clips_per_shard,
        "sources": [_source_digest(source) for source in sources],
        "events": _events_digest(events),
        "clips": len(places),
    }
    for source in sources:
        if source.path.resolve() in (out.resolve(), *out.resolve().parents):
            raise ValueError(f"{out} lies inside the source {source.path}; choose another folder")
    with locked(out):
        _prepare(out, plan)
        return _pack(sources, events, places, out, plan, workers, max_unreadable, progress)


def _pack(
    sources: Sequence[Clips],
    events: Events | None,
    places: list[Place],
    out: Path,
    plan: dict[str, Any],
    workers: int,
    max_unreadable: float,
    progress: bool,
) -> Coverage:
    """Write the shards that are missing, then what stands beside them."""
    report = coverage(sources, events)
    report.used = len(places)
    size = plan["clips_per_shard"]
    jobs = [places[i : i + size] for i in range(0, len(places), size)]
    plan_digest = _digest(json.dumps(plan))
    shards: list[Shard] = []

    with tqdm(total=len(places), unit="clip", desc="pack", disable=not progress) as bar:

        def done(shard: Shard) -> None:
            shards.append(shard)
            bar.update(len(shard["lengths"]))
            report.add_unreadable(shard["unreadable"])
            try:
                report.check(max_unreadable)
            except RuntimeError:
                report.write(out / COVERAGE)
                raise

        todo = []
        for number, job in enumerate(jobs):
            if (shard := _finished(out, number, plan_digest)) is None:
                todo.append((number, job))
            else:
                done(shard)
        if shards:
            log.info("%s: %d of %d shards were there already", out, len(shards), len(jobs))
        _write_all(sources, todo, out, plan_digest, workers, done)

    shards.sort(key=lambda shard: shard["number"])
    lengths = np.concatenate([shard["lengths"] for shard in shards])
    read = [place for place, length in zip(places, lengths, strict=True) if length >= 0]
    seconds = lengths[lengths >= 0] / SAMPLE_RATE
    report.add_durations(
        {sources[s].keys[i]: t for (s, i), t in zip(read, seconds.tolist(), strict=True)}, events
    )
    report.write(out / COVERAGE)
    _write_index(sources, read, shards, events, out)
    manifest = plan | {
        "shards": [
            {
                "file": _name(shard["number"]),
                "samples": sum(n for n in shard["lengths"] if n > 0),
                "sha256": shard["sha256"],
            }
            for shard in shards
        ]
    }
    _write_json(out / MANIFEST, manifest)
    return report


def _places(sources: Sequence[Clips], events: Events | None, all_clips: bool) -> list[Place]:
    wanted = None if events is None or all_clips else set(events.clips)
    seen: dict[str, str] = {}
    places = []
    for s, source in enumerate(sources):
        for i, key in enumerate(source.keys):
            if wanted is None or key in wanted:
                if key in seen:
                    raise ValueError(f"clip {key} is in {seen[key]} and in {source.path}")
                seen[key] = str(source.path)
                places.append((s, i))
    if not places:
        have = sources[0].keys[0] if sources and len(sources[0]) else "nothing"
        named = events.clips[0] if events is not None and events.clips else "nothing"
        raise ValueError(
            f"no clip to pack: the sources hold {have} …, the annotation names {named} …"
        )
    return places


def _prepare(out: Path, plan: dict[str, Any]) -> None:
    """Refuse a folder that holds something else; remove what a killed run left half-written."""
    remove_stale(out, alone=True)
    if not (out / MANIFEST).exists():
        if any(path.name != LOCK for path in out.iterdir()):
            raise ValueError(f"{out} is not empty and not a folder of shards; choose another")
        _write_json(out / MANIFEST, plan)
        return
    there = json.loads((out / MANIFEST).read_text())
    if differing := [key for key, value in plan.items() if there.get(key) != value]:
        raise ValueError(
            f"{out} was packed with other {', '.join(differing)}; choose another or delete it"
        )


def _finished(out: Path, number: int, plan_digest: str) -> Shard | None:
    file = out / _name(number)
    try:
        shard = json.loads(file.with_suffix(".json").read_text())
        right = shard["plan"] == plan_digest and shard["sha256"] == sha256(file)
    except (OSError, ValueError, KeyError):
        return None
    return shard if right else None


def _write_all(
    sources: Sequence[Clips],
    jobs: list[tuple[int, list[Place]]],
    out: Path,
    plan_digest: str,
    workers: int,
    done: Callable[[Shard], None],
) -> None:
    workers = min(workers, len(jobs))
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker process, for the same bytes
        try:
            for number, places in jobs:
                done(_write_shard(sources, places, number, out, plan_digest))
        finally:
            torch.set_num_threads(threads)
        return
    context = get_context()
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _start, (sources, stop)) as pool:
        tasks = {pool.submit(_work, places, number, out, plan_digest) for number, places in jobs}
        try:
            with interrupt.deferred():
                while tasks:
                    ready, tasks = wait(tasks, timeout=0.5, return_when=FIRST_COMPLETED)
                    for task in ready:
                        done(task.result())
                    interrupt.safe_point()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{out}: a worker was killed, perhaps for lack of memory; pack with fewer workers"
            ) from error
        except BaseException:  # Ctrl-C too: leave within one clip, half-written files removed
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


_sources: Sequence[Clips] = ()  # of a worker process, set once by _start
_stop: Any = None


def _start(sources: Sequence[Clips], stop: Any) -> None:
    global _sources, _stop
    _sources, _stop = sources, stop
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to stop

    def end_with_parent() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(places: list[Place], number: int, out: Path, plan_digest: str) -> Shard:
    return _write_shard(_sources, places, number, out, plan_digest)


def _write_shard(
    sources: Sequence[Clips], places: list[Place], number: int, out: Path, plan_digest: str
) -> Shard:
    file = out / _name(number)
    hashed = hashlib.sha256()
    lengths: list[int] = []
    unreadable: dict[str, str] = {}
    compare: dict[int, np.ndarray] = {}  # first sample: clip
    written = 0
    try:
        with atomic(file) as temporary:
            with temporary.open("wb") as stream:
                for n, (s, i) in enumerate(interrupt.between(places)):
                    if _stop is not None and _stop.is_set():
                        raise InterruptedError(f"{file}: packing was stopped")
                    try:
                        audio = _resampled(*sources[s].read(i)).astype("<i2", copy=False)
                    except Unreadable as error:
                        unreadable[sources[s].keys[i]] = error.reason
                        lengths.append(-1)
                        continue
                    stream.write(audio.data)
                    hashed.update(audio.data)
                    if n % -(-len(places) // CHECKED) == 0:
                        compare[written] = audio
                    lengths.append(len(audio))
                    written += len(audio)
            _compare(temporary, compare, file)
        shard = {
            "plan": plan_digest,
            "number": number,
            "lengths": lengths,
            "unreadable": unreadable,
            "sha256": hashed.hexdigest(),
        }
        _write_json(file.with_suffix(".json"), shard)
    except InterruptedError:
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}; make room and run the same command again", str(file)
        ) from error
    return shard


def _compare(written: Path, clips: dict[int, np.ndarray], file: Path) -> None:
    for start, audio in clips.items():
        if not np.array_equal(np.fromfile(written, "<i2", len(audio), offset=2 * start), audio):
            raise RuntimeError(
                f"{file}: reads back other samples than were written; check the disk"
            )


def _resampled(audio: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE:
        return audio
    return to_int16(to_16k(torch.from_numpy(audio / np.float32(32768)), rate).numpy())


def _write_index(
    sources: Sequence[Clips],
    places: list[Place],
    shards: list[Shard],
    events: Events | None,
    out: Path,
) -> None:
    lengths = [[n for n in shard["lengths"] if n >= 0] for shard in shards]
    columns: dict[str, np.ndarray] = {
        "names": np.array([sources[s].names[i] for s, i in places], dtype=str),
        "shard": np.repeat(np.arange(len(shards)), [len(part) for part in lengths]),
        "start": np.concatenate([np.cumsum([0, *part])[:-1] for part in lengths]),
        "length": np.concatenate(lengths).astype(np.int64),
    }
    if events is not None:
        columns |= {
            "event_clips": np.array(events.clips, dtype=str),
            "event_labels": np.array(events.labels, dtype=str),
        }
        columns |= {name: getattr(events, name) for name in ("first", "label")}
        columns |= {name: getattr(events, name) for name in ("onset_s", "offset_s")}
    labels = [source.clip_labels() for source in sources]
    if all(part is not None and part.shape[1] == labels[0].shape[1] for part in labels):
        rows = [[i for s, i in places if s == number] for number in range(len(sources))]
        columns["clip_labels"] = np.concatenate(
            [part[row] for part, row in zip(labels, rows, strict=True)]
        )
    elif any(part is not None for part in labels):
        log.warning("%s: clip labels left out, not all sources have the same ones", out)
    with atomic(out / INDEX) as temporary, temporary.open("wb") as stream:
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


def _name(number: int) -> str:
    return f"shard-{number:05d}.i16"


def _write_json(path: Path, value: Any) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value) + "\n")
