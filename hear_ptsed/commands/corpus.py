"""Options of the commands that go through many files, and what they say of them."""

import argparse
import os
import sys
import time
from codecs import BOM_UTF8
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hear_ptsed.errors import printable
from hear_ptsed.options import add_number

if TYPE_CHECKING:
    from hear_ptsed.corpus import Totals
    from hear_ptsed.crew import Crew

# What people call the files of the formats that soundfile reads, but those without a header.
FILE_SUFFIXES = {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus"}
FILE_SUFFIXES |= {".rf64", ".snd", ".w64", ".wav", ".wave"}
LINE_S = 30  # from line to line where there is no terminal
Jobs = Annotated[int, Field(ge=1, le=1024)]


def add_inputs(sub: argparse.ArgumentParser) -> None:
    """Files, folders and a list of files."""
    add, text = sub.add_argument, "WAV, FLAC, OGG, MP3 …, or folders of such files"
    add("audio", nargs="*", type=Path, metavar="AUDIO", help=text)
    text = "a path per line, relative to this file; - for standard input"
    add("--list", type=Path, metavar="FILE", help=text)


def add_crew(sub: argparse.ArgumentParser) -> None:
    """How many work where."""
    add_number(sub.add_argument, "--jobs", Jobs, 1, "processes, which share the CPU's threads")
    text = "work on this Ray cluster, whose machines share the folders; local: one started here"
    sub.add_argument("--ray-address", metavar="ADDRESS", help=text)


def crew_of(args: argparse.Namespace) -> "Crew":
    """What was chosen."""
    from hear_ptsed.crew import Crew

    if args.ray_address is not None and args.jobs > 1:
        args.parser.error("--jobs is for this machine; --ray-address takes all of the cluster")
    return Crew(args.jobs, args.ray_address)


def input_files(args: argparse.Namespace) -> list[Path]:
    """The files that are named, those of the list and those in the folders, each once."""
    if not args.audio and args.list is None:
        args.parser.error("give AUDIO, files or folders, or a --list of files")
    files: list[Path] = []
    for path in args.audio:
        files += _files_in(path) or [path]  # a folder without any fails as such
    if args.list is not None:
        files += _listed_files(args.list)
        if not files:
            raise ValueError(f"{args.list} names no files; write a path into each line")
    return list({file.parent.resolve() / file.name: file for file in files}.values())


def _files_in(folder: Path) -> list[Path]:
    """Audio files in a folder and below it, sorted; a dot in front hides. Of a file, none."""
    files: list[Path] = []

    def refuse(error: OSError) -> None:
        """A folder below that cannot be looked into must not be left out without a word."""
        if error.filename != str(folder):
            raise error

    for inside, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(inside, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.suffix.lower() in FILE_SUFFIXES)


def _listed_files(path: Path) -> list[Path]:
    content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(BOM_UTF8).split(b"\n")]
    return [path.parent / os.fsdecode(line) for line in lines if line.strip()]


class Meter(AbstractContextManager):
    """Files and hours of audio that are done, and how fast: a bar, or a line now and then."""

    def __init__(self, name: str, n_files: int):
        from tqdm import tqdm

        self.name, self.n_files = name, n_files
        self.files, self.seconds, self.began = 0, 0.0, time.monotonic()
        self.next = self.began + LINE_S
        self.bar = tqdm(total=n_files, unit="file", disable=None, leave=False)

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def __call__(self, files: int, seconds: float) -> None:
        """Add what was done."""
        self.files, self.seconds = self.files + files, self.seconds + seconds
        self.bar.update(files)
        if not self.bar.disable:
            self.bar.set_postfix_str(self._audio(), refresh=False)
        elif time.monotonic() > self.next:
            self.next = time.monotonic() + LINE_S
            text = f"{self.files} of {self.n_files} files, {self._audio()}"
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def _audio(self) -> str:
        rate = self.seconds / max(time.monotonic() - self.began, 0.001)
        return f"{self.seconds / 3600:.2f} h of audio, {rate:.0f} h/h"


def tell_totals(args: argparse.Namespace, totals: "Totals") -> int:
    """Say what a folder holds, and what could not be read; the exit code."""
    for file, error in totals.failed.items():
        print(f"  {printable(file, 1000)}: {error}", file=sys.stderr)
    counts = ", ".join(f"{count} {name}" for name, count in totals.counts.items())
    text = f"{totals.files} files, {totals.hours:.2f} h, {counts}, {len(totals.failed)} failed"
    print(f"{args.out}: {text}", file=sys.stderr)
    return int(len(totals.failed) > 0)
