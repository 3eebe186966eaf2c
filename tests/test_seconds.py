"""mpAUC of seconds and F1 at the best thresholds, against plain sed_scores_eval."""

import math

import numpy as np
import pytest
from scoring_parts import CLASSES, CLOSE, event, psds_scores

from hear_ptsed.metrics.bootstrap import Bootstrap

segment_based = pytest.importorskip("sed_scores_eval").segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe  # noqa: E402

METRICS = ("mpauc", "f1_mo")


def scene(rng, hop_ms, files=5):
    """Scores, events and durations of clips of 3 to 9 s, some of which end within a second."""
    durations = {f"{i}.wav": float(np.round(rng.uniform(3, 9), 2)) for i in range(files)}
    scores, reference = {}, {}
    for file, seconds in durations.items():
        frames = int(seconds * 1000 // hop_ms) + 3  # padding behind the end
        scores[file] = rng.choice([0.1, 0.3, 0.5, 0.9], size=(frames, 3)) ** rng.uniform(1, 2)
        starts = np.sort(rng.uniform(0, seconds * 1000 - 400, 3))
        reference[file] = [
            event(name, start, start + 350)
            for name, start in zip(rng.permutation(CLASSES), starts, strict=True)
        ]
    return scores, reference, durations


def borders(frames, hop_ms):
    return np.append(0, (40 - hop_ms) / 2 + hop_ms * np.arange(1, frames + 1)) / 1000


def mean_of_second(scores, edges, second, end):
    """The loop that a mean by overlap is."""
    total = weighted = 0.0
    for frame, value in enumerate(scores):
        first, last = max(edges[frame], second), min(edges[frame + 1], second + 1, end)
        if last > first:
            total, weighted = total + last - first, weighted + value * (last - first)
    return weighted / total if total else 0.0


def plain(metric, scores, reference, durations, hop_ms):
    """The library on a table of scores for each clip."""
    tables, truth = {}, {}
    for file, values in scores.items():
        edges, end = borders(len(values), hop_ms), durations[file]
        if metric == "mpauc":
            n = math.ceil(end)
            rows = [
                [mean_of_second(values[:, k], edges, second, end) for k in range(3)]
                for second in range(n)
            ]
            tables[file] = create_score_dataframe(np.array(rows), np.arange(n + 1.0), CLASSES)
        else:
            kept = np.count_nonzero(edges[:-1] < end)
            edges = np.minimum(edges[: kept + 1], end)
            tables[file] = create_score_dataframe(values[:kept], edges, CLASSES)
        truth[file] = [(e["start"] / 1e3, e["end"] / 1e3, e["label"]) for e in reference[file]]
    options = {"segment_length": 1.0}
    if metric == "mpauc":
        return segment_based.auroc(tables, truth, durations, max_fpr=0.1, **options)[0]
    return segment_based.best_fscore(tables, truth, durations, **options)[0]


@pytest.mark.parametrize(("seed", "hop_ms"), [(0, 40), (1, 40), (2, 40), (3, 20), (4, 10)])
def test_mpauc_is_that_of_the_library_on_means_of_seconds(seed, hop_ms):
    scores, reference, durations = scene(np.random.default_rng(seed), hop_ms)
    scored = psds_scores(scores, reference, durations, CLASSES, ("mpauc",), hop_ms=hop_ms)
    expected = plain("mpauc", scores, reference, durations, hop_ms)
    of_class = [expected[name] for name in CLASSES]
    np.testing.assert_allclose(
        [scored.per_class[name]["mpauc"] for name in CLASSES], of_class, **CLOSE
    )
    np.testing.assert_allclose(scored.scores["mpauc"], np.mean(of_class), **CLOSE)
    assert "mean of its frames by their overlap" in scored.conventions["mpauc"]


@pytest.mark.parametrize("seed", range(3))
def test_f1_at_the_best_thresholds_is_that_of_the_library(seed):
    scores, reference, durations = scene(np.random.default_rng(seed), 40)
    scored = psds_scores(scores, reference, durations, CLASSES, ("f1_mo",))
    expected = plain("f1_mo", scores, reference, durations, 40)
    of_class = [expected[name] for name in CLASSES]
    np.testing.assert_allclose(
        [scored.per_class[name]["f1_mo"] for name in CLASSES], of_class, **CLOSE
    )
    np.testing.assert_allclose(scored.scores["f1_mo"], np.mean(of_class), **CLOSE)


def test_each_resample_is_scored_as_a_set_of_its_clips():
    scores, reference, durations = scene(np.random.default_rng(7), 40)
    bootstrap = Bootstrap(5)
    scored = psds_scores(scores, reference, durations, CLASSES, METRICS, bootstrap=bootstrap)
    for r, weight in enumerate(bootstrap.weights(sorted(scores))):
        drawn = {
            f"{i}{file}": file
            for file, times in zip(sorted(scores), weight, strict=True)
            for i in range(times)
        }
        again = [{new: of[old] for new, old in drawn.items()} for of in (scores, reference)]
        seconds = {new: durations[old] for new, old in drawn.items()}
        alone = psds_scores(*again, seconds, CLASSES, METRICS)
        for metric in METRICS:
            value = scored.replicates[metric][r]
            np.testing.assert_allclose(value, alone.scores[metric], **CLOSE)


def test_equal_frames_give_equal_seconds_and_a_class_that_never_sounds_has_no_value():
    scores = {"a": np.full((250, 3), 0.3)}
    scored = psds_scores(scores, {"a": [event("cat", 0, 990)]}, {"a": 10.0}, CLASSES, METRICS)
    assert scored.scores["mpauc"] == 0  # no negative second scores lower than the positive one
    assert scored.scores["f1_mo"] == pytest.approx(2 * 1 / (10 + 1))
    assert math.isnan(scored.per_class["dog"]["mpauc"])
    assert math.isnan(scored.per_class["dog"]["f1_mo"])
