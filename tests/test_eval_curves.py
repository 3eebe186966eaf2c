"""F over thresholds and the PSD-ROC, as records keep them."""

import math
from dataclasses import replace

import leaderboard_parts as parts
import numpy as np
import pytest
from scoring_parts import CLASSES, CLOSE, detections, event, plain_psds, psds_scores

from hear_ptsed.metrics.bootstrap import Bootstrap, Scored, mean_of_folds
from hear_ptsed.metrics.decoding import Decoding, decode_as_heareval
from hear_ptsed.metrics.events import THRESHOLDS, event_scores, threshold_curve
from leaderboards.collect import collect

METRIC = "event_onset_200ms_fms"
DECODING = Decoding(250, 125)


def test_each_point_of_a_threshold_curve_is_the_score_at_that_threshold():
    probabilities, reference, _ = detections(0)
    curve = threshold_curve(reference, probabilities, CLASSES, METRIC, DECODING)
    assert list(curve) == ["threshold", "f_measure", "precision", "recall"]
    assert curve["threshold"] == list(THRESHOLDS) and 0.5 in THRESHOLDS
    for i in (0, THRESHOLDS.index(0.5), len(THRESHOLDS) - 1):
        own = replace(DECODING, threshold=THRESHOLDS[i])
        events = {file: decode_as_heareval(p, CLASSES, own) for file, p in probabilities.items()}
        scored = event_scores(reference, events, CLASSES, [METRIC])
        assert curve["f_measure"][i] == scored.scores[METRIC]
        for part in ("f_measure", "precision", "recall"):
            assert curve[part][i] == scored.details[f"{METRIC}_{part}"]
    assert len(set(curve["f_measure"])) > 10  # the threshold matters


def test_where_nothing_is_detected_the_curve_is_undefined():
    probabilities, reference, _ = detections(1)
    quiet = {file: np.minimum(p, 0.3) for file, p in probabilities.items()}
    curve = threshold_curve(reference, quiet, CLASSES, METRIC, DECODING)
    for threshold, value in zip(curve["threshold"], curve["f_measure"], strict=True):
        assert math.isnan(value) == (threshold >= 0.3)


@pytest.mark.parametrize("metric", ["psds1", "psds2"])
def test_the_roc_is_that_of_sed_scores_eval(metric):
    probabilities, reference, durations = detections(5)
    scored = psds_scores(probabilities, reference, durations, CLASSES, [metric])
    _, _, (etpr, efpr, *_) = plain_psds(metric, probabilities, reference, durations, CLASSES, 1)
    curve = scored.curves[metric]
    assert curve["efpr_per_hour"] == list(range(101)) and len(curve["etpr"]) == 101
    for rate, value in zip(curve["efpr_per_hour"], curve["etpr"], strict=True):
        below = np.flatnonzero(efpr <= rate)
        np.testing.assert_allclose(value, etpr[below[-1]] if len(below) else 0.0, **CLOSE)
    # A staircase read at each false positive per hour: its area is the score, but for the steps.
    assert np.mean(curve["etpr"]) == pytest.approx(scored.scores[metric], abs=0.02)
    assert len(set(curve["etpr"])) > 5


def test_psds_without_a_value_has_no_roc():
    probabilities, reference, durations = detections(2)
    cats = {f: [e for e in events if e["label"] == "cat"] for f, events in reference.items()}
    scored = psds_scores(probabilities, cats, durations, CLASSES)
    assert math.isnan(scored.scores["psds2"]) and list(scored.curves) == ["psds1"]


def test_curves_of_folds_are_averaged_where_they_are_defined():
    folds = [
        Scored({}, {}, {}, curves={METRIC: {"threshold": [0.1, 0.7], "f_measure": values}})
        for values in ([0.2, math.nan], [0.4, 0.5])
    ]
    curve = mean_of_folds(folds).curves[METRIC]
    assert curve == {"threshold": [0.1, 0.7], "f_measure": [pytest.approx(0.3), 0.5]}


def test_an_error_rate_of_no_events_is_undefined_and_its_record_is_read(tmp_path):
    reference = {"a.wav": [event("cat", 1000, 2000)], "b.wav": []}
    scored = event_scores(reference, reference, CLASSES, ["segment_1s_er"], Bootstrap(50))
    values = scored.replicates["segment_1s_er"]
    assert scored.scores["segment_1s_er"] == 0 and {0.0} == {v for v in values if not math.isnan(v)}
    assert any(map(math.isnan, values))  # of resamples that drew b.wav twice
    estimated = {"a.wav": [event("cat", 1000, 2000), event("dog", 0, 900)], "b.wav": []}
    scored = event_scores(reference, estimated, CLASSES, ["segment_1s_er"], Bootstrap(50))
    assert math.isnan(scored.per_class["dog"]["segment_1s_er"])  # it has no event
    names = ("scores", "per_class", "replicates", "draws", "settings", "conventions", "ci95")
    own = {name: getattr(scored, name) for name in names}
    parts.write(tmp_path, replace(parts.record(), curves={}, **own))
    assert not collect([tmp_path], figures=False).rejected
