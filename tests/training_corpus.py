"""A corpus of a few synthetic clips in the layout of AudioSet Strong, and commands that use it.

The commands are processes of their own, forked from one that has imported the libraries already.
"""

import io
import multiprocessing
import os
import resource
import signal
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import soundfile
import torch
import yaml

RATE, SECONDS = 32000, 10
CLASSES = {"Beep, bleep": "/m/02fs_r", "Mains hum": "/m/06xkwv", "Sine wave": "/m/01v_m0"}
TRAIN, EVAL = 8, 5

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["training.fit", "training.evaluate", "sed_scores_eval"])


def write_corpus(folder: Path, broken: Sequence[int] = ()) -> Path:
    """HDF5 of mp3 with official annotation, for training and evaluation, and pseudo labels.

    Args:
        broken: training clips whose mp3 is cut off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for split, count, seed in (("train", TRAIN, 0), ("eval", EVAL, 1)):
        rng = np.random.default_rng(seed)
        lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel"]
        names, clips = [], []
        for i in range(count):
            key = f"{split[0]}{i:010d}"
            audio = 0.002 * rng.standard_normal(RATE * SECONDS)
            for c, mid in enumerate(CLASSES.values()):
                onset, offset = 0.0, 10.0
                # One class is heard all the time, so that even a poor detector scores above 0.
                if c != 1:
                    if (i + c) % 5 == 0:
                        continue
                    if (i + c) % 5 < 3:
                        onset, offset = rng.uniform((1, 6), (4, 9))
                t = np.arange(round(onset * RATE), round(offset * RATE))
                audio[t] += 0.1 * np.sin(2 * np.pi * 300 * (1 + 1.7 * c) * t / RATE)
                lines.append(f"{key}_0\t{onset:.3f}\t{offset:.3f}\t{mid}")
            file = io.BytesIO()
            soundfile.write(file, audio, RATE, format="MP3")
            data = np.frombuffer(file.getvalue(), np.uint8)
            clips.append(data[:999] if split == "train" and i in broken else data)
            names.append(f"Y{key}.mp3")
        with h5py.File(folder / f"{split}.hdf", "w") as file:
            file["audio_name"] = np.array(names, "S20")
            mp3 = file.create_dataset("mp3", count, dtype=h5py.vlen_dtype(np.uint8))
            for i, data in enumerate(clips):
                mp3[i] = data
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    logits = np.random.default_rng(2).normal(-1, 2, (TRAIN, len(CLASSES), 250))
    write_pseudo_labels(folder / "pseudo.h5", logits)
    return folder


def write_pseudo_labels(path: Path, logits: np.ndarray) -> None:
    """Pseudo labels of the training clips (8, C, T)."""
    with h5py.File(path, "w") as file:
        file["filenames"] = np.array([f"t{i:010d}" for i in range(TRAIN)], "S20")
        file["strong_logits"] = logits.astype(np.float16)
        file["classes"] = list(CLASSES)


def recipe(path: Path, corpus: Path, **sections: dict) -> Path:
    """A recipe of 6 steps with an evaluation after every second one; sections differ from it."""
    values = {
        "model": {"name": "frame_mn02", "start": "none"},
        "data": {
            "root": str(corpus),
            "train": [{"audio": "train.hdf", "events": "train.tsv"}],
            "eval": [{"audio": "eval.hdf", "events": "eval.tsv"}],
            "classes": "events",
            "workers": 0,
        },
        "optim": {"lr": 1e-3, "warmup_steps": 1, "epochs": 3, "batch": 4},
        "evaluation": {"every_epochs": 1, "batch": 2},
        "run": {
            "out": str(path.with_suffix("")),
            "accelerator": "cpu",
            "loggers": ["csv"],
            "log_every_steps": 1,
            "save_every_steps": 1,
            "progress": False,
        },
    }
    for name, fields in sections.items():
        values[name] = values.get(name, {}) | fields
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@dataclass
class Command:
    """A command that was started."""

    process: multiprocessing.Process
    log: Path

    def wait(self) -> "Command":
        self.process.join(180)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(self.text)
        return self

    def until(self, there: Callable[[], bool]) -> "Command":
        """Look until something is there; the process must not end before."""
        end = time.monotonic() + 180
        while not there():
            if not self.process.is_alive() or time.monotonic() > end:
                raise RuntimeError(f"it never was there: {self.text}")
            time.sleep(0.002)
        return self

    def send(self, number: int) -> "Command":
        self.send_only(number)
        return self.wait()

    def send_only(self, number: int) -> None:
        os.kill(self.process.pid, number)

    @property
    def code(self) -> int:
        return self.process.exitcode

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def last_line(self) -> str:
        return self.text.strip().splitlines()[-1]


def start(
    *arguments: str | Path,
    log: Path,
    before: Callable[[], None] | None = None,
    main: Callable[[list[str]], int] | None = None,
    **environment: str,
) -> Command:
    """`python -m training ARGUMENTS` in a process of its own, with what it says in a file.

    Args:
        before: called in that process first; it and `main` must be picklable.
        main: another command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    words = list(map(str, arguments))
    process = processes.Process(target=_run, args=(words, log, before, main, environment))
    process.start()
    return Command(process, log)


