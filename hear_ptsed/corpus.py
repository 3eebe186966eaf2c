"""Many files to one folder of Parquet parts, a row for each file.

Killed anywhere, the same call goes on with the parts that are left: nothing twice, nothing lost.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hear_ptsed import __version__, audio, crew, interrupt
from hear_ptsed.errors import LINE, one_line, printable
from hear_ptsed.files import locked, remove_stale, sha256
from hear_ptsed.parts import Parts
from hear_ptsed.rows import Content, FileRow, require_pyarrow, write_rows
from hear_ptsed.windows import check_audio

# A part takes minutes, and that is what a kill costs: these are 1.4 hours of ten-second files;
PART_FILES = 500
# and these 25 minutes of WAV as on a CD, or 4.5 hours of MP3 at 128 kbit/s.
PART_BYTES = 1 << 28
READ_AHEAD = 8  # files that are read while the network computes: a batch of short ones


class Analysis(Protocol):
    """A network with what it makes of a file."""

    def each(self, clips: Iterable[Tensor]) -> Iterator[Any]:
        """What is heard in clips (S,) at 16 kHz, frame by frame (T, D), in turn."""

    def content(self, heard: Any, duration_s: float) -> Any:
        """What a row holds of it; a ValueError is the file's."""


@dataclass(frozen=True)
class Work:
    """What is made of every file."""

    load: Callable[[], Analysis]  # to be sent to other processes
    column: Content
    settings: dict[str, Any]  # all that decides it, as JSON has it


class Totals(NamedTuple):
    """What a folder holds."""

    files: int
    hours: float
    counts: dict[str, int]  # frames, and events
    failed: dict[str, str]  # file -> what is wrong with it


def make_corpus(
    files: Sequence[Path],
    out: Path,
    work: Work,
    how: crew.Crew = crew.ALONE,
    advance: crew.Advance = lambda files, seconds: None,
) -> Totals:
    """Make the parts that are not there, and add the totals to the manifest.

    Args:
        files: each once.
        out: the folder, which holds this corpus alone.
        work: what is made of a file.
        how: who makes the parts.
        advance: called with the number of files that were done and their seconds of audio, which
            are 0 for parts that were there; with negative numbers for what has to be done again.
    Returns:
        What the folder holds, parts of earlier calls included.
    """
    require_pyarrow()
    if not files:
        raise ValueError("no files; name audio files, or folders or a list that hold some")
    planned, digest = cut_parts(files)
    settings = work.settings | {"files": len(files), "inputs": digest, "version": __version__}
    parts = Parts(out.absolute(), settings, [f"part-{n:05d}.parquet" for n in range(len(planned))])
    with locked(out):
        remove_stale(out, alone=True)
        parts.claim()
        unfinished = {
            *parts.left(),
            *(n for n, file in enumerate(parts.files) if not file.exists()),
        }
        for n in sorted({*range(len(planned))} - unfinished):
            advance(parts.facts(n)["files"], 0.0)
        todo = {n: planned[n] for n in sorted(unfinished)}
        try:
            crew.run(partial(_open_maker, work, parts), todo, how, advance, torch.get_num_threads())
        finally:
            remove_stale(out, alone=True)  # of processes that were ended
        totals = _add_up([parts.facts(n) for n in range(len(planned))])
        failed = len(totals.failed)
        summary = {"files": totals.files, "hours": totals.hours, **totals.counts, "failed": failed}
        parts.finish(totals=summary)
    return totals


def cut_parts(files: Sequence[Path]) -> tuple[list[list[Path]], str]:
    """The files of each part, and a digest of all their paths and sizes."""
    planned: list[list[Path]] = []
    n_bytes, digest = 0, hashlib.sha256()
    for file in files:
        try:
            size = file.stat().st_size
        except OSError:  # which its row will say
            size = 0
        digest.update(os.fsencode(f"{file}\n{size}\n"))
        if not planned or len(planned[-1]) == PART_FILES or n_bytes + size > PART_BYTES:
            planned.append([])
            n_bytes = 0
        planned[-1].append(file)
        n_bytes += size
    return planned, digest.hexdigest()


