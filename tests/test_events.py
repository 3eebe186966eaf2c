"""Scores -> events, and the class list."""

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from hear_ptsed.events import Event, decode, median_filter
from hear_ptsed.labels import load_labels


def test_the_class_list_is_that_of_the_released_heads():
    labels = load_labels()
    assert len(labels) == 447 and labels == sorted(labels)
    digest = hashlib.sha256("\n".join(labels).encode()).hexdigest()
    assert digest == "db048a1f22e917e33a2a4a131f3549edb8af6b49d019efa32388daa524b44c15"


@pytest.mark.parametrize("size", [1, 2, 3, 6, 9, 10])
@pytest.mark.parametrize("frames", [1, 2, 5, 7, 250])
def test_the_median_filter_is_scipys_also_for_even_sizes_and_short_clips(size, frames):
    scores = np.random.default_rng([size, frames]).random((frames, 3), np.float32)
    expected = ndimage.median_filter(scores, size=(size, 1), mode="reflect")
    np.testing.assert_array_equal(median_filter(scores, size), expected)


def test_filter_lengths_may_differ_by_class():
    scores = np.random.default_rng(0).random((50, 2))
    both = median_filter(scores, [1, 9])
    np.testing.assert_array_equal(both[:, 0], scores[:, 0])
    np.testing.assert_array_equal(both[:, 1:], median_filter(scores[:, 1:], 9))
    with pytest.raises(ValueError, match="median of 0"):
        median_filter(scores, [3, 0])


def slow_decode(scores, classes, threshold, median):
    """Frame by frame, as one would by hand."""
    filtered = ndimage.median_filter(scores, size=(median, 1), mode="reflect")
    events = []
    for c, name in enumerate(classes):
        start = None
        for t in range(len(scores) + 1):
            active = t < len(scores) and filtered[t, c] > threshold
            if active and start is None:
                start = t
            elif not active and start is not None:
                events.append(Event(name, start / 25, t / 25, filtered[start:t, c].mean()))
                start = None
    return events


@pytest.mark.parametrize("median", [1, 4, 9])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_decoding_finds_the_runs_that_a_plain_loop_finds(threshold, median):
    rng = np.random.default_rng(1)
    scores = ndimage.gaussian_filter1d(rng.random((300, 20)), 1.5, axis=0) * rng.random(20) * 1.6
    classes = [f"class {c}" for c in range(20)]
    expected = slow_decode(scores, classes, threshold, median)
    events = decode(scores, classes, threshold=threshold, median=median)
    assert [event[:3] for event in events] == [event[:3] for event in expected]
    np.testing.assert_allclose([e.score for e in events], [e.score for e in expected])
    assert len(expected) > 10 or threshold == 0.9


def test_a_score_equal_to_the_threshold_is_no_event():
    scores = np.full((20, 1), 0.5)
    scores[5:10] = 0.75
    assert decode(scores, ["a"], threshold=0.5, median=1) == [Event("a", 0.2, 0.4, 0.75)]
    assert decode(scores, ["a"], threshold=0.75) == []


def test_thresholds_may_differ_by_class():
    events = decode(np.full((25, 2), 0.4), ["a", "b"], threshold=[0.3, 0.5])
    assert [event.label for event in events] == ["a"]


def test_detections_in_the_padding_of_a_short_clip_are_cut():
    scores = np.zeros((500, 1))
    scores[340:] = 1.0
    (event,) = decode(scores, ["a"], duration_s=13.7, median=1)
    assert event[:3] == ("a", 13.6, 13.7)
    scores[:345] = 0.0
    assert decode(scores, ["a"], duration_s=13.7, median=1) == []


def test_the_padding_does_not_reach_the_clip_through_the_filter():
    scores = np.zeros((250, 1))
    scores[97:100] = 1.0  # alone among zeros too short for the filter, but the clip ends here
    (event,) = decode(scores, ["a"], duration_s=4.0, median=9)
    assert event.offset_s == 4.0
    assert decode(scores, ["a"], median=9) == []


def test_events_begin_and_end_with_their_frames():
    scores = np.zeros((250, 2))
    scores[10:30, 0] = scores[50:62, 0] = scores[:, 1] = 1.0
    events = [Event("a", 0.4, 1.2), Event("a", 2.0, 2.48), Event("b", 0.0, 10.0)]
    assert decode(scores, ["a", "b"]) == events


def test_scores_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"\(10, 2\); expected \(frames, 3\)"):
        decode(np.zeros((10, 2)), ["a", "b", "c"])
    with pytest.raises(ValueError, match="NaN"):
        decode(np.full((10, 1), np.nan), ["a"])
