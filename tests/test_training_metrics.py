"""Evaluation metrics of AudioSet Strong against plain sed_scores_eval and scikit-learn."""

from importlib.metadata import version

import numpy as np
import pytest
from scoring_parts import evaluate
from sed_scores_eval import intersection_based, segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe
from sklearn.metrics import average_precision_score

from hear_ptsed.metrics import areas, psds
from hear_ptsed.metrics.areas import clip_label_scores
from hear_ptsed.metrics.bootstrap import Bootstrap
from hear_ptsed.metrics.rankings import average_precision
from training.data.annotations import Events
from training.scores import as_predictions

CLOSE = {"rtol": 0, "atol": 1e-9}


def plain(scores, clips, classes, events, durations_s):
    """psds1, psds1 per class, pauroc per class: the library on one table of scores per clip."""
    ours = {}
    for i, clip in enumerate(events.clips):
        for e in range(events.first[i], events.first[i + 1]):
            event = float(events.onset_s[e]), float(events.offset_s[e])
            name = events.labels[events.label[e]]
            if clip in clips and name in classes:
                ours.setdefault(clip, []).append((*event, name))
    names = sorted({event[2] for spans in ours.values() for event in spans}, key=classes.index)
    columns = [classes.index(name) for name in names]
    timestamps = np.arange(scores.shape[2] + 1) * 0.04
    tables, seconds = {}, {}
    for i, clip in enumerate(clips):
        if clip in ours:
            own = scores[i, columns].T.astype(np.float64)
            tables[clip] = create_score_dataframe(own, timestamps, names)
            seconds[clip] = float(durations_s[i])
    value, per_class, *_ = intersection_based.psds(
        tables, ours, seconds, dtc_threshold=0.7, gtc_threshold=0.7, cttc_threshold=None,
        alpha_ct=0, alpha_st=1,
    )  # fmt: skip
    with np.errstate(invalid="ignore"):
        areas, _ = segment_based.auroc(tables, ours, seconds, segment_length=1.0, max_fpr=0.1)
    return value, per_class, {name: areas[name] for name in names}


def same_as_plain(scores, clips, classes, events, durations_s):
    """Evaluate both ways; all values agree."""
    result = evaluate(scores, clips, classes, events, durations_s)
    value, per_class, areas = plain(scores, clips, classes, events, durations_s)
    assert list(result.per_class) == list(per_class)
    np.testing.assert_allclose(result.scores["psds1"], value, **CLOSE)
    for name, own in result.per_class.items():
        np.testing.assert_allclose(own["psds1"], per_class[name], **CLOSE)
        np.testing.assert_allclose(own["pauroc"], areas[name], **CLOSE)
    np.testing.assert_allclose(
        result.scores["psds1_macro"], np.mean(list(per_class.values())), **CLOSE
    )
    defined = [area for area in areas.values() if not np.isnan(area)]
    np.testing.assert_allclose(result.scores["pauroc"], np.mean(defined or [np.nan]), **CLOSE)
    return result


def random_events(rng, clips, classes, durations_s, n, lattice=0.0):
    """About n events that neither touch nor overlap within a class; on a lattice of seconds."""
    last, rows = {}, []
    for _ in range(n):
        i = rng.integers(len(clips))
        name = classes[int(len(classes) * rng.random() ** 2)]
        onset = last.get((i, name), -0.1) + 0.1 + rng.exponential(1.0)
        length = rng.choice([0.04, rng.exponential(1.5), 30.0], p=[0.2, 0.7, 0.1])
        if lattice:
            onset, length = np.ceil(onset / lattice) * lattice, np.ceil(length / lattice) * lattice
        offset = min(onset + length, durations_s[i])
        if offset > onset:
            last[i, name] = offset
            rows.append((clips[i], name, onset, offset))
    return Events.from_columns(*zip(*rows, strict=True))


