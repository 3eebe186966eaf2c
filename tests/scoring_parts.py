"""Events, probabilities and plain sed_scores_eval for tests of scores."""

from importlib import import_module

import numpy as np
import pytest
from scipy.ndimage import median_filter

from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap
from hear_ptsed.metrics.catalogue import BY_EVENTS, METRICS
from hear_ptsed.metrics.predictions import Predictions
from hear_ptsed.metrics.score import score
from training.scores import METRICS as TRAINING_METRICS
from training.scores import as_predictions

intersection_based = pytest.importorskip("sed_scores_eval").intersection_based

CLASSES = ["bell", "cat", "dog"]
SED_EVAL = [name for name, metric in METRICS.items() if metric.function == BY_EVENTS]
EVENT_METRICS = [  # heareval's
    name for name in SED_EVAL if "empty_system_output_handling" not in METRICS[name].options
]
CLOSE = {"rtol": 0, "atol": 1e-9, "equal_nan": True}


def psds_scores(
    probabilities, reference, durations, classes, metrics=("psds1", "psds2"), median=1,
    bootstrap=NO_BOOTSTRAP, hop_ms=40,
):  # fmt: skip
    predictions = Predictions(
        classes, reference, durations, probabilities, median_frames=median, hop_ms=hop_ms
    )
    return score(predictions, metrics, bootstrap)


def evaluate(scores, clips, classes, events, durations_s, *, bootstrap=0, seed=0):
    """As training scores the classes that occur in `events` on the clips that have some."""
    predictions = as_predictions(scores, clips, classes, events, durations_s)
    return score(predictions, TRAINING_METRICS, Bootstrap(bootstrap, seed))


def event(label, start, end):
    return {"label": label, "start": float(start), "end": float(end)}


def random_events(rng, files=6, per_file=8, jitter_of=None):
    """Events on the 40 ms grid or near those given; some files without any."""
    events = {}
    for i in range(files):
        if jitter_of is None:
            n = rng.integers(per_file) if i else 0
            starts = rng.uniform(0, 9000, n)
            events[f"{i}.wav"] = [
                event(rng.choice(CLASSES), s, s + rng.exponential(800)) for s in starts
            ]
            continue
        kept = [e for e in jitter_of[f"{i}.wav"] if rng.random() < 0.8]
        moved = [
            event(
                rng.choice(CLASSES) if rng.random() < 0.2 else e["label"],
                max(0, e["start"] + rng.normal() * 60),
                e["end"] + 300 + rng.normal() * 60,
            )
            for e in kept
        ]
        starts = 20 + 40 * rng.integers(0, 200, rng.integers(4))
        events[f"{i}.wav"] = moved + [event(rng.choice(CLASSES), s, s + 120) for s in starts]
    return events


def detections(seed, clips=40, frames=250, per_s=25):
    """Probabilities, events and durations of short and whole clips, a quarter without an event."""
    rng = np.random.default_rng(seed)
    probabilities, reference, durations = {}, {}, {}
    for i in range(clips):
        file = f"{i}.wav"
        durations[file] = float(rng.choice([10.0, 9.96, 9.537, 3.01]))
        noise = np.cumsum(rng.normal(size=(frames, len(CLASSES))), 0) / 4
        noise = noise * (25 / per_s) ** 0.5 - 3
        events = []
        for c in rng.integers(0, 3, 0 if i % 4 == 0 else 3):
            start = rng.uniform(0, durations[file] - 1)
            end = min(start + rng.exponential(2) + 0.1, durations[file])
            events.append(event(CLASSES[c], 1000 * start, 1000 * end))
            noise[int(per_s * start) : int(per_s * end) + 1, c] += rng.normal() + 4
        probabilities[file], reference[file] = 1 / (1 + np.exp(-noise)), events
    return probabilities, reference, durations


def plain_psds(metric, probabilities, reference, durations, classes, median, hop_ms=40):
    """sed_scores_eval on a table for each clip with events: PSDS, of each class, PSD-ROC."""
    scores = import_module("sed_scores_eval.base_modules.scores")
    present = sorted({e["label"] for events in reference.values() for e in events})
    tables, truth, seconds = {}, {}, {}
    for file, events in reference.items():
        if not events:
            continue
        seconds[file] = durations[file]
        behind = 20 + hop_ms * (np.arange(len(probabilities[file])) + 0.5)  # each centre, in ms
        boundaries = np.minimum(np.append(0, behind) / 1000, seconds[file])
        frames = np.count_nonzero(np.diff(boundaries) > 1e-9)
        own = probabilities[file][:frames, [classes.index(name) for name in present]]
        own = median_filter(own, (median, 1))
        tables[file] = scores.create_score_dataframe(own, boundaries[: frames + 1], present)
        truth[file] = []
        for name in present:  # the library refuses events that overlap
            spans = sorted((e["start"] / 1e3, e["end"] / 1e3) for e in events if e["label"] == name)
            for start, end in spans:
                if truth[file] and truth[file][-1][2] == name and truth[file][-1][1] >= start:
                    start, earlier, _ = truth[file].pop()
                    end = max(end, earlier)
                truth[file].append((start, end, name))
    options = {"dtc_threshold": 0.7, "gtc_threshold": 0.7}
    if metric == "psds2":
        options = {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3}
        options["alpha_ct"] = 0.5
    return intersection_based.psds(tables, truth, seconds, alpha_st=1.0, max_efpr=100.0, **options)[
        :3
    ]
