"""Run the unmodified hearvalidator 2021.0.6 and heareval 2021.1.3 on current Python and torch."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from torch import nn

from eval_tasks.heareval.adjustments import (
    checkpoint_classes_allowed,
    epoch_of_best_model_kept,
    gpu_name_as_bytes,
    import_tool,
    interrupt_ends_the_run,
    no_pickle_is_run,
    tensorflow_stand_in,
)
from eval_tasks.heareval.modules import hear_module
from eval_tasks.heareval.rates import provide_audio
from hear_ptsed.metrics.events import pkg_resources_stand_in

BATCH_ROWS = 1024  # heareval's training batch, the same in all of its grids


def validate(
    module: str, model: str = "", device: str | None = None, untrained: bool = False
) -> None:
    """Put a HEAR plug-in through hearvalidator's checks; a broken rule is a ValueError.

    `untrained` calls load_model(untrained=True), an option of this project's plug-ins.
    """
    with tensorflow_stand_in():
        validator = import_tool("hearvalidator.validate")
    with hear_module(module, **({"untrained": True} if untrained else {})):
        try:
            validator.ValidateModel(module, model, device=device)()
        except validator.ModelError as error:  # derives from BaseException
            raise ValueError(f"{module} breaks the HEAR API: {error}") from error


def heareval(runner_name: str, args: Sequence[str]) -> int:
    """Run heareval's `embeddings` or `predictions` runner on its own options; its exit code."""
    with tensorflow_stand_in(), pkg_resources_stand_in(), gpu_name_as_bytes():
        runner = import_tool(f"heareval.{runner_name}.runner").runner
    run = {"embeddings": _run_embeddings, "predictions": _run_predictions}[runner_name]
    try:
        command = f"python -m eval_tasks heareval {runner_name}"
        with runner.make_context(command, list(args)) as context:
            run(runner, context)
    except click.exceptions.Exit as end:  # --help
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


def _run_embeddings(runner: click.Command, context: click.Context) -> None:
    options = context.params
    folders = task_folders(Path(options["tasks_dir"]), options["task"])

    def find_audio(model: nn.Module) -> None:  # only a loaded model knows its sample rate
        for folder in folders:
            provide_audio(folder, model.sample_rate)

    with hear_module(options["module"], find_audio):
        runner.invoke(context)


def _run_predictions(runner: click.Command, context: click.Context) -> None:
    for folder in map(Path, context.params["task_dirs"]):
        check_embeddings(folder)
    adjusted = (checkpoint_classes_allowed(), epoch_of_best_model_kept(), no_pickle_is_run())
    with ExitStack() as stack:
        for adjustment in (*adjusted, interrupt_ends_the_run()):
            stack.enter_context(adjustment)
        runner.invoke(context)


# Traps that heareval answers late or with a bare traceback.


def task_folders(tasks_dir: Path, task: str) -> list[Path]:
    """The folders that heareval will take, each checked to be a HEAR task."""
    if not tasks_dir.is_dir():
        raise FileNotFoundError(
            f"no tasks folder {tasks_dir}; name one with --tasks-dir, or make one with "
            "'python -m eval_tasks prepare'"
        )
    entries = sorted(tasks_dir.iterdir())
    if task != "all":
        folder = tasks_dir / task
        known = ", ".join(entry.name for entry in entries if _is_task(entry)) or "no task"
        if not _is_task(folder):
            raise FileNotFoundError(f"{folder} has no task_metadata.json; {tasks_dir} has {known}")
        return [folder]
    for entry in entries:
        if not _is_task(entry):
            raise ValueError(
                f"{entry} is not a task folder, and heareval's '--task all' takes every entry, "
                "hidden ones too; move it away or name one --task"
            )
    return entries


def check_embeddings(folder: Path) -> None:
    """Refuse a folder that heareval's training cannot take; one with results already is fine.

    A training batch of a single row fails in BatchNorm: rows must not be 1 modulo 1024.
    """
    if (folder / "prediction-done.json").exists():
        return
    if not (folder / ".done.embeddings").exists():
        raise FileNotFoundError(
            f"{folder} holds no finished embeddings; give EMBEDDINGS_DIR/MODULE/TASK as written "
            "by 'python -m eval_tasks heareval embeddings'"
        )
    metadata = json.loads((folder / "task_metadata.json").read_bytes())
    splits = metadata["splits"]
    files = {split: folder / f"{split}.embedding-dimensions.json" for split in splits}
    rows = {split: json.loads(file.read_bytes())[0] for split, file in files.items()}
    if metadata["split_mode"] == "trainvaltest":
        training = [rows["train"]]
    else:  # heareval tests on fold i, validates on the next one and trains on the rest
        counts = [rows[split] for split in sorted(splits)]
        training = [sum(counts) - counts[i - 1] - counts[i] for i in range(len(counts))]
    for n_rows in training:
        if n_rows % BATCH_ROWS == 1:
            raise ValueError(
                f"{folder}: {n_rows} training rows leave one row for heareval's last batch of "
                f"{BATCH_ROWS}, which fails in BatchNorm; add or remove a training clip"
            )


def _is_task(folder: Path) -> bool:
    return (folder / "task_metadata.json").is_file()
