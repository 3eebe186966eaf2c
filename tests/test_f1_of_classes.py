"""F1 of segments and of events, over all and as a mean over classes, against sed_eval itself."""

import math

import numpy as np
import pytest
from scoring_parts import CLASSES, CLOSE, event, random_events

from hear_ptsed.metrics.bootstrap import Bootstrap
from hear_ptsed.metrics.events import event_scores, pkg_resources_stand_in

with pkg_resources_stand_in():
    sed_eval = pytest.importorskip("sed_eval")
    from dcase_util.containers import MetaDataContainer

SEGMENT, COLLAR = "segment_1s_f1", "event_onset_offset_200ms_20perc_fms"
NAMES = {f"{SEGMENT}_micro": (SEGMENT, 0), f"{SEGMENT}_macro": (SEGMENT, 1)}
OF_CLASS = {SEGMENT: f"{SEGMENT}_micro", COLLAR: COLLAR}
NAMES |= {COLLAR: (COLLAR, 0), f"{COLLAR}_macro": (COLLAR, 1)}


def by_sed_eval(reference, estimated) -> dict:
    """Kind -> micro average, macro average, values of classes: all clips in one go."""
    make = sed_eval.sound_event
    scorers = {
        SEGMENT: make.SegmentBasedMetrics(CLASSES, time_resolution=1.0),
        COLLAR: make.EventBasedMetrics(CLASSES, t_collar=0.2, percentage_of_length=0.2),
    }
    values = {}
    for kind, scorer in scorers.items():
        scorer.empty_system_output_handling = "zero_score"
        for file in reference:
            scorer.evaluate(container(reference[file]), container(estimated[file]))
        of_class = scorer.results_class_wise_metrics()
        values[kind] = (
            scorer.overall_f_measure()["f_measure"],
            scorer.results_class_wise_average_metrics()["f_measure"]["f_measure"],
            {name: of_class[name]["f_measure"]["f_measure"] for name in CLASSES},
        )
    return values


def container(events):
    keys = ("event_label", "event_onset", "event_offset")
    rows = [(e["label"], e["start"] / 1000, e["end"] / 1000) for e in events]
    return MetaDataContainer([dict(zip(keys, row, strict=True)) for row in rows])


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_that_of_sed_eval_on_the_set_and_on_each_resample(seed):
    rng = np.random.default_rng(seed)
    reference = random_events(rng)
    estimated = random_events(rng, jitter_of=reference)
    bootstrap = Bootstrap(4)
    scored = event_scores(reference, estimated, CLASSES, [*NAMES], bootstrap)
    expected = by_sed_eval(reference, estimated)
    weights = bootstrap.weights(sorted(reference))
    for metric, (kind, average) in NAMES.items():
        np.testing.assert_allclose(scored.scores[metric], expected[kind][average], **CLOSE)
        rows = [scored.per_class[name][OF_CLASS[kind]] for name in CLASSES]
        np.testing.assert_allclose(rows, [*expected[kind][2].values()], **CLOSE)
    for r, weight in enumerate(weights):
        drawn = [
            (f"{file}-{i}", file)
            for file, times in zip(sorted(reference), weight, strict=True)
            for i in range(times)
        ]
        again = by_sed_eval(
            {name: reference[file] for name, file in drawn},
            {name: estimated[file] for name, file in drawn},
        )
        for metric, (kind, average) in NAMES.items():
            value = scored.replicates[metric][r]
            np.testing.assert_allclose(value, again[kind][average], **CLOSE)


def test_a_class_that_is_never_predicted_counts_as_zero_and_one_that_never_occurs_not_at_all():
    reference = {"a": [event("cat", 0, 1000), event("dog", 2000, 3000)]}
    scored = event_scores(reference, {"a": [event("cat", 0, 1000)]}, CLASSES, [*NAMES])
    for kind in (SEGMENT, COLLAR):
        assert scored.scores[f"{kind}_macro"] == 0.5
        of_class = {name: scored.per_class[name][OF_CLASS[kind]] for name in CLASSES}
        assert (of_class["cat"], of_class["dog"]) == (1.0, 0.0) and math.isnan(of_class["bell"])
    nothing = event_scores(reference, {"a": []}, CLASSES, [*NAMES])
    assert set(nothing.scores.values()) == {0.0}


def test_the_convention_says_what_is_averaged_and_what_an_empty_class_is():
    reference = {"a": [event("cat", 0, 1000)]}
    texts = event_scores(reference, reference, CLASSES, [*NAMES]).conventions
    for metric, text in texts.items():
        assert "empty_system_output_handling=zero_score" in text and "heareval" not in text
        assert ("mean of the classes that occur" in text) == metric.endswith("_macro")
    with pytest.raises(ValueError, match="'cow' is none of the 3 classes; segment_1s_f1_macro is"):
        event_scores(reference, {"a": [event("cow", 0, 1)]}, CLASSES, [f"{SEGMENT}_macro"])
