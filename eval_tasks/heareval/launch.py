"""Run the unmodified hearvalidator 2021.0.6 and heareval 2021.1.3 on current Python and torch.

Both packages stay as installed. What keeps them from running today is bridged at run time, each
symptom in one function below that is undone when its block ends. PyTorch plug-ins only.
"""

import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch

from hear_ptsed.files import atomic
from hear_ptsed.metrics.events import pkg_resources_stand_in

PREDICTED = ".predictions.npz"  # arrays of heareval's predictions, which it pickles itself
BATCH_ROWS = 1024  # heareval's training batch, the same in all of its grids


# The adjustments. Those marked "import" are needed only while a package is being imported: the
# package keeps its own reference afterwards.


@contextmanager
def tensorflow_stand_in() -> Iterator[None]:
    """Import: a `tensorflow` that no torch model touches, also where the real one is installed.

    hearvalidator 2021.0.6 and heareval 2021.1.3 import tensorflow unconditionally. Without it they
    stop at `No module named 'tensorflow'`. With it, heareval refuses a GPU that only torch sees
    ("GPUs not available in tensorflow, but found by pytorch"), or TensorFlow takes its memory.
    """
    tensorflow = ModuleType("tensorflow")
    tensorflow.__spec__ = ModuleSpec("tensorflow", None)  # torch's compiler probes for a spec
    tensorflow.Module = type("Module", (), {})  # isinstance() is asked; nothing inherits from it
    tensorflow.test = SimpleNamespace(is_gpu_available=lambda **_: True)
    with _in_module_table(tensorflow):
        yield


@contextmanager
def gpu_name_as_bytes() -> Iterator[None]:
    """Import: NVML's device name as bytes, because heareval 2021.1.3 decodes it.

    Today's nvidia-ml-py returns str; a task then fails after all its embeddings are computed with
    `'str' object has no attribute 'decode'`.
    """
    if not torch.cuda.is_available():  # heareval asks NVML nothing then
        yield
        return
    pynvml = _import("pynvml")
    original = pynvml.nvmlDeviceGetName

    def name_as_bytes(handle: Any) -> bytes:
        name = original(handle)
        return name.encode() if isinstance(name, str) else name

    with patch.object(pynvml, "nvmlDeviceGetName", name_as_bytes):
        yield


def checkpoint_classes_allowed() -> Any:
    """The five harmless classes in heareval's own checkpoints may be unpickled.

    torch >= 2.6 loads weights only; heareval's read of its best epoch and Lightning's test stage
    then stop at `Weights only load failed`. Everything else stays refused.
    """
    init = torch.nn.init
    return torch.serialization.safe_globals(
        [
            torch.nn.Identity,
            torch.nn.BatchNorm1d,
            init.xavier_uniform_,
            init.xavier_normal_,
            torch.optim.Adam,
        ]
    )


def epoch_of_best_model_kept() -> Any:
    """Let heareval's `trainer.fit_loop.current_epoch = best` arrive, by which it decodes events.

    Lightning has read `epoch_progress` instead since 1.6; event tasks scored during training
    (DC16-T2) then end in `KeyError: <last epoch>`, or use another epoch's post-processing.
    """
    fit_loop = import_module("pytorch_lightning.loops").FitLoop

    def get(loop: Any) -> int:
        return loop.epoch_progress.current.completed

    def put(loop: Any, epoch: int) -> None:
        loop.epoch_progress.current.completed = epoch

    return patch.object(fit_loop, "current_epoch", property(get, put), create=True)


@contextmanager
def no_pickle_is_run() -> Iterator[None]:
    """heareval reads its pickles of labels as plain data, and writes its predictions as arrays too.

    A pickle that somebody else put into a folder of embeddings would run what it likes.
    """
    module = import_module("heareval.predictions.task_predictions")

    def dump(values: Any, file: Any) -> None:
        if isinstance(values, dict) and "predicted_events" in values:
            _write_predictions(Path(file.name), values)
        pickle.dump(values, file)

    with patch.object(module, "pickle", SimpleNamespace(dump=dump, load=_plain_pickle)):
        yield


