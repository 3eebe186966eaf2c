"""Hours of audio per hour of `hear-ptsed detect` over short files, one by one and as a corpus.

    python benchmarks/corpus.py [--models frame_mn10 atst_frame] [--files 200] [--threads 2]

Every arm is a command of its own, start-up included, over the same files of 10 s (44.1 kHz stereo,
FLAC), on one machine and so many threads in all. "one by one" stands twice: the two differ by
chance alone. CPU seconds tell more than the clock where the machine is busy.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

SECONDS = 10  # of a file
RATE = 44100
# The same command, with reading and computing in turn.
IN_TURN = """
import sys
from hear_ptsed import cli, corpus
corpus.read_files = lambda files: map(corpus._read, files)
sys.exit(cli.main(sys.argv[1:]))
"""
PARQUET = ["--format", "parquet"]
ARMS = {  # name -> program, options
    "one by one": (["-m", "hear_ptsed.cli"], []),
    "one by one again": (["-m", "hear_ptsed.cli"], []),
    "corpus, read in turn": (["-c", IN_TURN], PARQUET),
    "corpus": (["-m", "hear_ptsed.cli"], PARQUET),
    "corpus, 2 jobs": (["-m", "hear_ptsed.cli"], [*PARQUET, "--jobs", "2"]),
}


def write_sounds(folder: Path, n: int) -> None:
    """Noise that swells and fades, with a tone in it."""
    rng = np.random.default_rng(0)
    time_s = np.arange(SECONDS * RATE)[:, None] / RATE
    for i in range(n):
        noise = rng.standard_normal((len(time_s), 2)) * np.sin(time_s * rng.uniform(0.1, 3)) ** 2
        tone = np.sin(2 * np.pi * rng.uniform(100, 8000) * time_s)
        soundfile.write(folder / f"{i:04d}.flac", 0.1 * noise + 0.1 * tone, RATE)


def run(program: list[str], options: list[str], threads: int) -> tuple[float, float]:
    """Seconds of the clock and of the CPUs."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    command = [sys.executable, *program, *options]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["frame_mn10", "atst_frame"])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    hours = args.files * SECONDS / 3600
    print(f"{args.files} files, {args.threads} threads, load before {os.getloadavg()[0]:.1f}\n")
    print("| model | arm | wall s | CPU s | h/h by the clock | h per CPU hour |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as work:
        sounds = Path(work, "sounds")
        sounds.mkdir()
        write_sounds(sounds, args.files)
        for model in args.models:
            for arm, (program, more) in ARMS.items():
                chosen = ["--model", model, "--untrained", "--device", "cpu", *more]
                out = ["--out", str(Path(work, f"{model} {arm}"))]
                wall_s, cpu_s = run(program, ["detect", str(sounds), *chosen, *out], args.threads)
                rates = f"{3600 * hours / wall_s:.0f} | {3600 * hours / cpu_s:.0f}"
                print(f"| {model} | {arm} | {wall_s:.1f} | {cpu_s:.1f} | {rates} |", flush=True)
    print(f"\nload behind {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
