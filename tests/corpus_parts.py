"""Corpora for tests: sounds, commands in processes of their own, and their workers."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hear_ptsed import cli

pq = pytest.importorskip("pyarrow.parquet")

MODEL = ("--model", "frame_mn04", "--untrained", "--device", "cpu")
# With random weights all 447 classes would be found everywhere.
DETECT = ("detect", *MODEL, "--format", "parquet", "--threshold", "0.512")
EMBED = ("embed", *MODEL, "--scene")
KINDS = [("wav", 16000), ("flac", 22050), ("mp3", 44100)]
N_PARTS = 4
# A command with small parts.
COMMAND = """
import sys
from hear_ptsed import cli, corpus
corpus.PART_FILES = {size}
if __name__ == "__main__":  # not in the processes that it starts
    sys.exit(cli.main(sys.argv[1:]))
"""


def sounds(folder: Path, n: int, longest_s: float = 3.0) -> Path:
    """Files of three kinds; two that are no audio, and others that are nobody's business."""
    rng = np.random.default_rng(0)
    (folder / "below").mkdir(parents=True)
    for i in range(n - 2):
        kind, rate = KINDS[i % 3]
        audio = 0.1 * rng.standard_normal(int(rate * rng.uniform(0.1, longest_s)))
        soundfile.write(folder / ("below" if i % 2 else "") / f"{i:04d}.{kind}", audio, rate)
    (folder / "bad.wav").write_bytes(b"RIFF nothing")
    (folder / "below" / "empty.mp3").write_bytes(b"")
    (folder / "notes.txt").write_text("no audio")
    (folder / ".hidden.wav").write_bytes(b"")
    return folder


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def rows(out: Path) -> list[dict]:
    """All rows, by part."""
    parts = sorted(out.glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def start(*arguments, size: int = 3, script: Path | None = None) -> subprocess.Popen:
    """A command of its own, with small parts; `script` is where its program lies."""
    script.write_text(COMMAND.format(size=size))
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(what, seconds: float = 60.0):
    """The first true value of `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.005)
    raise TimeoutError


def children(pid: int) -> list[int]:
    """Workers of a command: processes that Python spawned."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    spawned = []
    for child in map(int, listed):
        try:
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                spawned.append(child)
        except OSError:
            continue
    return spawned


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
