"""PSDS1 and PSDS2 by sed_scores_eval, with bootstrap over clips.

What changes in a clip as the threshold falls is computed once by the library and summed for each
resample. Of these points only those that can lie on the curve are given back to the library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sed_scores_eval import intersection_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

from hear_ptsed.events import median_filter
from hear_ptsed.metrics.bootstrap import (
    HOP_MS,
    Bootstrap,
    Events,
    Scored,
    check_events,
    check_files,
    check_metrics,
    check_probabilities,
)
from hear_ptsed.metrics.points import ALPHA_ST, MAX_EFPR, lowest_score

# Tolerance criteria of detections, of ground-truth intersections and of cross triggers.
PSDS_METRICS: dict[str, dict[str, float]] = {
    "psds1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7},
    "psds2": {"dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3},
}
ALPHA_CT = {"psds1": 0.0, "psds2": 0.5}  # weight of cross triggers
HOUR_S = 3600.0
CURVE = range(int(MAX_EFPR) + 1)  # effective false positives per hour at which a curve is told

Spans = dict[str, list[tuple[float, float, str]]]  # file -> (onset s, offset s, column)


def psds_scores(
    probabilities: Mapping[str, np.ndarray],
    reference: Events,
    durations_s: Mapping[str, float],
    classes: Sequence[str],
    metrics: Sequence[str] = ("psds1", "psds2"),
    median_frames: int = 1,
    bootstrap: Bootstrap | None = None,
) -> Scored:
    """PSDS of frame probabilities: with variance penalty over classes, and of each class.

    Files without events are left out, and so are classes without events: their PSDS is NaN. PSDS2
    of a single class is NaN, for want of another that could trigger.

    Args:
        probabilities: file -> (T, C) at 25 frames per second.
        reference: of the same files, times in ms.
        durations_s: of the audio without padding; frames that begin later are cut, first of all.
        metrics: of psds1, psds2.
        median_frames: of a filter over time; 1 for none.
    """
    check_metrics(metrics, PSDS_METRICS)
    check_events(reference, "reference")
    check_files(reference, probabilities, "probabilities")
    check_files(reference, durations_s, "a duration")
    classes = [str(name) for name in classes]
    counted = _counted(reference, classes)
    present = [name for name in classes if counted[name]]
    files = sorted(file for file in reference if reference[file])
    if not files:
        raise ValueError(f"none of the {len(reference)} clips has an event; PSDS needs some")
    spans = {file: _spans(reference[file], present) for file in files}
    columns = [classes.index(name) for name in present]
    tables = {}
    for file in files:
        own = probabilities[file]
        check_probabilities(own, classes, f"probabilities of {file}")
        if not 0 < durations_s[file] < np.inf:
            raise ValueError(f"{file} has duration {durations_s[file]} s; give seconds, above 0")
        tables[file] = _table(own[:, columns], durations_s[file], median_frames)
    weights = np.ones((1, len(files)), np.int64)
    if bootstrap:
        weights = np.concatenate([weights, bootstrap.weights(files)])
    resamples = _resamples(files, spans, durations_s, len(present), weights)

    per_class = {name: {"events": float(counted[name])} for name in classes}
    scores, replicates, curves = {}, {}, {}
    for metric in metrics:
        points = _points(metric, tables, spans, resamples)
        (scores[metric], values, roc), *others = (
            _psds(metric, points, resamples, r) for r in range(len(weights))
        )
        replicates[metric] = [value for value, *_ in others]
        if roc is not None:
            curves[metric] = _curve(*roc)
        for name in classes:
            per_class[name][metric] = float("nan")
        for k, value in values.items():
            per_class[present[k]][metric] = value
    left_out = (
        f"{len(reference) - len(files)} of {len(reference)} clips and "
        f"{len(classes) - len(present)} of {len(classes)} classes without events left out"
    )
    return Scored(
        scores,
        per_class,
        {name: f"{_convention(name, median_frames)}; {left_out}" for name in metrics},
        {name: {"median_frames": median_frames} for name in metrics},
        replicates if bootstrap else {},
        {name: [bootstrap.draws(files)] for name in metrics} if bootstrap else {},
        curves=curves,
    )


def _counted(reference: Events, classes: Sequence[str]) -> dict[str, int]:
    counted = dict.fromkeys(classes, 0)
    for file, events in reference.items():
        for event in events:
            if str(event["label"]) not in counted:
                raise ValueError(
                    f"reference of {file}: label {event['label']!r} is none of the {len(classes)} "
                    "classes"
                )
            counted[str(event["label"])] += 1
    return counted


def _spans(events: Sequence[Mapping], present: Sequence[str]) -> list[tuple[float, float, str]]:
    """Events of one clip; those of a class that overlap or touch joined, as the library demands."""
    joined: list[tuple[float, float, str]] = []
    # The library sees the number of a class: it allows less in a name than a vocabulary does.
    ours = [
        (str(present.index(str(e["label"]))), e["start"] / 1000.0, e["end"] / 1000.0)
        for e in events
    ]
    for column, onset, offset in sorted(ours):
        if joined and joined[-1][2] == column and onset <= joined[-1][1]:
            onset, offset = joined[-1][0], max(offset, joined.pop()[1])
        joined.append((onset, offset, column))
    return joined


def _table(probabilities: np.ndarray, duration_s: float, median_frames: int):
    """The library's table of scores: frame boundaries, and a column for each class."""
    boundaries = np.arange(len(probabilities) + 1) * HOP_MS / 1000.0
    frames = min(np.searchsorted(boundaries, duration_s), len(probabilities))
    boundaries = np.minimum(boundaries[: frames + 1], duration_s)
    columns = [str(k) for k in range(probabilities.shape[1])]
    filtered = median_filter(probabilities[:frames], median_frames)
    return create_score_dataframe(filtered.astype(np.float64), boundaries, columns)


