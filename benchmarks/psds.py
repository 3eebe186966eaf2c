"""Time and memory of PSDS1, pAUROC and mAP at the size of AudioSet Strong, beside sed_scores_eval.

    python benchmarks/psds.py

Prints Markdown. Scores are made up: smooth noise, raised at the events and in confused classes.
"""

import argparse
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter1d
from sed_scores_eval import intersection_based, segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

from hear_ptsed.metrics.bootstrap import Bootstrap, Scored
from hear_ptsed.metrics.score import score
from training.data.annotations import Events, merged
from training.scores import METRICS, as_predictions

FRAMES = 250
HOP_S = 0.04
EVENTS_PER_CLIP = 12  # about 9 when overlapping ones are joined
CHUNK = 32  # clips


def make_events(rng: np.random.Generator, clips: list[str], classes: list[str]) -> Events:
    """Each clip with a few classes of a long-tailed distribution, and several events of some."""
    share = 1 / np.arange(1, len(classes) + 1) ** 1.1
    share = 0.8 * share / share.sum() + 0.2 / len(classes)
    n = rng.poisson(EVENTS_PER_CLIP - 1, len(clips)) + 1
    clip = np.repeat(np.arange(len(clips)), n)
    label = rng.choice(len(classes), clip.size, p=share)
    # Half of the events repeat the class of the event before.
    repeats = (rng.random(clip.size) < 0.5) & (np.diff(clip, prepend=-1) == 0)
    label = label[np.maximum.accumulate(np.where(repeats, 0, np.arange(clip.size)))]
    label[: len(classes)] = np.arange(len(classes))  # none without
    length = np.minimum(rng.lognormal(0.0, 1.2, clip.size), 10.0)
    onset = rng.random(clip.size) * np.maximum(10.0 - length, 0)
    names = [clips[i] for i in clip], [classes[k] for k in label]
    return merged(Events.from_columns(*names, onset, onset + np.maximum(length, 0.02)))


def make_scores(rng: np.random.Generator, events: Events, n_classes: int) -> np.ndarray:
    """Logits (N, C, 250) float16 of all clips of `events`, whose classes are sorted by name."""
    n = len(events.clips)
    scores = np.empty((n, n_classes, FRAMES), dtype=np.float16)
    confused = rng.integers(n_classes, size=(n_classes, 3))
    for start in range(0, n, CHUNK):
        part = scores[start : start + CHUNK]
        noise = rng.standard_normal(part.shape, dtype=np.float32)
        noise = uniform_filter1d(uniform_filter1d(noise, 7, axis=2), 7, axis=2)
        noise *= 2
        noise += rng.normal(-7, 1.3, (*part.shape[:2], 1)).astype(np.float32)
        for i in range(len(part)):
            for e in range(events.first[start + i], events.first[start + i + 1]):
                late = rng.normal(scale=0.06, size=2)
                begin = max(int((events.onset_s[e] + late[0]) / HOP_S), 0)
                end = max(int((events.offset_s[e] + late[1]) / HOP_S), begin + 1)
                noise[i, events.label[e], begin:end] += rng.normal(4, 2.5)
                noise[i, confused[events.label[e]], begin:end] += rng.normal(2, 2)
        part[:] = noise
    return scores


def evaluate(scores, clips, classes, events, seconds, resamples: int = 0) -> Scored:
    """As training scores an evaluation set."""
    predictions = as_predictions(scores, clips, classes, events, seconds)
    return score(predictions, METRICS, Bootstrap(resamples))


def plain(scores: np.ndarray, clips: list[str], classes: list[str], events: Events, seconds):
    """The same by the library alone: psds1, the classes, and the seconds that both took."""
    truth = {
        clip: [
            (float(events.onset_s[e]), float(events.offset_s[e]), events.labels[events.label[e]])
            for e in range(events.first[i], events.first[i + 1])
        ]
        for i, clip in enumerate(events.clips)
    }
    timestamps = np.arange(FRAMES + 1) * HOP_S
    tables = {
        clip: create_score_dataframe(scores[i].T.astype(np.float64), timestamps, classes)
        for i, clip in enumerate(clips)
    }
    durations = dict(zip(clips, seconds.tolist(), strict=True))
    start = time.perf_counter()
    value, per_class, *_ = intersection_based.psds(
        tables, truth, durations, dtc_threshold=0.7, gtc_threshold=0.7, cttc_threshold=None,
        alpha_ct=0, alpha_st=1,
    )  # fmt: skip
    middle = time.perf_counter()
    areas, _ = segment_based.auroc(tables, truth, durations, segment_length=1.0, max_fpr=0.1)
    return value, per_class, areas, middle - start, time.perf_counter() - middle


