"""One evaluation from what was asked to its record.

A run works in a folder named by its identity, so that the same command finds what a killed one
left, and nothing else does.
"""

import logging
import shutil
import time
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval_tasks.fit.recipe import Recipe, recipe
from eval_tasks.plugin import Module, device_of
from eval_tasks.request import HEAR_SEED, Request
from eval_tasks.tasks.base import Outcome, Split, TaskData, open_task
from hear_ptsed import list_models
from hear_ptsed.files import locked, remove_stale
from hear_ptsed.metrics import records
from hear_ptsed.metrics.bootstrap import Bootstrap, Scored, mean_of_folds
from hear_ptsed.metrics.provenance import commit, hardware, software
from hear_ptsed.metrics.records import Asked, Record
from hear_ptsed.schema import Label, check

log = logging.getLogger(__name__)
PLUGINS = "hear_ptsed.plugins."
HEAR = "hear"  # what heareval does lies there, in the folder of a run


@dataclass(frozen=True)
class Run:
    """A request with its task and its module, checked."""

    request: Request
    data: TaskData
    module: Module
    recipe: Recipe | None  # None: heareval has its own

    @property
    def seed(self) -> int:
        return HEAR_SEED if self.request.seed is None else self.request.seed

    @property
    def splits(self) -> list[Split]:
        """That are trained and tested on."""
        return self.data.splits[: self.request.folds]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """All numbers of the training, options of the module, folds."""
        found: dict[str, Any] = {"model_options": self.module.options, "folds": len(self.splits)}
        if self.recipe is not None:
            return found | self.recipe.as_dict()
        grid_points = self.request.grid_points or 8
        return found | {"grid": self.request.grid or "default", "grid_points": grid_points}

    @cached_property
    def identity(self) -> str:
        """SHA-256 over all that decides the result; paths, devices and loaders do not."""
        task = self.data.task
        return records.identity(
            {
                "task": self.data.fingerprint,
                "metrics": task.metrics,
                "decoding": asdict(task.decoding),
                "psds_median": task.psds_median,
                "select": task.select,
                "module": self.module.name,
                "stage": self.module.stage,
                "checkpoint": self.module.sha256,
                "protocol": self.request.protocol,
                "seed": self.seed,
                "hyperparameters": self.hyperparameters,
            }
        )

    @property
    def path(self) -> Path:
        """Of the record."""
        return records.record_path(self.request.results, self.asked)

    @cached_property
    def asked(self) -> Asked:
        """What the record will say of all this; a ValueError if it may not."""
        module = self.module
        values = {
            "task": self.data.task.name,
            "title": self.data.task.title,
            "primary": self.data.task.metrics[0],
            "task_version": self.data.version,
            "task_sha256": self.data.fingerprint,
            "protocol": self.request.protocol,
            "module": module.name,
            "name": self.request.name,
            "model": module.model,
            "stage": module.stage,
            "checkpoint": {"file": module.file and module.file.name, "sha256": module.sha256},
            "untrained": module.untrained,
            "seed": self.seed,
            "hyperparameters": self.hyperparameters,
            "published_task": self.data.task.published,
            "coverage": self.data.coverage,
            "command": self.request.command,
            "identity": self.identity,
        }
        check(list[Label], [*self.data.classes], f"labelvocabulary.csv of {self.data.folder}")
        return Asked(**values)

    @property
    def folder(self) -> Path:
        """Of the training."""
        return self.request.work / self.identity[:16]

    def finished(self) -> Record | None:
        return records.finished_record(self.path, self.identity)


def plan(request: Request, data: TaskData | None = None, *, download: bool = True) -> Run:
    """Check all that can be checked before anything is computed.

    Args:
        data: the opened task, where it is at hand already.
        download: fetch a released checkpoint that is not on this machine, else refuse.
    """
    from eval_tasks.tasks import TASKS

    if request.task not in TASKS:
        raise ValueError(f"unknown task {request.task!r}; known: {', '.join(TASKS)}")
    task = TASKS[request.task]
    request.check(task)
    request = replace(request, seed=None if request.protocol == "hear" else request.seed or 0)
    if data is None:
        data = open_task(task, request.tasks_dir / (request.folder or task.folder))
    if request.folds is not None and not 1 <= request.folds <= len(data.splits):
        raise ArgumentError(
            None, f"--folds {request.folds}: {data.folder} has {len(data.splits)} to test on"
        )
    module = Module(full_name(request.module), request.checkpoint, request.options, request.stage)
    module.plugin  # noqa: B018  it tells whether there is one
    if not download and not (module.checkpoint or module.untrained):
        row = next((row for row in list_models() if row.module == module.name), None)
        if row is not None and not row.cached:
            raise FileNotFoundError(
                f"{row.checkpoint} is not on this machine; `hear-ptsed download` fetches it"
            )
    module.sha256  # noqa: B018  reads the checkpoint
    numbers = None
    if request.protocol != "hear":
        options = {"convolutional": module.convolutional}
        numbers = recipe(task, request.protocol, request.set, **options)
    run = Run(request, data, module, numbers)
    if request.export and len(run.splits) > 1:
        raise ArgumentError(None, "--export writes one file; give --folds 1 with it")
    run.asked  # noqa: B018  refuses what no record may hold
    return run


