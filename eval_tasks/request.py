"""What one evaluation is asked to be: the options of `run`, and which of them go together.

Each class is a group of options; a sweep's file has the first three as its entries.
"""

import shlex
from argparse import ArgumentError
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hear_ptsed.grid import Hop
from hear_ptsed.metrics.protocols import PROTOCOLS
from hear_ptsed.options import write_options
from hear_ptsed.schema import setting, settings
from training.recipe import Seed, Workers

if TYPE_CHECKING:  # importing the tasks takes seconds
    from eval_tasks.tasks.base import Task

HEAR_SEED = 42  # heareval seeds everything with it
BLOCKS = ("layer", "layers", "drop_layers")  # of transformers, to embed by

Protocol = Literal[*(name for name in PROTOCOLS if name != "as-trained")]
Seeds = Annotated[int, Field(ge=1, le=1000)]
# What to give instead of a mode or setup, as the protocol was asked for once.
NEW_WORDS = (
    "hear or linear for frozen, finetuned for finetuned, weak-linear or weak-finetuned for setup "
    "simple, mean-teacher for setup baseline"
)


@settings(kw_only=True)
class TaskChoice:
    """The task."""

    task: str = setting(..., "The task: a name that `list` shows, or the path of its file.")
    folder: str | None = setting(
        None, "The task's folder in --tasks-dir, where it is not the usual one."
    )
    folds: int | None = setting(
        None, "The number of folds to test on; without it, all of them.", ge=1, le=1000
    )


@settings(kw_only=True)
class ModuleChoice:
    """The model."""

    module: str = setting(
        ..., "The HEAR plug-in: a module's name, or the short name of one here, as beats_strong."
    )
    checkpoint: Path | None = setting(None, "The checkpoint to load instead of the plug-in's own.")
    name: str = setting(
        "", "What you call the model: the board puts the records of one name together."
    )
    stage: str = setting("", "What the record calls the stage that the checkpoint was trained in.")
    model_options: dict[str, Any] = setting(
        dict, 'Options of the plug-in\'s load_model, as a JSON object such as {"overlap": 5}.'
    )
    untrained: bool = setting(False, "Take random weights and no checkpoint.")


@settings(kw_only=True)
class ProtocolChoice:
    """The protocol."""

    protocol: Protocol = setting(..., "How the model is put to the task, see above.")
    set: tuple[str, ...] = setting(
        (), "A number of the recipe, as section.key=value; may be repeated."
    )
    layer: int | None = setting(
        None, "The block whose output the embeddings are, from 1.", ge=1, le=1000
    )
    layers: Literal["mean"] | None = setting(None, "Take the mean of all blocks as embeddings.")
    drop_layers: int | None = setting(
        None, "The number of last blocks that are left out.", ge=0, le=1000
    )
    hop: Hop | None = setting(
        None, "The ms from one embedding to the next; 20 takes twice the time, 10 four times."
    )
    decoder: Literal["median", "sebb"] = setting(
        "median",
        "What makes events of scores: the task's median filter, or bounding boxes (SEBB), tuned "
        "for each class on validation.",
    )
    grid: Literal["default", "fast", "faster"] | None = setting(
        None, "The grid of networks that heareval searches; without it, default."
    )
    grid_points: int | None = setting(
        None, "The number of networks that heareval tries; without it, 8.", ge=1, le=10_000
    )


@settings(kw_only=True)
class Place:
    """Where it runs; no result depends on it."""

    tasks_dir: Path = setting(Path("tasks"), "The folder of the tasks' folders.")
    results: Path = setting(Path("results"), "The folder of the records.")
    work: Path = setting(Path("work"), "The folder of embeddings, unfinished trainings and logs.")
    device: str | None = setting(
        None, "The device, such as cpu or cuda:1; without it, a GPU if there is one."
    )
    workers: Workers = setting(0, "The number of processes that load audio.")