def _add_up(parts: Sequence[dict[str, Any]]) -> Totals:
    counts: dict[str, int] = {}
    failed: dict[str, str] = {}
    for facts in parts:
        failed |= facts["failed"]
        for name, count in facts["counts"].items():
            counts[name] = counts.get(name, 0) + count
    hours = sum(facts["seconds"] for facts in parts) / 3600
    return Totals(sum(facts["files"] for facts in parts), hours, counts, failed)


def _open_maker(work: Work, parts: Parts, threads: int) -> crew.Make:
    """What makes a part; the network is loaded once."""
    torch.set_num_threads(threads)
    return partial(_make_part, work.load(), work.column, parts)


def _make_part(
    analysis: Analysis,
    column: Content,
    parts: Parts,
    n: int,
    files: Sequence[Path],
    advance: crew.Advance,
) -> None:
    counts = {"frames": 0} | ({"events": 0} if column == "events" else {})
    failed: dict[str, str] = {}
    facts: dict[str, Any] = {
        "files": len(files),
        "seconds": 0.0,
        "counts": counts,
        "failed": failed,
    }

    def noted() -> Iterator[FileRow]:
        for row in interrupt.between(_rows(n, files, analysis)):
            advance(1, row.duration_s or 0.0)
            facts["seconds"] += row.duration_s or 0.0
            counts["frames"] += row.frames or 0
            if row.error is not None:
                failed[row.file] = row.error
            elif column == "events":
                counts["events"] += len(row.content)
            yield row

    with parts.write(n, facts) as path:
        write_rows(noted(), column, path)


def _rows(n: int, files: Sequence[Path], analysis: Analysis) -> Iterator[FileRow]:
    """`analyse`; an error of the network, not of a file, says where it was."""
    done = 0
    try:
        for row in analyse(files, analysis):
            yield row
            done += 1
    except Exception as error:
        last = min(done + READ_AHEAD, len(files) - 1)
        span = f"{printable(str(files[done]), LINE)} to {printable(files[last].name, LINE)}"
        raise RuntimeError(f"part {n}, files {span}: {one_line(error)}") from error


class _ReadFile(NamedTuple):
    """A file that was read, or what is wrong with it."""

    file: Path
    sha256: str | None
    duration_s: float | None = None
    audio: Tensor | None = None  # (S,) at 16 kHz
    error: str | None = None

    def row(
        self, frames: int | None = None, content: Any = None, error: str | None = None
    ) -> FileRow:
        error = error or self.error
        return FileRow(str(self.file), self.sha256, self.duration_s, frames, content, error)


def analyse(files: Iterable[Path], analysis: Analysis) -> Iterator[FileRow]:
    """A row for each file in turn, of windows that share batches; a bad file gives an error."""
    unheard: deque[_ReadFile] = deque()

    def clips() -> Iterator[Tensor]:
        for read in read_files(files):
            unheard.append(read)
            if read.audio is not None:
                yield read.audio

    for heard in analysis.each(clips()):
        while unheard[0].audio is None:
            yield unheard.popleft().row()
        read = unheard.popleft()
        try:
            content = analysis.content(heard, read.duration_s)
        except ValueError as error:
            yield read.row(error=one_line(error))
        else:
            yield read.row(len(heard), content)
    yield from (read.row() for read in unheard)


def read_files(files: Iterable[Path]) -> Iterator[_ReadFile]:
    """Read files in threads, some ahead of the one that is yielded."""
    pool = ThreadPoolExecutor(min(READ_AHEAD, torch.get_num_threads()))
    waiting = deque()
    try:
        for file in files:
            waiting.append(pool.submit(_read_file, file))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_file(file: Path) -> _ReadFile:
    digest = None
    try:
        audio.check_file(file)
        digest = sha256(file)
        samples, duration_s = audio.read_audio(file)
        check_audio(samples[None])
    except Exception as error:
        known = isinstance(error, OSError) and error.strerror
        text = audio.reason(error) if known else one_line(error)
        return _ReadFile(file, digest, error=text.removeprefix(f"{printable(str(file), LINE)}: "))
    return _ReadFile(file, digest, duration_s, samples)
