"""PSDS1 and PSDS2, of a set of clips and of many resamples of it at once.

Detections, their counts at a threshold, the curve over classes and its area are those of
sed_scores_eval; between them three steps are ours. The library visits every pair of class and clip
and sorts all points at which counts change. Nearly all pairs have no event, where these points are
the local extrema of the scores, and nearly all points lie at more false positives per hour than
PSDS looks at. Finding the extrema of a class in one go, leaving those points out, and summing the
changes of a clip as often as a resample drew it changes no digit of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hear_ptsed.metrics.bootstrap import Bootstrap
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.decoding import frame_borders_ms
from hear_ptsed.metrics.predictions import EventClips

MAX_EFPR = 100.0  # effective false positives per hour
HOUR_S = 3600.0
TPS, FPS = 0, 1  # true and false positives, rows of an array of counts
NO_SPAN = (np.empty(0), np.empty(0))
CURVE = range(int(MAX_EFPR) + 1)  # effective false positives per hour at which a curve is told


@dataclass(frozen=True)
class Criteria:
    """When a detection, an event and a cross trigger count."""

    dtc: float  # tolerance of detections
    gtc: float  # of ground-truth intersections
    cttc: float | None = None  # of cross triggers; None: there are none
    alpha_ct: float = 0.0  # weight of cross triggers


@dataclass(frozen=True)
class ChangePoints:
    """Where the counts of one class change as the threshold falls, from the highest score down."""

    row: np.ndarray  # (P,) clip
    changes: np.ndarray  # (2, P) or (2 + K, P) int32: TPS, FPS, cross triggers with each class
    last: np.ndarray  # (G,) last point of each group of equal scores


@dataclass(frozen=True)
class Resamples:
    """The set itself (r = 0) and its resamples, R in all."""

    weights: np.ndarray  # (R, n) how often each clip counts
    seconds: np.ndarray  # (R,) of audio
    n_events: np.ndarray  # (R, K)
    event_seconds: np.ndarray  # (R, K)

    @classmethod
    def of(cls, clips: EventClips, bootstrap: Bootstrap) -> "Resamples":
        weights = bootstrap.with_whole_set(clips.files)
        n_events = [weights[:, events.row].sum(1) for events in clips.events]
        seconds = [weights[:, e.row] @ (e.offset_s - e.onset_s) for e in clips.events]
        return cls(
            weights, weights @ clips.durations_s, np.stack(n_events, 1), np.stack(seconds, 1)
        )


def criteria_of(metric: str) -> Criteria:
    """As METRICS has them for a metric."""
    options = METRICS[metric].options
    return Criteria(**{key: value for key, value in options.items() if key != "alpha_st"})


def psds_of_points(
    points: Sequence[ChangePoints],
    criteria: Criteria,
    resamples: Resamples,
    alphas_st: Sequence[float],
) -> tuple[dict[float, np.ndarray], np.ndarray, dict[float, dict[str, list[float]]]]:
    """PSDS of the set and its resamples (R,), of each class (K,), and the PSD-ROC of the set.

    Args:
        points: of each class.
        alphas_st: weights of the deviation between classes, each with its PSDS and its PSD-ROC; of
            weight 0 PSDS is the mean of the classes, without ROC.
    """
    values = {alpha: np.full(len(resamples.weights), np.nan) for alpha in alphas_st}
    of_class, curves = np.full(len(points), np.nan), {}
    for r in range(len(resamples.weights)):
        rocs = _rocs(points, criteria, resamples, r)
        for alpha in values:
            values[alpha][r], roc = _over_classes(rocs, alpha)
            if r == 0 and roc:
                curves[alpha] = _curve(*roc)
        if r == 0:
            of_class[[*rocs]] = [_area(*roc) for roc in rocs.values()]
    return values, of_class, curves


def lowest_score(top: np.ndarray, weights: np.ndarray, hours: np.ndarray) -> float:
    """Score that PSDS does not look at, nor anything below it; -inf where it may see all.

    Each clip without the class has at least one false positive at any threshold up to its maximum.

    Args:
        top: (n,) maxima of the clips without a class.
        weights: (R, n) how often each of these clips counts, in each of R resamples.
        hours: (R,) audio in each resample.
    """
    order = np.argsort(-top)
    # One more than the first whole number beyond the limit: safe from rounding in the library.
    too_many = np.floor(MAX_EFPR * hours) + 2
    reached = (np.cumsum(weights[:, order], axis=1) < too_many[:, None]).sum(1).max()
    return float(top[order[reached]]) if reached < len(top) else -np.inf


def change_points(
    x: np.ndarray, clips: EventClips, k: int, criteria: Criteria, resamples: Resamples
) -> ChangePoints:
    """Where the counts of class k change, as far as PSDS of any resample may see it.

    Args:
        x: (n, T) scores of the class.
    """
    with_class = np.zeros(len(x), bool)
    with_class[clips.events[k].row] = True
    top, hours = x.max(1), resamples.seconds / HOUR_S
    lowest = lowest_score(top[~with_class], resamples.weights[:, ~with_class], hours)
    seen = top > lowest
    # All of the clips have an event, which a false detection may be a cross trigger of.
    counted = with_class if criteria.cttc is None else np.ones(len(x), bool)
    parts = [
        _without_events(x, np.flatnonzero(seen & ~counted), criteria, lowest, len(clips.classes))
    ]
    borders_s = frame_borders_ms(x.shape[1], clips.hop_ms) / 1000.0
    for row in np.flatnonzero(seen & counted):
        n = clips.frames[row]
        times_s = np.minimum(borders_s[: n + 1], clips.ends_s[row])
        parts.append(_with_events(x[row, :n], times_s, clips, row, k, criteria, lowest))
    score, row, changes = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    order = np.argsort(-score)
    score = score[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], len(score) > 0))
    return ChangePoints(row[order], changes[:, order], last)


def _without_events(
    x: np.ndarray, rows: np.ndarray, criteria: Criteria, lowest: float, n_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Every detection is false: one begins at a local maximum, two become one at a local minimum.
    x = x[rows]
    rises = np.ones((len(x), x.shape[1] + 1), dtype=np.int8)
    rises[:, 1:-1] = x[:, 1:] > x[:, :-1]
    rises[:, -1] = 0
    change = rises[:, :-1] - rises[:, 1:]
    at = np.nonzero((change != 0) & (x > lowest))
    changes = np.zeros((2 if criteria.cttc is None else 2 + n_classes, len(at[0])), np.int32)
    changes[FPS] = change[at]
    return x[at], rows[at[0]], changes


def _with_events(
    x: np.ndarray,
    times_s: np.ndarray,
    clips: EventClips,
    row: int,
    k: int,
    criteria: Criteria,
    lowest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one clip with scores (T,) and borders of frames (T + 1,)."""
    from sed_scores_eval.base_modules.cy_detection import onset_offset_curves
    from sed_scores_eval.intersection_based.intermediate_statistics import statistics_fn

    thresholds = np.unique(x[x > lowest])
    _, starts, ends = onset_offset_curves(x, times_s, thresholds)
    spans = clips.spans[row]
    others = {}
    if criteria.cttc is not None:
        others = {j: span for j, span in spans.items() if j != k}
    counts = statistics_fn(
        starts,
        ends,
        *spans.get(k, NO_SPAN),
        {j: onset_s for j, (onset_s, _) in others.items()},
        {j: offset_s for j, (_, offset_s) in others.items()},
        dtc_threshold=criteria.dtc,
        gtc_threshold=criteria.gtc,
        cttc_threshold=criteria.cttc,
    )
    rows = 2 if criteria.cttc is None else 2 + len(clips.classes)
    of_thresholds = np.zeros((rows, len(thresholds) + 1), np.int32)  # the last: above all scores
    of_thresholds[TPS, :-1], of_thresholds[FPS, :-1] = counts["tps"], counts["fps"]
    for j in others:
        of_thresholds[2 + j, :-1] = counts["cts"][j]
    changes = of_thresholds[:, :-1] - of_thresholds[:, 1:]
    at = np.flatnonzero(changes.any(0))
    return thresholds[at], np.full(len(at), row), changes[:, at]


