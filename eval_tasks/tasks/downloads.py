"""Downloaded data sets: archives unpacked as far as needed, audio brought to one rate, mono."""

import gzip
import hashlib
import os
import shutil
import signal
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from hear_ptsed import interrupt
from hear_ptsed.audio import AudioFile, reason, resampled
from hear_ptsed.errors import one_line

RATE = 16000  # Hz
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
NAMED = 3  # files that a message names


def open_sources(
    sources: Sequence[Path], scratch: Path, wanted: Callable[[str], bool]
) -> list[Path]:
    """Folders that hold the sources: folders as they are, all archives unpacked into `scratch`.

    Of an archive only the members whose name is `wanted` are unpacked.
    """
    roots = []
    for source in map(Path, sources):
        if source.is_dir():
            roots.append(source)
        elif source.is_file():
            unpack(source, scratch, wanted)
        else:
            raise FileNotFoundError(f"no folder or archive {source}; correct --source")
    return [*roots, scratch] if scratch.exists() else roots


def is_archive(path: Path) -> bool:
    """Whether it is a file that `unpack` takes, by its name."""
    return path.is_file() and path.name.endswith(ARCHIVES)


def archive_names(archive: Path) -> list[str]:
    """Names of an archive's files, nothing of which is unpacked."""
    names: list[str] = []

    def note(name: str) -> bool:
        names.append(name)
        return False

    unpack(archive, archive.parent, note)
    return names


