"""RealDESED's rules of labels, its quality of annotators and its scores, against direct ones."""

import math
import random

import numpy as np
import pytest
from scoring_parts import CLASSES as THREE
from scoring_parts import detections

from eval_tasks.tasks.base import Part
from eval_tasks.tasks.realdesed_labels import CLASSES, Annotations, Labeller, annotator_quality
from hear_ptsed.events import median_filter
from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP
from hear_ptsed.metrics.predictions import Predictions
from hear_ptsed.metrics.score import score

FRAMES = 100  # of 4 s


def annotated(seed: int) -> dict[str, Annotations]:
    """Clips with up to four annotators, some reviewed; times fall on centres of frames, too."""
    rng = np.random.default_rng(seed)
    clips = {}
    for i in range(12):
        clip = Annotations()
        for name in rng.permutation(list("abcde"))[: rng.integers(1, 5)]:
            starts = np.round(rng.uniform(0, 3.5, rng.integers(1, 5)) * 50) / 50
            spans = [
                (s, s + rng.choice([0.02, 0.5, 1.33]), CLASSES[rng.integers(4)]) for s in starts
            ]
            clip.unreviewed[str(name)] = spans
            if rng.random() < 0.3:
                clip.creators.add(str(name))
        if rng.random() < 0.4:
            clip.accepted["r"] = [(0.5, 1.0, CLASSES[2])]
            clip.accepted |= {"a": [(0.7, 2.0, CLASSES[2])]} if rng.random() < 0.5 else {}
        clips[f"{i:06d}.wav"] = clip
    return clips


def is_active(spans, frame: int, label: str) -> bool:
    centre_s = (frame + 0.5) / 25
    return any(
        on <= centre_s + 1e-12 and centre_s + 1e-12 < off for on, off, of in spans if of == label
    )


def quality_slowly(clips) -> dict[str, float]:
    of_clips: dict[str, list[float]] = {}
    for clip in clips.values():
        people = clip.unreviewed
        for a in people:
            pairs = []
            for b in people:
                if a == b:
                    continue
                values = []
                for label in CLASSES:
                    counts = [0, 0, 0]
                    for frame in range(200):
                        of_a, of_b = (is_active(people[p], frame, label) for p in (a, b))
                        counts[0] += of_a and of_b
                        counts[1] += of_a
                        counts[2] += of_b
                    if counts[1] + counts[2]:
                        values.append(2 * counts[0] / (counts[1] + counts[2]))
                if values:
                    pairs.append(sum(values) / len(values))
            if pairs:
                of_clips.setdefault(a, []).append(sum(pairs) / len(pairs))
    raw = {name: sum(v) / len(v) for name, v in of_clips.items()}
    mean = sum(raw.values()) / len(raw)
    return {
        name: len(of_clips[name]) / (len(of_clips[name]) + 5) * value
        + 5 / (len(of_clips[name]) + 5) * mean
        for name, value in raw.items()
    }


def test_the_quality_of_annotators_is_that_of_a_loop_over_pairs_and_frames():
    clips = annotated(0)
    quality, expected = annotator_quality(clips.values()), quality_slowly(clips)
    assert {name: value for name, (value, _) in quality.items()} == pytest.approx(expected)
    shared = [
        clip for clip in clips.values() if "a" in clip.unreviewed and len(clip.unreviewed) > 1
    ]
    assert quality["a"][1] == len(shared) > 2
    assert annotator_quality([clip for clip in clips.values() if len(clip.unreviewed) < 2]) == {}


def label_slowly(rule: str, file: str, clip: Annotations, quality, frame: int, label: str) -> float:
    people, reviewed = clip.unreviewed, False
    if rule.endswith("_reviewed") and clip.accepted:
        people, reviewed = clip.accepted, True
    votes = {name: float(is_active(spans, frame, label)) for name, spans in people.items()}
    mean = sum(votes.values()) / len(votes)
    if rule == "one":
        return votes[random.Random(file).choice(sorted(votes))]
    if rule == "recorder":
        makers = [votes[name] for name in clip.creators]
        return float((sum(makers) / len(makers) if makers else mean) >= 0.5)
    if rule in ("intersection", "union"):
        return min(votes.values()) if rule == "intersection" else max(votes.values())
    if rule.startswith("majority"):
        return float(mean >= 0.5)
    if rule == "soft" or reviewed:
        return mean
    weights = {name: quality.get(name, np.mean([*quality.values()])) ** 16 for name in votes}
    return sum(weights[n] * votes[n] for n in votes) / sum(weights.values())