def smooth_scores(rng, clips, classes, events, frames=250):
    """Logits: low smooth noise of one level per pair, raised at events, sometimes missed."""
    noise = np.cumsum(rng.normal(size=(len(clips), len(classes), frames)), axis=2)
    scores = -6 + 0.15 * (noise - noise.mean(2, keepdims=True))
    scores += rng.normal(size=(len(clips), len(classes), 1))
    for i, clip in enumerate(events.clips):
        for e in range(events.first[i], events.first[i + 1]):
            if clip not in clips or events.labels[events.label[e]] not in classes:
                continue
            c = classes.index(events.labels[events.label[e]])
            start, end = events.onset_s[e] / 0.04, events.offset_s[e] / 0.04
            shift = rng.normal(scale=2, size=2)
            inside = slice(max(int(start + shift[0]), 0), max(int(end + shift[1]), 1))
            scores[clips.index(clip), c, inside] += rng.choice([0, 4, 8])
    return scores


@pytest.fixture(scope="module")
def corpus():
    """400 clips and 12 classes with every edge case; durations from 1 to 10.01 s."""
    rng = np.random.default_rng(0)
    clips = [f"Y{i:03}" for i in range(400)]
    classes = [f"class {i}, of 12" for i in range(12)]
    durations_s = np.where(rng.random(400) < 0.6, 10.0, rng.uniform(1.0, 10.01, 400))
    durations_s[:6] = 10.0, 10.00984, 4.0, 1.0, 9.999999, 10.0
    drawn = random_events(rng, clips[20:], classes[:10], durations_s[20:], 900)
    rows = [
        (drawn.clips[i], drawn.labels[k], *span)
        for i, k, *span in zip(drawn.clip, drawn.label, drawn.onset_s, drawn.offset_s, strict=True)
    ]
    rows += [  # clips 6 to 19 have no events, class 11 none at all
        (clips[0], classes[0], 0.0, 10.0),
        (clips[0], classes[1], 9.96, 10.0),
        (clips[1], classes[0], 9.0, 10.00984),
        (clips[1], classes[2], 10.002, 10.00984),  # beyond the score frames
        (clips[2], classes[3], 3.0, 4.0),
        (clips[2], classes[4], 5.0, 6.0),  # after the end of the clip
        (clips[3], classes[0], 0.0, 0.04),
        (clips[4], classes[10], 2.0, 2.5),  # the only event of its class
        (clips[5], classes[0], 1.0, 2.0),
        (clips[5], classes[0], 2.0 + 1e-6, 2.0 + 2e-6),
        (clips[5], "a class without scores", 1.0, 2.0),
        ("a clip without scores", classes[0], 1.0, 2.0),
    ]
    events = Events.from_columns(*zip(*rows, strict=True))
    scores = smooth_scores(rng, clips, classes, events)
    scores[30:60, 5] = -3.0  # constant, with and without events
    scores[:, 6] = np.round(scores[:, 6])  # ties, plateaus
    scores[:, 7] = 1.5  # constant in all clips
    scores[60:90, :, 1::2] = -9.0  # one-frame detections
    scores[90:100, :, 200:] = 5.0  # detections to the very end
    scores[100:110, :, :3] = 6.0
    return scores, clips, classes, events, durations_s


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_equal_plain_sed_scores_eval_on_400_clips_with_all_edge_cases(corpus, dtype):
    scores, *rest = corpus
    result = same_as_plain(scores.astype(dtype), *rest)
    assert (
        0.1 < result.scores["psds1_macro"] < 0.9
        and result.scores["psds1"] < result.scores["psds1_macro"]
    )
    assert result.per_class["class 7, of 12"]["psds1"] == 0
    clips = as_predictions(scores, *rest).event_clips
    assert set(clips.files) == set(rest[2].clips) & set(rest[0])
    assert list(result.per_class) == clips.classes and len(clips.classes) == 11


@pytest.mark.parametrize("levels", [2, 4, 40, 0])
def test_values_equal_plain_sed_scores_eval_on_random_small_sets(levels):
    for seed in range(25):
        rng = np.random.default_rng(100 * levels + seed)
        n, c, frames = rng.integers(1, 9), rng.integers(1, 4), rng.integers(1, 260)
        clips, classes = [f"{i}" for i in range(n)], [f"c{i}" for i in range(c)]
        durations_s = rng.choice([0.3, 2.0, 9.7, 10.0, 10.4, 25.0], n)
        # A lattice of frames puts intersections onto the tolerances, and events onto segments.
        events = random_events(rng, clips, classes, durations_s + 0.1, 12, rng.choice([0, 0.04, 1]))
        scores = rng.normal(size=(n, c, frames))
        if levels:
            scores = np.floor(levels * rng.random((n, c, frames)) ** 3) - 1
        same_as_plain(scores.astype(np.float32), clips, classes, events, durations_s)


