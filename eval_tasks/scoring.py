"""Scores of sound events by sed_eval as heareval computes them, with bootstrap over clips.

PSDS is in eval_tasks.psds. sed_eval's counts are sums over clips: each clip is evaluated once, and
the score of a set or of a resample of it is sed_eval's own formula on summed counts.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from eval_tasks.hear_tools import pkg_resources_stand_in
from hear_ptsed.events import median_filter

HOP_MS = 40.0
FIRST_MS = HOP_MS / 2  # centre of the first frame
CI = (2.5, 97.5)  # percentiles

DRAWN = "; bootstrap: "  # ends a convention with what was drawn
THRESHOLDS = tuple(k / 20 for k in range(1, 20))  # of a curve: 0.05 to 0.95

Events = Mapping[str, Sequence[Mapping[str, Any]]]  # file -> [{"label", "start", "end"}] in ms

# heareval 2021.1.3's names -> class of sed_eval, its arguments, the score and what belongs to it.
_F = ("f_measure", "precision", "recall")
EVENT_METRICS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "event_onset_200ms_fms": ("EventBasedMetrics", {"evaluate_offset": False, "t_collar": 0.2}, _F),
    "event_onset_50ms_fms": ("EventBasedMetrics", {"evaluate_offset": False, "t_collar": 0.05}, _F),
    "event_onset_offset_50ms_20perc_fms": (
        "EventBasedMetrics",
        {"t_collar": 0.05, "percentage_of_length": 0.2},
        _F,
    ),
    "segment_1s_er": ("SegmentBasedMetrics", {"time_resolution": 1.0}, ("error_rate",)),
}


@dataclass(frozen=True)
class Decoding:
    """How frame probabilities become events, HEAR's way."""

    median_ms: float  # 0 for no filter
    min_ms: float  # from the centre of the first frame to that of the last
    threshold: float = 0.5  # an event lies strictly above it

    def __post_init__(self) -> None:
        if not (0 <= self.median_ms < math.inf and 0 <= self.min_ms < math.inf):
            raise ValueError(f"median_ms and min_ms must be 0 or more milliseconds, got {self}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold {self.threshold} is no probability; give one from 0 to 1")


@dataclass(frozen=True)
class Bootstrap:
    """Resampling of clips: equal for all results on the same clips, so that these can be paired."""

    resamples: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or self.seed < 0:
            raise ValueError(f"resamples must be at least 1 and seed at least 0, got {self}")

    def weights(self, files: Sequence[str]) -> np.ndarray:
        """(R, N) int64: how often each of the files, sorted by name, is drawn."""
        n = len(files)
        drawn = np.empty((self.resamples, n), np.int64)
        for r in range(self.resamples):
            # The names are part of the seed: test folds are drawn from independently.
            rng = np.random.default_rng((self.seed, int(_names(files), 16), r))
            drawn[r] = np.bincount(rng.integers(n, size=n), minlength=n)
        return drawn

    def describe(self, files: Sequence[str]) -> str:
        """Equal for two results exactly if their replicates can be paired."""
        return (
            f"{self.resamples} resamples of {len(files)} clips (names {_names(files)}), "
            f"seed {self.seed}"
        )


@dataclass(frozen=True)
class Scored:
    """Scores of one test set, or means over test folds; NaN where a value is not defined."""

    scores: dict[str, float]  # metric -> value, in the order asked
    per_class: dict[str, dict[str, float]]  # class -> metric -> value; and "events", in the labels
    ci95: dict[str, tuple[float, float]]  # over clips; empty without bootstrap
    replicates: dict[str, list[float]]  # metric -> value on each resample; empty without bootstrap
    conventions: dict[str, str]  # metric -> what exactly was computed
    details: dict[str, float] = field(default_factory=dict)  # heareval's {metric}_{part}
    # metric -> column -> values, the abscissa first; those of folds and seeds are the same
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)


class Resampled(Protocol):
    """A `Scored`, or a record of it."""

    scores: dict[str, float]
    replicates: dict[str, list[float]]
    conventions: dict[str, str]


