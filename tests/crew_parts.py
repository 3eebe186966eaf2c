"""A trade whose workers start fast: they need no torch."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from hear_ptsed.crew import Advance, Make


def open_shop(threads: int) -> Make:
    """What notes each file beside it, with the threads it had."""

    def make(n: int, files: Sequence[Path], advance: Advance) -> None:
        for file in files:
            if file.name == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            if file.name == "wrong":
                raise ValueError("this file is wrong")
            with file.with_suffix(".made").open("a") as log:
                log.write(f"{threads}")
            advance(1, 10.0)

    return make


def open_nothing(threads: int) -> Make:
    """A worker that is killed before it begins."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