def test_pruning_leaves_out_only_what_cannot_be_seen(corpus, monkeypatch):
    scores, *rest = corpus
    scores = scores.astype(np.float32)
    kept = []
    change_points = psds.change_points
    monkeypatch.setattr(
        areas, "change_points", lambda *a: kept.append(change_points(*a)) or kept[-1]
    )
    pruned = evaluate(scores, *rest)
    n_pruned = sum(len(each.row) for each in kept)
    kept.clear()
    monkeypatch.setattr(psds, "lowest_score", lambda *a: -np.inf)
    assert evaluate(scores, *rest) == pruned
    assert n_pruned < 0.3 * sum(len(each.row) for each in kept)


def test_clips_whose_scores_are_shuffled_in_order_score_the_same(corpus):
    scores, clips, classes, events, durations_s = corpus
    order = np.random.default_rng(1).permutation(len(clips))
    back = list(range(len(classes)))[::-1]
    one = evaluate(scores, clips, classes, events, durations_s)
    shuffled = scores[order][:, back]
    names = [clips[i] for i in order], [classes[i] for i in back]
    other = evaluate(shuffled, *names, events, durations_s[order])
    np.testing.assert_allclose(other.scores["psds1"], one.scores["psds1"], **CLOSE)
    for name, own in one.per_class.items():
        again = other.per_class[name]
        np.testing.assert_allclose(list(again.values()), list(own.values()), **CLOSE)


def test_touching_and_overlapping_events_count_as_one(corpus):
    scores, clips, classes, *_ = corpus
    several = [1.0, 2.0, 2.5], [2.0, 3.0, 2.7]
    events = Events.from_columns(clips[:1] * 3, classes[:1] * 3, *several)
    joined = Events.from_columns(clips[:1], classes[:1], [1.0], [3.0])
    given = scores[:1], clips[:1], classes
    one, other = (evaluate(*given, own, np.array([10.0])) for own in (events, joined))
    assert one == other and one.per_class[classes[0]]["events"] == 1


def test_perfect_scores_reach_one_and_inverted_ones_zero():
    clips, classes = [f"{i}" for i in range(40)], ["a", "b"]
    rows = [(clip, classes[i % 2], 2.0, 5.0) for i, clip in enumerate(clips)]
    events = Events.from_columns(*zip(*rows, strict=True))
    scores = np.zeros((40, 2, 250), np.float16)
    scores[np.arange(40), np.arange(40) % 2, 50:125] = 1
    seconds = np.full(40, 10.0)
    right = evaluate(scores, clips, classes, events, seconds)
    assert right.scores["psds1"] == right.scores["psds1_macro"] == right.scores["map"] == 1
    assert right.scores["pauroc"] == pytest.approx(1, abs=1e-12)
    wrong = evaluate(-scores, clips, classes, events, seconds)
    assert wrong.scores["psds1_macro"] == wrong.scores["pauroc"] == 0


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_equals_scikit_learn_with_ties_and_weights(levels):
    rng = np.random.default_rng(levels)
    score = rng.integers(levels, size=200) / 7
    label = rng.random(200) < 0.2
    weights = rng.integers(0, 4, (5, 200))
    expected = [average_precision_score(label, score, sample_weight=own) for own in weights]
    got = average_precision(score, label, weights)
    np.testing.assert_allclose(got, expected, **CLOSE)
    assert np.isnan(average_precision(score, np.zeros(200, bool), weights)).all()