@dataclass(frozen=True)
class _Resamples:
    """The set itself (r = 0) and its resamples."""

    weights: np.ndarray  # (R, N) how often each file counts
    seconds: np.ndarray  # (R,) of audio
    n_events: np.ndarray  # (R, K)
    event_seconds: np.ndarray  # (R, K)
    has_event: np.ndarray  # (N, K)


def _resamples(
    files: Sequence[str],
    spans: Spans,
    durations_s: Mapping[str, float],
    n_classes: int,
    weights: np.ndarray,
) -> _Resamples:
    n_events = np.zeros((len(files), n_classes), np.int64)
    seconds = np.zeros((len(files), n_classes))
    for i, file in enumerate(files):
        for onset, offset, column in spans[file]:
            n_events[i, int(column)] += 1
            seconds[i, int(column)] += offset - onset
    durations = np.array([durations_s[file] for file in files], np.float64)
    return _Resamples(
        weights, weights @ durations, weights @ n_events, weights @ seconds, n_events > 0
    )


@dataclass(frozen=True)
class _Points:
    """Changes of one class as the threshold falls, (P,) each, from the highest score down."""

    row: np.ndarray  # file
    tps: np.ndarray  # change of the true positives
    fps: np.ndarray  # change of the false positives
    cts: np.ndarray  # (P, K) change of the cross triggers with each class
    last: np.ndarray  # (G,) last point of each group of equal scores


def _points(metric: str, tables: dict, spans: Spans, resamples: _Resamples) -> list[_Points]:
    n_classes = resamples.has_event.shape[1]
    if metric == "psds2" and n_classes == 1:
        return []
    deltas = intersection_based.intermediate_statistics_deltas(
        tables, spans, **PSDS_METRICS[metric]
    )
    found = []
    for k in range(n_classes):
        free = ~resamples.has_event[:, k]
        top = np.array([table[str(k)].max() for table in tables.values()])[free]
        # Nothing at or below it shows: there every event-free file of many has a false positive.
        lowest = lowest_score(top, resamples.weights[:, free], resamples.seconds / HOUR_S)
        own = [deltas[file][str(k)] for file in tables]
        score = np.concatenate([scores for scores, _ in own])
        row = np.repeat(np.arange(len(own)), [len(scores) for scores, _ in own])
        order = np.argsort(-score)
        order = order[score[order] > lowest]
        score = score[order]
        last = np.flatnonzero(np.append(score[1:] != score[:-1], len(score) > 0))
        cts = np.zeros((len(order), n_classes))
        if ALPHA_CT[metric]:
            for other in set(range(n_classes)) - {k}:
                cts[:, other] = _changes(own, f"cts\\{other}")[order]
        tps, fps = (_changes(own, key)[order] for key in ("tps", "fps"))
        found.append(_Points(row[order], tps, fps, cts, last))
    return found


