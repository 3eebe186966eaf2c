"""One evaluation from its plan to its record: train, predict, score, write.

A run works in a folder named by its identity, so that the same command finds what a killed one
left, and nothing else does.
"""

import logging
import time
from collections import ChainMap
from dataclasses import replace
from datetime import UTC, datetime

from eval_tasks.fit.trainer import Context, Predictions, find_trainer
from eval_tasks.plan import Run
from eval_tasks.plugin import device_of
from eval_tasks.run_folder import HEAR, clear, held_alone
from eval_tasks.score import decode_part, rate, rate_groups, tuned_boxes
from eval_tasks.tasks.folds import gather
from hear_ptsed.metrics import records
from hear_ptsed.metrics.bootstrap import Bootstrap, Scored, mean_of_folds
from hear_ptsed.metrics.box_record import write_boxes
from hear_ptsed.metrics.catalogue import BY_EVENTS, METRICS
from hear_ptsed.metrics.predicted import pack_events
from hear_ptsed.metrics.provenance import make_record
from hear_ptsed.metrics.records import Record

log = logging.getLogger(__name__)


def execute(run: Run, progress: bool = True) -> Record:
    """Train, test, score and write the record; one that is there is kept."""
    with held_alone(run.folder):
        if record := run.finished():
            if run.request.export and not run.request.export.exists():
                raise FileNotFoundError(
                    f"{run.path} is finished and its weights are gone; move it away to train again"
                )
            clear(run.folder)  # of one that was killed after its record
            return record
        started, began = datetime.now(UTC), time.monotonic()
        predictions = [decoded(run, tuned(run, fold)) for fold in predict_folds(run, progress)]
        scored = score_folds(run, predictions)
        record = record_of(run, predictions, scored, started, time.monotonic() - began)
        records.write_record(record, run.path)
        clear(run.folder)
    return record


def predict_folds(run: Run, progress: bool = True) -> list[Predictions]:
    """Of each part that is tested on."""
    request = run.request
    if request.protocol == "hear":
        from eval_tasks.heareval.protocol import hear

        return hear(run.data, run.plugin, run.folder / HEAR, **run.hear_grid, progress=progress)
    train = find_trainer(request.protocol)
    return [
        train(
            Context(
                data=run.data,
                split=split,
                plugin=run.plugin,
                protocol=request.protocol,
                recipe=run.recipe,
                folder=run.folder / split.test,
                cache=run.cache,
                seed=run.seed,
                device=device_of(request.device),
                workers=request.workers,
                progress=progress,
                export=request.export,
                boxes=request.decoder == "sebb",
            )
        )
        for split in run.splits
    ]


def tuned(run: Run, fold: Predictions) -> Predictions:
    """With bounding boxes, where they are asked for; `training` says their settings."""
    if fold.valid is None:
        return fold
    split = next(split for split in run.splits if split.test == fold.part)
    boxes = tuned_boxes(run.data.task, run.data.parts[split.valid], fold.valid)
    training = fold.training | {"boxes": write_boxes(boxes, run.data.classes)}
    return replace(fold, boxes=boxes, training=training)


def decoded(run: Run, fold: Predictions) -> Predictions:
    """With events, where scores are of some: those are scored, and kept in the record."""
    task, part = run.data.task, run.data.parts[fold.part]
    by_events = any(METRICS[name].function == BY_EVENTS for name in task.metrics)
    if fold.events is not None or not by_events:
        return fold
    how = {"decoding": fold.decoding, "boxes": fold.boxes}
    return replace(fold, events=decode_part(task, part, fold.probabilities, **how))


def score_folds(run: Run, predictions: list[Predictions]) -> list[Scored]:
    """Of each part, with the same metrics; behind them, where the folder says so, of all as one."""
    task = run.data.task
    off_grid = [name for name in task.metrics if not METRICS[name].of_frames]
    hop_ms = run.plugin.hop_ms
    on_grid = all(fold.frame_ms == hop_ms for fold in predictions)
    if not on_grid:
        log.warning("no PSDS: %s has no frame every %d ms", run.plugin.name, hop_ms)
    parts = [run.data.parts[fold.part] for fold in predictions]
    if is_pooled(run):
        clips = [(part, file) for part in parts for file in part.files]
        parts.append(gather("all", run.data.folder, clips))
        predictions = [*predictions, pool(predictions)]
    return [
        rate(
            task,
            part,
            fold.probabilities,
            metrics=None if on_grid else off_grid,
            events=fold.events,
            decoding=fold.decoding,
            boxes=fold.boxes,
            bootstrap=Bootstrap(),
            curves=on_grid,
        )
        for part, fold in zip(parts, predictions, strict=True)
    ]


def is_pooled(run: Run) -> bool:
    """Whether all folds are tested and scored as one."""
    return bool(run.data.metadata.get("pooled")) and len(run.splits) == len(run.data.splits)


def pool(predictions: list[Predictions]) -> Predictions:
    """Those of all folds as one."""
    events = [fold.events or {} for fold in predictions]
    return replace(
        predictions[0],
        part="all",
        probabilities=dict(ChainMap(*(fold.probabilities for fold in predictions))),
        events=dict(ChainMap(*events)) if any(events) else None,
    )


def record_of(
    run: Run,
    predictions: list[Predictions],
    scored: list[Scored],
    started: datetime,
    seconds: float,
) -> Record:
    """Of all folds, or of the one test part."""
    folds, pooled = len(run.data.splits), is_pooled(run)
    single = folds == 1 or pooled
    if pooled:
        groups = {p.part: s.scores for p, s in zip(predictions, scored, strict=False)}
    else:
        groups = score_groups(run, predictions[0]) if single else {}
    speeds = [fold.seconds_per_minute for fold in predictions]
    return make_record(
        run.asked,
        scored[-1] if single else mean_of_folds(scored),
        started,
        seconds,
        device_of(run.request.device),
        cost={
            "parameters": predictions[0].parameters,
            "seconds_per_minute": sum(speeds) / len(speeds),
        },
        clips=sum(len(run.data.parts[fold.part]) for fold in predictions),
        folds=[] if single else [fold.scores for fold in scored],
        groups=groups,
        folds_of=0 if single else folds,
        training=[fold.training for fold in predictions],
        predicted=packed_events(run, predictions),
    )


def score_groups(run: Run, test: Predictions) -> dict[str, dict[str, float]]:
    """Of the groups of clips that the task's folder names."""
    task, part = run.data.task, run.data.parts[test.part]
    if test.frame_ms != part.hop_ms:
        return {}
    how = {"decoding": test.decoding, "boxes": test.boxes}
    return rate_groups(task, part, test.probabilities, **how)


def packed_events(run: Run, predictions: list[Predictions]) -> str:
    """Of all tested clips; "" where no score is of events, or where they do not fit a record."""
    events = {
        file: of_file for fold in predictions for file, of_file in (fold.events or {}).items()
    }
    clips = sum(len(run.data.parts[fold.part]) for fold in predictions)
    if len(events) < clips:  # a name is in two folds
        return ""
    return pack_events(events, run.data.classes)