@pytest.mark.parametrize(
    "rule",
    [
        *("one", "majority", "intersection", "union", "recorder", "soft", "weighted"),
        *("majority_reviewed", "weighted_reviewed"),
    ],
)
def test_a_rule_gives_each_frame_the_value_of_its_definition(rule, tmp_path):
    clips = annotated(1)
    quality = annotator_quality(clips.values())
    del quality["e"]  # nobody knows of this one
    labeller, plain = Labeller(rule, quality), {name: value for name, (value, _) in quality.items()}
    kinds = set()
    for file, clip in clips.items():
        events = labeller.label(file, clip, 640 * FRAMES)
        part = Part("train", tmp_path, CLASSES, {file: events}, {}, {file: 640 * FRAMES}, {}, True)
        targets = part.targets(file)
        for frame in range(0, FRAMES, 3):
            for k, label in enumerate(CLASSES[:4]):
                expected = label_slowly(rule, file, clip, plain, frame, label)
                assert targets[frame, k] == pytest.approx(expected, abs=1e-6)
                kinds.add(round(expected, 6))
        assert not targets[:, 4:].any()
        ends = {}
        for event in events:  # those of a class neither overlap nor have the same value and touch
            start, value = ends.get(event["label"], (0, 0))
            assert event["start"] > start or (event["start"] == start and event["value"] != value)
            ends[event["label"]] = event["end"], event["value"]
    assert {0.0, 1.0} <= kinds and (len(kinds) > 2) == (rule.split("_")[0] in ("soft", "weighted"))


