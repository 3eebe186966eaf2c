"""Areas under curves of frame scores: PSDS, segment pAUROC and mAP, one class at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap, Scored
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.decoding import BY_BOXES
from hear_ptsed.metrics.predictions import Predictions, ScoreArray
from hear_ptsed.metrics.psds import (
    ChangePoints,
    Criteria,
    Resamples,
    change_points,
    criteria_of,
    describe_psds,
    psds_of_points,
)
from hear_ptsed.metrics.rankings import MAX_FPR, RANKINGS, average_precision, mean_of_classes


def area_scores(
    predictions: Predictions,
    metrics: Sequence[str],
    bootstrap: Bootstrap = NO_BOOTSTRAP,
    _curves: Sequence[str] = (),
) -> Scored:
    """The metrics of a set and of each class, and PSD-ROCs.

    Files without events are left out, and so are classes without events, whose values are NaN.
    PSDS2 of a single class is NaN, for want of another that could trigger.

    Args:
        metrics: of RANKINGS, or with the options of `Criteria` and `alpha_st` in METRICS.
    """
    clips = predictions.event_clips
    resamples = Resamples.of(clips, bootstrap)
    criteria = {metric: criteria_of(metric) for metric in metrics if metric not in RANKINGS}
    points: dict[Criteria, list[ChangePoints]] = {each: [] for each in criteria.values()}
    ranked: dict[str, list[np.ndarray]] = {m: [] for m in metrics if m in RANKINGS}
    for k in range(len(clips.classes)):
        x = clips.column(k)
        for each, of_classes in points.items():
            of_classes.append(change_points(x, clips, k, each, resamples))
        for metric, of_classes in ranked.items():
            rank = RANKINGS[metric]
            of_classes.append(rank(x, clips, k, resamples.weights))

    values, curves, of_class = {}, {}, {}
    for metric, of_classes in ranked.items():
        columns = np.stack(of_classes, axis=1)  # (R, K)
        values[metric], of_class[metric] = mean_of_classes(columns), columns[0]
    for each, of_classes in points.items():
        alphas = {m: METRICS[m].options["alpha_st"] for m in metrics if criteria.get(m) == each}
        areas, of_each, rocs = psds_of_points(of_classes, each, resamples, [*alphas.values()])
        for metric, alpha in alphas.items():
            values[metric], of_class[metric] = areas[alpha], of_each
            curves |= {metric: rocs[alpha]} if alpha in rocs else {}
    values = {metric: values[metric] for metric in metrics}
    return Scored(
        {metric: float(of[0]) for metric, of in values.items()},
        _rows_of_classes(predictions, {metric: of_class[metric] for metric in metrics}),
        {metric: _convention(predictions, metric) for metric in metrics},
        dict.fromkeys(metrics, _settings(predictions)),
        *_resampled(bootstrap, clips.files, values),
        curves=curves,
    )


def _rows_of_classes(
    predictions: Predictions, of_class: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Class -> number of events and value of each metric; NaN of a class that has no events.

    Args:
        of_class: metric -> (K,) values of the classes that have events.
    """
    per_class = {name: {"events": float(n)} for name, n in predictions.events_of_class.items()}
    for metric, values in of_class.items():
        of_name = dict(zip(predictions.event_clips.classes, values.tolist(), strict=True))
        for name, row in per_class.items():
            row[METRICS[metric].of_classes or metric] = of_name.get(name, math.nan)
    return per_class


def clip_label_scores(
    files: Sequence[str],
    scores: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    bootstrap: Bootstrap = NO_BOOTSTRAP,
) -> Scored:
    """`map` of clip labels, the mean over the classes that a clip has.

    Args:
        files: N names.
        scores: (N, C) of the clips.
        targets: (N, C) bool.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, bool)
    if scores.ndim != 2 or scores.shape != targets.shape or scores.shape[1] != len(classes):
        raise ValueError(
            f"scores {scores.shape} and targets {targets.shape} must be (clips, {len(classes)})"
        )
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"clip {row} has a score that is not finite in {classes[column]!r}")
    order = np.argsort(files)
    weights = bootstrap.with_whole_set(files)
    of_class = {
        name: average_precision(scores[order, k], targets[order, k], weights)
        for k, name in enumerate(classes)
        if targets[:, k].any()
    }
    columns = [*of_class.values()] or [np.full(len(weights), math.nan)]
    values = {"map": mean_of_classes(np.stack(columns, 1))}
    return Scored(
        {"map": float(values["map"][0])},
        {name: {"map": float(of[0])} for name, of in of_class.items()},
        {"map": "mean over the classes that occur of the average precision of clips"},
        {"map": {}},
        *_resampled(bootstrap, files, values),
    )


def _resampled(bootstrap: Bootstrap, files: Sequence[str], values: dict[str, np.ndarray]) -> tuple:
    """`Scored.replicates` and `draws`, from values (1 + R,) of a set and its resamples."""
    if not bootstrap.resamples:
        return {}, {}
    replicates = {metric: of[1:].tolist() for metric, of in values.items()}
    return replicates, {metric: [bootstrap.draws(files)] for metric in values}


def _settings(predictions: Predictions) -> dict[str, Any]:
    """What else decides the values."""
    if predictions.boxes is not None:
        return BY_BOXES
    settings = {"median_frames": predictions.median_frames}
    return settings | ({"median_edges": "copied"} if predictions.median_edges == "copied" else {})


def _convention(predictions: Predictions, metric: str) -> str:
    clips, n, n_classes = (
        predictions.event_clips,
        len(predictions.reference),
        len(predictions.classes),
    )
    if metric not in RANKINGS:
        text = describe_psds(metric)
    elif metric == "map":
        text = "mean over classes of the average precision of clips: the score of a clip is its "
        text += "highest frame, its label whether it has an event"
    elif metric == "f1_mo":
        text = "segments of 1 s, the score of one is its highest frame; F1 of each class at the "
        text += "threshold that is best on these data, mean of the classes that occur"
    else:
        text = "segments of 1 s, "
        if metric == "mpauc":
            text += "each with the mean of its frames by their overlap, "
        text += f"staircase area up to a false positive rate of {MAX_FPR}, divided "
        text += "by it; " + _durations(clips.durations_s.max(), clips.frames.max() * clips.hop_ms)
        text += "; mean of the classes with both positive and negative segments"
    median, cut = predictions.median_frames, not isinstance(predictions.scores, ScoreArray)
    edges = ", its first and last whole windows copied to the edges"
    edges = edges if predictions.median_edges == "copied" else ""
    smoothing = f"median filter of {median} frames{edges}" if median > 1 else "not smoothed"
    smoothing = "boxes (SEBB), each with its mean score" if predictions.boxes else smoothing
    return (
        f"{text}; frames of {predictions.hop_ms} ms{' cut at the end of the audio, then' * cut} "
        f"{smoothing}; events of a "
        f"class that touch joined; {n - len(clips.files)} of {n} clips and "
        f"{n_classes - len(clips.classes)} of {n_classes} classes without events left out"
    )


def _durations(longest_s: float, scored_ms: int) -> str:
    segments = math.ceil(scored_ms / 1000)
    if longest_s > segments:
        return f"durations of whole clips: a segment behind the {segments} s of scores has score 0"
    return f"durations of at most the {segments} s of scores"
