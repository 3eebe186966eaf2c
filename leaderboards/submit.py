"""Whether somebody else's record may join: form, fields, and whether they belong together."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hear_ptsed.metrics import records
from hear_ptsed.metrics.bootstrap import interval
from hear_ptsed.metrics.records import Record
from leaderboards import checks, names

EXACT = 1e-6  # of values that follow from others
SUITE, GENERIC = "hear_ptsed.plugins.", "checkpoint"


def problems_of_file(path: Path, tasks_dir: Path | None = None) -> list[str]:
    """All that speaks against a record, a line each; empty if it is accepted.

    Args:
        tasks_dir: folder of task folders: its scores of events are computed again from the events
            that it carries, see `recompute`.
    """
    try:
        text, values = checks.load_json(Path(path))
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]
    except ValueError as error:
        return [str(error)]
    if problems := records.problems_of_record(text, values):
        return problems
    record = records.parse_record(text, values)
    if problems := [*checks.problems_for_board(record)]:
        return problems
    problems = [*_origin(record), *_intervals(record), *_folds(record)]
    if tasks_dir is None or problems:
        return problems
    from leaderboards.recompute import problems_of_predicted

    return problems_of_predicted(record, tasks_dir)


def _origin(record: Record) -> Iterator[str]:
    """What a board says of a row: task, module, checkpoint."""
    task = names.KNOWN_TASKS.get(record.task)
    if task and record.published_task != task.published:
        yield f"published_task is {record.published_task}, which {record.task} is not"
    plug_in, has_checkpoint = record.module.removeprefix(SUITE), record.checkpoint["sha256"]
    if record.untrained and has_checkpoint:
        yield "untrained, and yet from a checkpoint"
    if not record.module.startswith(SUITE):
        return  # plug-ins of others may bring their weights with them
    if plug_in not in (GENERIC, f"{record.model}_{record.stage}".removesuffix("_")):
        yield f"module {record.module} is not model {record.model}, stage {record.stage!r}"
    if not (record.untrained or has_checkpoint):
        yield "names no checkpoint: file and sha256 are needed, unless it is untrained"


def _intervals(record: Record) -> Iterator[str]:
    """Whether values, replicates, draws and intervals belong together."""
    scores, replicates = record.scores, record.replicates
    if len({len(values) for values in replicates.values()}) > 1:
        yield "replicates differ in their number from metric to metric"
    if missing := sorted(replicates.keys() ^ record.ci95.keys()):
        yield f"replicates and ci95 go together; one of them lacks {', '.join(missing)}"
    for metric, (low, high) in record.ci95.items():
        slack = (high - low) / 2 + EXACT  # resampling is biased, mostly for PSDS
        if not math.isnan(low) and not low - slack <= scores[metric] <= high + slack:
            yield f"{metric} {scores[metric]:g} lies outside its own interval {low:g} to {high:g}"
    for metric, values in replicates.items():
        yield from _draws(record, metric)
        if metric in record.ci95:
            ends = np.array([interval(values), record.ci95[metric]])
            if not np.allclose(*ends, atol=EXACT, equal_nan=True):
                yield f"ci95 of {metric} is not that of its replicates, {ends[0]}"


def _draws(record: Record, metric: str) -> Iterator[str]:
    """Whether the replicates of a metric can come of what was drawn."""
    draws = record.draws.get(metric, [])
    if len(draws) != max(1, len(record.folds)):
        yield f"draws has {len(draws)} parts of {metric}; expected one, or one of each fold"
    if draws and {part["resamples"] for part in draws} != {len(record.replicates[metric])}:
        yield f"replicates of {metric} are not as many as draws says"
    if sum(part["clips"] for part in draws) > record.clips:
        yield f"draws of {metric} are of more clips than were tested, {record.clips}"


def _folds(record: Record) -> Iterator[str]:
    for metric, score in record.scores.items():
        values = [f[metric] for f in record.folds if not math.isnan(f.get(metric, math.nan))]
        if values and not abs(sum(values) / len(values) - score) <= EXACT:
            yield f"{metric} {score:g} is not the mean of its folds, {sum(values) / len(values):g}"
