"""Scores of the downstream tasks against heareval's own and plain sed_scores_eval."""

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from scoring_parts import (
    CLASSES,
    CLOSE,
    EVENT_METRICS,
    detections,
    event,
    plain_psds,
    psds_scores,
    random_events,
)

from eval_tasks.heareval.adjustments import gpu_name_as_bytes, tensorflow_stand_in
from hear_ptsed.metrics.bootstrap import Bootstrap, mean_of_folds, paired
from hear_ptsed.metrics.decoding import Decoding, decode_as_heareval
from hear_ptsed.metrics.events import event_scores, pkg_resources_stand_in

pytest.importorskip("heareval")
intersection_based = pytest.importorskip("sed_scores_eval").intersection_based

F_METRICS = [name for name in EVENT_METRICS if name.endswith("_fms")]


@pytest.fixture(scope="module")
def heareval():
    """heareval's modules of scores and of predictions."""
    with tensorflow_stand_in(), pkg_resources_stand_in(), gpu_name_as_bytes():
        import_module("heareval.predictions.runner")
        return import_module("heareval.score"), import_module(
            "heareval.predictions.task_predictions"
        )


def same_as_heareval(heareval, reference, estimated, metrics=tuple(EVENT_METRICS)):
    scored = event_scores(reference, estimated, CLASSES, metrics)
    assert list(scored.scores) == list(metrics)
    indices = {name: i for i, name in enumerate(CLASSES)}
    for metric in metrics:
        theirs = heareval[0].available_scores[metric](indices)(estimated, reference)
        np.testing.assert_allclose(scored.scores[metric], theirs[0][1], **CLOSE)
        for part, value in theirs:
            np.testing.assert_allclose(scored.details[f"{metric}_{part}"], value, **CLOSE)
    return scored


ONE = [event("cat", 1000, 2000)]
EDGES = {
    "no events at all": ({"a": ONE, "b": ONE}, {"a": [], "b": []}),
    "a file without reference events": ({"a": ONE, "b": []}, {"a": ONE, "b": ONE}),
    "a file without anything": ({"a": ONE, "b": []}, {"a": ONE, "b": []}),
    "a label the reference never has": ({"a": ONE}, {"a": [*ONE, event("dog", 1000, 2000)]}),
    "past the end of a clip of 2 s": ({"a": ONE}, {"a": [*ONE, event("bell", 1900, 7300)]}),
    "one frame": ({"a": ONE}, {"a": [event("cat", 1020, 1020), event("dog", 20, 20)]}),
    "one frame on a segment's edge": ({"a": ONE}, {"a": [event("cat", 1000, 1000)]}),
    "overlapping events of one label": (
        {"a": [*ONE, event("cat", 1100, 3000), event("cat", 1150, 1300)]},
        {"a": [event("cat", 1140, 1290), event("cat", 1020, 2900), event("cat", 1060, 1980)]},
    ),
    "onset exactly at the collar": ({"a": ONE}, {"a": [event("cat", 1200, 2000)]}),
    "labels as numbers": ({"a": [event(3, 0, 500)]}, {"a": [event("3", 20, 480)]}),
}


@pytest.mark.parametrize("case", EDGES)
def test_edge_cases_score_as_in_heareval(heareval, case):
    known = tuple(EVENT_METRICS) if case != "labels as numbers" else tuple(F_METRICS)
    same_as_heareval(heareval, *EDGES[case], known)


@pytest.mark.parametrize("seed", range(6))
def test_random_events_score_as_in_heareval(heareval, seed):
    rng = np.random.default_rng(seed)
    reference = random_events(rng)
    scored = same_as_heareval(heareval, reference, random_events(rng, jitter_of=reference))
    assert 0 < scored.scores["event_onset_50ms_fms"] < 1  # something was matched, not all


def test_without_any_detection_f_and_precision_are_undefined_and_the_error_rate_is_one():
    scored = event_scores({"a": ONE}, {"a": []}, CLASSES, list(EVENT_METRICS), Bootstrap(3))
    for metric in F_METRICS:
        assert math.isnan(scored.scores[metric]) and math.isnan(scored.ci95[metric][0])
        assert math.isnan(scored.details[f"{metric}_precision"])
        assert scored.details[f"{metric}_recall"] == 0
    assert scored.scores["segment_1s_er"] == pytest.approx(1, abs=1e-9)


