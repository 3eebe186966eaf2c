"""Scores of AudioSet Strong: PSDS1, segment pAUROC and mean average precision, per class."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version

import numpy as np

from hear_ptsed.metrics import points
from hear_ptsed.metrics.points import ClassEvents
from training.data.annotations import Events, merged

CI = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Result:
    """What was measured, on what, and how."""

    psds1: float  # with variance penalty
    psds1_macro: float  # mean of the classes, as without variance penalty
    pauroc: float
    map: float
    per_class: dict[str, dict[str, float]]  # class -> psds1, pauroc, ap, events
    ci95: dict[str, tuple[float, float]]  # of the four above; empty without bootstrap
    clips: int
    clips_without_events: int  # given but not scored
    classes: int
    events: int
    convention: dict[str, object]

    def to_dict(self) -> dict[str, object]:
        """Plain types, for JSON; NaN where a value is not defined."""
        return asdict(self)


def evaluate(
    scores: np.ndarray,
    clips: Sequence[str],
    classes: Sequence[str],
    events: Events,
    durations_s: np.ndarray,
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> Result:
    """Score the classes that occur in `events` on the clips that have events of them.

    Args:
        scores: (N, C, T) logits or probabilities of T frames of 40 ms, any float type, already
            median filtered. Not float16 probabilities: they saturate.
        clips: N keys.
        classes: C names.
        events: of any clips and classes.
        durations_s: (N,) of the audio without padding.
        bootstrap: resamples of the clips for the intervals; 0 for none.
    """
    problem = _problem(scores, clips, classes, events, durations_s, bootstrap, seed)
    parts = [_score_class(problem, k) for k in range(len(problem.names))]
    psds1, psds1_of = _psds1(problem, parts)
    of_class = {  # (R, K) each
        "psds1": psds1_of,
        "pauroc": np.stack([part.pauroc for part in parts], axis=1),
        "ap": np.stack([part.ap for part in parts], axis=1),
    }
    macro, pauroc, ap = map(_means, of_class.values())
    means = {"psds1": psds1, "psds1_macro": macro, "pauroc": pauroc, "map": ap}
    return Result(
        **{name: float(values[0]) for name, values in means.items()},
        per_class={
            name: {metric: float(values[0, k]) for metric, values in of_class.items()}
            | {"events": len(problem.events[k].row)}
            for k, name in enumerate(problem.names)
        },
        ci95={name: _interval(values[1:]) for name, values in means.items()} if bootstrap else {},
        clips=len(problem.rows),
        clips_without_events=len(clips) - len(problem.rows),
        classes=len(problem.names),
        events=sum(len(events.row) for events in problem.events),
        convention=_convention(bootstrap, seed, problem),
    )


def clip_average_precision(
    scores: np.ndarray, targets: np.ndarray, classes: Sequence[str]
) -> dict[str, object]:
    """`map` of clip labels, the mean over the classes that a clip has, and `ap` of each of these.

    Args:
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
    once = np.ones((1, len(scores)), dtype=np.int32)
    ap = {
        name: float(points.average_precision(scores[:, k], targets[:, k], once)[0])
        for k, name in enumerate(classes)
        if targets[:, k].any()
    }
    return {"map": float(np.mean(list(ap.values()))) if ap else float("nan"), "ap": ap}


def _convention(bootstrap: int, seed: int, problem: "_Problem") -> dict[str, object]:
    scored = math.ceil(problem.scores.shape[2] / points.SEGMENT_FRAMES)
    beyond = problem.durations_s.max() > scored
    durations = (
        f"durations of whole clips: a segment behind the {scored} s of scores has score 0"
        if beyond
        else f"durations of at most the {scored} s of scores"
    )
    return {
        "psds1": f"dtc {points.DTC}, gtc {points.GTC}, no cross triggers (alpha_ct 0), alpha_st "
        f"{points.ALPHA_ST:g}, at most {points.MAX_EFPR:g} false positives per hour",
        "psds1_macro": "mean of the classes' PSDS1 (alpha_st 0)",
        "pauroc": "segments of 1 s, staircase area up to a false positive rate of "
        f"{points.MAX_FPR}, divided by it; {durations}; mean of the classes with both positive and "
        "negative segments",
        "map": "mean over classes of the average precision of clips: the score of a clip is its "
        "highest frame, its label whether it has an event",
        "clips": "those with an event of a scored class",
        "classes": "those that the model has and the scored clips have events of",
        "events": "touching and overlapping ones of one class and clip joined",
        "hop_s": points.HOP_S,
        "sed_scores_eval": version("sed_scores_eval"),
        "bootstrap": f"{bootstrap} resamples of the clips, seed {seed}, 95 % percentile interval; "
        "a class absent from a resample is left out of its means"
        if bootstrap
        else None,
    }


@dataclass(frozen=True)
class _Problem:
    """Scored clips (n) and classes (K); `weights[0]` is 1, the other rows are resamples."""

    scores: np.ndarray  # (N, C, T)
    clips: list[str]  # n
    rows: np.ndarray  # (n,) of the clips in `scores`
    names: list[str]  # K
    columns: list[int]  # K, of the classes in `scores`
    events: list[ClassEvents]  # K, with rows among the n
    durations_s: np.ndarray  # (n,)
    weights: np.ndarray  # (R, n) int32, how often each clip counts

    @cached_property
    def seconds(self) -> np.ndarray:
        """(R,) of audio."""
        return (self.weights * self.durations_s).sum(1)


