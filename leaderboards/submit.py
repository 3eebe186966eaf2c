"""Whether somebody else's record may join: form, conventions, and whether it can be true."""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from hear_ptsed.errors import shown
from hear_ptsed.metrics import records
from hear_ptsed.metrics.records import Record, convention, draws
from leaderboards import checks, names
from leaderboards.ranks import interval

FIRST = datetime(2024, 9, 1, tzinfo=UTC)  # no record can be older than what it is of
EXACT = 1e-6  # of values that follow from others
THRESHOLD = 0.5  # of the scores
ROC_STEP = 0.05  # its area is told by some points

# As `convention` gives them: without the release of the library.
_FOLDS = (
    r"(the first \d+ of \d+ folds only; )?(mean of \d+ folds, those without a value left out: )?"
)
_SED_EVAL = _FOLDS + r"sed_eval {} as in heareval 2021\.1\.3: {}"
_F = r"F-score over all events \(micro average\), optimal matching, \d+ classes"
_ER = r"error rate, lower is better; over all segments and classes \(micro average\)"
_PSDS = _FOLDS + r"sed_scores_eval: {}, alpha_st 1 .*at most 100 false positives per hour"
CONVENTIONS = {  # how the text begins that this suite writes
    "event_onset_200ms_fms": _SED_EVAL.format(
        r"EventBasedMetrics\(evaluate_offset=False, t_collar=0\.2\)", _F
    ),
    "event_onset_50ms_fms": _SED_EVAL.format(
        r"EventBasedMetrics\(evaluate_offset=False, t_collar=0\.05\)", _F
    ),
    "event_onset_offset_50ms_20perc_fms": _SED_EVAL.format(
        r"EventBasedMetrics\(t_collar=0\.05, percentage_of_length=0\.2\)", _F
    ),
    "segment_1s_er": _SED_EVAL.format(r"SegmentBasedMetrics\(time_resolution=1\.0\)", _ER),
    "psds1": _PSDS.format(r"dtc 0\.7, gtc 0\.7, no cross triggers, alpha_ct 0"),
    "psds2": _PSDS.format(r"dtc 0\.1, gtc 0\.1, cttc 0\.3, alpha_ct 0\.5"),
}
SUITE, GENERIC = "hear_ptsed.plugins.", "checkpoint"
COMMIT = re.compile(r"[0-9a-f]{40}(\+changes)?")
WEAK_TASKS = ("desed", "home")  # have weak labels, and so protocols of their own
PROTOCOL_MODES = {
    "hear": "frozen",
    "linear": "frozen",
    "desed-baseline": "frozen",
    "finetuned": "finetuned",
}


def problems(path: Path, now: datetime | None = None) -> list[str]:
    """All that speaks against a record, a line each; empty if it is accepted.

    Args:
        now: the present, with its time zone.
    """
    try:
        text, values = checks.load_json(Path(path))
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    except ValueError as error:
        return [str(error)]
    if told := records.problems(text, values):
        return told
    made = records.parse(text, values)
    if told := [*checks.problems(made)]:
        return told
    checked = (_circumstances(made, now or datetime.now(UTC)), _conventions(made))
    checked += (_intervals(made), _classes(made), _folds(made), _curves(made))
    return [problem for part in checked for problem in part]


def _circumstances(made: Record, now: datetime) -> Iterator[str]:
    """Where it comes from: task, protocol, module, checkpoint."""
    mode = PROTOCOL_MODES.get(made.protocol, made.mode)
    if made.mode != mode:
        yield f"protocol {made.protocol} is {mode}, the record says {made.mode}"
    if made.protocol.startswith("desed") != (made.task in WEAK_TASKS):
        if made.protocol != "hear":
            yield f"task {made.task} has no protocol {made.protocol}"
    if made.published_task == names.TASKS[made.task].small:
        yield f"published_task is {made.published_task}, which {made.task} is not"
    plug_in = made.module.removeprefix(SUITE)
    said = f"{made.model}_{made.stage}"
    if made.module.startswith(SUITE) and plug_in != GENERIC and plug_in != said:
        yield f"module {made.module} is not model {made.model}, stage {made.stage!r}"
    has_checkpoint = made.checkpoint["sha256"] is not None
    if made.untrained and has_checkpoint:
        yield "untrained, and yet from a checkpoint"
    # Plug-ins of others may bring their weights with them.
    if made.module.startswith(SUITE) and not made.untrained and not has_checkpoint:
        yield "names no checkpoint: file and sha256 are needed, unless it is untrained"
    yield from _run(made, now)