def test_an_unknown_label_counts_in_f_as_in_heareval_and_has_no_segment_error_rate(heareval):
    estimated = {"a": [*ONE, event("owl", 1000, 2000)]}
    scored = same_as_heareval(heareval, {"a": ONE}, estimated, F_METRICS)
    assert "owl" in scored.conventions["event_onset_50ms_fms"]
    indices = {name: i for i, name in enumerate(CLASSES)}
    with pytest.raises(ValueError, match="owl"):
        heareval[0].available_scores["segment_1s_er"](indices)(estimated, {"a": ONE})
    with pytest.raises(ValueError, match="'owl' is none of the 3 classes"):
        event_scores({"a": ONE}, estimated, CLASSES, ["segment_1s_er"])


def test_each_class_is_scored_as_if_it_were_alone(heareval):
    rng = np.random.default_rng(11)
    reference = random_events(rng)
    estimated = random_events(rng, jitter_of=reference)
    scored = event_scores(reference, estimated, CLASSES, list(EVENT_METRICS))
    for name in CLASSES:
        own = [
            {file: [e for e in events if e["label"] == name] for file, events in side.items()}
            for side in (reference, estimated)
        ]
        alone = same_as_heareval(heareval, *own).scores
        assert scored.per_class[name]["events"] == sum(map(len, own[0].values()))
        for metric in EVENT_METRICS:
            np.testing.assert_allclose(scored.per_class[name][metric], alone[metric], **CLOSE)


@pytest.mark.parametrize(("frames", "hop_ms"), [(2, 40), (5, 40), (300, 40), (300, 20), (300, 10)])
@pytest.mark.parametrize("median_ms", [0, 10, 40, 100, 150, 250, 280, 500])
def test_probabilities_become_the_events_that_heareval_makes_of_them(
    heareval, frames, median_ms, hop_ms
):
    rng = np.random.default_rng(frames)
    steps = np.repeat(rng.random((frames, 3)), 3, axis=0)[:frames]  # runs, and single frames
    probabilities = np.where(rng.random((frames, 3)) < 0.2, 1 - steps, steps).astype(np.float32)
    probabilities[0, 0] = 0.5  # not above the threshold
    by_time = {20.0 + hop_ms * i: torch.tensor(row) for i, row in enumerate(probabilities)}
    count = 0
    for threshold in (0.3, 0.5):
        for min_ms in (0, 40, 50, 125, 250):
            theirs = heareval[1].create_events_from_prediction(
                by_time, dict(enumerate(CLASSES)), threshold, median_ms, min_ms
            )
            how = Decoding(median_ms, min_ms, threshold)
            assert decode_as_heareval(probabilities, CLASSES, how, hop_ms) == theirs
            count += len(theirs)
    assert count or frames < 5


@pytest.mark.parametrize("metric", ["psds1", "psds2"])
@pytest.mark.parametrize(("median", "hop_ms"), [(1, 40), (6, 40), (7, 40), (14, 20), (28, 10)])
def test_psds_is_that_of_sed_scores_eval(metric, median, hop_ms):
    per_s = 1000 // hop_ms
    probabilities, reference, durations = detections(median, frames=10 * per_s, per_s=per_s)
    classes = [*CLASSES, "absent"]
    for file, own in probabilities.items():
        probabilities[file] = np.concatenate([own, own[:, :1]], axis=1)
    scored = psds_scores(
        probabilities, reference, durations, classes, [metric], median, hop_ms=hop_ms
    )
    value, per_class, _ = plain_psds(
        metric, probabilities, reference, durations, classes, median, hop_ms
    )
    assert 0.01 < value < 0.99
    np.testing.assert_allclose(scored.scores[metric], value, **CLOSE)
    for name in CLASSES:
        np.testing.assert_allclose(scored.per_class[name][metric], per_class[name], **CLOSE)
    assert scored.per_class["absent"]["events"] == 0
    assert math.isnan(scored.per_class["absent"][metric])
    assert "10 of 40 clips and 1 of 4 classes without events" in scored.conventions[metric]


def test_psds_of_many_false_alarms_is_that_of_sed_scores_eval():
    probabilities, reference, durations = detections(3, clips=80)
    loud = {file: np.round(own**0.1, 2) for file, own in probabilities.items()}  # many are equal
    reference = {file: events[: i % 3] for i, (file, events) in enumerate(reference.items())}
    scored = psds_scores(loud, reference, durations, CLASSES)
    for metric in ("psds1", "psds2"):
        value, per_class, _ = plain_psds(metric, loud, reference, durations, CLASSES, 1)
        np.testing.assert_allclose(scored.scores[metric], value, **CLOSE)
        for name in CLASSES:
            np.testing.assert_allclose(scored.per_class[name][metric], per_class[name], **CLOSE)