def _problem(
    scores: np.ndarray,
    clips: Sequence[str],
    classes: Sequence[str],
    events: Events,
    durations_s: np.ndarray,
    bootstrap: int,
    seed: int,
) -> _Problem:
    durations_s = np.asarray(durations_s, dtype=np.float64)
    _check(scores, clips, classes, durations_s, bootstrap)
    _check_events(events)
    events = merged(events)  # as the library demands
    row_of = {clip: i for i, clip in enumerate(clips)}
    column_of = {name: i for i, name in enumerate(classes)}
    row = np.array([row_of.get(clip, -1) for clip in events.clips], dtype=np.int64)
    row = row[events.clip]
    column = np.array([column_of.get(name, -1) for name in events.labels], dtype=np.int64)
    column = column[events.label]
    ours = (row >= 0) & (column >= 0)
    if not ours.any():
        raise ValueError(
            f"no event to score: none of {len(events.label)} events is of one of the {len(classes)}"
            f" classes in one of the {len(clips)} clips; check the names of both"
        )
    rows, row = np.unique(row[ours], return_inverse=True)
    column, onset, offset = column[ours], events.onset_s[ours], events.offset_s[ours]
    order = np.lexsort((onset, row, column))
    column, row, onset, offset = column[order], row[order], onset[order], offset[order]
    names = [clips[i] for i in rows]
    columns, starts = np.unique(column, return_index=True)
    spans = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(column)], strict=True)]
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + bootstrap, len(rows)), dtype=np.int32)
    for r in range(bootstrap):
        weights[1 + r] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
    return _Problem(
        scores=scores,
        clips=names,
        rows=rows,
        names=[classes[i] for i in columns],
        columns=columns.tolist(),
        events=[ClassEvents(row[span], onset[span], offset[span]) for span in spans],
        durations_s=durations_s[rows],
        weights=weights,
    )


def _check(
    scores: np.ndarray,
    clips: Sequence[str],
    classes: Sequence[str],
    durations_s: np.ndarray,
    bootstrap: int,
) -> None:
    if scores.ndim != 3 or not np.issubdtype(scores.dtype, np.floating) or not scores.shape[-1]:
        raise ValueError(
            f"scores must be floats of shape (clips, classes, frames), got {scores.dtype} "
            f"{scores.shape}"
        )
    if scores.shape[:2] != (len(clips), len(classes)):
        raise ValueError(
            f"scores have shape {scores.shape}, but there are {len(clips)} clips and "
            f"{len(classes)} classes"
        )
    for what, names in (("clip", clips), ("class", classes)):
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"{what} {twice!r} comes twice; names must differ")
    if durations_s.shape != (len(clips),):
        raise ValueError(
            f"durations_s must have one entry for each of {len(clips)} clips, got shape "
            f"{durations_s.shape}"
        )
    wrong = ~(np.isfinite(durations_s) & (durations_s > 0))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"clip {clips[i]!r} has duration {durations_s[i]} s; give each its seconds, above 0"
        )
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be 0 (no intervals) or a number above, got {bootstrap}")


def _check_events(events: Events) -> None:
    fine = (events.onset_s >= 0) & (events.offset_s > events.onset_s) & np.isfinite(events.offset_s)
    if not fine.all():
        i = int(np.argmin(fine))
        clip = events.clips[events.clip[i]]
        raise ValueError(
            f"clip {clip!r} has an event of class {events.labels[events.label[i]]!r} from "
            f"{events.onset_s[i]} to {events.offset_s[i]} s; it must begin at 0 or later and end "
            "after it begins"
        )


@dataclass(frozen=True)
class _ClassPart:
    """What one class contributes to the set and its resamples."""

    counts: list[tuple[np.ndarray, np.ndarray]]  # R, see points.counts_of
    n_events: np.ndarray  # (R,)
    pauroc: np.ndarray  # (R,)
    ap: np.ndarray  # (R,)


def _score_class(problem: _Problem, k: int) -> _ClassPart:
    x = problem.scores[problem.rows, problem.columns[k]]
    x = x.astype(np.float32) if x.dtype == np.float16 else x  # exact, and NumPy is faster in it
    wrong = ~np.isfinite(x).all(1)
    if wrong.any():
        raise ValueError(
            f"clip {problem.clips[int(np.argmax(wrong))]!r} has a score that is not finite in class"
            f" {problem.names[k]!r}; scores must be finite"
        )
    events, weights, top = problem.events[k], problem.weights, x.max(1)
    has_event = np.zeros(len(x), dtype=bool)
    has_event[events.row] = True
    lowest = points.lowest_score(top[~has_event], weights[:, ~has_event], problem.seconds / 3600)
    changes = points.change_points(x, events, lowest)
    return _ClassPart(
        [points.counts_of(changes, weight) for weight in weights],
        weights[:, events.row].sum(1),
        points.segment_pauroc(x, events, problem.durations_s, weights),
        points.average_precision(top, has_event, weights),
    )


def _psds1(problem: _Problem, parts: Sequence[_ClassPart]) -> tuple[np.ndarray, np.ndarray]:
    """(R,) and of each class (R, K), for the set and its resamples; NaN where not defined."""
    psds1 = np.full(len(problem.weights), np.nan)
    of_class = np.full((len(psds1), len(parts)), np.nan)
    for r, seconds in enumerate(problem.seconds):
        present = [k for k, part in enumerate(parts) if part.n_events[r]]
        psds1[r], of = points.psds1(
            {problem.names[k]: parts[k].counts[r] for k in present},
            {problem.names[k]: int(parts[k].n_events[r]) for k in present},
            float(seconds),
        )
        of_class[r, present] = [of[problem.names[k]] for k in present]
    return psds1, of_class


def _means(values: np.ndarray) -> np.ndarray:
    """(R, K) -> (R,), over the classes in which a value is defined; NaN if in none."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(1)
    return np.where(defined.any(1), total / np.maximum(defined.sum(1), 1), np.nan)


def _interval(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, CI) if len(values) else (np.nan, np.nan)
    return float(low), float(high)
