"""Processes that a command starts."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def logged(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    started: Callable[[subprocess.Popen], None] | None = None,
) -> tuple[int, str]:
    """Run a command, which ends with this process, with all of its output in a file.

    Args:
        folder: in which it runs; None: the current one.
        environment: variables that it has beside those of this process.
        started: is given the process, to end it early.
    Returns:
        Its exit code, below 0 for the number of a signal, and the last line of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            env=os.environ | (environment or {}),
            preexec_fn=ending_with_parent(),
        )
    try:
        if started is not None:
            started(process)
        code = process.wait()
    except BaseException:  # Ctrl-C
        process.kill()
        process.wait()
        raise
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return code, lines[-1].strip() if lines else "no output"


def ending_with_parent() -> Callable[[], None] | None:
    """`preexec_fn` of a process that is to end, on Linux, with the one that waits for it.

    Else the run of a killed sweep, of a lost Ray worker, or heareval of a killed run would work on
    beside its repeat, or hold the lock against it.
    """
    if sys.platform != "linux":
        return None
    parent, control = os.getpid(), ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        control(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
        if os.getppid() != parent:  # which has ended already
            os._exit(1)

    return end_with_parent
