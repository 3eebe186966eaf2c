"""Sound event bounding boxes of scores: edges, confidences, merging, as they are described."""

import numpy as np
import pytest
from slow_boxes import slow_boxes

from hear_ptsed import boxes, events
from hear_ptsed.boxes import GRID, LEAST, BoxSettings, boxes_by_class, boxes_of

ABSOLUTE, RELATIVE = BoxSettings(0.48, "absolute", 0.2), BoxSettings(0.48, "relative", 3.0)


def boxes_in(scores, settings=RELATIVE, hop_ms=40):
    """[(first, stop, confidence)] of scores (T,)."""
    boxes = boxes_of(np.asarray(scores)[None], [settings], hop_ms)[settings]
    assert not boxes.row.any()
    return list(zip(*(column.tolist() for column in boxes[1:]), strict=True))


def rows_of_many_kinds(rng, rows, frames):
    """Noise, weak noise, few levels, long plateaus, single frames, a constant."""
    yield rng.random((rows, frames))
    yield rng.random((rows, frames)) ** 8
    yield rng.integers(0, 4, (rows, frames)) / 3
    yield np.repeat(rng.integers(0, 5, (rows, frames // 7 + 1)) / 4, 7, axis=1)[:, :frames]
    yield (rng.random((rows, frames)) < 0.1) * 0.9
    yield np.full((rows, frames), 0.3)


@pytest.mark.parametrize("many", [boxes.MANY, 2])
@pytest.mark.parametrize("frames", [1, 2, 5, 17, 90])
def test_boxes_are_those_of_the_description_step_by_step(monkeypatch, frames, many):
    monkeypatch.setattr(boxes, "MANY", many)  # rounds, or a heap
    monkeypatch.setattr(boxes, "CHUNK", 300)
    rng = np.random.default_rng(frames)
    compared = 0
    for scores in rows_of_many_kinds(rng, 4, frames):
        lengths = np.append(frames, rng.integers(1, frames + 1, len(scores) - 1))
        for settings, of_rows in boxes_of(scores, GRID, 40, lengths).items():
            for r, n in enumerate(lengths):
                of_row = [column[of_rows.row == r].tolist() for column in of_rows[1:]]
                expected = slow_boxes(scores[r, :n], settings)
                assert list(zip(*of_row, strict=True)) == expected
                compared += len(expected)
    assert compared > 18 * 4


@pytest.mark.parametrize("hop_ms", [40, 20, 10])
def test_a_finer_hop_has_a_filter_of_the_same_length(hop_ms):
    rng = np.random.default_rng(0)
    scores = rng.random(60)
    for settings in GRID:
        assert boxes_in(scores, settings, hop_ms) == slow_boxes(scores, settings, hop_ms)
    assert BoxSettings(0.48).half(hop_ms) == 240 // hop_ms


def test_the_edges_of_an_event_in_noise_lie_within_a_frame_and_its_score_is_its_mean():
    rng = np.random.default_rng(0)
    for _ in range(200):
        first = rng.integers(0, 180)
        stop = first + rng.integers(12, 60)
        scores = np.clip(0.05 + 0.03 * rng.normal(size=250), 0, 1)
        scores[first:stop] = np.clip(0.85 + 0.05 * rng.normal(size=stop - first), 0, 1)
        begin, end, confidence = max(boxes_in(scores), key=lambda box: box[2])
        assert abs(begin - first) <= 1 and abs(end - stop) <= 1
        assert confidence == pytest.approx(scores[begin:end].mean(), abs=1e-8)


@pytest.mark.parametrize(
    ("settings", "dip", "n"),
    [(ABSOLUTE, 0.75, 1), (ABSOLUTE, 0.5, 2), (RELATIVE, 0.5, 1), (RELATIVE, 0.2, 2)],
)
def test_two_events_are_one_where_the_gap_is_shallow(settings, dip, n):
    scores = np.zeros(100)
    scores[20:80], scores[45:60] = 0.9, dip
    edges = [(first, stop) for first, stop, _ in boxes_in(scores, settings)]
    assert edges == ([(20, 80)] if n == 1 else [(20, 45), (60, 80)])


def test_a_higher_threshold_only_takes_boxes_away():
    rng = np.random.default_rng(1)
    scores = rng.random((500, 3)) ** 2
    names = ["a", "b", "c"]
    before = events.decode_boxes(scores, names, threshold=0.0)
    assert len(before) > 10
    for threshold in (0.2, 0.4, 0.6):
        kept = events.decode_boxes(scores, names, threshold=threshold)
        assert kept == [event for event in before if event.score > threshold]
        before = kept


def test_boxes_of_a_row_are_in_order_and_lie_apart():
    scores = np.random.default_rng(2).random((20, 300))
    for of_rows in boxes_of(scores, GRID).values():
        same = of_rows.row[1:] == of_rows.row[:-1]
        assert (of_rows.first < of_rows.stop).all() and same.any()
        assert (of_rows.first[1:] > of_rows.stop[:-1])[same].all()
        assert (np.diff(of_rows.row) >= 0).all()


def test_scaled_scores_have_the_same_edges_where_gaps_are_relative():
    scores = np.random.default_rng(3).random(400)
    for settings in GRID:
        if settings.merging == "relative":
            plain, scaled = boxes_in(scores, settings), boxes_in(scores / 8, settings)
            assert [box[:2] for box in plain] == [box[:2] for box in scaled] and len(plain) > 1


@pytest.mark.parametrize("frames", [1, 2, 7, 30, 250])
@pytest.mark.parametrize("settings", [ABSOLUTE, RELATIVE])
def test_what_is_active_from_the_first_to_the_last_frame_is_one_box(frames, settings):
    assert boxes_in(np.full(frames, 0.7), settings) == [(0, frames, pytest.approx(0.7))]
    assert boxes_in(np.zeros(frames), settings) == []
    assert boxes_in(np.full(frames, LEAST / 2), settings) == []


def test_no_frames_and_no_rows_have_no_boxes():
    for shape in ((0, 250), (3, 0), (0, 0)):
        assert len(boxes_of(np.zeros(shape))[boxes.DEFAULT].row) == 0
    assert events.decode_boxes(np.zeros((0, 2)), ["a", "b"]) == []


@pytest.mark.parametrize("wrong", [-0.5, 1.5, np.nan])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match="boxes are made of probabilities"):
        boxes_of(np.array([[0.5, wrong]]))


def test_painted_boxes_have_their_mean_and_nothing_lies_between():
    scores = np.random.default_rng(4).random((5, 120))
    of_rows = boxes_of(scores, [ABSOLUTE])[ABSOLUTE]
    expected = np.zeros((5, 120))
    for row, first, stop, confidence in zip(*of_rows, strict=True):
        expected[row, first:stop] = confidence
    np.testing.assert_array_equal(of_rows.paint(5, 120), expected)
    assert (expected == 0).any() and (expected > 0).any()


def test_each_class_has_settings_of_its_own():
    scores = np.random.default_rng(5).random((150, 4))
    settings = [ABSOLUTE, RELATIVE, ABSOLUTE, BoxSettings(0.32, "absolute", 0.3)]
    together = boxes_by_class(scores, settings)
    for c, each in enumerate(settings):
        of_class = [column[together.row == c].tolist() for column in together[1:]]
        assert list(zip(*of_class, strict=True)) == boxes_in(scores[:, c], each)


def test_an_event_ends_with_the_audio():
    scores = np.zeros((50, 1))
    scores[10:] = 0.9
    (event,) = events.decode_boxes(scores, ["a"], duration_s=1.505)
    assert event[:3] == ("a", 0.4, 1.505) and event.score == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"expected \(frames, 2\)"):
        events.decode_boxes(scores, ["a", "b"])
