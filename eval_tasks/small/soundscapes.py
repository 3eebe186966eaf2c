"""Soundscapes: 10-s clips of AudioSet-Strong classes from real sounds, rendered at the user's side.

A folder has the form of the real thing, PaSST-style HDF5 of mp3 bytes and official annotation
tables, so the normal loader reads it. Nothing is shipped: sounds come from pinned packages.
"""

import csv
import io
import logging
import shutil
import signal
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from eval_tasks.sounds import scene
from eval_tasks.sounds.audioset import PARTS, audioset_bank
from eval_tasks.sounds.provenance import packages, versions
from eval_tasks.sounds.sound import RATE
from eval_tasks.sounds.sources import Bank, member_sha256
from eval_tasks.sounds.synthetic import synthetic_audioset_bank
from hear_ptsed import interrupt
from hear_ptsed.files import write_json
from hear_ptsed.parts import Parts, make_folder

FORMAT = 1  # raise when a change renders other audio from the same settings
MP3_RATE = 32000  # Hz, as in the published files
CHUNK = 50  # clips rendered at a time by one worker, and kept if the rendering is interrupted
HEADER = ("segment_id", "start_time_seconds", "end_time_seconds", "label")


@dataclass(frozen=True)
class Chunk:
    """A run of clips of one part: a file of `parts`, whose facts are the rows of the table."""

    parts: Parts
    number: int
    part: str
    start: int
    stop: int
    classes: tuple[str, ...]


def prepare(
    out: Path,
    *,
    train: int,
    evaluation: int,
    seed: int = 0,
    workers: int = 2,
    synthetic: bool = False,
) -> Path:
    """Render `train` + `evaluation` clips into the folder `out` and return it.

    A finished folder with the same settings is kept, an interrupted one continued. The number of
    workers changes nothing, and a larger set begins with the clips of a smaller one. Workers are
    new processes: a script that calls this needs the usual `if __name__ == "__main__"`.
    """
    if min(train, evaluation, workers) < 1:
        raise ValueError(
            f"train {train}, evaluation {evaluation}, workers {workers}: each must be 1 or more"
        )
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; give 0 or more")
    out = Path(out)
    settings = {
        "train": train,
        "evaluation": evaluation,
        "seed": seed,
        "synthetic": synthetic,
        "format": FORMAT,
    }
    if not make_folder(out, settings, partial(_fill, out, settings, workers)):
        logging.getLogger(__name__).info("%s is there already and is kept", out)
    shutil.rmtree(_parts_folder(out), ignore_errors=True)
    return out


def _parts_folder(out: Path) -> Path:
    """Where the chunks stay until all of them are rendered, also after an interruption."""
    return out.with_name(f".{out.name}.parts")


def _fill(out: Path, settings: dict, workers: int, folder: Path) -> None:
    """Write all files into the new `folder`, which becomes `out`."""
    bank = synthetic_audioset_bank() if settings["synthetic"] else audioset_bank()
    labels = tuple(bank.classes)
    spans = [
        (part, start, min(start + CHUNK, count))
        for part, count in zip(PARTS, (settings["train"], settings["evaluation"]), strict=True)
        for start in range(0, count, CHUNK)
    ]
    names = [f"{part}_{start:07d}.hdf" for part, start, _ in spans]
    parts = Parts(_parts_folder(out), settings | {"classes": labels}, names)
    parts.claim()
    chunks = [Chunk(parts, number, *span, labels) for number, span in enumerate(spans)]
    _render_all([chunks[number] for number in parts.left()], workers)
    manifest = {"settings": settings, **_provenance(bank, settings["synthetic"])}
    for part in PARTS:
        manifest[part] = _join([c for c in chunks if c.part == part], folder, part)
    write_json(folder / "manifest.json", manifest)
    (folder / "README.md").write_text(_card(manifest), encoding="utf-8")


def clip_id(part: str, index: int) -> str:
    """Eleven characters, as in a video's identifier."""
    return f"ss{part[0]}{index:08d}"