def full_name(module: str) -> str:
    """beats_strong as hear_ptsed.plugins.beats_strong; other names as they are."""
    short = "." not in module and find_spec(PLUGINS + module) is not None
    return PLUGINS + module if short else module


def execute(run: Run, progress: bool = True) -> Record:
    """Train, test, score and write the record; one that is there is kept."""
    with _alone(run.folder):
        if record := run.finished():
            if run.request.export and not run.request.export.exists():
                raise FileNotFoundError(
                    f"{run.path} is finished and its weights are gone; move it away to train again"
                )
            _clear(run.folder)  # of one that was killed after its record
            return record
        started, began = datetime.now(UTC), time.monotonic()
        outcomes = _outcomes(run, progress)
        found, folds = _rated(run, outcomes)
        record = _record(run, outcomes, found, folds, started, time.monotonic() - began)
        records.write_record(record, run.path)
        _clear(run.folder)
    return record


def _outcomes(run: Run, progress: bool) -> list[Outcome]:
    request, data, module, recipe = run.request, run.data, run.module, run.recipe
    if request.protocol == "hear":
        from eval_tasks.heareval.protocol import hear

        grid = {key: run.hyperparameters[key] for key in ("grid", "grid_points")}
        return hear(data, module, run.folder / HEAR, **grid, progress=progress)
    cache = request.work / "features"
    common = {"seed": run.seed, "device": device_of(request.device), "progress": progress}
    setup = "simple" if request.protocol.startswith("weak-") else None
    outcomes = []
    for split in run.splits:
        parts = (data, split, module, recipe, run.folder / split.test)
        if request.protocol in ("linear", "weak-linear"):
            from eval_tasks.fit import frozen

            outcome = frozen.linear(*parts, cache, setup=setup, **common)
        elif request.protocol == "mean-teacher":
            from eval_tasks.fit import mean_teacher

            outcome = mean_teacher.run(*parts, cache, workers=request.workers, **common)
        else:
            from eval_tasks.fit import finetune

            more = {"workers": request.workers, "setup": setup, "export": request.export}
            outcome = finetune.run(*parts, **more, **common)
        outcomes.append(outcome)
    return outcomes


def _rated(run: Run, outcomes: list[Outcome]) -> tuple[Scored, list[dict[str, float]]]:
    """Scores of all test parts, and those of each fold, where there are folds."""
    from eval_tasks.score import PSDS, rate

    data = run.data
    on_grid = all(one.training.get("frame_ms", 40.0) == 40.0 for one in outcomes)
    each = [
        rate(
            data.task,
            data.parts[outcome.part],
            outcome.probabilities,
            metrics=None if on_grid else [m for m in data.task.metrics if m not in PSDS],
            events=outcome.events,
            decoding=outcome.decoding,
            bootstrap=Bootstrap(),
            curves=on_grid,
        )
        for outcome in outcomes
    ]
    if not on_grid:
        log.warning("no PSDS: %s has no frames of 40 ms, which it asks for", run.module.name)
    if len(data.splits) == 1:
        return each[0], []
    return mean_of_folds(each), [one.scores for one in each]


def _record(
    run: Run,
    outcomes: list[Outcome],
    found: Scored,
    folds: list[dict[str, float]],
    started: datetime,
    seconds: float,
) -> Record:
    speeds = [one.seconds_per_minute for one in outcomes]
    return Record(
        **vars(run.asked),
        scores=found.scores,
        per_class=found.per_class,
        ci95=found.ci95,
        replicates=found.replicates,
        draws=found.draws,
        conventions=found.conventions,
        settings=found.settings,
        cost={
            "parameters": outcomes[0].parameters,
            "seconds_per_minute": sum(speeds) / len(speeds),
        },
        clips=sum(len(run.data.parts[one.part]) for one in outcomes),
        folds=folds,
        folds_of=len(run.data.splits) if folds else 0,
        seconds=round(seconds, 3),
        software=software(),
        hardware=hardware(device_of(run.request.device)),
        commit=commit(),
        started=started.isoformat(timespec="seconds"),
        training=[one.training for one in outcomes],
        curves=found.curves,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of a run's folder; one that nothing was put into is removed."""
    try:
        with locked(folder):
            remove_stale(folder, alone=True)
            try:
                yield
            finally:
                _prune(folder)
    finally:
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _clear(folder: Path) -> None:
    """Remove a run's states, and heareval's files; all logs stay."""
    from eval_tasks.fit.loop import STATE
    from eval_tasks.heareval.protocol import EMBEDDINGS

    for state in folder.glob(f"*/{STATE}"):
        state.unlink()
    shutil.rmtree(folder / HEAR / EMBEDDINGS, ignore_errors=True)


def _prune(folder: Path) -> None:
    """Remove empty folders in it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
