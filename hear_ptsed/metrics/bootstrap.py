"""Scores with their values on resamples of the clips, of one test set or averaged over folds."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from typing_extensions import TypedDict

CI = (2.5, 97.5)  # percentiles


class Draws(TypedDict):
    """Which clips the resamples draw from, and how: those of equal `Draws` can be paired."""

    resamples: int
    seed: int
    clips: int
    names: str  # digest of the clips' names


@dataclass(frozen=True)
class Bootstrap:
    """Resampling of clips: equal for all results on the same clips, so that these can be paired."""

    resamples: int = 500  # 0: no intervals
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 0 or self.seed < 0:
            raise ValueError(f"resamples and seed must be 0 or a number above, got {self}")

    def weights(self, files: Sequence[str]) -> np.ndarray:
        """(R, N) int64: how often each of the files, sorted by name, is drawn."""
        n = len(files)
        drawn = np.empty((self.resamples, n), np.int64)
        for r in range(self.resamples):
            # The names are part of the seed: test folds are drawn from independently.
            rng = np.random.default_rng((self.seed, int(_names(files), 16), r))
            drawn[r] = np.bincount(rng.integers(n, size=n), minlength=n)
        return drawn

    def with_whole_set(self, files: Sequence[str]) -> np.ndarray:
        """(1 + R, N) int32: 1 for the set itself, then `weights`."""
        return np.concatenate([np.ones((1, len(files))), self.weights(files)]).astype(np.int32)

    def draws(self, files: Sequence[str]) -> Draws:
        """What was drawn from these files."""
        return Draws(
            resamples=self.resamples, seed=self.seed, clips=len(files), names=_names(files)
        )


NO_BOOTSTRAP = Bootstrap(0)


@dataclass(frozen=True)
class Scored:
    """Scores of one test set, or means over test folds; NaN where a value is not defined."""

    scores: dict[str, float]  # metric -> value, in the order asked
    per_class: dict[str, dict[str, float]]  # class -> metric -> value; and "events", in the labels
    conventions: dict[str, str]  # metric -> what exactly was computed, for people
    # metric -> what its id leaves open: scores with other settings are not compared
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    # metric -> value on each resample, and what was drawn, of each fold; empty without bootstrap
    replicates: dict[str, list[float]] = field(default_factory=dict)
    draws: dict[str, list[Draws]] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)  # heareval's {metric}_{part}
    # metric -> column -> values, the abscissa first; those of folds and seeds are the same
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    @cached_property
    def ci95(self) -> dict[str, tuple[float, float]]:
        """Percentile intervals over clips."""
        return {metric: interval(values) for metric, values in self.replicates.items()}

    def __or__(self, other: "Scored") -> "Scored":
        """Both, of the same test set."""
        joined = {f.name: getattr(self, f.name) | getattr(other, f.name) for f in fields(self)}
        rows = {
            name: self.per_class.get(name, {}) | other.per_class.get(name, {})
            for name in joined["per_class"]
        }
        return Scored(**joined | {"per_class": rows})


def mean_of_folds(folds: Sequence[Scored]) -> Scored:
    """Means over test folds as heareval reports them: a fold without a value is left out.

    Replicate r is the mean of the folds' replicates r.
    """
    if not folds:
        raise ValueError("no fold to average; score at least one")
    first = folds[0]
    per_class = {
        name: {key: mean_of_defined([fold.per_class[name][key] for fold in folds]) for key in row}
        | {"events": sum(fold.per_class[name]["events"] for fold in folds)}
        for name, row in first.per_class.items()
    }
    replicates = {
        metric: [
            mean_of_defined(row) for row in zip(*(f.replicates[metric] for f in folds), strict=True)
        ]
        for metric in first.replicates
    }
    conventions = {}
    for metric in first.scores:
        texts = " | ".join(dict.fromkeys(fold.conventions[metric] for fold in folds))
        conventions[metric] = f"mean of folds, those without a value left out: {texts}"
    return Scored(
        {name: mean_of_defined([fold.scores[name] for fold in folds]) for name in first.scores},
        per_class,
        conventions,
        first.settings,
        replicates,
        {metric: [d for fold in folds for d in fold.draws[metric]] for metric in first.draws},
        {key: mean_of_defined([fold.details[key] for fold in folds]) for key in first.details},
        {metric: _mean_curve([fold.curves[metric] for fold in folds]) for metric in first.curves},
    )


def _mean_curve(curves: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    x, *others = curves[0]
    mean = {x: curves[0][x]}
    for column in others:
        rows = zip(*(curve[column] for curve in curves), strict=True)
        mean[column] = [mean_of_defined(row) for row in rows]
    return mean


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Percentiles 2.5 and 97.5 of the values (R,) that are defined; NaN if none is."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, CI) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def interval_of_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """As `interval`, of a less b: values (R,) on the same resamples of the same clips."""
    return interval(np.subtract(a, b))


def paired(a: Any, b: Any, metric: str) -> tuple[float, float, float]:
    """Score of a less that of b, and the 95 % interval of it over the same resampled clips."""
    for scored in (a, b):
        if not scored.replicates.get(metric):
            known = ", ".join(scored.replicates) or "none at all"
            raise ValueError(f"no replicates of {metric} to compare; there are those of: {known}")
    if a.draws.get(metric) != b.draws.get(metric):
        raise ValueError(
            f"{metric} was not computed on the same resamples of the same clips; only results on "
            "equal clips can be paired"
        )
    if a.settings.get(metric) != b.settings.get(metric):
        raise ValueError(
            f"{metric} was computed in two ways, {a.settings.get(metric)} and "
            f"{b.settings.get(metric)}; such results cannot be paired"
        )
    ends = interval_of_difference(a.replicates[metric], b.replicates[metric])
    return a.scores[metric] - b.scores[metric], *ends


def _names(files: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(files)).encode()).hexdigest()[:12]


def mean_of_defined(values: Sequence[float]) -> float:
    """NaN of none."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