def test_psds_counts_every_false_alarm_up_to_the_limit_and_joins_events_that_touch():
    rng = np.random.default_rng(4)
    probabilities, reference = {}, {}
    for i in range(100):
        # In 1000 s 27 false alarms are allowed; their scores and those of the hits interleave.
        label = "cat" if i < 40 else "bell"
        reference[f"{i}.wav"] = [event(label, 2000, 3000), event(label, 3000, 4000)]
        probabilities[f"{i}.wav"] = np.full((250, 3), 1e-3)
        probabilities[f"{i}.wav"][50:100, :2] = rng.random(2)
    durations = dict.fromkeys(reference, 10.0)
    scored = psds_scores(probabilities, reference, durations, CLASSES)
    for metric in ("psds1", "psds2"):
        value, per_class, _ = plain_psds(metric, probabilities, reference, durations, CLASSES, 1)
        np.testing.assert_allclose(scored.scores[metric], value, **CLOSE)
        assert 0.01 < per_class["cat"] < 0.9
    assert scored.per_class["cat"]["events"] == 80


def resampled(files, weights, *mappings):
    """Each mapping with its files as often as drawn, under names of their own."""
    draws = [(file, j) for file, n in zip(files, weights, strict=True) for j in range(n)]
    return [{f"{j}-{file}": mapping[file] for file, j in draws} for mapping in mappings]


def test_scores_of_a_resample_are_those_of_its_clips(heareval):
    rng = np.random.default_rng(5)
    reference = random_events(rng)
    estimated = random_events(rng, jitter_of=reference)
    bootstrap = Bootstrap(20, seed=3)
    scored = event_scores(reference, estimated, CLASSES, list(EVENT_METRICS), bootstrap)
    for r, weights in enumerate(bootstrap.weights(sorted(reference))[:4]):
        parts = resampled(sorted(reference), weights, reference, estimated)
        direct = same_as_heareval(heareval, *parts).scores
        for metric in EVENT_METRICS:
            np.testing.assert_allclose(scored.replicates[metric][r], direct[metric], **CLOSE)


@pytest.mark.parametrize("seed", [0, 1])
def test_psds_of_a_resample_is_that_of_its_clips(seed):
    data = detections(seed)
    # One class is rare: some resamples lack it.
    for file in list(data[1])[2:]:
        data[1][file] = [e for e in data[1][file] if e["label"] != "dog"] or data[1][file][:1]
    bootstrap = Bootstrap(8, seed)
    scored = psds_scores(*data, CLASSES, ["psds1", "psds2"], 7, bootstrap)
    files = sorted(file for file in data[1] if data[1][file])
    for r, weights in enumerate(bootstrap.weights(files)):
        parts = resampled(files, weights, *data)
        for metric in ("psds1", "psds2"):
            value, *_ = plain_psds(metric, *parts, CLASSES, 7)
            np.testing.assert_allclose(scored.replicates[metric][r], value, **CLOSE)
    assert len(set(scored.replicates["psds1"])) == len(set(scored.replicates["psds2"])) == 8


def test_a_resample_with_every_clip_once_has_the_value_of_the_set(monkeypatch):
    monkeypatch.setattr(Bootstrap, "weights", lambda self, files: np.ones((1, len(files)), int))
    probabilities, reference, durations = detections(2)
    estimated = {
        f: decode_as_heareval(p, CLASSES, Decoding(280, 80)) for f, p in probabilities.items()
    }
    events = event_scores(reference, estimated, CLASSES, list(EVENT_METRICS), Bootstrap())
    psds = psds_scores(probabilities, reference, durations, CLASSES, bootstrap=Bootstrap())
    for scored in (events, psds):
        assert {m: values[0] for m, values in scored.replicates.items()} == scored.scores


def test_resamples_depend_on_names_and_seed_only():
    files = [f"{i}.wav" for i in range(30)]
    weights = Bootstrap(40).weights(files)
    assert (weights.sum(1) == 30).all() and len(np.unique(weights, axis=0)) == 40
    assert (weights == Bootstrap(40).weights(files[::-1])).all()
    assert (weights[:9] == Bootstrap(9).weights(files)).all()
    assert (weights != Bootstrap(40, seed=1).weights(files)).any()
    assert (weights != Bootstrap(40).weights([f"fold1-{file}" for file in files])).any()