def test_map_takes_the_highest_frame_of_a_clip_as_its_score(corpus):
    scores, clips, classes, events, durations_s = corpus
    result = evaluate(scores, clips, classes, events, durations_s)
    own = {clip: set() for clip in clips}
    for i, k in zip(events.clip, events.label, strict=True):
        if events.labels[k] in classes and events.clips[i] in own:
            own[events.clips[i]].add(events.labels[k])
    rows = [i for i, clip in enumerate(clips) if own[clip]]
    expected = [
        average_precision_score([name in own[clips[i]] for i in rows], scores[rows, c].max(1))
        for c, name in enumerate(classes)
        if any(name in labels for labels in own.values())
    ]
    np.testing.assert_allclose([p["map"] for p in result.per_class.values()], expected, **CLOSE)
    np.testing.assert_allclose(result.scores["map"], np.mean(expected), **CLOSE)


def test_map_of_clip_labels_leaves_out_classes_without_clips():
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(50, 4)), rng.random((50, 4)) < 0.3
    targets[:, 2] = False
    files = [f"{i:02}" for i in range(50)][::-1]
    result = clip_label_scores(files, scores, targets, ["a", "b", "c", "d"], Bootstrap(3))
    expected = average_precision_score(targets[:, [0, 1, 3]], scores[:, [0, 1, 3]])
    assert list(result.per_class) == ["a", "b", "d"]
    np.testing.assert_allclose(result.scores["map"], expected, **CLOSE)
    for value, weights in zip(result.replicates["map"], Bootstrap(3).weights(files), strict=True):
        drawn = average_precision_score(
            targets[:, [0, 1, 3]], scores[:, [0, 1, 3]], sample_weight=weights[::-1]
        )
        np.testing.assert_allclose(value, drawn, **CLOSE)
    with pytest.raises(ValueError, match=r"scores \(50, 4\) and targets \(49, 4\) must be"):
        clip_label_scores(files, scores, targets[1:], ["a", "b", "c", "d"])


def written_out(corpus, seed):
    """The first resample of a seed as a set of its own, repeated clips under new names."""
    scores, clips, classes, events, durations_s = corpus
    picks = np.repeat(np.arange(len(clips)), Bootstrap(1, seed).weights(clips)[0])
    names, rows = [f"{clips[i]}#{n}" for n, i in enumerate(picks)], []
    code = {clip: k for k, clip in enumerate(events.clips)}
    for name, i in zip(names, picks, strict=True):
        k = code[clips[i]]
        for e in range(events.first[k], events.first[k + 1]):
            label = events.labels[events.label[e]]
            rows.append((name, label, events.onset_s[e], events.offset_s[e]))
    written = Events.from_columns(*zip(*rows, strict=True))
    return scores[picks], names, classes, written, durations_s[picks]


def with_events(corpus, start, end):
    """Those clips from start to end that have events of scored classes."""
    scores, clips, classes, events, durations_s = corpus
    rows = [i for i in range(start, end) if clips[i] in events.clips]
    return scores[rows], [clips[i] for i in rows], classes, events, durations_s[rows]


@pytest.mark.parametrize(("start", "end"), [(0, 12), (20, 60), (100, 400)])
def test_a_resample_scores_as_the_set_written_out(corpus, start, end):
    part = with_events(corpus, start, end)
    absent = 0
    for seed in range(6):
        # The interval of a single resample is its value.
        ci95 = evaluate(*part, bootstrap=1, seed=seed).ci95
        written = written_out(part, seed)
        expected = evaluate(*written)
        absent += len(expected.per_class) < len(evaluate(*part).per_class)
        for name, (low, high) in ci95.items():
            np.testing.assert_allclose([low, high], expected.scores[name], **CLOSE)
    assert absent or start > 0  # classes missing from a resample have been tried
    if start == 20:
        same_as_plain(*written)


def test_a_resample_looks_lower_where_its_highest_false_positives_are_missing():
    # One false positive per clip without the class: the limit of PSDS1 is the one of the pruning.
    rng = np.random.default_rng(0)
    clips, classes = [f"{i:02}" for i in range(80)], ["a", "b"]
    rows = [(clip, classes[i % 2], 2.0, 5.0) for i, clip in enumerate(clips)]
    scores = np.zeros((80, 2, 250)) + rng.random((80, 2, 1))
    outside = np.r_[:50, 125:250]
    scores[np.arange(80)[:, None], np.arange(80)[:, None] % 2, outside] = -1
    part = scores, clips, classes, Events.from_columns(*zip(*rows, strict=True)), np.full(80, 10.0)
    for seed in range(8):
        low, high = evaluate(*part, bootstrap=1, seed=seed).ci95["psds1_macro"]
        expected = same_as_plain(*written_out(part, seed)).scores["psds1_macro"]
        np.testing.assert_allclose([low, high], expected, **CLOSE)