def _rocs(
    points: Sequence[ChangePoints], criteria: Criteria, resamples: Resamples, r: int
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Of each class in resample r: true positive rates, effective false positives per hour.

    None with cross triggers but no other class to trigger.
    """
    present = np.flatnonzero(resamples.n_events[r]).tolist()
    if criteria.cttc is not None and len(present) == 1:
        return {}
    rocs = {}
    for k in present:
        of_class = points[k]
        times = resamples.weights[r][of_class.row]
        tps, fps = (_falling(times * of_class.changes[i], of_class.last) for i in (TPS, FPS))
        rate = fps / resamples.seconds[r]
        if criteria.cttc is not None:
            others = [other for other in present if other != k]
            seconds = np.maximum(resamples.event_seconds[r, others], 1e-12)  # as in the library
            per_second = (1 / seconds) @ of_class.changes[2:][others]
            rate = rate + criteria.alpha_ct * _falling(times * per_second, of_class.last) / len(
                others
            )
        rocs[k] = _frontier(tps / resamples.n_events[r, k], rate * HOUR_S)
    return rocs


def _falling(changes: np.ndarray, last: np.ndarray) -> np.ndarray:
    # The first point is that of a threshold above all scores.
    return np.append(0, np.cumsum(changes)[last])


def _frontier(tpr: np.ndarray, efpr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that no other has at fewer false positives, up to the most that count."""
    # Of neighbouring thresholds with the same true positives one can show. Sorting fewer is faster.
    starts = np.flatnonzero(np.diff(tpr, prepend=-1))
    tpr, efpr = tpr[starts], np.minimum.reduceat(efpr, starts)
    order = np.lexsort((tpr, efpr))
    order = order[efpr[order] <= MAX_EFPR]
    tpr, efpr = tpr[order], efpr[order]
    higher = np.flatnonzero(np.append(True, tpr[1:] > np.maximum.accumulate(tpr)[:-1]))
    tpr, efpr = tpr[higher], efpr[higher]
    best = np.append(efpr[1:] != efpr[:-1], True)
    return tpr[best], efpr[best]


def _over_classes(
    rocs: dict[int, tuple[np.ndarray, np.ndarray]], alpha_st: float
) -> tuple[float, tuple[np.ndarray, np.ndarray] | None]:
    """PSDS and the PSD-ROC; without weight of the deviation PSDS is the mean of the classes."""
    from sed_scores_eval import intersection_based

    if not rocs:
        return float("nan"), None
    if not alpha_st:
        return float(np.mean([_area(*roc) for roc in rocs.values()])), None
    etpr, efpr = intersection_based.multi_class_psd_roc_from_single_class_psd_rocs(
        rocs, alpha_st=alpha_st, max_efpr=MAX_EFPR
    )
    return _area(etpr, efpr), (etpr, efpr)


def _area(tpr: np.ndarray, efpr: np.ndarray) -> float:
    from sed_scores_eval import intersection_based

    return float(intersection_based.psds_from_psd_roc(tpr, efpr, MAX_EFPR))


def _curve(etpr: np.ndarray, efpr: np.ndarray) -> dict[str, list[float]]:
    """The PSD-ROC, which is a staircase, at CURVE."""
    at = np.searchsorted(efpr, CURVE, side="right") - 1
    return {"efpr_per_hour": list(CURVE), "etpr": np.append(etpr, 0.0)[at].tolist()}


def describe_psds(metric: str) -> str:
    """What exactly is computed."""
    criteria = criteria_of(metric)
    cross = "no cross triggers" if criteria.cttc is None else f"cttc {criteria.cttc}"
    alpha_st = METRICS[metric].options["alpha_st"]
    over = "mean of classes"
    if alpha_st:
        over = "variance penalty over classes; none in the value of a class"
    return (
        f"sed_scores_eval: dtc {criteria.dtc}, gtc {criteria.gtc}, {cross}, alpha_ct "
        f"{criteria.alpha_ct:g}, alpha_st {alpha_st:g} ({over}), at most "
        f"{MAX_EFPR:g} false positives per hour"
    )