def _render_all(chunks: list[Chunk], workers: int) -> None:
    """Render in new processes; in this one where a second would not pay."""
    clips = sum(chunk.stop - chunk.start for chunk in chunks)
    with tqdm(total=clips, desc="soundscapes", unit="clip") as bar:
        if workers == 1 or len(chunks) < 2:
            for chunk in interrupt.between(chunks):
                bar.update(_render(chunk))
            return
        # spawned, not forked: the caller may hold threads or a GPU
        own = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
        with ProcessPoolExecutor(min(workers, len(chunks)), get_context("spawn"), **own) as pool:
            try:
                for done in interrupt.between(pool.map(_render, chunks)):
                    bar.update(done)
            except BaseException:  # Ctrl-C too; what is under way is finished and kept
                pool.shutdown(cancel_futures=True)
                raise


@cache
def _stage(part: str, classes: tuple[str, ...], synthetic: bool) -> tuple[dict, scene.Surroundings]:
    """Sources and surroundings of a part, once per process."""
    if synthetic:
        return synthetic_audioset_bank().sources[part], scene.Surroundings([], [])
    return audioset_bank(classes).sources[part], scene.surroundings(part)


def _render(chunk: Chunk) -> int:
    settings = chunk.parts.settings
    sources, around = _stage(chunk.part, chunk.classes, settings["synthetic"])
    mids = _mids()
    mp3s, rows = [], []
    for i in range(chunk.start, chunk.stop):
        rng = np.random.default_rng([settings["seed"], PARTS.index(chunk.part), i])
        first = _first_class(chunk, i)
        audio, events = scene.soundscape(sources, first, around, rng)
        file = io.BytesIO()
        resampled = soxr.resample(audio, RATE, MP3_RATE)
        soundfile.write(file, resampled, MP3_RATE, format="MP3", subtype="MPEG_LAYER_III")
        mp3s.append(file.getvalue())
        segment = f"{clip_id(chunk.part, i)}_0"
        rows += [(segment, f"{a:.3f}", f"{b:.3f}", mids[label]) for a, b, label in events]
    with chunk.parts.write(chunk.number, {"rows": rows}) as path:
        names = [f"Y{clip_id(chunk.part, i)}.mp3" for i in range(chunk.start, chunk.stop)]
        _write_clips(path, names, mp3s)
    return len(mp3s)


def _first_class(chunk: Chunk, index: int) -> str:
    """The class that a clip has for certain: each class comes once in as many clips."""
    turn, place = divmod(index, len(chunk.classes))
    deck = np.random.default_rng([chunk.parts.settings["seed"], 2 + PARTS.index(chunk.part), turn])
    return chunk.classes[deck.permutation(len(chunk.classes))[place]]


@cache
def _mids() -> dict[str, str]:
    """Machine identifier of each class name."""
    table = resources.files("hear_ptsed") / "labels" / "audioset_strong.csv"
    with table.open(encoding="utf-8", newline="") as file:
        return {row["name"]: row["mid"] for row in csv.DictReader(file)}


def _write_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    lines = ["\t".join(row) for row in (HEADER, *rows)]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _write_clips(path: Path, names: list[str], mp3s: list[bytes]) -> None:
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array(names, "S20")
        stored = file.create_dataset("mp3", len(mp3s), h5py.vlen_dtype(np.uint8))
        for i, mp3 in enumerate(mp3s):
            stored[i] = np.frombuffer(mp3, np.uint8)