def test_paired_differences_use_the_same_clips():
    rng = np.random.default_rng(8)
    reference = random_events(rng, files=40)
    good, poor = (random_events(rng, 40, jitter_of=reference) for _ in range(2))
    poor = {file: events[::2] for file, events in poor.items()}
    metric, bootstrap = "event_onset_200ms_fms", Bootstrap(200)
    a, b = (event_scores(reference, e, CLASSES, [metric], bootstrap) for e in (good, poor))
    assert paired(a, a, metric) == (0, 0, 0)
    difference, low, high = paired(a, b, metric)
    assert difference == a.scores[metric] - b.scores[metric]
    assert 0 < low < difference < high
    for one in (a, b):
        assert one.ci95[metric][0] < one.scores[metric] < one.ci95[metric][1]
    renamed = [{f"x{file}": events for file, events in e.items()} for e in (reference, good)]
    with pytest.raises(ValueError, match="same resamples of the same clips"):
        paired(a, event_scores(*renamed, CLASSES, [metric], bootstrap), metric)
    with pytest.raises(ValueError, match="no replicates of"):
        paired(a, event_scores(reference, good, CLASSES, [metric]), metric)


def test_folds_are_averaged_as_in_heareval(heareval):
    rng = np.random.default_rng(9)
    folds = []
    for k in range(4):
        reference = {f"{k}-{file}": events for file, events in random_events(rng).items()}
        estimated = dict.fromkeys(reference, [])  # fold 0 detects nothing: its F is NaN
        if k:
            names = {file.split("-")[1]: events for file, events in reference.items()}
            moved = random_events(rng, jitter_of=names)
            estimated = {f"{k}-{file}": events for file, events in moved.items()}
        folds.append(event_scores(reference, estimated, CLASSES, EVENT_METRICS, Bootstrap(30)))
    mean = mean_of_folds(folds)
    theirs = heareval[1].aggregate_test_results({str(k): f.scores for k, f in enumerate(folds)})
    for metric in EVENT_METRICS:
        np.testing.assert_allclose(mean.scores[metric], theirs[f"{metric}_mean"], **CLOSE)
        rows = np.array([fold.replicates[metric] for fold in folds])
        np.testing.assert_allclose(mean.replicates[metric], np.nanmean(rows, 0), **CLOSE)
        low, high = np.percentile(mean.replicates[metric], [2.5, 97.5])
        np.testing.assert_allclose(mean.ci95[metric], (low, high), **CLOSE)
        assert paired(mean, mean, metric) == (0, 0, 0)
    assert mean.per_class["cat"]["events"] == sum(f.per_class["cat"]["events"] for f in folds)


def test_what_cannot_be_scored_is_named_in_one_line():
    probabilities, reference, durations = detections(0)
    with pytest.raises(ValueError, match="unknown metric 'f1'; known: event_onset_200ms_fms"):
        event_scores({"a": ONE}, {"a": ONE}, CLASSES, ["f1"])
    with pytest.raises(ValueError, match="b.wav lacks an estimate"):
        event_scores({"a": ONE, "b.wav": []}, {"a": ONE}, CLASSES, F_METRICS)
    with pytest.raises(ValueError, match="no clip to score"):
        event_scores({}, {}, CLASSES, F_METRICS)
    with pytest.raises(ValueError, match="estimate of a: event from 9.0 to 3.0 ms"):
        event_scores({"a": ONE}, {"a": [event("cat", 9, 3)]}, CLASSES, F_METRICS)
    with pytest.raises(ValueError, match="none of the 1 clips has an event"):
        psds_scores({"a": probabilities["0.wav"]}, {"a": []}, {"a": 10.0}, CLASSES)
    with pytest.raises(ValueError, match="label 'cat' is none of the 1 classes"):
        psds_scores({"a": np.ones((250, 1))}, {"a": ONE}, {"a": 10.0}, ["dog"])
    with pytest.raises(ValueError, match="1.wav: shape \\(3, 9\\); expected \\(frames, 3\\)"):
        psds_scores(probabilities | {"1.wav": np.ones((3, 9))}, reference, durations, CLASSES)
    with pytest.raises(ValueError, match="3.wav has duration 0 s"):
        psds_scores(probabilities, reference, durations | {"3.wav": 0}, CLASSES)
    with pytest.raises(ValueError, match="NaN or infinity"):
        decode_as_heareval(np.full((9, 3), np.nan), CLASSES, Decoding(250, 125))
    with pytest.raises(ValueError, match="threshold 62 is no probability"):
        Decoding(250, 125, 62)
