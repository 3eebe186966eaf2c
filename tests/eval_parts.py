"""Evaluations for the tests: tiny tasks, and the command in processes that can be killed.

Processes are forked from one that has imported everything, so that each starts at once.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from eval_tasks import tasks
from eval_tasks.__main__ import main
from hear_ptsed.checkpoints import save_checkpoint
from hear_ptsed.files import atomic
from hear_ptsed.registry import build

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        "eval_tasks.run",
        "eval_tasks.fit.frozen",
        "eval_tasks.fit.finetune",
        "hear_ptsed.metrics.psds",
        "sed_eval",
    ]
)
OFFICE = ["--task", "office", "--folder", "office_synthetic-v1-tiny"]
PIANO = ["--task", "piano", "--folder", "piano_synthetic-v1-tiny"]
SHORT = ["--set", "optim.batch=4", "--set", "optim.warmup_steps=1"]
LOGMEL = ["--module", "eval_tasks.logmel", "--protocol", "linear", *SHORT]
LOGMEL += ["--set", "optim.epochs=20", "--set", "fit.check_every_epochs=5"]
CHANGES = ("seconds", "started", "hardware", "commit")  # from run to run, beside the speed


def tiny_tasks(folder: Path) -> Path:
    """A tasks folder with `office` and `piano` of computed sounds, and a checkpoint beside it."""
    for name in ("office", "piano"):
        tasks.prepare(name, folder / "tasks", synthetic=True)
    tiny_network(folder)
    return folder


def tiny_network(folder: Path) -> None:
    """A checkpoint, mn02.pt."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("frame_mn02", n_classes=None)
    save_checkpoint(model.eval(), folder / "mn02.pt")


def tuned(folder: Path) -> list[str]:
    """Options of a fine-tuning that hears events everywhere at first: its scores are not NaN."""
    options = ["--module", "checkpoint", "--checkpoint", str(folder / "mn02.pt"), *SHORT]
    for setting in ("fit.check_every_epochs=1", "optim.epochs=2", "optim.lr=0.0001"):
        options += ["--set", setting]
    return [*options, "--protocol", "finetuned", "--set", "fit.head_prior=0.5"]


def start(cwd: Path, *arguments: str, at: Callable | None = None) -> BaseProcess:
    """`python -m eval_tasks …` in a folder; its output goes to output.txt there.

    Args:
        at: a context manager in which the command runs, see `killed`.
    """
    cwd.mkdir(exist_ok=True)
    process = FORK.Process(target=_command, args=(cwd, arguments, at))
    process.start()
    return process


def run(cwd: Path, *arguments: str, at: Callable | None = None) -> tuple[int, str]:
    """Exit code, and all it said."""
    process = start(cwd, *arguments, at=at)
    process.join()
    return process.exitcode, (cwd / "output.txt").read_text()


def _command(cwd: Path, arguments: tuple[str, ...], at: Callable | None) -> None:
    os.chdir(cwd)
    torch.set_num_threads(1)
    with Path("output.txt").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if at is None:
        code = main([*arguments])
    else:
        with at():
            code = main([*arguments])
    sys.stdout.flush()
    os._exit(code)


class Killed:
    """The process kills itself at a call of a public function, or behind it."""

    def __init__(self, where: str, call: int = 1, behind: bool = False):
        self.where, self.calls, self.behind = where, call, behind

    @contextmanager
    def __call__(self):
        from importlib import import_module

        module, name = self.where.rsplit(".", 1)
        original = getattr(import_module(module), name)

        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls -= 1
            result = original(*args, **kwargs) if self.calls or self.behind else None
            if not self.calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        with patch(self.where, called):
            yield


@contextmanager
def killed_while_writing():
    """The process kills itself when half of the record is written."""

    @contextmanager
    def half(path: Path):
        with atomic(path) as temporary:
            yield temporary
            if "results" in path.parts:
                text = temporary.read_bytes()
                temporary.write_bytes(text[: len(text) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

    with patch("hear_ptsed.files.atomic", half):
        yield


def records(cwd: Path) -> dict[str, dict]:
    """Name -> record, strictly JSON, without what changes from run to run."""
    read = {}
    for path in sorted((cwd / "results").rglob("*.json")):
        values = json.loads(path.read_text(), parse_constant=lambda name: 1 / 0)
        for key in CHANGES:
            del values[key]
        del values["cost"]["seconds_per_minute"]
        for training in values["training"]:
            training.pop("seconds", None)
        read[str(path.relative_to(cwd))] = values
    return read