def _changes(own: list[tuple[np.ndarray, dict[str, np.ndarray]]], key: str) -> np.ndarray:
    return np.concatenate([changes[key] for _, changes in own])


def _psds(
    metric: str, points: Sequence[_Points], resamples: _Resamples, r: int
) -> tuple[float, dict[int, float], tuple[np.ndarray, np.ndarray] | None]:
    """PSDS, that of each class, and the PSD-ROC, of the set (r = 0) or of a resample."""
    present = [k for k in range(len(points)) if resamples.n_events[r, k]]
    if not points or (metric == "psds2" and len(present) == 1):
        return float("nan"), {}, None
    curves = {}
    for k in present:
        own = points[k]
        times = resamples.weights[r][own.row]
        tps, fps = (_falling(times * change, own.last) for change in (own.tps, own.fps))
        rate = fps / resamples.seconds[r]
        if ALPHA_CT[metric]:
            others = [other for other in present if other != k]
            seconds = np.maximum(resamples.event_seconds[r, others], 1e-12)  # as in the library
            per_second = own.cts[:, others] @ (1 / seconds)
            rate = rate + ALPHA_CT[metric] * _falling(times * per_second, own.last) / len(others)
        curves[k] = _frontier(tps / resamples.n_events[r, k], rate * HOUR_S)
    curve = intersection_based.multi_class_psd_roc_from_single_class_psd_rocs(
        curves, alpha_st=ALPHA_ST, max_efpr=MAX_EFPR
    )
    area = intersection_based.psds_from_psd_roc
    values = {k: float(area(*own, MAX_EFPR)) for k, own in curves.items()} if r == 0 else {}
    return float(area(*curve, MAX_EFPR)), values, curve[:2]


def _curve(tpr: np.ndarray, efpr: np.ndarray) -> dict[str, list[float]]:
    """The PSD-ROC, which is a staircase, at CURVE."""
    at = np.searchsorted(efpr, CURVE, side="right") - 1
    return {"efpr_per_hour": list(CURVE), "etpr": np.append(tpr, 0.0)[at].tolist()}


def _falling(changes: np.ndarray, last: np.ndarray) -> np.ndarray:
    # The first point is that of a threshold above all scores.
    return np.append(0, np.cumsum(changes)[last])


def _frontier(tpr: np.ndarray, efpr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that no other has at fewer false positives, up to the most that count."""
    order = np.lexsort((tpr, efpr))
    order = order[efpr[order] <= MAX_EFPR]
    tpr, efpr = tpr[order], efpr[order]
    higher = np.flatnonzero(np.append(True, tpr[1:] > np.maximum.accumulate(tpr)[:-1]))
    tpr, efpr = tpr[higher], efpr[higher]
    best = np.append(efpr[1:] != efpr[:-1], True)
    return tpr[best], efpr[best]


def _convention(metric: str, median_frames: int) -> str:
    thresholds = PSDS_METRICS[metric]
    cross = "no cross triggers"
    if ALPHA_CT[metric]:
        cross = f"cttc {thresholds['cttc_threshold']}"
    smoothed = f"median filter of {median_frames} frames" if median_frames > 1 else "not smoothed"
    return (
        f"sed_scores_eval: dtc {thresholds['dtc_threshold']}, gtc "
        f"{thresholds['gtc_threshold']}, {cross}, alpha_ct {ALPHA_CT[metric]:g}, alpha_st "
        f"{ALPHA_ST:g} (variance penalty over classes; none in the value of a class), at most "
        f"{MAX_EFPR:g} false positives per hour; frames of {HOP_MS:g} ms cut at the end of the "
        f"audio, then {smoothed}; events of a class that touch joined"
    )