def decode(
    probabilities: np.ndarray, classes: Sequence[str], decoding: Decoding
) -> list[dict[str, Any]]:
    """Events [{"label", "start", "end"}] in ms by start, as heareval makes them of 40 ms frames.

    An event begins at the centre of its first frame and ends at the centre of its last.

    Args:
        probabilities: (T, C)
    """
    check_probabilities(probabilities, classes)
    width = round(decoding.median_ms / HOP_MS)
    if width:
        probabilities = median_filter(probabilities, width)
    active = np.pad(probabilities > decoding.threshold, ((1, 1), (0, 0)))
    steps = np.diff(active.T.astype(np.int8), axis=1)  # (C, T + 1)
    columns, first = np.nonzero(steps == 1)
    last = np.nonzero(steps == -1)[1] - 1
    events = [
        {"label": classes[c], "start": FIRST_MS + HOP_MS * i, "end": FIRST_MS + HOP_MS * j}
        for c, i, j in zip(columns.tolist(), first.tolist(), last.tolist(), strict=True)
        if HOP_MS * (j - i) >= decoding.min_ms
    ]
    return sorted(events, key=lambda event: event["start"])


def event_scores(
    reference: Events,
    estimated: Events,
    classes: Sequence[str],
    metrics: Sequence[str],
    bootstrap: Bootstrap | None = None,
) -> Scored:
    """F-scores and error rates over all events of all clips, by sed_eval.

    A label that is not one of `classes` counts in the F-scores of all events, as in heareval; the
    segment-based error rate has no row for it and is refused.

    Args:
        reference, estimated: of the same files, times in ms.
        metrics: of EVENT_METRICS.
    """
    check_metrics(metrics, EVENT_METRICS)
    check_events(reference, "reference")
    check_events(estimated, "estimate")
    check_files(reference, estimated, "an estimate")
    files = sorted(reference)
    classes = [str(name) for name in classes]
    unknown = _unknown_labels(reference, estimated, classes)
    if unknown and "segment_1s_er" in metrics:
        raise ValueError(
            f"label {unknown[0]!r} is none of the {len(classes)} classes; segment_1s_er is not "
            "defined for it: correct the label or leave the metric out"
        )
    weights = bootstrap.weights(files) if bootstrap else np.empty((0, len(files)))
    drawn = DRAWN + bootstrap.describe(files) if bootstrap else ""
    clips = [(reference[file], estimated[file]) for file in files]
    per_class = {name: {"events": 0.0} for name in classes}
    for event in (event for file in files for event in reference[file]):
        if str(event["label"]) in per_class:
            per_class[str(event["label"])]["events"] += 1
    scores, details, replicates = {}, {}, {}
    for metric in metrics:
        scorer, counts, of_class = _counts(metric, clips, classes, unknown)
        values = _overall(scorer, metric, counts.sum(0))
        scores[metric], *_ = values.values()
        details |= {f"{metric}_{part}": value for part, value in values.items()}
        replicates[metric] = [_overall_value(scorer, metric, own) for own in weights @ counts]
        for name in classes:
            per_class[name][metric] = of_class[name]
    conventions = {name: f"{_convention(name, classes, unknown)}{drawn}" for name in metrics}
    return scored(scores, per_class, replicates, conventions, details)


def threshold_curve(
    reference: Events,
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    metric: str,
    decoding: Decoding,
) -> dict[str, list[float]]:
    """F-score, precision and recall at THRESHOLDS, NaN where undefined; else decoded alike.

    Args:
        probabilities: file -> (T, C), of the files of the reference.
        metric: of EVENT_METRICS, an F-score.
    """
    curve: dict[str, list[float]] = {"threshold": list(THRESHOLDS)} | {part: [] for part in _F}
    for threshold in THRESHOLDS:
        own = replace(decoding, threshold=threshold)
        events = {file: decode(probabilities[file], classes, own) for file in reference}
        details = event_scores(reference, events, classes, [metric]).details
        for part in _F:
            curve[part].append(details[f"{metric}_{part}"])
    return curve


