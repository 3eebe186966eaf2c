"""Latency of `hear-ptsed stream` at the speed of sound: `python benchmarks/stream.py`.

Noise comes in pieces of 40 ms as from a microphone; random weights. Each model runs as two
identical copies, one after the other, whose difference is the noise of the machine. A frame's
latency is counted from its centre until the network's answer is there: of the newest and of the
oldest frame that a provisional window is the first to tell, median and worst, and of final frames.
"late" is how old the oldest samples were when they were heard, at worst.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hear_ptsed import detect
from hear_ptsed.grid import FRAME, FRAMES_PER_SECOND, SAMPLE_RATE, WINDOW
from hear_ptsed.live import arriving
from hear_ptsed.stream import Stream

COLUMNS = ["model", "hop, s", "copy", "window, ms", "newest, s", "oldest, s", "final, s"]
COLUMNS += ["late, s", "dropped", "MB more"]


def microphone(seconds: int) -> Iterator[np.ndarray]:
    """Pieces of 40 ms (S,), each when it has sounded."""
    noise = np.random.default_rng(0)
    begun_s = time.monotonic()
    for piece in range(1, seconds * FRAMES_PER_SECOND + 1):
        time.sleep(max(0.0, begun_s + piece / FRAMES_PER_SECOND - time.monotonic()))
        yield noise.normal(0, 0.1, FRAME).astype(np.float32)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Timed:
    """The logits of a detector, with the time that each took."""

    def __init__(self, scorer: detect.Scorer):
        self.scorer, self.model, self.seconds = scorer, scorer.model, []

    def __call__(self, audio: torch.Tensor) -> torch.Tensor:
        begun_s = time.monotonic()
        logits = self.scorer.logits(audio)
        self.seconds.append(time.monotonic() - begun_s)
        return logits


def listen(model: Timed, hop_s: float, seconds: int) -> list[str]:
    """The cells of a row behind the copy."""
    newest_s, oldest_s, final_s, worst_late_s = [], [], [], 0.0
    stream = Stream(model, hop_s)
    begun_s, before_mb = time.monotonic(), None
    for samples, late_s in arriving(microphone(seconds)):
        worst_late_s = max(worst_late_s, late_s)
        blocks = stream.feed(torch.from_numpy(samples), catch_up=late_s > hop_s)
        now_s = time.monotonic() - begun_s
        for first, frames, final in blocks:
            oldest = now_s - (first + 0.5) / FRAMES_PER_SECOND
            newest = oldest - (len(frames) - 1) / FRAMES_PER_SECOND
            if final:
                final_s += [oldest, newest]
            else:
                newest_s.append(newest)
                oldest_s.append(oldest)
        if before_mb is None and stream.samples > 12 * SAMPLE_RATE:
            before_mb = resident_mb()
    spreads = [
        f"{statistics.median(values):.2f} ({max(values):.2f})"
        for values in (newest_s, oldest_s, final_s)
    ]
    window_ms = f"{1000 * statistics.median(model.seconds):.0f}"
    more_mb = f"{resident_mb() - before_mb:+.1f}"
    return [window_ms, *spreads, f"{worst_late_s:.2f}", str(stream.dropped), more_mb]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["frame_mn10", "atst_frame", "beats"])
    parser.add_argument("--hops", type=float, nargs="+", default=[1.0], help="seconds")
    parser.add_argument("--seconds", type=int, default=30, help="of audio for each row, over 12")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"load {os.getloadavg()[0]:.1f}, {args.threads} threads, torch {torch.__version__}")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    options = detect.DetectorOptions(untrained=True, device="cpu")
    for name in args.models:
        copies = [detect.load_detector(name, options=options).score for _ in range(2)]
        for hop_s in args.hops:
            for number, copy in enumerate(copies, 1):
                copy.logits(torch.zeros(1, WINDOW))
                cells = listen(Timed(copy), hop_s, args.seconds)
                print(f"| {name} | {hop_s:g} | {number} | {' | '.join(cells)} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