def test_intervals_hold_the_value_and_narrow_with_more_clips(corpus):
    small, large = (evaluate(*with_events(corpus, 110, end), bootstrap=100) for end in (180, 400))
    for name in ("psds1_macro", "pauroc", "map"):
        low, high = large.ci95[name]
        assert low < large.scores[name] < high
        assert high - low < np.diff(small.ci95[name])
    assert large == evaluate(*with_events(corpus, 110, 400), bootstrap=100)
    assert large.ci95 != evaluate(*with_events(corpus, 110, 400), bootstrap=100, seed=1).ci95


def test_a_result_says_how_it_came_about(corpus):
    scores, *rest = with_events(corpus, 110, 150)
    result = evaluate(scores, *rest, bootstrap=2)
    assert list(result.ci95) == ["psds1_macro", "psds1", "pauroc", "map"]
    assert "alpha_st 1" in result.conventions["psds1"]
    assert not any(version("sed_scores_eval") in text for text in result.conventions.values())
    assert result.settings["psds1"] == {"median_frames": 1}
    (drawn,) = result.draws["map"]
    assert (drawn["clips"], drawn["resamples"]) == (len(scores), 2)
    assert evaluate(scores, *rest).ci95 == evaluate(scores, *rest).draws == {}


def changed(corpus, **changes):
    scores, clips, classes, events, durations_s = corpus
    return {
        "scores": scores[:4].astype(np.float32),
        "clips": clips[:4],
        "classes": classes,
        "events": events,
        "durations_s": durations_s[:4],
    } | changes


def event(onset, offset):
    return Events(
        ["Y000"], ["class 0, of 12"], np.array([0, 1]), np.array([0], np.int32),
        np.array([onset]), np.array([offset]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros((4, 3, 250))}, r"shape \(4, 3, 250\), but there are 4 clips and 12"),
        ({"scores": np.zeros((4, 12))}, r"must be floats of shape .* got float64 \(4, 12\)"),
        ({"scores": np.zeros((4, 12, 250), int)}, r"must be floats .* got int64"),
        ({"clips": ["Y000", "Y001", "Y000", "Y003"]}, "clip 'Y000' comes twice"),
        ({"classes": ["x"] * 12}, "class 'x' comes twice"),
        ({"durations_s": np.ones(3)}, r"one entry for each of 4 clips, got shape \(3,\)"),
        ({"durations_s": np.array([1, 0, 1, 1])}, "Y001 has duration 0.0 s"),
        ({"durations_s": np.array([1, 1, -1, 1])}, "Y002 has duration -1.0 s"),
        ({"durations_s": np.array([1, 1, 1, np.nan])}, "Y003 has duration nan s"),
        ({"classes": [f"other {i}" for i in range(12)]}, "no event to score: none of .* check"),
        ({"clips": ["a", "b", "c", "d"]}, "no event to score"),
        ({"events": event(2.0, 2.0)}, "'Y000' has an event of class 'class 0, of 12' from 2.0 to"),
        ({"events": event(-1.0, 2.0)}, "from -1.0 to 2.0 s; it must begin at 0 or later"),
        ({"events": event(1.0, np.inf)}, "from 1.0 to inf s"),
        ({"events": event(np.nan, 2.0)}, "from nan to 2.0 s"),
        ({"bootstrap": -1}, "resamples and seed must be 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(corpus, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluate(**changed(corpus, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_with_clip_and_class(corpus, value):
    scores = corpus[0][:4].astype(np.float16)
    scores[2, 4, 100] = value
    with pytest.raises(ValueError, match="clip 'Y002' has a score that is not finite in class 'cl"):
        evaluate(**changed(corpus, scores=scores))