def scored(
    scores: dict[str, float],
    per_class: dict[str, dict[str, float]],
    replicates: dict[str, list[float]],
    conventions: dict[str, str],
    details: dict[str, float] | None = None,
    curves: dict[str, dict[str, list[float]]] | None = None,
) -> Scored:
    """Values and their replicates, with 95 % percentile intervals of those that are defined."""
    replicates = {metric: values for metric, values in replicates.items() if values}
    ci95 = {metric: interval(values) for metric, values in replicates.items()}
    return Scored(scores, per_class, ci95, replicates, conventions, details or {}, curves or {})


def paired(a: Resampled, b: Resampled, metric: str) -> tuple[float, float, float]:
    """Score of a less that of b, and the 95 % interval of it over the same resampled clips."""
    for one in (a, b):
        if not one.replicates.get(metric):
            known = ", ".join(one.replicates) or "none at all"
            raise ValueError(f"no replicates of {metric} to compare; there are those of: {known}")
    draws = [one.conventions[metric].partition(DRAWN)[2] for one in (a, b)]
    if draws[0] != draws[1] or len(a.replicates[metric]) != len(b.replicates[metric]):
        raise ValueError(
            f"{metric} was not computed on the same resamples of the same clips: {draws[0]!r} and "
            f"{draws[1]!r}; only results on equal clips can be paired"
        )
    differences = np.subtract(a.replicates[metric], b.replicates[metric])
    return a.scores[metric] - b.scores[metric], *interval(differences)


def mean_of_folds(folds: Sequence[Scored]) -> Scored:
    """Means over test folds as heareval reports them: a fold without a value is left out.

    Replicate r is the mean of the folds' replicates r.
    """
    if not folds:
        raise ValueError("no fold to average; score at least one")
    first = folds[0]
    per_class = {
        name: {key: _mean([fold.per_class[name][key] for fold in folds]) for key in row}
        | {"events": sum(fold.per_class[name]["events"] for fold in folds)}
        for name, row in first.per_class.items()
    }
    replicates = {
        metric: [_mean(row) for row in zip(*(f.replicates[metric] for f in folds), strict=True)]
        for metric in first.replicates
    }
    conventions = {}
    for metric in first.scores:
        texts = [fold.conventions[metric].partition(DRAWN) for fold in folds]
        what = " | ".join(dict.fromkeys(text[0] for text in texts))
        drawn = DRAWN + " and ".join(text[2] for text in texts) if first.replicates else ""
        conventions[metric] = f"mean of {len(folds)} folds, those without a value left out: {what}"
        conventions[metric] += drawn
    return scored(
        {metric: _mean([fold.scores[metric] for fold in folds]) for metric in first.scores},
        per_class,
        replicates,
        conventions,
        {key: _mean([fold.details[key] for fold in folds]) for key in first.details},
        {metric: _mean_curve([fold.curves[metric] for fold in folds]) for metric in first.curves},
    )


def _mean_curve(curves: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    x, *others = curves[0]
    found = {x: curves[0][x]}
    for part in others:
        rows = zip(*(curve[part] for curve in curves), strict=True)
        found[part] = [_mean(row) for row in rows]
    return found


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the values that are defined; NaN if none is."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, CI) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def _names(files: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:12]


def check_metrics(metrics: Sequence[str], known: Mapping[str, Any]) -> None:
    """Refuse names that are not known."""
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"unknown metric {metric!r}; known: {', '.join(known)}")


def check_probabilities(
    probabilities: np.ndarray, classes: Sequence[str], where: str = "probabilities"
) -> None:
    """Refuse what is not a finite (T, C)."""
    shape = np.shape(probabilities)
    if len(shape) != 2 or not shape[0] or shape[1] != len(classes):
        raise ValueError(f"{where}: shape {shape}; expected (frames, {len(classes)})")
    if not np.isfinite(probabilities).all():
        raise ValueError(f"{where}: NaN or infinity; check the training and the precision")


def check_files(reference: Mapping, other: Mapping, what: str) -> None:
    """Refuse two sets of files that differ, or are empty."""
    if not reference:
        raise ValueError("no clip to score; the reference names none")
    if missing := sorted(reference.keys() ^ other.keys()):
        lacks = what if missing[0] in reference else "a reference"
        raise ValueError(
            f"{missing[0]} lacks {lacks}, as do {len(missing) - 1} others; give both for each clip"
        )