def _join(chunks: list[Chunk], folder: Path, part: str) -> dict:
    """Write the files of a part; what they hold, for the manifest."""
    names, rows = [], []
    with h5py.File(folder / f"{part}_mp3.hdf", "w") as file:
        stored = file.create_dataset("mp3", chunks[-1].stop, h5py.vlen_dtype(np.uint8))
        for chunk in chunks:
            with h5py.File(chunk.parts.files[chunk.number]) as piece:
                names += list(piece["audio_name"])
                for i, mp3 in enumerate(piece["mp3"], start=chunk.start):
                    stored[i] = mp3
            rows += chunk.parts.facts(chunk.number)["rows"]
        file["audio_name"] = np.array(names, "S20")
    _write_table(folder / f"{part}.tsv", rows)
    labels = {mid: name for name, mid in _mids().items()}
    counts = Counter(labels[row[3]] for row in rows)
    return {"clips": len(names), "events": len(rows), "events_of": dict(sorted(counts.items()))}


def _provenance(bank: Bank, synthetic: bool) -> dict:
    used = {part: bank.sources[part] for part in PARTS}
    members = {(s.package, s.member) for part in used.values() for c in part.values() for s in c}
    if not synthetic:
        members |= {*scene.BACKGROUNDS, *scene.ROOMS}
    members = sorted(member for member in members if member[0] != "computed")
    classes = {}
    for label in bank.classes:
        origins = {part: {source.origin for source in used[part][label]} for part in PARTS}
        shared = origins["train"] & origins["eval"]
        classes[label] = {
            "mid": _mids()[label],
            "independent_sources": {part: len(origins[part] - shared) for part in PARTS},
            "shared_sources": len(shared),
            "sources": {part: [source.name for source in used[part][label]] for part in PARTS},
        }
    return {
        "versions": versions(),
        "classes": classes,
        "dropped_classes": bank.dropped,
        "packages": packages({package for package, _ in members}),
        "members": {f"{member[0]}: {member[1]}": member_sha256(*member) for member in members},
    }


def _card(manifest: dict) -> str:
    classes, settings = manifest["classes"], manifest["settings"]
    rows = "\n".join(
        f"| {label} | {found['independent_sources']['train']} "
        f"| {found['independent_sources']['eval']} | {found['shared_sources']} "
        f"| {manifest['train']['events_of'].get(label, 0)} "
        f"| {manifest['eval']['events_of'].get(label, 0)} |"
        for label, found in classes.items()
    )
    dropped = "".join(f"\n- {label}: {why}" for label, why in manifest["dropped_classes"].items())
    return f"""# Soundscapes{" (synthetic)" if settings["synthetic"] else ""}

Rendered on this machine with seed {settings["seed"]}: {settings["train"]} training and \
{settings["evaluation"]} evaluation clips of {scene.SECONDS:g} s, {len(classes)} classes named as \
in AudioSet Strong. Files: `train_mp3.hdf`, `eval_mp3.hdf` (mp3 at {MP3_RATE} Hz of audio made at \
{RATE} Hz; no clip-level `target`), `train.tsv`, `eval.tsv` (onsets and offsets in seconds).

It is not AudioSet, and scores on it cannot be compared with published ones.

**Do not redistribute the audio**: it contains recordings and soundfonts \
under the licences listed in `manifest.json` (some GPL, some not stated). Everyone can render the \
same folder from the same seed.

- Every fourth source (recording, key of a preset, voice) is heard in evaluation only.
- Shared sources: a class with a single recording is split by segments of it, or plays the same \
call in both parts; a class that is one drum, or is computed, differs only by its parameters. \
Scores of such classes say little about new sources: report them apart.
- Event times come from each sound's own energy after reverberation and gain, in 5-ms windows: \
above its peak - 35 dB and above the background - 9 dB, split at pauses over 0.35 s.
- Rooms (three real impulse responses, else computed) are the same in both parts; recorded \
backgrounds are split in time, and the rain forest has birds in it that no label names.
- Sources were picked with YAMNet's help, which favours YAMNet a little as a reference.
- Speech is synthetic. Whispering voices are not reproducible to the bit on another machine.

Classes left out for want of a package:{dropped or " none"}

| class | independent sources, training | evaluation | shared | events, training | evaluation |
| --- | --- | --- | --- | --- | --- |
{rows}
"""
