"""Soundscapes: 10-s clips of AudioSet-Strong classes from real sounds, rendered at the user's side.

A folder has the form of the real thing, PaSST-style HDF5 of mp3 bytes and official annotation
tables, so the normal loader reads it. Nothing is shipped: sounds come from pinned packages.
"""

import io
import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from eval_tasks.sounds import scene
from eval_tasks.sounds.audioset import PARTS, audioset_bank
from eval_tasks.sounds.sources import Bank, describe_origins
from eval_tasks.sounds.synthetic import synthetic_audioset_bank
from eval_tasks.tasks import hear_folder
from eval_tasks.tasks.base import Task
from eval_tasks.tasks.hear_folder import versions
from eval_tasks.tasks.rendered import RenderOptions
from hear_ptsed import interrupt
from hear_ptsed.files import write_json
from hear_ptsed.grid import SAMPLE_RATE
from hear_ptsed.labels import mid_by_name, name_by_mid
from hear_ptsed.parts import Parts
from hear_ptsed.schema import setting, settings

FORMAT = 1  # raise when a change renders other audio from the same settings
MP3_RATE = 32000  # Hz, as in the published files
CHUNK = 50  # clips rendered at a time by one worker, and kept if the rendering is interrupted
SIZES = {"tiny": (12, 7), "demo": (240, 80), "full": (800, 240)}  # training, evaluation clips
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


@settings
class SoundscapeOptions(RenderOptions):
    """What the soundscapes are rendered from."""

    jobs: int | None = setting(
        None, "The number of processes; as many as there are cores if null.", ge=1, le=512
    )


def prepare_soundscapes(
    task: Task, tasks_dir: Path, options: SoundscapeOptions, force: bool
) -> Path:
    """Render the corpus of a size into `tasks_dir` and return its folder; see `render`."""
    train, evaluation = SIZES[options.mode]
    return render(
        tasks_dir / options.name_folder(task),
        train=train,
        evaluation=evaluation,
        seed=options.seed,
        jobs=options.jobs,
        synthetic=options.synthetic,
        force=force,
    )


def render(
    folder: Path,
    *,
    train: int,
    evaluation: int,
    seed: int = 0,
    jobs: int | None = None,
    synthetic: bool = False,
    force: bool = False,
) -> Path:
    """Render `train` + `evaluation` clips into a folder and return it.

    A finished folder with the same settings is kept, an interrupted one continued. The number of
    jobs changes nothing, and a larger set begins with the clips of a smaller one.

    Args:
        jobs: new processes, of which a script needs the usual `if __name__ == "__main__"`; None: as
            many as there are cores.
        force: replace a folder that was rendered with other settings.
    """
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if min(train, evaluation, jobs) < 1:
        raise ValueError(
            f"train {train}, evaluation {evaluation}, jobs {jobs}: each must be 1 or more"
        )
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; give 0 or more")
    settings = {
        "train": train,
        "evaluation": evaluation,
        "seed": seed,
        "synthetic": synthetic,
        "format": FORMAT,
    }
    folder = Path(folder)
    fill = partial(_fill_corpus, folder, settings, jobs)
    hear_folder.build_folder(folder, settings, fill, force=force)
    shutil.rmtree(_parts_folder(folder), ignore_errors=True)
    return folder


def _parts_folder(folder: Path) -> Path:
    """Where the chunks stay until all of them are rendered, also after an interruption."""
    return folder.with_name(f".{folder.name}.parts")


def _fill_corpus(finished: Path, settings: dict, jobs: int, folder: Path) -> None:
    """Write all files into the new `folder`, which becomes `finished`."""
    bank = synthetic_audioset_bank() if settings["synthetic"] else audioset_bank()
    labels = tuple(bank.classes)
    spans = [
        (part, start, min(start + CHUNK, count))
        for part, count in zip(PARTS, (settings["train"], settings["evaluation"]), strict=True)
        for start in range(0, count, CHUNK)
    ]
    names = [f"{part}_{start:07d}.hdf" for part, start, _ in spans]
    parts = Parts(_parts_folder(finished), settings | {"classes": labels}, names)
    parts.claim()
    chunks = [Chunk(parts, number, *span, labels) for number, span in enumerate(spans)]
    _render_chunks([chunks[number] for number in parts.left()], jobs)
    manifest = {"settings": settings, **_provenance(bank, settings["synthetic"])}
    for part in PARTS:
        manifest[part] = _join([c for c in chunks if c.part == part], folder, part)
    write_json(folder / "manifest.json", manifest)
    (folder / "README.md").write_text(_write_corpus_card(manifest), encoding="utf-8")