def _run(words, log, before, main, environment) -> None:
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if before is not None:
        before()
    if main is None:
        from training.__main__ import main
    sys.exit(main(words))


@dataclass(frozen=True)
class KillAt:
    """Ends the process by SIGKILL when a method is called for the `count`-th time."""

    cls: type
    method: str
    count: int = 1
    half: bool = False  # with the first bytes of a file written to its first argument

    def __call__(self) -> None:
        original, calls = getattr(self.cls, self.method), []

        def counted(this, *arguments, **keywords):
            calls.append(1)
            if len(calls) == self.count:
                if self.half:
                    Path(arguments[0]).write_bytes(b"PK\x03\x04 the beginning")
                os.kill(os.getpid(), signal.SIGKILL)
            return original(this, *arguments, **keywords)

        setattr(self.cls, self.method, counted)


@dataclass(frozen=True)
class PressAt:
    """Presses Ctrl-C where Python loses it, when a method is called for the `count`-th time."""

    cls: type
    method: str
    count: int

    def __call__(self) -> None:
        original, calls = getattr(self.cls, self.method), []

        def pressed(this, *arguments, **keywords):
            calls.append(1)
            if len(calls) == self.count:
                thing = type("Thing", (), {})()
                weakref.finalize(thing, signal.raise_signal, signal.SIGINT)
                del thing
            return original(this, *arguments, **keywords)

        setattr(self.cls, self.method, pressed)


@dataclass(frozen=True)
class DiskOf:
    """Lets no file grow beyond a number of bytes, as a full disk."""

    size: int

    def __call__(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, hard))


@dataclass(frozen=True)
class NoteEvaluations:
    """Writes down the step of every evaluation, then does something else."""

    path: Path
    then: KillAt | DiskOf | None = None

    def __call__(self) -> None:
        from training.module import Training

        original = Training.on_validation_epoch_end

        def noted(module):
            original(module)
            with self.path.open("a") as file:
                file.write(f"{module.trainer.global_step}\n")

        Training.on_validation_epoch_end = noted
        if self.then is not None:
            self.then()


def fit(corpus, tmp_path, *arguments, before=None, **sections):
    """A run in the folder `run` of tmp_path, to its end."""
    file = recipe(tmp_path / "run.yaml", corpus, **sections)
    return start("fit", file, *arguments, log=tmp_path / "log", before=before).wait()


def assert_refused(command, *texts: str) -> None:
    assert command.code == 1, command.text
    assert "Traceback" not in command.text
    assert command.last_line.startswith("training "), command.text
    for text in texts:
        assert text in command.last_line