def test_a_clip_that_only_a_reviewer_kept_is_of_use_only_to_rules_that_ask_for_reviews():
    clip = Annotations(accepted={"r": [(0.0, 1.0, "microwave")]})
    assert not Labeller("majority", {}).annotators(clip)
    assert [*Labeller("majority_reviewed", {}).annotators(clip)] == ["r"]


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 40])
def test_a_median_with_copied_edges_gives_whole_windows_to_the_frames_at_the_ends(size):
    scores = np.random.default_rng(0).normal(size=(30, 2))
    filtered = median_filter(scores, size, "copied")
    width = min(size, len(scores))
    first, last = width // 2, len(scores) - 1 - (width - 1) // 2
    for frame in range(len(scores)):
        centre = min(max(frame, first), last)
        window = np.sort(scores[centre - width // 2 : centre + (width - 1) // 2 + 1], axis=0)
        assert len(window) == width
        np.testing.assert_array_equal(filtered[frame], window[width // 2])


def library(metric: str, probabilities, reference, durations, median: int):
    """By sed_scores_eval, on scores smoothed as RealDESED's own code smooths them."""
    intersection_based = pytest.importorskip("sed_scores_eval").intersection_based
    from sed_scores_eval import segment_based
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    tables, truth, seconds = {}, {}, {}
    for file in (file for file, events in reference.items() if events):
        frames = math.ceil(round(durations[file] * 25, 6))
        borders = np.minimum(np.arange(frames + 1) / 25, durations[file])
        scores, half = probabilities[file][:frames], median // 2
        whole = [np.median(scores[t - half : t + half + 1], 0) for t in range(half, frames - half)]
        scores = np.array([whole[min(max(t - half, 0), len(whole) - 1)] for t in range(frames)])
        tables[file] = create_score_dataframe(scores, borders, THREE)
        truth[file], seconds[file] = [], durations[file]
        for name in THREE:
            for e in sorted(reference[file], key=lambda e: e["start"]):
                if e["label"] == name:
                    truth[file].append((e["start"] / 1000, e["end"] / 1000, name))
    if metric == "pauroc":
        return segment_based.auroc(tables, truth, seconds, segment_length=1.0, max_fpr=0.1)[0]
    criteria = {"psds1": 0.7, "psds2_nocross": 0.1}[metric.removesuffix("_macro")]
    options = {"dtc_threshold": criteria, "gtc_threshold": criteria, "max_efpr": 100.0}
    options["alpha_st"] = 0.0 if metric.endswith("_macro") else 1.0
    return intersection_based.psds(tables, truth, seconds, **options)[:2]


def test_the_scores_are_those_of_the_library_called_directly():
    probabilities, reference, durations = detections(3)
    for events in reference.values():  # the library refuses events that overlap
        kept = {}
        for e in sorted(events, key=lambda e: e["start"]):
            if e["label"] not in kept or e["start"] > kept[e["label"]]["end"]:
                kept.setdefault(e["label"], e)
        events[:] = kept.values()
    metrics = ("psds1_macro", "psds1", "psds2_nocross_macro", "psds2_nocross", "pauroc")
    given = Predictions(
        THREE, reference, durations, probabilities, median_frames=9, median_edges="copied"
    )
    scored = score(given, metrics, NO_BOOTSTRAP)
    for metric in metrics[:4]:
        value, of_class = library(metric, probabilities, reference, durations, 9)
        of_class = [of_class[name] for name in THREE]
        value = np.mean(of_class) if metric.endswith("_macro") else value
        assert scored.scores[metric] == pytest.approx(value, abs=1e-9)
        assert 0.01 < value < 0.99
        rows = [scored.per_class[name][metric.removesuffix("_macro")] for name in THREE]
        assert rows == pytest.approx(of_class, abs=1e-9)
    areas = library("pauroc", probabilities, reference, durations, 9)
    areas = [areas[name] for name in THREE]
    assert scored.scores["pauroc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert scored.settings["psds1"] == {"median_frames": 9, "median_edges": "copied"}
    assert "whole windows copied to the edges" in scored.conventions["psds1_macro"]
    assert "no cross triggers" in scored.conventions["psds2_nocross"]


def test_a_sound_in_the_first_frames_is_smoothed_away_by_copied_edges_alone():
    scores = np.zeros((250, 1))
    scores[:4] = 1.0
    events = {"0.wav": [{"label": "a", "start": 0.0, "end": 160.0}]}
    given = [["a"], events, {"0.wav": 10.0}, {"0.wav": scores}]
    psds = [
        score(Predictions(*given, median_frames=9, median_edges=edges), ["psds1"]).scores["psds1"]
        for edges in ("reflected", "copied")
    ]
    assert psds == [1.0, 0.0]


def test_pauroc_is_the_area_under_the_staircase():
    """Segments of 1 s: their highest frame, and steps of the false positive rate up to 0.1."""
    rng = np.random.default_rng(5)
    frames = {
        f"{i}.wav": rng.choice(np.linspace(0, 1, 9), 10).repeat(25)[:, None] for i in range(8)
    }
    events = {
        f: [{"label": "a", "start": 500.0 + 40 * i, "end": 1900.0}] for i, f in enumerate(frames)
    }
    for scores in frames.values():
        scores[:50] += 0.25
    predictions = Predictions(["a"], events, dict.fromkeys(frames, 10.0), frames)
    segments = []
    for file, scores in frames.items():
        start, end = events[file][0]["start"] / 1000, events[file][0]["end"] / 1000
        for second in range(10):
            active = start < second + 1 and end > second
            segments.append((max(scores[25 * second : 25 * second + 25, 0]), active))
    negatives = sorted((s for s, active in segments if not active), reverse=True)
    positives = [s for s, active in segments if active]
    area, step = 0.0, 1 / len(negatives)
    for i, threshold in enumerate(negatives):
        width = max(0.0, min(step, 0.1 - i * step))
        area += width * sum(s > threshold for s in positives) / len(positives)
    value = score(predictions, ["pauroc"]).scores["pauroc"]
    assert value == pytest.approx(area / 0.1, abs=1e-9) and 0 < value < 1