def clip_id(part: str, index: int) -> str:
    """Eleven characters, as in a video's identifier."""
    return f"ss{part[0]}{index:08d}"


def _render_chunks(chunks: list[Chunk], jobs: int) -> None:
    """Render in new processes; in this one where a second would not pay."""
    clips = sum(chunk.stop - chunk.start for chunk in chunks)
    with tqdm(total=clips, desc="soundscapes", unit="clip") as bar:
        if jobs == 1 or len(chunks) < 2:
            for chunk in interrupt.between(chunks):
                bar.update(render_chunk(chunk))
            return
        # spawned, not forked: the caller may hold threads or a GPU
        context, ignored = get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
        with ProcessPoolExecutor(min(jobs, len(chunks)), context, signal.signal, ignored) as pool:
            try:
                for done in interrupt.between(pool.map(render_chunk, chunks)):
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


def render_chunk(chunk: Chunk) -> int:
    settings = chunk.parts.settings
    sources, around = _stage(chunk.part, chunk.classes, settings["synthetic"])
    mids = mid_by_name()
    mp3s, rows = [], []
    for i in range(chunk.start, chunk.stop):
        rng = np.random.default_rng([settings["seed"], PARTS.index(chunk.part), i])
        first = _first_class(chunk, i)
        audio, events = scene.soundscape(sources, first, around, rng)
        file = io.BytesIO()
        resampled = soxr.resample(audio, SAMPLE_RATE, MP3_RATE)
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
    table = "".join("\t".join(row) + "\n" for row in (HEADER, *rows))
    (folder / f"{part}.tsv").write_text(table, encoding="utf-8")
    labels = name_by_mid()
    counts = Counter(labels[row[3]] for row in rows)
    return {"clips": len(names), "events": len(rows), "events_of": dict(sorted(counts.items()))}


def _provenance(bank: Bank, synthetic: bool) -> dict:
    used, classes, mids = bank.sources, {}, mid_by_name()
    for label in bank.classes:
        origins = {part: {source.origin for source in used[part][label]} for part in PARTS}
        shared = origins["train"] & origins["eval"]
        classes[label] = {
            "mid": mids[label],
            "independent_sources": {part: len(origins[part] - shared) for part in PARTS},
            "shared_sources": len(shared),
            "sources": {part: [source.name for source in used[part][label]] for part in PARTS},
        }
    members = bank.members if synthetic else {*bank.members, *scene.BACKGROUNDS, *scene.ROOMS}
    return {
        "versions": versions(),
        "classes": classes,
        "dropped_classes": bank.dropped,
        **describe_origins(members),
    }


def _write_corpus_card(manifest: dict) -> str:
    classes, settings = manifest["classes"], manifest["settings"]
    rows = "\n".join(
        f"| {label} | {described['independent_sources']['train']} "
        f"| {described['independent_sources']['eval']} | {described['shared_sources']} "
        f"| {manifest['train']['events_of'].get(label, 0)} "
        f"| {manifest['eval']['events_of'].get(label, 0)} |"
        for label, described in classes.items()
    )
    dropped = "".join(f"\n- {label}: {why}" for label, why in manifest["dropped_classes"].items())
    return f"""# Soundscapes{" (synthetic)" if settings["synthetic"] else ""}

Rendered on this machine with seed {settings["seed"]}: {settings["train"]} training and \
{settings["evaluation"]} evaluation clips of {scene.SECONDS:g} s, {len(classes)} classes named as \
in AudioSet Strong. Files: `train_mp3.hdf`, `eval_mp3.hdf` (mp3 at {MP3_RATE} Hz of audio made at \
{SAMPLE_RATE} Hz; no clip-level `target`), `train.tsv`, `eval.tsv` (onsets and offsets in seconds).

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


TASK = Task(
    name="soundscapes",
    title="Soundscapes",
    folder="soundscapes-v1-demo",
    about="a corpus to train on: AudioSet-Strong classes in 10-s clips",
    prepare=prepare_soundscapes,
    options=SoundscapeOptions,
)