def unpack(archive: Path, into: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the wanted members of a .zip, .tar, .tar.gz or .tgz."""
    kind = next((e for e in ARCHIVES if archive.name.endswith(e)), None)
    if kind is None:
        raise ValueError(f"{archive} is no folder and no .zip, .tar, .tar.gz or .tgz archive")
    into.mkdir(parents=True, exist_ok=True)
    bar = partial(tqdm, desc=f"unpacking {archive.name}", unit="file")
    try:
        if kind == ".zip":
            with zipfile.ZipFile(archive) as members:
                names = [n for n in members.namelist() if not n.endswith("/") and wanted(n)]
                if outside := [n for n in names if n.startswith("/") or ".." in n.split("/")]:
                    raise zipfile.BadZipFile(f"its member {outside[0]!r} points outside")
                for name in bar(names):
                    members.extract(name, into)
        else:
            with tarfile.open(archive, "r|*") as stream:
                for member in bar(stream):
                    if not member.isdir() and wanted(member.name):
                        stream.extract(member, into, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error}); download it again") from error


def check_md5(sources: Sequence[Path], sums: Mapping[str, str]) -> None:
    """Refuse an archive that has the name of a released one and other bytes.

    Args:
        sums: name -> MD5 as it was released.
    """
    for source in sources:
        if source.name in sums and source.is_file():
            with source.open("rb") as file:
                got = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
            if got.hexdigest() != sums[source.name]:
                raise ValueError(
                    f"{source}: MD5 starts {got.hexdigest()[:8]}, expected "
                    f"{sums[source.name][:8]}; download it again"
                )


def find_path(roots: Sequence[Path], name: str, deepest: int = 3) -> Path | None:
    """The first file or folder of that name, up to so many levels below the roots."""
    for depth in range(deepest + 1):
        for root in roots:
            if path := next(root.glob("*/" * depth + name), None):
                return path
    return None


def link_file(source: Path, target: Path) -> None:
    """A hard link to the file, or a copy of it where the file system has none."""
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def to_mono(
    source: Path,
    target: Path,
    seconds: float | None,
    source_rate: int | None = None,
    rate: int = RATE,
) -> float:
    """Write a clip as mono PCM16 of exactly `seconds` at `rate` Hz, cut or padded with silence.

    Channels are averaged. A clip that has this form already is linked. A long one is read by
    blocks: what is held of it is the audio that is written.

    Args:
        seconds: None for the clip's own length.
        source_rate: the rate in Hz that the source must have, if it must.
    Returns:
        Seconds of the clip before padding.
    """
    with AudioFile(source) as file:
        if source_rate not in (None, file.rate):
            raise ValueError(f"has {file.rate} Hz, expected {source_rate}")
        *form, length = file.form
        samples = None if seconds is None else round(seconds * rate)
        if form == ["WAV", "PCM_16", 1, rate] and samples in (None, length) and not file.cut:
            link_file(source, target)
            return length / rate
        frames = None if seconds is None else round(seconds * file.rate)
        audio = resampled(_padded_blocks(file, frames), file.rate, rate)[:samples]
        if shortfall := file.shortfall():
            raise ValueError(shortfall)
        read_s = file.samples / file.rate
    if samples is not None and samples > len(audio):
        audio = np.pad(audio, (0, samples - len(audio)))
    audio *= 32768  # all in place: a clip may be of ten minutes
    np.round(audio, out=audio)
    np.clip(audio, -32768, 32767, out=audio)
    soundfile.write(target, audio.astype(np.int16), rate, subtype="PCM_16", format="WAV")
    return read_s


def _padded_blocks(file: AudioFile, frames: int | None) -> Iterator[np.ndarray]:
    """A file's mono blocks, then silence up to so many samples; None: no silence."""
    yield from file.blocks(limit=frames)
    if frames is not None:
        # padded first, as hear-preprocess does: the filter then rings out in the silence
        yield np.zeros(frames - file.samples, np.float32)


def convert(
    clips: Sequence[tuple[Path, Path]],
    seconds: float | None,
    jobs: int,
    about: str,
    source_rate: int | None = None,
    kept_rates: Sequence[int] = (),
) -> list[float | str]:
    """`to_mono` for (source, target) pairs in several processes: seconds of each, or its fault.

    Args:
        kept_rates: in Hz, at which a clip is written too: beside FOLDER/16000/PART/FILE.
    """
    work = partial(
        _converted, seconds=seconds, source_rate=source_rate, kept_rates=tuple(kept_rates)
    )
    bar = partial(tqdm, total=len(clips), desc=about, unit="clip")
    if jobs < 1:
        raise ValueError(f"{jobs} jobs; give 1 or more")
    if jobs == 1 or len(clips) < 2:
        return [work(clip) for clip in bar(interrupt.between(clips))]
    # Ctrl-C also reaches the workers, which leave it to this process.
    workers = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), **workers) as pool:
        try:
            return list(bar(interrupt.between(pool.map(work, clips, chunksize=8))))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _converted(
    clip: tuple[Path, Path],
    seconds: float | None,
    source_rate: int | None,
    kept_rates: Sequence[int],
) -> float | str:
    source, target = clip
    try:
        read_s = to_mono(source, target, seconds, source_rate)
        for rate in kept_rates:
            kept = target.parents[2] / str(rate) / target.parent.name / target.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            to_mono(source, kept, seconds, source_rate, rate)
        return read_s
    except OSError as error:
        return f"{source}: {reason(error)}"
    except Exception as error:
        return f"{source}: {one_line(error)}"


def convert_all(
    clips: Sequence[tuple[Path, Path]],
    seconds: float | None,
    jobs: int,
    about: str,
    source_rate: int | None = None,
    kept_rates: Sequence[int] = (),
) -> None:
    """`convert`, where a clip that cannot be read or is not there is an error."""
    missing = [str(source) for source, _ in clips if not source.is_file()]
    if missing:
        raise FileNotFoundError(f"{about}: {some(missing, 'clips')} missing; complete the download")
    results = convert(clips, seconds, jobs, about, source_rate, kept_rates)
    faults = [fault for fault in results if isinstance(fault, str)]
    if faults:
        raise ValueError(f"{about}: {some(faults, 'clips')} not usable; download them again")


def some(names: Sequence[str], what: str) -> str:
    """A count and the first names: '5 clips (a, b, c, …)'."""
    more = ", …" if len(names) > NAMED else ""
    return f"{len(names)} {what} ({', '.join(names[:NAMED])}{more})"