def check_events(events: Events, where: str) -> None:
    """Refuse times that are no span of time."""
    for file, found in events.items():
        for event in found:
            if not -math.inf < event["start"] <= event["end"] < math.inf:
                raise ValueError(
                    f"{where} of {file}: event from {event['start']} to {event['end']} ms; it must "
                    "not end before it begins"
                )


@cache
def _sed_eval() -> ModuleType:
    # Imported late: tasks name their `Decoding` without the second that this takes.
    with pkg_resources_stand_in(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in dcase_util's docstrings
        try:
            import sed_eval
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{error.name} is not installed; install the extra 'eval'", name=error.name
            ) from error
    return sed_eval


def _container(events: Sequence[Mapping[str, Any]]) -> Any:
    _sed_eval()
    from dcase_util.containers import MetaDataContainer

    return MetaDataContainer(
        [
            {
                "event_label": str(event["label"]),
                "event_onset": event["start"] / 1000.0,
                "event_offset": event["end"] / 1000.0,
            }
            for event in events
        ]
    )


def _counts(
    metric: str, clips: Sequence[tuple[Sequence, Sequence]], classes: list[str], unknown: list[str]
) -> tuple[Any, np.ndarray, dict[str, float]]:
    """A scorer of sed_eval, its overall counts of each clip (N, keys), the score of each class.

    An event matches only events of its label, so each label is counted by itself: sed_eval looks
    at all pairs of events.
    """
    name, options, _ = EVENT_METRICS[metric]
    make = getattr(_sed_eval().sound_event, name)
    if name == "SegmentBasedMetrics":
        groups = {None: classes}
        parted = [{None: clip} for clip in clips]
    else:
        groups = {label: [label] for label in (*classes, *unknown)}
        parted = [_by_label(*clip) for clip in clips]
    counts, of_class = 0, {}
    for group, labels in groups.items():
        scorer = make(labels, **options)
        sums = []
        for clip in parted:
            if group in clip:
                scorer.evaluate(*map(_container, clip[group]))
            sums.append([float(value) for value in scorer.overall.values()])
        counts = counts + np.diff(sums, axis=0, prepend=0)
        of_class |= {label: _of_class(scorer, metric, label) for label in labels}
    return scorer, counts, of_class


def _by_label(reference: Sequence, estimated: Sequence) -> dict[str, tuple[list, list]]:
    found: dict[str, tuple[list, list]] = {}
    for side, events in enumerate((reference, estimated)):
        for event in events:
            found.setdefault(str(event["label"]), ([], []))[side].append(event)
    return found


def _overall(scorer: Any, metric: str, counts: np.ndarray) -> dict[str, float]:
    scorer.overall = dict(zip(scorer.overall, counts.tolist(), strict=True))
    is_f = metric.endswith("_fms")
    values = scorer.overall_f_measure() if is_f else scorer.overall_error_rate()
    return {part: float(values[part]) for part in EVENT_METRICS[metric][2]}


def _overall_value(scorer: Any, metric: str, counts: np.ndarray) -> float:
    return next(iter(_overall(scorer, metric, counts).values()))


def _of_class(scorer: Any, metric: str, name: str) -> float:
    if metric.endswith("_fms"):
        return float(scorer.class_wise_f_measure(name)["f_measure"])
    return float(scorer.class_wise_error_rate(name)["error_rate"])


def _unknown_labels(reference: Events, estimated: Events, classes: list[str]) -> list[str]:
    lists = [*reference.values(), *estimated.values()]
    return sorted({str(event["label"]) for events in lists for event in events} - set(classes))


def _convention(metric: str, classes: list[str], unknown: list[str]) -> str:
    name, options, _ = EVENT_METRICS[metric]
    options = ", ".join(f"{key}={value}" for key, value in options.items())
    what = "error rate, lower is better; over all segments and classes (micro average)"
    if metric.endswith("_fms"):
        what = "F-score over all events (micro average), optimal matching"
    text = (
        f"sed_eval {version('sed_eval')} {name}({options}) as in heareval 2021.1.3: {what}, "
        f"{len(classes)} classes; NaN where undefined"
    )
    if unknown:
        text += f"; labels outside the classes count as events: {', '.join(unknown)}"
    return text


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
