"""What one evaluation is asked to be: the options of `run`, and which of them go together."""

import json
import shlex
from argparse import ArgumentError
from dataclasses import MISSING, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from eval_tasks.tasks.base import Task
from hear_ptsed.metrics.records import PROTOCOLS
from hear_ptsed.schema import settings
from training.recipe import Seed, Workers

HEAR_SEED = 42  # heareval seeds everything with it
BLOCKS = ("layer", "layers", "drop_layers")  # of transformers, to embed by
WHERE = ("tasks_dir", "results", "work", "device", "workers", "export")  # decide no result

Protocol = Literal[*PROTOCOLS]
Block = Annotated[int, Field(ge=1, le=1000)]
DropLayers = Annotated[int, Field(ge=0, le=1000)]
Folds = Annotated[int, Field(ge=1, le=1000)]
Seeds = Annotated[int, Field(ge=1, le=1000)]
Jobs = Annotated[int, Field(ge=1, le=512)]  # processes
Retries = Annotated[int, Field(ge=0, le=100)]
GridPoints = Annotated[int, Field(ge=1, le=10_000)]


@settings
class Request:
    """One evaluation with one seed; names are those of the options."""

    task: str
    module: str
    protocol: Protocol
    seed: Seed | None = None
    checkpoint: Path | None = None
    name: str = ""
    stage: str = ""
    model_options: dict[str, Any] = field(default_factory=dict)
    untrained: bool = False
    layer: Block | None = None
    layers: str | None = None
    drop_layers: DropLayers | None = None
    folder: str | None = None
    folds: Folds | None = None
    grid: str | None = None
    grid_points: GridPoints | None = None
    set: tuple[str, ...] = ()
    tasks_dir: Path = Path("tasks")
    results: Path = Path("results")
    work: Path = Path("work")
    device: str | None = None
    workers: Workers = 0
    export: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Of the plug-in's load_model."""
        given = {key: getattr(self, key) for key in BLOCKS} | {"untrained": self.untrained or None}
        return self.model_options | {k: value for k, value in given.items() if value is not None}

    @property
    def command(self) -> str:
        """What makes the same record again, folders and devices left to their defaults."""
        return shlex.join(["python", "-m", "eval_tasks", "run", *self.arguments(WHERE)])

    def of_seeds(self, seeds: int | None) -> list["Request"]:
        """One for each of the seeds 0 to seeds - 1; None: this one."""
        if seeds is None:
            return [self]
        if self.protocol == "hear":
            # One is what heareval has; more are refused like any other seed.
            return [self if seeds == 1 else replace(self, seed=seeds)]
        return [replace(self, seed=seed) for seed in range(seeds)]

    def arguments(self, leave_out: tuple[str, ...] = ()) -> list[str]:
        """As on the command line."""
        found = []
        for one in fields(self):
            value, flag = getattr(self, one.name), f"--{one.name.replace('_', '-')}"
            default = one.default if one.default_factory is MISSING else one.default_factory()
            if one.name in leave_out or value == default:
                continue
            if value is True:
                found.append(flag)
            elif isinstance(value, dict):
                found += [flag, json.dumps(value)]
            else:
                values = value if isinstance(value, tuple) else (value,)
                found += [text for item in values for text in (flag, str(item))]
        return found

    def check(self, task: Task) -> None:
        """Refuse options that do not go together, and a task that cannot be run."""
        task.require_protocols()
        for wrong, message in self._problems(task):
            if wrong:
                raise ArgumentError(None, message)

    def _problems(self, task: Task) -> list[tuple[Any, str]]:
        hear = self.protocol == "hear"
        tuned = self.protocol in ("finetuned", "weak-finetuned")
        return [
            (
                self.protocol not in task.protocols,
                f"--protocol {self.protocol}: {task.name} takes {', '.join(task.protocols)}",
            ),
            (
                hear and self.seed not in (None, HEAR_SEED),
                f"heareval seeds itself with {HEAR_SEED}; --protocol hear takes no --seed or "
                "--seeds, it makes one record",
            ),
            (hear and self.set, "--set is of our own training; heareval takes --grid"),
            (hear and self.folds, "--folds: heareval always tests all folds"),
            (hear and self.device, "--device: heareval takes a GPU if there is one"),
            (
                not hear and (self.grid or self.grid_points),
                "--grid and --grid-points are heareval's; give --protocol hear or use --set",
            ),
            (
                self.export and not tuned,
                "--export writes fine-tuned weights; give --protocol finetuned or weak-finetuned",
            ),
            (
                self.export and any(self.options.get(key) for key in BLOCKS),
                "--export: a network without its last blocks could not be opened again; leave out "
                "--layer, --layers, --drop-layers or --export",
            ),
            (
                self.options.get("untrained") and self.checkpoint,
                "--untrained and --checkpoint exclude each other",
            ),
            (
                sum(getattr(self, key) is not None for key in BLOCKS) > 1,
                "--layer, --layers and --drop-layers exclude each other",
            ),
        ]