@settings(kw_only=True)
class HearAll:
    """All tasks of HEAR with one module."""

    checkpoint: Path | None = setting(None, "The checkpoint to load instead of the plug-in's own.")
    model_options: dict[str, Any] = setting(
        dict, 'Options of the plug-in\'s load_model, as a JSON object such as {"overlap": 5}.'
    )
    grid: Literal["default", "fast", "faster"] = setting(
        "default", "The grid of networks that heareval searches; the leaderboard has the default."
    )
    grid_points: int = setting(8, "The number of networks that heareval tries.", ge=1, le=10_000)
    tasks_dir: Path = setting(Path("tasks"), "The folder of the tasks' folders.")
    results: Path = setting(Path("results"), "The folder of the scores.")
    work: Path = setting(Path("work"), "The folder of embeddings, unfinished trainings and logs.")
    quiet: bool = setting(False, "Show no progress bars.")


@settings(kw_only=True)
class Request(Place, ProtocolChoice, ModuleChoice, TaskChoice):
    """One evaluation with one seed."""

    seed: Seed | None = setting(None, "The seed of a single record; without it, 0.")
    export: Path | None = setting(None, "The file for the fine-tuned weights, .pt or .safetensors.")

    @property
    def options(self) -> dict[str, Any]:
        """Of the plug-in's load_model."""
        given = {key: getattr(self, key) for key in (*BLOCKS, "hop")}
        given |= {"untrained": self.untrained or None}
        return self.model_options | {k: value for k, value in given.items() if value is not None}

    @property
    def command(self) -> str:
        """What makes the same record again, folders and devices left to their defaults."""
        no_result = {"export", *(field.name for field in fields(Place))}
        return shlex.join(["python", "-m", "eval_tasks", "run", *write_options(self, no_result)])

    def of_seeds(self, seeds: int | None) -> list["Request"]:
        """One for each of the seeds 0 to seeds - 1; None: this one. heareval has one of its own."""
        if seeds is None or (seeds == 1 and self.protocol == "hear"):
            return [self]
        if self.seed is not None:
            raise ArgumentError(None, "--seed and --seeds exclude each other; give one of them")
        return [replace(self, seed=seed) for seed in range(seeds)]

    def check(self, task: "Task") -> None:
        """Refuse options that do not go together, and a task that cannot be run."""
        task.require_protocols()
        self._check_decoder(task)

        def refuse(wrong: Any, message: str) -> None:
            if wrong:
                raise ArgumentError(None, message)

        hear = self.protocol == "hear"
        tuned = self.protocol in ("finetuned", "weak-finetuned")
        known = ", ".join(task.protocols)
        refuse(
            self.protocol not in task.protocols,
            f"--protocol {self.protocol}: {task.name} takes {known}",
        )
        refuse(
            hear and self.seed not in (None, HEAR_SEED),
            f"heareval seeds itself with {HEAR_SEED}; --protocol hear takes no --seed or --seeds, "
            "it makes one record",
        )
        refuse(hear and self.set, "--set is of our own training; heareval takes --grid")
        refuse(hear and self.folds, "--folds: heareval always tests all folds")
        refuse(hear and self.device, "--device: heareval takes a GPU if there is one")
        refuse(
            not hear and (self.grid or self.grid_points),
            "--grid and --grid-points are heareval's; give --protocol hear or use --set",
        )
        refuse(
            self.export and not tuned,
            "--export writes fine-tuned weights; give --protocol finetuned or weak-finetuned",
        )
        refuse(
            self.export and any(self.options.get(key) for key in BLOCKS),
            "--export: a network without its last blocks could not be opened again; leave out "
            "--layer, --layers, --drop-layers or --export",
        )
        refuse(
            self.options.get("untrained") and self.checkpoint,
            "--untrained and --checkpoint exclude each other",
        )
        refuse(
            sum(getattr(self, key) is not None for key in BLOCKS) > 1,
            "--layer, --layers and --drop-layers exclude each other",
        )

    def _check_decoder(self, task: "Task") -> None:
        if self.decoder == "median":
            return
        from hear_ptsed.metrics.tuning import check_tunable  # needs NumPy, which help does not

        if self.protocol == "hear":
            raise ArgumentError(None, "--decoder sebb: heareval decodes by itself")
        try:
            check_tunable(task.metrics)
        except ValueError as error:
            raise ArgumentError(None, f"--decoder sebb: {task.name}: {error}") from None