def _run(made: Record, now: datetime) -> Iterator[str]:
    """Cost, code and time."""
    if made.seconds <= 0:
        yield "seconds is 0; a run takes some"
    for key in ("parameters", "seconds_per_minute"):
        if not made.cost.get(key, 0) > 0:
            yield f"cost has no {key} above 0"
    if made.commit is not None and not COMMIT.fullmatch(made.commit):
        yield f"commit {shown(made.commit)} is no hash of git"
    started = datetime.fromisoformat(made.started)
    started = started if started.tzinfo else started.replace(tzinfo=UTC)
    if not FIRST <= started <= now + timedelta(days=1):
        yield f"started {made.started}, which is before {FIRST:%Y-%m} or still to come"


def _conventions(made: Record) -> Iterator[str]:
    for metric, text in made.conventions.items():
        if metric not in CONVENTIONS:
            yield f"{metric} is no metric of this suite's records: {', '.join(CONVENTIONS)}"
        elif not re.match(CONVENTIONS[metric], convention(text)):
            yield f"{metric} was computed in another way than here: {shown(text, 150)}"


def _intervals(made: Record) -> Iterator[str]:
    """Whether values, replicates and intervals belong together."""
    scores, replicates = made.scores, made.replicates
    if len({len(own) for own in replicates.values()}) > 1:
        yield "replicates differ in their number from metric to metric"
    if missing := sorted(replicates.keys() ^ made.ci95.keys()):
        yield f"replicates and ci95 go together; one of them lacks {', '.join(missing)}"
    for metric, (low, high) in made.ci95.items():
        slack = (high - low) / 2 + EXACT  # resampling is biased, mostly for PSDS
        if not math.isnan(low) and not low - slack <= scores[metric] <= high + slack:
            yield f"{metric} {scores[metric]:g} lies outside its own interval {low:g} to {high:g}"
    for metric, own in replicates.items():
        if not draws(made.conventions[metric]):
            yield f"the convention of {metric} does not say how its replicates were drawn"
        if metric in made.ci95:
            ends = np.array([interval(np.array(own)), made.ci95[metric]])
            if not np.allclose(*ends, atol=EXACT, equal_nan=True):
                yield f"ci95 of {metric} is not that of its replicates, {ends[0]}"


def _classes(made: Record) -> Iterator[str]:
    """Whether the values of the classes can make up that of all."""
    rows = made.per_class
    if not rows:
        yield "per_class is empty"
        return
    for metric, score in made.scores.items():
        own = [row[metric] for row in rows.values() if not math.isnan(row.get(metric, math.nan))]
        if not own or math.isnan(score) or made.folds:
            continue
        if metric.endswith("_fms") and score > max(own) + EXACT:
            yield f"{metric} {score:g} of all events is above that of every class"
        if metric.startswith("psds") and score > sum(own) / len(own) + EXACT:
            yield f"{metric} {score:g} is above the mean of the classes, {sum(own) / len(own):g}"


def _curves(made: Record) -> Iterator[str]:
    """Whether a curve goes through its score, or has it as its area."""
    for metric, curve in made.curves.items():
        score = made.scores[metric]
        if names.CURVES[metric] is names.PSD_ROC:
            x, y = np.array(curve["efpr_per_hour"]), np.array(curve["etpr"])
            if (x[0], x[-1]) != (0, names.PSD_ROC.high):
                yield f"the curve of {metric} does not go from 0 to {names.PSD_ROC.high:g}"
                continue
            area = float(y[:-1] @ np.diff(x)) / names.PSD_ROC.high
            if not abs(area - score) <= ROC_STEP:
                yield f"{metric} {score:g} is not the area of its curve, {area:g}"
            continue
        for at, own in zip(curve["threshold"], curve["f_measure"], strict=True):
            if at == THRESHOLD and not np.isclose(own, score, rtol=0, atol=EXACT, equal_nan=True):
                yield f"{metric} {score:g} is not that of its curve at {THRESHOLD}, {own:g}"


def _folds(made: Record) -> Iterator[str]:
    for metric, score in made.scores.items():
        own = [fold[metric] for fold in made.folds if not math.isnan(fold.get(metric, math.nan))]
        if own and not abs(sum(own) / len(own) - score) <= EXACT:
            yield f"{metric} {score:g} is not the mean of its folds, {sum(own) / len(own):g}"
