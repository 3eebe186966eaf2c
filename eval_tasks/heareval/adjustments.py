"""What keeps hearvalidator 2021.0.6, heareval 2021.1.3 and old HEAR modules from running today.

They stay as installed. Each symptom is bridged at run time by one function below, which is undone
when its block ends. Those marked "Import" are needed only while a package is being imported: it
keeps its own reference afterwards.
"""

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from hear_ptsed.files import atomic
from hear_ptsed.metrics.events import in_module_table

PREDICTED = ".predictions.npz"  # arrays of heareval's predictions, which it pickles itself


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
    with in_module_table(tensorflow):
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
    pynvml = import_tool("pynvml")
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


@contextmanager
def librosa_takes_positions() -> Iterator[None]:
    """HEAR modules of 2021 name a rate by its place: `librosa.filters.mel(44100, n_fft=4096)`.

    Since librosa 0.10 they stop at `mel() takes 0 positional arguments but 1 positional argument
    (and 2 keyword-only arguments) were given`. The order of the arguments is still the old one.
    """
    if find_spec("librosa") is None:
        yield
        return
    filters = import_module("librosa.filters")
    mel, names = filters.mel, list(signature(filters.mel).parameters)

    def by_position(*values: Any, **named: Any) -> np.ndarray:
        return mel(**dict(zip(names, values, strict=False)), **named)

    with patch.object(filters, "mel", by_position):
        yield


def import_tool(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = {"pynvml": "nvidia-ml-py"}.get(error.name, error.name)
        raise ModuleNotFoundError(
            f"{package} is not installed; README.md, section Install, says how the HEAR tools are",
            name=error.name,
        ) from error
