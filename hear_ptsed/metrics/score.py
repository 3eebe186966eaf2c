"""The one door to all metrics: predictions and ids of METRICS -> scores."""

from collections.abc import Sequence
from dataclasses import replace
from pkgutil import resolve_name

from hear_ptsed.metrics.bootstrap import NO_BOOTSTRAP, Bootstrap, Scored
from hear_ptsed.metrics.catalogue import METRICS
from hear_ptsed.metrics.checks import check_metrics
from hear_ptsed.metrics.predictions import Predictions


def score(
    predictions: Predictions,
    metrics: Sequence[str],
    bootstrap: Bootstrap = NO_BOOTSTRAP,
    curves: Sequence[str] = (),
) -> Scored:
    """The metrics in the order asked.

    Args:
        metrics: ids of METRICS that have a function.
        curves: those whose curve is worth its time: an F-score is computed at every threshold. A
            PSD-ROC comes anyway.
    """
    functions = {metric: entry.function for metric, entry in METRICS.items() if entry.function}
    check_metrics(metrics, functions)
    together: dict[str, list[str]] = {}
    for metric in metrics:
        together.setdefault(functions[metric], []).append(metric)
    scored = Scored({}, {}, {})
    for function, names in together.items():
        compute = resolve_name(function)
        scored |= compute(predictions, names, bootstrap, [m for m in curves if m in names])
    return replace(scored, scores={name: scored.scores[name] for name in metrics}, details={})