class _Plain(pickle.Unpickler):
    """Reads lists, dictionaries, numbers and text: whatever else is named is not even looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it calls {module}.{name}")


def _plain_pickle(file: Any) -> Any:
    try:
        with file:
            return _Plain(file).load()
    except (pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError) as error:
        raise ValueError(
            f"{file.name} is damaged or not heareval's, and was not run ({error}); delete "
            f"{Path(file.name).parent} to embed again"
        ) from error


def _write_predictions(path: Path, values: dict[str, Any]) -> None:
    """Probabilities (N, C) and the decoded events, one in a row, without any object."""
    events = [
        (file, str(event["label"]), float(event["start"]), float(event["end"]))
        for file, events in values["predicted_events"].items()
        for event in events
    ]
    files, labels, starts, ends = zip(*events, strict=True) if events else ((),) * 4
    with atomic(path.with_suffix("").with_suffix(PREDICTED)) as temporary:
        np.savez(
            temporary,
            prediction=values["prediction"].numpy(),
            files=np.array(files, dtype=str),
            labels=np.array(labels, dtype=str),
            starts=np.array(starts, dtype=float),
            ends=np.array(ends, dtype=float),
        )


@contextmanager
def interrupt_ends_the_run() -> Iterator[None]:
    """Ctrl-C stops heareval instead of only the training in progress.

    Lightning 1.9.5 swallows KeyboardInterrupt: heareval would go on, test the half-trained model
    and mark its task as done. Python drops an exception that a signal raises within a callback of
    the garbage collector, so the signal comes again until heareval has ended.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()

    def again() -> None:
        if not ended.wait(1):
            os.kill(os.getpid(), signal.SIGINT)

    def stop(_signal: int, _frame: Any) -> None:
        threading.Thread(target=again, daemon=True).start()
        raise SystemExit("interrupted")

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except SystemExit as error:
        if error.code == "interrupted":
            raise KeyboardInterrupt from None
        raise
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)


# The two tools.


def validate(
    module: str, model: str = "", device: str | None = None, untrained: bool = False
) -> None:
    """Put a HEAR plug-in through hearvalidator's checks; a broken rule is a ValueError.

    `untrained` calls load_model(untrained=True), an option of this project's plug-ins.
    """
    with tensorflow_stand_in():
        validator = _import("hearvalidator.validate")
    plugin = import_module(module)
    with ExitStack() as stack:
        if untrained:
            load_model = partial(plugin.load_model, untrained=True)
            stack.enter_context(patch.object(plugin, "load_model", load_model))
        checks = validator.ValidateModel(module, model, device=device)
        try:
            checks()
        except validator.ModelError as error:  # derives from BaseException
            raise ValueError(f"{module} breaks the HEAR API: {error}") from error
    refuse_seconds(plugin, checks.model, checks.device)


def refuse_seconds(plugin: ModuleType, model: torch.nn.Module, device: str) -> None:
    """Refuse timestamps in seconds: hearvalidator only warns, and event scores become NaN."""
    audio = torch.zeros(1, model.sample_rate, device=device)
    last = float(plugin.get_timestamp_embeddings(audio, model)[1].max())
    if last < 10:
        raise ValueError(
            f"{plugin.__name__}: the last timestamp of 1 s of audio is {last:g}; timestamps are "
            "frame centres in milliseconds, these look like seconds"
        )


def heareval(runner_name: str, args: Sequence[str]) -> int:
    """Run heareval's `embeddings` or `predictions` runner on its own options; its exit code."""
    with tensorflow_stand_in(), pkg_resources_stand_in(), gpu_name_as_bytes():
        runner = _import(f"heareval.{runner_name}.runner").runner
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
    plugin = import_module(options["module"])
    load_model = _audio_checked(plugin.load_model, folders)
    with patch.object(plugin, "load_model", load_model):
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


def check_audio(folder: Path, sample_rate: int) -> None:
    """Refuse a task folder without a sub-folder per split at the model's sample rate."""
    if type(sample_rate) is not int:  # heareval makes a folder name of it
        raise ValueError(f"model.sample_rate is {sample_rate!r}; it must be an int such as 16000")
    for split in _read(folder / "task_metadata.json")["splits"]:
        if not (folder / str(sample_rate) / split).is_dir():
            rates = [path.name for path in folder.iterdir() if path.is_dir()]
            raise FileNotFoundError(
                f"{folder} has no audio in {sample_rate}/{split}, the rate this model takes; it "
                f"has {', '.join(sorted(rates)) or 'none'}; resample the clips into that folder"
            )


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
    metadata = _read(folder / "task_metadata.json")
    splits = metadata["splits"]
    rows = {s: _read(folder / f"{s}.embedding-dimensions.json")[0] for s in splits}
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


def _audio_checked(load_model: Callable[..., Any], folders: list[Path]) -> Callable[..., Any]:
    """`load_model`, then the tasks' audio folders: only the loaded model knows its sample rate."""

    @wraps(load_model)
    def load(*args: Any, **options: Any) -> Any:
        model = load_model(*args, **options)
        for folder in folders:
            check_audio(folder, model.sample_rate)
        return model

    return load


@contextmanager
def _in_module_table(stand_in: ModuleType) -> Iterator[None]:
    name = stand_in.__name__
    before = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = {"pynvml": "nvidia-ml-py"}.get(error.name, error.name)
        raise ModuleNotFoundError(
            f"{package} is not installed; README.md, section Install, says how the HEAR tools are",
            name=error.name,
        ) from error


def _is_task(folder: Path) -> bool:
    return (folder / "task_metadata.json").is_file()


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
