"""One step of the demo: a command in a process of its own, its output in a log."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eval_tasks import processes

CORES = os.cpu_count() or 1


def run_step(
    folder: Path, title: str, command: Sequence[str], done: str = "", at_once: int = 1
) -> None:
    """Run `python -m COMMAND` in a folder, with its output in logs/TITLE.txt there.

    Args:
        done: a file in the folder that the command leaves at its end; where it is, nothing is run.
        at_once: steps that run at the same time and share the cores.

    Raises:
        RuntimeError with the last line of the output.
    """
    if done and (folder / done).exists():
        return
    log = folder / "logs" / f"{title.replace(' ', '-')}.txt"
    started = time.monotonic()
    code, last = processes.logged(
        [sys.executable, "-m", *command],
        log,
        environment={"OMP_NUM_THREADS": str(max(1, CORES // at_once))},
        folder=folder,
    )
    if code:
        raise RuntimeError(f"{title} failed: {last} (all output: {log})")
    print(f"{title}: {time.monotonic() - started:.0f} s", flush=True)


def side_by_side(*steps: Callable[[], None]) -> None:
    """Run steps at the same time; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(len(steps)) as pool:
        for step in [pool.submit(step) for step in steps]:
            step.result()
