"""What scores are: values with bootstrap over clips, of one test set or averaged over folds.

Event-based scores are computed in hear_ptsed.metrics.events, PSDS in hear_ptsed.metrics.psds.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hear_ptsed.metrics.records import DRAWN, draws

HOP_MS = 40.0
CI = (2.5, 97.5)  # percentiles

Events = Mapping[str, Sequence[Mapping[str, Any]]]  # file -> [{"label", "start", "end"}] in ms


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
    drawn = [draws(one.conventions[metric]) for one in (a, b)]
    if drawn[0] != drawn[1] or len(a.replicates[metric]) != len(b.replicates[metric]):
        raise ValueError(
            f"{metric} was not computed on the same resamples of the same clips: {drawn[0]!r} and "
            f"{drawn[1]!r}; only results on equal clips can be paired"
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


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
