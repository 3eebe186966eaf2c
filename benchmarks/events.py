"""Time of event-based F-scores and of a curve over thresholds, beside heareval's own scorer.

    python benchmarks/events.py

Prints Markdown. Events are made up: most references are found a little off, the rest is false.
"""

import argparse
import time
from importlib import import_module

import numpy as np

from eval_tasks.heareval.adjustments import gpu_name_as_bytes, tensorflow_stand_in
from hear_ptsed.metrics.decoding import Decoding
from hear_ptsed.metrics.events import (
    THRESHOLDS,
    event_scores,
    pkg_resources_stand_in,
    threshold_curve,
)

# Like a clip of 120 s of: classes, events, metrics of the task.
TASKS = {
    "dcase2016_task2": (11, 40, ("event_onset_200ms_fms",)),
    "maestro": (88, 1200, ("event_onset_50ms_fms", "event_onset_offset_50ms_20perc_fms")),
}
FRAMES = 3000


def clip(rng: np.random.Generator, classes: list[str], n: int) -> tuple[list, list, np.ndarray]:
    """Reference, estimate, and probabilities (T, C) in which the reference is loud."""
    starts = np.sort(rng.uniform(0, 119_000, n))
    labels = rng.choice(classes, n)
    reference = [
        {"label": label, "start": start, "end": start + length}
        for label, start, length in zip(
            labels.tolist(), starts.tolist(), rng.uniform(100, 900, n).tolist(), strict=True
        )
    ]
    detected = [
        event | {"start": max(0.0, event["start"] + rng.normal(0, 40))}
        for event in reference
        if rng.random() < 0.7
    ]
    detected = [event for event in detected if event["start"] < event["end"]]
    for start in rng.uniform(0, 119_000, n // 3).tolist():
        detected.append({"label": str(rng.choice(classes)), "start": start, "end": start + 300.0})
    probabilities = rng.uniform(0, 0.5, (FRAMES, len(classes))) ** 2
    for event in reference:
        span = slice(int(event["start"] / 40), int(event["end"] / 40) + 1)
        probabilities[span, classes.index(event["label"])] += rng.uniform(0, 0.7)
    return reference, detected, probabilities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=6)
    args = parser.parse_args()
    with tensorflow_stand_in(), pkg_resources_stand_in(), gpu_name_as_bytes():
        import_module("heareval.predictions.runner")
        scorers = import_module("heareval.score").available_scores
    print("| seconds per clip | heareval | ours | ratio |\n|---|---|---|---|")
    curves = []
    for task, (n_classes, n, metrics) in TASKS.items():
        rng = np.random.default_rng(0)
        classes = [f"class {k:02d}" for k in range(n_classes)]
        made = [clip(rng, classes, n) for _ in range(args.clips)]
        reference, detected, probabilities = (
            {f"{i}.wav": parts[part] for i, parts in enumerate(made)} for part in range(3)
        )
        for metric in metrics:
            start = time.perf_counter()
            indices = {name: i for i, name in enumerate(classes)}
            of_heareval = scorers[metric](indices)(detected, reference)[0][1]
            middle = time.perf_counter()
            ours = event_scores(reference, detected, classes, [metric]).scores[metric]
            times = middle - start, time.perf_counter() - middle
            assert ours == of_heareval, (ours, of_heareval)
            each = " | ".join(f"{value / args.clips:.3f}" for value in times)
            print(f"| {task}: {metric}, {n} events | {each} | {times[0] / times[1]:.1f} |")
        start = time.perf_counter()
        threshold_curve(reference, probabilities, classes, metrics[0], Decoding(150, 50))
        curves.append(f"{task} {(time.perf_counter() - start) / args.clips:.2f} s")
    print(f"\nA curve of {len(THRESHOLDS)} thresholds, per clip: {', '.join(curves)}")


if __name__ == "__main__":
    main()
