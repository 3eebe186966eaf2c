"""Scores of sound events by sed_eval, as heareval computes them.

sed_eval's counts are sums over clips: each clip is evaluated once, and the score of a set or of a
resample of it is sed_eval's own formula on summed counts.
"""

import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from hear_ptsed.grid import FRAME_MS
from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap, Scored, mean_of_defined
from hear_ptsed.metrics.catalogue import BY_EVENTS, METRICS, SEGMENTS
from hear_ptsed.metrics.checks import Events, check_events, check_files, check_metrics
from hear_ptsed.metrics.decoding import BY_BOXES, Decoding, decode_as_heareval
from hear_ptsed.metrics.predictions import Predictions

THRESHOLDS = tuple(k / 20 for k in range(1, 20))  # of a curve: 0.05 to 0.95
F_PARTS = ("f_measure", "precision", "recall")
EMPTY = "empty_system_output_handling"


def event_metrics(
    predictions: Predictions, metrics: Sequence[str], bootstrap: Bootstrap, curves: Sequence[str]
) -> Scored:
    """Scores of the events of predictions; F-scores of `curves` over thresholds, too."""
    events = predictions.events
    reference, classes = predictions.reference, predictions.classes
    scored = event_scores(reference, events, classes, metrics, bootstrap)
    if predictions.boxes is not None:
        settings, text = dict.fromkeys(metrics, BY_BOXES), "; events are boxes (SEBB)"
        conventions = {metric: said + text for metric, said in scored.conventions.items()}
        return replace(scored, settings=settings, conventions=conventions)
    for metric in curves:
        if METRICS[metric].curve:
            scored.curves[metric] = threshold_curve(
                reference,
                predictions.scores,
                classes,
                metric,
                predictions.decoding,
                predictions.hop_ms,
            )
    return scored


def event_scores(
    reference: Events,
    estimated: Events,
    classes: Sequence[str],
    metrics: Sequence[str],
    bootstrap: Bootstrap = NO_BOOTSTRAP,
) -> Scored:
    """F-scores and error rates of all clips, by sed_eval.

    A label that is not one of `classes` counts in the F-scores of all events, as in heareval; one
    of segments has no row for it and is refused.

    Args:
        reference, estimated: of the same files, times in ms.
        metrics: of METRICS, with BY_EVENTS.
    """
    check_metrics(metrics, [m for m, of in METRICS.items() if of.function == BY_EVENTS])
    check_events(reference, "reference")
    check_events(estimated, "estimate")
    check_files(reference, estimated, "an estimate")
    files = sorted(reference)
    classes = [str(name) for name in classes]
    unknown = _unknown_labels(reference, estimated, classes, metrics)
    weights = bootstrap.weights(files)
    clips = [(reference[file], estimated[file]) for file in files]
    counted = Counter(str(event["label"]) for file in files for event in reference[file])
    per_class = {name: {"events": float(counted[name])} for name in classes}
    scores, details, replicates = {}, {}, {}
    for metric in metrics:
        scorer, counts, of_class = _counts(metric, clips, classes, unknown)
        values = _averaged(scorer, metric, counts.sum(0))
        scores[metric], *_ = values.values()
        details |= {f"{metric}_{part}": value for part, value in values.items()}
        sums_of_resamples = np.tensordot(weights, counts, 1)  # (R, groups, keys)
        replicates[metric] = [
            next(iter(_averaged(scorer, metric, sums).values())) for sums in sums_of_resamples
        ]
        for name in classes:
            per_class[name][METRICS[metric].of_classes or metric] = of_class[name]
    return Scored(
        scores,
        per_class,
        {name: _convention(name, classes, unknown) for name in metrics},
        {name: {} for name in metrics},
        replicates if bootstrap.resamples else {},
        {name: [bootstrap.draws(files)] for name in metrics} if bootstrap.resamples else {},
        details,
    )


def threshold_curve(
    reference: Events,
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    metric: str,
    decoding: Decoding,
    hop_ms: int = FRAME_MS,
) -> dict[str, list[float]]:
    """F-score, precision and recall at THRESHOLDS, NaN where undefined; else decoded alike.

    Args:
        probabilities: file -> (T, C), of the files of the reference.
        metric: an F-score.
    """
    curve: dict[str, list[float]] = {"threshold": list(THRESHOLDS)} | {part: [] for part in F_PARTS}
    for threshold in THRESHOLDS:
        at = replace(decoding, threshold=threshold)
        events = {
            file: decode_as_heareval(probabilities[file], classes, at, hop_ms) for file in reference
        }
        details = event_scores(reference, events, classes, [metric]).details
        for part in F_PARTS:
            curve[part].append(details[f"{metric}_{part}"])
    return curve


@contextmanager
def pkg_resources_stand_in() -> Iterator[None]:
    """Import: the one function of pkg_resources that pytorch-lightning 1.9.5 calls, if it is gone.

    setuptools 82 dropped the package; Lightning then stops at `No module named 'pkg_resources'`.
    """
    if find_spec("pkg_resources"):
        yield
        return
    pkg_resources = ModuleType("pkg_resources")
    pkg_resources.__spec__ = ModuleSpec("pkg_resources", None)
    pkg_resources.declare_namespace = lambda _name: None
    with in_module_table(pkg_resources):
        yield


