"""What a run is: a request with its task, its plug-in and its numbers, checked before it begins."""

from argparse import ArgumentError
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval_tasks.fit.recipe import Recipe, recipe
from eval_tasks.plugin import Plugin
from eval_tasks.request import HEAR_SEED, Request
from eval_tasks.tasks import find_task
from eval_tasks.tasks.base import MORE_PARTS, NEEDS, Split, Task, TaskData, open_task
from hear_ptsed import list_models
from hear_ptsed.metrics import records
from hear_ptsed.metrics.records import Asked, Record
from hear_ptsed.schema import Label, check

PLUGINS = "hear_ptsed.plugins."


@dataclass(frozen=True)
class Run:
    """A request with its task and its plug-in, checked."""

    request: Request
    data: TaskData
    plugin: Plugin
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
        """All numbers of the training, options of the plug-in, folds."""
        chosen: dict[str, Any] = {"model_options": self.plugin.options, "folds": len(self.splits)}
        if stitch := self.data.task.stitch:
            chosen["stitch"] = asdict(stitch)
        if self.request.decoder != "median":  # which goes without saying, as in earlier records
            chosen["decoder"] = self.request.decoder
        return chosen | (self.hear_grid if self.recipe is None else self.recipe.as_dict())

    @property
    def hear_grid(self) -> dict[str, Any]:
        """Heareval's numbers."""
        request = self.request
        return {"grid": request.grid or "default", "grid_points": request.grid_points or 8}

    @property
    def embedded_parts(self) -> list[str]:
        """Parts whose embeddings a frozen protocol needs."""
        used = {name for split in self.splits for name in (*split.train, split.valid, split.test)}
        names = {home for name in used for home in self.data.stored(name)}
        return sorted(names | (NEEDS[self.request.protocol] & {*MORE_PARTS}))

    @cached_property
    def identity(self) -> str:
        """SHA-256 over all that decides the result; paths, devices and loaders do not."""
        task = self.data.task
        return records.identity(
            ({"psds_edges": task.psds_edges} if task.psds_edges != "reflected" else {})
            | {
                "task": self.data.fingerprint,
                "metrics": task.metrics,
                "decoding": asdict(task.decoding),
                "psds_median": task.psds_median,
                "select": task.select,
                "module": self.plugin.name,
                "stage": self.plugin.stage,
                "checkpoint": self.plugin.sha256,
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
        plugin = self.plugin
        values = {
            "task": self.data.task.name,
            "title": self.data.task.title,
            "primary": self.data.task.metrics[0],
            "task_version": self.data.version,
            "task_sha256": self.data.fingerprint,
            "protocol": self.request.protocol,
            "module": plugin.name,
            "name": self.request.name,
            "model": plugin.model,
            "stage": plugin.stage,
            "checkpoint": {"file": plugin.file and plugin.file.name, "sha256": plugin.sha256},
            "untrained": plugin.untrained,
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
        """Where it works until the record is written."""
        return self.request.work / self.identity[:16]

    @property
    def cache(self) -> Path:
        """Of embeddings, shared by all runs."""
        return self.request.work / "features"

    def finished(self) -> Record | None:
        return records.finished_record(self.path, self.identity)


def plan_run(request: Request, data: TaskData | None = None, *, download: bool = True) -> Run:
    """Check all that can be checked before anything is computed.

    Args:
        data: the opened task, where it is at hand already.
        download: fetch a released checkpoint that is not on this machine, else refuse.
    """
    task = find_task(request.task)
    request.check(task)
    request = replace(request, seed=None if request.protocol == "hear" else request.seed or 0)
    if data is None:
        data = open_task(task, request.tasks_dir / (request.folder or task.folder))
    if request.folds is not None and not 1 <= request.folds <= len(data.splits):
        raise ArgumentError(
            None, f"--folds {request.folds}: {data.folder} has {len(data.splits)} to test on"
        )
    if request.decoder == "sebb" and {"pooled", "scored"} & data.metadata.keys():
        raise ArgumentError(
            None,
            f"--decoder sebb: {data.folder} pools its folds or scores some classes alone: "
            "take the median",
        )
    if request.export and len(data.splits[: request.folds]) > 1:
        raise ArgumentError(None, "--export writes one file; give --folds 1 with it")
    name = full_name(request.module)
    plugin = Plugin(name, request.checkpoint, request.options, request.stage)
    plugin.module  # noqa: B018  it tells whether there is one
    if not download:
        _check_cached(plugin)
    plugin.sha256  # noqa: B018  reads the checkpoint
    run = Run(request, data.with_hop(plugin.hop_ms), plugin, _numbers(task, plugin, request))
    run.asked  # noqa: B018  refuses what no record may hold
    return run


def _check_cached(plugin: Plugin) -> None:
    """Refuse a released checkpoint that is not on this machine."""
    if plugin.checkpoint or plugin.untrained:
        return
    row = next((row for row in list_models() if row.module == plugin.name), None)
    if row is not None and not row.cached:
        raise FileNotFoundError(
            f"{row.checkpoint} is not on this machine; `hear-ptsed download` fetches it"
        )


def _numbers(task: Task, plugin: Plugin, request: Request) -> Recipe | None:
    """Of the training; None: heareval has its own."""
    if request.protocol == "hear":
        return None
    tuned = request.protocol.endswith("finetuned")
    if tuned:
        plugin.check_trainable()
    batch_norm = tuned and plugin.row is not None and plugin.row.batch_norm
    return recipe(task, request.protocol, request.set, batch_norm=batch_norm)


def full_name(module: str) -> str:
    """beats_strong as hear_ptsed.plugins.beats_strong; other names as they are."""
    short = "." not in module and find_spec(PLUGINS + module) is not None
    return PLUGINS + module if short else module