def resident() -> float:
    """GB held by this process and its children, shared pages counted once."""
    pids, total = [os.getpid()], 0
    while pids:
        process = Path("/proc") / str(pids.pop())
        try:
            for children in process.glob("task/*/children"):
                pids += children.read_text().split()
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e9


@contextmanager
def peak():
    """Yields a list whose one entry is the highest `resident` during the block."""
    highest, done = [resident()], threading.Event()

    def watch():
        while not done.wait(0.5):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield highest
    finally:
        done.set()
        watcher.join()


def compare(scores, clips, classes, events, seconds, n: int) -> None:
    """Ours and the library on the first n clips and the classes that occur there."""
    end = events.first[n]
    used = np.unique(events.label[:end])
    code = np.full(len(classes), -1, dtype=np.int32)
    code[used] = np.arange(len(used))
    part = Events(
        clips[:n], [classes[k] for k in used], events.first[: n + 1], code[events.label[:end]],
        events.onset_s[:end], events.offset_s[:end],
    )  # fmt: skip
    inputs = scores[:n, used], clips[:n], part.labels, part, seconds[:n]
    start = time.perf_counter()
    ours = evaluate(*inputs)
    took = time.perf_counter() - start
    value, per_class, areas, psds_s, auroc_s = plain(*inputs)
    gap = max(
        abs(ours.scores["psds1"] - value),
        *(abs(measured["psds1"] - per_class[name]) for name, measured in ours.per_class.items()),
        *(abs(measured["pauroc"] - areas[name]) for name, measured in ours.per_class.items()),
    )
    print(f"\n{n} clips, {len(used)} classes, one job each; s and ms per clip:\n")
    print("| | s | ms | x ours |\n| --- | --- | --- | --- |")
    for name, s in (
        ("sed_scores_eval, PSDS1", psds_s),
        ("sed_scores_eval, pAUROC", auroc_s),
        ("ours: both, and mAP", took),
    ):
        print(f"| {name} | {s:.2f} | {1000 * s / n:.2f} | {s / took:.1f} |")
    print(f"\nRatio {(psds_s + auroc_s) / took:.1f}; largest difference of a value: {gap:.1e}.")
    start = time.perf_counter()
    ci95 = evaluate(*inputs, 200).ci95["psds1_macro"]
    took = time.perf_counter() - start
    print(
        f"With 200 resamples ours takes {took:.1f} s: psds1_macro {ci95[0]:.4f} to {ci95[1]:.4f}."
    )


def main() -> None:
    """Compare on few clips, then measure the full size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16996)
    parser.add_argument("--classes", type=int, default=407)
    parser.add_argument("--plain", type=int, default=300, help="clips for the comparison")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    clips = [f"Y{i:05}" for i in range(options.clips)]
    classes = [f"class {i:03}" for i in range(options.classes)]
    events = make_events(rng, clips, classes)
    seconds = np.where(rng.random(len(clips)) < 0.9, 10.0, rng.uniform(1.0, 10.01, len(clips)))
    scores = make_scores(rng, events, len(classes))
    compare(scores, clips, classes, events, seconds, min(options.plain, len(clips)))

    before, start, cpu = resident(), time.perf_counter(), sum(os.times()[:4])
    with peak() as highest:
        result = evaluate(scores, clips, classes, events, seconds)
    took, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    print(
        f"\n{len(clips)} clips, {len(classes)} classes, {FRAMES} frames, {len(events)} events "
        f"({scores.nbytes / 1e9:.1f} GB of scores): {took:.1f} s "
        f"({cpu:.1f} s of CPU, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores), "
        f"{1000 * took / len(clips):.2f} ms per clip; {before:.1f} GB before, at most "
        f"{highest[0]:.1f} GB."
    )
    print(", ".join(f"{metric} {value:.4f}" for metric, value in result.scores.items()))


if __name__ == "__main__":
    main()