@contextmanager
def in_module_table(stand_in: ModuleType) -> Iterator[None]:
    """Import: what is imported meanwhile stays, which `patch.dict` would drop."""
    name = stand_in.__name__
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)


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
    """A scorer of sed_eval, its overall counts of each clip, the score of each class.

    An event matches only events of its label, so each label is counted by itself: sed_eval looks
    at all pairs of events. Errors of segments are counted over all classes.

    Returns:
        counts (N, groups, keys): a macro average has a group of each class, others have one.
    """
    options, arguments = METRICS[metric].options, _arguments(metric)
    make = getattr(_sed_eval().sound_event, options["scorer"])
    macro = "average" in options
    if options["scorer"] == SEGMENTS and not macro:
        groups = {None: classes}
        parted = [{None: clip} for clip in clips]
    else:
        groups = {label: [label] for label in (*classes, *([] if macro else unknown))}
        parted = [_by_label(*clip) for clip in clips]
    counts, of_class = [], {}
    for group, labels in groups.items():
        scorer = make(labels, **arguments)
        scorer.empty_system_output_handling = options.get(EMPTY)  # not all take it as an argument
        sums = []
        for clip in parted:
            if group in clip:
                scorer.evaluate(*map(_container, clip[group]))
            sums.append([float(value) for value in scorer.overall.values()])
        counts.append(np.diff(sums, axis=0, prepend=0))
        of_class |= {label: _of_class(scorer, metric, label) for label in labels}
    stacked = np.stack(counts, 1)
    return scorer, stacked if macro else stacked.sum(1, keepdims=True), of_class


def _arguments(metric: str) -> dict[str, Any]:
    """Of the class of sed_eval."""
    others = ("scorer", "value", "average", EMPTY)
    return {key: value for key, value in METRICS[metric].options.items() if key not in others}


def _by_label(reference: Sequence, estimated: Sequence) -> dict[str, tuple[list, list]]:
    of_label: dict[str, tuple[list, list]] = {}
    for side, events in enumerate((reference, estimated)):
        for event in events:
            of_label.setdefault(str(event["label"]), ([], []))[side].append(event)
    return of_label


def _is_f(metric: str) -> bool:
    return METRICS[metric].options["value"] == "f_measure"


def _averaged(scorer: Any, metric: str, counts: np.ndarray) -> dict[str, float]:
    """Values of counts (groups, keys): means over the groups in which they are defined."""
    groups = [_overall(scorer, metric, of_group) for of_group in counts]
    return {part: mean_of_defined([g[part] for g in groups]) for part in groups[0]}


def _overall(scorer: Any, metric: str, counts: np.ndarray) -> dict[str, float]:
    scorer.overall = dict(zip(scorer.overall, counts.tolist(), strict=True))
    if _is_f(metric):
        values = scorer.overall_f_measure()
        return {part: float(values[part]) for part in F_PARTS}
    if not scorer.overall["Nref"]:  # sed_eval divides by the smallest float
        return {"error_rate": math.nan}
    return {"error_rate": float(scorer.overall_error_rate()["error_rate"])}


def _of_class(scorer: Any, metric: str, name: str) -> float:
    if _is_f(metric):
        return float(scorer.class_wise_f_measure(name)["f_measure"])
    if not scorer.class_wise[name]["Nref"]:
        return math.nan
    return float(scorer.class_wise_error_rate(name)["error_rate"])


def _unknown_labels(
    reference: Events, estimated: Events, classes: list[str], metrics: Sequence[str]
) -> list[str]:
    """Labels that are no classes; a ValueError if one of the metrics is not defined for them."""
    lists = [*reference.values(), *estimated.values()]
    unknown = sorted({str(event["label"]) for events in lists for event in events} - set(classes))
    of_segments = [m for m in metrics if METRICS[m].options["scorer"] == SEGMENTS]
    if unknown and of_segments:
        raise ValueError(
            f"label {unknown[0]!r} is none of the {len(classes)} classes; {of_segments[0]} is not "
            "defined for it: correct the label or leave the metric out"
        )
    return unknown


def _convention(metric: str, classes: list[str], unknown: list[str]) -> str:
    options = METRICS[metric].options
    scorer, macro = options["scorer"], "average" in options
    given = _arguments(metric) | ({EMPTY: options[EMPTY]} if EMPTY in options else {})
    arguments = ", ".join(f"{key}={value}" for key, value in given.items())
    of_heareval = "" if EMPTY in options else " as in heareval 2021.1.3"
    what = "error rate, lower is better; over all segments and classes (micro average)"
    if _is_f(metric):
        over = "all segments and classes" if scorer == SEGMENTS else "all events"
        over = "mean of the classes that occur" if macro else f"over {over} (micro average)"
        what = f"F-score {over}" + ", optimal matching" * (scorer != SEGMENTS)
    text = (
        f"sed_eval {scorer}({arguments}){of_heareval}: {what}, {len(classes)} classes; NaN where "
        "undefined"
    )
    if unknown and not macro:
        text += f"; labels outside the classes count as events: {', '.join(unknown)}"
    return text
